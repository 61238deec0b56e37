"""A lock that many may share and one may have alone, in the order in which they came."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class SharedLock:
    """Whoever waits for it alone holds up those that come later, so nobody waits for ever."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._sharing = 0
        self._unshared = asyncio.Event()
        self._unshared.set()

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Together with others that share it."""
        async with self._turn:
            self._sharing += 1
            self._unshared.clear()
        try:
            yield
        finally:
            self._sharing -= 1
            if not self._sharing:
                self._unshared.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """When all before are through, and before all that come later."""
        async with self._turn:
            await self._unshared.wait()
            yield
