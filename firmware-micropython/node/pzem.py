"""Driver of PZEM-004T modules on one UART: one request at a time, checked, tried again.

The module answers only while its mains side is live: silence is a fault to be told, never zero use.
An answer that comes after its time-out may be taken for that of the next try to the same module:
Modbus RTU cannot tell, and it is a true reading, half a second old.
"""

import asyncio

from node import frames
from node.frames import FrameError
from node.port import const

TIMEOUT_MS = const(250)
TRIES = const(3)
_GAP_S = 0.005  # between frames
_QUIET_MS = const(20)  # after a spoilt answer: what still comes belongs to nobody
_NOISY_READS = const(10)  # a line that is never quiet is a fault like any other
_SILENT_TRIES = const(9)  # so many wrong answers in a row, three polls, are a silent module


class Module:
    """One module's health. `silent` is entered and left once each; `errors` counts by code."""

    def __init__(self, address):
        self.address = address
        self.values = None  # the last good ones
        self.silent = False
        self.good = 0
        self.errors = {}
        self.last_error = None
        self._failed = 0  # tries in a row

    def succeeded(self, values):
        """A checked answer. Returns whether the module was silent before."""
        self.values = values
        self.good += 1
        self._failed = 0
        came_back, self.silent = self.silent, False
        return came_back

    def failed(self, code, tries=1):
        """So many tries without a good answer."""
        self.errors[code] = self.errors.get(code, 0) + 1
        self.last_error = code
        self._failed += tries
        if self._failed >= _SILENT_TRIES:
            self.silent = True


class Bus:
    """The modules on a board's UART, by address. `max_current_ma` is what one can measure."""

    def __init__(self, board, addresses, max_current_ma):
        self._board = board
        self._max_current_ma = max_current_ma
        self._lock = asyncio.Lock()
        self.modules = {address: Module(address) for address in addresses}

    async def read(self, address):
        """Values of one module, checked and possible. Raises FrameError of the last try."""
        module = self.modules[address]
        reply = await self._ask(frames.read_all(address), module)
        values = frames.Values(reply)
        wrong = frames.implausible(values, self._max_current_ma)
        if wrong:
            module.failed("IMPLAUSIBLE", TRIES)  # it is not asked again: that is a whole poll
            raise FrameError("IMPLAUSIBLE", wrong)
        module.succeeded(values)
        return values

    async def read_settings(self, address):
        """(alarm threshold in W, address). The general address asks a single module of any."""
        return await self._ask(frames.read_settings(address), self.modules.get(address))

    async def write_setting(self, address, register, value):
        """Set alarm threshold or address and wait for the echo. Raises FrameError."""
        await self._ask(frames.write_setting(address, register, value), self.modules.get(address))

    async def reset_energy(self, address):
        """Set the Wh counter to 0: sent once, as a lost answer may follow a done reset."""
        async with self._lock:
            await self._try(frames.reset_energy(address))

    async def _ask(self, request, module):
        async with self._lock:
            for remaining in range(TRIES - 1, -1, -1):
                try:
                    return await self._try(request)
                except FrameError as error:
                    if module:
                        module.failed(error.code)
                    if not remaining:
                        raise
        return None

    async def _try(self, request):
        board = self._board
        await asyncio.sleep(_GAP_S)
        board.uart_drain()
        board.uart_write(request)
        wanted = frames.reply_length(request)
        reply = await board.uart_read(wanted, TIMEOUT_MS)
        try:
            return frames.check(request, reply)
        except FrameError:
            for _ in range(_NOISY_READS if reply else 0):
                if not await board.uart_read(64, _QUIET_MS):
                    break
            raise
