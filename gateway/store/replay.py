"""`ledger verify --replay`: the ledger rebuilt from settlement rows, requests and tariffs.

Reads in slices like `verify_ledger`, up to the head at the beginning, so that it may run beside the
writer. Memory grows with requests about money, not with settlement lines.
"""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from zoneinfo import ZoneInfo

from gateway.core.credit import CreditTerms
from gateway.core.errors import GatewayError, RefusedError, StoreCorruptError
from gateway.core.ledger import Transaction
from gateway.core.money import Currency
from gateway.core.replay import Asked, Difference, Replay, unasked_tariffs
from gateway.core.replay_energy import Stay
from gateway.core.replay_money import Sources
from gateway.core.requests import BODIES, Body, decode_body
from gateway.core.shift import Shift
from gateway.core.tariff import Tariff
from gateway.core.tariff_document import tariff_from_document
from gateway.core.terms_document import terms_from_document
from gateway.store.accounts import all_points
from gateway.store.audit import audit_head
from gateway.store.ledger import ChainHead, ledger_head, read_site, read_transaction
from gateway.store.registry import TariffVersion, read_tariffs
from gateway.store.rows import as_int, mapping
from gateway.store.shifts import read_payment, read_shift
from gateway.store.verify import PROBLEMS_MAX, Progress, read_slice, slice_end

