"""Scenes of same/ on CPython and inside MicroPython, with a world around them that takes orders.

A scene is `async def scene(board, control)`; what it orders by `control` is carried out by the
`order_` methods of the test's world, over one TCP connection on both interpreters.
"""

import asyncio
import inspect
import json
import time
from types import ModuleType
from typing import Any, Final

from tests.firmware import micropython
from tests.firmware.same import control

INTERPRETERS: Final = ("cpython", "mpy")
SCENE_S: Final = 40


class Board:
    """Time and streams of CPython."""

    def ticks_ms(self) -> int:
        """Milliseconds."""
        return round(time.monotonic() * 1_000)

    def ticks_diff(self, later: int, earlier: int) -> int:
        """Milliseconds between two."""
        return later - earlier

    async def open_stream(
        self, host: str, port: int, _tls: None, _deadline_ms: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection."""
        return await asyncio.open_connection(host, port)


def scenes(module: ModuleType) -> list[str]:
    """The names of all scenes of one file."""
    return sorted(
        name
        for name, scene in vars(module).items()
        if inspect.iscoroutinefunction(scene)
        and list(inspect.signature(scene).parameters) == ["board", "control"]
    )


async def play(world: object, scene: str, interpreter: str) -> None:
    """Play "module.scene" with the orders carried out by `world`. Fails as the scene does."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                more: dict[str, Any] = json.loads(line)
                answer = await getattr(world, f"order_{more.pop('order')}")(**more)
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        if interpreter == "cpython":
            await asyncio.wait_for(control.play(Board(), port, scene), SCENE_S)
            return
        program = micropython.in_task(
            "from tests.firmware.runner import js_board; from tests.firmware.same import control",
            f"control.play(js_board.Board(), {port}, {scene!r})",
        )
        await asyncio.to_thread(micropython.run, program, form=interpreter, timeout_s=SCENE_S)
