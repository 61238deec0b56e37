"""What a figure was taken on, and what a process has used so far."""

import os
import platform
import resource
from importlib.metadata import version
from pathlib import Path
from typing import Final, NamedTuple

FIELDS_AFTER_NAME: Final = (11, 12)  # utime and stime in /proc/PID/stat, counted after the name
# Above this many runnable processes before a bench begins, its figures are marked.
QUIET_LOAD: Final = 0.5


class Spent(NamedTuple):
    """Processor time of this process so far."""

    user_s: float
    system_s: float


def spent() -> Spent:
    """Read the books of the operating system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Spent(used.ru_utime, used.ru_stime)


def cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = sum(int(fields[place]) for place in FIELDS_AFTER_NAME)
    return ticks / os.sysconf("SC_CLK_TCK")


def rss_kb(pid: int | str = "self") -> float:
    """Resident memory of a process, in units of 1,000 bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e3


def machine(*libraries: str) -> str:
    """Processor, system and versions in a line, and whether the machine was busy already."""
    processor = platform.processor() or "unknown processor"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
            break
    versions = "".join(f", {name} {version(name)}" for name in libraries)
    load = os.getloadavg()[0]
    busy = f"; TAKEN UNDER LOAD ({load:.1f} runnable)" if load > QUIET_LOAD else ""
    return (
        f"{processor}, {os.cpu_count()} cores, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}{versions}{busy}"
    )


def table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table: the first column to the left, the others to the right."""
    widths = [max(len(row[at]) for row in (heads, *rows)) for at in range(len(heads))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        [
            row[0].ljust(widths[0]),
            *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)),
        ]
        for row in (heads, *rows)
    ]
    lines.insert(1, rule)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
