"""In MicroPython: a board whose streams and UART are TCP connections of node's."""

import asyncio
import binascii
import time

import jsnet

_ROOM = 16_384  # bytes that wait for a slow reader


class Reader:
    """The part of asyncio's StreamReader that firmware uses. A cancelled read loses nothing."""

    def __init__(self, connection):
        self._connection = connection
        self._buffer = b""
        self._ended = False
        self._moved = asyncio.Event()
        self._pump = asyncio.create_task(self._fill())

    async def _fill(self):
        while not self._ended:
            received = await self._connection.read(4_096)
            self._ended = not received
            self._buffer += binascii.unhexlify(received)
            self._moved.set()
            while len(self._buffer) >= _ROOM:
                await asyncio.sleep(0.005)

    async def read(self, most):
        while not self._buffer and not self._ended:
            self._moved.clear()
            await self._moved.wait()
        taken, self._buffer = self._buffer[:most], self._buffer[most:]
        return taken

    async def readexactly(self, count):
        while len(self._buffer) < count:
            if self._ended:
                raise EOFError
            self._moved.clear()
            await self._moved.wait()
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken


class Writer:
    """The part of asyncio's StreamWriter that firmware uses."""

    def __init__(self, connection):
        self._connection = connection
        self._pending = b""

    def write(self, sent):
        self._pending += sent

    async def drain(self):
        sent, self._pending = self._pending, b""
        try:
            await self._connection.write(binascii.hexlify(sent).decode())
        except Exception as error:
            raise OSError(str(error)) from None

    def close(self):
        self._connection.close()


class Board:
    """Time and streams."""

    def ticks_ms(self):
        return time.ticks_ms()

    def ticks_diff(self, later, earlier):
        return time.ticks_diff(later, earlier)

    async def open_stream(self, host, port, tls, _deadline_ms):
        assert tls is None
        try:
            connection = await jsnet.connect(host, port)
        except Exception as error:
            raise OSError(str(error)) from None
        return Reader(connection), Writer(connection)
