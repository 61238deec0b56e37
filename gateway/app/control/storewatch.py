"""What stands between the ledger and a full disk or a process that blocks it.

Space: readings stop first, below a floor. A ballast file is given up when a commit of the ledger
finds no room, after it the oldest day of readings; both are told before it comes to that. A
process that keeps the ledger's file locked is named, and the supervisor is asked to end it.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from gateway.app.notify import Notifier
from gateway.core.clock import Clock
from gateway.core.errors import StoreError
from gateway.store.blocker import LockProbe
from gateway.store.telemetry_files import delete_oldest_day

log = structlog.get_logger()

BALLAST_NAME: Final = "ballast"
BALLAST_BYTES: Final = 64 * 1024 * 1024
# Of a small disk: so much of all for the ballast, and so much as the floor for readings.
BALLAST_SHARE: Final = 16
FLOOR_SHARE: Final = 10
# Room that a start needs (WAL, migration); without it the ballast goes before the ledger opens.
START_BYTES: Final = 8 * 1024 * 1024
# Between stopping readings and keeping them again, so that they do not come and go.
RESUME_FACTOR: Final = 1.25
WARN_FACTOR: Final = 2
WAL_ALARM_BYTES: Final = 64 * 1024 * 1024
LOOK_EVERY_S: Final = 2.0
# A start has better to do than to take space for the ballast.
BALLAST_AFTER_S: Final = 5.0
# Locks that stop a writer; readers hold others all the time.
_BLOCKING: Final = frozenset({"write", "recover"})

Tell = Callable[[str, str, dict[str, object]], None]


def _untold(kind: str, severity: str, facts: dict[str, object]) -> None:
    """Before there is anybody to tell: the log line beside it stands."""


class Ballast:
    """A file of nothing in control's directory: space that only the ledger gets."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / BALLAST_NAME
        room = os.statvfs(directory)
        self.size = min(BALLAST_BYTES, room.f_blocks * room.f_frsize // BALLAST_SHARE)

    @property
    def is_there(self) -> bool:
        """Whether all of it is there: a process may have been killed while it took the space."""
        try:
            return self.path.stat().st_size >= self.size
        except FileNotFoundError:
            return False

    def make(self) -> bool:
        """Take the space. False when it cannot be had; nothing is left then."""
        try:
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, self.size)
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError:
            self.path.unlink(missing_ok=True)
            return False
        return True

    def release(self) -> bool:
        """Give the space up. False when there was none."""
        try:
            self.path.unlink()
        except FileNotFoundError:
            return False
        return True


