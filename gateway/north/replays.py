"""What accounts would have paid under a draft: counted by a process of its own, one at a time.

Years of settlement lines are a matter of many seconds of a core. On north's loop that would keep
everybody waiting, in a thread of it too; a process of the lowest priority hurts nobody, and can be
ended when its time is over or nobody waits for it any more.
"""

import asyncio
import json
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Final, cast

import structlog

from gateway.core.clock import Clock
from gateway.core.errors import RefusedError, StoreAwayError
from gateway.core.ledger import canonical_json

# 800 accounts and 7 days, late in a month, are up to a minute of a core that nobody else wants.
DEADLINE_S: Final = 180.0
# Accounts times days: 800 accounts for a month.
ACCOUNT_DAYS_MAX: Final = 25_000
# How long a publication waits for the replay of somebody else before its own.
LINE_S: Final = 20.0
# A publication goes by the replay that was looked at just before it.
KEPT_NS: Final = 600_000_000_000
# The process ends by itself so long after the deadline at the latest.
_GRACE_S: Final = 5
_ENDING_S: Final = 5.0

_log = structlog.get_logger("gateway.north")


@dataclass(frozen=True, slots=True)
class ReplayWish:
    """A draft as published, days back, and which accounts; without any, those under its id."""

    document: Mapping[str, object]
    days: int
    accounts: tuple[str, ...] = ()
    tariff_ids: tuple[str, ...] = ()

    @property
    def name(self) -> bytes:
        """Two wishes of the same name ask the same."""
        return canonical_json(asdict(self))


class _Run:
    """A replay under way, and how many wait for it."""

    def __init__(self, name: bytes, task: asyncio.Task[Mapping[str, object]]) -> None:
        self.name = name
        self.task = task
        self.waiting = 0


class ReplayRunner:
    """Runs replays by a command (and its arguments) that takes a wish and gives a report.

    Whoever asks the same while it runs gets the same answer; whoever asks something else is told to
    come again, or waits in line. Lives on one event loop.
    """

    def __init__(
        self, command: tuple[str, ...], clock: Clock, *, deadline_s: float = DEADLINE_S
    ) -> None:
        self._command = command
        self._clock = clock
        self._deadline_s = deadline_s
        self._run: _Run | None = None
        self._kept: tuple[bytes, int, Mapping[str, object]] | None = None

    @property
    def can_run(self) -> bool:
        """Whether this process was told how."""
        return bool(self._command)

    async def ask(self, wish: ReplayWish) -> Mapping[str, object]:
        """The report of a replay that begins now (or runs already).

        Raises RefusedError REPLAY_BUSY, REPLAY_TIMEOUT, REPLAY_FAILED, and what a replay refuses;
        StoreAwayError.
        """
        name = wish.name
        await self._given_up()
        if self._run is not None and self._run.name != name:
            raise RefusedError(
                "REPLAY_BUSY",
                "another replay is being counted, and only one runs at a time: ask again in a "
                "minute",
            )
        return await self._join(name, wish)

    async def ask_in_line(self, wish: ReplayWish) -> Mapping[str, object]:
        """The report of a replay counted lately, or of one after those before it.

        Raises as `ask`; REPLAY_BUSY where those before it take too long.
        """
        name = wish.name
        if self._kept is not None:
            known, at_ns, report = self._kept
            if known == name and self._clock.mono_ns() - at_ns < KEPT_NS:
                return report
        try:
            async with asyncio.timeout(LINE_S):
                while (run := self._run) is not None and not (run.name == name and run.waiting):
                    await asyncio.wait({run.task})
        except TimeoutError:
            raise RefusedError(
                "REPLAY_BUSY", "other replays were being counted all the time"
            ) from None
        return await self._join(name, wish)

    async def close(self) -> None:
        """End a replay that is under way."""
        if self._run is not None:
            self._run.task.cancel()
            await asyncio.wait({self._run.task}, timeout=_ENDING_S)

    # -- inside ----------------------------------------------------------------------------

    async def _given_up(self) -> None:
        """Wait for the end of a replay that nobody waits for any more."""
        while self._run is not None and not self._run.waiting:
            await asyncio.wait({self._run.task})

    async def _join(self, name: bytes, wish: ReplayWish) -> Mapping[str, object]:
        run = self._run
        if run is None:
            task = asyncio.create_task(self._count(wish), name="tariff replay")
            run = self._run = _Run(name, task)
            task.add_done_callback(self._ended)
        run.waiting += 1
        try:
            # Whoever goes away does not end what another one waits for.
            return await asyncio.shield(run.task)
        finally:
            run.waiting -= 1
            if not run.waiting:
                run.task.cancel()

    def _ended(self, task: asyncio.Task[Mapping[str, object]]) -> None:
        run, self._run = self._run, None
        if run is not None and not task.cancelled() and task.exception() is None:
            self._kept = (run.name, self._clock.mono_ns(), task.result())

    async def _count(self, wish: ReplayWish) -> Mapping[str, object]:
        if not self._command:
            raise RefusedError("REPLAY_FAILED", "replays cannot be counted here")
        asked = {
            **asdict(wish),
            "account_days_max": ACCOUNT_DAYS_MAX,
            "deadline_s": round(self._deadline_s) + _GRACE_S,
        }
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL
            )
        except OSError as error:
            _log.error("a replay failed", reason=error.strerror)
            raise RefusedError(
                "REPLAY_FAILED", f"the process that counts it cannot begin: {error.strerror}"
            ) from error
        try:
            async with asyncio.timeout(self._deadline_s):
                out, _ = await process.communicate(json.dumps(asked).encode())
        except TimeoutError as error:
            raise RefusedError(
                "REPLAY_TIMEOUT",
                f"it was not counted within {self._deadline_s:g} s: ask for fewer days or some "
                "accounts, or run `prepaid-gateway tariff replay` on the gateway, which takes the "
                "time it needs",
            ) from error
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        return _report_of(out, process.returncode)


def _report_of(out: bytes, status: int | None) -> Mapping[str, object]:
    try:
        found = json.loads(out) if status == 0 else None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        _log.error("a replay failed", status=status)
        raise RefusedError(
            "REPLAY_FAILED",
            f"the process that counts it ended with status {status}; on the gateway "
            "`prepaid-gateway tariff replay` says why",
        )
    if "report" in found:
        return cast("Mapping[str, object]", found["report"])
    code, message = str(found["code"]), str(found["message"])
    if code == StoreAwayError.code:
        raise StoreAwayError(message)
    raise RefusedError(code, message, str(found["place"]))
