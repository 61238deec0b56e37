"""`ledger verify`: do stays, meters and shifts hold what the requests of the audit chain made?

The tables are not part of the chain; the requests are. What is derived from them again
(`gateway/core/provenance.py`) is compared with the rows.
"""

import re
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from gateway.core.credit import CreditTerms, DebtTerms
from gateway.core.errors import GatewayError, RefusedError, StoreCorruptError
from gateway.core.ledger import Transaction
from gateway.core.money import Currency
from gateway.core.provenance import (
    ACTIONS,
    ASSIGN_METER,
    Act,
    MeterRow,
    Moment,
    Provenance,
    ShiftRow,
    StayRow,
)
from gateway.core.requests import decode_body
from gateway.core.shift import SHIFT_MEMO, MeansTotal, cash_up, money_taken, shift_of
from gateway.core.terms_document import terms_from_document
from gateway.store.accounts import all_points, debts_of
from gateway.store.audit import audit_head
from gateway.store.ledger import read_site
from gateway.store.registry import read_assignments
from gateway.store.rows import as_int, as_text, mapping
from gateway.store.shifts import Payment, all_shifts, read_payment, shift_transactions

_SHIFT_KEYS: Final = (
    "SELECT s.request_key, coalesce(c.request_key, '') FROM shift s "
    "LEFT JOIN shift_closing c ON c.number = s.number ORDER BY s.number"
)

_DIFFERENCE: Final = (
    "SELECT seq FROM ledger_transaction WHERE request_key = ? AND kind = 'adjustment'"
)
# Of a million records few are of moves and shifts: they are parsed once more.
_NAMES: Final = re.compile("|".join(f'"{action}"' for action in sorted(ACTIONS)))


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows as they stand at one audit record."""

    audit_seq: int
    stays: Mapping[str, Sequence[StayRow]]
    meters: Mapping[str, Sequence[MeterRow]]
    shifts: Sequence[ShiftRow]
    terms: Mapping[str, Sequence[CreditTerms | None]]
    debts: Mapping[str, Sequence[DebtTerms]]


class RowProof:
    """Compares rows with requests: `record` takes every audit record, `problems` says what differs.

    The rows are read at the beginning, as one snapshot. A file of an older schema has none.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._rows: _Rows | None = None
        self._unread: list[str] = []
        self._made = Provenance()
        try:
            site = read_site(connection)
            self._currency = Currency(site.currency, site.money_scale, site.minor_digits)
            self._zone = site.zone
        except (RefusedError, StoreCorruptError) as error:
            self._unread = [f"the site cannot be read: {error}"]
            return
        tables = {
            as_text(row[0])
            for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        }
        if not {"account_point", "shift", "payment"} <= tables:
            return
        connection.execute("BEGIN")
        try:
            self._rows = _Rows(
                audit_head(connection).seq,
                _stays(connection),
                _meters(connection),
                _shifts(connection),
                _terms(connection, self._read),
                _debts(connection),
            )
        except StoreCorruptError as error:
            self._unread = [f"stays, meters, shifts, terms or debts cannot be read: {error}"]
        finally:
            connection.execute("ROLLBACK")

    def record(self, seq: int, utc_ms: int, text: str) -> None:
        """The next audit record, as it is stored."""
        if self._rows is None or seq > self._rows.audit_seq or not _NAMES.search(text):
            return
        try:
            record = mapping(text)
        except StoreCorruptError:
            return  # told where its hash was looked at
        action = record.get("action")
        # What was refused made nothing, whatever it calls itself; control's own has no result.
        if action not in ACTIONS or record.get("result", "executed") != "executed":
            return
        made = record.get("made")
        made = made if isinstance(made, dict) else {}
        try:
            if action == ASSIGN_METER:
                self._made.assigned(
                    str(made["meter_id"]),
                    str(made["service_point_id"]),
                    tuple(map(int, made["opening_wh"])),
                    int(made["utc_ms"]),
                )
            else:
                self._made.take(_act(str(action), utc_ms, record, made))
        except (KeyError, TypeError, ValueError, RefusedError):
            # Nothing follows from what this program cannot read: what came after it hangs on it.
            self._unread = self._unread or [
                f"audit record {seq}: what was asked for cannot be read; no row was compared"
            ]

    def _read(self, text: str) -> CreditTerms | None:
        """Terms but for the calendar: a preset is stored as it was when it was agreed."""
        try:
            terms = terms_from_document(mapping(text), self._currency, self._zone)
        except GatewayError:
            return None
        return replace(terms, calendar=None)

    def problems(self, settled: Collection[tuple[str, str]]) -> list[str]:
        """What differs; `settled` are meter and point of every settlement line."""
        rows = self._rows
        if rows is None or self._unread:
            return self._unread
        made = self._made
        return [
            *made.stay_problems(rows.stays),
            *made.meter_problems(rows.meters, settled if rows.meters else ()),
            *made.shift_problems(rows.shifts),
            *made.credit_problems(rows.terms, rows.debts, self._read),
        ]


