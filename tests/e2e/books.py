"""What the ledger must say of an account, beside what the simulated meter shows."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from gateway.store.ledger import AccountTransaction
from tests.e2e.gateway_site import Gateway

PRICE_NANO: Final = 8_000_000  # of one Wh: 8.00 per kWh
GENERATOR_NANO: Final = 25_000_000


def charged_nano(transactions: Sequence[AccountTransaction]) -> int:
    """What all settlement lines charged."""
    lines = [line for transaction in transactions for line in transaction.settlements]
    return sum(amount for line in lines for _, amount in line.charges)


def advance_wh(transactions: Sequence[AccountTransaction]) -> tuple[int, int]:
    """What all settlement lines settled, T1 and T2."""
    lines = [line for transaction in transactions for line in transaction.settlements]
    return sum(line.advance_wh[0] for line in lines), sum(line.advance_wh[1] for line in lines)


def check_books(site: Gateway, account: str, *, posted: bool) -> None:
    """Charges are the registers' advance at the price, without hole or overlap.

    `posted` says that everything up to the meter's present register must be settled.
    """
    transactions = site.transactions(account)
    lines = [line for transaction in transactions for line in transaction.settlements]
    assert lines, f"nothing was settled for {account}"
    for before, after in pairwise(lines):
        assert after.from_wh == before.to_wh, f"{account}: {before} does not join {after}"
        assert after.from_utc_ms >= before.from_utc_ms
    for line in lines:
        moved_wh = tuple(b - a for a, b in zip(line.from_wh, line.to_wh, strict=True))
        assert line.advance_wh == moved_wh, f"{account}: {line}"
    grid_wh, generator_wh = advance_wh(transactions)
    charges_nano = grid_wh * PRICE_NANO + generator_wh * GENERATOR_NANO
    assert charged_nano(transactions) == charges_nano
    given_nano = sum(t.amount_nano for t in transactions if not t.settlements)
    assert transactions[-1].balance_nano == given_nano - charges_nano
    register_wh = site.register_wh(account)
    if posted:
        assert lines[-1].to_wh == register_wh
    else:
        assert sum(lines[-1].to_wh) <= sum(register_wh)
