"""Signed daily checkpoints in `ledger.db`: from where a proof of the ledger may go on.

A checkpoint is made from a proof, never from the projection alone: its sums are what the walk over
the chain added up to. Whoever has the site's public key can check it without trusting the file.
"""

import hashlib
import sqlite3
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from gateway.core.errors import StoreCorruptError
from gateway.core.ledger import canonical_json
from gateway.core.signing import SignatureCheck, Signer
from gateway.store.ledger import ChainHead, read_site
from gateway.store.rows import as_bytes, as_int, as_text, mapping

# Signed with every message, so that no other signature of the key can be taken for this one.
PURPOSE: Final = "prepaid-gateway checkpoint 1"
# What packed sums may unpack to: 10,000 meters take 2 MB.
SUMS_MAX_BYTES: Final = 64 * 1024 * 1024
_COLUMNS: Final = (
    "number, day, utc_ms, seq, hash, audit_seq, audit_hash, sums, public_key, signature"
)

RegisterKey = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Sums:
    """What a proof carries along: `balances` in nano-units by ledger account (none of zero), and
    the last registers in Wh of every (meter, service point, account) that was ever settled;
    `export` are the last export registers of those that fed in and were paid for it.
    """

    balances: Mapping[str, int] = field(default_factory=dict)
    registers: Mapping[RegisterKey, tuple[int, ...]] = field(default_factory=dict)
    export: Mapping[RegisterKey, tuple[int, ...]] = field(default_factory=dict)

    def packed(self) -> bytes:
        """Canonical JSON in zlib."""
        body: dict[str, object] = {
            "balances": dict(self.balances),
            "registers": _rows_of(self.registers),
        }
        if self.export:
            body["export"] = _rows_of(self.export)
        return zlib.compress(canonical_json(body), 6)

    @staticmethod
    def unpacked(blob: bytes) -> "Sums":
        """The reverse of `packed`. Raises StoreCorruptError."""
        try:
            stream = zlib.decompressobj()
            text = stream.decompress(blob, SUMS_MAX_BYTES)
            if not stream.eof:
                raise StoreCorruptError("the sums of a checkpoint do not end")
            body = mapping(text.decode())
            balances = body["balances"]
            if not isinstance(balances, dict):
                raise StoreCorruptError("the sums of a checkpoint have another shape")
            return Sums(
                {as_text(name): as_int(nano) for name, nano in balances.items()},
                _registers_of(body["registers"]),
                _registers_of(body.get("export", [])),
            )
        except (zlib.error, ValueError, KeyError, TypeError) as error:
            raise StoreCorruptError(f"the sums of a checkpoint cannot be read: {error}") from error


def _rows_of(registers: Mapping[RegisterKey, tuple[int, ...]]) -> list[list[object]]:
    return [[*key, list(wh)] for key, wh in sorted(registers.items())]


def _registers_of(rows: object) -> dict[RegisterKey, tuple[int, ...]]:
    if not isinstance(rows, list):
        raise StoreCorruptError("the sums of a checkpoint have another shape")
    return {
        (as_text(meter), as_text(point), as_text(account)): tuple(map(as_int, wh))
        for meter, point, account, wh in rows
    }


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The ledger as it stood when the local day `day` (YYYY-MM-DD) was over, signed."""

    number: int
    day: str
    utc_ms: int
    head: ChainHead
    audit_head: ChainHead
    packed_sums: bytes
    public_key: bytes
    signature: bytes

    def message(self, site_id: str) -> bytes:
        """What is signed: purpose, site, place in both chains and the sums' SHA-256."""
        return canonical_json(
            {
                "purpose": PURPOSE,
                "site": site_id,
                "number": self.number,
                "day": self.day,
                "utc_ms": self.utc_ms,
                "seq": self.head.seq,
                "hash": self.head.hash.hex(),
                "audit_seq": self.audit_head.seq,
                "audit_hash": self.audit_head.hash.hex(),
                "sums_sha256": hashlib.sha256(self.packed_sums).hexdigest(),
            }
        )


@dataclass(frozen=True, slots=True)
class KeyTrust:
    """Whose signatures count: the site's key, and keys that it had before (`former`)."""

    site_key: bytes
    check: SignatureCheck
    former: frozenset[bytes] = frozenset()

    def problem(self, checkpoint: Checkpoint, site_id: str) -> str | None:
        """Why a checkpoint's signature says nothing; None when it is a trusted key's."""
        message = checkpoint.message(site_id)
        if not self.check(checkpoint.public_key, message, checkpoint.signature):
            return f"the checkpoint of {checkpoint.day}: its signature does not fit its content"
        return None

    def knows(self, checkpoint: Checkpoint) -> bool:
        """Whether it was signed with a key of this site."""
        return checkpoint.public_key == self.site_key or checkpoint.public_key in self.former


