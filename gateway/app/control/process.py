"""The control process: opens the stores, rebuilds the points, polls, decides, records."""

import asyncio
import gc
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, cast
from zoneinfo import ZoneInfo

import structlog
from ulid import ULID

from gateway.app.checkpoints import key_trust
from gateway.app.config import Config
from gateway.app.control.books import Books
from gateway.app.control.boot import Restored, boot_id, provision, restore
from gateway.app.control.desk import Desk
from gateway.app.control.display import Display
from gateway.app.control.engine import Engine
from gateway.app.control.gauges import Gauges
from gateway.app.control.governing import governor_of
from gateway.app.control.inlet import Inlet
from gateway.app.control.keeper import TelemetryKeeper
from gateway.app.control.nodes import NodeOffice, meters_of, node_office_of
from gateway.app.control.prover import Prover, Site, whole_proof
from gateway.app.control.pulse import pulse_of
from gateway.app.control.reconfigure import Reconfiguration
from gateway.app.control.recovery import RecoveryWatch
from gateway.app.control.storewatch import StoreWatch
from gateway.app.control.sweeper import Sweeper
from gateway.app.control.tallies import Tallies
from gateway.app.control.till import counter_rules
from gateway.app.control.watch_requests import watchman_of
from gateway.app.control.watchman import Watchman
from gateway.app.control.wiring import Office, office_of
from gateway.app.limits import descriptors_needed, raise_descriptor_limit
from gateway.app.notify import Notifier, Watchdog
from gateway.app.paths import make_runtime_dir, paths_of
from gateway.app.site_key import load_site_key
from gateway.app.timeservice import is_synchronised
from gateway.core.clock import Clock
from gateway.core.errors import StoreError
from gateway.core.masscut import MassCutBreaker, MassCutLimits
from gateway.core.reading import Lane
from gateway.south.metering import metering
from gateway.store.board import BoardWriter
from gateway.store.db import DirectoryOwner, open_writer, own_directory
from gateway.store.ledger import LEDGER
from gateway.store.live import LiveMeter, LiveTableWriter
from gateway.store.reader import StoreReader
from gateway.store.requests import RequestReader
from gateway.store.writer import GroupCommitWriter

log = structlog.get_logger()

STOP_DEADLINE_S: Final = 4.0
WATCH_EVERY_S: Final = 0.1
UNMETERED_SHOWN: Final = 20


async def run_control(
    config: Config,
    clock: Clock,
    stop: asyncio.Event,
    *,
    reload: asyncio.Event | None = None,
    notifier: Notifier | None = None,
) -> None:
    """Own meters and money until `stop`; then leave everything durable and closed.

    `reload` asks for the configuration to be read again: the ledger stays open, everything else
    is built anew from it. `notifier` hears when control polls, and is fed while it does.
    Raises ConfigurationError, StoreMissingError, StoreLockedError, StoreCorruptError at the start
    and StoreError when a store fails later: the process must then end and start from the file.
    """
    wanted, notifier = reload or asyncio.Event(), notifier or Notifier(None)
    next_config: Config | None = config
    verified = confirmed = False
    with ExitStack() as owned:
        raise_descriptor_limit(descriptors_needed(len(config.meters)))
        stores = _open(config, clock, notifier, owned)
        while next_config is not None:
            with ExitStack() as part:
                control = _build(next_config, clock, stores.opened(next_config, part), part)
                # A proof that was made stands: a reload must not hold up a cut for it.
                control.engine.gate.chain_verified = verified
                if confirmed:
                    control.sweeper.confirm_clock()
                # What was built so far lives long: the collector need not look at it.
                gc.collect()
                gc.freeze()
                reconfiguration = Reconfiguration(
                    next_config,
                    wanted,
                    writer=stores.writer,
                    display=control.display,
                    clock=clock,
                    notifier=notifier,
                )
                pulse = pulse_of(next_config, control.engine, stores.writer, clock)
                watchdog = Watchdog(notifier, pulse)
                next_config = await control.run(stop, reconfiguration, watchdog, notifier)
                verified = control.engine.gate.chain_verified
                confirmed = control.sweeper.clock_confirmed
            del control, reconfiguration, pulse, watchdog
            gc.unfreeze()


