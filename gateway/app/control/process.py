"""The control process: opens the stores, rebuilds the points, polls, decides, records."""

import asyncio
import gc
import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast
from zoneinfo import ZoneInfo

import structlog
from ulid import ULID

from gateway.app.config import Config
from gateway.app.control.books import Books
from gateway.app.control.boot import Restored, boot_id, provision, restore
from gateway.app.control.desk import Desk
from gateway.app.control.display import Display
from gateway.app.control.engine import Engine
from gateway.app.control.executor import Executor
from gateway.app.control.gauges import Gauges
from gateway.app.control.inlet import Inlet
from gateway.app.control.keeper import TelemetryKeeper
from gateway.app.control.polls import PollGroup
from gateway.app.control.sweeper import Sweeper
from gateway.app.control.tallies import Tallies
from gateway.app.paths import make_runtime_dir, paths_of
from gateway.app.timeservice import is_synchronised
from gateway.core.clock import Clock
from gateway.core.errors import StoreError
from gateway.core.masscut import MassCutBreaker, MassCutLimits
from gateway.core.reading import Lane
from gateway.south.models import meter_model
from gateway.store.blocker import LockProbe
from gateway.store.board import BoardWriter
from gateway.store.db import open_reader, open_writer, own_directory
from gateway.store.ledger import LEDGER
from gateway.store.live import LiveMeter, LiveTableWriter
from gateway.store.reader import StoreReader
from gateway.store.requests import RequestReader
from gateway.store.verify import verify_ledger
from gateway.store.writer import GroupCommitWriter

log = structlog.get_logger()

STOP_DEADLINE_S: Final = 4.0
WATCH_EVERY_S: Final = 0.1


async def run_control(config: Config, clock: Clock, stop: asyncio.Event) -> None:
    """Own meters and money until `stop`; then leave everything durable and closed.

    Raises ConfigurationError, StoreMissingError, StoreLockedError, StoreCorruptError at the start
    and StoreError when a store fails later: the process must then end and start from the file.
    """
    with ExitStack() as owned:
        opened = _open(config, clock, owned)
        control = _build(config, clock, opened, owned)
        # What was built so far lives as long as the process: the collector need not look at it.
        gc.collect()
        gc.freeze()
        await control.run(stop)


@dataclass(frozen=True, slots=True)
class _Opened:
    """The stores of a control process, and what its ledger held."""

    writer: GroupCommitWriter
    found: Restored
    keeper: TelemetryKeeper
    live: LiveTableWriter
    boot_id: str


def _open(config: Config, clock: Clock, owned: ExitStack) -> _Opened:
    """Open everything; `owned` closes it in the opposite order."""
    paths = paths_of(config)
    make_runtime_dir(paths.live_dir)
    owner = own_directory(paths.control_dir, create=False)
    owned.callback(owner.release)
    file = open_writer(paths.ledger, LEDGER, owner=owner, create=False)
    owned.callback(file.stop)
    probe = LockProbe(paths.ledger)
    writer = GroupCommitWriter(file, on_blocked=lambda waited: _tell_blocked(probe, waited))
    owned.callback(writer.close, STOP_DEADLINE_S)
    this_boot, utc_ms = boot_id(), clock.utc_ms()
    writer.submit(lambda connection: provision(connection, config, utc_ms)).result()
    found = writer.submit(lambda connection: restore(connection, config, clock, this_boot)).result()
    meters = shown_meters(config)
    keeper = TelemetryKeeper(paths.telemetry_dir, config, meters, owner)
    owned.callback(keeper.close, STOP_DEADLINE_S)
    run_id = str(ULID.from_timestamp(utc_ms / 1000))
    live = LiveTableWriter(paths.live_dir, meters, run_id)
    owned.callback(live.close)
    return _Opened(writer, found, keeper, live, this_boot)


def _tell_blocked(probe: LockProbe, waited: int) -> None:
    """A reader of another process holds the ledger: name it, once per blocked commit."""
    if waited > 1:
        return
    try:
        holders = [f"{holder.process_id} ({holder.lock})" for holder in probe.holders()]
    except StoreError as error:
        holders = [str(error)]
    log.error("store.write_blocked", holders=holders)


def shown_meters(config: Config) -> list[LiveMeter]:
    """What is shown and kept of every meter: the values of its full lane."""
    return [
        LiveMeter(meter.meter_id, meter_model(meter.model).names(Lane.FULL))
        for meter in config.meters
    ]


