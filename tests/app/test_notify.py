"""The supervisor's protocol: what is sent, when the watchdog is fed, and who dies without it."""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.app.clock import SystemClock
from gateway.app.notify import Notifier, NotifyListener, Progress, Watchdog
from gateway.app.supervise import Child, Supervisor

WATCHDOG_S = 1.0
# A child that feeds its watchdog, and turns into a busy loop when it is told to by SIGUSR1.
FED = """
import asyncio, signal
from gateway.app.notify import Notifier, Watchdog
async def main():
    notifier, stop = Notifier.of_environment(), asyncio.Event()
    loop = asyncio.get_running_loop()
    def busy():
        while True: pass
    loop.add_signal_handler(signal.SIGUSR1, busy)
    loop.add_signal_handler(signal.SIGHUP, lambda: (notifier.reloading(), notifier.ready("again")))
    notifier.ready("works")
    await Watchdog(notifier).run(stop)
asyncio.run(main())
"""


@pytest.fixture
def outer(tmp_path: Path) -> Iterator[socket.socket]:
    """A notification socket, as systemd would hold it, at `tmp_path / notify`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as taken:
        taken.bind(str(tmp_path / "notify"))
        taken.settimeout(5)
        yield taken


def messages(taken: socket.socket) -> list[str]:
    """What came and was not looked at yet."""
    taken.setblocking(False)
    found: list[str] = []
    try:
        while True:
            found.append(taken.recv(4096).decode())
    except BlockingIOError:
        return found


def test_messages_are_those_of_sd_notify(outer: socket.socket, tmp_path: Path) -> None:
    """One datagram a call, one line a value; a status has one line whatever it is given."""
    notifier = Notifier.of_environment({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    notifier.ready("two\nlines")
    notifier.feed()
    notifier.reloading()
    notifier.stopping()
    said = messages(outer)
    assert said[:2] == ["READY=1\nSTATUS=two lines", "WATCHDOG=1"]
    assert said[3] == "STOPPING=1\nSTATUS=stopping"
    begin, _, microseconds = said[2].partition("\nMONOTONIC_USEC=")
    assert begin == "RELOADING=1"
    assert abs(int(microseconds) / 1e6 - time.monotonic()) < 60
    notifier.close()


def test_an_abstract_address_is_understood() -> None:
    """`@name` is systemd's spelling of a name that is no file; the sender is the kernel's word."""
    listener = NotifyListener()
    notifier = Notifier.of_environment({"NOTIFY_SOCKET": listener.address})
    notifier.ready("here")
    assert list(listener.received()) == [(os.getpid(), {"READY": "1", "STATUS": "here"})]
    notifier.close()
    listener.close()


@pytest.mark.parametrize("address", ["", "relative", "@", "/nowhere/at/all"])
def test_nobody_listening_stops_nothing(address: str) -> None:
    """A wrong or dead address is told once and never raised."""
    notifier = Notifier.of_environment({"NOTIFY_SOCKET": address})
    with capture_logs() as told:
        notifier.ready()
        notifier.feed()
        notifier.close()
    assert [line["event"] for line in told] == ["notify.failed"] * address.startswith("/")


@pytest.mark.parametrize(
    ("given", "timeout_s"),
    [
        ({"WATCHDOG_USEC": "20000000"}, 20.0),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": str(os.getpid())}, 20.0),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "x"}, None),
        ({}, None),
    ],
)
def test_a_watchdog_is_for_the_process_it_names(
    given: dict[str, str], timeout_s: float | None
) -> None:
    """A child that inherits the variables of its parent feeds nobody."""
    assert Notifier.of_environment({"NOTIFY_SOCKET": "@x", **given}).watchdog_s == timeout_s


def test_only_a_process_that_works_is_fed(outer: socket.socket, tmp_path: Path) -> None:
    """Work that stands still longer than its limit starves the watchdog; going on feeds it."""
    count, limit_s = [0], [10.0]
    progress = Progress("polls", lambda: count[0], lambda: limit_s[0] or None)
    notifier = Notifier(str(tmp_path / "notify"), 20.0)
    watchdog = Watchdog(notifier, [progress])
    with capture_logs() as told:
        for passed_s in (0.0, 5.0, 5.0):
            watchdog.look(passed_s)
        assert messages(outer) == ["WATCHDOG=1"] * 3
        watchdog.look(5.0)
        watchdog.look(5.0)
        assert messages(outer) == []
        count[0] += 1
        watchdog.look(5.0)
        assert messages(outer) == ["WATCHDOG=1"]
        watchdog.look(5.0)
        limit_s[0] = 0.0
        watchdog.look(60.0)
        assert messages(outer) == ["WATCHDOG=1"] * 2
    assert [line["event"] for line in told] == ["watchdog.starved", "watchdog.fed_again"]
    notifier.close()


async def until(condition: Callable[[], bool], deadline_s: float = 20.0) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(deadline_s):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGUSR1], ids=["stopped", "busy"])
async def test_a_child_that_hangs_is_started_again(
    number: signal.Signals, outer: socket.socket, tmp_path: Path
) -> None:
    """Stopped, or in a loop without end: killed after the watchdog's time and started anew."""
    pids: list[int] = []
    stop, reload = asyncio.Event(), asyncio.Event()
    child = Child("fed", (sys.executable, "-c", FED), watchdog_s=WATCHDOG_S)
    notifier = Notifier(str(tmp_path / "notify"))
    supervisor = Supervisor(
        [child], SystemClock(), lambda _, pid: pids.append(pid), notifier=notifier
    )
    running = asyncio.create_task(supervisor.run(stop, reload))
    said: list[str] = []

    def heard(line: str) -> bool:
        said.extend(messages(outer))
        return any(line in message for message in said)

    await until(lambda: heard("READY=1\nSTATUS=fed: works"))
    await asyncio.sleep(2 * WATCHDOG_S)
    assert len(pids) == 1, "a child that feeds is left alone"
    os.kill(pids[0], number)
    await until(lambda: len(pids) == 2)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
    await until(lambda: heard("STATUS=fed: ended, starts again"))
    said.clear()
    await until(lambda: heard("STATUS=fed: works"))
    reload.set()
    await until(lambda: heard("STATUS=fed: again"))
    await until(lambda: heard("READY=1\nSTATUS=fed: again"))
    assert said.index("STATUS=fed: again") < said.index("READY=1\nSTATUS=fed: again")
    stop.set()
    assert await running == 0
    assert any(message.startswith("STOPPING=1") for message in messages(outer))
    notifier.close()
