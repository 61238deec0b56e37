"""Sections of the configuration file about the counter: takings and vouchers."""

from pydantic import Field

from gateway.app.config_section import Section
from gateway.app.config_types import AmountText, Identifier, OptionalLine, SixDecimals


class CounterSection(Section):
    """How cashiers take money."""

    shift_required: bool = Field(
        default=False,
        description="Whether an operator's recharge is refused without an open shift.",
    )
    operator_daily_limit: SixDecimals | None = Field(
        default=None,
        description="What an operator may take on a local day, in major units with at most six "
        "decimals; a manager is not limited.",
    )
    unique_references: bool = Field(
        default=False,
        description="Whether a second payment with the same provider and reference is refused.",
    )
    cash_provider: Identifier = Field(
        default="counter",
        description="Provider that is cash: the drawer's float is counted with it.",
    )
    blind_count: bool = Field(
        default=True,
        description="Whether operators see what an open shift should hold only after the count.",
    )


class VoucherSection(Section):
    """Vouchers of 20 digits."""

    voucher_unit: AmountText | None = Field(
        default=None,
        description='What one unit of a voucher is worth, in major units such as "0.50"; none: one '
        "minor unit. A voucher carries 1,048,575 units at most, and only whole units.",
    )
    tries: int = Field(
        default=5, ge=2, le=20, description="So many wrong vouchers lock a point or an address, …"
    )
    tries_within_s: int = Field(
        default=600, ge=60, le=86_400, description="… when they fall within this time, …"
    )
    lock_s: int = Field(
        default=3_600, ge=600, le=604_800, description="… for this time; a manager may end it."
    )
    note: OptionalLine = Field(
        default="", description="A line at the foot of a printed voucher, such as a telephone."
    )
