"""Reads stores from one worker thread each, so that a slow disk stalls no loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from gateway.core.errors import StoreAwayError
from gateway.store.db import Connection, StoreSchema
from gateway.store.reader import StoreReader

READ_DEADLINE_S: Final = 2.0

T = TypeVar("T")


class Reader:
    """Short looks at a file that another process writes, awaited; each is one snapshot."""

    def __init__(self, path: Path, schema: StoreSchema) -> None:
        self._name = path.name
        self._reader = StoreReader(path, schema)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"read-{path.stem}")
        self._version = 0

    async def read(self, operation: Callable[[Connection], T]) -> T:
        """What the operation returns; it must fetch everything it needs.

        Raises StoreAwayError when the file cannot be read within READ_DEADLINE_S.
        """
        return await self._in_thread(lambda: self._reader.read(operation))

    async def version(self) -> int:
        """A number that grows with the writer's commits; the same number means: nothing new.

        Costs a few microseconds in the thread. Raises StoreAwayError.
        """
        return await self._in_thread(self._count_changes)

    def close(self) -> None:
        """Let the thread finish and close; the reader cannot be used again."""
        self._thread.submit(self._reader.close)
        self._thread.shutdown(wait=True)

    async def _in_thread(self, look: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(READ_DEADLINE_S):
                return await loop.run_in_executor(self._thread, look)
        except TimeoutError as error:
            raise StoreAwayError(f"{self._name} could not be read in time") from error

    def _count_changes(self) -> int:
        if self._reader.changed():
            self._version += 1
        return self._version
