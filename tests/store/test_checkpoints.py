"""Signed daily checkpoints: made from a proof, checked by anyone, and a place to go on from."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gateway.core.errors import StoreCorruptError
from gateway.store.audit import append_audit
from gateway.store.checkpoints import (
    Checkpoint,
    KeyTrust,
    Sums,
    append_checkpoint,
    newest_checkpoint,
    signed_checkpoint,
    trusted_checkpoint,
)
from gateway.store.db import Connection, StoreFile, translated
from gateway.store.ledger import append_transaction
from gateway.store.verify import verify_ledger
from tests.store.store_files import ledger_file, line, recharge, settlement


class Key:
    """A signer with a key of its own."""

    def __init__(self, seed: int) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)

    def public_key(self) -> bytes:
        return self._private.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        return self._private.sign(message)


def fits(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Ed25519, for the store's Protocol."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


SITE_KEY = Key(1)
TRUST = KeyTrust(SITE_KEY.public_key(), fits)


def post_day(connection: Connection, day: int, rounds: int = 3) -> None:
    """Some posting rounds of two flats, a recharge and an audit record."""
    connection.execute("BEGIN")
    for number in range(day * rounds, (day + 1) * rounds):
        start_wh = number * 10
        append_transaction(
            connection,
            settlement(line("a", start_wh, start_wh + 10), line("b", start_wh, start_wh + 10)),
        )
    append_transaction(connection, recharge("a", 5_000, key=f"r{day}"))
    append_audit(connection, utc_ms=day, body={"day": day})
    connection.execute("COMMIT")


def sign_day(connection: Connection, day: int, key: Key = SITE_KEY) -> Checkpoint:
    """Prove everything and sign it as the end of a day."""
    report = verify_ledger(connection)
    assert report.proved, report.problems
    checkpoint = signed_checkpoint(
        connection,
        key,
        day=f"2026-11-{day + 1:02}",
        utc_ms=day,
        head=report.head,
        audit_head=report.audit_head,
        sums=report.sums,
    )
    append_checkpoint(connection, checkpoint)
    return checkpoint


@pytest.fixture
def file(tmp_path: Path) -> Iterator[StoreFile]:
    """Three days with a checkpoint each, and a fourth without."""
    with ledger_file(tmp_path / "c") as file:
        for day in range(3):
            post_day(file.connection, day)
            sign_day(file.connection, day)
        post_day(file.connection, 3)
        yield file


@pytest.fixture
def connection(file: StoreFile) -> Connection:
    """The file's connection."""
    return file.connection


def free(connection: Connection) -> None:
    """What somebody with the file in an editor does first."""
    for table in ("checkpoint", "ledger_transaction", "entry", "settlement", "audit"):
        triggers = connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ?", (table,)
        ).fetchall()
        for (name,) in triggers:
            connection.execute(f"DROP TRIGGER {name}")
    connection.execute("PRAGMA foreign_keys=OFF")


def test_whole_proof_passes_its_checkpoints(connection: Connection) -> None:
    """Signatures, places and sums of all checkpoints are those of the walk."""
    report = verify_ledger(connection, trust=TRUST)
    assert (report.problems, report.checkpoints, report.foreign_checkpoints) == ((), 3, ())