def _build(config: Config, clock: Clock, opened: _Opened, owned: ExitStack) -> "_Control":
    """Wire points, polls, engine, sweeps and requests."""
    found, zone, paths = opened.found, ZoneInfo(config.site.timezone), paths_of(config)
    tallies = Tallies()
    books = Books(opened.writer, found.points, clock, boot_id=opened.boot_id, tallies=tallies)
    books.label_utc_ms = found.last_utc_ms
    display = Display(
        found.points,
        books,
        live=opened.live,
        keeper=opened.keeper,
        clock=clock,
        zone=zone,
        value_counts=[len(meter.value_names) for meter in shown_meters(config)],
    )
    display.restore(cast("dict[str, object]", found.site.get("intervals", {})))
    engine = Engine(
        found.points,
        PollGroup(config.meters, [point.last_sequence + 1 for point in found.points], clock),
        display,
        _breaker(config, found, clock),
        clock,
        new_id=lambda: str(ULID.from_timestamp(clock.utc_ms() / 1000)),
        stagger_s=config.supply.stagger_s,
        tallies=tallies,
    )
    engine.inherited.update(found.commands)
    for index, point in enumerate(found.points):
        if point.pricer is not None:
            engine.set_flat(index, flat=found.shelf.is_flat(point.tariff_id))
    sweeper = Sweeper(
        engine,
        books,
        display,
        clock,
        zone,
        period_s=config.posting.sweep_s,
        synchronised=is_synchronised,
    )
    desk = Desk(engine, books, found.shelf, found.currency, clock)
    executor = Executor(desk, confirm_clock=sweeper.confirm_clock)
    requests = RequestReader(paths.north_dir / "north.db")
    owned.callback(requests.close)
    own_ledger = StoreReader(paths.ledger, LEDGER)
    owned.callback(own_ledger.close)
    inlet = Inlet(
        requests,
        own_ledger,
        executor=executor,
        engine=engine,
        books=books,
        clock=clock,
        cursor=found.cursor,
    )
    engine.requests_seen = inlet.look
    gauges = Gauges(
        engine,
        opened.writer,
        opened.keeper,
        ledger=paths.ledger,
        telemetry_dir=paths.telemetry_dir,
        board=BoardWriter(paths.live_dir),
        clock=clock,
    )
    return _Control(engine, books, sweeper, inlet, display, opened.writer, gauges, paths.ledger)


def _breaker(config: Config, found: Restored, clock: Clock) -> MassCutBreaker:
    breaker = MassCutBreaker(MassCutLimits(**config.supply.mass_cut.model_dump()))
    kept = found.site.get("breaker")
    if kept is not None:
        breaker.restore(cast("dict[str, object]", kept), clock.mono_ns(), found.elapsed_ms)
    return breaker


@dataclass(frozen=True, slots=True)
class _Control:
    """The parts of a running control process."""

    engine: Engine
    books: Books
    sweeper: Sweeper
    inlet: Inlet
    display: Display
    writer: GroupCommitWriter
    gauges: Gauges
    ledger_path: Path
    stopping: threading.Event = field(default_factory=threading.Event)

    async def run(self, stop: asyncio.Event) -> None:
        """Run all tasks; the first that fails ends the process."""
        log.info("control.started", meters=len(self.engine.points))
        quiet = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._verify(), name="verify")
            group.create_task(self.gauges.run(stop), name="figures")
            polling = group.create_task(
                self.engine.polls.run(self.engine.on_reading, self.engine.on_failure), name="polls"
            )
            looking = group.create_task(self.inlet.run(stop), name="inlet")
            sweeping = group.create_task(
                self.sweeper.run(quiet, self.inlet.keep_cursor), name="sweeps"
            )
            try:
                await self._watch(stop)
            finally:
                self.stopping.set()
            # In order: no new requests, no new readings, what was sent is looked at, last sweep.
            await looking
            await self.engine.settle_tasks(STOP_DEADLINE_S)
            await self.engine.polls.aclose()
            await polling
            quiet.set()
            await sweeping
        log.info("control.stopped")

    async def _watch(self, stop: asyncio.Event) -> None:
        """Until `stop`: a failure that nobody awaited ends the process."""
        while not stop.is_set():
            failure = self.books.failure or self.engine.failure or self.inlet.failure
            failure = failure or self.writer.failure
            if failure is not None:
                raise StoreError(f"cannot go on: {failure}") from failure
            try:
                async with asyncio.timeout(WATCH_EVERY_S):
                    await stop.wait()
            except TimeoutError:
                continue

    def _go_on(self, _done: int, _total: int) -> None:
        """On the proof's thread: five years of ledger must not hold up a stop."""
        if self.stopping.is_set():
            raise StoreError("stopped while the ledger was verified")

    async def _verify(self) -> None:
        """Nothing is switched before the chain of the ledger was found whole."""

        def verify() -> tuple[str, ...]:
            connection = open_reader(self.ledger_path, LEDGER)
            try:
                return tuple(verify_ledger(connection, self._go_on).problems)
            finally:
                connection.close()

        try:
            problems = await asyncio.to_thread(verify)
        except StoreError:
            if self.stopping.is_set():
                return
            raise
        if problems:
            self.display.event("LEDGER_BROKEN", "site", "critical", problems=list(problems[:10]))
            # Metering and recharging go on, nothing is switched: see `ledger verify`, `restore`.
            log.critical("ledger.broken", problems=problems[:10])
            return
        self.engine.gate.chain_verified = True
        log.info("ledger.verified")
