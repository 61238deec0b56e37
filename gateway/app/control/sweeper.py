"""Once a second: judge the clock, let time pass, decide, commit the state of every meter."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final
from zoneinfo import ZoneInfo

import structlog

from gateway.app.control.books import Books
from gateway.app.control.display import Display
from gateway.app.control.engine import Engine
from gateway.core.civil import half_hour_start, local_time
from gateway.core.clock import Clock
from gateway.core.clocktrust import judge_clock, stepped

log = structlog.get_logger()

JUDGE_EVERY_S: Final = 5.0
NS_PER_MS: Final = 1_000_000


class Sweeper:
    """The slow rhythm of control. `synchronised` asks the kernel's time service."""

    def __init__(
        self,
        engine: Engine,
        books: Books,
        display: Display,
        clock: Clock,
        zone: ZoneInfo,
        *,
        period_s: float,
        synchronised: Callable[[], bool],
    ) -> None:
        self._engine = engine
        self._books = books
        self._display = display
        self._clock = clock
        self._zone = zone
        self._period_s = period_s
        self._synchronised = synchronised
        self._confirmed = False
        self._judged_ns = 0
        self._half_hour_ms = 0
        self._told = ""

    async def run(self, stop: asyncio.Event, after: Callable[[], None]) -> None:
        """Sweep until `stop`, then once more so that nothing of the last second is lost."""
        period_ns = round(self._period_s * 1e9)
        due_ns = self._clock.mono_ns()
        while not stop.is_set():
            await self.sweep()
            after()
            due_ns = max(due_ns + period_ns, self._clock.mono_ns())
            wait_s = self._clock.loop_delay_s((due_ns - self._clock.mono_ns()) / 1e9)
            try:
                async with asyncio.timeout(wait_s):
                    await stop.wait()
            except TimeoutError:
                continue
        await self.sweep()

    async def sweep(self) -> None:
        """One round."""
        begun_ns = self._clock.mono_ns()
        self.judge()
        engine = self._engine
        if engine.gate.clock.trusted:
            self._pass_time()
        engine.decide_all()
        due, engine.due = engine.due | self._books.postponed, set()
        await self._books.sweep(due, self.site_facts())
        await self._give_back(due)
        await self._display.flush()
        engine.tallies.sweep_time.observe((self._clock.mono_ns() - begun_ns) / 1e9)

    async def _give_back(self, posted: Iterable[int]) -> None:
        """Clear CREDIT where what was fed in, now posted, has lifted an account above it."""
        engine = self._engine
        for index in posted:
            account = engine.points[index].account
            if engine.points[index].feed_in is None or account is None:
                continue
            if account.held:
                # The request under way may be refused: looked at again afterwards.
                engine.due.add(index)
                continue
            cleared = account.credited(self._books.label())
            for other, point in enumerate(engine.points) if cleared else ():
                if point in cleared:
                    await self._books.keep(other)
                    engine.decide(other)

    def site_facts(self) -> dict[str, object]:
        """What of the whole site must survive: breaker, feeders, the half hours under way."""
        return {
            "breaker": self._engine.breaker.snapshot(self._clock.mono_ns()),
            "intervals": self._display.snapshot(),
            "supply": self._engine.snapshot(),
        }

    @property
    def clock_confirmed(self) -> bool:
        """Whether a person's word for the wall clock stands."""
        return self._confirmed

    def confirm_clock(self) -> None:
        """A person says that the wall clock is right, until it steps again."""
        self._confirmed = True
        self._judged_ns = 0

    def judge(self) -> None:
        """Whether the wall clock may be used for rates, every few seconds and after a step."""
        now_ns, utc_ms = self._clock.mono_ns(), self._clock.utc_ms()
        gate = self._engine.gate
        has_stepped = gate.clock_offset_ms is not None and stepped(
            utc_ms - now_ns // NS_PER_MS, gate.clock_offset_ms
        )
        if not has_stepped and now_ns - self._judged_ns < JUDGE_EVERY_S * 1e9 and self._judged_ns:
            return
        if has_stepped:
            self._confirmed = False
            log.warning("clock.stepped", by_ms=utc_ms - now_ns // NS_PER_MS)
            self._display.event("CLOCK_STEPPED", "site", "warning")
        gate.clock = judge_clock(
            utc_ms=utc_ms,
            synchronised=self._synchronised(),
            last_commit_utc_ms=self._books.label_utc_ms,
            meter_clocks_ms=self._meter_clocks_ms(now_ns),
            confirmed=self._confirmed,
        )
        gate.clock_offset_ms = utc_ms - now_ns // NS_PER_MS
        self._books.clock_offset_ms = gate.clock_offset_ms if gate.clock.trusted else None
        self._judged_ns = now_ns if gate.clock.trusted else 0
        if gate.clock.reason != self._told:
            self._told = gate.clock.reason
            log.info("clock.judged", trusted=gate.clock.trusted, reason=gate.clock.reason)
            if not gate.clock.trusted:
                self._display.event("CLOCK_UNTRUSTED", "site", "warning", reason=gate.clock.reason)

    def _meter_clocks_ms(self, now_ns: int) -> list[int]:
        clocks: list[int] = []
        for point in self._engine.points:
            reading = point.last_full
            if reading is not None and reading.meter_clock_s:
                age_ms = (now_ns - reading.mono_ns) // NS_PER_MS
                clocks.append(reading.meter_clock_s * 1000 + age_ms)
        return clocks

    def _pass_time(self) -> None:
        """Close billing periods that ended, and post every point at each local half hour."""
        utc_ms = self._books.label()
        day = local_time(self._zone, utc_ms).day
        points, due = self._engine.points, self._engine.due
        for index, point in enumerate(points):
            if point.pass_time(utc_ms):
                due.add(index)
        # After all fees of the day, and posted with everything that the account has used.
        collected = {
            account.account_id
            for account in {id(p.account): p.account for p in points if p.account}.values()
            if account.pass_day(day, utc_ms)
        }
        if collected:
            due.update(index for index, p in enumerate(points) if p.account_id in collected)
        half_hour_ms = half_hour_start(self._zone, utc_ms)
        if self._half_hour_ms and half_hour_ms != self._half_hour_ms:
            self._engine.due.update(range(len(self._engine.points)))
        self._half_hour_ms = half_hour_ms
