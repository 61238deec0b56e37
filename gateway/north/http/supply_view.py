"""The supply of a point as the API shows it."""

from pydantic import BaseModel, Field

from gateway.north.http.forms import rfc3339
from gateway.store.commands import SwitchCommand
from gateway.store.live import LiveRow


class SupplyView(BaseModel):
    """Control state (COSEM class 70), what the output reads back, and why supply is blocked.

    `intended_closed` against `output_closed` is what should be against what is; a `fault` is a
    switch that could not be proved.
    """

    control_state: str
    intended_closed: bool
    output_closed: bool | None = Field(description="As last read back; null when not known")
    block_reasons: list[str]
    fault: str | None
    at: str


def supply_view(row: LiveRow) -> SupplyView:
    """What the live table says of a point's supply."""
    return SupplyView(
        control_state=row.control_state.value,
        intended_closed=row.intended_closed,
        output_closed=row.output_closed,
        block_reasons=sorted(reason.value for reason in row.reasons),
        fault=None if row.fault is None else row.fault.value,
        at=rfc3339(row.utc_ms),
    )


def block_reasons_of(command: SwitchCommand) -> list[str]:
    """What blocked supply when a switch was ordered; empty for a reconnection."""
    return [name for name in command.reason.split(",") if name]
