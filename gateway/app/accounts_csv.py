"""The tenants' CSV: who moves in with which balance, each cell checked before anything is done.

Read as the meters' file is (`config_csv.py`): comma, semicolon or tab, every problem at once as
`file:line:column: column: message`.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from gateway.app.config_csv import Row, read_table
from gateway.app.config_place import Problem, quote
from gateway.core.errors import RefusedError
from gateway.core.ledger import canonical_json
from gateway.core.money import Currency, DecimalCodes, parse_amount, parse_scaled
from gateway.core.plain_text import has_controls
from gateway.core.requests import ID_PATTERN, MAX_TEXT
from gateway.core.tariff import PERCENT_SCALE, PPM

COLUMNS: Final = (
    "account",
    "service_point",
    "tariff",
    "name",
    "opening_balance",
    "disablement_threshold",
    "emergency_limit",
    "debt_amount",
    "debt_share",
)
_IDS: Final = ("account", "service_point", "tariff")
_AMOUNTS: Final = ("opening_balance", "disablement_threshold")
# Nobody is given less than nothing.
_UNSIGNED: Final = ("emergency_limit", "debt_amount")
_PERCENT: Final = DecimalCodes("share", "VALIDATION", "VALIDATION", "VALIDATION")
_KEY_HEX: Final = 40


@dataclass(frozen=True, slots=True)
class Tenant:
    """One row: an account to open. Amounts are nano-units; `row` knows its places.

    A debt is paid back by its share of every recharge, in parts per million.
    """

    account_id: str
    service_point_id: str
    tariff_id: str
    name: str
    opening_balance_nano: int
    disablement_threshold_nano: int
    emergency_limit_nano: int
    debt_nano: int
    debt_share_ppm: int
    row: Row = field(compare=False)

    def key(self, attempt: int) -> str:
        """The idempotency key of an attempt at this row: its content's, wherever it stands."""
        content = [
            self.account_id,
            self.service_point_id,
            self.tariff_id,
            self.name,
            self.opening_balance_nano,
            self.disablement_threshold_nano,
        ]
        if self.emergency_limit_nano or self.debt_nano:
            content += [self.emergency_limit_nano, self.debt_nano, self.debt_share_ppm]
        digest = hashlib.sha256(canonical_json(content)).hexdigest()[:_KEY_HEX]
        return f"import-{digest}-{attempt}"

    def debt_key(self, attempt: int) -> str:
        """The idempotency key of an attempt at taking over what this row's tenant owes."""
        return f"{self.key(attempt)}-debt"


@dataclass(frozen=True, slots=True)
class Known:
    """An account as the site has it. `tariff_id` and threshold as it was opened."""

    service_point_id: str
    tariff_id: str
    disablement_threshold_nano: int
    is_closed: bool


@dataclass(frozen=True, slots=True)
class Present:
    """What the site has: points with a meter, published tariffs, accounts by id."""

    points: frozenset[str]
    tariffs: frozenset[str]
    accounts: Mapping[str, Known]


def read_tenants(
    path: Path, currency: Currency, *, tariff: str | None, max_nano: int
) -> tuple[list[Tenant], list[Problem]]:
    """The rows of a file that name their account, and every problem of its form.

    A row with a problem is among them, so that it is compared with the site in the same run; with
    any problem nothing may be imported. `tariff` is that of rows without one; no amount may be
    beyond `max_nano`. Raises FileRefusedError when the file is no such table at all.
    """
    table = read_table(path, COLUMNS)
    problems = list(table.problems)
    if "account" not in table.columns:
        return [], [*problems, Problem(table.header, "account", "is missing: the account's id")]
    tenants: list[Tenant] = []
    for row in table.rows:
        wrong_ids = list(_id_problems(row))
        problems += [*wrong_ids, *_other_problems(row, tariff)]
        amounts = _amounts(row, currency, max_nano, problems)
        share_ppm = _share(row, problems)
        if wrong_ids:
            continue
        account = row.cells["account"]
        tenants.append(
            Tenant(
                account_id=account,
                service_point_id=row.cells.get("service_point", account),
                tariff_id=row.cells.get("tariff") or tariff or "",
                name=row.cells.get("name", ""),
                opening_balance_nano=amounts["opening_balance"],
                disablement_threshold_nano=amounts["disablement_threshold"],
                emergency_limit_nano=amounts["emergency_limit"],
                debt_nano=amounts["debt_amount"],
                debt_share_ppm=share_ppm,
                row=row,
            )
        )
    return tenants, [*problems, *_twice(tenants)]


