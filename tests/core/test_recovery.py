"""RECOVERY: when a ledger counts as lost."""

import pytest

from gateway.core.recovery import KnownHead, Recovery, RecoveryReason, is_lost

ONE, TWO, OTHER = b"1" * 32, b"2" * 32, b"x" * 32


def recovery(known: KnownHead) -> Recovery:
    """A RECOVERY that was entered for what is known."""
    return Recovery(1, RecoveryReason.OLDER, 0, KnownHead(1, ONE), known, 0, "")


@pytest.mark.parametrize(
    ("known", "there", "last", "lost"),
    [
        (None, None, None, False),  # nobody remembers anything
        (KnownHead(0, ONE), None, None, False),  # a ledger without a transaction
        (KnownHead(2, TWO), TWO, None, False),  # the ledger contains it
        (KnownHead(2, TWO), None, None, True),  # it ends before
        (KnownHead(2, TWO), OTHER, None, True),  # it went another way
        (KnownHead(2, TWO), None, recovery(KnownHead(2, TWO)), False),  # that loss is known
        (KnownHead(3, OTHER), None, recovery(KnownHead(2, TWO)), True),  # and this is another
    ],
)
def test_a_ledger_is_lost_when_it_lacks_what_somebody_saw(
    known: KnownHead | None, there: bytes | None, last: Recovery | None, *, lost: bool
) -> None:
    """Older, or another history; not a second time for the same loss."""
    assert is_lost(known, there, last) is lost
