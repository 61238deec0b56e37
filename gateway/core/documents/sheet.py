"""A statement as people read it: minor units that foot.

Balances are floored (never more than is there), lines are rounded half-up, and what lies between
them stands in a line of its own. Nothing here is posted: the exact amounts remain what is owed.
"""

from dataclasses import dataclass

from gateway.core.documents.statement import Statement
from gateway.core.money import Currency, round_half_up_minor


@dataclass(frozen=True, slots=True)
class Sheet:
    """Shown amounts in nano-units, whole minor units each, in the order of the statement's lines.

    They are signed as the balance moves: opening + all lines + rounding = closing.
    """

    opening_nano: int
    money_nano: tuple[int, ...]
    energy_nano: tuple[int, ...]
    components_nano: tuple[int, ...]
    moved_nano: tuple[int, ...]
    rounding_nano: int
    closing_nano: int


def sheet_of(statement: Statement, currency: Currency) -> Sheet:
    """What is shown of a statement."""

    def rounded(amounts: list[int]) -> tuple[int, ...]:
        return tuple(round_half_up_minor(amount, currency) for amount in amounts)

    opening_nano = floored_minor(statement.opening_nano, currency)
    closing_nano = floored_minor(statement.closing_nano, currency)
    money = rounded([line.amount_nano for line in statement.money])
    energy = rounded([-line.amount_nano for line in statement.energy])
    components = rounded([-line.amount_nano for line in statement.components])
    moved = rounded([-line.amount_nano for line in statement.moved])
    lines_nano = sum((*money, *energy, *components, *moved))
    return Sheet(
        opening_nano=opening_nano,
        money_nano=money,
        energy_nano=energy,
        components_nano=components,
        moved_nano=moved,
        rounding_nano=closing_nano - opening_nano - lines_nano,
        closing_nano=closing_nano,
    )


def floored_minor(amount_nano: int, currency: Currency) -> int:
    """The amount floored to whole minor units (I11)."""
    return amount_nano // currency.minor_nano * currency.minor_nano
