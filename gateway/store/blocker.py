"""Which process blocks a store file: asked of the kernel, through SQLite's locks on `-shm`.

A reader can hold up a WAL writer through file locks, by accident or on purpose. When a write stays
busy, the supervisor needs the process id.
"""

import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.core.errors import StoreError

# `struct flock` of 64-bit Linux: type, whence, start, length, process id.
_FLOCK: Final = struct.Struct("hhqqi4x")
# SQLite file format, section 4.2 (WAL-index locks): write 120, checkpoint 121, recover 122,
# read marks 123 to 127.
_LOCKS: Final = ((120, 1, "write"), (121, 1, "checkpoint"), (122, 1, "recover"), (123, 5, "read"))


@dataclass(frozen=True, slots=True)
class LockHolder:
    """A process other than ours and the lock that it holds."""

    process_id: int
    lock: str


class LockProbe:
    """Looks who holds locks of an open store file. For the process that writes it.

    The descriptor is never closed: closing any descriptor of a file drops all locks that the
    process has on it, SQLite's own included. Raises StoreError when there is no `-shm` file.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._fd = os.open(f"{path}-shm", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StoreError(f"{path}-shm: {error.strerror}") from error

    def holders(self) -> list[LockHolder]:
        """One foreign holder per kind of lock; the first kinds block a writer."""
        found: list[LockHolder] = []
        for start, length, name in _LOCKS:
            asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
            try:
                answer = fcntl.fcntl(self._fd, fcntl.F_GETLK, asked)
            except OSError as error:
                raise StoreError(f"locks cannot be asked for: {error.strerror}") from error
            kind, _, _, _, process_id = _FLOCK.unpack(answer)
            if kind != fcntl.F_UNLCK:
                found.append(LockHolder(process_id, name))
        return found
