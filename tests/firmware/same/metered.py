"""A node of memory whose modules answer at once: what a test says they measure."""

import asyncio

from node import frames
from tests.firmware.same.clocks import ClockBoard
from tests.firmware.same.test_telemetry import SmallNode


class MeteredBoard(ClockBoard):
    """Every module of the line shows `counters` in turn, the last of them for ever.

    `answers` False: the line is silent. `polls` counts requests.
    """

    def __init__(self):
        super().__init__()
        self.counters = [5_000]
        self.voltage_dv, self.current_ma, self.power_dw = 2_300, 0, 0
        self.answers = True
        self.polls = 0
        self._reply = b""

    def uart_drain(self):
        self._reply = b""

    def uart_write(self, request):
        self.polls += 1
        if not self.answers:
            return
        counter_wh = self.counters.pop(0) if len(self.counters) > 1 else self.counters[0]
        words = (self.voltage_dv, self.current_ma, 0, self.power_dw, 0)
        words += (counter_wh & 0xFFFF, counter_wh >> 16, 500, 100, 0)
        body = request[:2] + b"\x14" + b"".join(word.to_bytes(2, "big") for word in words)
        self._reply = frames.seal(body)

    async def uart_read(self, most, _deadline_ms):
        await asyncio.sleep(0)
        taken, self._reply = self._reply[:most], self._reply[most:]
        return taken


class MeteredNode(SmallNode):
    """A small node that polls."""

    Board = MeteredBoard

    async def poll(self, seconds=1):
        """Poll once a second for so long."""
        for _ in range(seconds):
            self.board.pass_s(1)
            await self.meter.poll()
