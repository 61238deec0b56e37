"""Child processes: restarted when they die, left down when a person is needed, ended together."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable

import pytest

from gateway.app.clock import SystemClock
from gateway.app.supervise import Child, Supervisor

pytestmark = pytest.mark.slow

FOREVER = "import time; time.sleep(600)"
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"


def python(name: str, code: str, *, essential: bool = True) -> Child:
    """A child that runs this code."""
    return Child(name, (sys.executable, "-c", code), essential=essential)


async def until(condition: Callable[[], bool], deadline_s: float = 20.0) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(deadline_s):
        while not condition():
            await asyncio.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether a process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_killed_child_is_started_again() -> None:
    """kill -9 costs a moment, not the service."""
    pids: list[int] = []
    stop = asyncio.Event()
    supervisor = Supervisor([python("a", FOREVER)], SystemClock(), lambda _, pid: pids.append(pid))
    running = asyncio.create_task(supervisor.run(stop))
    await until(lambda: len(pids) == 1)
    os.kill(pids[0], signal.SIGKILL)
    await until(lambda: len(pids) == 2)
    stop.set()
    assert await running == 0
    assert not is_alive(pids[1])


async def test_stop_ends_even_a_child_that_ignores_sigterm_within_ten_seconds() -> None:
    """SIGTERM first, SIGKILL after 8 s."""
    pids: list[int] = []
    stop = asyncio.Event()
    children = [python("a", FOREVER), python("b", STUBBORN)]
    running = asyncio.create_task(
        Supervisor(children, SystemClock(), lambda _, pid: pids.append(pid)).run(stop)
    )
    await until(lambda: len(pids) == 2)
    await asyncio.sleep(0.5)
    began = time.monotonic()
    stop.set()
    await running
    assert time.monotonic() - began < 10.0
    assert not any(is_alive(pid) for pid in pids)


async def test_status_two_of_an_essential_child_ends_everything() -> None:
    """A configuration or store that needs a person does not get better by trying again."""
    pids: list[int] = []
    stop = asyncio.Event()
    children = [python("other", FOREVER), python("control", "raise SystemExit(2)")]
    supervisor = Supervisor(children, SystemClock(), lambda _, pid: pids.append(pid))
    assert await supervisor.run(stop) == 2
    assert len(pids) == 2
    assert not any(is_alive(pid) for pid in pids)


async def test_status_two_of_north_leaves_control_running() -> None:
    """A failing part degrades alone: a port that is taken must not stop the cut-offs."""
    names: list[str] = []
    stop = asyncio.Event()
    children = [
        python("control", FOREVER),
        python("north", "raise SystemExit(2)", essential=False),
    ]
    running = asyncio.create_task(
        Supervisor(children, SystemClock(), lambda name, _: names.append(name)).run(stop)
    )
    await until(lambda: len(names) == 2)
    await asyncio.sleep(1.5)
    assert not running.done()
    assert sorted(names) == ["control", "north"]
    stop.set()
    assert await running == 0


async def test_children_die_with_a_supervisor_that_is_killed() -> None:
    """Nobody is left behind to hold ports and locks."""
    script = (
        "import asyncio, sys\n"
        "from gateway.app.clock import SystemClock\n"
        "from gateway.app.supervise import Child, Supervisor\n"
        f"child = Child('a', (sys.executable, '-c', {FOREVER!r}))\n"
        "tell = lambda _, pid: print(pid, flush=True)\n"
        "asyncio.run(Supervisor([child], SystemClock(), tell).run(asyncio.Event()))\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(await asyncio.wait_for(parent.stdout.readline(), 20))
    await asyncio.sleep(0.5)
    parent.kill()
    await parent.wait()
    await until(lambda: not is_alive(pid))
