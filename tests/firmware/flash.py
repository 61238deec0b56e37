"""A device's flash and NVS that record every write, and what is left when power fails at one.

The file system is littlefs as MicroPython makes it on the ESP32: 512 blocks of 4 KiB, revision 2.0.
A cut before write n leaves what the first n-1 wrote: the program that writes cannot know better, so
one recorded life gives the remains of every possible cut.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, Final, Self

from littlefs import LittleFS, LittleFSError, UserContext

BLOCK: Final = 4096
BLOCKS: Final = 512
DISK_VERSION: Final = 0x00020000
IO_ERROR: Final = -5
# What MicroPython's VfsLfs2 asks for.
GEOMETRY: Final[dict[str, Any]] = {
    "block_size": BLOCK,
    "block_count": BLOCKS,
    "read_size": 32,
    "prog_size": 32,
    "cache_size": 128,
    "lookahead_size": 32,
    "block_cycles": 100,
    "disk_version": DISK_VERSION,
}


@dataclass(frozen=True, slots=True)
class Erase:
    """A block is set to ones."""

    block: int


@dataclass(frozen=True, slots=True)
class Program:
    """Bytes are written to erased flash."""

    at: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Keep:
    """A value of the NVS, which keeps all of it or the former one."""

    key: str
    value: bytes


Write = Erase | Program | Keep


class Memory(UserContext):
    """What survives a power cut: the flash's bytes and the NVS; `log` takes every write."""

    def __init__(self, image: bytes, nvs: dict[str, bytes]) -> None:
        super().__init__(buffer=bytearray(image))
        self.nvs = dict(nvs)
        self.log: list[Write] = []
        # A worn flash: no block takes a write any more.
        self.worn = False

    def apply(self, write: Write) -> None:
        """Carry out a write."""
        match write:
            case Erase(block):
                self.buffer[block * BLOCK : (block + 1) * BLOCK] = b"\xff" * BLOCK
            case Program(at, content):
                old = self.buffer[at : at + len(content)]
                # Flash can only clear bits.
                cleared = int.from_bytes(old, "big") & int.from_bytes(content, "big")
                self.buffer[at : at + len(content)] = cleared.to_bytes(len(content), "big")
            case Keep(key, value):
                self.nvs[key] = value

    def apply_half(self, write: Write) -> None:
        """What power left of a write that it failed in."""
        match write:
            case Erase(block):
                start = block * BLOCK
                self.buffer[start : start + BLOCK // 2] = b"\xff" * (BLOCK // 2)
            case Program(at, content):
                self.apply(Program(at, content[: len(content) // 2]))
            case Keep():
                pass

    def do(self, write: Write) -> None:
        """Carry out a write and record it."""
        self.apply(write)
        self.log.append(write)

    def read(self, cfg: Any, block: int, off: int, size: int) -> bytearray:  # noqa: ARG002
        """Hook of littlefs."""
        start = block * BLOCK + off
        return self.buffer[start : start + size]

    def prog(self, cfg: Any, block: int, off: int, data: bytes) -> int:  # noqa: ARG002
        """Hook of littlefs."""
        if self.worn:
            return IO_ERROR
        self.do(Program(block * BLOCK + off, bytes(data)))
        return 0

    def erase(self, cfg: Any, block: int) -> int:  # noqa: ARG002
        """Hook of littlefs."""
        if self.worn:
            return IO_ERROR
        self.do(Erase(block))
        return 0


class Files:
    """The board's file system over a memory; errors are OSError, as on the device."""

    def __init__(self, memory: Memory) -> None:
        self._fs = LittleFS(context=memory, mount=False, **GEOMETRY)
        self._fs.mount()

    def open(self, path: str, mode: str) -> Any:
        """As MicroPython's: binary, unbuffered."""
        try:
            raw = self._fs.open(path, mode, buffering=0)
        except LittleFSError as error:
            raise OSError(error.code, str(error)) from error
        return raw if "r" in mode else _Writer(raw)

    def rename(self, old: str, new: str) -> None:
        """Replace `new`."""
        self._call(self._fs.rename, old, new)

    def remove(self, path: str) -> None:
        """A file or an empty directory."""
        self._call(self._fs.remove, path)

    def mkdir(self, path: str) -> None:
        """OSError when it is there."""
        self._call(self._fs.mkdir, path)

    def listdir(self, path: str) -> list[str]:
        """Names in a directory."""
        return list(self._call(self._fs.listdir, path))

    def stat_size(self, path: str) -> int | None:
        """Bytes of a file; None when there is none."""
        try:
            return int(self._fs.stat(path).size)
        except (LittleFSError, OSError):
            return None

    def free_bytes(self) -> int:
        """Whole blocks that are free."""
        return (BLOCKS - int(self._fs.used_block_count)) * BLOCK

    def sync(self) -> None:
        """Closed files are on the flash already."""

    def content(self) -> dict[str, bytes]:
        """Every file by its path."""
        found = {}
        for root, _, names in self._fs.walk("/"):
            for name in names:
                path = f"{root.rstrip('/')}/{name}"
                with self.open(path, "rb") as file:
                    found[path] = bytes(file.read())
        return found

    @staticmethod
    def _call(function: Any, *arguments: str) -> Any:
        try:
            return function(*arguments)
        except LittleFSError as error:
            raise OSError(error.code, str(error)) from error


class _Writer:
    """A file being written: littlefs errors become OSError."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw

    def write(self, content: bytes) -> int:
        try:
            return int(self._raw.write(content) or 0)
        except LittleFSError as error:
            raise OSError(error.code, str(error)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._raw.close()
        except LittleFSError as error:
            # littlefs has closed it; closing it once more at collection would abort the process.
            setattr(self._raw, "__IOBase_closed", True)
            raise OSError(error.code, str(error)) from error


def formatted(files: dict[str, bytes]) -> bytes:
    """The image of a new flash with these files, made as the flasher makes it."""
    memory = Memory(b"\xff" * (BLOCK * BLOCKS), {})
    file_system = LittleFS(context=memory, mount=False, **GEOMETRY)
    file_system.format()
    file_system.mount()
    for path, content in files.items():
        file_system.makedirs(path.rpartition("/")[0] or "/", exist_ok=True)
        with file_system.open(path, "wb") as file:
            file.write(content)
    return bytes(memory.buffer)


def remains(image: bytes, nvs: dict[str, bytes], log: Sequence[Write]) -> Iterator[Memory]:
    """What is left after a cut at each write of a log: it was not done, then half of it was."""
    at = Memory(image, nvs)
    for write in log:
        yield Memory(bytes(at.buffer), at.nvs)
        half = Memory(bytes(at.buffer), at.nvs)
        half.apply_half(write)
        yield half
        at.apply(write)


def remains_at(image: bytes, nvs: dict[str, bytes], log: Sequence[Write], place: int) -> Memory:
    """What is left after a cut in the middle of one write of a log."""
    at = Memory(image, nvs)
    for write in log[:place]:
        at.apply(write)
    at.apply_half(log[place])
    return at
