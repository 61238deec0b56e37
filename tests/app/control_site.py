"""A control process without its polls: real stores, real engine, readings fed by hand."""

import asyncio
from functools import cache
from pathlib import Path
from typing import cast
from zoneinfo import ZoneInfo

from gateway.app.config import Config, load_config
from gateway.app.control.books import Books
from gateway.app.control.boot import provision, restore
from gateway.app.control.desk import Desk
from gateway.app.control.display import Display
from gateway.app.control.engine import Engine
from gateway.app.control.governing import governor_of
from gateway.app.control.keeper import TelemetryKeeper
from gateway.app.control.nodes import meters_of, node_office_of
from gateway.app.control.process import shown_meters
from gateway.app.control.recovery import RecoveryWatch
from gateway.app.control.sweeper import Sweeper
from gateway.app.control.till import counter_rules
from gateway.app.control.watch_requests import watchman_of
from gateway.app.control.wiring import office_of
from gateway.app.paths import paths_of
from gateway.app.stores import create_stores
from gateway.core.masscut import MassCutBreaker, MassCutLimits
from gateway.core.reading import Lane, Reading
from gateway.core.requests import Body, CommissionPoint, OpenAccount, PublishTariff, Request, Role
from gateway.south.models import meter_model
from gateway.store.db import open_writer, own_directory
from gateway.store.ledger import LEDGER
from gateway.store.live import LiveTableWriter
from gateway.store.reader import StoreReader
from gateway.store.requests import RequestReader
from gateway.store.verify import VerifyReport, verify_ledger
from gateway.store.writer import InlineWriter

NS = 1_000_000_000
START_MS = 1_800_000_000_000  # 2027-01-15T13:30:00+05:30
PRICE_NANO = 8_000_000

CONFIG = """\
site: {id: palm, name: Palm, timezone: Asia/Kolkata, currency: INR}
state_dir: state
runtime_dir: run
defaults: {pac3220: {port: 1, p_max_w: 7360}}
meters:
  - {id: flat-1, model: pac3220, host: 127.0.0.1}
  - {id: flat-2, model: pac3220, host: 127.0.0.2}
"""
TARIFF = """{"id": "home", "name": "Home", "currency": "INR", "timezone": "Asia/Kolkata",
"effective_from": "2026-01-01T00:00:00+05:30", "grid": {"price": "8.00"},
"generator": {"price": "8.00"}, "fixed": {"amount": "50.00", "collect": "period_close"}}"""


class HandClock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now_ns = 1_000 * NS
        self.wall_ms = START_MS

    def mono_ns(self) -> int:
        return self.now_ns

    def utc_ms(self) -> int:
        return self.wall_ms

    def loop_delay_s(self, seconds: float) -> float:
        return 0.0 * seconds

    async def sleep(self, seconds: float) -> None:
        self.pass_s(seconds)
        await asyncio.sleep(0)

    def pass_s(self, seconds: float) -> None:
        """Both clocks go on."""
        self.now_ns += round(seconds * NS)
        self.wall_ms += round(seconds * 1000)


@cache
def _layout(model_name: str) -> tuple[int, int]:
    """How many values a full reading has, and where the first export register stands."""
    model = meter_model(model_name)
    return len(model.names(Lane.FULL)), model.export_places[0]


