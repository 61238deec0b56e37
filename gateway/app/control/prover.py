"""The proof of the ledger while control runs: at the start, daily, and whole in the background.

Nothing is switched before the start's proof: from the newest checkpoint that the site's key signed,
else of the whole chain. The whole chain is proved again a while later by a process of its own with
the lowest priority, so that years of ledger cost neither the loop nor a cut its time.
"""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final, Protocol, TypeVar
from zoneinfo import ZoneInfo

import orjson
import structlog

from gateway.core.clock import Clock
from gateway.core.errors import StoreAwayError, StoreBusyError, StoreError
from gateway.core.signing import Signer
from gateway.store.checkpoints import (
    Checkpoint,
    KeyTrust,
    append_checkpoint,
    newest_checkpoint,
    signed_checkpoint,
    trusted_checkpoint,
)
from gateway.store.db import Connection, open_reader
from gateway.store.ledger import LEDGER
from gateway.store.verify import VerifyReport, verify_ledger

log = structlog.get_logger()

T = TypeVar("T")

LOOK_EVERY_S: Final = 10.0
# After a start the machine has better to do than to read years of ledger.
WHOLE_AFTER_S: Final = 120.0
# A whole proof of five years takes half an hour beside other work; one that takes a day hangs.
WHOLE_MAX_S: Final = 86_400.0
# Between two slices of the daily proof the loop has its thread to itself.
PAUSE_S: Final = 0.05
# Beside the ledger while damage is known that a proof from a checkpoint on would not meet again.
SUSPECT_NAME: Final = "ledger.suspect"
_PR_SET_PDEATHSIG: Final = 1
_LOWEST_PRIORITY: Final = 19


class Ledger(Protocol):
    """What the prover asks of control's books."""

    clock_offset_ms: int | None

    def label(self) -> int:
        """The wall label of the next record, UTC ms."""
        ...

    def commit(self, operation: Callable[[Connection], None]) -> "asyncio.Future[None]":
        """Queue an operation; the future has its result once it is durable."""
        ...


class Gate(Protocol):
    """What stays shut until the chain is proved."""

    chain_verified: bool


Tell = Callable[[str, str, dict[str, object]], None]


@dataclass(frozen=True, slots=True)
class Site:
    """Where the ledger is and whose it is. `whole` is the command that proves all of it."""

    ledger: Path
    zone: ZoneInfo
    signer: Signer
    trust: KeyTrust
    whole: tuple[str, ...]


