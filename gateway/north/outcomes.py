"""From a wish to control's answer: make it durable, then wait a little for the outcome."""

import asyncio
from typing import Final

from gateway.core.errors import StoreError
from gateway.core.requests import Outcome
from gateway.north.reader import Reader
from gateway.store.commands import find_outcomes

# Short enough not to be noticed, long enough that 64 waiting callers cost one look.
LOOK_EVERY_S: Final = 0.010


class OutcomeWatch:
    """Waits for outcomes on behalf of all callers with one look at the ledger at a time.

    It looks at `PRAGMA data_version` first, which costs microseconds, and only while anybody
    waits.
    """

    def __init__(self, ledger: Reader) -> None:
        self._ledger = ledger
        self._waiting: dict[str, asyncio.Future[Outcome]] = {}
        self._fresh: set[str] = set()
        self._callers: dict[str, int] = {}
        self._looking: asyncio.Task[None] | None = None

    async def wait(self, key: str, timeout_s: float) -> Outcome | None:
        """The outcome of request `key`; None when there is none after `timeout_s`."""
        future = self._waiting.get(key)
        if future is None:
            future = self._waiting[key] = asyncio.get_running_loop().create_future()
            self._fresh.add(key)
        self._callers[key] = self._callers.get(key, 0) + 1
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="outcome watch")
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(future)
        except TimeoutError:
            return None
        finally:
            self._callers[key] -= 1
            if self._callers[key] == 0:
                del self._callers[key]
                self._waiting.pop(key, None)

    async def close(self) -> None:
        """Stop looking."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _look(self) -> None:
        seen_version = -1
        while self._waiting:
            fresh, self._fresh = self._fresh, set()
            try:
                version = await self._ledger.version()
                keys = tuple(self._waiting if version != seen_version else fresh)
                found = await self._find(keys)
                seen_version = version
            except StoreError:
                # Control starts or is away: the callers' own time runs out meanwhile.
                seen_version, found = -1, {}
            for key, outcome in found.items():
                future = self._waiting.pop(key, None)
                if future is not None and not future.done():
                    future.set_result(outcome)
            await asyncio.sleep(LOOK_EVERY_S)

    async def _find(self, keys: tuple[str, ...]) -> dict[str, Outcome]:
        if not keys:
            return {}
        return await self._ledger.read(lambda connection: find_outcomes(connection, keys))