def test_proof_from_a_checkpoint_equals_the_whole_proof(connection: Connection) -> None:
    """Only the fourth day is walked; head, sums and verdict are the same, balances included."""
    base, problems = trusted_checkpoint(connection, TRUST)
    assert base is not None
    assert base.day == "2026-11-03"
    assert problems == []
    short = verify_ledger(connection, since=base, trust=TRUST)
    whole = verify_ledger(connection, trust=TRUST)
    assert (short.transactions, whole.transactions) == (4, 16)
    assert (short.audit_records, whole.audit_records) == (1, 4)
    assert (short.problems, short.head, short.audit_head) == ((), whole.head, whole.audit_head)
    assert short.sums == whole.sums


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE balance SET amount_nano = amount_nano + 1", "balance of"),
        ("UPDATE entry SET amount_nano = -amount_nano WHERE seq = 13", "transaction 13"),
        ("UPDATE settlement SET from_wh = '[1]' WHERE seq = 13", "begins at registers"),
        ("UPDATE audit SET body = '{}' WHERE seq = 4", "audit record 4"),
    ],
)
def test_damage_after_the_checkpoint_is_found(
    connection: Connection, statement: str, problem: str
) -> None:
    """From a checkpoint on everything is proved, registers and balances too."""
    free(connection)
    connection.execute(statement)
    base, _ = trusted_checkpoint(connection, TRUST)
    report = verify_ledger(connection, since=base, trust=TRUST)
    assert any(problem in words for words in report.problems), report.problems


def test_damage_before_the_checkpoint_is_left_to_the_whole_proof(connection: Connection) -> None:
    """A start is quick because it does not look there; the background does, and finds it."""
    free(connection)
    connection.execute("UPDATE settlement SET flags = '[\"X\"]' WHERE seq = 2 AND line = 1")
    base, _ = trusted_checkpoint(connection, TRUST)
    assert verify_ledger(connection, since=base, trust=TRUST).proved
    assert not verify_ledger(connection, trust=TRUST).proved


@pytest.mark.parametrize(
    "forgery",
    [
        "day = '2026-11-04'",
        "utc_ms = utc_ms + 1",
        "audit_seq = audit_seq - 1",
        "sums = zeroblob(9)",
        "signature = zeroblob(64)",
        "public_key = zeroblob(32)",
    ],
)
def test_forged_checkpoint_is_found_and_not_used(connection: Connection, forgery: str) -> None:
    """Every column is covered by the signature; a start uses the one before and says so."""
    free(connection)
    connection.execute(f"UPDATE checkpoint SET {forgery} WHERE number = 3")  # noqa: S608
    base, problems = trusted_checkpoint(connection, TRUST)
    assert base is not None
    assert base.number == 2
    assert len(problems) == 1
    assert "signature" in problems[0]
    assert any("signature" in words for words in verify_ledger(connection, trust=TRUST).problems)


def test_checkpoint_of_another_key_is_told_and_not_used(connection: Connection) -> None:
    """A valid signature of a foreign key: no place to start from, and named; a former key is known.

    The ledger itself has no problem: a PC that was replaced has another key.
    """
    other = Key(2)
    sign_day(connection, 3, other)
    base, problems = trusted_checkpoint(connection, TRUST)
    assert base is not None
    assert base.number == 3
    assert problems == []
    report = verify_ledger(connection, trust=TRUST)
    assert (report.problems, report.foreign_checkpoints) == ((), ("2026-11-04",))
    known = replace(TRUST, former=frozenset({other.public_key()}))
    assert verify_ledger(connection, trust=known).foreign_checkpoints == ()
    assert trusted_checkpoint(connection, known)[0] == base


def test_checkpoint_of_another_site_is_found(connection: Connection) -> None:
    """The site's id is signed: a checkpoint copied from elsewhere does not fit."""
    free(connection)
    connection.execute("DROP TRIGGER site_frozen")
    connection.execute("UPDATE site SET site_id = 'elsewhere'")
    assert trusted_checkpoint(connection, TRUST)[0] is None
    assert verify_ledger(connection, trust=TRUST).problem_count == 3


def test_wrong_sums_of_the_right_key_are_found(connection: Connection) -> None:
    """A signature says who, the walk says what: sums that are not the ledger's are named."""
    report = verify_ledger(connection)
    wrong = Sums({**report.sums.balances, "wallet:a": 1}, report.sums.registers)
    append_checkpoint(
        connection,
        signed_checkpoint(
            connection,
            SITE_KEY,
            day="2026-11-04",
            utc_ms=3,
            head=report.head,
            audit_head=report.audit_head,
            sums=wrong,
        ),
    )
    assert verify_ledger(connection, trust=TRUST).problems == (
        "the checkpoint of 2026-11-04: its sums are not those of the ledger",
    )


