"""Child processes that must run: started, restarted with back-off, stopped together."""

import asyncio
import ctypes
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from gateway.core.clock import Clock

BACKOFF_FIRST_S: Final = 0.5
BACKOFF_MAX_S: Final = 30.0
# A child that ran this long was healthy: the next failure is a new story.
HEALTHY_S: Final = 60.0
STOP_DEADLINE_S: Final = 8.0
# A configuration or a missing store does not get better by trying again.
EXIT_USAGE: Final = 2
PR_SET_PDEATHSIG: Final = 1

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Child:
    """One child: its name in messages and its command line.

    Without an `essential` one the rest is not worth running.
    """

    name: str
    argv: Sequence[str]
    essential: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)


class Supervisor:
    """Keeps children running until `stop` is set, then ends them in reverse order.

    Each stop sends SIGTERM and, after 8 s, SIGKILL, so that all are gone within 10 s. A child that
    exits with status 2 (its configuration or its store needs a person) is not started again; when
    it is essential, everything stops.
    `on_start(name, pid)` is told of every start.
    """

    def __init__(
        self,
        children: Sequence[Child],
        clock: Clock,
        on_start: Callable[[str, int], None] = lambda _name, _pid: None,
    ) -> None:
        self._children = tuple(children)
        self._clock = clock
        self._on_start = on_start
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self.status = 0

    async def run(self, stop: asyncio.Event) -> int:
        """Run all children until `stop`; the exit status to give."""
        async with asyncio.TaskGroup() as group:
            keepers = [
                group.create_task(self._keep(child, stop), name=f"keep {child.name}")
                for child in self._children
            ]
            await stop.wait()
            # No keeper may start a child that nobody would end.
            for keeper in keepers:
                keeper.cancel()
        await self._end_all()
        return self.status

    async def _keep(self, child: Child, stop: asyncio.Event) -> None:
        delay_s = BACKOFF_FIRST_S
        while not stop.is_set():
            started_ns = self._clock.mono_ns()
            process = await asyncio.create_subprocess_exec(
                *child.argv,
                env={**os.environ, **child.environment},
                stdin=asyncio.subprocess.DEVNULL,
                # Ctrl-C reaches the supervisor alone; it ends the children in order.
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
            self._running[child.name] = process
            self._on_start(child.name, process.pid)
            status = await process.wait()
            if stop.is_set():
                return
            if status == EXIT_USAGE:
                log.error("child.refused", child=child.name, status=status)
                if child.essential:
                    self.status = EXIT_USAGE
                    stop.set()
                return
            lived_s = (self._clock.mono_ns() - started_ns) / 1e9
            delay_s = BACKOFF_FIRST_S if lived_s > HEALTHY_S else min(delay_s * 2, BACKOFF_MAX_S)
            log.warning("child.ended", child=child.name, status=status, restart_in_s=delay_s)
            await asyncio.sleep(delay_s)

    async def _end_all(self) -> None:
        living = [child for child in self._running.values() if child.returncode is None]
        for process in reversed(living):
            _signal(process, signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_DEADLINE_S):
                await asyncio.gather(*(process.wait() for process in living))
        except TimeoutError:
            for process in living:
                _signal(process, signal.SIGKILL)
            await asyncio.gather(*(process.wait() for process in living))


def _die_with_parent() -> None:
    """In the child, before it starts: a supervisor that is killed leaves nobody behind."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    if process.returncode is None:
        try:
            process.send_signal(number)
        except ProcessLookupError:
            return