def compare(tenants: Iterable[Tenant], present: Present) -> list[Problem]:
    """What of a file contradicts the site: nothing of it is imported then."""
    holders = {
        known.service_point_id: account_id
        for account_id, known in present.accounts.items()
        if not known.is_closed
    }
    problems: list[Problem] = []
    for tenant in tenants:
        known = present.accounts.get(tenant.account_id)
        if known is not None:
            problems += _contradictions(tenant, known)
            continue
        point, tariff = tenant.service_point_id, tenant.tariff_id
        column = "service_point" if "service_point" in tenant.row.cells else "account"
        if point not in present.points:
            message = f"no meter serves the point {quote(point)}{_close(point, present.points)}"
            problems.append(_problem(tenant.row, column, message))
        elif point in holders:
            message = f"the point {quote(point)} has the open account {holders[point]}"
            problems.append(_problem(tenant.row, column, message))
        if tariff and tariff not in present.tariffs:
            message = f"no tariff {quote(tariff)} is published{_close(tariff, present.tariffs)}"
            problems.append(_problem(tenant.row, "tariff", message))
    return problems


def _amounts(
    row: Row, currency: Currency, max_nano: int, problems: list[Problem]
) -> dict[str, int]:
    """The amounts of a row by column, zero where there is none or a wrong one."""
    amounts = dict.fromkeys((*_AMOUNTS, *_UNSIGNED), 0)
    for name in amounts:
        try:
            amounts[name] = parse_amount(row.cells.get(name, "0"), currency)
        except RefusedError as refused:
            problems.append(_problem(row, name, refused.message))
            continue
        if abs(amounts[name]) > max_nano:
            problems.append(_problem(row, name, "is beyond the maximum"))
        elif name in _UNSIGNED and amounts[name] < 0:
            problems.append(_problem(row, name, "is below zero"))
    return amounts


def _share(row: Row, problems: list[Problem]) -> int:
    """What of a recharge goes to the debt, ppm; a debt needs one and nothing else has any."""
    text = row.cells.get("debt_share")
    if (text is None) != ("debt_amount" not in row.cells):
        column = "debt_share" if text is None else "debt_amount"
        message = "is missing: debt_amount and debt_share (percent) go together"
        problems.append(_problem(row, column, message))
    if text is None:
        return 0
    try:
        share_ppm = parse_scaled(text, PERCENT_SCALE, 10 * PPM, _PERCENT, "")
    except RefusedError as refused:
        problems.append(_problem(row, "debt_share", refused.message))
        return 0
    if not 0 < share_ppm <= PPM:
        message = "is no share: above 0 and up to 100 percent of every recharge"
        problems.append(_problem(row, "debt_share", message))
    return share_ppm


def _id_problems(row: Row) -> Iterator[Problem]:
    if "account" not in row.cells:
        yield _problem(row, "account", "is missing: the account's id")
    for name in _IDS:
        given = row.cells.get(name)
        if given is not None and not ID_PATTERN.fullmatch(given):
            yield _problem(
                row,
                name,
                f"is {quote(given)}: expected 1 to 63 small letters, digits and hyphens, no "
                "hyphen first",
            )


def _other_problems(row: Row, tariff: str | None) -> Iterator[Problem]:
    if "tariff" not in row.cells and not tariff:
        yield _problem(row, "tariff", "is missing: give it here or as --tariff")
    if len(row.cells.get("name", "")) > MAX_TEXT:
        yield _problem(row, "name", f"is longer than {MAX_TEXT} characters")
    if has_controls(row.cells.get("name", "")):
        yield _problem(row, "name", "has control characters")


def _twice(tenants: Sequence[Tenant]) -> Iterator[Problem]:
    accounts: dict[str, Tenant] = {}
    points: dict[str, Tenant] = {}
    for tenant in tenants:
        first = accounts.setdefault(tenant.account_id, tenant)
        if first is not tenant:
            where = first.row.place("account")
            message = f"the account {quote(tenant.account_id)} stands twice, first at {where}"
            yield _problem(tenant.row, "account", message)
            continue
        first = points.setdefault(tenant.service_point_id, tenant)
        if first is not tenant:
            where = first.row.place("account")
            message = f"the point {quote(tenant.service_point_id)} is taken at {where}"
            yield _problem(tenant.row, "service_point", message)


def _contradictions(tenant: Tenant, known: Known) -> Iterator[Problem]:
    if known.is_closed:
        yield _problem(tenant.row, "account", "is closed for good: take another id")
    elif known.service_point_id != tenant.service_point_id:
        message = f"the account is open at the point {known.service_point_id}"
        yield _problem(tenant.row, "service_point", message)
    elif known.tariff_id != tenant.tariff_id:
        yield _problem(tenant.row, "tariff", f"the account is open with {known.tariff_id}")
    elif known.disablement_threshold_nano != tenant.disablement_threshold_nano:
        yield _problem(
            tenant.row, "disablement_threshold", "the account is open with another threshold"
        )


def _problem(row: Row, column: str, message: str) -> Problem:
    return Problem(row.place(column), column, message)


def _close(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return f": did you mean {close[0]!r}?" if close else ""
