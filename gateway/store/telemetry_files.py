"""The files of `control/telemetry/`: staging, one per UTC day, one per UTC month; retention.

Retention deletes whole files, which works on a full disk and never stalls. A file that is damaged
is set aside: readings of the past may never stop those of the present.
"""

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from gateway.core.errors import StoreCorruptError, StoreError
from gateway.store.chunks import SHARD_BITS
from gateway.store.db import DirectoryOwner, StoreFile, StoreSchema, open_writer, translated

_SCHEMAS: Final = Path(__file__).parent / "schema"
STAGING: Final = StoreSchema("staging", 0x5047_5331, _SCHEMAS / "staging")
# The last byte counts the ways of packing: a file in an older way is another kind of file.
DAY: Final = StoreSchema("day", 0x5047_4432, _SCHEMAS / "day")
HISTORY: Final = StoreSchema("history", 0x5047_4831, _SCHEMAS / "history")
STAGING_NAME: Final = "staging.db"
# Yesterday's and today's: a fold at midnight writes into both.
_OPEN_MAX: Final = 2
_DAY_NAME: Final = re.compile(r"\d{4}-\d\d-\d\d\.db")
_MONTH_NAME: Final = re.compile(r"\d{4}-\d\d\.db")
_ASIDE: Final = ".damaged"
_COMPANIONS: Final = ("", "-wal", "-shm", "-journal")


@dataclass(frozen=True, slots=True)
class Retention:
    """How much is kept: bytes in all, days of readings, months of half hours and events.

    Days and months are counted in files, not by the clock: a clock that jumps to another year
    must not delete what was measured.
    """

    max_bytes: int = 20_000_000_000
    days: int = 30
    months: int = 26


def day_name(utc_ms: int) -> str:
    """The file of the day in which an instant lies."""
    return f"{_date(utc_ms):%Y-%m-%d}.db"


def month_name(utc_ms: int) -> str:
    """The file of the month in which an instant lies."""
    return f"{_date(utc_ms):%Y-%m}.db"


def day_files(directory: Path) -> list[Path]:
    """Files of readings, oldest first."""
    return _named(directory, _DAY_NAME)


def month_files(directory: Path) -> list[Path]:
    """Files of half hours and events, oldest first."""
    return _named(directory, _MONTH_NAME)


def staged_bodies(
    connection: sqlite3.Connection, shard: int, first: int, last: int
) -> Iterator[tuple[int, bytes]]:
    """The staged rows of a shard from sweep `first` to `last`, each with its sweep."""
    for sweep in range(first, last + 1):
        row = connection.execute(
            "SELECT body FROM sweep WHERE place = ?", (sweep << SHARD_BITS | shard,)
        ).fetchone()
        if row is not None:
            yield sweep, row[0]


def delete_oldest_day(directory: Path, keep: int = _OPEN_MAX) -> str | None:
    """Delete the oldest day of readings, of more than `keep`; its name, or None.

    For a full disk: nothing else may have to be written first. Raises StoreError.
    """
    days = day_files(directory)
    return _delete(days[0]) if len(days) > keep else None


