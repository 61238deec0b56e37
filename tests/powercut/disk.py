"""What a disk may hold after the power fails: the log of `recorder.c`, played back sternly.

Only what was synced is sure. Of everything else each write may be there, may be missing or may be
torn, in any order between two syncs of its file; a name may be there or not until its directory
was synced. That is more than ext4 does (it keeps the order of names, and a file's own sync takes
its name along): whoever survives this disk survives that one.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

SECTOR: Final = 512
_HEAD: Final = struct.Struct("@IiqQ")
# SQLite's shared memory holds nothing that must survive: it is made anew from the WAL.
_REBUILT: Final = "-shm"


class Kind(IntEnum):
    """The records of `recorder.c`."""

    OPEN = 1
    WRITE = 2
    TRUNCATE = 3
    SYNC = 4
    CLOSE = 5
    RENAME = 6
    UNLINK = 7
    MKDIR = 8
    RMDIR = 9
    MARK = 10
    ALLOCATE = 11
    UNKNOWN = 12


class Record(NamedTuple):
    """One call. `offset` is where a write began, or a file's new size."""

    kind: Kind
    fd: int
    offset: int
    body: bytes


class _Write(NamedTuple):
    offset: int
    body: bytes


class _Resize(NamedTuple):
    size: int
    grow_only: bool


@dataclass(eq=False)
class _File:
    live: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    pending: list[_Write | _Resize] = field(default_factory=list)

    def change(self, change: _Write | _Resize) -> None:
        self.pending.append(change)
        _apply(self.live, change)

    def sync(self) -> None:
        for change in self.pending:
            _apply(self.durable, change)
        self.pending.clear()


@dataclass(eq=False)
class _Directory:
    live: "dict[str, _Node]" = field(default_factory=dict)
    durable: "dict[str, _Node]" = field(default_factory=dict)
    # A change is one or two names (a rename) with what each then stands for.
    pending: "list[tuple[tuple[str, _Node | None], ...]]" = field(default_factory=list)

    def change(self, *names: "tuple[str, _Node | None]") -> None:
        self.pending.append(names)
        _enter(self.live, names)

    def sync(self) -> None:
        for change in self.pending:
            _enter(self.durable, change)
        self.pending.clear()


_Node = _File | _Directory


class UnrecordedError(Exception):
    """The recorder saw something that cannot be played back, or did not see everything."""


class Disk:
    """The files below `root` as the kernel has them and as the disk has them."""

    def __init__(self, root: Path, *, directory_syncs: bool = True) -> None:
        self._root = root
        self._directory_syncs = directory_syncs
        self._tree = _Directory()
        self._fds: dict[int, _Node | None] = {}
        self._play: dict[Kind, Callable[[Record], None]] = {
            Kind.OPEN: self._open,
            Kind.WRITE: lambda r: self._write(r.fd, _Write(r.offset, r.body)),
            Kind.TRUNCATE: lambda r: self._write(r.fd, _Resize(r.offset, grow_only=False)),
            Kind.ALLOCATE: lambda r: self._write(r.fd, _Resize(r.offset, grow_only=True)),
            Kind.SYNC: self._sync,
            Kind.CLOSE: lambda r: self._forget(r.fd),
            Kind.RENAME: self._rename,
            Kind.UNLINK: self._remove,
            Kind.RMDIR: self._remove,
            Kind.MKDIR: self._make,
            Kind.MARK: lambda _: None,
            Kind.UNKNOWN: self._unknown,
        }

    def play(self, record: Record) -> None:
        """Do what the process did. Raises UnrecordedError for what cannot be played back."""
        self._play[record.kind](record)

    def process_ended(self) -> None:
        """The descriptors go; what was written and not synced stays in the kernel's memory."""
        self._fds.clear()

    def check_complete(self) -> None:
        """Compare with the real directory. Raises UnrecordedError where the recorder was blind."""
        seen = {path: bytes(node.live) for path, node in _files(self._tree, live=True)}
        there = {
            str(path.relative_to(self._root)): path.read_bytes()
            for path in self._root.rglob("*")
            if path.is_file() and not path.name.endswith(_REBUILT)
        }
        if seen != there:
            differ = sorted(
                name for name in seen.keys() | there.keys() if seen.get(name) != there.get(name)
            )
            raise UnrecordedError(f"played back differently: {differ}")

    def cut(self, seed: Random, target: Path) -> None:
        """Fail the power now: write what the disk may hold into `target`, an empty directory."""
        mood = seed.choice(("lazy", "eager", "mixed", "mixed", "mixed"))
        self._leave(self._tree, target, seed, mood)

    def _leave(self, directory: _Directory, target: Path, seed: Random, mood: str) -> None:
        for name, node in _kept_names(directory, seed, mood).items():
            path = target / name
            if isinstance(node, _Directory):
                path.mkdir()
                self._leave(node, path, seed, mood)
                continue
            path.write_bytes(_kept_bytes(node, seed, mood))
            if name.endswith(".db") and seed.random() < 0.2:
                (target / (name + _REBUILT)).write_bytes(seed.randbytes(32_768))

    # -- calls -------------------------------------------------------------------------------

    def _place(self, path: str) -> tuple[_Directory, str]:
        """The directory that holds a name."""
        node: _Node = self._tree
        *above, name = Path(path).relative_to(self._root).parts or ("",)
        for part in above:
            if not isinstance(node, _Directory):
                raise UnrecordedError(f"{path}: not below a directory")
            node = node.live[part]
        if not isinstance(node, _Directory):
            raise UnrecordedError(f"{path}: not below a directory")
        return node, name

    def _open(self, record: Record) -> None:
        path = record.body.decode()
        if path.endswith(_REBUILT):
            self._fds[record.fd] = None
            return
        directory, name = self._place(path)
        node: _Node | None = directory.live.get(name) if name else directory
        if node is None:
            node = _File()
            directory.change((name, node))
        if record.offset and isinstance(node, _File) and node.live:
            node.change(_Resize(0, grow_only=False))
        self._fds[record.fd] = node

    def _write(self, fd: int, change: _Write | _Resize) -> None:
        node = self._fds[fd]
        if isinstance(node, _File):
            node.change(change)

    def _sync(self, record: Record) -> None:
        node = self._fds[record.fd]
        if node is not None and (self._directory_syncs or isinstance(node, _File)):
            node.sync()

    def _forget(self, fd: int) -> None:
        del self._fds[fd]

    def _rename(self, record: Record) -> None:
        old, new = record.body.decode().split("\0")
        if old.endswith(_REBUILT):
            return
        (directory, name), (other, new_name) = self._place(old), self._place(new)
        if other is not directory:
            raise UnrecordedError(f"{old} moved to another directory")
        directory.change((name, None), (new_name, directory.live[name]))

    def _remove(self, record: Record) -> None:
        path = record.body.decode()
        if not path.endswith(_REBUILT):
            directory, name = self._place(path)
            directory.change((name, None))

    def _make(self, record: Record) -> None:
        directory, name = self._place(record.body.decode())
        directory.change((name, _Directory()))

    def _unknown(self, record: Record) -> None:
        if record.body != b"mmap" or self._fds.get(record.fd) is not None:
            raise UnrecordedError(f"{record.body.decode()} on descriptor {record.fd}")


