"""One board from the box to its label: flash, provision, verify, test, record."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from gateway.app.firmware.bench import Bench
from gateway.app.firmware.record import BEGUN, DONE, FAILED, Record
from gateway.core.errors import RefusedError

STEPS: Final = ("address", "write", "verify", "greet", "keys", "files", "test", "restart")
# What the electrician is told to look at, by the test that failed.
_HINTS: Final = {
    "meter": "the meter module does not answer: is its mains side live, are TX and RX crossed?",
    "relay": "the relay cannot be tested",
    "wifi": "the board does not get into the Wi-Fi: is the access point near, the password right?",
}
# A test load draws more than this; with an open relay there is less.
LOAD_MA: Final = 100


class Board(Protocol):
    """A board at a port. Every call raises RefusedError BOARD_FAILED when the board fails."""

    port: str

    def mac(self) -> str:
        """12 hex digits; nothing on the board changes."""
        ...

    def write(self, bench: Bench) -> None:
        """Erase and write base and file system."""
        ...

    def verify(self, bench: Bench) -> None:
        """Compare the flash with what was written."""
        ...

    def hello(self) -> Mapping[str, Any]:
        """`mac`, `hardware`, `version` of what runs there; empty when it is no ESP32."""
        ...

    def keep(self, values: Mapping[str, bytes]) -> Sequence[str]:
        """Write to the NVS; keys that read back otherwise."""
        ...

    def sums(self, paths: Sequence[str]) -> Mapping[str, str]:
        """SHA-256 of files."""
        ...

    def test(self, bench: Bench) -> Mapping[str, Any]:
        """Self-test: `meter`, `relay`, `rssi`, `failed`."""
        ...

    def restart(self) -> None:
        """Start the application."""
        ...


class Clock(Protocol):
    """The clock object."""

    def mono_ns(self) -> int:
        """Monotonic."""
        ...

    def utc_ms(self) -> int:
        """Wall clock."""
        ...


@dataclass(frozen=True, slots=True)
class Order:
    """What to do with boards. `flash`: else only keys, files and test of one that is flashed."""

    operator: str
    flash: bool = True
    again: bool = False
    generation: int = 1


@dataclass(frozen=True, slots=True)
class Station:
    """A bench at work; its ports share it."""

    bench: Bench
    record: Record
    order: Order
    clock: Clock

    def work(self, board: Board, tell: Callable[[str], None]) -> dict[str, Any]:
        """Do all steps with one board; its line of the record, result `done` or `failed`.

        `tell` is called with each of STEPS as it begins. Raises RefusedError when no board was
        begun: BOARD_FAILED, BOARD_REFUSED, BOARD_DONE, BOARD_DUPLICATE, FIRMWARE_TOOL,
        FILE_REFUSED.
        """
        begun_ms, begun_ns = self.clock.utc_ms(), self.clock.mono_ns()
        tell("address")
        mac = board.mac() if self.order.flash else str(self._greeted(board)["mac"])
        serial = self.record.claim(mac, board.port, again=self.order.again)
        line: dict[str, Any] = {
            "serial": serial,
            "mac": mac,
            "device_id": f"node-{mac}",
            "generation": self.order.generation,
            "result": BEGUN,
            "port": board.port,
            "operator": self.order.operator,
            "begun": datetime.fromtimestamp(begun_ms // 1000, UTC).isoformat(),
            "version": self.bench.bundle.release.version,
            "base_sha256": self.bench.base_sha256,
            "image_sha256": self.bench.image_sha256,
            "release_sha256": self.bench.bundle.sha256,
        }
        try:
            self.record.write(line)
            step = "write"

            def note(name: str) -> None:
                nonlocal step
                step = name
                tell(name)

            try:
                line["test"] = self._steps(board, line, note)
                line["result"] = DONE
            except RefusedError as error:
                line |= {"result": FAILED, "step": step, "why": f"{error.refusal_code}: {error}"}
            line["seconds"] = (self.clock.mono_ns() - begun_ns) // 1_000_000_000
            self.record.write(line)
        finally:
            self.record.release(mac)
        return line

    def _steps(
        self, board: Board, line: Mapping[str, Any], tell: Callable[[str], None]
    ) -> dict[str, Any]:
        bench = self.bench
        if self.order.flash:
            tell("write")
            board.write(bench)
            tell("verify")
            board.verify(bench)
        tell("greet")
        self._check(self._greeted(board), line["mac"])
        tell("keys")
        settings = bench.settings_of(line["device_id"], self.order.generation, self.clock.utc_ms())
        bad = board.keep(settings)
        if bad:
            raise RefusedError("BOARD_FAILED", f"the board did not keep {', '.join(bad)}")
        tell("files")
        self._compare(board)
        tell("test")
        tested = _judged(board.test(bench))
        tell("restart")
        board.restart()
        return tested

    def _greeted(self, board: Board) -> Mapping[str, Any]:
        found = board.hello()
        if not found.get("mac"):
            raise RefusedError("BOARD_REFUSED", f"{board.port}: that is no ESP32 with MicroPython")
        return found

    def _check(self, found: Mapping[str, Any], mac: str) -> None:
        release = self.bench.bundle.release
        if found["mac"] != mac:
            raise RefusedError(
                "BOARD_REFUSED", f"the board has MAC {found['mac']} now, it began as {mac}"
            )
        if (found.get("hardware"), found.get("version")) != (release.hardware, release.version):
            runs = f"{found.get('hardware', 'nothing')} {found.get('version', '')}".strip()
            raise RefusedError(
                "BOARD_REFUSED",
                f"the board has {runs} of {release.hardware} {release.version}: flash it first",
            )

    def _compare(self, board: Board) -> None:
        wanted = {
            path: hashlib.sha256(content).hexdigest() for path, content in self.bench.files.items()
        }
        found = board.sums(list(wanted))
        differing = sorted(path for path, digest in wanted.items() if found.get(path) != digest)
        if differing:
            raise RefusedError(
                "BOARD_REFUSED", f"{differing[0]} on the board is another file: flash it again"
            )


def _judged(found: Mapping[str, Any]) -> dict[str, Any]:
    """The self-test as it goes into the record. Raises RefusedError TEST_FAILED."""
    for name, why in found.get("failed", {}).items():
        raise RefusedError("TEST_FAILED", f"{_HINTS.get(name, name)} ({why})")
    relay = found.get("relay")
    if relay is None:
        return dict(found)
    if not relay["followed"]:
        raise RefusedError("TEST_FAILED", "the relay's pin does not follow: is it shorted?")
    loaded = relay["closed_ma"] is not None and relay["closed_ma"] > LOAD_MA
    if (relay["open_ma"] or 0) > LOAD_MA:
        raise RefusedError(
            "TEST_FAILED", f"{relay['open_ma']} mA flow though the relay is open: it sticks"
        )
    # Without a load only the pin was seen; the click is heard by the person at the bench.
    return {**found, "relay": "switched the load" if loaded else "pin only, no load"}