def payment_problem(
    connection: sqlite3.Connection, seq: int, transaction: Transaction
) -> str | None:
    """Why the index of payments does not fit a transaction, which it repeats; None where it does.

    Money that was taken before there was an index has no row, or one without an actor.
    """
    taken = money_taken(transaction) if transaction.request_key is not None else {}
    stored = read_payment(connection, seq)
    memo = dict(transaction.memo)
    if stored is None:
        is_missing = taken and SHIFT_MEMO in memo
        return f"transaction {seq}: it has no row of payment" if is_missing else None
    if not taken:
        return f"transaction {seq}: it took no money, and has a row of payment"
    if not stored.actor:
        return None
    due = Payment(
        seq=seq,
        actor=stored.actor,
        role=stored.role,
        day=stored.day,
        provider=next(iter(taken)),
        reference=memo.get("reference", ""),
        amount_nano=sum(taken.values()),
        shift=shift_of(transaction),
    )
    return None if stored == due else f"transaction {seq}: its row of payment is {stored}"


def _act(kind: str, utc_ms: int, record: Mapping[str, object], made: Mapping[str, object]) -> Act:
    body = record["object"]
    if not isinstance(body, dict):
        raise TypeError(f"{body!r:.40} is no request")
    exact = made.get("utc_ms")
    provider = made.get("cash_provider")
    return Act(
        key=str(record["request"]),
        actor=str(record["actor"]),
        moment=Moment(utc_ms if exact is None else as_int(exact), is_exact=exact is not None),
        body=decode_body(kind, body),
        cash_provider=None if provider is None else str(provider),
    )


def _stays(connection: sqlite3.Connection) -> dict[str, list[StayRow]]:
    found: dict[str, list[StayRow]] = {}
    for one in all_points(connection):
        row = StayRow(one.account_id, one.tariff_id, one.from_utc_ms, one.to_utc_ms)
        found.setdefault(one.service_point_id, []).append(row)
    return found


def _meters(connection: sqlite3.Connection) -> dict[str, list[MeterRow]]:
    found: dict[str, list[MeterRow]] = {}
    for one in read_assignments(connection):
        row = MeterRow(
            one.service_point_id, one.opening_wh, one.from_utc_ms, one.to_utc_ms, one.closing_wh
        )
        found.setdefault(one.meter_id, []).append(row)
    return found


def _terms(
    connection: sqlite3.Connection, read: Callable[[str], CreditTerms | None]
) -> dict[str, list[CreditTerms | None]]:
    found: dict[str, list[CreditTerms | None]] = {}
    for account_id, text in connection.execute(
        "SELECT account_id, document FROM account_terms ORDER BY account_id, number"
    ):
        found.setdefault(account_id, []).append(read(text))
    return found


def _debts(connection: sqlite3.Connection) -> dict[str, list[DebtTerms]]:
    names = connection.execute("SELECT DISTINCT account_id FROM debt").fetchall()
    return {name: debts_of(connection, name) for (name,) in names}


def _shifts(connection: sqlite3.Connection) -> list[ShiftRow]:
    """Every shift; what was counted is added up again from the transactions."""
    keys = connection.execute(_SHIFT_KEYS).fetchall()
    found: list[ShiftRow] = []
    for record, (opened_by, closed_by) in zip(all_shifts(connection), keys, strict=True):
        shift, closing = record.shift, record.closing
        again: tuple[MeansTotal, ...] = ()
        if closing is not None:
            counted = {
                one.provider: one.counted_nano
                for one in closing.means
                if one.counted_nano is not None
            }
            # A row of payment or a transaction that is wrong is told where it is looked at.
            with suppress(ValueError, StoreCorruptError):
                again = cash_up(shift, shift_transactions(connection, shift.number), counted)
        posted = connection.execute(_DIFFERENCE, (closed_by,)).fetchone() if closed_by else None
        found.append(
            ShiftRow(
                shift,
                str(opened_by),
                closing,
                str(closed_by),
                again,
                None if posted is None else as_int(posted[0]),
            )
        )
    return found