# Requests that move money or decide on how it moves, and whose it is.
READ: Final = frozenset(
    {
        "recharge",
        "reverse_transaction",
        "open_account",
        "close_account",
        "configure_account",
        "publish_tariff",
        "transfer",
        "invoke_emergency",
        "add_debt",
        "write_off",
        "issue_voucher",
        "redeem_voucher",
        "cancel_voucher",
        "close_shift",
        "open_shift",
        "replace_meter",
        "release_quarantine",
    }
)
AUDIT_SLICE: Final = 1_000


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What a replay found. `differences` are the first 100; `difference_count` counts all.

    `unproved` counts by reason what was taken as it stands. `balances` are ledger accounts that do
    not hold what the replay came to: (what its entries sum to, what was computed).
    """

    transactions: int
    head: ChainHead
    differences: tuple[Difference, ...]
    difference_count: int
    unproved: Mapping[str, int]
    balances: Mapping[str, tuple[int, int]]

    @property
    def proved(self) -> bool:
        """Nothing differs; `unproved` may still hold something."""
        return self.difference_count == 0


@dataclass(slots=True)
class _Found:
    differences: list[Difference] = field(default_factory=list)
    count: int = 0

    def add(self, differences: Sequence[Difference]) -> None:
        self.count += len(differences)
        self.differences += differences[: PROBLEMS_MAX - len(self.differences)]


def replay_ledger(connection: sqlite3.Connection, progress: Progress | None = None) -> ReplayReport:
    """Compute every transaction again; `connection` is in autocommit mode.

    `progress` is called between two slices with the transactions done and those there are. Raises
    StoreCorruptError or sqlite3.Error when the file cannot be read at all.
    """
    connection.execute("BEGIN")
    try:
        head, audit_end = ledger_head(connection), audit_head(connection)
        site, versions = read_site(connection), read_tariffs(connection)
        stays = [
            Stay(
                stay.account_id,
                stay.service_point_id,
                stay.tariff_id,
                stay.from_utc_ms,
                joined=stay.joined,
                to_utc_ms=stay.to_utc_ms,
            )
            for stay in all_points(connection)
        ]
    finally:
        connection.execute("ROLLBACK")
    currency = Currency(site.currency, site.money_scale, site.minor_digits).as_stored()
    requests = _requests(connection, audit_end.seq)

    def terms(document: Mapping[str, object]) -> CreditTerms:
        return terms_from_document(document, currency, site.zone)

    found = _Found()
    sources = Sources(
        zone=ZoneInfo(site.zone),
        tariffs=_tariffs(versions, currency, found),
        stays=stays,
        transaction_of=lambda seq: _transaction(connection, seq),
        shift_of=lambda number: _shift(connection, number),
    )
    replay = Replay(sources, requests, terms)
    found.add(unasked_tariffs(requests, ((v.tariff_id, v.version, v.document) for v in versions)))
    by_key = {asked.key: asked for asked in requests}

    def take(seq: int, transaction: Transaction) -> None:
        found.add(replay.take(seq, transaction))
        asked = by_key.get(transaction.request_key or "")
        if asked is not None:
            found.add(_paid_by(connection, seq, asked))

    stored = _walk(connection, head.seq, take, found, progress)
    found.add(replay.end())
    names = stored.keys() | replay.balances.keys()
    pairs = {name: (stored.get(name, 0), replay.balances.get(name, 0)) for name in sorted(names)}
    return ReplayReport(
        transactions=head.seq,
        head=head,
        differences=tuple(found.differences),
        difference_count=found.count,
        unproved=dict(replay.unproved),
        balances={name: pair for name, pair in pairs.items() if pair[0] != pair[1]},
    )


def _walk(
    connection: sqlite3.Connection,
    head_seq: int,
    take: Callable[[int, Transaction], None],
    found: _Found,
    progress: Progress | None,
) -> dict[str, int]:
    """Give every transaction to `take`; what the stored entries sum to."""
    sums: dict[str, int] = {}
    done = 0

    def unreadable(words: str) -> None:
        found.add([Difference(0, words)])

    while done < head_seq:
        connection.execute("BEGIN")
        try:
            last = slice_end(connection, done, head_seq)
            rows = read_slice(connection, done + 1, last, unreadable)
        finally:
            connection.execute("ROLLBACK")
        if len(rows) != last - done:
            unreadable(f"of transactions {done + 1} to {last} some are missing")
        for seq, transaction, _ in rows:
            if transaction is None:
                continue
            for entry in transaction.entries:
                name = entry.ledger_account
                sums[name] = sums.get(name, 0) + entry.amount_nano
            take(seq, transaction)
        done = last
        if progress is not None:
            progress(done, head_seq)
    return sums


def _paid_by(connection: sqlite3.Connection, seq: int, asked: Asked) -> list[Difference]:
    """What the index of payments says of who took money, where the request says otherwise."""
    payment = read_payment(connection, seq)
    if payment is None or not payment.actor or not asked.actor:
        return []
    if (payment.actor, payment.role) == (asked.actor, asked.role):
        return []
    stored, made = f"{payment.actor} ({payment.role})", f"{asked.actor} ({asked.role})"
    return [Difference(seq, f"the payment is {stored}'s, the request {made}'s")]


def _tariffs(
    versions: Sequence[TariffVersion], currency: Currency, found: _Found
) -> dict[str, list[Tariff]]:
    """Every version that can be read, by tariff; of another one `found` hears."""
    tariffs: dict[str, list[Tariff]] = {}
    for one in versions:
        try:
            tariff = tariff_from_document(one.document, currency, version=one.version)
        except GatewayError as error:
            what = f"version {one.version} of tariff {one.tariff_id} cannot be read: {error}"
            found.add([Difference(0, what)])
            continue
        if tariff.effective_from_utc_ms != one.effective_from_utc_ms:
            what = f"version {one.version} of tariff {one.tariff_id} has another date in its row"
            found.add([Difference(0, what)])
        tariffs.setdefault(one.tariff_id, []).append(tariff)
    return tariffs


def _requests(connection: sqlite3.Connection, last_seq: int) -> list[Asked]:
    """The requests of the audit log that were carried out, in their order."""
    found: list[Asked] = []
    for first in range(1, last_seq + 1, AUDIT_SLICE):
        rows = connection.execute(
            "SELECT utc_ms, body FROM audit WHERE seq BETWEEN ? AND ? ORDER BY seq",
            (first, min(first + AUDIT_SLICE - 1, last_seq)),
        ).fetchall()
        for utc_ms, body in rows:
            record = mapping(body)
            kind = str(record.get("action"))
            if record.get("result") != "executed" or "request" not in record:
                continue
            if kind in READ or kind not in BODIES:
                asked = Asked(
                    str(record["request"]),
                    as_int(utc_ms),
                    _body(kind, record),
                    str(record.get("actor", "")),
                    str(record.get("role", "")),
                )
                found.append(asked)
    return found


def _body(kind: str, record: Mapping[str, object]) -> Body | None:
    document = record.get("object")
    if not isinstance(document, dict):
        return None
    try:
        return decode_body(kind, document)
    except RefusedError:
        return None


def _transaction(connection: sqlite3.Connection, seq: int) -> Transaction | None:
    try:
        return read_transaction(connection, seq)
    except (ValueError, StoreCorruptError):
        return None  # told where it was walked over


def _shift(connection: sqlite3.Connection, number: int) -> Shift | None:
    record = read_shift(connection, number)
    return None if record is None else record.shift
