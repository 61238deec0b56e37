"""A whole installation for tests: simulated meters, control and north as child processes."""

import asyncio
import json
import os
import secrets
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx
import orjson

from gateway.app.config import load_config
from gateway.app.paths import Paths, paths_of
from gateway.core.errors import RefusedError, StoreAwayError
from gateway.north.client import LocalClient
from gateway.sim.control import ask
from gateway.store.commands import SwitchAction, SwitchCommand, commands_of, find_outcome
from gateway.store.db import reading
from gateway.store.ledger import LEDGER, AccountTransaction, transactions_of
from gateway.store.live import LiveRow, LiveTableReader
from gateway.store.telemetry_reader import StoredEvent, TelemetryReader
from tests.e2e.processes import LAUNCH, free_port

T = TypeVar("T")

ROOT: Final = Path(__file__).parent.parent.parent
DEADLINE_S: Final = 20.0
LOOK_EVERY_S: Final = 0.02
REFRESH_S: Final = 0.2  # how often a PAC3220 renews its registers
TARIFF: Final = {
    "id": "home",
    "name": "Home",
    "currency": "INR",
    "timezone": "Asia/Kolkata",
    "effective_from": "2020-01-01T00:00:00+05:30",
    "grid": {"price": "8.00"},
    "generator": {"price": "25.00"},
}
# No breaker in the way, and times that a test can wait for.
QUICK_SUPPLY: Final[Mapping[str, object]] = {
    "min_off_s": 2,
    "verify_s": 3,
    "stagger_s": 0.1,
    "mass_cut": {
        "max_cuts": 1000,
        "max_percent": 100,
        "halt_percent": 100,
        "halt_min_points": 1000,
    },
}