def test_ledger_cut_off_behind_a_checkpoint_is_found(connection: Connection) -> None:
    """Transactions removed from the end, balances put right: the checkpoint remembers."""
    free(connection)
    for table in ("entry", "settlement", "ledger_transaction"):
        connection.execute(f"DELETE FROM {table} WHERE seq > 10")  # noqa: S608
    connection.execute("DELETE FROM balance")
    connection.execute(
        "INSERT INTO balance SELECT ledger_account, sum(amount_nano) FROM entry GROUP BY 1"
    )
    assert verify_ledger(connection).problem_count == 1
    base, problems = trusted_checkpoint(connection, TRUST)
    assert base is not None
    assert base.number == 2
    assert "the end of the ledger was cut off" in problems[0]


def test_rebuilt_chain_does_not_fit_its_checkpoints(connection: Connection) -> None:
    """Somebody who recomputes every hash after a change still lacks the key."""
    newest = newest_checkpoint(connection)
    assert newest is not None
    free(connection)
    connection.execute("UPDATE ledger_transaction SET hash = zeroblob(32) WHERE seq = 12")
    base, problems = trusted_checkpoint(connection, TRUST)
    assert base is not None
    assert base.number == 2
    assert "changed after it was signed" in problems[0]


@pytest.mark.parametrize(
    "change",
    [{"number": 7}, {"day": "2026-11-03"}, {"head": (2, "other")}, {"head": (99, "absent")}],
)
def test_checkpoint_must_follow_and_name_the_chain(
    file: StoreFile, change: dict[str, object]
) -> None:
    """Gaps, a second one for a day, and places that the chain does not have are refused by SQL."""
    report = verify_ledger(file.connection)
    good = signed_checkpoint(
        file.connection,
        SITE_KEY,
        day="2026-11-04",
        utc_ms=3,
        head=report.head,
        audit_head=report.audit_head,
        sums=report.sums,
    )
    if "head" in change:
        seq = 2 if change["head"] == (2, "other") else 99
        change = {"head": replace(report.head, seq=seq)}
    bad = replace(good, **change)  # type: ignore[arg-type]
    with pytest.raises(Exception, match="checkpoint") as caught:
        append_checkpoint(file.connection, bad)
    assert type(caught.value).__name__ == "IntegrityError"
    assert "checkpoint" in str(translated(caught.value, file.path))  # type: ignore[arg-type]
    append_checkpoint(file.connection, good)


@pytest.mark.parametrize("table", ["checkpoint"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET utc_ms = 1", "DELETE FROM {}"])
def test_checkpoints_are_append_only(connection: Connection, table: str, statement: str) -> None:
    """A checkpoint is neither changed nor removed by SQL."""
    with pytest.raises(Exception, match="append-only"):
        connection.execute(statement.format(table))


@pytest.mark.parametrize("blob", [b"", b"no zlib", Sums({"a": 1}, {}).packed()[:-3]])
def test_sums_that_cannot_be_read_are_an_error(blob: bytes) -> None:
    """Rubbish in the sums is a StoreCorruptError, not a crash."""
    with pytest.raises(StoreCorruptError):
        Sums.unpacked(blob)


def test_sums_survive_packing() -> None:
    """Balances and registers come back; equal sums are equal bytes."""
    sums = Sums({"wallet:a": -5, "cash:counter": 5}, {("m", "p", "a"): (1, 2)})
    assert Sums.unpacked(sums.packed()) == sums
    turned = Sums({"cash:counter": 5, "wallet:a": -5}, {("m", "p", "a"): (1, 2)})
    assert turned.packed() == sums.packed()
