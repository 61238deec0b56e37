"""Child processes that must run: started, watched, restarted with back-off, stopped together."""

import asyncio
import ctypes
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from gateway.app.notify import (
    BLOCKER_FIELD,
    SOCKET_VARIABLE,
    WATCHDOG_PID_VARIABLE,
    WATCHDOG_VARIABLE,
    Notifier,
    NotifyListener,
    Watchdog,
)
from gateway.core.clock import Clock

BACKOFF_FIRST_S: Final = 0.5
BACKOFF_MAX_S: Final = 30.0
# A child that ran this long was healthy: the next failure is a new story.
HEALTHY_S: Final = 60.0
STOP_DEADLINE_S: Final = 8.0
# As WatchdogSec in systemd/: with a start of a few seconds, polling again within 45 s.
WATCHDOG_S: Final = 20.0
# Five years of ledger are migrated within it; a start that takes longer hangs.
START_DEADLINE_S: Final = 300.0
# Between SIGABRT, on which Python says where it hangs, and SIGKILL.
ABORT_DEADLINE_S: Final = 2.0
RELOAD_DEADLINE_S: Final = 60.0
LOOKS_PER_TIMEOUT: Final = 10
# A configuration or a missing store does not get better by trying again.
EXIT_USAGE: Final = 2
PR_SET_PDEATHSIG: Final = 1

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Child:
    """One child: its name in messages and its command line.

    Without an `essential` one the rest is not worth running. With `watchdog_s` it speaks the
    protocol of `notify.py`, and is killed and started again when it is silent for that long.
    """

    name: str
    argv: Sequence[str]
    essential: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)
    watchdog_s: float | None = None


@dataclass(slots=True)
class _Running:
    """A child's process, and what it told. Times are the event loop's, in seconds."""

    child: Child
    process: asyncio.subprocess.Process
    heard_s: float
    is_ready: bool = False
    is_stopping: bool = False
    reload_wanted: bool = False
    is_reloading: bool = False
    status: str = ""

    def deadline_s(self) -> float:
        """When it must have been heard next."""
        if self.is_stopping:
            return self.heard_s + STOP_DEADLINE_S
        if not self.is_ready:
            return self.heard_s + START_DEADLINE_S
        return self.heard_s + (self.child.watchdog_s or START_DEADLINE_S)


