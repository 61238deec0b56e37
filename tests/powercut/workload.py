"""The process whose power is cut: real writers of ledger, requests and telemetry, by a seed.

`python -m tests.powercut.workload DIRECTORY SEED LIFE [MUTANT]` under the recorder. Everything it
writes can be computed from its number, and each stream is numbered without gaps, so that a check
needs to know only how far each had been confirmed. What is confirmed is told to the recorder as a
mark, `confirmed STREAM NUMBER`. The order of calls depends on the seed alone: operations are
gathered behind one that waits, so that a group is always the same group.
"""

import ctypes
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from random import Random
from threading import Event as Gate
from typing import Final

from gateway.app.clock import SystemClock
from gateway.app.config import load_config
from gateway.app.stores import create_stores
from gateway.core.interval import Interval
from gateway.core.ledger import Transaction
from gateway.core.requests import Outcome, OutcomeStatus, Recharge, Request, Role
from gateway.store import db
from gateway.store.commands import (
    CommandState,
    RequestCursor,
    SwitchAction,
    SwitchCommand,
    load_request_cursor,
    open_commands,
    put_switch_command,
    record_outcome,
    save_request_cursor,
)
from gateway.store.db import Connection, DirectoryOwner, StoreFile, open_writer, own_directory
from gateway.store.ledger import LEDGER, append_transaction, ledger_head
from gateway.store.live import LiveMeter
from gateway.store.requests import NORTH, RequestReader, StoredRequest, insert_request
from gateway.store.state import save_point_states, save_register_state
from gateway.store.telemetry import Event, MeterReading, TelemetryWriter
from gateway.store.telemetry_files import Retention, day_files, day_name
from gateway.store.telemetry_reader import TelemetryReader
from gateway.store.writer import GroupCommitWriter, Operation
from tests.store.store_files import line, recharge, settlement

CONFIG: Final = """\
site: {id: palm, name: Palm, timezone: Asia/Kolkata, currency: INR}
state_dir: state
runtime_dir: run
meters:
  - {id: flat-0, model: pac3220, host: 127.0.0.1}
"""
ACCOUNTS: Final = 4
NAMES: Final = ("voltage_l1_n_v", "power_w")
METERS: Final = tuple(LiveMeter(f"flat-{number}", NAMES) for number in range(3))
NOON_MS: Final = 1_795_176_000_000
DAY_MS: Final = 86_400_000
HALF_HOUR_MS: Final = 1_800_000
KEPT_DAYS: Final = 2
FAR_MS: Final = NOON_MS + 1_000 * DAY_MS
_DEADLINE_S: Final = 60.0


# -- what stands under a number --------------------------------------------------------------


def posting(number: int, request_key: str | None = None) -> Transaction:
    """The transaction of a number: every third settles energy, the others bring money."""
    if number % 3 == 0:
        account, turn = number // 3 % ACCOUNTS, number // 3 // ACCOUNTS
        return settlement(line(f"flat-{account}", 10 * turn, 10 * turn + 10), utc_ms=number)
    account = number % ACCOUNTS
    return recharge(f"flat-{account}", 10**9 + number, key=request_key, utc_ms=number)


def wish(number: int) -> Request:
    """The request of a number."""
    return Request(
        key=f"r-{number}",
        body=Recharge(account_id=f"flat-{number % ACCOUNTS}", amount_nano=10**9 + number),
        actor="cashier",
        role=Role.OPERATOR,
        source="http",
        approver=None,
        created_utc_ms=NOON_MS + number,
        expires_utc_ms=None,
    )


def order(number: int, state: CommandState) -> SwitchCommand:
    """The switch command of a number."""
    return SwitchCommand(
        command_id=f"{number:026d}",
        service_point_id=f"flat-{number % ACCOUNTS}",
        meter_id=f"flat-{number % ACCOUNTS}",
        action=SwitchAction.OPEN,
        reason="CREDIT",
        issued_utc_ms=NOON_MS + number,
        state=state,
        finished_utc_ms=NOON_MS + number + 1 if state.finished else None,
    )


