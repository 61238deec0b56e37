"""Accounts of three flats on real stores, beside a model of what each should hold.

Requests come through `north.db` and the inlet as they do in the process; readings by hand, and the
contactors follow every command that was sent. `check` holds the whole site against the model.
"""

import asyncio
import json
import shutil
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from gateway.app.control.inlet import Inlet
from gateway.app.paths import paths_of
from gateway.core.credit import DebtKind, PaymentMode, accumulated, debt, emergency
from gateway.core.errors import MeterTimeoutError
from gateway.core.guard import RegisterGuard
from gateway.core.ledger import wallet
from gateway.core.reading import Lane, Reading
from gateway.core.requests import Body, Outcome, PublishTariff, Recharge, Request, Role
from gateway.core.switching import Reason
from gateway.store.commands import find_outcome, load_request_cursor
from gateway.store.db import open_writer, own_directory
from gateway.store.ledger import LEDGER, ledger_head, read_balances, read_transaction
from gateway.store.reader import StoreReader
from gateway.store.requests import NORTH, RequestReader, insert_request
from gateway.store.writer import InlineWriter
from tests.app.account_model import (
    TARIFFS,
    Customer,
    Flat,
    Stay,
    Versions,
    Vouchers,
    waterfall,
)
from tests.app.control_site import NS, START_MS, ControlSite
from tests.app.test_inlet import settle

NANO = 10**9
QUARTER_S = 900
POINTS = 3
P_MAX_W = 7_360
MODULUS_WH = 10**12
ZONE = ZoneInfo("Asia/Kolkata")
THIRD = "  - {id: flat-3, model: pac3220, host: 127.0.0.3}\n"


async def inside(work: Callable[[], None]) -> None:
    """Something that may start tasks, on the loop."""
    work()


