"""The simulator's control socket: JSON lines over a Unix socket, one request, one answer.

    {"command": "fault", "meter": "flat-101", "kind": "silent", "count": 3}
    {"ok": true}
    {"ok": false, "code": "METER_UNKNOWN", "message": "no simulated meter 'flat-999'"}

It bends meters, so only the owner's processes may use it (mode 0600).
"""

import asyncio
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import orjson

from gateway.core.clock import Clock
from gateway.core.errors import ConfigurationError, RefusedError
from gateway.sim.faults import FAULTS, FaultKind, fault_named
from gateway.sim.loads import Random
from gateway.sim.site import Customer, Site, SiteOptions

Answer = dict[str, object]
Request = Mapping[str, object]
T = TypeVar("T")

LINE_BYTES = 65_536
MAX_CLIENTS = 16
ANSWER_BYTES = 16 * 1024 * 1024  # `list` of the largest site
IDLE_S = 60.0  # real seconds: a client that says nothing gives its place to others
SEND_S = 5.0
MAX_LOAD_W = 1_000_000
REGISTERS = {"total": None, "t1": 0, "t2": 1}
GENERATOR = {"on": True, "off": False, "auto": None}


# --- reading a request ---------------------------------------------------------------------------


def _text(request: Request, key: str) -> str:
    """A text of the request. Raises RefusedError ARGUMENT where it is missing."""
    value = request.get(key)
    if not isinstance(value, str):
        raise RefusedError("ARGUMENT", f"{key} must be a text", key)
    return value


def _number(request: Request, key: str, low: float, high: float) -> float:
    """A number of the request. Raises RefusedError ARGUMENT outside its range."""
    value = request.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise RefusedError("ARGUMENT", f"{key} must be a number from {low:g} to {high:g}", key)
    return value


def _optional(request: Request, key: str) -> float | None:
    """A number of the request, None where it is not given."""
    return None if request.get(key) is None else _number(request, key, -1e15, 1e15)


def _whole(request: Request, key: str) -> int | None:
    """A whole number of the request, None where it is not given."""
    value = _optional(request, key)
    if value is not None and value != int(value):
        raise RefusedError("ARGUMENT", f"{key} must be a whole number", key)
    return None if value is None else int(value)


def _choice(request: Request, key: str, choices: Mapping[str, T], default: str = "") -> T:
    """One of some words. Raises RefusedError ARGUMENT for another, naming them."""
    word = request.get(key, default)
    if not isinstance(word, str) or word not in choices:
        raise RefusedError("ARGUMENT", f"{key} must be one of {', '.join(choices)}", key)
    return choices[word]


# --- commands ------------------------------------------------------------------------------------


def _row(site: Site, customer: Customer) -> Answer:
    """What `list` says of one customer."""
    meter, now_s = customer.meter, site.now_s()
    meter.advance(now_s)
    return {
        "id": customer.id,
        "host": customer.port.host,
        "port": customer.port.port,
        "profile": customer.profile.name,
        "feeder": customer.feeder,
        "p_max_w": customer.p_max_w,
        "power_w": meter.track.power_w(now_s),
        "demand_w": meter.track.last.curve.power_w(now_s),
        "true_wh": meter.track.total_wh(now_s),
        "contactor_closed": meter.contactor.closed,
        "reach": customer.port.reach,
        "faults": meter.faults.names(),
    }


async def _list(site: Site, _: Request) -> Answer:
    """list: every meter."""
    return {"meters": [_row(site, customer) for customer in site.customers()]}


async def _state(site: Site, request: Request) -> Answer:
    """state METER: what it shows and what is true."""
    customer = site.customer(_text(request, "meter"))
    row = _row(site, customer)
    meter, now_s = customer.meter, site.now_s()
    totals = meter.counters.totals(meter.counters.refreshed_s(now_s))
    first, second = meter.track.energy(now_s)
    return {
        **row,
        "utc_ms": site.utc_ms(now_s),
        "register_t1_wh": totals[0],
        "register_t2_wh": totals[1],
        "true_t1_wh": first.active_wh,
        "true_t2_wh": second.active_wh,
        "outputs": meter.outputs(0),
        "inputs": meter.inputs,
        "tariff": meter.tariff,
        "diagnostics": meter.diagnostics,
        "powered": meter.powered,
        "generator": site.generator_running,
        "connections": customer.port.connections,
        "answered": customer.port.answered,
        "turned_away": customer.port.turned_away,
    }