@dataclass(frozen=True, slots=True)
class _Opened:
    """The stores of a control process, and what its ledger held."""

    writer: GroupCommitWriter
    watch: StoreWatch
    found: Restored
    keeper: TelemetryKeeper
    live: LiveTableWriter
    boot_id: str


class _Stores:
    """What stays open as long as the process: the ledger, and telemetry while it may."""

    def __init__(
        self,
        writer: GroupCommitWriter,
        watch: StoreWatch,
        owner: DirectoryOwner,
        clock: Clock,
        owned: ExitStack,
    ) -> None:
        self.writer = writer
        self._watch = watch
        self._owner = owner
        self._clock = clock
        self._boot_id = boot_id()
        self._keeper: TelemetryKeeper | None = None
        self._kept: object = None
        owned.callback(self._close_keeper)

    def opened(self, config: Config, part: ExitStack) -> _Opened:
        """Everything as this configuration needs it; `part` closes what is for it alone."""
        paths, clock, this_boot = paths_of(config), self._clock, self._boot_id
        utc_ms = clock.utc_ms()
        found = self.writer.submit(lambda c: restore(c, config, clock, this_boot)).result()
        meters = shown_meters(config)
        live = LiveTableWriter(paths.live_dir, meters, str(ULID.from_timestamp(utc_ms / 1000)))
        part.callback(live.close)
        keeper = self._keeper_of(config, meters)
        return _Opened(self.writer, self._watch, found, keeper, live, this_boot)

    def _keeper_of(self, config: Config, meters: list[LiveMeter]) -> TelemetryKeeper:
        wanted = (meters, config.telemetry)
        if self._keeper is None or self._kept != wanted:
            self._close_keeper()
            self._keeper = TelemetryKeeper(
                paths_of(config).telemetry_dir,
                config,
                meters,
                self._owner,
                has_room=self._watch.allows_readings,
            )
            self._kept = wanted
        return self._keeper

    def _close_keeper(self) -> None:
        if self._keeper is not None:
            self._keeper.close(STOP_DEADLINE_S)
            self._keeper = None


def _open(config: Config, clock: Clock, notifier: Notifier, owned: ExitStack) -> _Stores:
    """Open the ledger and provision it; `owned` closes everything in the opposite order."""
    paths = paths_of(config)
    make_runtime_dir(paths.live_dir)
    owner = own_directory(paths.control_dir, create=False)
    owned.callback(owner.release)
    floor_bytes = config.telemetry.min_free_bytes
    watch = StoreWatch(paths.ledger, paths.telemetry_dir, floor_bytes, notifier, clock)
    watch.ready_to_open()
    file = open_writer(paths.ledger, LEDGER, owner=owner, create=False)
    owned.callback(file.stop)
    watch.opened()
    writer = GroupCommitWriter(file, on_blocked=watch.blocked, on_full=watch.make_room)
    owned.callback(writer.close, STOP_DEADLINE_S)
    utc_ms = clock.utc_ms()
    writer.submit(lambda connection: provision(connection, config, utc_ms)).result()
    return _Stores(writer, watch, owner, clock, owned)


def shown_meters(config: Config) -> list[LiveMeter]:
    """What is shown and kept of every meter: the values of its full lane."""
    return [
        LiveMeter(meter.meter_id, metering(meter.model).names(Lane.FULL)) for meter in config.points
    ]


