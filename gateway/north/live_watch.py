"""Follows control's live table and ledger and tells the stream what changed."""

import asyncio
from typing import Final

import structlog

from gateway.core.errors import StoreError
from gateway.core.money import format_amount
from gateway.core.reading import Quality
from gateway.core.switching import ControlState, Reason
from gateway.north.context import MeterEntry, NorthContext
from gateway.north.http.forms import rfc3339, rfc3339_or_none
from gateway.north.http.supply_view import block_reasons_of
from gateway.north.hub import BALANCE, COMMAND, MEASUREMENT, SUPPLY
from gateway.store.commands import CommandState, SwitchCommand
from gateway.store.live import LiveRow

# Twice per sweep of control: an event is at most half a second older than what it tells.
LOOK_EVERY_S: Final = 0.5
# The record of a switch may be committed a while after the switch itself is seen: look for it
# with so many further commits.
SWITCHED_LOOKS: Final = 20

_log = structlog.get_logger("gateway.north")

SupplyState = tuple[ControlState, bool | None, frozenset[Reason]]


class LiveWatch:
    """Compares each look with the one before; the first look only fills the memory."""

    def __init__(self, context: NorthContext) -> None:
        self._context = context
        self._sequences: dict[str, int] = {}
        self._supplies: dict[str, SupplyState] = {}
        self._posted_nano: dict[str, int] | None = None
        self._open: dict[str, CommandState] = {}
        self._told: dict[str, int] = {}
        self._switched: dict[str, int] = {}
        self._ledger_version = -1
        self._ledger_away = False

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Publish what changed since the last look."""
        self._look_at_meters()
        try:
            version = await self._context.ledger.version()
            if version != self._ledger_version:
                await self._look_at_ledger()
                self._ledger_version = version
        except StoreError as error:
            if not self._ledger_away:
                _log.warning("the ledger cannot be read", code=error.code, detail=str(error))
            self._ledger_away, self._ledger_version = True, -1
        else:
            if self._ledger_away:
                _log.info("the ledger can be read again")
            self._ledger_away = False

    def _look_at_meters(self) -> None:
        """Publish new readings and supplies; remember the meters whose supply changed."""
        away = self._context.control_away()
        for entry in self._context.settings.meters:
            now = self._context.live.now(entry.meter_id)
            if now is None:
                continue
            row = now.row
            if self._sequences.get(entry.meter_id) != row.sequence:
                self._sequences[entry.meter_id] = row.sequence
                quality = self._context.quality_of(entry, now, away=away)
                self._publish_measurement(entry, row, quality)
            supply = (row.control_state, row.output_closed, row.reasons)
            before = self._supplies.get(entry.meter_id)
            self._supplies[entry.meter_id] = supply
            if before is not None and before != supply:
                self._switched[entry.meter_id] = SWITCHED_LOOKS
                self._publish_supply(entry, row)

    def _publish_measurement(self, entry: MeterEntry, row: LiveRow, quality: Quality) -> None:
        self._context.hub.publish(
            MEASUREMENT,
            entry.meter_id,
            {
                "meter_id": entry.meter_id,
                "at": rfc3339(row.utc_ms),
                "sequence": row.sequence,
                "quality": quality,
                "power_w": row.power_w,
                "energy_wh": sum(row.energy_wh),
            },
        )

    def _publish_supply(self, entry: MeterEntry, row: LiveRow) -> None:
        self._context.hub.publish(
            SUPPLY,
            entry.meter_id,
            {
                "meter_id": entry.meter_id,
                "service_point_id": entry.service_point_id,
                "at": rfc3339(row.utc_ms),
                "control_state": row.control_state,
                "output_closed": row.output_closed,
                "block_reasons": sorted(row.reasons),
            },
        )

    async def _look_at_ledger(self) -> None:
        records = self._context.records
        first = self._posted_nano is None
        switched = tuple(self._context.meter_ids if first else self._switched)
        posted_nano = await records.posted_balances()
        commands = await records.recent_commands(tuple(self._open), switched)
        left = {meter_id: looks - 1 for meter_id, looks in self._switched.items()}
        self._switched = {meter_id: looks for meter_id, looks in left.items() if looks > 0}
        before_nano = self._posted_nano or {}
        self._posted_nano = posted_nano
        if not first:
            for account_id, balance_nano in posted_nano.items():
                if before_nano.get(account_id) != balance_nano:
                    self._publish_balance(account_id, balance_nano)
        for command in commands:
            self._tell_command(command, first=first)

    def _publish_balance(self, account_id: str, balance_nano: int) -> None:
        currency = self._context.settings.currency
        self._context.hub.publish(
            BALANCE,
            account_id,
            {
                "account_id": account_id,
                "at": rfc3339(self._context.clock.utc_ms()),
                "balance": format_amount(balance_nano, currency),
                "currency": currency.code,
            },
        )

    def _tell_command(self, command: SwitchCommand, *, first: bool) -> None:
        known = self._open.get(command.command_id)
        newest = self._told.get(command.meter_id, 0)
        if command.state.finished:
            self._open.pop(command.command_id, None)
        else:
            self._open[command.command_id] = command.state
        self._told[command.meter_id] = max(newest, command.number)
        is_news = known != command.state if known is not None else command.number > newest
        if first or not is_news:
            return
        self._context.hub.publish(
            COMMAND,
            command.command_id,
            {
                "id": command.command_id,
                "request_key": command.request_key,
                "meter_id": command.meter_id,
                "service_point_id": command.service_point_id,
                "action": command.action.value,
                "block_reasons": block_reasons_of(command),
                "state": command.state.value,
                "attempts": command.attempts,
                "issued_at": rfc3339(command.issued_utc_ms),
                "finished_at": rfc3339_or_none(command.finished_utc_ms),
                "verified_by": command.witnesses,
            },
        )
