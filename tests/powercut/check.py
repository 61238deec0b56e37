"""What must be true after a power cut: the real store opens it, nothing confirmed is missing."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from gateway.app.clock import SystemClock
from gateway.app.config import load_config
from gateway.app.stores import create_stores
from gateway.core.errors import GatewayError, RefusedError
from gateway.store.chunks import column_of, unpack_integers
from gateway.store.commands import find_outcomes, open_commands, read_command
from gateway.store.db import Connection, DirectoryOwner, check_whole, open_writer, own_directory
from gateway.store.ledger import LEDGER, ledger_head, read_site, read_transactions
from gateway.store.requests import NORTH, RequestReader, StoredRequest
from gateway.store.state import load_point_states, load_register_state
from gateway.store.telemetry import TelemetryWriter
from gateway.store.telemetry_files import Retention, day_files
from gateway.store.telemetry_reader import TelemetryReader
from gateway.store.verify import verify_ledger
from tests.powercut.workload import (
    CONFIG,
    FAR_MS,
    KEPT_DAYS,
    METERS,
    half_hour,
    happening,
    order,
    posting,
    readings,
    wish,
)


@dataclass
class Confirmed:
    """How far each stream was confirmed, and which days retention may have taken."""

    streams: dict[str, int] = field(default_factory=dict)
    days: dict[int, str] = field(default_factory=dict)
    forgotten: set[str] = field(default_factory=set)

    def take(self, words: Sequence[str]) -> None:
        """Read a mark of the workload."""
        match words:
            case ["confirmed", stream, number]:
                self.streams[stream] = max(self.streams.get(stream, 0), int(number))
            case ["day", number, name]:
                self.days[int(number)] = name
            case ["forget", name]:
                self.forgotten.add(name)

    def of(self, stream: str) -> int:
        """The highest number confirmed; 0 for none."""
        return self.streams.get(stream, 0)

    def may_lack(self, sweep: int) -> bool:
        """Whether the sweep's day was given to retention."""
        return self.days.get(sweep) in self.forgotten


def problems_of(state: Path, confirmed: Confirmed) -> list[str]:
    """Open what the disk held with the real store, as a start does, and compare."""
    if not confirmed.of("creation"):
        return _creation_problems(state)
    try:
        owner = own_directory(state / "control", create=False)
        try:
            requests = _requests(state / "north" / "north.db", confirmed)
            return [
                *requests,
                *_ledger(state, owner, confirmed),
                *_telemetry(state / "control" / "telemetry", owner, confirmed),
            ]
        finally:
            owner.release()
    except (GatewayError, sqlite3.Error, ValueError, AssertionError) as error:
        return [f"{type(error).__name__}: {error}"]


def _creation_problems(state: Path) -> list[str]:
    """A creation that nobody was told of can be repeated, whatever is left of it."""
    path = state.parent / "config.yaml"
    path.write_text(CONFIG.replace("state_dir: state", f"state_dir: {state}"), encoding="utf-8")
    config = load_config(path)
    try:
        # Everything was there already, though it was never told.
        with suppress(RefusedError):
            create_stores(config, SystemClock())
        return problems_of(state, Confirmed({"creation": 1}))
    except GatewayError as error:
        return [f"creation cannot be repeated: {error}"]


def _whole(name: str, found: Sequence[int], confirmed: int) -> list[str]:
    """A stream holds 1, 2, 3 … once each, at least up to what was confirmed."""
    wrong: list[str] = []
    if len(found) < confirmed:
        wrong.append(f"{name}: {confirmed} confirmed, {len(found)} there")
    if list(found) != list(range(1, len(found) + 1)):
        wrong.append(f"{name}: not each once and in order: {list(found)[:50]}")
    return wrong


# -- ledger ----------------------------------------------------------------------------------


def _ledger(state: Path, owner: DirectoryOwner, confirmed: Confirmed) -> list[str]:
    path = state / "control" / "ledger.db"
    with closing(open_writer(path, LEDGER, owner=owner, create=False).connection) as ledger:
        check_whole(ledger, path)
        read_site(ledger)
        wrong = list(verify_ledger(ledger).problems)
        wrong += _postings(ledger, confirmed)
        wrong += _commands(ledger, confirmed)
        wrong += _outcomes(ledger, state / "north" / "north.db", confirmed)
        ledger.execute("BEGIN IMMEDIATE")
        ledger.execute("INSERT INTO balance VALUES ('probe', 0)")
        ledger.execute("COMMIT")
    return wrong


def _postings(ledger: Connection, confirmed: Confirmed) -> list[str]:
    rows = read_transactions(ledger, 1, ledger_head(ledger).seq)
    wrong = _whole("posting", [row.utc_ms for row, _ in rows], confirmed.of("posting"))
    wrong += [
        f"posting {number} has another content"
        for number, (row, _) in enumerate(rows, start=1)
        if row != posting(number, row.request_key)
    ]
    # Written with each posting, so never before or behind the last.
    register = load_register_state(ledger)
    swept = 0 if register is None else register.sequence
    point = load_point_states(ledger).get("flat-0", {"number": 0})["number"]
    if not swept == point == len(rows):
        wrong.append(f"states of posting {swept} and {point} beside {len(rows)} postings")
    return wrong


