"""A small real site for tests: real files, a real live table, and who executes requests.

`Executor` does what control does with requests, by the store's and core's own functions, on a
thread of its own; there is no meter behind it, so a switch is proved at once.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from zoneinfo import ZoneInfo

from ulid import ULID

from gateway.app.control.till import CounterRules, Till
from gateway.core.errors import RefusedError, StoreAwayError
from gateway.core.guard import RegisterGuard
from gateway.core.ledger import (
    Entry,
    Transaction,
    TransactionKind,
    cash,
    reversal_of,
    wallet,
)
from gateway.core.masscut import MassCutBreaker, MassCutLimits
from gateway.core.money import Currency
from gateway.core.reading import Quality
from gateway.core.requests import (
    AcknowledgeChanges,
    Body,
    CommissionPoint,
    ConfirmClock,
    ConfirmReconnect,
    DecideTariff,
    Disconnect,
    OpenAccount,
    Outcome,
    OutcomeStatus,
    PublishTariff,
    Recharge,
    Reconnect,
    ReleaseHalt,
    ReleaseQuarantine,
    ReleaseRecovery,
    ReplaceMeter,
    Request,
    ReverseTransaction,
    body_hash,
    check_role,
)
from gateway.core.switching import ControlState, Reason
from gateway.north.context import Listen, MeterEntry, NorthSettings
from gateway.store.commands import (
    CommandState,
    RequestCursor,
    SwitchAction,
    SwitchCommand,
    find_outcome,
    put_switch_command,
    record_outcome,
)
from gateway.store.db import Connection, StoreFile, open_writer, own_directory
from gateway.store.ledger import (
    LEDGER,
    Site,
    append_transaction,
    create_site,
    read_balance,
    read_transaction,
)
from gateway.store.live import LiveMeter, LiveRow, LiveTableWriter
from gateway.store.recovery import release_recovery
from gateway.store.registry import (
    Account,
    ServicePoint,
    TariffVersion,
    commission_point,
    open_account,
    publish_tariff,
    put_service_point,
    read_account,
    read_tariff,
)
from gateway.store.requests import RequestReader, StoredRequest
from gateway.store.writer import GroupCommitWriter
from tests.north.clocks import RealClock
from tests.north.small_counter import AT_COUNTER, at_counter
from tests.north.small_load import LOAD_BODIES, execute_load
from tests.north.small_tariffs import decide, publish

INR = Currency("INR")
NAMES = ("AcActivePowerTotal", "AcVoltageL1N", "AcCurrentL1")
UNITS = {"AcActivePowerTotal": "W", "AcVoltageL1N": "V", "AcCurrentL1": "A"}
METERS = ("flat-1", "flat-2", "flat-3")


def settings_of(state: Path, *, meters: tuple[str, ...] = METERS) -> NorthSettings:
    """Settings of a site whose files lie under `state`, listening on a free loopback port."""
    return NorthSettings(
        site_id="palm-court",
        currency=INR,
        ledger_path=state / "control" / "ledger.db",
        telemetry_dir=state / "control" / "telemetry",
        live_dir=state / "run",
        north_dir=state / "north",
        socket_path=state / "north.sock",
        listen=(Listen("127.0.0.1", 0),),
        meters=tuple(
            MeterEntry(name, name, name, f"Flat {name}", "pac3220", "riser-a", 1.0, UNITS)
            for name in meters
        ),
    )


def reading_of(sequence: int, utc_ms: int) -> LiveRow:
    """A good reading of a meter that is connected and drawing power."""
    return LiveRow(
        sequence=sequence,
        utc_ms=utc_ms,
        energy_wh=(12_000 + sequence, 500),
        available_nano=90_250_000_000,
        posted_nano=91_000_000_000,
        quality=Quality.GOOD,
        output_closed=True,
        power_w=1234.5,
        voltage_v=230.0,
        current_a=5.4,
        values=(1234.5, 230.0, float("nan")),
    )


@dataclass
class Ledger:
    """The open ledger file and its writer."""

    file: StoreFile
    writer: GroupCommitWriter

    def write(self, operation: Callable[[Connection], object]) -> object:
        """Commit an operation; its result."""
        return self.writer.submit(operation).result(timeout=10)


# What `_decide` carries out.
Decision = (
    CommissionPoint
    | ReleaseHalt
    | ReleaseRecovery
    | ReleaseQuarantine
    | ReplaceMeter
    | ConfirmClock
    | AcknowledgeChanges
)


class Executor:
    """Executes requests exactly once and keeps the live table alive, as control does.

    `rows` are the live rows by index; tests change them through `show`. `guards` judge registers
    by meter id, `breaker` halts cuts, `clock_reasons` is what persons said about the clock. With a
    `min_off_s` a reconnection waits so long, then for a confirmation, and then `turn_s`.
    """

    def __init__(self, settings: NorthSettings, *, beats: bool = True) -> None:
        self._settings = settings
        directory = settings.ledger_path.parent
        self.owner = own_directory(directory, create=True)
        created = not settings.ledger_path.exists()
        file = open_writer(settings.ledger_path, LEDGER, owner=self.owner, create=True)
        self.ledger = Ledger(file, GroupCommitWriter(file))
        if created:
            self.ledger.write(self._create)
        settings.live_dir.mkdir(exist_ok=True)
        self._clock = RealClock()
        self._live_lock = threading.Lock()
        self._live = LiveTableWriter(
            settings.live_dir,
            [LiveMeter(entry.meter_id, NAMES) for entry in settings.meters],
            str(ULID()),
        )
        self.rows = [reading_of(1, self._clock.utc_ms()) for _ in settings.meters]
        self.guards = {entry.meter_id: RegisterGuard(p_max_w=7_360) for entry in settings.meters}
        self.breaker = MassCutBreaker(MassCutLimits())
        self.clock_reasons: list[str] = []
        self.till = Till(CounterRules(ZoneInfo("Asia/Kolkata")), settings.currency)
        self.min_off_s = 0.0
        self.turn_s = 0.0
        self._later: list[tuple[int, Callable[[], object]]] = []
        self._beats = beats
        self._cursor: RequestCursor | None = None
        self._stopping = threading.Event()
        self.paused = threading.Event()
        self.executed = 0
        self.show(0)
        self._thread = threading.Thread(target=self._run, name="executor", daemon=True)

    def start(self) -> "Executor":
        """Begin to execute."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop executing and let go of the files."""
        self._stopping.set()
        self._thread.join(10)
        self.ledger.writer.close(10)
        self.ledger.file.stop()
        self.owner.release()
        self._live.close()

    def show(self, index: int, row: LiveRow | None = None) -> None:
        """Write a meter's live row (all of them when no row is given)."""
        with self._live_lock:
            if row is not None:
                self.rows[index] = row
            for at, current in enumerate(self.rows):
                self._live.write(at, current)

    def post(self, account_id: str, amount_nano: int, kind: TransactionKind) -> int:
        """Append a transaction to an account, as a posting round does."""
        transaction = Transaction(
            kind=kind,
            utc_ms=self._clock.utc_ms(),
            entries=(
                Entry(wallet(account_id), amount_nano),
                Entry("income:energy:grid", -amount_nano),
            ),
            account_id=account_id,
        )
        seq = self.ledger.write(lambda connection: append_transaction(connection, transaction))
        assert isinstance(seq, int)
        return seq

    def hold(self, meter_id: str) -> None:
        """Let a meter's register jump by 90,000 Wh within a second: held for a person."""
        guard = self.guards[meter_id]
        guard.check(1, 0, (10_000, 500))
        guard.check(2, 1_000_000_000, (100_000, 500))

    def _create(self, connection: Connection) -> None:
        now = time.time_ns() // 1_000_000
        create_site(connection, Site("palm-court", "INR", 9, 2, "Asia/Kolkata", now), str(ULID()))
        for entry in self._settings.meters:
            put_service_point(connection, ServicePoint(entry.service_point_id, entry.label))
        document = {"id": "home", "currency": "INR", "grid": {"price": "8.00"}}
        publish_tariff(connection, TariffVersion("home", 1, now, document, now, "init"))
        open_account(connection, Account("flat-1", "Asha", "flat-1", "home", now))

    def _run(self) -> None:
        reader = RequestReader(self._settings.north_path)
        rounds = 0
        while not self._stopping.wait(0.01):
            if self.paused.is_set():
                continue
            rounds += 1
            self._sweep(poll=rounds % 30 == 0)
            try:
                if reader.changed():
                    self._execute_pending(reader)
            except StoreAwayError:
                continue
        reader.close()

    def _sweep(self, *, poll: bool) -> None:
        now = self._clock.utc_ms()
        if poll:
            for index, row in enumerate(self.rows):
                self.show(index, replace(row, sequence=row.sequence + 1, utc_ms=now))
        due = [deed for utc_ms, deed in self._later if now >= utc_ms]
        self._later = [(utc_ms, deed) for utc_ms, deed in self._later if now < utc_ms]
        for deed in due:
            deed()
        if self._beats:
            with self._live_lock:
                self._live.beat(now)

    def _execute_pending(self, reader: RequestReader) -> None:
        more = True
        while more:
            batch = reader.pending(self._cursor)
            for row in batch.rows:
                if isinstance(row, StoredRequest):
                    self.ledger.write(partial(self._once, request=row.request))
            self._cursor, more = batch.cursor, batch.more

    def _once(self, connection: Connection, request: Request) -> None:
        if find_outcome(connection, request.key) is not None:
            return
        now = self._clock.utc_ms()
        status, code, message, result = OutcomeStatus.EXECUTED, "", "", {}
        place = ""
        connection.execute("SAVEPOINT wish")
        try:
            check_role(request.body, request.role)
            if request.expires_utc_ms is not None and now > request.expires_utc_ms:
                status = OutcomeStatus.EXPIRED
            else:
                result = self._execute(connection, request, request.body, now)
        except RefusedError as error:
            connection.execute("ROLLBACK TO wish")
            status, code, message = OutcomeStatus.REFUSED, error.refusal_code, error.message
            place = error.place
        connection.execute("RELEASE wish")
        record_outcome(
            connection,
            Outcome(
                key=request.key,
                type=request.body.TYPE,
                body_hash=body_hash(request.body),
                status=status,
                code=code,
                message=message,
                result=result,
                utc_ms=now,
                place=place,
            ),
        )
        self.executed += 1

    def _execute(
        self, connection: Connection, request: Request, body: Body, now: int
    ) -> dict[str, object]:
        if isinstance(body, Recharge | ReverseTransaction):
            return self._money(connection, request, body, now)
        if isinstance(body, AT_COUNTER):
            return at_counter(connection, request, body, now)
        if isinstance(body, OpenAccount):
            if not read_tariff(connection, body.tariff_id):
                raise RefusedError("TARIFF_UNKNOWN", f"there is no tariff {body.tariff_id}")
            account = Account(
                body.account_id, body.name, body.service_point_id, body.tariff_id, now
            )
            open_account(connection, account)
            return {"account_id": body.account_id}
        if isinstance(body, PublishTariff):
            return publish(connection, request, body, now)
        if isinstance(body, Disconnect | Reconnect | ConfirmReconnect):
            return self._switch(connection, request, body, now)
        return self._other(connection, request, body, now)

    def _other(
        self, connection: Connection, request: Request, body: Body, now: int
    ) -> dict[str, object]:
        if isinstance(body, Decision):
            return self._decide(connection, request, body, now)
        if isinstance(body, LOAD_BODIES):
            return execute_load(connection, request, body, now)
        if isinstance(body, DecideTariff):
            return decide(connection, request, body, now)
        raise RefusedError("NOT_HERE", f"this site carries out no {body.TYPE}")

    def _decide(
        self, connection: Connection, request: Request, body: Decision, now: int
    ) -> dict[str, object]:
        if isinstance(body, ReleaseRecovery):
            released = release_recovery(
                connection,
                actor=request.actor,
                reason=body.reason,
                request_key=request.key,
                utc_ms=now,
            )
            return {"recovery": released.number}
        if isinstance(body, CommissionPoint):
            commission_point(connection, body.service_point_id, utc_ms=now)
            return {"commissioned_utc_ms": now}
        if isinstance(body, ReleaseHalt):
            return {"released": self.breaker.release(request.actor), "reason": body.reason}
        if isinstance(body, ConfirmClock | AcknowledgeChanges):
            self.clock_reasons.append(body.reason)
            return {"reason": body.reason}
        guard = self.guards[body.meter_id]
        if isinstance(body, ReleaseQuarantine):
            return {"charged_wh": list(guard.release(accept=body.accept))}
        return {"charged_wh": list(guard.replace(body.closing_wh, body.opening_wh))}

    def _money(
        self,
        connection: Connection,
        request: Request,
        body: Recharge | ReverseTransaction,
        now: int,
    ) -> dict[str, object]:
        if isinstance(body, Recharge):
            return self._recharge(connection, request, body, now)
        return self._reverse(connection, request, body, now)

    def _recharge(
        self, connection: Connection, request: Request, body: Recharge, now: int
    ) -> dict[str, object]:
        if read_account(connection, body.account_id) is None:
            raise RefusedError("ACCOUNT_UNKNOWN", f"there is no account {body.account_id}")
        if body.amount_nano <= 0:
            raise RefusedError("AMOUNT_NOT_POSITIVE", "a recharge is more than zero", "amount")
        seq = self.till.append(
            connection,
            request,
            Transaction(
                kind=TransactionKind.RECHARGE,
                utc_ms=now,
                entries=(
                    Entry(wallet(body.account_id), body.amount_nano),
                    Entry(cash(body.provider), -body.amount_nano),
                ),
                account_id=body.account_id,
                request_key=request.key,
            ),
        )
        return {
            "transaction_seq": seq,
            "balance_nano": read_balance(connection, wallet(body.account_id)),
        }

    def _reverse(
        self, connection: Connection, request: Request, body: ReverseTransaction, now: int
    ) -> dict[str, object]:
        original = read_transaction(connection, body.transaction_seq)
        if original is None:
            raise RefusedError("TRANSACTION_UNKNOWN", "there is no such transaction")
        reversal = reversal_of(original, body.transaction_seq, utc_ms=now, request_key=request.key)
        return {"transaction_seq": self.till.append(connection, request, reversal)}

    def _switch(
        self,
        connection: Connection,
        request: Request,
        body: Disconnect | Reconnect | ConfirmReconnect,
        now: int,
    ) -> dict[str, object]:
        index = [entry.service_point_id for entry in self._settings.meters].index(
            body.service_point_id
        )
        row = self.rows[index]
        closing = not isinstance(body, Disconnect)
        if isinstance(body, ConfirmReconnect) and row.output_closed:
            raise RefusedError("NOTHING_TO_CONFIRM", "no reconnection is waiting at this point")
        if isinstance(body, Reconnect) and self.min_off_s:
            ready = partial(self._show_open, index, ControlState.READY_FOR_RECONNECTION)
            self._later.append((now + round(self.min_off_s * 1000), ready))
            self._show_open(index, ControlState.DISCONNECTED)
        elif isinstance(body, ConfirmReconnect) and self.turn_s:
            move = partial(self._move, index=index, key=request.key, closing=True, now=now)
            later = partial(self.ledger.write, move)
            self._later.append((now + round(self.turn_s * 1000), later))
        else:
            self._move(connection, index=index, key=request.key, closing=closing, now=now)
        return {"service_point_id": body.service_point_id}

    def _move(
        self, connection: Connection, *, index: int, key: str, closing: bool, now: int
    ) -> None:
        """Move an output, proved at once."""
        entry, row = self._settings.meters[index], self.rows[index]
        if closing is not row.output_closed:
            command = SwitchCommand(
                command_id=str(ULID()),
                service_point_id=entry.service_point_id,
                meter_id=entry.meter_id,
                action=SwitchAction.CLOSE if closing else SwitchAction.OPEN,
                reason="" if closing else "MANUAL",
                issued_utc_ms=now,
                request_key=key,
                state=CommandState.VERIFIED,
                attempts=1,
                finished_utc_ms=now,
                witnesses=("output", "current"),
            )
            put_switch_command(connection, command)
        state = ControlState.CONNECTED if closing else ControlState.DISCONNECTED
        self.show(
            index,
            replace(
                row,
                sequence=row.sequence + 1,
                output_closed=closing,
                intended_closed=closing,
                control_state=state,
                reasons=frozenset() if closing else frozenset({Reason.MANUAL}),
            ),
        )

    def _show_open(self, index: int, state: ControlState) -> None:
        """An open supply that nothing blocks."""
        row = self.rows[index]
        self.show(
            index,
            replace(
                row,
                sequence=row.sequence + 1,
                output_closed=False,
                intended_closed=False,
                control_state=state,
                reasons=frozenset(),
            ),
        )
