"""Many ports at once: one worker for each, one board after the other at each."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from gateway.app.firmware.station import Board, Station
from gateway.core.errors import RefusedError

PORTS_MAX: Final = 32
POLL_S: Final = 0.5
# A USB adapter is there a moment before it answers.
SETTLE_S: Final = 1.5


class View(Protocol):
    """Who shows what happens; called by all workers."""

    def step(self, port: str, step: str) -> None:
        """A step began."""
        ...

    def ended(self, port: str, line: dict[str, Any]) -> None:
        """A board ended, done or failed."""
        ...

    def refused(self, port: str, error: RefusedError) -> None:
        """No board was begun at this port."""
        ...

    def waiting(self, port: str) -> None:
        """The next board may be plugged in."""
        ...


@dataclass
class Tally:
    """How boards ended."""

    done: int = 0
    failed: int = 0
    refused: list[RefusedError] = field(default_factory=list)
    interrupted: bool = False


def run_ports(
    station: Station,
    ports: Sequence[str],
    board_at: Callable[[str], Board],
    view: View,
    *,
    boards: int = 1,
) -> Tally:
    """Work on up to `boards` boards at every port; after each the port is waited for.

    A refusal at one port ends no other port's work. An interrupt ends the waiting. Raises
    RefusedError ARGUMENT (no ports, too many, one twice).
    """
    if not 1 <= len(ports) <= PORTS_MAX or len(set(ports)) != len(ports):
        raise RefusedError("ARGUMENT", f"1 to {PORTS_MAX} ports, each once")
    tally, lock, stop = Tally(), threading.Lock(), threading.Event()

    def serve(port: str) -> None:
        for number in range(boards):
            if number:
                view.waiting(port)
                if not _replugged(port, stop):
                    return
            try:
                line = station.work(board_at(port), lambda step: view.step(port, step))
            except RefusedError as error:
                with lock:
                    tally.refused.append(error)
                view.refused(port, error)
                continue
            with lock:
                if line["result"] == "done":
                    tally.done += 1
                else:
                    tally.failed += 1
            view.ended(port, line)

    with ThreadPoolExecutor(len(ports), thread_name_prefix="port") as workers:
        try:
            for work in [workers.submit(serve, port) for port in ports]:
                work.result()
        except KeyboardInterrupt:
            tally.interrupted = True
            stop.set()
    return tally


def _replugged(port: str, stop: threading.Event) -> bool:
    """Wait until a port went and came back; whether it did. What is no device is there at once."""
    if not port.startswith("/"):
        return not stop.is_set()
    for wanted in (False, True):
        while Path(port).exists() is not wanted:
            if stop.wait(POLL_S):
                return False
    return not stop.wait(SETTLE_S)
