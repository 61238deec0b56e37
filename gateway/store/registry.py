"""Tariffs, accounts, service points and meter assignments in `ledger.db`."""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.core.credit import PaymentMode
from gateway.core.errors import RefusedError
from gateway.store.rows import as_int, as_text, document, integers, mapping, page_size


class AccountStatus(StrEnum):
    """COSEM account status (class 111): new 1, active 2, closed 3."""

    NEW = "new"
    ACTIVE = "active"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class TariffVersion:
    """One immutable version of a tariff; `document` is its JSON object."""

    tariff_id: str
    version: int
    effective_from_utc_ms: int
    document: Mapping[str, object]
    published_utc_ms: int
    actor: str


@dataclass(frozen=True, slots=True)
class Account:
    """An account on a service point. `disablement_threshold_nano`: see domain.md section 1."""

    account_id: str
    name: str
    service_point_id: str
    tariff_id: str
    opened_utc_ms: int
    status: AccountStatus = AccountStatus.ACTIVE
    payment_mode: PaymentMode = PaymentMode.PREPAYMENT
    disablement_threshold_nano: int = 0
    closed_utc_ms: int | None = None


@dataclass(frozen=True, slots=True)
class ServicePoint:
    """Where supply is delivered; enforced only once `commissioned_utc_ms` is set."""

    service_point_id: str
    label: str
    feeder: str = ""
    critical: bool = False
    commissioned_utc_ms: int | None = None


@dataclass(frozen=True, slots=True)
class MeterAssignment:
    """A meter's dated stay on a service point, with its registers (Wh each) at both ends."""

    meter_id: str
    service_point_id: str
    from_utc_ms: int
    opening_wh: tuple[int, ...]
    to_utc_ms: int | None = None
    closing_wh: tuple[int, ...] | None = None


# -- tariffs ---------------------------------------------------------------------------------


def publish_tariff(connection: sqlite3.Connection, tariff: TariffVersion) -> None:
    """Store the next version of a tariff; it can never be changed.

    Raises RefusedError TARIFF_VERSION unless its version is the newest plus one.
    """
    newest = connection.execute(
        "SELECT coalesce(max(version), 0) FROM tariff WHERE tariff_id = ?", (tariff.tariff_id,)
    ).fetchone()[0]
    if tariff.version != newest + 1:
        raise RefusedError(
            "TARIFF_VERSION",
            f"the next version of tariff {tariff.tariff_id} is {newest + 1}, not {tariff.version}",
            "version",
        )
    connection.execute(
        "INSERT INTO tariff VALUES (?, ?, ?, ?, ?, ?)",
        (
            tariff.tariff_id,
            tariff.version,
            tariff.effective_from_utc_ms,
            document(dict(tariff.document)),
            tariff.published_utc_ms,
            tariff.actor,
        ),
    )


def read_tariff(connection: sqlite3.Connection, tariff_id: str) -> list[TariffVersion]:
    """All versions of a tariff, oldest first; empty when it was never published."""
    return _tariffs(connection, "WHERE tariff_id = ?", tariff_id)


def read_tariffs(connection: sqlite3.Connection) -> list[TariffVersion]:
    """All versions of all tariffs, by id and version."""
    return _tariffs(connection, "")


# -- accounts --------------------------------------------------------------------------------


def open_account(connection: sqlite3.Connection, account: Account) -> None:
    """Store a new account.

    Raises RefusedError ACCOUNT_EXISTS, POINT_UNKNOWN, POINT_TAKEN (another open account there).
    """
    if read_account(connection, account.account_id) is not None:
        raise RefusedError(
            "ACCOUNT_EXISTS", f"account {account.account_id} exists already", "account_id"
        )
    if read_service_point(connection, account.service_point_id) is None:
        raise _unknown_point(account.service_point_id)
    holder = account_at(connection, account.service_point_id)
    if holder is not None:
        raise RefusedError(
            "POINT_TAKEN",
            f"service point {account.service_point_id} has the open account {holder.account_id}",
            "service_point_id",
        )
    connection.execute(
        "INSERT INTO account VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            account.account_id,
            account.name,
            account.status.value,
            account.payment_mode.value,
            account.service_point_id,
            account.tariff_id,
            account.disablement_threshold_nano,
            account.opened_utc_ms,
            account.closed_utc_ms,
        ),
    )