def _build(config: Config, clock: Clock, opened: _Opened, owned: ExitStack) -> "_Control":
    """Wire points, polls, engine, sweeps and requests."""
    found, zone, paths = opened.found, ZoneInfo(config.site.timezone), paths_of(config)
    tallies = Tallies()
    books = Books(opened.writer, found.points, clock, boot_id=opened.boot_id, tallies=tallies)
    books.label_utc_ms = found.last_utc_ms
    display = _display(config, books, opened, clock)
    _tell_unmetered(found, display)
    watchman = watchman_of(config, display, opened.writer, books)
    tell = display.event
    nodes = node_office_of(config, opened.writer, books, found.shelf, tell=tell, clock=clock)
    engine = _engine(config, clock, opened, books, display, nodes=nodes, tallies=tallies)
    sweeper = Sweeper(
        engine,
        books,
        display,
        clock,
        zone,
        period_s=config.posting.sweep_s,
        synchronised=is_synchronised,
    )
    counter = counter_rules(config, found.currency)
    desk = Desk(
        engine, books, found.shelf, found.currency, clock, accounts=found.accounts, counter=counter
    )
    requests = RequestReader(paths.north_dir / "north.db")
    owned.callback(requests.close)
    own_ledger = StoreReader(paths.ledger, LEDGER)
    owned.callback(own_ledger.close)
    recovery = RecoveryWatch(desk, display, own_ledger, requests)
    recovery.begin()
    office = office_of(
        config,
        desk,
        sweeper=sweeper,
        recovery=recovery,
        watchman=watchman,
        nodes=nodes,
        display=display,
        ledger=own_ledger,
        requests=requests,
    )
    inlet = Inlet(
        requests,
        own_ledger,
        executor=office.executor,
        engine=engine,
        books=books,
        clock=clock,
        cursor=found.cursor,
    )
    engine.requests_seen = inlet.look
    opened.watch.tell = _tell_of(display)
    return _Control(
        engine,
        books,
        sweeper,
        inlet,
        office,
        display,
        opened.writer,
        _gauges(config, engine, opened, clock, watchman=watchman, nodes=nodes),
        _prover(config, books, engine, display, clock),
        opened.watch,
    )


def _engine(
    config: Config,
    clock: Clock,
    opened: _Opened,
    books: Books,
    display: Display,
    *,
    nodes: NodeOffice,
    tallies: Tallies,
) -> Engine:
    """The engine as the ledger left it."""
    found = opened.found

    def new_id() -> str:
        return str(ULID.from_timestamp(clock.utc_ms() / 1000))

    sequences = [point.last_sequence + 1 for point in found.points]
    meters, group = meters_of(config, nodes, sequences, clock, new_id=new_id)
    engine = Engine(
        found.points,
        meters,
        display,
        _breaker(config, found, clock),
        clock,
        new_id=new_id,
        stagger_s=config.supply.stagger_s,
        tallies=tallies,
        governor=governor_of(
            config, opened.writer, found.points, books=books, display=display, clock=clock
        ),
    )
    if group is not None:
        nodes.serve(group, engine)
    if "supply" in found.site:
        engine.restore(cast("dict[str, object]", found.site["supply"]), found.elapsed_ms)
    engine.inherited.update(found.commands)
    engine.due.update(found.owing)
    for index, point in enumerate(found.points):
        if point.pricer is not None:
            engine.set_flat(index, flat=found.shelf.is_flat(point.tariff_id))
    return engine


def _display(config: Config, books: Books, opened: _Opened, clock: Clock) -> Display:
    found = opened.found
    display = Display(
        found.points,
        books,
        live=opened.live,
        keeper=opened.keeper,
        clock=clock,
        zone=ZoneInfo(config.site.timezone),
        value_counts=[len(meter.value_names) for meter in shown_meters(config)],
    )
    display.restore(cast("dict[str, object]", found.site.get("intervals", {})))
    return display


def _tell_unmetered(found: Restored, display: Display) -> None:
    """A reload refuses to lose a customer's meter; a start goes on for all the others."""
    if found.unmetered:
        shown = list(found.unmetered[:UNMETERED_SHOWN])
        log.error("account.unmetered", accounts=shown, count=len(found.unmetered))
        display.event(
            "ACCOUNT_UNMETERED", "site", "critical", accounts=shown, count=len(found.unmetered)
        )