class StoreWatch:
    """Looks after space and locks of the ledger, and tells of changes.

    `floor_bytes` is the free space below which readings stop. `tell(kind, severity, facts)` keeps
    an event; it may be set later. `make_room` and `blocked` are called on the ledger's thread.
    """

    def __init__(
        self, ledger: Path, telemetry_dir: Path, floor_bytes: int, notifier: Notifier, clock: Clock
    ) -> None:
        self.tell: Tell = _untold
        self._ledger = ledger
        self._telemetry_dir = telemetry_dir
        self._notifier = notifier
        self._clock = clock
        self._ballast = Ballast(ledger.parent)
        room = os.statvfs(ledger.parent)
        self._floor = min(floor_bytes, room.f_blocks * room.f_frsize // FLOOR_SHARE)
        self._allows = True
        self._standing: set[str] = set()
        self._probe: LockProbe | None = None
        self._news: list[tuple[str, str, dict[str, object]]] = []
        self._lock = threading.Lock()

    def ready_to_open(self) -> None:
        """Before the ledger is opened: on a full disk not even that works without room."""
        if self.free_bytes() < min(START_BYTES, self._ballast.size) and self._ballast.release():
            log.critical("store.ballast_released", free_bytes=self.free_bytes())

    def opened(self) -> None:
        """The ledger is open: from now on its locks can be looked at. Raises StoreError."""
        self._probe = LockProbe(self._ledger)

    def free_bytes(self) -> int:
        """What is left on the ledger's disk for us."""
        room = os.statvfs(self._ledger.parent)
        return room.f_bavail * room.f_frsize

    def allows_readings(self) -> bool:
        """Whether there is room enough that readings may be kept."""
        need = self._floor if self._allows else self._floor * RESUME_FACTOR
        self._allows = self.free_bytes() >= need
        return self._allows

    def make_room(self) -> bool:
        """Give up the ballast, then the oldest day of readings; whether anything was given up."""
        if self._ballast.release():
            log.critical("store.ballast_released", free_bytes=self.free_bytes())
            self._tell_later("DISK_FULL", "critical", {"given_up": "ballast"})
            return True
        try:
            day = delete_oldest_day(self._telemetry_dir)
        except StoreError as error:
            log.critical("store.full", reason=str(error))
            return False
        if day is None:
            return False
        log.critical("store.day_given_up", day=day)
        self._tell_later("DISK_FULL", "critical", {"given_up": day})
        return True

    def blocked(self, waited: int) -> None:
        """A commit waited a whole second because somebody holds the file: who, and an end to it."""
        if waited > 1 or self._probe is None:
            return
        try:
            holders = self._probe.holders()
        except StoreError as error:
            log.warning("store.write_blocked", reason=str(error))
            return
        names = [f"{holder.process_id} ({holder.lock})" for holder in holders]
        log.error("store.write_blocked", holders=names)
        self._tell_later("STORE_BLOCKED", "critical", {"holders": names})
        for pid in {holder.process_id for holder in holders if holder.lock in _BLOCKING}:
            self._notifier.blocked_by(pid)

    async def run(self, stop: asyncio.Event) -> None:
        """Look every few seconds until `stop`."""
        ballast_at_ns = self._clock.mono_ns() + round(BALLAST_AFTER_S * 1e9)
        while not stop.is_set():
            self.look()
            if self._clock.mono_ns() >= ballast_at_ns:
                await asyncio.to_thread(self.renew_ballast)
            try:
                async with asyncio.timeout(self._clock.loop_delay_s(LOOK_EVERY_S)):
                    await stop.wait()
            except TimeoutError:
                continue

    def look(self) -> None:
        """Tell what began or ended since the last look."""
        with self._lock:
            news, self._news = self._news, []
        for kind, severity, facts in news:
            if kind not in self._standing:
                self.tell(kind, severity, facts)
            if kind == "DISK_FULL":
                self._standing.add(kind)
        free = self.free_bytes()
        low = free < self._floor * WARN_FACTOR
        room: dict[str, object] = {"free_bytes": free, "floor_bytes": self._floor}
        self._stand("DISK_LOW", stands=low, severity="warning", facts=room)
        if "DISK_FULL" in self._standing and self._ballast.is_there:
            self._stand("DISK_FULL", stands=False, severity="critical", facts=room)
        try:
            wal_bytes = self._ledger.with_name(f"{self._ledger.name}-wal").stat().st_size
        except FileNotFoundError:
            wal_bytes = 0
        wal: dict[str, object] = {"wal_bytes": wal_bytes}
        if wal_bytes > WAL_ALARM_BYTES and "WAL_LARGE" not in self._standing:
            # Somebody keeps a snapshot: commits go on, the file grows with each of them.
            wal["holders"] = self._holders()
        large = wal_bytes > WAL_ALARM_BYTES
        self._stand("WAL_LARGE", stands=large, severity="warning", facts=wal)

    def renew_ballast(self) -> None:
        """Take the space again once there is room for it and for the ledger beside it."""
        if self._ballast.is_there or self.free_bytes() < self._floor + self._ballast.size:
            return
        if self._ballast.make():
            log.info("store.ballast_made", bytes=self._ballast.size)

    def _holders(self) -> list[str]:
        try:
            found = self._probe.holders() if self._probe is not None else []
        except StoreError:
            return []
        return [f"{holder.process_id} ({holder.lock})" for holder in found]

    def _stand(self, kind: str, *, stands: bool, severity: str, facts: dict[str, object]) -> None:
        if stands == (kind in self._standing):
            return
        if stands:
            self._standing.add(kind)
            log.warning("store.alarm", kind=kind, **facts)
        else:
            self._standing.discard(kind)
            log.info("store.alarm_over", kind=kind)
        self.tell(kind, severity if stands else "cleared", facts)

    def _tell_later(self, kind: str, severity: str, facts: dict[str, object]) -> None:
        with self._lock:
            self._news.append((kind, severity, facts))