class Gateway:
    """One site in a directory of its own; `close` ends every process that it started.

    `supply` and `watch` are sections of the configuration, `load_w` what meters draw at first,
    `meter_defaults` what the configuration says of every PAC3220, `simulate` more options of the
    simulator, `remote_timeout_s` what register 51718 holds at every meter.
    """

    def __init__(
        self,
        directory: Path,
        *,
        meters: int,
        load_w: int = 0,
        supply: Mapping[str, object] = QUICK_SUPPLY,
        meter_defaults: Mapping[str, object] | None = None,
        watch: Mapping[str, object] | None = None,
        simulate: tuple[str, ...] = (),
        remote_timeout_s: int = 0,
    ) -> None:
        self._simulate = simulate
        self._remote_timeout_s = remote_timeout_s
        self._watch = dict(watch or {})
        self.directory = directory
        self.config = directory / "config.yaml"
        self.simulator_socket = directory / "sim.sock"
        self.port = free_port()
        self.meter_port = free_port("127.20.0.1")
        self._meters = meters
        self._load_w = load_w
        self._supply = dict(supply)
        self._meter_defaults = dict(meter_defaults or {})
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._live: LiveTableReader | None = None
        self._gone_boot_id = ""
        self._paths: Paths | None = None

    # -- processes -------------------------------------------------------------------------

    def prepare(self) -> "Gateway":
        """Simulated meters run, the configuration is written, the stores are made."""
        meters_file = self.directory / "meters.csv"
        self.spawn(
            "simulate",
            *("simulate", "--meters", str(self._meters), "--port", str(self.meter_port)),
            *("--load-w", str(self._load_w), "--meters-file", str(meters_file)),
            *("--control-socket", str(self.simulator_socket)),
            *self._simulate,
        )
        self.until(self.simulator_socket.exists, "the simulator")
        for meter in self.ask("list")["meters"] if self._remote_timeout_s else ():
            self.ask("setting", meter["id"], address=51718, value=self._remote_timeout_s)
        self.write_config()
        made = self.cli("init")
        assert made.returncode == 0, made.stderr
        return self

    def start(self) -> "Gateway":
        """Everything runs, every meter was read and the tariff is published."""
        self.prepare()
        self.start_process("control")
        self.start_process("north")
        self.ready()
        self.call("POST", "/tariffs", TARIFF, "tariff-home")
        return self

    def write_config(self, **site: object) -> None:
        """Write the configuration; `site` changes keys of its first section."""
        sections: dict[str, object] = {
            "site": {
                "id": "terrace",
                "name": "Terrace",
                "timezone": "Asia/Kolkata",
                "currency": "INR",
                **site,
            },
            "state_dir": "state",
            "runtime_dir": "run",
            "meters_file": "meters.csv",
            "north": {"http": {"listen": f"127.0.0.1:{self.port}"}},
            "supply": self._supply,
            "defaults": {"pac3220": self._meter_defaults},
            "watch": self._watch,
        }
        lines = [f"{name}: {json.dumps(section)}" for name, section in sections.items()]
        self.config.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def start_process(self, name: str) -> int:
        """Start `control`, `north` or `run`; its process id."""
        if name != "north":
            self.expect_new_control()
        return self.spawn(name, name, "--config", str(self.config))

    def spawn(self, name: str, *arguments: str) -> int:
        """Start a command of ours in a process group of its own that dies with the tests."""
        with (self.directory / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-c", LAUNCH, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                start_new_session=True,
            )
        self._children[name] = child
        return child.pid

    def pid(self, name: str) -> int:
        """The process id of a child."""
        return self._children[name].pid

    def kill(self, *names: str) -> None:
        """SIGKILL, at once for all of them, then wait until they are gone."""
        chosen = [self._children.pop(name) for name in names]
        for child in chosen:
            child.kill()
        for child in chosen:
            child.wait(DEADLINE_S)

    def stop(self, name: str, deadline_s: float = 10.0) -> int:
        """SIGTERM, and the exit status that followed within the deadline."""
        child = self._children.pop(name)
        child.terminate()
        try:
            return child.wait(deadline_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait(DEADLINE_S)
            raise AssertionError(
                f"{name} did not end within {deadline_s} s\n{self.log(name)}"
            ) from None

    def close(self) -> None:
        """End everything that still runs."""
        if self._live is not None:
            self._live.close()
        for child in self._children.values():
            child.terminate()
        end_s = time.monotonic() + 10
        for child in self._children.values():
            try:
                child.wait(max(0.1, end_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait(DEADLINE_S)
        self._children.clear()

    def log(self, name: str) -> str:
        """The end of what a child wrote."""
        path = self.directory / f"{name}.log"
        return path.read_text(encoding="utf-8", errors="replace")[-3000:] if path.exists() else ""

    def cli(self, *arguments: str, timeout_s: float = 30.0) -> subprocess.CompletedProcess[str]:
        """Run a command of ours on this configuration to its end."""
        return subprocess.run(
            [sys.executable, "-m", "gateway", *arguments, "--config", str(self.config)],
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            cwd=ROOT,
            env={**os.environ, "COLUMNS": "200"},
        )

    # -- waiting ---------------------------------------------------------------------------

    def until(self, look: Callable[[], T | None], what: str, deadline_s: float = DEADLINE_S) -> T:
        """The first true answer of `look`; fails at the deadline, or when a child ended."""
        end_s = time.monotonic() + deadline_s
        while True:
            try:
                found = look()
            except StoreAwayError:
                found = None
            if found:
                return found
            for name, child in self._children.items():
                status = child.poll()
                assert status is None, f"{name} ended with {status}\n{self.log(name)}"
            if time.monotonic() > end_s:
                logs = "\n".join(f"-- {name}\n{self.log(name)}" for name in self._children)
                raise AssertionError(f"{what}: not within {deadline_s} s\n{logs}")
            time.sleep(LOOK_EVERY_S)

    def ready(self) -> None:
        """North answers, and every meter was read by the control that runs now."""
        self.until(lambda: self.answers() and self.control_reads(), "a running gateway")

    def answers(self) -> bool:
        """Whether north answers."""
        with LocalClient(self.paths.socket) as north:
            return bool(north.call("GET", "/health"))

    def control_reads(self) -> bool:
        """Whether the control that was started last is there and has read every meter."""
        live = self.live_table()
        rows = live.rows()
        fresh = not live.stale(round(time.time() * 1000))
        return fresh and live.boot_id != self._gone_boot_id and bool(rows) and all(rows)

    def expect_new_control(self) -> None:
        """From now on `ready` waits for another run of control than the one seen last."""
        live = self.live_table()
        live.refresh()
        self._gone_boot_id = live.boot_id

    # -- asking ----------------------------------------------------------------------------

    @property
    def paths(self) -> Paths:
        """Where the site's files are."""
        if self._paths is None:
            self._paths = paths_of(load_config(self.config))
        return self._paths

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        key: str | None = None,
    ) -> dict[str, Any]:
        """The API over the Unix socket. Raises RefusedError or StoreAwayError."""
        with LocalClient(self.paths.socket) as north:
            return north.call(method, path, body, key)

    def http(
        self,
        token: str,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        key: str | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """The API over TCP with a bearer token: status and body."""
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        if key is not None:
            headers["idempotency-key"] = key
        answer = httpx.request(
            method,
            f"http://127.0.0.1:{self.port}/api/v1{path}",
            content=None if body is None else orjson.dumps(body),
            headers=headers,
            timeout=10.0,
        )
        return answer.status_code, orjson.loads(answer.content)

    def token(self, role: str, label: str) -> str:
        """A new API key of a role."""
        made = self.call("POST", "/api-keys", {"label": label, "role": role}, f"token-{label}")
        return str(made["token"])

    def ask(self, command: str, meter: str = "", **arguments: object) -> dict[str, Any]:
        """A command of the simulator."""
        if meter:
            arguments["meter"] = meter
        return asyncio.run(ask(self.simulator_socket, command, timeout_s=5.0, **arguments))

    def load(self, power_w: float, *meters: str) -> None:
        """Let meters draw a constant power."""
        for meter in meters:
            self.ask("load", meter, power_w=power_w)

    def rest(self, *meters: str) -> None:
        """Take the load away, and wait until control has read each meter's last watt-hour."""
        self.load(0, *meters)
        time.sleep(2 * REFRESH_S)  # registers show what flowed before the load went
        for meter in meters:
            self.until(
                lambda meter=meter: self.row(meter).energy_wh == self.register_wh(meter),  # type: ignore[misc]
                f"the last watt-hour of {meter}",
            )

    def register_wh(self, meter: str) -> tuple[int, int]:
        """T1 and T2 as the simulated meter shows them, floored to Wh."""
        state = self.ask("state", meter)
        return int(state["register_t1_wh"]), int(state["register_t2_wh"])

    def as_another_master(self, meter: str, pdu: bytes) -> bytes:
        """A Modbus request over a connection of its own; the reply's PDU."""
        host = next(row["host"] for row in self.ask("list")["meters"] if row["id"] == meter)
        with socket.create_connection((host, self.meter_port), timeout=5) as link:
            link.sendall(struct.pack(">HHHB", 7, 0, 1 + len(pdu), 1) + pdu)
            return link.recv(260)[7:]

    def write_command(self, meter: str, register: int, value: int) -> None:
        """Function 06 as another master would send it; the meter must accept it."""
        pdu = struct.pack(">BHH", 6, register, value)
        assert self.as_another_master(meter, pdu) == pdu

    def write_setting(self, meter: str, register: int, value: int) -> None:
        """Function 16 over two registers as another master would send it."""
        reply = self.as_another_master(meter, struct.pack(">BHHBI", 16, register, 2, 4, value))
        assert reply == struct.pack(">BHH", 16, register, 2)

    # -- accounts --------------------------------------------------------------------------

    def open(self, meter: str, balance: str, *, tariff_id: str = "home") -> None:
        """Open an account with a balance at a meter's point and commission it."""
        self.open_account(meter, balance, tariff_id=tariff_id)
        self.call("POST", f"/meters/{meter}/commissioning", None, f"commission-{meter}")

    def open_account(self, meter: str, balance: str, *, tariff_id: str = "home") -> None:
        """Open an account; a control that has just started may not trust its clock yet."""
        body = {"id": meter, "tariff_id": tariff_id, "opening_balance": balance}

        def opened() -> bool:
            try:
                self.call("POST", "/accounts", body, f"open-{secrets.token_hex(8)}")
            except RefusedError as refused:
                if refused.refusal_code not in ("CLOCK_UNTRUSTED", "METER_AWAY"):
                    raise
                return False
            return True

        self.until(opened, f"an account at {meter}")

    def recharge(self, account: str, amount: str, key: str) -> dict[str, Any]:
        """Recharge over the Unix socket."""
        return self.call("POST", f"/accounts/{account}/recharges", {"amount": amount}, key)

    def order(self, meter: str, action: str, key: str, reason: str = "") -> dict[str, Any]:
        """Ask for a switch."""
        body = {"action": action, "reason": reason}
        return self.call("POST", f"/meters/{meter}/commands", body, key)

    # -- looking ---------------------------------------------------------------------------

    def live_table(self) -> LiveTableReader:
        """The live table."""
        if self._live is None:
            self._live = LiveTableReader(self.paths.live_dir)
        return self._live

    def row(self, meter: str) -> LiveRow:
        """What the live table says of a meter. Raises StoreAwayError before its first reading."""
        live = self.live_table()
        rows = live.rows()
        for listed, row in zip(live.meters, rows, strict=True):
            if listed.meter_id == meter and row is not None:
                return row
        raise StoreAwayError(f"{meter} was not read yet")

    def commands(self, meter: str, action: SwitchAction | None = None) -> list[SwitchCommand]:
        """Switch commands of a meter, oldest first."""
        with reading(self.paths.ledger, LEDGER) as connection:
            found = commands_of(connection, meter, limit=100)
        return [command for command in reversed(found) if action in (None, command.action)]

    def cuts(self, meter: str) -> list[SwitchCommand]:
        """Commands to open, oldest first."""
        return self.commands(meter, SwitchAction.OPEN)

    def finished_cut(self, meter: str, deadline_s: float = DEADLINE_S) -> SwitchCommand:
        """The first command to open, once it is finished."""
        return self.until(
            lambda: next((cut for cut in self.cuts(meter) if cut.state.finished), None),
            f"a finished cut of {meter}",
            deadline_s,
        )

    def transactions(self, account: str) -> list[AccountTransaction]:
        """Everything that happened to an account, oldest first."""
        found: list[AccountTransaction] = []
        with reading(self.paths.ledger, LEDGER) as connection:
            while page := transactions_of(
                connection, account, before_seq=found[-1].seq if found else None, limit=100
            ):
                found += page
        return found[::-1]

    def outcome(self, key: str) -> str | None:
        """How control answered a request; None while it has not."""
        with reading(self.paths.ledger, LEDGER) as connection:
            found = find_outcome(connection, key)
        return None if found is None else found.status.value

    def events(self, kind: str, subject: str | None = None) -> list[StoredEvent]:
        """Events of a kind, newest first."""
        reader = TelemetryReader(self.paths.telemetry_dir)
        found: list[StoredEvent] = []
        before: int | None = None
        while page := reader.events(before_seq=before, limit=100):
            found += page
            before = page[-1].seq
        return [e for e in found if e.kind == kind and subject in (None, e.subject)]

    def verify(self) -> dict[str, Any]:
        """`ledger verify`: must exit 0; what it says."""
        answer = self.cli("ledger", "verify", "--json")
        assert answer.returncode == 0, f"{answer.stdout}{answer.stderr}"
        report = json.loads(answer.stdout)
        assert report["ok"] is True
        return dict(report)


@contextmanager
def closing(site: Gateway) -> Iterator[Gateway]:
    """A site that is closed at the end."""
    try:
        yield site
    finally:
        site.close()
