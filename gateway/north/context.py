"""Everything north has open, and the plain settings it is opened from."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar

from ulid import ULID

from gateway.core.clock import Clock
from gateway.core.errors import StoreAwayError, StoreError
from gateway.core.money import Currency
from gateway.core.reading import Quality
from gateway.north.denials import DenialLog, DenialPost
from gateway.north.documents import DocumentReader
from gateway.north.http.auth import FailureLimiter, TokenBook
from gateway.north.hub import Hub
from gateway.north.live import LiveMeters, MeterNow
from gateway.north.outcomes import OutcomeWatch
from gateway.north.reader import Reader
from gateway.north.records import Records
from gateway.north.replays import ReplayRunner
from gateway.store.db import Connection, open_writer, own_directory
from gateway.store.ledger import LEDGER
from gateway.store.live import LiveRow
from gateway.store.requests import NORTH, create_north, read_north_epoch
from gateway.store.tokens import ApiToken, read_tokens
from gateway.store.writer import GroupCommitWriter, StoreWriter

# A reading is good for a few polls, then uncertain, then bad (northbound.md: last usable value).
GOOD_S: Final = 3.0
UNCERTAIN_S: Final = 30.0
MS_PER_S: Final = 1000
WRITE_DEADLINE_S: Final = 5.0
CLOSE_DEADLINE_S: Final = 5.0
NORTH_FILE: Final = "north.db"

T = TypeVar("T")


class ControlState(StrEnum):
    """Whether the control process is there, by its heartbeat in the live table."""

    PRESENT = "present"
    AWAY = "away"


@dataclass(frozen=True, slots=True)
class Listen:
    """One TCP address. Without a certificate it is plain HTTP; `proxies` are believed."""

    host: str
    port: int
    certificate_path: Path | None = None
    key_path: Path | None = None
    proxies: tuple[str, ...] = ()

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class MeterEntry:
    """A meter of the configuration; `units` by standard name of a value."""

    meter_id: str
    service_point_id: str
    account_id: str
    label: str = ""
    model: str = ""
    feeder: str = ""
    poll_s: float = 1.0
    units: Mapping[str, str] = field(default_factory=dict)
    role: str = "supply"


@dataclass(frozen=True, slots=True)
class NorthSettings:
    """What north needs to know of the site. Paths are files and directories of this machine."""

    site_id: str
    currency: Currency
    ledger_path: Path
    telemetry_dir: Path
    live_dir: Path
    north_dir: Path
    socket_path: Path
    listen: tuple[Listen, ...]
    meters: tuple[MeterEntry, ...]
    blind_count: bool = True
    # What counts a replay of tariffs (gateway/north/replays.py); without it none is counted.
    replay_command: tuple[str, ...] = ()

    @property
    def north_path(self) -> Path:
        """North's own file."""
        return self.north_dir / NORTH_FILE