def _commands(ledger: Connection, confirmed: Confirmed) -> list[str]:
    found = [
        int(row[0])
        for row in ledger.execute("SELECT command_id FROM switch_command ORDER BY number")
    ]
    wrong = _whole("command", found, confirmed.of("command"))
    unfinished = [int(command.command_id) for command in open_commands(ledger)]
    if unfinished and unfinished[0] <= confirmed.of("verified"):
        wrong.append(f"command {unfinished[0]} was verified and is open again")
    for number in found:
        command = read_command(ledger, f"{number:026d}")
        assert command is not None
        if command != replace(order(number, command.state), number=command.number):
            wrong.append(f"command {number} has another content")
    return wrong


def _outcomes(ledger: Connection, north: Path, confirmed: Confirmed) -> list[str]:
    count = ledger.execute("SELECT count(*) FROM outcome").fetchone()[0]
    keys = [f"r-{number}" for number in range(1, count + 1)]
    wrong = _whole(
        "outcome",
        [int(outcome.key[2:]) for outcome in find_outcomes(ledger, keys).values()],
        confirmed.of("outcome"),
    )
    paid = [
        row[0]
        for row in ledger.execute(
            "SELECT request_key FROM ledger_transaction WHERE request_key IS NOT NULL ORDER BY seq"
        )
    ]
    if paid != keys:
        wrong.append(f"outcomes of {len(keys)} requests beside postings of {len(paid)}")
    cursor = ledger.execute("SELECT coalesce(max(request_id), 0) FROM request_cursor").fetchone()
    if cursor[0] != count:
        wrong.append(f"the cursor stands at {cursor[0]}, {count} requests have an outcome")
    with closing(sqlite3.connect(north)) as requests:
        stored = requests.execute("SELECT count(*) FROM request").fetchone()[0]
    if stored < count:
        wrong.append(f"{count} requests executed, {stored} are in north.db")
    return wrong


# -- requests --------------------------------------------------------------------------------


def _requests(path: Path, confirmed: Confirmed) -> list[str]:
    owner = own_directory(path.parent, create=False)
    try:
        with closing(open_writer(path, NORTH, owner=owner, create=False).connection) as north:
            check_whole(north, path)
            reader = RequestReader(path)
            rows = reader.pending(None, limit=10_000).rows
            reader.close()
    finally:
        owner.release()
    wrong = _whole("request", [row.request_id for row in rows], confirmed.of("request"))
    wrong += [
        f"request {row.request_id} has another content"
        for row in rows
        if not isinstance(row, StoredRequest) or row.request != wish(row.request_id)
    ]
    return wrong


# -- telemetry -------------------------------------------------------------------------------


def _telemetry(directory: Path, owner: DirectoryOwner, confirmed: Confirmed) -> list[str]:
    writer = TelemetryWriter(
        directory, METERS, owner=owner, retention=Retention(days=KEPT_DAYS), threaded=False
    )
    try:
        before = [sweep for sweep, _ in _sweeps(directory)]
        writer.fold_all().result()
        wrong = _whole_sweeps(directory, before, confirmed)
        reader = TelemetryReader(directory)
        wrong += _events(reader, confirmed)
        kept = reader.intervals("flat-0", 0, FAR_MS)
        wrong += _whole("half_hour", [item.readings for item in kept], confirmed.of("half_hour"))
        wrong += [
            f"half hour {item.readings} has another content"
            for item in kept
            if item != half_hour(item.readings)
        ]
        if writer.set_aside:
            wrong.append(f"{writer.set_aside} files of telemetry were damaged")
        if writer.dropped_sweeps:
            wrong.append(f"{writer.dropped_sweeps} sweeps were damaged")
    finally:
        for file in (writer._files.staging, *writer._files._open.values()):
            file.connection.close()
    return wrong


def _sweeps(directory: Path) -> list[tuple[int, tuple[int, ...]]]:
    points = TelemetryReader(directory).registers(METERS[0].meter_id, 0, FAR_MS)
    return [(point.sequence, point.energy_wh) for point in points]


def _whole_sweeps(directory: Path, before: Sequence[int], confirmed: Confirmed) -> list[str]:
    found = _sweeps(directory)
    numbers = [number for number, _ in found]
    wrong = [
        f"sweep {number} has another content"
        for number, registers in found
        if registers != readings(number, 0)[0].energy_wh
    ]
    if numbers != list(before):
        wrong.append(f"folding changed the sweeps from {list(before)} to {numbers}")
    last = max([confirmed.of("sweep"), *numbers])
    lost = [
        number
        for number in range(1, last + 1)
        if number not in set(numbers) and not confirmed.may_lack(number)
    ]
    if lost:
        wrong.append(f"sweeps lost: {lost} of {last}")
    rows = 0
    for path in day_files(directory):
        with closing(sqlite3.connect(path)) as day:
            for (body,) in day.execute("SELECT body FROM chunk"):
                rows += unpack_integers(column_of(body, 0), 1)[0]
    if rows != len(METERS) * len(numbers):
        wrong.append(f"{rows} readings of {len(METERS)} meters in {len(numbers)} sweeps")
    return wrong


def _events(reader: TelemetryReader, confirmed: Confirmed) -> list[str]:
    found: list[int] = []
    wrong: list[str] = []
    while page := reader.events_after(found[-1] if found else 0):
        found += [event.seq for event in page]
        for event in page:
            told = happening(event.seq)
            if (event.utc_ms, event.subject, event.body) != (told.utc_ms, told.subject, told.body):
                wrong.append(f"event {event.seq} has another content")
    return wrong + _whole("event", found, confirmed.of("event"))
