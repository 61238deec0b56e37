"""Processes killed at random moments under load: nothing acknowledged is lost or done twice.

Meters meter, money comes in, credit runs out and is paid again, while control, north and their
supervisor die by SIGKILL, at their start as well as in full work, and are started again at once.
"""

import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

from gateway.app.clock import seeded
from gateway.core.errors import RefusedError, StoreAwayError
from gateway.core.ledger import TransactionKind
from gateway.core.switching import Reason
from gateway.store.commands import CommandState, SwitchAction
from gateway.store.db import reading
from gateway.store.ledger import LEDGER
from tests.e2e.books import check_books
from tests.e2e.gateway_site import QUICK_SUPPLY, Gateway
from tests.e2e.processes import children_of, is_alive, kill_now

BLOCK_KILLS: Final = 50  # then everything is looked at, and the next block starts from nothing
CHECK_EVERY: Final = 10
RICH: Final = ("flat-101", "flat-102")  # have credit all the time
PAID: Final = ("flat-103", "flat-104")  # run out again and again; have credit in the end
SPENT: Final = ("flat-105", "flat-106")  # run out again and again; have none in the end
FLATS: Final = RICH + PAID + SPENT
LOAD_W: Final = 6_000
MINOR_NANO: Final = 10**7
ANSWER_S: Final = 60.0  # bounds of a machine that is slow, not what is promised
TRY_AGAIN_S: Final = 0.05
# Single processes most of the time: they are back sooner, so more of the kills strike live ones.
SEPARATE: Final[Sequence[tuple[str, ...]]] = (
    ("control",),
    ("control",),
    ("north",),
    ("north",),
    ("control", "north"),
)


@dataclass(slots=True)
class KillReport:
    """What a kill loop did; it raises AssertionError where a promise was broken.

    A kill is a moment at which one or more processes died; `deaths` counts the processes.
    """

    seed: int
    kills: int = 0
    deaths: Counter[str] = field(default_factory=Counter)
    payments: int = 0
    attempts: int = 0
    cuts: int = 0
    closings: int = 0
    transactions: int = 0
    elapsed_s: float = 0.0

    def __str__(self) -> str:
        deaths = ", ".join(f"{name} {count}" for name, count in sorted(self.deaths.items()))
        return (
            f"seed {self.seed}: {self.kills} kills ({deaths}) in {self.elapsed_s:.0f} s, "
            f"{self.payments} payments in {self.attempts} attempts, {self.cuts} cuts, "
            f"{self.closings} closings, {self.transactions} transactions: nothing lost or doubled"
        )


def run_kills(
    seed: int,
    count: int,
    directory: Path,
    progress: Callable[[int, int], None] | None = None,
) -> KillReport:
    """Kill `count` times in blocks of 50, each on a new site under `directory`.

    `progress(done, count)` is called after every kill. The site of a finished block is removed, the
    one of a broken block is left. Raises AssertionError naming seed, block and directory.
    """
    report = KillReport(seed)
    began_s = time.monotonic()
    for block, first in enumerate(range(0, count, BLOCK_KILLS)):
        place = directory / f"{seed}-{block}"
        place.mkdir(parents=True)
        site = Gateway(
            place,
            meters=len(FLATS),
            supply={**QUICK_SUPPLY, "min_off_s": 1},
            meter_defaults={"confirm": "auto"},
        )
        try:
            loop = _Block(site, seeded(f"kills {seed} {block}"), report)
            loop.run(min(BLOCK_KILLS, count - first), progress, count)
        except Exception as error:
            raise AssertionError(f"seed {seed}, block {block}, {place}: {error}") from error
        finally:
            site.close()
        shutil.rmtree(place)
    report.elapsed_s = time.monotonic() - began_s
    return report