def update_account(
    connection: sqlite3.Connection,
    account_id: str,
    *,
    name: str | None = None,
    status: AccountStatus | None = None,
    payment_mode: PaymentMode | None = None,
    disablement_threshold_nano: int | None = None,
    service_point_id: str | None = None,
) -> None:
    """Change what is given (closing has a function of its own).

    Raises RefusedError ACCOUNT_UNKNOWN, ACCOUNT_CLOSED.
    """
    _require_open(connection, account_id)
    connection.execute(
        "UPDATE account SET name = coalesce(?, name), status = coalesce(?, status), "
        "payment_mode = coalesce(?, payment_mode), "
        "disablement_threshold_nano = coalesce(?, disablement_threshold_nano), "
        "service_point_id = coalesce(?, service_point_id) "
        "WHERE account_id = ?",
        (
            name,
            None if status is None else status.value,
            None if payment_mode is None else payment_mode.value,
            disablement_threshold_nano,
            service_point_id,
            account_id,
        ),
    )


def close_account(connection: sqlite3.Connection, account_id: str, *, utc_ms: int) -> None:
    """Close an account for ever. Raises RefusedError ACCOUNT_UNKNOWN, ACCOUNT_CLOSED."""
    _require_open(connection, account_id)
    connection.execute(
        "UPDATE account SET status = 'closed', closed_utc_ms = ? WHERE account_id = ?",
        (utc_ms, account_id),
    )


def read_account(connection: sqlite3.Connection, account_id: str) -> Account | None:
    """One account, or None."""
    return next(iter(_accounts(connection, "WHERE account_id = ?", account_id)), None)


def account_at(connection: sqlite3.Connection, service_point_id: str) -> Account | None:
    """The account that began at a service point or pays for it, and is not closed; or None."""
    where = (
        "WHERE status <> 'closed' AND (service_point_id = ?1 OR account_id IN (SELECT account_id "
        "FROM account_point WHERE service_point_id = ?1 AND to_utc_ms IS NULL))"
    )
    return next(iter(_accounts(connection, where, service_point_id)), None)


def is_enforced(connection: sqlite3.Connection, account_id: str, service_point_id: str) -> bool:
    """Whether supply is enforced: the account is active and the point commissioned."""
    account = read_account(connection, account_id) if account_id else None
    point = read_service_point(connection, service_point_id)
    return (
        account is not None
        and account.status is AccountStatus.ACTIVE
        and point is not None
        and point.commissioned_utc_ms is not None
    )


def read_accounts(connection: sqlite3.Connection) -> list[Account]:
    """All accounts by id."""
    return _accounts(connection, "ORDER BY account_id")


def accounts_after(
    connection: sqlite3.Connection, account_id: str = "", limit: int = 50
) -> list[Account]:
    """A page of accounts by id, after a cursor; at most 100."""
    where = "WHERE account_id > ? ORDER BY account_id LIMIT ?"
    return _accounts(connection, where, account_id, page_size(limit))


# -- service points --------------------------------------------------------------------------


def put_service_point(connection: sqlite3.Connection, point: ServicePoint) -> None:
    """Store a service point, or change label, feeder and criticality of one that exists.

    Commissioning is kept: it is set by `commission_point` only.
    """
    connection.execute(
        "INSERT INTO service_point VALUES (?, ?, ?, ?, ?) ON CONFLICT (service_point_id) "
        "DO UPDATE SET label = excluded.label, feeder = excluded.feeder, "
        "critical = excluded.critical",
        (
            point.service_point_id,
            point.label,
            point.feeder,
            int(point.critical),
            point.commissioned_utc_ms,
        ),
    )


def commission_point(
    connection: sqlite3.Connection, service_point_id: str, *, utc_ms: int | None
) -> None:
    """Say since when supply is enforced there; None takes it back.

    Raises RefusedError POINT_UNKNOWN.
    """
    changed = connection.execute(
        "UPDATE service_point SET commissioned_utc_ms = ? WHERE service_point_id = ?",
        (utc_ms, service_point_id),
    )
    if changed.rowcount == 0:
        raise _unknown_point(service_point_id)


def read_service_point(
    connection: sqlite3.Connection, service_point_id: str
) -> ServicePoint | None:
    """One service point, or None."""
    where = "WHERE service_point_id = ?"
    return next(iter(_service_points(connection, where, service_point_id)), None)


def read_service_points(connection: sqlite3.Connection) -> list[ServicePoint]:
    """All service points by id."""
    return _service_points(connection, "ORDER BY service_point_id")


# -- meter assignments -----------------------------------------------------------------------


