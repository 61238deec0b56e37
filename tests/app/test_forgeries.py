"""Differential: one field of one row is changed, and every hash after it is computed again.

The forger can write the file and knows the program; the site's key is not theirs. Of each column
that the proofs cover some rows are changed, each alone, and `ledger verify --replay` has to find
it. What it cannot find is listed by name in `ON_TRUST`, as in docs/security.md; a column that is
found after all, or none that is listed, fails too. A signed checkpoint finds every one.
"""

import asyncio
import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from gateway.app.config import load_config
from gateway.app.paths import paths_of
from gateway.app.site_key import load_site_key, signature_fits
from gateway.core.errors import GatewayError
from gateway.core.ledger import GENESIS, chain_hash, transaction_body
from gateway.core.requests import ReplaceMeter
from gateway.store.audit import audit_body, audit_head
from gateway.store.checkpoints import KeyTrust, append_checkpoint, signed_checkpoint
from gateway.store.ledger import ledger_head, read_transaction
from gateway.store.provenance import RowProof
from gateway.store.replay import replay_ledger
from gateway.store.rows import mapping
from gateway.store.verify import verify_ledger
from tests.app.busy_site import BusySite
from tests.app.control_site import ControlSite
from tests.app.test_replay import unlock

pytestmark = pytest.mark.slow

COLUMNS = {
    "ledger_transaction": "kind utc_ms account_id request_key reverses_seq memo",
    "entry": "ledger_account amount_nano",
    "settlement": (
        "account_id service_point_id meter_id tariff_id period from_utc_ms to_utc_ms from_wh to_wh "
        "advance_wh cells charges flags facts export"
    ),
    "tariff": "tariff_id effective_from_utc_ms document",
    "account_point": "account_id service_point_id tariff_id from_utc_ms to_utc_ms",
    "meter_assignment": "meter_id service_point_id from_utc_ms opening_wh to_utc_ms closing_wh",
    "shift": "drawer cashier opened_utc_ms float_nano cash_provider request_key",
    "shift_closing": "utc_ms closed_by note means difference_seq request_key",
    "account_terms": "account_id document",
    "debt": "account_id debt_id kind share_ppm daily_nano weekly_cap_nano",
    "payment": "actor role day provider reference amount_nano shift",
    "audit": "utc_ms body",
}
ROWS_A_COLUMN = 4
# As docs/security.md has it, "What stays on trust": read that before adding one.
ON_TRUST = {
    "ledger_transaction.utc_ms": "the instant of a posting, between those before and after it",
    "settlement.flags": "flags that only inform",
    "payment.day": "the day on which a payment was asked for",
    "audit.utc_ms": "the instant of a request, within ten minutes of what it made",
    "audit.body": "what a request says and nothing follows from",
}


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site on which everything happened, an exchange of a meter too."""
    site = ControlSite(tmp_path_factory.mktemp("forged"), export="credited")

    async def live() -> None:
        world = BusySite(site)
        await world.live()
        registers = site.engine.points[1].guard.registers_wh
        assert registers is not None
        closing = (registers[0] + 3, *registers[1:])
        await world.ask(ReplaceMeter("flat-2", closing, (5, 0), "hail"))

    asyncio.run(live())
    site.crash()
    return site.directory


@pytest.fixture
def ledger(busy: Path) -> Iterator[sqlite3.Connection]:
    """A copy of its ledger, in memory, that anybody may write."""
    path = paths_of(load_config(busy / "config.yaml")).ledger
    connection = copied(sqlite3.connect(path))
    unlock(connection)
    yield connection
    connection.close()


def copied(source: sqlite3.Connection) -> sqlite3.Connection:
    """The same database in memory."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    source.backup(connection)
    connection.execute("PRAGMA ignore_check_constraints = ON")
    return connection