class Cashier(threading.Thread):
    """Takes payments one after the other, each with a key, repeated until it is acknowledged.

    What was acknowledged is never sent again: its execution is waited for in the ledger alone.
    """

    def __init__(
        self, site: Gateway, random: Random, accounts: Sequence[str], *, minor: int, pause_s: float
    ) -> None:
        super().__init__(name=f"cashier of {accounts[0]}", daemon=True)
        self._site = site
        self._random = random
        self._accounts = accounts
        self._minor = minor
        self._pause_s = pause_s
        self._ending = threading.Event()
        self.tried: dict[str, tuple[str, int]] = {}
        self.executed: set[str] = set()
        self.attempts = 0
        self.failure: str = ""

    def run(self) -> None:
        """Pay until told to end; what was begun is finished."""
        try:
            while not self._ending.is_set() and not self.failure:
                self._pay(f"pay-{self._accounts[0]}-{len(self.tried)}")
                self._ending.wait(self._random.uniform(0, 2 * self._pause_s))
        except RefusedError as error:
            self.failure = f"{self.name}: {error.refusal_code}: {error.message}"

    def stop(self) -> None:
        """Begin no other payment."""
        self._ending.set()

    def end(self) -> None:
        """Finish the payment under way."""
        self.stop()
        self.join(2 * ANSWER_S + 10)
        assert not self.is_alive(), f"{self.name} still waits"
        assert not self.failure, self.failure

    def _pay(self, key: str) -> None:
        account = self._random.choice(self._accounts)
        minor = self._random.randint(1, self._minor)
        self.tried[key] = (account, minor * MINOR_NANO)
        end_s = time.monotonic() + ANSWER_S
        while time.monotonic() < end_s:
            self.attempts += 1
            try:
                answer = self._site.recharge(account, f"{minor / 100:.2f}", key)
            except StoreAwayError:
                time.sleep(TRY_AGAIN_S)
                continue
            if answer["state"] == "executed" or self._is_executed(key):
                self.executed.add(key)
            else:
                self.failure = f"{key} was acknowledged and never executed"
            return
        self.failure = f"{key} was never acknowledged"

    def _is_executed(self, key: str) -> bool:
        end_s = time.monotonic() + ANSWER_S
        while time.monotonic() < end_s:
            try:
                status = self._site.outcome(key)
            except StoreAwayError:
                status = None
            if status is not None:
                return status == "executed"
            time.sleep(TRY_AGAIN_S)
        return False