def _gauges(
    config: Config,
    engine: Engine,
    opened: _Opened,
    clock: Clock,
    *,
    watchman: Watchman,
    nodes: NodeOffice,
) -> Gauges:
    paths = paths_of(config)
    return Gauges(
        engine,
        opened.writer,
        opened.keeper,
        ledger=paths.ledger,
        telemetry_dir=paths.telemetry_dir,
        board=BoardWriter(paths.live_dir),
        clock=clock,
        more=lambda: {**watchman.figures(), **nodes.figures()},
    )


def _prover(config: Config, books: Books, engine: Engine, display: Display, clock: Clock) -> Prover:
    """What proves the ledger, with the site's key."""
    paths = paths_of(config)
    signer = load_site_key(paths.control_dir)
    trust = key_trust(paths.control_dir, signer.public_key())
    zone = ZoneInfo(config.site.timezone)
    site = Site(paths.ledger, zone, signer, trust, whole_proof(config.path))
    return Prover(site, books, engine.gate, clock, _tell_of(display))


def _tell_of(display: Display) -> Callable[[str, str, dict[str, object]], None]:
    def tell(kind: str, severity: str, facts: dict[str, object]) -> None:
        display.event(kind, "site", severity, **facts)

    return tell


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
    office: Office
    display: Display
    writer: GroupCommitWriter
    gauges: Gauges
    prover: Prover
    watch: StoreWatch

    async def run(
        self,
        stop: asyncio.Event,
        reconfiguration: Reconfiguration,
        watchdog: Watchdog,
        notifier: Notifier,
    ) -> Config | None:
        """Run all tasks; the first that fails ends the process.

        Returns the configuration to go on with after a reload, or None after `stop`.
        """
        log.info("control.started", meters=len(self.engine.points))
        ending, quiet, over = asyncio.Event(), asyncio.Event(), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.prover.run(ending), name="proof")
            group.create_task(self.watch.run(ending), name="stores")
            group.create_task(self.gauges.run(ending), name="figures")
            group.create_task(watchdog.run(over), name="watchdog")
            polling = group.create_task(
                self.engine.polls.run(self.engine.on_reading, self.engine.on_failure), name="polls"
            )
            looking = group.create_task(self.inlet.run(ending), name="inlet")
            sweeping = group.create_task(self.sweeper.run(quiet, self._after_sweep), name="sweeps")
            notifier.ready(f"polling {len(self.engine.points)} meters")
            next_config: Config | None = None
            try:
                next_config = await self._watch(stop, reconfiguration)
            finally:
                self.prover.stop()
                ending.set()
            if next_config is None:
                notifier.stopping()
                over.set()
            # In order: no new requests, no new readings, what was sent is looked at, last sweep.
            await looking
            await self.engine.settle_tasks(STOP_DEADLINE_S)
            await self.engine.polls.aclose()
            await polling
            quiet.set()
            await sweeping
            over.set()
            ended = await self.engine.settle_tasks(0.0) and self.inlet.is_idle
            if next_config is not None and not ended:
                # Whoever comes next must not have these points changed behind its back.
                raise StoreError("a request or command did not end: starting again from the file")
        log.info("control.stopped" if next_config is None else "control.rebuilds")
        return next_config

    def _after_sweep(self) -> None:
        self.inlet.keep_cursor()
        self.office.after_sweep()

    async def _watch(self, stop: asyncio.Event, reconfiguration: Reconfiguration) -> Config | None:
        """Until `stop` or a reload: a failure that nobody awaited ends the process."""
        while not stop.is_set():
            failure = self.books.failure or self.engine.failure or self.inlet.failure
            failure = failure or self.writer.failure
            if failure is not None:
                raise StoreError(f"cannot go on: {failure}") from failure
            if (fresh := await reconfiguration.look()) is not None:
                return fresh
            try:
                async with asyncio.timeout(WATCH_EVERY_S):
                    await stop.wait()
            except TimeoutError:
                continue
        return None