class Forger:
    """Changes values so that they still look like what they were."""

    def __init__(self, connection: sqlite3.Connection, seed: int) -> None:
        self.connection = connection
        self.chance = Random(seed)

    def change(self, table: str, column: str) -> str | None:
        """Change one field of one row; in words what was done, None where nothing can be."""
        key = KEYS.get(table, "rowid")
        rows = self.connection.execute(
            f"SELECT {key}, {column} FROM {table} WHERE {column} IS NOT NULL"  # noqa: S608
        ).fetchall()
        if not rows:
            return None
        # Most lines have no flag and many a memo is empty: there is nothing in them to change.
        *place, value = self.chance.choice([row for row in rows if row[-1] not in EMPTY] or rows)
        others = sorted({row[-1] for row in rows} - {value}, key=str)
        changed = self.other(value, others)
        if changed == value:
            return None
        where = key.replace(", ", " = ? AND ")
        values = (changed, *place)
        try:
            self.connection.execute(
                f"UPDATE {table} SET {column} = ? WHERE {where} = ?",  # noqa: S608
                values,
            )
        except sqlite3.IntegrityError:
            return None
        self.rehash()
        return f"{table} {place} {column}: {value!r} -> {changed!r}"

    def other(self, value: object, others: list[object]) -> object:
        """Another value of the same kind."""
        if isinstance(value, int):
            step = self.chance.choice((1, 1_000, 3_600_000, 86_400_000))
            return value + self.chance.choice((-1, 1)) * step
        text = str(value)
        if text[:1] in ("[", "{"):
            return self.inside(json.loads(text))
        return self.chance.choice(others) if others else text + "x"

    def inside(self, document: object) -> str:
        """One leaf of a document changed, or an element left out."""
        leaves: list[tuple[Any, str | int]] = []

        def walk(node: object) -> None:
            names: Iterable[Any] = range(len(node)) if isinstance(node, list) else ()
            for name in node if isinstance(node, dict) else names:
                leaves.append((node, name))
                walk(node[name])  # type: ignore[index]

        walk(document)
        if leaves:
            node, name = self.chance.choice(leaves)
            value = node[name]
            if isinstance(value, int | str) and self.chance.random() < 0.8:
                node[name] = self.other(value, [])
            else:
                del node[name]
        return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def rehash(self) -> None:
        """Both chains and the balances, so that they hold for what is there now."""
        db, link = self.connection, GENESIS
        for (seq,) in db.execute("SELECT seq FROM ledger_transaction ORDER BY seq").fetchall():
            try:
                transaction = read_transaction(db, seq)
            except (ValueError, GatewayError):
                continue
            assert transaction is not None
            link = chain_hash(link, transaction_body(seq, transaction))
            db.execute("UPDATE ledger_transaction SET hash = ? WHERE seq = ?", (link, seq))
        link = GENESIS
        for seq, utc_ms, text in db.execute("SELECT seq, utc_ms, body FROM audit ORDER BY seq"):
            link = chain_hash(link, audit_body(seq, utc_ms, mapping(text)))
            db.execute("UPDATE audit SET hash = ? WHERE seq = ?", (link, seq))
        db.execute("DELETE FROM balance")
        db.execute(
            "INSERT INTO balance SELECT ledger_account, sum(amount_nano) FROM entry GROUP BY 1"
        )


EMPTY = ("[]", "{}")
KEYS = {
    "settlement": "seq, line",
    "entry": "seq, line",
    "tariff": "tariff_id, version",
    "account_terms": "account_id, number",
}


def is_found(connection: sqlite3.Connection) -> bool:
    """Whether either proof tells something."""
    if not verify_ledger(connection).proved:
        return True
    report = replay_ledger(connection)
    return not report.proved or bool(report.balances)


def says_the_same(table: str, before: sqlite3.Connection, after: sqlite3.Connection) -> bool:
    """Whether terms or a count of a drawer read as before: what is left out may be the default."""
    if table not in {"account_terms", "shift_closing"}:
        return False
    rows = RowProof(before)._rows
    return rows is not None and rows == RowProof(after)._rows


def test_each_field_that_is_forged_alone_is_found(ledger: sqlite3.Connection) -> None:
    """But those on trust; each of these is one that in fact is not found."""
    missed: dict[str, list[str]] = defaultdict(list)
    tried = 0
    assert not is_found(ledger)
    for table, columns in COLUMNS.items():
        for column in columns.split():
            for _ in range(ROWS_A_COLUMN):
                tried += 1
                copy = copied(ledger)
                words = Forger(copy, tried).change(table, column)
                if words is not None and not (says_the_same(table, ledger, copy) or is_found(copy)):
                    missed[f"{table}.{column}"].append(words)
                copy.close()
    assert {name: told for name, told in missed.items() if name not in ON_TRUST} == {}
    assert missed.keys() == ON_TRUST.keys()
    assert tried > 200


def test_a_signed_checkpoint_finds_even_those(busy: Path, ledger: sqlite3.Connection) -> None:
    """Whatever comes before it, in the chains: the site's key is not the forger's."""
    signer = load_site_key(paths_of(load_config(busy / "config.yaml")).control_dir)
    proved = verify_ledger(ledger)
    append_checkpoint(
        ledger,
        signed_checkpoint(
            ledger,
            signer,
            day="2027-02-06",
            utc_ms=1,
            head=ledger_head(ledger),
            audit_head=audit_head(ledger),
            sums=proved.sums,
        ),
    )
    trust = KeyTrust(signer.public_key(), signature_fits)
    assert verify_ledger(ledger, trust=trust).problems == ()
    for name in ON_TRUST:
        table, column = name.split(".")
        for seed in range(ROWS_A_COLUMN if table != "payment" else 0):
            copy = copied(ledger)
            if Forger(copy, seed).change(table, column) is not None:
                assert not verify_ledger(copy, trust=trust).proved
            copy.close()