def assign_meter(connection: sqlite3.Connection, assignment: MeterAssignment) -> None:
    """Begin a meter's stay on a service point.

    Raises RefusedError POINT_UNKNOWN, METER_ASSIGNED (it stays somewhere already).
    """
    if read_service_point(connection, assignment.service_point_id) is None:
        raise _unknown_point(assignment.service_point_id)
    current = assignment_of(connection, assignment.meter_id)
    if current is not None:
        raise RefusedError(
            "METER_ASSIGNED",
            f"meter {assignment.meter_id} is at service point {current.service_point_id}",
            "meter_id",
        )
    connection.execute(
        "INSERT INTO meter_assignment (meter_id, service_point_id, from_utc_ms, opening_wh) "
        "VALUES (?, ?, ?, ?)",
        (
            assignment.meter_id,
            assignment.service_point_id,
            assignment.from_utc_ms,
            document(list(assignment.opening_wh)),
        ),
    )


def end_assignment(
    connection: sqlite3.Connection, meter_id: str, *, to_utc_ms: int, closing_wh: tuple[int, ...]
) -> None:
    """End a meter's stay with its closing registers.

    Raises RefusedError METER_UNASSIGNED.
    """
    changed = connection.execute(
        "UPDATE meter_assignment SET to_utc_ms = ?, closing_wh = ? "
        "WHERE meter_id = ? AND to_utc_ms IS NULL",
        (to_utc_ms, document(list(closing_wh)), meter_id),
    )
    if changed.rowcount == 0:
        raise RefusedError(
            "METER_UNASSIGNED", f"meter {meter_id} is at no service point", "meter_id"
        )


def assignment_of(connection: sqlite3.Connection, meter_id: str) -> MeterAssignment | None:
    """Where a meter is now, or None."""
    where = "WHERE meter_id = ? AND to_utc_ms IS NULL"
    return next(iter(_assignments(connection, where, meter_id)), None)


def read_assignments(
    connection: sqlite3.Connection, *, open_only: bool = False
) -> list[MeterAssignment]:
    """All stays in the order in which they began, or those that have not ended."""
    return _assignments(connection, "WHERE to_utc_ms IS NULL" if open_only else "")


# -- inside ----------------------------------------------------------------------------------

_TARIFF: Final = (
    "SELECT tariff_id, version, effective_from_utc_ms, document, published_utc_ms, actor "
    "FROM tariff "
)
_ACCOUNT: Final = (
    "SELECT account_id, name, service_point_id, tariff_id, opened_utc_ms, status, "
    "payment_mode, disablement_threshold_nano, closed_utc_ms "
    "FROM account "
)
_SERVICE_POINT: Final = (
    "SELECT service_point_id, label, feeder, critical, commissioned_utc_ms FROM service_point "
)
_METER_ASSIGNMENT: Final = (
    "SELECT meter_id, service_point_id, from_utc_ms, opening_wh, to_utc_ms, closing_wh "
    "FROM meter_assignment "
)


def _tariffs(connection: sqlite3.Connection, where: str, *values: str) -> list[TariffVersion]:
    rows = connection.execute(_TARIFF + where + " ORDER BY tariff_id, version", values)
    return [
        TariffVersion(
            as_text(row[0]), as_int(row[1]), as_int(row[2]), mapping(row[3]), as_int(row[4]), row[5]
        )
        for row in rows
    ]


def _accounts(connection: sqlite3.Connection, where: str, *values: str | int) -> list[Account]:
    rows = connection.execute(_ACCOUNT + where, values)
    return [
        Account(
            row[0],
            row[1],
            row[2],
            row[3],
            row[4],
            AccountStatus(row[5]),
            PaymentMode(row[6]),
            row[7],
            row[8],
        )
        for row in rows
    ]


def _service_points(connection: sqlite3.Connection, where: str, *values: str) -> list[ServicePoint]:
    rows = connection.execute(_SERVICE_POINT + where, values)
    return [ServicePoint(row[0], row[1], row[2], bool(row[3]), row[4]) for row in rows]


def _assignments(connection: sqlite3.Connection, where: str, *values: str) -> list[MeterAssignment]:
    rows = connection.execute(_METER_ASSIGNMENT + where + " ORDER BY number", values)
    return [
        MeterAssignment(
            row[0],
            row[1],
            row[2],
            integers(row[3]),
            row[4],
            None if row[5] is None else integers(row[5]),
        )
        for row in rows
    ]


def _require_open(connection: sqlite3.Connection, account_id: str) -> None:
    account = read_account(connection, account_id)
    if account is None:
        raise RefusedError("ACCOUNT_UNKNOWN", f"there is no account {account_id}", "account_id")
    if account.status is AccountStatus.CLOSED:
        raise RefusedError("ACCOUNT_CLOSED", f"account {account_id} is closed", "account_id")


def _unknown_point(service_point_id: str) -> RefusedError:
    return RefusedError(
        "POINT_UNKNOWN", f"there is no service point {service_point_id}", "service_point_id"
    )
