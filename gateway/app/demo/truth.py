"""What really happened at each cut: the gateway's record beside the simulator's truth."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from gateway.app.demo.nodes import openings
from gateway.core.errors import RefusedError
from gateway.sim.control import ask
from gateway.store.commands import CommandState, SwitchAction, SwitchCommand, commands_of
from gateway.store.db import reading
from gateway.store.ledger import LEDGER


@dataclass(frozen=True, slots=True)
class Cut:
    """One cut for credit. Times from the true crossing of zero, energy past it in Wh.

    `available_nano` is the balance when the cut was decided; None where the truth is not known.
    The last two are the gateway's own delays: from the reply that showed zero to the decision, and
    from there to handing the command to the connection; None where the cut did not follow at once.
    """

    meter_id: str
    state: str
    verified_by: tuple[str, ...]
    available_nano: int
    power_w: float | None
    past_zero_wh: float | None
    to_output_ms: float | None
    to_verified_ms: float | None
    issued_utc_ms: int
    reply_to_decision_us: int | None
    decision_to_write_us: int | None


async def cuts(ledger: Path, socket: Path, meter_ids: Iterable[str], price_micro: int) -> list[Cut]:
    """Every cut for credit of these meters, oldest first per meter.

    `price_micro` is the flat price per kWh under which all of them were. Raises StoreAwayError.
    """
    found: list[Cut] = []
    for meter_id in meter_ids:
        seen = await _openings(socket, meter_id)
        credit = _for_credit(ledger, meter_id)
        found += [await _cut(socket, command, seen, price_micro) for command in credit]
    return found


def node_cuts(
    ledger: Path, directory: Path, meter_ids: Iterable[str], price_micro: int
) -> list[Cut]:
    """The same of simulated nodes; when they crossed zero is not known.

    Raises StoreAwayError.
    """
    found: list[Cut] = []
    for meter_id in meter_ids:
        opened = openings(directory, meter_id)
        for command in _for_credit(ledger, meter_id):
            cut = _told(command)
            after = [wh for utc_ms, wh in opened if utc_ms >= command.issued_utc_ms]
            if after:
                cut = replace(cut, past_zero_wh=after[0] - _zero_wh(command, price_micro))
            found.append(cut)
    return found


def _for_credit(ledger: Path, meter_id: str) -> list[SwitchCommand]:
    """Its cuts for credit, oldest first."""
    with reading(ledger, LEDGER) as connection:
        commands = commands_of(connection, meter_id, limit=100)
    return [
        command
        for command in reversed(commands)
        if command.action is SwitchAction.OPEN and command.reason == "CREDIT"
    ]


def _zero_wh(command: SwitchCommand, price_micro: int) -> int:
    """The register at which the balance first was at or below zero."""
    available_nano = cast("int", command.detail["available_nano"])
    registers_wh = cast("list[int]", command.detail["registers_wh"])
    return registers_wh[0] - (-available_nano) // price_micro


def _told(command: SwitchCommand) -> Cut:
    """What the gateway itself knows of a cut."""
    detail = command.detail
    return Cut(
        meter_id=command.meter_id,
        state=command.state.value,
        verified_by=command.witnesses,
        available_nano=cast("int", detail["available_nano"]),
        power_w=cast("float | None", detail.get("power_w")),
        past_zero_wh=None,
        to_output_ms=None,
        to_verified_ms=None,
        issued_utc_ms=command.issued_utc_ms,
        reply_to_decision_us=cast("int | None", detail.get("reply_to_decision_us")),
        decision_to_write_us=cast("int | None", detail.get("decision_to_write_us")),
    )


async def _cut(
    socket: Path, command: SwitchCommand, seen: Sequence[dict[str, Any]], price_micro: int
) -> Cut:
    zero_wh = _zero_wh(command, price_micro)
    crossing = await ask(
        socket, "crossing", meter=command.meter_id, energy_wh=zero_wh, register="t1"
    )
    state = await ask(socket, "state", meter=command.meter_id)
    crossed_ms = cast("float | None", crossing["utc_ms"])
    opening = next((o for o in seen if crossed_ms is not None and o["utc_ms"] >= crossed_ms), None)
    past_zero_wh = to_output_ms = to_verified_ms = None
    if opening is not None and crossed_ms is not None:
        to_output_ms = opening["utc_ms"] - crossed_ms
        end_wh = opening["contactor_true_wh"]
        if end_wh is not None:
            past_zero_wh = end_wh - state["true_t2_wh"] - zero_wh
    shown_ms = cast("int | None", command.detail.get("shown_utc_ms"))
    if shown_ms is not None and crossed_ms is not None:
        to_verified_ms = shown_ms - crossed_ms
    return replace(
        _told(command),
        past_zero_wh=past_zero_wh,
        to_output_ms=to_output_ms,
        to_verified_ms=to_verified_ms,
    )


async def _openings(socket: Path, meter_id: str) -> list[dict[str, Any]]:
    try:
        answer = await ask(socket, "openings", meter=meter_id)
    except RefusedError:
        return []
    return cast("list[dict[str, Any]]", answer["openings"])


def unproved(found: Iterable[Cut]) -> list[Cut]:
    """Cuts that were commanded and not verified."""
    return [cut for cut in found if cut.state != CommandState.VERIFIED.value]
