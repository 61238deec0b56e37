"""Tasks that end, also where a broker is in the way."""

import asyncio
from typing import Final

STOP_DEADLINE_S: Final = 3.0


async def ended(tasks: set[asyncio.Task[None]]) -> None:
    """End tasks, and do not wait for ever for one that hangs on a broker."""
    waiting = {task for task in tasks if not task.done()}
    for _ in range(2):
        for task in waiting:
            task.cancel()
        if not waiting:
            return
        _, waiting = await asyncio.wait(waiting, timeout=STOP_DEADLINE_S)
