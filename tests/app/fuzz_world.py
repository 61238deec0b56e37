"""A real control under requests of every kind, valid, hostile and repeated, with crashes between.

The stores, contactors and meters of the stories about accounts (`account_world.py`), without their
model: here anything may be asked for, and what holds is what domain.md section 9 says of any site.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Final

from gateway.core.credit import accumulated, debt, emergency
from gateway.core.errors import RefusedError
from gateway.core.ledger import wallet
from gateway.core.requests import (
    Body,
    CommissionPoint,
    OpenAccount,
    Outcome,
    Recharge,
    ReplaceMeter,
    Request,
    Role,
)
from gateway.core.switching import NEVER_CRITICAL, Reason
from gateway.store.commands import find_outcome
from gateway.store.ledger import ledger_head
from gateway.store.replay import replay_ledger
from gateway.store.requests import insert_request
from tests.app.account_model import TARIFFS
from tests.app.account_world import NANO, POINTS, THIRD, AccountWorld
from tests.app.control_site import CONFIG, NS
from tests.app.fuzz_bodies import Wishes

CRITICAL: Final = 2
MODES: Final = ("", "counter: {shift_required: true}\n", "counter: {unique_references: true}\n")
MORE: Final = """\
feeders: [{id: main, capacity_w: 6000}]
"""


class FuzzWorld(AccountWorld):
    """The site and what was asked for; `chance` decides all that happens."""

    def __init__(self, directory: Path, chance: Random) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        third = THIRD.replace("}", ", critical: true}")
        text = CONFIG + third + MORE + chance.choice(MODES)
        (directory / "config.yaml").write_text(text, encoding="utf-8")
        self.chance = chance
        self.tokens: list[tuple[str, str]] = []
        self.requests: dict[str, Request] = {}
        self.closed_over: set[str] = set()
        self.kinds: set[str] = set()
        self.counted: Counter[str] = Counter()
        self.cuts_ns: list[int] = []
        self.opened_ns: dict[int, int] = {}
        self._known_commands: set[str] = set()
        super().__init__(directory)
        # What is tried is who does what, not the disk.
        self.site.file.connection.execute("PRAGMA synchronous=OFF")
        self._north.connection.execute("PRAGMA synchronous=OFF")
        self.wishes = Wishes(chance, self, self.tokens)
        for index, tariff in enumerate(TARIFFS):
            name = f"flat-{index + 1}"
            self.put(CommissionPoint(name))
            if chance.random() < 0.8:
                self.put(OpenAccount(f"account-{index}", name, tariff, "", 40 * NANO))
        self.settle()

    # -- what happens ------------------------------------------------------------------------

    def step(self) -> None:
        """One thing happens."""
        chance = self.chance.random()
        if chance < 0.5:
            for _ in range(self.chance.choice((1, 1, 1, 2, 4))):
                self.put(self.wishes.any())
            self.settle()
        elif chance < 0.58:
            for _ in range(self.chance.choice((1, 2, 3))):
                self.put(self.wishes.any())
            self.killed_in_midst()
        elif chance < 0.63:
            self.asks_again()
        elif chance < 0.66:
            self.restarts()
        elif chance < 0.68:
            self.damaged_row()
        elif chance < 0.70:
            self.away(self.chance.randrange(POINTS))
        elif chance < 0.72:
            self.a_lie()
        elif chance < 0.73:
            self.wall_clock_steps()
        else:
            self.pass_s(self.chance.choice((1, 5, 61, 61, 125, 900, 3_600, 22_000, 90_000)))
            index = self.chance.randrange(POINTS)
            most_wh = self.most_wh(index)
            self.look(index, (self.chance.randint(0, most_wh), 0))
        self.check()

    def wall_clock_steps(self) -> None:
        """It is wrong for a while, then right again."""
        step_ms = self.chance.choice((-3_600_000, 7_200_000, 40 * 86_400_000))
        self.site.clock.wall_ms += step_ms
        for _ in range(3):
            self.pass_s(61)
            self.look()
            self.put(self.wishes.any())
            self.settle()
        self.site.clock.wall_ms -= step_ms
        self.look()

    def put(self, body: Body) -> None:
        """Somebody asks for something, mostly who may."""
        chance, now_ms = self.chance, self.now_ms
        roles = sorted(body.ROLES) if chance.random() < 0.95 else list(Role)
        self.numbers += 1
        request = Request(
            key=f"fuzz-{self.numbers}",
            body=body,
            actor=chance.choice(("anna", "bert", "carl")),
            role=chance.choice(roles),
            source=chance.choice(("10.0.0.7", "10.0.0.8", "test")),
            created_utc_ms=now_ms,
            expires_utc_ms=chance.choice((now_ms + 120_000,) * 8 + (None, now_ms - 1)),
        )
        self.insert(request)

    def insert(self, request: Request) -> None:
        """Make a request durable; north refuses what it cannot store."""
        try:
            self._north_writer.submit(lambda c: insert_request(c, request)).result()
        except (RefusedError, ValueError, OverflowError):
            self.counted["not stored"] += 1
            return
        self.requests[request.key] = request

    def settle(self) -> None:
        """Everything that was asked for has its outcome."""
        self.run(self._settled())
        assert self._inlet.failure is None, f"control would end: {self._inlet.failure!r}"
        self._look_at_outcomes()

    async def _settled(self) -> None:
        for _ in range(5_000):
            self._inlet.look()
            await self._turn()
            if self._inlet.failure is not None:
                return
            if not self._inlet._in_flight and not self._inlet._more:
                return
        raise AssertionError(f"requests did not end: {list(self._inlet._in_flight)}")

    async def _turn(self) -> None:
        """One turn of the loop; no commit is durable within a millisecond."""
        self.site.clock.pass_s(0.001)
        await asyncio.sleep(0)

    def killed_in_midst(self) -> None:
        """The process dies at any await of what it carries out, and starts again."""
        self.run(self._some_way(self.chance.randrange(30)))
        self._close_inlet()
        self.site.restart(boot=self.chance.choice((None, None, f"boot-{self.numbers}")))
        self._started()
        self.counted["kills"] += 1

    async def _some_way(self, steps: int) -> None:
        self._inlet.look()
        for _ in range(steps):
            await self._turn()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def restarts(self) -> None:
        """A start right after requests were answered: money and supply stand as they did."""
        self.look()
        for _ in range(self.chance.choice((0, 1, 1, 2))):
            self.put(self.wishes.any())
            self.settle()
        self.run(self._settle_tasks())
        before = self.standing()
        self._close_inlet()
        self.site.restart(boot=self.chance.choice((None, f"boot-{self.numbers}")))
        after = self.standing()
        changed = {
            name: (before[name], after[name]) for name in before if before[name] != after[name]
        }
        assert not changed, f"a restart changed {changed}"
        self._started()
        self.counted["restarts"] += 1

    def _started(self) -> None:
        self.site.file.connection.execute("PRAGMA synchronous=OFF")
        self.site.engine.gate.chain_verified = True
        self._inlet = self._new_inlet(lost=self.chance.random() < 0.2)
        self._known_commands.clear()
        self.settle()
        self.look()

    def asks_again(self) -> None:
        """A key comes again: nothing follows, and another body is refused (I5)."""
        if not self.requests:
            return
        request = self.requests[self.chance.choice(sorted(self.requests))]
        head = ledger_head(self.site.file.connection)
        assert not self._north_writer.submit(lambda c: insert_request(c, request)).result()
        other = Request(request.key, self.wishes.any(), "mallory", request.role, "test", 1)
        try:
            fresh = self._north_writer.submit(lambda c: insert_request(c, other)).result()
        except (RefusedError, ValueError, OverflowError):
            fresh = False
        assert not fresh, "one key, two requests"
        self.settle()
        assert ledger_head(self.site.file.connection) == head, "I5: a repeat was posted"
        self.counted["repeats"] += 1

    def damaged_row(self) -> None:
        """A hostile north writes a row that fits nothing."""
        self.numbers += 1
        key = f"bad-{self.numbers}"
        kind = self.chance.choice(("recharge", "reboot", "", "add_debt", "x" * 600))
        body = self.chance.choice(
            ("{}", "[]", "null", '{"account_id": 1, "amount_nano": "1"}', '{"amount_nano": 1.5}',
             '{"account_id": "a", "amount_nano": true}', "{" * 50, '{"reason": ["x"]}')
        )  # fmt: skip
        row = (key, kind, body, "0" * 64, "eve", "manager", "test", None, 1, None)
        self._north_writer.submit(
            lambda c: c.execute(
                "INSERT INTO request (key, type, body, body_hash, actor, role, source, approver, "
                "created_utc_ms, expires_utc_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            )
        ).result()
        self.settle()
        outcome = find_outcome(self.site.file.connection, key)
        assert outcome is not None
        assert outcome.code in ("REQUEST_FIELD", "REQUEST_TYPE"), outcome
        self.closed_over.add(key)

    def a_lie(self) -> None:
        """A meter shows registers that no energy explains, then its true ones."""
        index = self.chance.randrange(POINTS)
        first, second = self.flats[index].registers_wh
        self.offer(index, (self.chance.choice((0, first + 10**7, max(0, first - 700))), second))
        self.look()

    def read(self, index: int) -> None:
        """A reading of the meter as it is, held or not."""
        self.offer(index, tuple(self.flats[index].registers_wh))

    def switch(self) -> None:
        """Commands under way reach their contactors; each is held against the rules."""
        self._check_commands()
        super().switch()

    def _exhausted(self) -> list[int]:
        return []  # there is no model of who is due

    # -- what holds --------------------------------------------------------------------------

    def _look_at_outcomes(self) -> None:
        """Each request has one outcome, and none is a defect of ours."""
        for key in sorted(self.requests.keys() - self.closed_over):
            outcome = find_outcome(self.site.file.connection, key)
            assert outcome is not None, f"{self.requests[key]} has no outcome"
            body = self.requests[key].body
            assert outcome.code != "INTERNAL", f"{body}: {outcome.message}"
            self.closed_over.add(key)
            self.counted["executed" if outcome.code == "" else "refused"] += 1
            self.kinds.add(body.TYPE)
            if outcome.code == "":
                self._follow(body, outcome)

    def _follow(self, body: Body, outcome: Outcome) -> None:
        """What an executed request changes outside control."""
        self.counted[body.TYPE] += 1
        if isinstance(body, ReplaceMeter):
            index = int(body.meter_id.removeprefix("flat-")) - 1
            self.flats[index].registers_wh = list(body.opening_wh)
            self.flats[index].unread_wh = [0, 0]
        if isinstance(body, Recharge):
            seq = int(str(outcome.result["transaction_seq"]))
            self.recharges[seq] = (body.account_id, body.amount_nano)
        if "token" in outcome.result:
            point = str(getattr(body, "service_point_id", ""))
            self.tokens.append((point, str(outcome.result["token"])))

    def _check_commands(self) -> None:
        now_ns = self.site.clock.mono_ns()
        for index, track in self.site.engine.commands.items():
            if track.command_id in self._known_commands:
                continue
            self._known_commands.add(track.command_id)
            supply = self.site.engine.points[index].supply
            if track.close:
                opened_ns = self.opened_ns.pop(index, None)
                waited = opened_ns is None or now_ns - opened_ns >= 60 * NS
                assert waited, f"I9: closed before the minimum off time at {index}"
                continue
            self.opened_ns.setdefault(index, now_ns)
            assert track.reasons, "opened without a reason"
            if set(track.reasons) == {Reason.CREDIT}:
                assert index != CRITICAL, "I12"
                available = (track.detail or {})["available_nano"]
                assert isinstance(available, int)
                assert available <= 0 or self._is_billed(index), "cut with credit"
                self.cuts_ns.append(now_ns)
                self.counted["cuts for credit"] += 1
            if index == CRITICAL:
                assert not supply.reasons & NEVER_CRITICAL, "I12"
        recent = [cut_ns for cut_ns in self.cuts_ns if now_ns - cut_ns < 600 * NS]
        assert len(recent) <= 10, "I13"

    def _is_billed(self, index: int) -> bool:
        account = self.site.engine.points[index].account
        return account is not None and account.credit.notice is not None

    def standing(self) -> Mapping[str, object]:
        """What a restart has to bring back: money, terms, supply, orders."""
        site, now_ns = self.site, self.site.clock.mono_ns()
        accounts = {
            f"account {name}": (
                account.available_nano,
                account.running_nano,
                account.credit.wallet_nano,
                account.credit.owed_nano,
                account.credit.is_invoked,
                account.credit.notice,
                account.credit.terms,
                [(terms, left) for terms, left in account.credit.debts()],
                account.low_credit.snapshot(),
            )
            for name, account in sorted(site.desk.accounts.items())
        }
        points = {
            point.terms.service_point_id: (
                point.account_id,
                point.tariff_id,
                point.guard.registers_wh,
                point.guard.held,
                point.supply.enforced,
                point.supply.blocks.snapshot(),
                # A closing that is not proved is begun anew.
                point.supply.snapshot(now_ns, self.now_ms)["reconnection_pending"],
                point.supply.fault,
                point.supply.limiter.limits,
                point.supply.limiter.state,
            )
            for point in site.engine.points
        }
        governor = site.engine.governor
        orders = [(name, shedder.order) for name, shedder in governor.shedders.items()]
        return {
            **accounts,
            **points,
            "overrides": tuple(governor.overrides.standing),
            "orders": orders,
            "halted": site.engine.breaker.halted,
        }

    def check(self) -> None:
        """The invariants of domain.md section 9 that hold at every moment."""
        site, balances = self.site, self.balances()
        assert site.books.failure is None
        assert site.engine.failure is None
        assert sum(balances.values()) == 0, "I1"
        for name, account in site.desk.accounts.items():
            credit = account.credit
            assert account.held == 0
            assert credit.wallet_nano == balances.get(wallet(name), 0), f"I2: {name}"
            assert credit.emergency_used_nano == -balances.get(emergency(name), 0) >= 0
            assert credit.accumulated_nano == -balances.get(accumulated(name), 0) >= 0
            for terms, left_nano in credit.debts():
                assert left_nano == -balances.get(debt(name, terms.debt_id), 0) >= 0
        for index, point in enumerate(site.engine.points):
            supply = point.supply
            pending = supply.reconnection_pending
            assert supply.intended_closed == (not supply.reasons and not pending), "I7"
            if Reason.CREDIT in supply.reasons:
                assert point.account is not None, "a point of nobody is blocked for credit"
                assert index != CRITICAL, "I12"

    def prove(self) -> None:
        """What the ledger itself shows: I1, I2, I4, I5, I6, I10, and I14 by computing it again."""
        self.settle()
        connection = self.site.file.connection
        report = self.site.proof()
        assert report.problems == (), report.problems
        outcomes = connection.execute(
            "SELECT count(*), count(DISTINCT request_key) FROM outcome WHERE request_key LIKE "
            "'fuzz-%' OR request_key LIKE 'bad-%'"
        ).fetchone()
        assert outcomes == (len(self.closed_over),) * 2, "one outcome for each request"
        twice = connection.execute(
            "SELECT request_key FROM ledger_transaction WHERE kind = 'recharge' AND request_key "
            "IS NOT NULL GROUP BY request_key HAVING count(*) > 1"
        ).fetchall()
        assert twice == [], "I5"
        again = replay_ledger(connection)
        assert [one.words for one in again.differences] == [], "I14"
        assert again.balances == {}, "I14"


def run_fuzz(number: str, steps: int, directory: Path) -> FuzzWorld:
    """A site after so many steps, closed; the same number gives the same one."""
    world = FuzzWorld(directory, Random(f"fuzz {number}"))
    try:
        for step in range(steps):
            try:
                world.step()
                if step % 50 == 49:
                    world.prove()
            except Exception as error:
                error.add_note(f"fuzz {number}, step {step}, {json.dumps(dict(world.counted))}")
                raise
        world.look()
        world.prove()
        return world
    finally:
        world.close()