class NorthContext:
    """The opened resources that routes, streams and listeners share. Lives on one event loop."""

    def __init__(
        self,
        settings: NorthSettings,
        clock: Clock,
        *,
        writer: StoreWriter,
        tokens: TokenBook,
        live: LiveMeters,
        epoch: str,
    ) -> None:
        self.clock = clock
        self.tokens = tokens
        self.live = live
        self.failures = FailureLimiter(clock)
        self.denials = DenialLog(clock)
        self.denial_post = DenialPost(self)
        self.ledger = Reader(settings.ledger_path, LEDGER)
        self.north = Reader(settings.north_path, NORTH)
        self.records = Records(self.ledger, self.north, settings.telemetry_dir, settings.currency)
        self.documents = DocumentReader(self.ledger, settings.currency)
        self.watch = OutcomeWatch(self.ledger)
        self.replays = ReplayRunner(settings.replay_command, clock)
        self.hub = Hub(epoch)
        self.use(settings)
        self.started_utc_ms = clock.utc_ms()
        # Set when control has answered a wish: the ledger has moved on.
        self.answered = asyncio.Event()
        self._writer = writer

    def use(self, settings: NorthSettings) -> None:
        """Go on with these meters. Listeners and files stay those that were opened."""
        self.settings = settings
        self.entries = {entry.meter_id: entry for entry in settings.meters}
        self.meter_ids = sorted(self.entries)
        self._by_point = {entry.service_point_id: entry for entry in settings.meters}

    def entry_of_point(self, service_point_id: str) -> MeterEntry | None:
        """The meter at a service point, or None."""
        return self._by_point.get(service_point_id)

    def row_of_point(self, service_point_id: str) -> LiveRow | None:
        """The newest row of the meter at a service point, or None."""
        entry = self._by_point.get(service_point_id)
        now = None if entry is None else self.live.now(entry.meter_id)
        return None if now is None else now.row

    def control_state(self) -> ControlState:
        """Whether control's heartbeat is fresh."""
        return ControlState.AWAY if self.control_away() else ControlState.PRESENT

    def control_away(self) -> bool:
        """Whether control's heartbeat is stale or was never seen."""
        return self.live.stale(self.clock.utc_ms())

    def quality_of(self, entry: MeterEntry, now: MeterNow | None, *, away: bool) -> Quality:
        """How far a meter's newest row may be trusted: control's word and its age.

        `away` is `control_away()`, asked once for many meters.
        """
        if now is None:
            return Quality.BAD
        age_s = abs(self.clock.utc_ms() - now.row.utc_ms) / MS_PER_S
        if age_s > max(UNCERTAIN_S, 10 * entry.poll_s):
            return Quality.BAD
        late = away or age_s > max(GOOD_S, 3 * entry.poll_s)
        if late and now.row.quality is Quality.GOOD:
            return Quality.UNCERTAIN
        return now.row.quality

    async def write(self, operation: Callable[[Connection], T]) -> T:
        """Run an operation on north.db; returns once it is durable.

        Raises StoreAwayError when that takes longer than WRITE_DEADLINE_S, and what the operation
        raises.
        """
        try:
            async with asyncio.timeout(WRITE_DEADLINE_S):
                return await asyncio.wrap_future(self._writer.submit(operation))
        except TimeoutError as error:
            raise StoreAwayError("north.db did not take a write in time") from error

    async def close(self) -> None:
        """Post the last denials, and let go of everything that reads."""
        self.hub.close()
        await self.replays.close()
        await self.denial_post.post(last=True)
        await self.watch.close()
        self.ledger.close()
        self.north.close()
        self.live.close()


@asynccontextmanager
async def open_north(
    settings: NorthSettings,
    clock: Clock,
    *,
    create: bool = False,
    on_fatal: Callable[[StoreError], None] | None = None,
) -> AsyncIterator[NorthContext]:
    """Open north's own store (the one writer of it) and the read side of control's.

    Control need not run: its files may even be absent. `create` makes north.db where it is
    missing. `on_fatal` is called on the writer's thread when north.db can no longer be written;
    the process must end then. Raises StoreMissingError, StoreLockedError, StoreCorruptError.
    """
    owner = own_directory(settings.north_dir, create=create)
    try:
        file = open_writer(settings.north_path, NORTH, owner=owner, create=create)
        writer = GroupCommitWriter(file, on_fatal=on_fatal)
        try:
            begun = writer.submit(lambda connection: _begin(connection, clock.utc_ms()))
            stored = await asyncio.wrap_future(begun)
            context = NorthContext(
                settings,
                clock,
                writer=writer,
                tokens=TokenBook(clock, stored),
                live=LiveMeters(settings.live_dir),
                epoch=str(ULID()),
            )
            try:
                yield context
            finally:
                await context.close()
        finally:
            await asyncio.to_thread(writer.close, CLOSE_DEADLINE_S)
            await asyncio.to_thread(file.stop)
    finally:
        owner.release()


def _begin(connection: Connection, utc_ms: int) -> list[ApiToken]:
    if not read_north_epoch(connection):
        create_north(connection, str(ULID.from_timestamp(utc_ms / MS_PER_S)), utc_ms=utc_ms)
    return read_tokens(connection)
