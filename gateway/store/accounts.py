"""What belongs to an account in `ledger.db`: its service points, terms and debts."""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.core.credit import CreditBook, CreditTerms, DebtKind, DebtTerms, accumulated, emergency
from gateway.core.credit import debt as debt_account
from gateway.core.errors import RefusedError
from gateway.core.ledger import wallet
from gateway.core.money import Currency
from gateway.core.terms_document import terms_from_document
from gateway.store.ledger import read_balance, read_site
from gateway.store.registry import Account, read_service_point
from gateway.store.rows import as_int, as_text, document, mapping
from gateway.store.state import load_account_state


@dataclass(frozen=True, slots=True)
class AccountPoint:
    """A service point that an account pays for, under which tariff and since when.

    `joined` says that the account paid for it until then under another tariff.
    """

    account_id: str
    service_point_id: str
    tariff_id: str
    from_utc_ms: int
    to_utc_ms: int | None = None
    joined: bool = False


# -- points ----------------------------------------------------------------------------------


def add_point(connection: sqlite3.Connection, stay: AccountPoint) -> None:
    """An account pays for a point from now on.

    Raises RefusedError POINT_UNKNOWN, POINT_TAKEN.
    """
    if read_service_point(connection, stay.service_point_id) is None:
        raise RefusedError(
            "POINT_UNKNOWN",
            f"there is no service point {stay.service_point_id}",
            "service_point_id",
        )
    holder = payer_of(connection, stay.service_point_id)
    if holder is not None:
        raise RefusedError(
            "POINT_TAKEN",
            f"account {holder.account_id} pays for service point {stay.service_point_id}",
            "service_point_id",
        )
    connection.execute(
        "INSERT INTO account_point (account_id, service_point_id, tariff_id, from_utc_ms) "
        "VALUES (?, ?, ?, ?)",
        (stay.account_id, stay.service_point_id, stay.tariff_id, stay.from_utc_ms),
    )


def end_point(connection: sqlite3.Connection, service_point_id: str, *, utc_ms: int) -> None:
    """The account of a point no longer pays for it. Raises RefusedError POINT_FREE."""
    changed = connection.execute(
        "UPDATE account_point SET to_utc_ms = ? WHERE service_point_id = ? AND to_utc_ms IS NULL",
        (utc_ms, service_point_id),
    )
    if changed.rowcount == 0:
        raise RefusedError(
            "POINT_FREE", f"no account pays for {service_point_id}", "service_point_id"
        )


def payer_of(connection: sqlite3.Connection, service_point_id: str) -> AccountPoint | None:
    """Who pays for a point now, or None."""
    found = _points(connection, "service_point_id = ? AND to_utc_ms IS NULL", service_point_id)
    return next(iter(found), None)


def points_of(
    connection: sqlite3.Connection, account_id: str, *, open_only: bool = True
) -> list[AccountPoint]:
    """The points that an account pays for (or ever paid for), in the order of their beginning."""
    still = " AND to_utc_ms IS NULL" if open_only else ""
    return _points(connection, f"account_id = ?{still}", account_id)


def open_points(connection: sqlite3.Connection) -> list[AccountPoint]:
    """Every point that somebody pays for now."""
    return _points(connection, "to_utc_ms IS NULL")


def points_since(connection: sqlite3.Connection, utc_ms: int) -> list[AccountPoint]:
    """Every stay of an account at a point that did not end by an instant, oldest first."""
    return _points(connection, "to_utc_ms IS NULL OR to_utc_ms > ?", utc_ms)


def all_points(connection: sqlite3.Connection, after: int = 0) -> list[AccountPoint]:
    """Every point that somebody pays for or ever paid for, in the order of their beginning; without
    the first `after` of them, if told so."""
    return _points(connection, "number > ?", after)


# -- terms -----------------------------------------------------------------------------------


def put_terms(
    connection: sqlite3.Connection,
    account_id: str,
    terms: Mapping[str, object],
    *,
    utc_ms: int,
    actor: str,
) -> int:
    """Store the next terms of an account; their number."""
    number = as_int(
        connection.execute(
            "SELECT coalesce(max(number), 0) + 1 FROM account_terms WHERE account_id = ?",
            (account_id,),
        ).fetchone()[0]
    )
    connection.execute(
        "INSERT INTO account_terms VALUES (?, ?, ?, ?, ?)",
        (account_id, number, document(dict(terms)), utc_ms, actor),
    )
    return number