def readings(number: int, utc_ms: int) -> list[MeterReading]:
    """The sweep of a number."""
    return [
        MeterReading(meter, utc_ms + meter, number, (10**6 + number, meter), (230.0, number))
        for meter in range(len(METERS))
    ]


def half_hour(number: int) -> Interval:
    """The half hour of a number."""
    start_ms = NOON_MS + number * HALF_HOUR_MS
    return Interval(start_ms, start_ms + HALF_HOUR_MS, (number,), 1.0, number, estimated=False)


def happening(number: int) -> Event:
    """The event of a number."""
    return Event(NOON_MS + number, "tried", f"flat-{number}", "note", {"number": number})


# -- the process -----------------------------------------------------------------------------


class Gateway:
    """The writers of one life. `mutant` names what it does wrongly on purpose."""

    def __init__(self, directory: Path, seed: Random, mark: Callable[[str], None], mutant: str):
        self._state = directory / "state"
        self._seed = seed
        self._mark = mark
        self._mutant = mutant
        self._checkpoint_pages = seed.choice((1000, 4, 16, 64))
        self._fold_sweeps = seed.choice((2, 5))
        self._open()

    # -- opening ---------------------------------------------------------------------------

    def _open(self) -> None:
        self._owner = own_directory(self._state / "control", create=False)
        self._ledger_file = self._opened(self._state / "control" / "ledger.db", self._owner)
        self._north_owner = own_directory(self._state / "north", create=False)
        self._north_file = self._opened(self._state / "north" / "north.db", self._north_owner)
        self._telemetry = TelemetryWriter(
            self._state / "control" / "telemetry",
            METERS,
            owner=self._owner,
            retention=Retention(days=KEPT_DAYS),
            fold_sweeps=self._fold_sweeps,
        )
        self._tune(self._telemetry._files.staging.connection)
        self._reader = RequestReader(self._north_file.path)
        self._look()
        self._ledger = GroupCommitWriter(self._ledger_file)
        self._north = GroupCommitWriter(self._north_file)
        # Orders of a life that was killed between intent and proof.
        for command in open_commands(self._ledger_file.connection):
            proved = order(int(command.command_id), CommandState.VERIFIED)
            self._ledger.submit(_put(proved)).result(_DEADLINE_S)

    def _opened(self, path: Path, owner: DirectoryOwner) -> StoreFile:
        schema = LEDGER if path.name == "ledger.db" else NORTH
        file = open_writer(path, schema, owner=owner, create=False)
        self._tune(file.connection)
        return file

    def _tune(self, connection: Connection) -> None:
        # Checkpoints come often, so that short recordings hold many.
        connection.execute(f"PRAGMA wal_autocheckpoint={self._checkpoint_pages}")
        if self._mutant == "normal":
            connection.execute("PRAGMA synchronous=NORMAL")

    def _look(self) -> None:
        """Go on where the files stand. What was found is used from now on: it is confirmed."""
        ledger, north = self._ledger_file.connection, self._north_file.connection
        self.acts = ledger_head(ledger).seq
        self.commands = _count(ledger, "switch_command")
        self.executed = _count(ledger, "outcome")
        self.wishes = _count(north, "request")
        self._cursor = load_request_cursor(ledger)
        reader = TelemetryReader(self._state / "control" / "telemetry")
        points = reader.registers(METERS[0].meter_id, 0, FAR_MS)
        self.sweeps = max((point.sequence for point in points), default=0)
        newest_ms = max((point.utc_ms for point in points), default=NOON_MS)
        self._day = (newest_ms - NOON_MS) // DAY_MS
        self.events = self._telemetry._counters["event"]
        self.half_hours = self._telemetry._counters["interval"]
        for stream, number in (
            ("posting", self.acts),
            ("command", self.commands),
            ("outcome", self.executed),
            ("request", self.wishes),
            ("sweep", self.sweeps),
            ("event", self.events),
            ("half_hour", self.half_hours),
        ):
            self._confirm(stream, number)

    def close(self) -> None:
        """A clean stop."""
        for writer in (self._ledger, self._north):
            writer.close(_DEADLINE_S)
        self._telemetry.close(_DEADLINE_S)
        self._reader.close()
        for file in (self._ledger_file, self._north_file):
            file.stop()
        self._owner.release()
        self._north_owner.release()

    # -- steps -----------------------------------------------------------------------------

    def step(self) -> None:
        """Do one thing of those that a gateway does."""
        steps = (
            (8, self._post),
            (4, self._switch),
            (6, self._wish),
            (6, self._execute),
            (8, self._sweep),
            (4, self._fold),
            (2, self._tell),
            (2, self._end_half_hours),
            (2, self._midnight),
            (1, self._retain),
            (1, self._restart),
        )
        weights, acts = zip(*steps, strict=True)
        self._seed.choices(acts, weights)[0]()

    def _post(self) -> None:
        numbers = self._next("acts", 5)
        self._group(self._ledger, [_post(number, None) for number in numbers], "posting", numbers)

    def _switch(self) -> None:
        numbers = self._next("commands", 3)
        for state in (CommandState.SENT, CommandState.VERIFIED):
            operations = [_put(order(number, state)) for number in numbers]
            stream = "command" if state is CommandState.SENT else "verified"
            self._group(self._ledger, operations, stream, numbers)

    def _wish(self) -> None:
        numbers = self._next("wishes", 4)
        operations = [_insert(wish(number)) for number in numbers]
        self._group(self._north, operations, "request", numbers)

    def _execute(self) -> None:
        batch = self._reader.pending(self._cursor)
        operations: list[Operation[None]] = []
        executed: list[int] = []
        for row in batch.rows:
            assert isinstance(row, StoredRequest)
            self.acts += 1
            if self.acts % 3 == 0:
                # This number settles energy; money waits for the next.
                operations.append(_post(self.acts, None))
                self.acts += 1
            cursor = RequestCursor(batch.cursor.epoch, row.request_id)
            executed.append(row.request_id)
            if self._mutant == "split":
                operations += [_outcome(row.request_id, cursor), _gap, _post(self.acts, row)]
            else:
                operations.append(_execute(self.acts, row, cursor))
        if operations and self._mutant == "split":
            for operation in operations:
                self._ledger.submit(operation).result(_DEADLINE_S)
            self._confirm("outcome", executed[-1])
        elif operations:
            self._group(self._ledger, operations, "outcome", executed)
        if operations:
            self._confirm("posting", self.acts)
            self._cursor = batch.cursor
            self.executed = executed[-1]

    def _sweep(self) -> None:
        for number in self._next("sweeps", 4):
            utc_ms = NOON_MS + self._day * DAY_MS + number * 1000
            self._mark(f"day {number} {day_name(utc_ms)}")
            self._wait(
                "sweep", number, self._telemetry.stage_sweep(utc_ms, readings(number, utc_ms))
            )

    def _fold(self) -> None:
        folding = self._seed.choice((self._telemetry.fold, self._telemetry.fold_all))
        folding().result(_DEADLINE_S)

    def _tell(self) -> None:
        numbers = self._next("events", 3)
        told = self._telemetry.add_events([happening(number) for number in numbers])
        self._wait("event", numbers[-1], told)

    def _end_half_hours(self) -> None:
        numbers = self._next("half_hours", 3)
        kept = self._telemetry.add_intervals([("flat-0", half_hour(n)) for n in numbers])
        self._wait("half_hour", numbers[-1], kept)

    def _midnight(self) -> None:
        self._day += 1

    def _retain(self) -> None:
        names = [path.name for path in day_files(self._state / "control" / "telemetry")]
        for name in names[:-KEPT_DAYS]:
            self._mark(f"forget {name}")
        self._telemetry.retain().result(_DEADLINE_S)

    def _restart(self) -> None:
        self.close()
        self._open()

    # -- waiting and telling -----------------------------------------------------------------

    def _next(self, stream: str, most: int) -> list[int]:
        done: int = getattr(self, stream)
        count = self._seed.randint(1, most)
        setattr(self, stream, done + count)
        return list(range(done + 1, done + count + 1))

    def _group(
        self,
        writer: GroupCommitWriter,
        operations: Sequence[Operation[None]],
        stream: str,
        numbers: Sequence[int],
    ) -> None:
        """Run operations in one transaction."""
        gate, running = Gate(), Gate()

        def hold(_: Connection) -> None:
            running.set()
            gate.wait(_DEADLINE_S)

        held = writer.submit(hold)
        running.wait(_DEADLINE_S)
        futures = [writer.submit(operation) for operation in operations]
        if self._mutant == "early":
            self._confirm(stream, numbers[-1])
        gate.set()
        for future in (held, *futures):
            future.result(_DEADLINE_S)
        self._confirm(stream, numbers[-1])

    def _wait(self, stream: str, number: int, future: "Future[int] | Future[None]") -> None:
        future.result(_DEADLINE_S)
        self._confirm(stream, number)

    def _confirm(self, stream: str, number: int) -> None:
        if number:
            self._mark(f"confirmed {stream} {number}")