def signed_checkpoint(
    connection: sqlite3.Connection,
    signer: Signer,
    *,
    day: str,
    utc_ms: int,
    head: ChainHead,
    audit_head: ChainHead,
    sums: Sums,
) -> Checkpoint:
    """The next checkpoint, made from what a proof found; written by `append_checkpoint`."""
    newest = connection.execute("SELECT coalesce(max(number), 0) FROM checkpoint").fetchone()[0]
    unsigned = Checkpoint(
        newest + 1, day, utc_ms, head, audit_head, sums.packed(), signer.public_key(), b""
    )
    signature = signer.sign(unsigned.message(read_site(connection).site_id))
    return Checkpoint(
        unsigned.number,
        day,
        utc_ms,
        head,
        audit_head,
        unsigned.packed_sums,
        unsigned.public_key,
        signature,
    )


def append_checkpoint(connection: sqlite3.Connection, checkpoint: Checkpoint) -> None:
    """Write a checkpoint.

    Raises sqlite3.IntegrityError (a StoreError through the writer) when it is not the next one or
    names no transaction of the chain.
    """
    connection.execute(
        "INSERT INTO checkpoint VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            checkpoint.number,
            checkpoint.day,
            checkpoint.utc_ms,
            checkpoint.head.seq,
            checkpoint.head.hash,
            checkpoint.audit_head.seq,
            checkpoint.audit_head.hash,
            checkpoint.packed_sums,
            checkpoint.public_key,
            checkpoint.signature,
        ),
    )


def newest_checkpoint(connection: sqlite3.Connection) -> Checkpoint | None:
    """The last checkpoint written; None before the first."""
    return next(iter(_read(connection, "ORDER BY number DESC LIMIT 1", ())), None)


def read_checkpoint(connection: sqlite3.Connection, number: int) -> Checkpoint | None:
    """A checkpoint by its number."""
    return next(iter(_read(connection, "WHERE number = ?", (number,))), None)


def checkpoint_places(connection: sqlite3.Connection, after_seq: int) -> list[tuple[int, int]]:
    """Number and transaction of every checkpoint from `after_seq` on, in order."""
    return [
        (as_int(number), as_int(seq))
        for number, seq in connection.execute(
            "SELECT number, seq FROM checkpoint WHERE seq >= ? ORDER BY number", (after_seq,)
        )
    ]


def trusted_checkpoint(
    connection: sqlite3.Connection, trust: KeyTrust
) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that the site's present key signed, and what is wrong with newer ones.

    One whose transaction is not in the chain counts as wrong too: the ledger's end is missing.
    """
    site_id, problems = read_site(connection).site_id, list[str]()
    for (number,) in connection.execute(
        "SELECT number FROM checkpoint ORDER BY number DESC"
    ).fetchall():
        checkpoint = read_checkpoint(connection, number)
        if checkpoint is None:
            continue
        problem = trust.problem(checkpoint, site_id) or chain_problem(connection, checkpoint)
        if problem is not None:
            problems.append(problem)
        elif checkpoint.public_key == trust.site_key:
            return checkpoint, problems
    return None, problems


def chain_problem(connection: sqlite3.Connection, checkpoint: Checkpoint) -> str | None:
    """Why a checkpoint's transaction or audit record is not in the file; None when both are."""
    head, audit = checkpoint.head, checkpoint.audit_head
    for table, place, name in (
        ("ledger_transaction", head, "transaction"),
        ("audit", audit, "audit record"),
    ):
        if place.seq == 0:
            continue
        row = connection.execute(
            f"SELECT hash FROM {table} WHERE seq = ?",  # noqa: S608 - constants
            (place.seq,),
        ).fetchone()
        if row is None:
            return (
                f"the checkpoint of {checkpoint.day} names {name} {place.seq}, which is missing: "
                "the end of the ledger was cut off"
            )
        if row[0] != place.hash:
            return (
                f"the checkpoint of {checkpoint.day} does not fit {name} {place.seq}: the ledger "
                "was changed after it was signed"
            )
    return None


def _read(connection: sqlite3.Connection, which: str, arguments: Sequence[int]) -> list[Checkpoint]:
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM checkpoint {which}",  # noqa: S608 - constants
        arguments,
    ).fetchall()
    return [
        Checkpoint(
            number=as_int(row[0]),
            day=as_text(row[1]),
            utc_ms=as_int(row[2]),
            head=ChainHead(as_int(row[3]), as_bytes(row[4])),
            audit_head=ChainHead(as_int(row[5]), as_bytes(row[6])),
            packed_sums=as_bytes(row[7]),
            public_key=as_bytes(row[8]),
            signature=as_bytes(row[9]),
        )
        for row in rows
    ]