class Prover:
    """Opens the gate when the ledger proved itself, and shuts it when it no longer does.

    `tell(kind, severity, facts)` keeps an event.
    """

    def __init__(self, site: Site, books: Ledger, gate: Gate, clock: Clock, tell: Tell) -> None:
        self._site = site
        self._books = books
        self._gate = gate
        self._clock = clock
        self._tell = tell
        self._stopping = threading.Event()
        self._signed_day = ""
        self._suspect = site.ledger.with_name(SUSPECT_NAME)

    def stop(self) -> None:
        """Let a proof under way end at its next slice."""
        self._stopping.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Prove what the start needs, then daily and once whole, until `stop`."""
        try:
            if not await self._begin() or stop.is_set():
                return
            await self._go_on(stop)
        except StoreError:
            if not self._stopping.is_set():
                raise

    async def _begin(self) -> bool:
        base, problems = await asyncio.to_thread(self._reading, self._trusted)
        if self._suspect.exists():
            base = None
        report = await asyncio.to_thread(self._reading, lambda c: self._verified(c, base, 0.0))
        problems += report.problems
        self._tell_foreign(report)
        if problems:
            self._broken(problems)
            return False
        self._gate.chain_verified = True
        if base is None:
            self._suspect.unlink(missing_ok=True)
        since = base.day if base is not None else None
        log.info("ledger.verified", transactions=report.transactions, since=since)
        return True

    async def _go_on(self, stop: asyncio.Event) -> None:
        whole_at_ns = self._clock.mono_ns() + round(WHOLE_AFTER_S * 1e9)
        proved_whole = False
        while not stop.is_set():
            day = self._day_over()
            # What is known to be damaged is not signed.
            if day is not None and day > self._signed_day and self._gate.chain_verified:
                try:
                    await self.checkpoint(day)
                except (StoreAwayError, StoreBusyError) as error:
                    log.warning("ledger.checkpoint_later", reason=str(error))
            if not proved_whole and self._clock.mono_ns() >= whole_at_ns:
                proved_whole = True
                await self._prove_whole(stop)
            await _pause(stop, self._clock.loop_delay_s(LOOK_EVERY_S))

    async def checkpoint(self, day: str) -> None:
        """Prove what came since the last checkpoint and sign it, unless the day has one."""
        newest, base = await asyncio.to_thread(self._reading, self._bases)
        if newest is not None and newest.day >= day:
            self._signed_day = newest.day
            return
        report = await asyncio.to_thread(self._reading, lambda c: self._verified(c, base, PAUSE_S))
        if report.problems:
            self._broken(report.problems)
            return
        if report.head.seq == 0:
            return
        utc_ms = self._books.label()
        checkpoint = await asyncio.to_thread(
            self._reading,
            lambda connection: signed_checkpoint(
                connection,
                self._site.signer,
                day=day,
                utc_ms=utc_ms,
                head=report.head,
                audit_head=report.audit_head,
                sums=report.sums,
            ),
        )
        await self._books.commit(lambda connection: append_checkpoint(connection, checkpoint))
        self._signed_day = day
        log.info("ledger.checkpoint", day=day, seq=checkpoint.head.seq)

    def _day_over(self) -> str | None:
        """The local day that ended last, once; None while the clock may not say so."""
        if self._books.clock_offset_ms is None:
            return None
        today = _local_date(self._books.label(), self._site.zone)
        return (today - timedelta(days=1)).isoformat()

    def _trusted(self, connection: Connection) -> "tuple[Checkpoint | None, tuple[str, ...]]":
        checkpoint, problems = trusted_checkpoint(connection, self._site.trust)
        return checkpoint, tuple(problems)

    def _bases(self, connection: Connection) -> "tuple[Checkpoint | None, Checkpoint | None]":
        return newest_checkpoint(connection), self._trusted(connection)[0]

    def _verified(
        self, connection: Connection, base: Checkpoint | None, pause_s: float
    ) -> VerifyReport:
        return verify_ledger(
            connection,
            lambda _done, _total: self._between_slices(pause_s),
            since=base,
            trust=self._site.trust,
        )

    def _between_slices(self, pause_s: float) -> None:
        """On the proof's thread: five years of ledger must not hold up a stop."""
        if self._stopping.wait(pause_s):
            raise StoreError("stopped while the ledger was verified")

    def _reading(self, look: Callable[[Connection], T]) -> T:
        connection = open_reader(self._site.ledger, LEDGER)
        try:
            return look(connection)
        finally:
            connection.close()

    def _broken(self, problems: tuple[str, ...]) -> None:
        # Metering and recharging go on, nothing is switched: see `ledger verify`, `restore`.
        self._gate.chain_verified = False
        self._tell("LEDGER_BROKEN", "critical", {"problems": list(problems[:10])})
        log.critical("ledger.broken", problems=problems[:10])

    def _tell_foreign(self, report: VerifyReport) -> None:
        if report.foreign_checkpoints:
            days = list(report.foreign_checkpoints[-10:])
            self._tell("CHECKPOINT_FOREIGN", "warning", {"days": days})
            log.warning("ledger.checkpoint_foreign", days=days)

    async def _prove_whole(self, stop: asyncio.Event) -> None:
        try:
            process = await asyncio.create_subprocess_exec(
                *self._site.whole,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                preexec_fn=_step_back,
            )
        except (OSError, subprocess.SubprocessError) as error:
            # No memory or no process to spare: metering goes on, and a later start proves again.
            log.warning("ledger.whole_proof_failed", reason=str(error))
            return
        stopped = asyncio.create_task(stop.wait(), name="stop of the whole proof")
        ended = asyncio.create_task(process.communicate(), name="whole proof")
        try:
            await asyncio.wait(
                {stopped, ended}, timeout=WHOLE_MAX_S, return_when=asyncio.FIRST_COMPLETED
            )
            if ended.done():
                self._judge_whole(ended.result()[0], process.returncode)
            elif not stopped.done():
                log.warning("ledger.whole_proof_failed", reason=f"not done in {WHOLE_MAX_S:g} s")
        finally:
            stopped.cancel()
            if process.returncode is None:
                process.kill()
            await ended

    def _judge_whole(self, out: bytes, status: int | None) -> None:
        try:
            found = orjson.loads(out)
            problems, transactions = tuple(found["problems"]), found["transactions"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            # Killed for memory, or the file was away: no word about the ledger either way.
            log.warning("ledger.whole_proof_failed", status=status)
            return
        if problems:
            # The next start must not go on from a checkpoint behind the damage.
            with suppress(OSError):
                self._suspect.touch(mode=0o600)
            self._broken(problems)
        else:
            log.info("ledger.verified_whole", transactions=transactions)


def whole_proof(config_path: Path) -> tuple[str, ...]:
    """The command line that proves the whole chain of this installation."""
    base = (sys.executable, "-m", "gateway", "ledger", "verify")
    return (*base, "--chain-only", "--json", "--config", str(config_path))


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return


def _local_date(utc_ms: int, zone: ZoneInfo) -> date:
    return datetime.fromtimestamp(utc_ms / 1000, UTC).astimezone(zone).date()


def _step_back() -> None:
    """In the child: lowest priority, and gone with its parent."""
    with suppress(OSError):  # the unit's filter of system calls may refuse it
        os.nice(_LOWEST_PRIORITY)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