class TelemetryFiles:
    """Opens the files for writing when they are needed and lets go of the older ones."""

    def __init__(self, directory: Path, owner: DirectoryOwner) -> None:
        self.directory = directory
        self.set_aside = 0
        self._owner = owner
        self._open: dict[str, StoreFile] = {}
        self.staging = self._opened(STAGING_NAME, STAGING)
        self._finish()

    def day(self, utc_ms: int) -> StoreFile:
        """The file for readings of that instant. Raises StoreError."""
        return self._kept(day_name(utc_ms), DAY, _DAY_NAME)

    def month(self, utc_ms: int) -> StoreFile:
        """The file for half hours and events of that instant. Raises StoreError."""
        return self._kept(month_name(utc_ms), HISTORY, _MONTH_NAME)

    def retain(self, retention: Retention) -> tuple[str, ...]:
        """Delete the oldest files beyond the limits, readings first; the names that went.

        The files being written stay. Raises StoreError when one cannot be deleted.
        """
        gone: list[str] = []
        days = [path for path in day_files(self.directory) if path.name not in self._open]
        months = [path for path in month_files(self.directory) if path.name not in self._open]
        aside = sorted(self.directory.glob(f"*{_ASIDE}*"))
        open_days = sum(bool(_DAY_NAME.fullmatch(name)) for name in self._open)
        open_months = sum(bool(_MONTH_NAME.fullmatch(name)) for name in self._open)
        while len(days) + open_days > retention.days and days:
            gone.append(_delete(days.pop(0)))
        while len(months) + open_months > retention.months and months:
            gone.append(_delete(months.pop(0)))
        left = [*aside, *days, *months]
        while left and self.total_bytes() > retention.max_bytes:
            gone.append(_delete(left.pop(0)))
        return tuple(gone)

    def total_bytes(self) -> int:
        """What all files of the directory take on the disk."""
        total = 0
        for path in self.directory.iterdir():
            with suppress(FileNotFoundError):
                total += path.stat().st_blocks * 512
        return total

    def stop(self) -> None:
        """Leave all files so that readers can go on. Raises StoreError."""
        for file in (self.staging, *self._open.values()):
            file.stop()
        self._open.clear()

    def _finish(self) -> None:
        """Open what was being made or written when the process or the power ended.

        Readers can neither complete a file nor bring its WAL in order: until the writer has, they
        take it for that of a process that is away.
        """
        kinds = ((day_files, DAY, _DAY_NAME), (month_files, HISTORY, _MONTH_NAME))
        for files, schema, pattern in kinds:
            for path in files(self.directory):
                if not _is_plain(path):
                    self._kept(path.name, schema, pattern)

    def abandon(self) -> None:
        """Close all files as they are, whatever the disk says."""
        for file in (self.staging, *self._open.values()):
            with suppress(sqlite3.Error):
                file.connection.close()
        self._open.clear()

    def _kept(self, name: str, schema: StoreSchema, pattern: re.Pattern[str]) -> StoreFile:
        file = self._open.get(name)
        if file is None:
            file = self._opened(name, schema)
            self._open[name] = file
        siblings = [other for other in self._open if pattern.fullmatch(other) and other != name]
        while len(siblings) >= _OPEN_MAX:
            self._retire(siblings.pop(0))
        return file

    def _opened(self, name: str, schema: StoreSchema) -> StoreFile:
        path = self.directory / name
        try:
            return open_writer(path, schema, owner=self._owner, create=True)
        except StoreCorruptError:
            self._put_aside(path)
            return open_writer(path, schema, owner=self._owner, create=True)

    def _put_aside(self, path: Path) -> None:
        self.set_aside += 1
        number = 1
        while (target := path.with_name(f"{path.name}{_ASIDE}{number}")).exists():
            number += 1
        _with_companions(path, lambda old: old.replace(f"{target}{old.name[len(path.name) :]}"))

    def _retire(self, name: str) -> None:
        """Make a finished file a plain one without `-wal` and `-shm`, and close it."""
        file = self._open[name]
        try:
            mode = file.connection.execute("PRAGMA journal_mode=DELETE").fetchone()[0]
        except sqlite3.OperationalError:
            return  # a reader is in it; tried again with the next file
        except sqlite3.Error as error:
            raise translated(error, file.path) from error
        if mode == "delete":
            file.connection.close()
            del self._open[name]


def _date(utc_ms: int) -> datetime:
    try:
        return datetime.fromtimestamp(utc_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise StoreError(f"{utc_ms} ms is no time of a calendar") from error


def _is_plain(path: Path) -> bool:
    """Whether a file was finished and retired: readers need nobody to bring it in order."""
    with path.open("rb") as file:
        header = file.read(20)
    # Bytes 18 and 19: 1 for a rollback journal, 2 for WAL (sqlite.org/fileformat2.html, 1.3.3).
    left = any(path.with_name(path.name + suffix).exists() for suffix in ("-wal", "-journal"))
    return header[18:] == b"\x01\x01" and not left


def _named(directory: Path, pattern: re.Pattern[str]) -> list[Path]:
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if pattern.fullmatch(path.name))


def _delete(path: Path) -> str:
    try:
        _with_companions(path, lambda old: old.unlink(missing_ok=True))
    except OSError as error:
        raise StoreError(f"{path}: cannot be deleted: {error.strerror}") from error
    return path.name


def _with_companions(path: Path, act: Callable[[Path], object]) -> None:
    for suffix in _COMPANIONS:
        companion = path.with_name(path.name + suffix)
        if companion.exists():
            act(companion)
