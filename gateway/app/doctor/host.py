"""The machine: disk, its speed and kind, descriptors, clock, memory."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gateway.app.config import Config
from gateway.app.doctor.findings import Finding, fine, warn, wrong
from gateway.app.limits import descriptors_needed
from gateway.app.paths import paths_of
from gateway.app.timeservice import is_synchronised
from gateway.core.clock import Clock
from gateway.core.errors import StoreError
from gateway.core.figures import Value
from gateway.store.board import read_board

# A commit waits for one: beyond this at the 99th percentile recharges and cuts are felt.
FSYNC_P99_MS: Final = 10.0
FSYNC_ROUNDS: Final = 200
# Beside what telemetry may still take: a year of ledger at 800 meters is about 3 GB.
FREE_BYTES: Final = 4_000_000_000
FREE_BYTES_LEAST: Final = 500_000_000
MEMORY_BYTES: Final = 400_000_000
FORGETFUL: Final = frozenset({"tmpfs", "ramfs"})
REMOTE: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph"})
MOUNTS: Final = Path("/proc/self/mountinfo")
MEMORY: Final = Path("/proc/meminfo")

_KEEP_CLOCK: Final = (
    "Start chrony or systemd-timesyncd, or compare and say `prepaid-gateway clock confirm`."
)


def look_at_host(config: Config, clock: Clock) -> Iterator[Finding]:
    """Everything about the machine."""
    state_dir = config.state_dir
    if state_dir.is_dir():
        yield from _disk(config)
        yield _file_system(state_dir)
        yield _fsync(state_dir, clock)
    yield _descriptors(config, clock)
    yield _clock(config, clock)
    yield _memory()


def _disk(config: Config) -> Iterator[Finding]:
    room = os.statvfs(config.state_dir)
    free = room.f_bavail * room.f_frsize
    directory = paths_of(config).telemetry_dir
    taken = sum(path.stat().st_size for path in directory.glob("*")) if _seen(directory) else 0
    grow = max(0, config.telemetry.max_bytes - taken)
    if free < FREE_BYTES_LEAST:
        yield wrong("disk", f"Only {_gb(free)} are free.", "Make room: move away what is no store.")
    elif free < grow + FREE_BYTES:
        yield warn(
            "disk",
            f"{_gb(free)} are free; readings may still take {_gb(grow)} and the ledger wants "
            f"{_gb(FREE_BYTES)}.",
            "Lower telemetry.max_bytes or take a larger disk.",
        )
    else:
        yield fine("disk", f"{_gb(free)} are free, readings may still take {_gb(grow)}.")
    if room.f_files and room.f_favail < 1_000:
        yield wrong(
            "disk", f"Only {room.f_favail} files can be made.", "Delete files on this disk."
        )


def _file_system(directory: Path) -> Finding:
    kind = _kind_of(directory)
    if kind in FORGETFUL:
        return wrong(
            "disk",
            f"{directory} lies in memory ({kind}): everything is gone after a power cut.",
            "Put state_dir on a disk (ext4 or xfs).",
        )
    if kind in REMOTE:
        return wrong(
            "disk",
            f"{directory} is a network share ({kind}): its locks and syncs keep no promise.",
            "Put state_dir on a disk of this machine; send backups to the share.",
        )
    return fine("disk", f"{directory} lies on {kind or 'a file system that is not told'}.")


def _kind_of(directory: Path) -> str:
    """The type of the file system that holds a directory, empty where it is not told."""
    path, best, kind = directory.resolve(), -1, ""
    try:
        lines = MOUNTS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    for line in lines:
        fields, _, rest = line.partition(" - ")
        mounted = Path(fields.split()[4].encode().decode("unicode_escape"))
        # Of two mounts at one place the later one is seen.
        if path.is_relative_to(mounted) and len(mounted.parts) >= best:
            best, kind = len(mounted.parts), rest.split()[0]
    return kind


def _fsync(directory: Path, clock: Clock) -> Finding:
    """200 small writes to a file without a name, each on the disk before the next."""
    times_ms: list[float] = []
    try:
        file = os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            for _ in range(FSYNC_ROUNDS):
                began_ns = clock.mono_ns()
                os.write(file, bytes(4096))
                os.fsync(file)
                times_ms.append((clock.mono_ns() - began_ns) / 1e6)
        finally:
            os.close(file)
    except OSError as error:
        return warn(
            "disk", f"How fast a commit is was not measured: {error.strerror}.", "Run this as root."
        )
    times_ms.sort()
    half, most = times_ms[FSYNC_ROUNDS // 2], times_ms[FSYNC_ROUNDS * 99 // 100]
    figures = f"A small write is on the disk after {half:.1f} ms, 99 of 100 within {most:.1f} ms"
    if most > FSYNC_P99_MS:
        return warn(
            "disk",
            f"{figures}: above {FSYNC_P99_MS:.0f} ms recharges and closings are felt.",
            "Take an SSD with power-loss protection; look for what else writes to this disk.",
        )
    return fine("disk", f"{figures}.")


def _descriptors(config: Config, clock: Clock) -> Finding:
    needed = descriptors_needed(len(config.meters))
    limit, whose = resource.getrlimit(resource.RLIMIT_NOFILE)[1], "from this shell"
    figure = figures_of(config, clock).get("max_descriptors")
    if isinstance(figure, float):
        limit, whose = round(figure), "as it runs now"
    sentence = f"Control may open {limit} descriptors ({whose}), {needed} may be needed"
    if limit < needed:
        return wrong("limits", f"{sentence}.", f"Set LimitNOFILE={needed} in control's unit.")
    return fine("limits", f"{sentence}.")


def _clock(config: Config, clock: Clock) -> Finding:
    if figures_of(config, clock).get("clock_trusted") == 0.0:
        return wrong(
            "clock",
            "Control does not trust the clock: energy is charged at the last known rate, months "
            "do not end and no account can be opened.",
            _KEEP_CLOCK,
        )
    if is_synchronised():
        return fine("clock", f"A time service keeps the clock; the zone is {config.site.timezone}.")
    return warn(
        "clock",
        "No time service keeps the clock: rates then depend on the meters' own clocks.",
        _KEEP_CLOCK,
    )


def _memory() -> Finding:
    try:
        lines = MEMORY.read_text(encoding="ascii").splitlines()
        found = next(line for line in lines if line.startswith("MemAvailable:"))
        free = int(found.split()[1]) * 1024
    except (OSError, StopIteration, ValueError):
        return warn("memory", "How much memory is free cannot be told.", "Look with `free -m`.")
    if free < MEMORY_BYTES:
        return warn(
            "memory",
            f"{free // 10**6} MB of memory are free; control and north take up to 400 MB.",
            "End what else runs here, or add memory.",
        )
    return fine("memory", f"{free // 10**6} MB of memory are free.")


def figures_of(config: Config, clock: Clock) -> dict[str, Value]:
    """What a running control shows of itself; nothing where none does."""
    try:
        board = read_board(paths_of(config).live_dir)
    except StoreError:
        return {}
    return {} if board.stale(clock.utc_ms()) else dict(board.figures)


def _seen(directory: Path) -> bool:
    return directory.is_dir() and os.access(directory, os.R_OK | os.X_OK)


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