def read_log(path: Path) -> list[Record]:
    """The records of a log, in the order of the calls."""
    log = path.read_bytes()
    records: list[Record] = []
    at = 0
    while at < len(log):
        kind, fd, offset, size = _HEAD.unpack_from(log, at)
        at += _HEAD.size
        records.append(Record(Kind(kind), fd, offset, log[at : at + size]))
        at += size
    return records


def _apply(content: bytearray, change: _Write | _Resize) -> None:
    if isinstance(change, _Resize):
        if change.size > len(content):
            content.extend(bytes(change.size - len(content)))
        elif not change.grow_only:
            del content[change.size :]
        return
    if change.offset > len(content):
        content.extend(bytes(change.offset - len(content)))
    content[change.offset : change.offset + len(change.body)] = change.body


def _enter(entries: dict[str, _Node], change: tuple[tuple[str, _Node | None], ...]) -> None:
    for name, node in change:
        if node is None:
            entries.pop(name, None)
        else:
            entries[name] = node


def _files(directory: _Directory, prefix: str = "", *, live: bool) -> Iterator[tuple[str, _File]]:
    for name, node in (directory.live if live else directory.durable).items():
        if isinstance(node, _Directory):
            yield from _files(node, f"{prefix}{name}/", live=live)
        else:
            yield prefix + name, node


def _kept_names(directory: _Directory, seed: Random, mood: str) -> dict[str, _Node]:
    entries = dict(directory.durable)
    if mood == "mixed":
        # In order up to a point, as a journal does, or any of them.
        first = seed.randint(0, len(directory.pending))
        ordered = seed.random() < 0.5
    for number, change in enumerate(directory.pending):
        if mood == "eager" or (
            mood == "mixed" and (number < first if ordered else seed.random() < 0.5)
        ):
            _enter(entries, change)
    return entries


def _kept_bytes(file: _File, seed: Random, mood: str) -> bytes:
    content = bytearray(file.durable)
    share = {"lazy": 0.0, "eager": 1.0, "mixed": seed.choice((0.0, 0.2, 0.5, 0.8, 0.95, 1.0))}[mood]
    for number, change in enumerate(file.pending):
        if isinstance(change, _Resize):
            if seed.random() < share:
                _apply(content, change)
        elif mood == "mixed" and number == len(file.pending) - 1 and seed.random() < 0.5:
            # The last write, torn at any byte.
            _apply(content, change._replace(body=change.body[: seed.randint(0, len(change.body))]))
        elif mood != "mixed" or seed.random() < 0.7:
            if seed.random() < share:
                _apply(content, change)
        else:
            _tear(content, change, share, seed)
    return bytes(content)


def _tear(content: bytearray, change: _Write, share: float, seed: Random) -> None:
    """Keep some sectors of a write. What lies behind the end may then be anything."""
    end = change.offset + len(change.body)
    if end > len(content) and seed.random() < 0.5:
        missing = end - len(content)
        content.extend(seed.randbytes(missing) if seed.random() < 0.5 else bytes(missing))
    at = change.offset
    while at < end:
        stop = min(end, at - at % SECTOR + SECTOR)
        if seed.random() < share:
            _apply(content, _Write(at, change.body[at - change.offset : stop - change.offset]))
        at = stop
