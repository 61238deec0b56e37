"""A UART that is a stream to somebody who plays the modules at its other end."""

import asyncio


class StreamUart:
    """The UART part of a board over (reader, writer); `start` before the first use."""

    def __init__(self, reader, writer):
        self._reader = reader
        self._writer = writer
        self._buffer = b""
        self._arrived = asyncio.Event()
        self._task = None

    def start(self):
        self._task = asyncio.create_task(self._fill())

    def stop(self):
        self._task.cancel()
        self._writer.close()

    async def _fill(self):
        while True:
            received = await self._reader.read(256)
            if not received:
                return
            self._buffer += received
            self._arrived.set()

    def uart_drain(self):
        self._buffer = b""

    def uart_write(self, request):
        self._writer.write(request)
        self._pushing = asyncio.create_task(self._writer.drain())

    async def uart_read(self, most, deadline_ms):
        try:
            await asyncio.wait_for(self._enough(most), deadline_ms / 1_000)
        except asyncio.TimeoutError:
            pass
        taken, self._buffer = self._buffer[:most], self._buffer[most:]
        return taken

    async def _enough(self, most):
        while len(self._buffer) < most:
            self._arrived.clear()
            await self._arrived.wait()