class Supervisor:
    """Keeps children running until `stop` is set, then ends them in reverse order.

    Each stop sends SIGTERM and, after 8 s, SIGKILL, so that all are gone within 10 s. A child that
    exits with status 2 (its configuration or its store needs a person) is not started again; when
    it is essential, everything stops.
    `on_start(name, pid)` is told of every start. `notifier` is who supervises this process: it
    hears that all is ready once every essential child is.
    """

    def __init__(
        self,
        children: Sequence[Child],
        clock: Clock,
        on_start: Callable[[str, int], None] = lambda _name, _pid: None,
        *,
        notifier: Notifier | None = None,
    ) -> None:
        self._children = tuple(children)
        self._clock = clock
        self._on_start = on_start
        self._notifier = notifier or Notifier(None)
        self._running: dict[str, _Running] = {}
        self._was_ready = False
        self._told = ""
        self._changed = asyncio.Event()
        self._listener: NotifyListener | None = None
        self.status = 0

    async def run(self, stop: asyncio.Event, reload: asyncio.Event | None = None) -> int:
        """Run all children until `stop`; the exit status to give. `reload` passes SIGHUP on."""
        loop = asyncio.get_running_loop()
        self._listener = NotifyListener()
        loop.add_reader(self._listener.fileno(), self._hear)
        try:
            async with asyncio.TaskGroup() as group:
                keepers = [
                    group.create_task(self._keep(child, stop), name=f"keep {child.name}")
                    for child in self._children
                ]
                watchdog = Watchdog(self._notifier)
                keepers.append(group.create_task(watchdog.run(stop), name="watchdog"))
                if reload is not None:
                    keepers.append(group.create_task(self._pass_on(reload), name="reload"))
                await stop.wait()
                # No keeper may start a child that nobody would end.
                for keeper in keepers:
                    keeper.cancel()
            self._notifier.stopping()
            await self._end_all()
        finally:
            loop.remove_reader(self._listener.fileno())
            self._listener.close()
        return self.status

    async def _keep(self, child: Child, stop: asyncio.Event) -> None:
        delay_s = BACKOFF_FIRST_S
        while not stop.is_set():
            started_ns = self._clock.mono_ns()
            process = await asyncio.create_subprocess_exec(
                *child.argv,
                env=self._environment(child),
                stdin=asyncio.subprocess.DEVNULL,
                # Ctrl-C reaches the supervisor alone; it ends the children in order.
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
            running = _Running(child, process, asyncio.get_running_loop().time())
            self._running[child.name] = running
            self._on_start(child.name, process.pid)
            if child.watchdog_s is None:
                status = await process.wait()
            else:
                status = await self._watched(running)
            if stop.is_set():
                return
            self._changed.set()
            if status == EXIT_USAGE:
                log.error("child.refused", child=child.name, status=status)
                running.status = "refused to start: see its messages"
                self._tell()
                if child.essential:
                    self.status = EXIT_USAGE
                    stop.set()
                return
            lived_s = (self._clock.mono_ns() - started_ns) / 1e9
            delay_s = BACKOFF_FIRST_S if lived_s > HEALTHY_S else min(delay_s * 2, BACKOFF_MAX_S)
            log.warning("child.ended", child=child.name, status=status, restart_in_s=delay_s)
            running.status, running.is_ready = "ended, starts again", False
            self._tell()
            await asyncio.sleep(delay_s)

    def _environment(self, child: Child) -> dict[str, str]:
        given = {**os.environ, **child.environment}
        # What the supervisor of this process wants to hear is not for the children.
        for name in (SOCKET_VARIABLE, WATCHDOG_VARIABLE, WATCHDOG_PID_VARIABLE):
            given.pop(name, None)
        if child.watchdog_s is not None and self._listener is not None:
            given[SOCKET_VARIABLE] = self._listener.address
            given[WATCHDOG_VARIABLE] = str(round(child.watchdog_s * 1e6))
        return given

    # -- what children tell ----------------------------------------------------------------

    async def _watched(self, running: _Running) -> int:
        """Wait for the end of a child; bring it about when the child is silent for too long."""
        loop = asyncio.get_running_loop()
        look_every_s = (running.child.watchdog_s or START_DEADLINE_S) / LOOKS_PER_TIMEOUT
        ended = asyncio.ensure_future(running.process.wait())
        try:
            while True:
                # What it must be heard by moves while this waits: looked at again in between.
                await asyncio.wait({ended}, timeout=look_every_s)
                if ended.done():
                    return ended.result()
                # This process may have been stopped itself: what came meanwhile counts.
                self._hear()
                if running.deadline_s() <= loop.time():
                    log.error("child.hung", child=running.child.name, ready=running.is_ready)
                    return await _abort(running.process)
        finally:
            ended.cancel()

    def _hear(self) -> None:
        if self._listener is None:
            return
        by_pid = {running.process.pid: running for running in self._running.values()}
        for pid, told in self._listener.received():
            running = by_pid.get(pid)
            if running is not None:
                self._heard(running, told)

    def _heard(self, running: _Running, told: Mapping[str, str]) -> None:
        running.heard_s = asyncio.get_running_loop().time()
        running.status = told.get("STATUS", running.status)
        if BLOCKER_FIELD in told and running.child.essential:
            self._end_blocker(running, told[BLOCKER_FIELD])
        running.is_stopping = running.is_stopping or told.get("STOPPING") == "1"
        if told.get("RELOADING") == "1":
            running.reload_wanted, running.is_reloading = False, True
        if told.get("READY") == "1":
            running.is_ready, running.is_reloading = True, False
            if running.reload_wanted:
                # It began with the file of before: SIGHUP came while it was starting.
                _signal(running.process, signal.SIGHUP)
            self._changed.set()
        if set(told) != {"WATCHDOG"}:
            self._tell()

    def _end_blocker(self, blocked: _Running, process_id: str) -> None:
        """Kill the child that keeps another's store locked; it is started again as usual."""
        for running in self._running.values():
            if str(running.process.pid) == process_id and running is not blocked:
                log.error(
                    "child.blocks_store", child=running.child.name, blocked=blocked.child.name
                )
                _signal(running.process, signal.SIGKILL)
                return
        log.error("store.blocked_by_stranger", process=process_id, blocked=blocked.child.name)

    def _tell(self) -> None:
        """Pass on how the children are, when that changed."""
        lines = [f"{name}: {self._running[name].status or 'starts'}" for name in self._running]
        text = "; ".join(lines)
        essential = [child.name for child in self._children if child.essential]
        ready = all(name in self._running and self._running[name].is_ready for name in essential)
        if ready and not self._was_ready:
            self._was_ready = True
            self._notifier.ready(text)
        elif text != self._told:
            self._notifier.status(text)
        self._told = text

    async def _pass_on(self, reload: asyncio.Event) -> None:
        """SIGHUP for every child, once it can take it; ready again when all are."""
        while True:
            await reload.wait()
            reload.clear()
            self._notifier.reloading()
            asked = [one for one in self._running.values() if one.child.watchdog_s is not None]
            for running in asked:
                running.reload_wanted = True
                if running.is_ready:
                    _signal(running.process, signal.SIGHUP)
            try:
                async with asyncio.timeout(RELOAD_DEADLINE_S):
                    await self._all_answered(asked)
            except TimeoutError:
                log.warning("reload.unanswered")
            self._notifier.ready(self._told)

    async def _all_answered(self, asked: Sequence[_Running]) -> None:
        """Until every child began the reload and is ready again, or has ended."""
        for running in asked:
            while running.process.returncode is None and (
                running.reload_wanted or running.is_reloading
            ):
                self._changed.clear()
                await self._changed.wait()

    async def _end_all(self) -> None:
        living = [
            running.process
            for running in self._running.values()
            if running.process.returncode is None
        ]
        for process in reversed(living):
            _signal(process, signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_DEADLINE_S):
                await asyncio.gather(*(process.wait() for process in living))
        except TimeoutError:
            for process in living:
                _signal(process, signal.SIGKILL)
            await asyncio.gather(*(process.wait() for process in living))


async def _abort(process: asyncio.subprocess.Process) -> int:
    """End a process that hangs; it may say where before SIGKILL."""
    _signal(process, signal.SIGABRT)
    try:
        async with asyncio.timeout(ABORT_DEADLINE_S):
            return await process.wait()
    except TimeoutError:
        _signal(process, signal.SIGKILL)
        return await process.wait()


def _die_with_parent() -> None:
    """In the child, before it starts: a supervisor that is killed leaves nobody behind."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    if process.returncode is None:
        try:
            process.send_signal(number)
        except ProcessLookupError:
            return