def _count(connection: Connection, table: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608


def _post(number: int, row: StoredRequest | None) -> Operation[None]:
    transaction = posting(number, row.request.key if row else None)

    def operate(connection: Connection) -> None:
        assert append_transaction(connection, transaction) == number
        save_register_state(connection, utc_ms=number, sequence=number, body={"number": number})
        save_point_states(connection, {"flat-0": {"number": number}})

    return operate


def _outcome(number: int, cursor: RequestCursor) -> Operation[None]:
    outcome = Outcome(
        key=f"r-{number}",
        type=Recharge.TYPE,
        body_hash="0" * 64,
        status=OutcomeStatus.EXECUTED,
        code="",
        message="",
        result={},
        utc_ms=number,
    )

    def operate(connection: Connection) -> None:
        record_outcome(connection, outcome)
        save_request_cursor(connection, cursor)

    return operate


def _gap(_: Connection) -> None:
    """Nothing: a transaction of its own between two that belong together."""


def _execute(number: int, row: StoredRequest, cursor: RequestCursor) -> Operation[None]:
    post, conclude = _post(number, row), _outcome(row.request_id, cursor)

    def operate(connection: Connection) -> None:
        post(connection)
        conclude(connection)

    return operate


def _put(command: SwitchCommand) -> Operation[None]:
    return lambda connection: put_switch_command(connection, command)


def _insert(request: Request) -> Operation[None]:
    def operate(connection: Connection) -> None:
        insert_request(connection, request)

    return operate


def _believe(path: Path) -> None:
    """Instead of `_sync_left`: a mutant."""


def main(directory: Path, seed: int, life: int, mutant: str) -> None:
    """One life: create the stores in the first, go on in the others."""
    library = ctypes.CDLL(None)

    def mark(text: str) -> None:
        library.powercut_mark(text.encode())

    chance = Random(f"{seed} {life}")
    if mutant == "trusting":
        db._sync_left = _believe
    if life == 0:
        path = directory / "config.yaml"
        path.write_text(CONFIG, encoding="utf-8")
        create_stores(load_config(path), SystemClock())
        mark("confirmed creation 1")
    gateway = Gateway(directory, chance, mark, mutant)
    for _ in range(chance.randint(25, 60)):
        gateway.step()
    if chance.random() < 0.5:
        gateway.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
