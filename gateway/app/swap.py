"""A directory prepared beside another one and exchanged for it in a single step."""

import ctypes
import os
import pwd
import shutil
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from gateway.core.errors import StoreError
from gateway.store.db import DIRECTORY_MODE, FILE_MODE, sync_directory

# The users of the package's units; used where nothing tells who owned the directory before.
CONTROL_USER: Final = "prepaid-control"
NORTH_USER: Final = "prepaid-north"
# As renameat2(2) takes them, from the headers of Linux.
_RENAME_EXCHANGE: Final = 2
_AT_FDCWD: Final = -100


class Stage:
    """`DIRECTORY.restore-STAMP`, removed again unless `swap` put it in the directory's place.

    Owner, group and mode are those of the directory, or of `user` where there is none yet and
    root is at work.
    """

    def __init__(self, directory: Path, stamp: str, user: str) -> None:
        self.directory = directory
        self.path = directory.with_name(f"{directory.name}.restore-{stamp}")
        self._aside = directory.with_name(f"{directory.name}.before-restore-{stamp}")
        self._carried: list[str] = []
        self._swapped = False
        self._uid, self._gid = _owner(directory, user)

    def __enter__(self) -> Self:
        if self._aside.exists():
            raise StoreError(f"{self._aside} is there already: try again in a second")
        self.path.mkdir(mode=DIRECTORY_MODE)
        self.path.chmod(DIRECTORY_MODE)
        self.give(self.path)
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if not self._swapped:
            shutil.rmtree(self.path, ignore_errors=True)

    def give(self, path: Path) -> None:
        """Let `path` belong to the directory's owner; nothing where that is ourselves."""
        if path.is_file():
            path.chmod(FILE_MODE)
        status = path.stat()
        if (status.st_uid, status.st_gid) != (self._uid, self._gid):
            os.chown(path, self._uid, self._gid)

    def carry(self, but: Collection[str]) -> None:
        """Take along everything else of the directory: a second name for the same files.

        Raises StoreError where the file system has no second names.
        """
        if not self.directory.is_dir():
            return
        for entry in sorted(self.directory.iterdir()):
            if entry.name not in but:
                _link(entry, self.path / entry.name)
                self._carried.append(entry.name)

    def swap(self) -> Path | None:
        """Be the directory from now on; where the old one went, None when there was none.

        Raises StoreError when the file system cannot exchange two directories at once.
        """
        for folder, _, files in os.walk(self.path):
            self.give(Path(folder))
            for name in files:
                if Path(folder) != self.path or name not in self._carried:
                    self._give_own(Path(folder) / name)
            sync_directory(Path(folder))
        existed = self.directory.exists()
        if existed:
            _exchange(self.path, self.directory)
        else:
            self.path.rename(self.directory)
        self._swapped = True
        sync_directory(self.directory.parent)
        if not existed:
            return None
        self.path.rename(self._aside)
        # What was taken along has its place in the new directory.
        for name in self._carried:
            entry = self._aside / name
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        sync_directory(self.directory.parent)
        return self._aside

    def _give_own(self, path: Path) -> None:
        # A second name is the same file: owner and mode of what was carried stay as they were.
        if path.stat().st_nlink == 1:
            self.give(path)


def _owner(directory: Path, user: str) -> tuple[int, int]:
    if directory.exists():
        status = directory.stat()
        return status.st_uid, status.st_gid
    if os.geteuid() == 0:
        try:
            entry = pwd.getpwnam(user)
        except KeyError:
            return 0, 0
        return entry.pw_uid, entry.pw_gid
    return os.geteuid(), os.getegid()


def _link(source: Path, target: Path) -> None:
    if source.is_dir() and not source.is_symlink():
        target.mkdir(mode=DIRECTORY_MODE)
        shutil.copystat(source, target)
        for entry in sorted(source.iterdir()):
            _link(entry, target / entry.name)
        return
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        raise StoreError(f"{source}: cannot be taken along: {error.strerror}") from error


def _exchange(one: Path, other: Path) -> None:
    """Exchange two names atomically. Raises StoreError with the way out."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        answer = libc.renameat2(
            _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE
        )
        why = os.strerror(ctypes.get_errno())
    except AttributeError:
        answer, why = -1, "this C library has no renameat2"
    if answer != 0:
        raise StoreError(
            f"{other} cannot be exchanged at once ({why}): move it and its neighbour north aside "
            "by hand, then restore again"
        )