def terms_of(connection: sqlite3.Connection, account_id: str) -> dict[str, object]:
    """The terms in force; empty when none were ever agreed."""
    row = connection.execute(
        "SELECT document FROM account_terms WHERE account_id = ? ORDER BY number DESC LIMIT 1",
        (account_id,),
    ).fetchone()
    return {} if row is None else mapping(row[0])


# -- debts -----------------------------------------------------------------------------------


def put_debt(
    connection: sqlite3.Connection, account_id: str, terms: DebtTerms, *, utc_ms: int, actor: str
) -> None:
    """Store how a debt is collected. Raises RefusedError DEBT_EXISTS."""
    known = connection.execute(
        "SELECT 1 FROM debt WHERE account_id = ? AND debt_id = ?", (account_id, terms.debt_id)
    ).fetchone()
    if known is not None:
        raise RefusedError(
            "DEBT_EXISTS", f"account {account_id} has a debt {terms.debt_id} already", "debt_id"
        )
    connection.execute(
        "INSERT INTO debt (account_id, debt_id, kind, share_ppm, daily_nano, weekly_cap_nano, "
        "utc_ms, actor) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            account_id,
            terms.debt_id,
            terms.kind.value,
            terms.share_ppm,
            terms.daily_nano,
            terms.weekly_cap_nano,
            utc_ms,
            actor,
        ),
    )


def debts_of(connection: sqlite3.Connection, account_id: str) -> list[DebtTerms]:
    """The debts of an account in the order in which they were agreed, paid ones too."""
    rows = connection.execute(
        "SELECT debt_id, kind, share_ppm, daily_nano, weekly_cap_nano FROM debt "
        "WHERE account_id = ? ORDER BY number",
        (account_id,),
    )
    return [
        DebtTerms(as_text(row[0]), DebtKind(row[1]), as_int(row[2]), as_int(row[3]), row[4])
        for row in rows
    ]


# -- credit ----------------------------------------------------------------------------------


def terms_in_force(
    connection: sqlite3.Connection, account: Account, currency: Currency
) -> CreditTerms:
    """What was agreed with a customer; before any terms were stored, what the account says."""
    given = terms_of(connection, account.account_id)
    if given:
        return terms_from_document(given, currency.as_stored(), read_site(connection).zone)
    return CreditTerms(
        payment_mode=account.payment_mode,
        disablement_threshold_nano=account.disablement_threshold_nano,
    )


def load_credit(
    connection: sqlite3.Connection,
    account: Account,
    currency: Currency,
    balances: Mapping[str, int] | None = None,
) -> CreditBook:
    """The credit of an account as it stands in the file; `balances` are those of the ledger, where
    the caller has read them already."""
    name = account.account_id
    credit = CreditBook(name, terms_in_force(connection, account, currency))
    debts = debts_of(connection, name)
    for terms in debts:
        credit.add_debt(terms)
    if balances is None:
        names = [wallet(name), emergency(name), accumulated(name)]
        names += [debt_account(name, terms.debt_id) for terms in debts]
        balances = {one: read_balance(connection, one) for one in names}
    credit.restore(balances, load_account_state(connection, name))
    return credit


def _points(connection: sqlite3.Connection, where: str, *values: str | int) -> list[AccountPoint]:
    rows = connection.execute(
        "SELECT account_id, service_point_id, tariff_id, from_utc_ms, to_utc_ms, EXISTS ("  # noqa: S608
        "SELECT 1 FROM account_point before WHERE before.account_id = stay.account_id "
        "AND before.service_point_id = stay.service_point_id "
        "AND before.to_utc_ms = stay.from_utc_ms) "
        f"FROM account_point stay WHERE {where} ORDER BY number",
        values,
    )
    return [
        AccountPoint(account_id, service_point_id, tariff_id, begun, ended, joined=bool(joined))
        for account_id, service_point_id, tariff_id, begun, ended, joined in rows
    ]