class AccountWorld:
    """The site, its customers, and everything that may happen to them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.loop = asyncio.new_event_loop()
        self.site = ControlSite(directory, more=THIRD)
        self.flats = [
            Flat([1_000, 500]),
            Flat([MODULUS_WH - 4_000, 0]),
            Flat([700_000, 3]),
        ]
        names = self.site.engine.polls.client(0).model.names(Lane.FULL)
        self._values = (1.0,) * len(names)
        self.customers: dict[str, Customer] = {}
        self.recharges: dict[int, tuple[str, int]] = {}
        self.vouchers = Vouchers()
        self.asked: dict[str, tuple[Request, Outcome]] = {}
        self.opens_seen = 0
        self.numbers = 0
        north = paths_of(self.site.config).north_dir
        self._north_owner = own_directory(north, create=False)
        self._north = open_writer(north / "north.db", NORTH, owner=self._north_owner, create=False)
        self._north_writer = InlineWriter(self._north)
        self._inlet = self._new_inlet()
        self.begin()

    def close(self) -> None:
        """Let go of everything."""
        self._close_inlet()
        self._north.stop()
        self._north_owner.release()
        self.site.crash()
        self.loop.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something of the process."""
        self.loop.run_until_complete(work)

    @property
    def now_ms(self) -> int:
        """The wall clock."""
        return self.site.clock.utc_ms()

    # -- requests --------------------------------------------------------------------------

    def ask(self, body: Body, role: Role = Role.MANAGER, actor: str = "anna") -> Outcome:
        """A request all the way through `north.db`; its one outcome."""
        self.numbers += 1
        now_ms = self.now_ms
        request = Request(
            f"key-{self.numbers}", body, actor, role, "10.0.0.7", now_ms, now_ms + 120_000
        )
        self.submit(request)
        outcome = find_outcome(self.site.file.connection, request.key)
        assert outcome is not None, f"{body} has no outcome"
        assert outcome.code != "INTERNAL", f"{body}: {outcome.message}"
        self.asked[request.key] = (request, outcome)
        return outcome

    def submit(self, request: Request) -> bool:
        """Make a request durable and let control find it; whether it is a new one."""
        fresh: bool = self._north_writer.submit(lambda c: insert_request(c, request)).result()
        self.run(settle(self._inlet))
        assert self._inlet.failure is None
        return fresh

    def ask_again(self, key: str) -> None:
        """The same request once more, from a cursor that was lost: nothing follows (I5)."""
        request, outcome = self.asked[key]
        head = ledger_head(self.site.file.connection)
        self._close_inlet()
        self._inlet = self._new_inlet(lost=True)
        assert not self.submit(request)
        assert find_outcome(self.site.file.connection, key) == outcome
        assert ledger_head(self.site.file.connection) == head, "I5: a repeat was posted"

    def _new_inlet(self, *, lost: bool = False) -> Inlet:
        paths, site = paths_of(self.site.config), self.site
        self._readers = (
            RequestReader(paths.north_dir / "north.db"),
            StoreReader(paths.ledger, LEDGER),
        )
        return Inlet(
            *self._readers,
            executor=site.executor,
            engine=site.engine,
            books=site.books,
            clock=site.clock,
            cursor=None if lost else load_request_cursor(site.file.connection),
        )

    def _close_inlet(self) -> None:
        for reader in self._readers:
            reader.close()

    # -- readings and time -----------------------------------------------------------------

    def pass_s(self, seconds: float) -> None:
        """Time passes and nothing is read."""
        self.site.clock.pass_s(seconds)

    def align(self) -> None:
        """On to the next quarter hour, where accounts and tariffs begin and end."""
        self.pass_s(QUARTER_S - self.now_ms % (QUARTER_S * 1_000) / 1_000)
        self.look()

    def look(self, index: int = -1, wh: tuple[int, int] = (0, 0)) -> None:
        """Read every meter twice, one after having used energy, decide, and sweep."""
        if index >= 0 and self.flats[index].closed:
            self._flow(index, wh)
        for each in range(POINTS):
            self.read(each)
        for each in range(POINTS):
            self.read(each)
        # What friendly hours held back acts again with the sweep.
        exhausted = self._exhausted() if self.site.engine.gate.clock.trusted else []
        self.sweep()
        self._check_cuts_due(exhausted)

    def sweep(self) -> None:
        """What control does every second, then what contactors make of it."""
        self.run(self.site.sweeper.sweep())
        if self.site.engine.gate.clock.trusted:
            for customer in self.customers.values():
                for stay in customer.stays:
                    if not stay.ended:
                        stay.passed_ms = max(stay.passed_ms, self.now_ms)
        self.switch()

    def switch(self) -> None:
        """Commands under way reach their contactors."""
        self.run(self._settle_tasks())
        for index, track in self.site.engine.commands.items():
            supply = self.site.engine.points[index].supply
            if supply.command is not None:
                supply.sent(self.site.clock.mono_ns())
                self.flats[index].closed = track.close

    async def _settle_tasks(self) -> None:
        assert await self.site.engine.settle_tasks(5)

    def read(self, index: int) -> None:
        """A reading of the meter as it is; what it advances by is the customer's."""
        flat, point = self.flats[index], self.site.engine.points[index]
        trusted = self.site.engine.gate.clock.trusted
        self.offer(index, tuple(flat.registers_wh))
        if point.guard.registers_wh != tuple(flat.registers_wh):
            # A counter that wrapped is believed once it is read again.
            self.offer(index, tuple(flat.registers_wh))
        if flat.held:
            return
        assert point.guard.registers_wh == tuple(flat.registers_wh), "I4: not the register's path"
        self._used(index, trusted=trusted)

    def offer(self, index: int, registers_wh: tuple[int, ...]) -> None:
        """A reading of these registers, whatever they are."""
        site, flat = self.site, self.flats[index]
        point = site.engine.points[index]
        sequence = max(point.last_sequence, point.last.sequence if point.last else 0) + 1
        reading = Reading(
            sequence=sequence,
            mono_ns=site.clock.mono_ns(),
            utc_ms=site.clock.utc_ms(),
            lane=Lane.FULL,
            energy_wh=registers_wh,
            output_closed=flat.closed,
            current_a=10.0 if flat.closed else 0.0,
            power_w=2_300.0 if flat.closed else 0.0,
            meter_clock_s=site.clock.now_ns // NS + START_MS // 1000 - 1_000,
            values=self._values,
        )
        self.run(inside(lambda: site.engine.on_reading(index, reading)))

    def away(self, index: int) -> None:
        """A poll of a meter fails."""
        error = MeterTimeoutError("silent")
        self.run(inside(lambda: self.site.engine.on_failure(index, error)))

    def most_wh(self, index: int) -> int:
        """The most that can have flowed since this meter's last good reading, less a margin."""
        guard = self.site.engine.points[index].guard
        base = guard._base
        if base is None or guard.held:
            return 0
        allowed_wh = RegisterGuard(p_max_w=P_MAX_W).allowed_wh(
            base.mono_ns, self.site.clock.mono_ns()
        )
        return max(0, allowed_wh - sum(self.flats[index].unread_wh) - 1)

    def _flow(self, index: int, wh: tuple[int, int]) -> None:
        flat = self.flats[index]
        for place, more_wh in enumerate(wh):
            flat.registers_wh[place] = (flat.registers_wh[place] + more_wh) % MODULUS_WH
            flat.unread_wh[place] += more_wh

    def _used(self, index: int, *, trusted: bool) -> None:
        """What was not read so far belongs to who is charged for the point now."""
        flat = self.flats[index]
        grid_wh, generator_wh = flat.unread_wh
        flat.unread_wh = [0, 0]
        stay = self.stay_at(index)
        if stay is None:
            return
        if trusted:
            stay.use((grid_wh, generator_wh), self.now_ms)
        else:
            stay.use_at_label((grid_wh, generator_wh))

    def stay_at(self, index: int) -> Stay | None:
        """The stay that a point's energy belongs to."""
        found = (customer.standing(index) for customer in self.customers.values())
        return next((stay for stay in found if stay is not None), None)

    # -- restarts --------------------------------------------------------------------------

    def restart(self, *, boot: str = "") -> None:
        """The process dies and starts again from its files."""
        self.run(self._settle_tasks())
        self._close_inlet()
        before = {
            index: point.guard.registers_wh for index, point in enumerate(self.site.engine.points)
        }
        self.site.restart(boot=boot or None)
        self.site.engine.gate.chain_verified = True
        self._inlet = self._new_inlet()
        for index, point in enumerate(self.site.engine.points):
            assert point.guard.registers_wh == before[index], "a settled register was lost"
        self.look()
        self.look()

    def crash_after_readings(self, index: int, wh: tuple[int, int]) -> None:
        """Killed between a reading and its sweep: the register is read again, nothing is lost."""
        flat = self.flats[index]
        if not flat.closed or flat.held:
            return
        now_ms = self.now_ms
        self._flow(index, wh)
        self.offer(index, tuple(flat.registers_wh))
        self.run(self._settle_tasks())
        # A command that the reading started has kept the state of its point.
        kept = index in self.site.engine.commands
        self._close_inlet()
        self.site.restart()
        self.site.engine.gate.chain_verified = True
        self._inlet = self._new_inlet()
        if kept:
            stay = self.stay_at(index)
            if stay is not None:
                stay.use((flat.unread_wh[0], flat.unread_wh[1]), now_ms)
            flat.unread_wh = [0, 0]
        self.look()
        self.look()

    # -- accounts --------------------------------------------------------------------------

    def begin(self) -> None:
        """Meters read, clock trusted, tariffs published."""
        for index in range(POINTS):
            self.offer(index, tuple(self.flats[index].registers_wh))
        self.run(self.site.sweeper.sweep())
        self.site.engine.gate.chain_verified = True
        for name in TARIFFS:
            assert self.ask(PublishTariff(self.document(name))).code == ""
        self.align()

    @staticmethod
    def document(
        name: str, *, effective: str = "2026-01-01T00:00:00+05:30", price: str = ""
    ) -> str:
        """A tariff's next version, perhaps with another price of the generator."""
        content = {**TARIFFS[name]}
        if price:
            content["generator"] = {"price": price}
        whole = {
            "id": name,
            "name": name,
            "currency": "INR",
            "timezone": ZONE.key,
            "effective_from": effective,
            **content,
        }
        return json.dumps(whole)

    def next_midnight(self) -> str:
        """The coming local midnight, as a tariff writes it."""
        local = datetime.fromtimestamp(self.now_ms / 1_000, UTC).astimezone(ZONE)
        day = local.date() + timedelta(days=1)
        return f"{day.isoformat()}T00:00:00+05:30"

    @property
    def found_versions(self) -> Versions:
        """Every version of a tariff that was published."""
        return self.site.found.shelf.known

    def commands(self) -> int:
        """How many switch commands there are on record."""
        row = self.site.file.connection.execute("SELECT count(*) FROM switch_command").fetchone()
        return int(row[0])

    def balances(self) -> dict[str, int]:
        """What every ledger account holds."""
        return read_balances(self.site.file.connection)

    def post(self, name: str) -> None:
        """Post what an account has used, as every request about its money does first."""

        async def work() -> None:
            await self.site.books.post(self.site.desk.indices_of(name))

        self.run(work())

    def recharge(self, name: str, amount_nano: int) -> None:
        """A recharge, each part of which goes where the rules say."""
        self.post(name)
        credit = self.site.desk.account(name).credit
        terms = [one for one, _ in credit.debts() if one.kind is DebtKind.PAYMENT]
        before = self.balances()

        def of(balances: Mapping[str, int]) -> tuple[list[int], int, int, int]:
            return (
                [-balances.get(debt(name, one.debt_id), 0) for one in terms],
                -balances.get(accumulated(name), 0),
                -balances.get(emergency(name), 0),
                balances.get(wallet(name), 0),
            )

        debts, accumulated_nano, emergency_nano, wallet_nano = of(before)
        expected = waterfall(
            amount_nano,
            [(one.share_ppm, left) for one, left in zip(terms, debts, strict=True)],
            accumulated_nano,
            wallet_nano,
            emergency_nano,
        )
        outcome = self.ask(Recharge(name, amount_nano), Role.OPERATOR, "olga")
        assert outcome.code == ""
        seq = int(str(outcome.result["transaction_seq"]))
        paid = read_transaction(self.site.file.connection, seq)
        assert paid is not None
        moved = dict(before)
        for entry in paid.entries:
            moved[entry.ledger_account] = moved.get(entry.ledger_account, 0) + entry.amount_nano
        assert of(moved) == expected, "the order of a recharge"
        customer = self.customers[name]
        customer.money_nano += amount_nano
        customer.recharged(self.now_ms)
        self.recharges[seq] = (name, amount_nano)

    # -- what holds ------------------------------------------------------------------------

    def available_nano(self, name: str) -> int:
        """What an account may use, from the model's worth and what the ledger says is owed."""
        balances, credit = self.balances(), self.site.desk.account(name).credit
        used_nano = -balances.get(emergency(name), 0)
        owed_nano = used_nano - balances.get(accumulated(name), 0)
        owed_nano -= sum(
            amount for key, amount in balances.items() if key.startswith(f"debt:{name}:")
        )
        loan_nano = max(0, credit.terms.emergency_limit_nano - used_nano)
        if credit.terms.payment_mode is PaymentMode.CREDIT:
            loan_nano = 0  # who is billed has none
        return (
            self.customers[name].worth_nano(self.found_versions)
            + owed_nano
            - credit.terms.disablement_threshold_nano
            + (loan_nano if credit.is_invoked else 0)
        )

    def is_exhausted(self, name: str) -> bool:
        """Whether the account's credit may cut."""
        credit = self.site.desk.account(name).credit
        if credit.terms.payment_mode is PaymentMode.CREDIT:
            notice = credit.notice
            return notice is not None and self.now_ms >= notice.due_utc_ms
        return self.available_nano(name) <= 0

    def is_friendly(self, name: str) -> bool:
        """Whether friendly hours keep supply on now."""
        if self.site.desk.account(name).credit.terms.calendar is None:
            return False
        hour = datetime.fromtimestamp(self.now_ms / 1_000, UTC).astimezone(ZONE).hour
        return hour >= 22 or hour < 6

    def _exhausted(self) -> list[int]:
        """Points that are due, every meter being just read twice: nothing is left for them."""
        points = self.site.engine.points
        known = [
            i for i, one in enumerate(points) if one.supply.enforced and not self.flats[i].held
        ]
        return [i for i in known if (name := points[i].account_id) and self.is_exhausted(name)]

    def _check_cuts_due(self, indices: Sequence[int]) -> None:
        """Who has nothing left is due, unless it is night."""
        for index in indices:
            point = self.site.engine.points[index]
            name = point.account_id
            due = Reason.CREDIT in point.supply.reasons or not self.is_exhausted(name)
            assert due or self.is_friendly(name), f"{name} has nothing left and is not due"

    def check(self) -> None:
        """The invariants of domain.md section 9 that concern money and its cuts."""
        site = self.site
        report = site.proof()
        assert report.problems == (), f"I1, I2, I4, I10: {report.problems}"
        balances = self.balances()
        assert sum(balances.values()) == 0, "I1"
        assert set(site.desk.accounts) == set(self.customers)
        for name in self.customers:
            account = site.desk.account(name)
            credit = account.credit
            assert credit.wallet_nano == balances.get(wallet(name), 0), "I2"
            assert credit.emergency_used_nano == -balances.get(emergency(name), 0) >= 0
            assert credit.accumulated_nano == -balances.get(accumulated(name), 0) >= 0
            assert all(left_nano >= 0 for _, left_nano in credit.debts())
            worth_nano = self.customers[name].worth_nano(self.found_versions)
            held_nano = credit.wallet_nano - account.running_nano - credit.owed_nano
            assert held_nano == worth_nano, f"I3: {name} differs by {held_nano - worth_nano} nano"
            assert account.available_nano == self.available_nano(name)
        for index, point in enumerate(site.engine.points):
            supply = point.supply
            assert supply.intended_closed == (
                not supply.reasons and not supply.reconnection_pending
            ), "I7"
            if Reason.CREDIT in supply.reasons:
                assert point.account_id, "a point of nobody is blocked for credit"
                assert self.is_exhausted(point.account_id), f"cut with credit: point {index}"
        self._check_opens()
        outcomes = site.file.connection.execute(
            "SELECT count(*), count(DISTINCT request_key) FROM outcome"
        ).fetchone()
        assert outcomes == (len(self.asked), len(self.asked)), "one outcome for each request"

    def _check_opens(self) -> None:
        """A cut for credit was decided on a balance at or below the threshold."""
        rows = self.site.file.connection.execute(
            "SELECT reason, detail FROM switch_command WHERE action = 'open'"
        ).fetchall()
        for reason, detail in rows[self.opens_seen :]:
            if reason == Reason.CREDIT:
                assert json.loads(detail)["available_nano"] <= 0, "cut with credit"
        self.opens_seen = len(rows)