class _Block:
    """One site: kills, then quiet, then the look at everything."""

    def __init__(self, site: Gateway, random: Random, report: KillReport) -> None:
        self._site = site
        self._random = random
        self._report = report
        self._supervised = False
        self._cashiers = (
            Cashier(site, seeded(random.random().hex()), RICH, minor=300, pause_s=0.02),
            Cashier(site, seeded(random.random().hex()), PAID + SPENT, minor=4, pause_s=0.5),
        )

    def run(self, count: int, progress: Callable[[int, int], None] | None, total: int) -> None:
        """Kill so often, under load, and prove the site afterwards."""
        site = self._site.start()
        for flat in RICH:
            site.open(flat, "100")
        for flat in PAID + SPENT:
            site.open(flat, "0.040")
        site.load(LOAD_W, *FLATS)
        for cashier in self._cashiers:
            cashier.start()
        try:
            for done in range(1, count + 1):
                self._kill()
                self._report.kills += 1
                if progress is not None:
                    progress(self._report.kills, total)
                if done % CHECK_EVERY == 0:
                    self._payments_are_there_once()
            self._all_run()
        finally:
            for cashier in self._cashiers:
                cashier.stop()
        for cashier in self._cashiers:
            cashier.end()
        self._come_to_rest()
        self._prove()

    # -- killing ---------------------------------------------------------------------------

    def _kill(self) -> None:
        random = self._random
        if random.random() < 0.3:
            time.sleep(random.uniform(0.0, 1.0))  # somewhere within the start
        else:
            self._all_run()
            time.sleep(random.uniform(0.0, 0.5))
        if self._supervised:
            self._kill_supervised()
        else:
            self._kill_separate()

    def _kill_separate(self) -> None:
        chosen = self._random.choice(SEPARATE)
        self._site.kill(*chosen)
        self._report.deaths.update(chosen)
        time.sleep(self._random.uniform(0.0, 0.1))
        if len(chosen) == 2 and self._random.random() < 0.5:
            self._supervised = True
            self._site.start_process("run")
        else:
            for name in chosen:
                self._site.start_process(name)

    def _kill_supervised(self) -> None:
        """A child, which the supervisor must start again; it alone; or it and all its children."""
        site, run = self._site, self._site.pid("run")
        children = children_of(run)
        victim = self._random.choice(("control", "north", "run", "all"))
        if victim in children:
            if victim == "control":
                site.expect_new_control()
            kill_now(children[victim])
            self._report.deaths[victim] += 1
            gone = children[victim]
            site.until(
                lambda: children_of(run).get(victim, gone) != gone, f"another {victim}", ANSWER_S
            )
            return
        site.kill("run")
        self._report.deaths["run"] += 1
        for name, pid in children.items():
            if victim == "all" and is_alive(pid):
                kill_now(pid)
                self._report.deaths[name] += 1
        for name, pid in children.items():
            # Until then its files are taken; what it was told by the death of `run` is to stop.
            site.until(lambda pid=pid: not is_alive(pid), f"the end of {name}", ANSWER_S)  # type: ignore[misc]
        self._supervised = False
        site.start_process("control")
        site.start_process("north")

    def _all_run(self) -> None:
        site = self._site
        site.until(lambda: site.control_reads() and site.answers(), "a running gateway", ANSWER_S)

    # -- proving ---------------------------------------------------------------------------

    def _payments_are_there_once(self) -> Counter[str]:
        """Every executed payment stands in the ledger once, with its account and amount."""
        executed = [key for cashier in self._cashiers for key in tuple(cashier.executed)]
        tried = {key: terms for cashier in self._cashiers for key, terms in cashier.tried.items()}
        found: Counter[str] = Counter()
        for flat in FLATS:
            for transaction in self._site.transactions(flat):
                key = transaction.request_key or ""
                if transaction.kind is TransactionKind.RECHARGE and key.startswith("pay-"):
                    found[key] += 1
                    assert tried[key] == (flat, transaction.amount_nano), f"{key}: {transaction}"
        doubled = [key for key, times in found.items() if times > 1]
        assert not doubled, f"executed twice: {doubled}"
        lost = set(executed) - set(found)
        assert not lost, f"acknowledged and not in the ledger: {sorted(lost)}"
        for cashier in self._cashiers:
            assert not cashier.failure, cashier.failure
        return found

    def _come_to_rest(self) -> None:
        """Half of the poor flats pay, the others use up what they have; then nothing flows."""
        site = self._site
        for flat in PAID:
            assert site.recharge(flat, "5", f"rest-{flat}")["state"] == "executed"
        for flat in PAID + RICH:
            site.until(lambda flat=flat: self._is(flat, closed=True), f"supply at {flat}", ANSWER_S)  # type: ignore[misc]
        for flat in SPENT:
            site.until(lambda flat=flat: self._is(flat, closed=False), f"{flat} cut", ANSWER_S)  # type: ignore[misc]
        site.rest(*FLATS)
        for flat in FLATS:
            assert site.recharge(flat, "0.001", f"last-{flat}")["state"] == "executed"

    def _is(self, flat: str, *, closed: bool) -> bool:
        """Whether records, live row and the contactor itself agree that supply is so."""
        row = self._site.row(flat)
        commands = self._site.commands(flat)
        return (
            row.output_closed is closed
            and row.intended_closed is closed
            and (Reason.CREDIT in row.reasons) is not closed
            and self._site.ask("state", flat)["contactor_closed"] is closed
            and all(command.state.finished for command in commands)
        )

    def _prove(self) -> None:
        site, report = self._site, self._report
        found = self._payments_are_there_once()
        acknowledged = {key for cashier in self._cashiers for key in cashier.tried}
        assert set(found) == acknowledged, "a payment was not finished"
        for flat in FLATS:
            check_books(site, flat, posted=True)
            cuts = site.cuts(flat)
            assert flat not in RICH or not cuts, f"{flat} had credit all the time"
            for cut in cuts:
                # A start that finds the credit used up may have lost the command it replaces.
                assert cut.detail.get("available_nano", 0) <= 0, f"{flat}: {cut}"  # type: ignore[operator]
                report.cuts += cut.state is CommandState.VERIFIED
            report.closings += sum(
                command.state is CommandState.VERIFIED
                for command in site.commands(flat, SwitchAction.CLOSE)
            )
        site.verify()
        with reading(site.paths.ledger, LEDGER) as connection:
            unfinished = connection.execute(
                "SELECT count(*) FROM switch_command WHERE finished_utc_ms IS NULL"
            ).fetchone()[0]
            report.transactions += connection.execute(
                "SELECT count(*) FROM ledger_transaction"
            ).fetchone()[0]
        assert unfinished == 0, f"{unfinished} commands were never finished"
        report.payments += len(found)
        report.attempts += sum(cashier.attempts for cashier in self._cashiers)