async def _fault(site: Site, request: Request) -> Answer:
    """fault METER KIND [amount] [rate] [count] [function]: put a fault in force."""
    rate = _optional(request, "rate")
    fault = fault_named(
        _text(request, "kind"),
        amount=_optional(request, "amount"),
        rate=1.0 if rate is None else rate,
        count=_whole(request, "count"),
        function=_whole(request, "function"),
    )
    await site.add_fault(_text(request, "meter"), fault)
    return {}


async def _clear(site: Site, request: Request) -> Answer:
    """clear METER [KIND]: end one fault or all."""
    kinds = {kind.value: kind for kind in FaultKind}
    kind = _choice(request, "kind", kinds) if "kind" in request else None
    await site.clear_faults(_text(request, "meter"), kind)
    return {}


async def _faults(_: Site, __: Request) -> Answer:
    """faults: what can be put in force, and what its amount means."""
    return {
        "faults": [
            {
                "kind": kind,
                "layer": rule.layer,
                "meaning": rule.meaning,
                "amount": rule.amount,
                "unit": rule.unit,
            }
            for kind, rule in FAULTS.items()
        ]
    }


async def _power_cut(site: Site, request: Request) -> Answer:
    """power_cut METER: mains and meter go dark."""
    await site.cut_power(_text(request, "meter"))
    return {}


async def _restore(site: Site, request: Request) -> Answer:
    """restore METER: the mains come back, the meter starts."""
    await site.restore_power(_text(request, "meter"))
    return {}


async def _restart(site: Site, request: Request) -> Answer:
    """restart METER: the meter starts anew, counters saved."""
    await site.restart(_text(request, "meter"))
    return {}


async def _crossing(site: Site, request: Request) -> Answer:
    """crossing METER energy_wh [register total|t1|t2]: when the true energy reached it."""
    energy_wh = _number(request, "energy_wh", 0, 1e15)
    register = _choice(request, "register", REGISTERS, "total")
    return {"utc_ms": site.crossing_utc_ms(_text(request, "meter"), energy_wh, register)}


async def _openings(site: Site, request: Request) -> Answer:
    """openings METER: every cut, from the output and from the contacts."""
    openings = site.openings(_text(request, "meter"))
    return {
        "openings": [
            {
                "utc_ms": site.utc_ms(cut.output_s),
                "true_wh": cut.output_wh,
                "contactor_utc_ms": (
                    None if cut.contactor_s is None else site.utc_ms(cut.contactor_s)
                ),
                "contactor_true_wh": cut.contactor_wh,
            }
            for cut in openings
        ]
    }


async def _generator(site: Site, request: Request) -> Answer:
    """generator on|off|auto: start or stop it by hand, or leave it to its hours."""
    site.set_generator(running=_choice(request, "state", GENERATOR))
    return {"running": site.generator_running}


async def _load(site: Site, request: Request) -> Answer:
    """load METER power_w: a constant load in place of the customer's own."""
    site.set_load(_text(request, "meter"), _number(request, "power_w", 0, MAX_LOAD_W))
    return {}


async def _setting(site: Site, request: Request) -> Answer:
    """setting METER address value: a parameter, as by the keys of the meter."""
    address, value = _whole(request, "address"), _whole(request, "value")
    if address is None or value is None:
        raise RefusedError("ARGUMENT", "address and value are needed")
    site.set_setting(_text(request, "meter"), address, value)
    return {}


async def _swap(site: Site, request: Request) -> Answer:
    """swap METER other: the network cables of two meters are exchanged."""
    await site.exchange_cables(_text(request, "meter"), _text(request, "other"))
    return {}


async def _meters_csv(site: Site, _: Request) -> Answer:
    """meters_csv: the meters as a file for the gateway."""
    return {"csv": site.meters_csv()}


COMMANDS: dict[str, Callable[[Site, Request], Awaitable[Answer]]] = {
    "list": _list,
    "state": _state,
    "fault": _fault,
    "faults": _faults,
    "clear": _clear,
    "power_cut": _power_cut,
    "restore": _restore,
    "restart": _restart,
    "crossing": _crossing,
    "openings": _openings,
    "generator": _generator,
    "load": _load,
    "setting": _setting,
    "swap": _swap,
    "meters_csv": _meters_csv,
}


