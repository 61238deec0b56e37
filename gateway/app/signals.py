"""Signals as events: SIGTERM and SIGINT stop, SIGHUP reads the configuration again."""

import asyncio
import signal
import sys
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Wishes:
    """What signals ask of a process. `reload` is cleared by whoever answers it."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    reload: asyncio.Event = field(default_factory=asyncio.Event)


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM or SIGINT sets; called inside the running loop."""
    return _stop_on_signals(asyncio.Event())


def wishes_of_signals() -> Wishes:
    """SIGTERM and SIGINT set `stop`, SIGHUP `reload`; called inside the running loop.

    The kernel sends SIGHUP too when the terminal of a process is gone: that stops it.
    """
    wishes = Wishes()
    _stop_on_signals(wishes.stop)
    had_terminal = sys.stderr.isatty()

    def hang_up() -> None:
        gone = had_terminal and not sys.stderr.isatty()
        (wishes.stop if gone else wishes.reload).set()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)
    return wishes


def ignore_reload() -> None:
    """SIGHUP does nothing until `wishes_of_signals`: the file is about to be read anyway."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def end_deaf() -> None:
    """The process is about to end: another signal must not turn that into a death by signal.

    Called inside the running loop, which would bring the default back when it closes.
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)


def _stop_on_signals(stop: asyncio.Event) -> asyncio.Event:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop
