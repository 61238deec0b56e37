"""What a process tells whoever supervises it: ready, reloading, stopping, and that it is alive.

The protocol of sd_notify(3): datagrams of `NAME=value` lines to the Unix socket that NOTIFY_SOCKET
names. Nobody listens in a terminal: then every call here does nothing.
"""

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from gateway.app.clock import kernel_monotonic_us

log = structlog.get_logger()

SOCKET_VARIABLE: Final = "NOTIFY_SOCKET"
WATCHDOG_VARIABLE: Final = "WATCHDOG_USEC"
WATCHDOG_PID_VARIABLE: Final = "WATCHDOG_PID"
# sd_watchdog_enabled(3) advises half the time-out; twice as often, one lost datagram costs nothing.
FEEDS_PER_TIMEOUT: Final = 4
BLOCKER_FIELD: Final = "X_BLOCKED_BY"
MESSAGE_BYTES: Final = 4096
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred of unix(7): process, user, group
# A look at one's own health must not be rarer than this, whatever the time-out.
LOOK_EVERY_MAX_S: Final = 5.0


class Notifier:
    """The supervisor's notification socket; `address` None when there is no supervisor.

    A call never waits and never raises: a supervisor that does not listen stops no metering.
    """

    def __init__(self, address: str | None, watchdog_s: float | None = None) -> None:
        self.watchdog_s: Final = watchdog_s
        self._address = None if address is None else _native(address)
        self._socket: socket.socket | None = None
        self._failing = False

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] | None = None) -> "Notifier":
        """What the supervisor gave this process: NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID."""
        given = os.environ if environment is None else environment
        # "@" is systemd's spelling of an abstract name; anything else must be a path.
        address = given.get(SOCKET_VARIABLE, "")
        usable = address[:1] in ("/", "@") and len(address) > 1
        return cls(address if usable else None, _watchdog_s(given) if usable else None)

    def ready(self, status: str = "") -> None:
        """The start, or a reload, is complete. `status` is one line for people."""
        self._send("READY=1", *_status(status))

    def reloading(self) -> None:
        """The configuration is being read again; `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={kernel_monotonic_us()}")

    def stopping(self) -> None:
        """The end has begun."""
        self._send("STOPPING=1", *_status("stopping"))

    def status(self, text: str) -> None:
        """One line for people (`systemctl status`)."""
        self._send(*_status(text))

    def blocked_by(self, process_id: int) -> None:
        """A process keeps the ledger's file locked: one that this supervisor started must end.

        systemd does not know the word; under it the alarm stands alone.
        """
        self._send(f"{BLOCKER_FIELD}={process_id}")

    def feed(self) -> None:
        """This process is healthy: the watchdog may wait another time-out."""
        self._send("WATCHDOG=1")

    def close(self) -> None:
        """Let go of the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        try:
            if self._socket is None:
                self._socket = socket.socket(
                    socket.AF_UNIX,
                    socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
                )
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            if not self._failing:
                log.warning("notify.failed", reason=error.strerror)
            self._failing = True
        else:
            self._failing = False


@dataclass(slots=True)
class Progress:
    """Something that must go on while a process is healthy.

    `count` changes whenever it did. `limit_s` seconds of the event loop without a change are too
    many; None while nothing is expected to happen.
    """

    name: str
    count: Callable[[], int]
    limit_s: Callable[[], float | None]
    last: int = -1
    idle_s: float = 0.0

    def look(self, passed_s: float) -> bool:
        """Whether it went on often enough, `passed_s` after the look before."""
        count, limit_s = self.count(), self.limit_s()
        self.idle_s = 0.0 if count != self.last or limit_s is None else self.idle_s + passed_s
        self.last = count
        return limit_s is None or self.idle_s <= limit_s


class Watchdog:
    """Feeds the supervisor's watchdog from the event loop, as long as everything watched goes on.

    A loop that does not turn feeds nothing, and one whose work stands still is not fed: the
    supervisor then kills the process and starts it again.
    """

    def __init__(self, notifier: Notifier, watched: Sequence[Progress] = ()) -> None:
        self._notifier = notifier
        self._watched = watched
        self._stuck: tuple[str, ...] = ()
        timeout_s = notifier.watchdog_s or 0.0
        self._every_s = min(LOOK_EVERY_MAX_S, timeout_s / FEEDS_PER_TIMEOUT)

    async def run(self, stop: asyncio.Event) -> None:
        """Feed until `stop`; returns at once when nobody asked for a watchdog."""
        if not self._every_s:
            return
        loop = asyncio.get_running_loop()
        looked_s = loop.time()
        while not stop.is_set():
            now_s = loop.time()
            # A loop that stood still says nothing about the work: it had no turn either.
            self.look(min(now_s - looked_s, 2 * self._every_s))
            looked_s = now_s
            try:
                async with asyncio.timeout(self._every_s):
                    await stop.wait()
            except TimeoutError:
                continue

    def look(self, passed_s: float) -> None:
        """Look once, and feed when all is well; says so once when it is not."""
        stuck = tuple(one.name for one in self._watched if not one.look(passed_s))
        if stuck and not self._stuck:
            log.critical("watchdog.starved", stuck=stuck)
        elif self._stuck and not stuck:
            log.info("watchdog.fed_again")
        self._stuck = stuck
        if not stuck:
            self._notifier.feed()


class NotifyListener:
    """The supervisor's end: one socket for all children, told apart by the kernel's word.

    An abstract address: no file is left behind, and who is no child of ours is not listened to.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        )
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind("")  # the kernel chooses a free abstract name (unix(7))
        name: bytes = self._socket.getsockname()
        self.address: Final = f"@{name[1:].decode('ascii')}"

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._socket.fileno()

    def received(self) -> Iterator[tuple[int, dict[str, str]]]:
        """What came since the last call: the sender's process id, and the values by name."""
        while True:
            try:
                message, ancillary, _, _ = self._socket.recvmsg(
                    MESSAGE_BYTES, socket.CMSG_SPACE(_CREDENTIALS.size)
                )
            except BlockingIOError:
                return
            for level, kind, content in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                    lines = message.decode("utf-8", "replace").split("\n")
                    pairs = (line.partition("=") for line in lines if "=" in line)
                    yield (
                        _CREDENTIALS.unpack(content)[0],
                        {name: value for name, _, value in pairs},
                    )

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()


def _status(text: str) -> tuple[str, ...]:
    return (f"STATUS={' '.join(text.split())}",) if text else ()


def _native(address: str) -> str | bytes:
    return b"\0" + address[1:].encode() if address.startswith("@") else address


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """The watchdog's time-out in seconds, when it is meant for this process."""
    meant_for = environment.get(WATCHDOG_PID_VARIABLE, "")
    if meant_for and meant_for != str(os.getpid()):
        return None
    microseconds = environment.get(WATCHDOG_VARIABLE, "")
    if not microseconds.isdecimal() or int(microseconds) == 0:
        return None
    return int(microseconds) / 1e6