async def execute(site: Site, line: bytes) -> Answer:
    """Carry out one request line; a refusal is an answer too."""
    try:
        request = _parse(line)
        command = _choice(request, "command", COMMANDS)
        return {"ok": True, **await command(site, request)}
    except RefusedError as refusal:
        return {"ok": False, "code": refusal.refusal_code, "message": refusal.message}
    except ConfigurationError as error:  # the address was taken while the meter was away
        return {"ok": False, "code": error.code, "message": str(error)}


def _parse(line: bytes) -> Request:
    """A request line as an object. Raises RefusedError ARGUMENT where it is none."""
    try:
        request = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise RefusedError("ARGUMENT", f"not JSON: {error}") from None
    if not isinstance(request, dict):
        raise RefusedError("ARGUMENT", "a request is a JSON object")
    return request


# --- the socket ----------------------------------------------------------------------------------


class ControlServer:
    """The control socket of a site, owned by one user."""

    def __init__(self, site: Site, path: Path) -> None:
        self._site = site
        self._path = path
        self._clients = 0
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Begin to listen. Raises ConfigurationError where the path cannot be had."""
        listener = _private_listener(self._path)
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=LINE_BYTES)

    async def close(self) -> None:
        """Stop listening and remove the path."""
        if self._server is not None:
            self._server.close()
            self._server = None
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one client until it leaves, falls silent or sends a line that is too long."""
        if self._clients >= MAX_CLIENTS:
            writer.close()
            return
        self._clients += 1
        try:
            with suppress(TimeoutError, ConnectionError, ValueError):
                while line := await asyncio.wait_for(reader.readline(), IDLE_S):
                    answer = await execute(self._site, line)
                    writer.write(orjson.dumps(answer) + b"\n")
                    await asyncio.wait_for(writer.drain(), SEND_S)
        finally:
            self._clients -= 1
            writer.close()


def _private_listener(path: Path) -> socket.socket:
    """A listening Unix socket that only its owner may open.

    A path that a dead simulator left behind is taken over; one where somebody answers is not.
    Raises ConfigurationError.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old_mask = os.umask(0o177)
    try:
        _remove_stale(path)
        listener.bind(str(path))
        listener.listen(MAX_CLIENTS)
        listener.settimeout(0)
    except OSError as error:
        listener.close()
        problem = f"simulation.control_socket: {path}: {error.strerror or error}"
        raise ConfigurationError((problem,)) from error
    finally:
        os.umask(old_mask)
    return listener


def _remove_stale(path: Path) -> None:
    """Remove a socket at `path` that nobody serves. Raises OSError where somebody does."""
    if not path.exists() or not stat.S_ISSOCK(path.stat().st_mode):
        return  # bind refuses a path that is something else
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        if probe.connect_ex(str(path)) == 0:
            raise OSError(0, "another simulator answers there")
    path.unlink()


async def serve(
    options: SiteOptions,
    clock: Clock,
    stop: asyncio.Event,
    *,
    seeded: Callable[[int], Random],
    ready: asyncio.Event | None = None,
) -> None:
    """Simulate a site until `stop` is set; the entry of `prepaid-gateway simulate`.

    `seeded` makes a random generator from a seed. `ready`, where given, is set once every meter
    and the control socket answer. Raises ConfigurationError where an address or path cannot be had.
    """
    site = Site(options, clock, seeded)
    control = (
        None if options.control_socket is None else ControlServer(site, options.control_socket)
    )
    try:
        if control is not None:
            await control.open()
        await site.run(ready if ready is not None else asyncio.Event(), stop)
    finally:
        if control is not None:
            await control.close()


async def ask(path: Path, command: str, *, timeout_s: float = 2.0, **arguments: object) -> Answer:
    """Send one command to a simulator and return its answer without `ok`.

    Raises RefusedError with the simulator's code, or SIMULATOR_AWAY where nobody answers in time.
    """
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_unix_connection(str(path), limit=ANSWER_BYTES)
            try:
                writer.write(orjson.dumps({"command": command, **arguments}) + b"\n")
                await writer.drain()
                line = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError) as error:
        raise RefusedError("SIMULATOR_AWAY", f"no simulator answers at {path}: {error}") from error
    if not line:
        raise RefusedError("SIMULATOR_AWAY", f"the simulator at {path} hung up")
    answer = orjson.loads(line)
    if not answer.pop("ok"):
        raise RefusedError(answer["code"], answer["message"])
    return dict(answer)
