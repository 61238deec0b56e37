"""The wire to the process that runs the test: a scenario orders what happens outside the node."""

import json


class Control:
    """One order a line, one answer a line, in JSON."""

    def __init__(self, reader, writer):
        self._reader = reader
        self._writer = writer

    async def __call__(self, order, **more):
        """Order something; returns the answer when it is done."""
        more["order"] = order
        self._writer.write((json.dumps(more) + "\n").encode())
        await self._writer.drain()
        line = b""
        while not line.endswith(b"\n"):
            line += await self._reader.readexactly(1)
        return json.loads(line)


async def play(board, port, scene):
    """Play a scene, "module.function" beside this file, on a board; the orders go to `port`."""
    module, name = scene.split(".")
    play_scene = getattr(__import__("tests.firmware.same." + module, None, None, ["x"]), name)
    reader, writer = await board.open_stream("127.0.0.1", port, None, 5_000)
    try:
        await play_scene(board, Control(reader, writer))
    finally:
        writer.close()
