"""The control process: opens the stores, rebuilds the points, polls, decides, records."""

import asyncio
import gc
from contextlib import ExitStack
from typing import Final, cast
from zoneinfo import ZoneInfo

import structlog
from ulid import ULID

from gateway.app.config import Config
from gateway.app.control.books import Books
from gateway.app.control.boot import Restored, boot_id, provision, restore
from gateway.app.control.display import Display
from gateway.app.control.engine import Engine
from gateway.app.control.executor import Executor
from gateway.app.control.inlet import Inlet
from gateway.app.control.keeper import TelemetryKeeper
from gateway.app.control.polls import PollGroup
from gateway.app.control.sweeper import Sweeper
from gateway.app.paths import make_runtime_dir, paths_of
from gateway.app.timeservice import is_synchronised
from gateway.core.clock import Clock
from gateway.core.errors import StoreError
from gateway.core.masscut import MassCutBreaker, MassCutLimits
from gateway.core.reading import Lane
from gateway.south.models import meter_model
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
    paths = paths_of(config)
    make_runtime_dir(paths.live_dir)
    with ExitStack() as owned:
        owner = own_directory(paths.control_dir, create=False)
        owned.callback(owner.release)
        file = open_writer(paths.ledger, LEDGER, owner=owner, create=False)
        owned.callback(file.stop)
        writer = GroupCommitWriter(file)
        owned.callback(writer.close, STOP_DEADLINE_S)
        this_boot = boot_id()
        utc_ms = clock.utc_ms()
        writer.submit(lambda connection: provision(connection, config, utc_ms)).result()
        found = writer.submit(
            lambda connection: restore(connection, config, clock, this_boot)
        ).result()
        keeper = TelemetryKeeper(paths.telemetry_dir, config, owner)
        owned.callback(keeper.close, STOP_DEADLINE_S)
        live = LiveTableWriter(
            paths.live_dir,
            [LiveMeter(m.meter_id, meter_model(m.model).names(Lane.FULL)) for m in config.meters],
            str(ULID.from_timestamp(utc_ms / 1000)),
        )
        owned.callback(live.close)
        control = _Control(config, clock, found, writer, live, keeper, this_boot)
        owned.callback(control.requests.close)
        owned.callback(control.own_ledger.close)
        # What was built so far lives as long as the process: the collector need not look at it.
        gc.collect()
        gc.freeze()
        await control.run(stop)


class _Control:
    """The parts of a running control process."""

    def __init__(  # noqa: PLR0917 - called once, above
        self,
        config: Config,
        clock: Clock,
        found: Restored,
        writer: GroupCommitWriter,
        live: LiveTableWriter,
        keeper: TelemetryKeeper,
        this_boot: str,
    ) -> None:
        paths = paths_of(config)
        zone = ZoneInfo(config.site.timezone)
        self._clock = clock
        self._writer = writer
        self._ledger_path = paths.ledger
        self.books = Books(writer, found.points, clock, boot_id=this_boot)
        self.books.label_utc_ms = found.last_utc_ms
        self.display = Display(
            found.points, self.books, live=live, keeper=keeper, clock=clock, zone=zone
        )
        self.polls = PollGroup(
            config.meters, [point.last_sequence + 1 for point in found.points], clock
        )
        limits = config.supply.mass_cut
        self.breaker = MassCutBreaker(MassCutLimits(**limits.model_dump()))
        self.engine = Engine(
            found.points,
            self.polls,
            self.display,
            self.breaker,
            clock,
            new_id=lambda: str(ULID.from_timestamp(clock.utc_ms() / 1000)),
            stagger_s=config.supply.stagger_s,
        )
        self.engine.inherited.update(found.commands)
        for index, point in enumerate(found.points):
            if point.pricer is not None:
                self.engine.set_flat(index, flat=found.shelf.is_flat(point.tariff_id))
        if "breaker" in found.site:
            self.breaker.restore(
                cast("dict[str, object]", found.site["breaker"]),
                clock.mono_ns(),
                found.elapsed_ms,
            )
        self.display.restore(cast("dict[str, object]", found.site.get("intervals", {})))
        self.sweeper = Sweeper(
            self.engine,
            self.books,
            self.display,
            clock,
            zone,
            period_s=config.posting.sweep_s,
            synchronised=is_synchronised,
        )
        executor = Executor(
            self.engine,
            self.books,
            found.shelf,
            found.currency,
            clock,
            confirm_clock=self.sweeper.confirm_clock,
        )
        self.requests = RequestReader(paths.north_dir / "north.db")
        self.own_ledger = StoreReader(paths.ledger, LEDGER)
        self.inlet = Inlet(
            self.requests,
            self.own_ledger,
            executor=executor,
            engine=self.engine,
            books=self.books,
            clock=clock,
            cursor=found.cursor,
        )
        self.engine.before_credit_cut = self.inlet.look

    async def run(self, stop: asyncio.Event) -> None:
        """Run all tasks; the first that fails ends the process."""
        log.info("control.started", meters=len(self.engine.points))
        quiet = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._verify(), name="verify")
            polling = group.create_task(
                self.polls.run(self.engine.on_reading, self.engine.on_failure), name="polls"
            )
            looking = group.create_task(self.inlet.run(stop), name="inlet")
            sweeping = group.create_task(
                self.sweeper.run(quiet, self.inlet.keep_cursor), name="sweeps"
            )
            await self._watch(stop)
            # In order: no new requests, no new readings, what was sent is looked at, last sweep.
            await looking
            await self.engine.settle_tasks(STOP_DEADLINE_S)
            await self.polls.aclose()
            await polling
            quiet.set()
            await sweeping
        log.info("control.stopped")

    async def _watch(self, stop: asyncio.Event) -> None:
        """Until `stop`: a failure that nobody awaited ends the process."""
        while not stop.is_set():
            failure = self.books.failure or self.engine.failure or self.inlet.failure
            failure = failure or self._writer.failure
            if failure is not None:
                raise StoreError(f"cannot go on: {failure}") from failure
            try:
                async with asyncio.timeout(WATCH_EVERY_S):
                    await stop.wait()
            except TimeoutError:
                continue

    async def _verify(self) -> None:
        """Nothing is switched before the chain of the ledger was found whole."""

        def verify() -> tuple[str, ...]:
            connection = open_reader(self._ledger_path, LEDGER)
            try:
                return tuple(verify_ledger(connection).problems)
            finally:
                connection.close()

        problems = await asyncio.to_thread(verify)
        if problems:
            self.display.event("LEDGER_BROKEN", "site", "critical", problems=list(problems[:10]))
            # Metering and recharging go on, nothing is switched: see `ledger verify`, `restore`.
            log.critical("ledger.broken", problems=problems[:10])
            return
        self.engine.gate.chain_verified = True
        log.info("ledger.verified")