class ControlSite:
    """Stores and engine of a two-flat site; `restart` builds them anew from the files."""

    def __init__(
        self,
        directory: Path,
        *,
        boot: str = "boot-1",
        more: str = "",
        export: str = "ignored",
        clock: HandClock | None = None,
    ) -> None:
        self.directory = directory
        path = directory / "config.yaml"
        if not path.exists():
            text = CONFIG.replace("p_max_w: 7360", f"p_max_w: 7360, export: {export}")
            path.write_text(text + more, encoding="utf-8")
        self.config: Config = load_config(path)
        self.clock = clock or HandClock()
        self.boot = boot
        self.keys = 0
        self.actor = "anna"
        if not paths_of(self.config).ledger.exists():
            create_stores(self.config, self.clock)
        self.open()

    def open(self) -> None:
        """Open the stores and rebuild everything."""
        paths, config, clock = paths_of(self.config), self.config, self.clock
        paths.live_dir.mkdir(parents=True, exist_ok=True)
        self.owner = own_directory(paths.control_dir, create=False)
        self.file = open_writer(paths.ledger, LEDGER, owner=self.owner, create=False)
        writer = InlineWriter(self.file)
        writer.submit(lambda c: provision(c, config, clock.utc_ms())).result()
        self.found = writer.submit(lambda c: restore(c, config, clock, self.boot)).result()
        meters = shown_meters(config)
        self.keeper = TelemetryKeeper(paths.telemetry_dir, config, meters, self.owner)
        self.live = LiveTableWriter(paths.live_dir, meters, "run")
        self.books = Books(writer, self.found.points, clock, boot_id=self.boot)
        self.books.label_utc_ms = self.found.last_utc_ms
        zone = ZoneInfo(config.site.timezone)
        self.display = Display(
            self.found.points,
            self.books,
            live=self.live,
            keeper=self.keeper,
            clock=clock,
            zone=zone,
            value_counts=[len(meter.value_names) for meter in meters],
        )
        self.nodes = node_office_of(
            config, writer, self.books, self.found.shelf, tell=self.display.event, clock=clock
        )
        sequences = [point.last_sequence + 1 for point in self.found.points]
        polls, group = meters_of(config, self.nodes, sequences, clock, new_id=self._new_id)
        breaker = MassCutBreaker(MassCutLimits())
        self.engine = Engine(
            self.found.points,
            polls,
            self.display,
            breaker,
            clock,
            new_id=self._new_id,
            stagger_s=0.5,
            governor=governor_of(
                config,
                writer,
                self.found.points,
                books=self.books,
                display=self.display,
                clock=clock,
            ),
        )
        if group is not None:
            self.nodes.serve(group, self.engine)
        if "supply" in self.found.site:
            kept = cast("dict[str, object]", self.found.site["supply"])
            self.engine.restore(kept, self.found.elapsed_ms)
        self.engine.inherited.update(self.found.commands)
        self.engine.due.update(self.found.owing)
        self.sweeper = Sweeper(
            self.engine,
            self.books,
            self.display,
            clock,
            zone,
            period_s=1.0,
            synchronised=lambda: False,
        )
        self._open_office(writer)

    def _open_office(self, writer: InlineWriter) -> None:
        """Those who carry out requests."""
        paths, config, clock = paths_of(self.config), self.config, self.clock
        desk = Desk(
            self.engine,
            self.books,
            self.found.shelf,
            self.found.currency,
            clock,
            accounts=self.found.accounts,
            counter=counter_rules(config, self.found.currency),
        )
        self.desk = desk
        self.requests = RequestReader(paths.north_dir / "north.db")
        self.own_ledger = StoreReader(paths.ledger, LEDGER)
        recovery = RecoveryWatch(desk, self.display, self.own_ledger, self.requests)
        recovery.begin()
        self.watchman = watchman_of(config, self.display, writer, self.books)
        self.office = office_of(
            config,
            desk,
            sweeper=self.sweeper,
            recovery=recovery,
            watchman=self.watchman,
            nodes=self.nodes,
            display=self.display,
            ledger=self.own_ledger,
            requests=self.requests,
        )
        self.counter, self.executor = self.office.counter, self.office.executor

    def crash(self) -> None:
        """Let go of everything as a killed process would: nothing is written any more."""
        self.keeper.close(5)
        self.live.close()
        self.requests.close()
        self.own_ledger.close()
        self.file.stop()
        self.owner.release()

    def restart(self, *, boot: str | None = None) -> None:
        """Crash and start again."""
        self.crash()
        self.boot = boot or self.boot
        self.open()

    def read(
        self,
        wh: int,
        *,
        index: int = 0,
        closed: bool = True,
        clock_s: int = 0,
        export_wh: float = 1.0,
    ) -> None:
        """A full reading now; the meter's own clock shows the true time unless given.

        `export_wh` is the first export register, all other values are 1.
        """
        point = self.engine.points[index]
        sequence = max(point.last_sequence, point.last.sequence if point.last else 0) + 1
        count, place = _layout(self.engine.polls.client(index).model.name)
        values = [1.0] * count
        values[place] = export_wh
        self.engine.on_reading(
            index,
            Reading(
                sequence=sequence,
                mono_ns=self.clock.mono_ns(),
                utc_ms=self.clock.utc_ms(),
                lane=Lane.FULL,
                energy_wh=(wh, 0),
                output_closed=closed,
                current_a=10.0 if closed else 0.0,
                power_w=2_300.0 if closed else 0.0,
                meter_clock_s=clock_s or self.clock.now_ns // NS + START_MS // 1000 - 1_000,
                values=tuple(values),
            ),
        )

    async def do(
        self, body: Body, role: Role = Role.MANAGER, key: str = "", *, actor: str = ""
    ) -> None:
        """Execute a request."""
        self.keys += 1
        request = Request(
            key=key or f"key-{self.boot}-{self.keys}",
            body=body,
            actor=actor or self.actor,
            role=role,
            source="test",
            created_utc_ms=self.clock.utc_ms(),
            expires_utc_ms=self.clock.utc_ms() + 120_000,
        )
        await self.executor.execute(request)

    async def open_flat(self, balance_nano: int, *, index: int = 0) -> None:
        """Publish the tariff, open the account of a flat, commission it."""
        name = f"flat-{index + 1}"
        if not self.found.shelf.known("home"):
            await self.do(PublishTariff(TARIFF))
        await self.do(OpenAccount(name, name, "home", opening_balance_nano=balance_nano))
        await self.do(CommissionPoint(name))

    def proof(self) -> VerifyReport:
        """What `ledger verify` finds."""
        return verify_ledger(self.file.connection)

    def _new_id(self) -> str:
        self.keys += 1
        return f"{self.keys:026d}"
