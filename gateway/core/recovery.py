"""RECOVERY: the site after a restore, until a manager has reconciled it (domain.md section 6).

In RECOVERY no supply is cut for lack of credit: a recharge of the time that the backup does not
know may be missing. Nor is an output closed by itself that is open at its first reading: who opened
it may be lost too. Everything else goes on. It ends by a manager's word only.
"""

from dataclasses import dataclass
from enum import StrEnum


class RecoveryReason(StrEnum):
    """Why a site is in RECOVERY."""

    RESTORED = "restored"
    OLDER = "older_than_known"


@dataclass(frozen=True, slots=True)
class KnownHead:
    """A head of the ledger's chain that somebody saw: sequence and 32 bytes of hash."""

    seq: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Recovery:
    """One RECOVERY. `head` is the ledger it began with, `known` the newest that was ever seen.

    `outcome_number` is the last outcome of that ledger: later ones are replays or new.
    """

    number: int
    reason: RecoveryReason
    since_utc_ms: int
    head: KnownHead
    known: KnownHead
    outcome_number: int
    detail: str


def is_lost(known: KnownHead | None, hash_there: bytes | None, last: Recovery | None) -> bool:
    """Whether a ledger lacks a head that somebody has seen: it is an older one, or another.

    `hash_there` is the ledger's own hash at `known.seq`, None beyond its end. What the last
    RECOVERY was entered for is known to be lost and asks for no second one.
    """
    if known is None or known.seq <= 0 or hash_there == known.hash:
        return False
    return last is None or last.known != known
