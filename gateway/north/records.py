"""Control's records as the API pages through them: one short look at the ledger per call."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

from gateway.core.credit import CreditBook
from gateway.core.errors import StoreAwayError
from gateway.core.ledger import wallet
from gateway.core.money import Currency
from gateway.core.override import Override
from gateway.core.requests import Outcome
from gateway.core.rollout_plan import Member
from gateway.core.shift import MeansTotal, cash_up
from gateway.north.reader import READ_DEADLINE_S, Reader
from gateway.store.accounts import AccountPoint, load_credit, points_of
from gateway.store.audit import AuditRecord, audit_before
from gateway.store.commands import (
    SwitchCommand,
    commands_for_key,
    commands_of,
    find_outcome,
    open_commands,
    read_command,
)
from gateway.store.db import Connection
from gateway.store.devices import DeviceRecord, read_devices
from gateway.store.drafts import TariffDraft, open_drafts
from gateway.store.firmware import (
    ImageRecord,
    RolloutRecord,
    read_images,
    read_members,
    read_rollout,
    read_rollouts,
)
from gateway.store.forecasts import AccountForecast, read_forecast
from gateway.store.ledger import (
    AccountTransaction,
    read_balances,
    transactions_of,
)
from gateway.store.registry import (
    Account,
    AccountStatus,
    TariffVersion,
    accounts_after,
    read_account,
    read_service_points,
    read_tariff,
    read_tariffs,
)
from gateway.store.requests import StoredRequest, find_request
from gateway.store.shifts import (
    ShiftRecord,
    open_shifts,
    read_shift,
    shift_transactions,
    shifts_before,
)
from gateway.store.supply_orders import PointLimits, limits_of, standing_overrides
from gateway.store.telemetry_reader import StoredEvent, TelemetryReader
from gateway.store.vouchers import SoldVoucher, read_voucher, vouchers_before
from gateway.store.watch import WatchKind, WatchState, read_watch_states

T = TypeVar("T")

WALLET: Final = wallet("")
# A meter is switched at most twice between two looks of half a second.
LAST_COMMANDS: Final = 3


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """A page of records; `more` says that others follow."""

    items: Sequence[T]
    more: bool


@dataclass(frozen=True, slots=True)
class AccountBalance:
    """An account with its posted balance in nano-units, its credit, its points and how long the
    credit lasts, read in one snapshot."""

    account: Account
    posted_nano: int
    credit: CreditBook
    points: Sequence[AccountPoint]
    forecast: AccountForecast | None


@dataclass(frozen=True, slots=True)
class ShiftFigures:
    """A shift and its means of payment: as counted once it is closed, else as they are now."""

    record: ShiftRecord
    means: tuple[MeansTotal, ...]


@dataclass(frozen=True, slots=True)
class RolloutFigures:
    """A roll-out of firmware and its devices, in one snapshot."""

    record: RolloutRecord
    members: Sequence[Member]


class Records:
    """Reads of `ledger.db`, of events, and of the requests in `north.db`.

    Every method raises StoreAwayError when its file cannot be read now.
    """

    def __init__(
        self, ledger: Reader, north: Reader, telemetry_dir: Path, currency: Currency
    ) -> None:
        self._currency = currency
        self._ledger = ledger
        self._north = north
        self._telemetry = TelemetryReader(telemetry_dir)

    async def request(self, key: str) -> StoredRequest | None:
        """A wish as north stored it, or None."""
        found = await self._north.read(lambda connection: find_request(connection, key))
        return found if isinstance(found, StoredRequest) else None

    async def requests(self, keys: Sequence[str]) -> dict[str, StoredRequest]:
        """Those of the wishes named by `keys` that north still has, by key."""

        def look(connection: Connection) -> dict[str, StoredRequest]:
            found = ((key, find_request(connection, key)) for key in keys)
            return {key: wish for key, wish in found if isinstance(wish, StoredRequest)}

        return await self._north.read(look) if keys else {}

    async def account(self, account_id: str) -> AccountBalance | None:
        """One account, or None."""

        def look(connection: Connection) -> AccountBalance | None:
            account = read_account(connection, account_id)
            return None if account is None else _with_balance(connection, account, self._currency)

        return await self._ledger.read(look)

    async def images(self) -> dict[str, ImageRecord]:
        """The firmware images by their SHA-256, oldest first."""
        return await self._ledger.read(read_images)

    async def rollouts(self) -> Sequence[RolloutFigures]:
        """The roll-outs with their devices, newest first."""

        def look(connection: Connection) -> list[RolloutFigures]:
            return [
                RolloutFigures(record, read_members(connection, record.number))
                for record in read_rollouts(connection)
            ]

        return await self._ledger.read(look)

    async def rollout(self, number: int) -> RolloutFigures | None:
        """One roll-out with its devices, or None."""

        def look(connection: Connection) -> RolloutFigures | None:
            record = read_rollout(connection, number)
            members = read_members(connection, number) if record is not None else []
            return None if record is None else RolloutFigures(record, members)

        return await self._ledger.read(look)

    async def limits(self, service_point_id: str) -> PointLimits | None:
        """The load limits that a person set at a point; None where nobody did."""
        return await self._ledger.read(lambda connection: limits_of(connection, service_point_id))

    async def overrides(self) -> Sequence[Override]:
        """The overrides that stand, oldest first."""
        return await self._ledger.read(standing_overrides)

    async def accounts(self, after: str, limit: int) -> Found[AccountBalance]:
        """Accounts by id, after an id."""

        def look(connection: Connection) -> Found[AccountBalance]:
            def fetch(start: str, count: int) -> list[Account]:
                return accounts_after(connection, start, count)

            accounts, more = _page(fetch, after, limit, lambda account: account.account_id)
            found = [_with_balance(connection, account, self._currency) for account in accounts]
            return Found(found, more)

        return await self._ledger.read(look)

    async def posted_balances(self) -> dict[str, int]:
        """What every customer's wallet holds, in nano-units by account id."""
        held = await self._ledger.read(read_balances)
        return {
            name.removeprefix(WALLET): amount_nano
            for name, amount_nano in held.items()
            if name.startswith(WALLET)
        }

    async def transactions(
        self, account_id: str, before_seq: int, limit: int
    ) -> Found[AccountTransaction] | None:
        """What happened to an account, newest first, before a sequence; None: no such account."""

        def look(connection: Connection) -> Found[AccountTransaction] | None:
            if read_account(connection, account_id) is None:
                return None

            def fetch(start: int, count: int) -> list[AccountTransaction]:
                return transactions_of(connection, account_id, before_seq=start, limit=count)

            return Found(*_page(fetch, before_seq, limit, lambda seen: seen.seq))

        return await self._ledger.read(look)

    async def commissioned_points(self) -> dict[str, bool]:
        """By service point, whether supply is enforced there."""
        points = await self._ledger.read(read_service_points)
        return {point.service_point_id: point.commissioned_utc_ms is not None for point in points}

    async def shift(self, number: int) -> ShiftFigures | None:
        """One shift with its figures, or None."""

        def look(connection: Connection) -> ShiftFigures | None:
            record = read_shift(connection, number)
            return None if record is None else _figures(connection, record)

        return await self._ledger.read(look)

    async def shifts(
        self, before_number: int, limit: int, *, open_only: bool
    ) -> Found[ShiftFigures]:
        """Shifts with their figures, newest first, before a number."""

        def look(connection: Connection) -> Found[ShiftFigures]:
            if open_only:
                standing = [
                    record
                    for record in reversed(open_shifts(connection))
                    if record.shift.number < before_number
                ]
                records, more = standing[:limit], len(standing) > limit
            else:

                def fetch(start: int, count: int) -> list[ShiftRecord]:
                    return shifts_before(connection, start, count)

                records, more = _page(fetch, before_number, limit, lambda r: r.shift.number)
            return Found([_figures(connection, record) for record in records], more)

        return await self._ledger.read(look)

    async def tariffs(self, after: str, limit: int) -> Found[TariffVersion]:
        """The newest version of each tariff by id, after an id."""

        def look(connection: Connection) -> Found[TariffVersion]:
            newest = {tariff.tariff_id: tariff for tariff in read_tariffs(connection)}
            rest = [newest[tariff_id] for tariff_id in sorted(newest) if tariff_id > after]
            return Found(rest[:limit], len(rest) > limit)

        return await self._ledger.read(look)

    async def tariff_versions(self, tariff_id: str) -> list[TariffVersion]:
        """All versions of a tariff, oldest first; empty when there is none."""
        return await self._ledger.read(lambda connection: read_tariff(connection, tariff_id))

    async def newest_tariffs(self, tariff_ids: Collection[str]) -> dict[str, TariffVersion]:
        """The newest version of each of these tariffs that was ever published."""

        def look(connection: Connection) -> dict[str, TariffVersion]:
            found = ((name, read_tariff(connection, name)) for name in tariff_ids)
            return {name: versions[-1] for name, versions in found if versions}

        return await self._ledger.read(look)

    async def tariff_drafts(self) -> Sequence[TariffDraft]:
        """Tariffs that wait for a second person, oldest first."""
        return await self._ledger.read(open_drafts)

    async def watch_states(self, *kinds: WatchKind) -> list[WatchState]:
        """What is watched, of these kinds."""
        found = await self._ledger.read(lambda connection: read_watch_states(connection, *kinds))
        return list(found.values())

    async def devices(self) -> dict[str, DeviceRecord]:
        """Devices (ESP32 nodes) on record, by id."""
        return await self._ledger.read(read_devices)

    async def outcome(self, key: str) -> Outcome | None:
        """What became of a request; None while it is open."""
        return await self._ledger.read(lambda connection: find_outcome(connection, key))

    async def command(self, command_id: str) -> SwitchCommand | None:
        """One switch command, or None."""
        return await self._ledger.read(lambda connection: read_command(connection, command_id))

    async def commands_for(self, key: str) -> list[SwitchCommand]:
        """The switch commands that a request led to, oldest first."""
        return await self._ledger.read(lambda connection: commands_for_key(connection, key))

    async def recent_commands(
        self, known_ids: Sequence[str], meter_ids: Sequence[str]
    ) -> list[SwitchCommand]:
        """Commands under way, those of `known_ids`, and the last few of `meter_ids`; by number."""

        def look(connection: Connection) -> list[SwitchCommand]:
            found = {command.command_id: command for command in open_commands(connection)}
            for command_id in known_ids:
                command = found.get(command_id) or read_command(connection, command_id)
                if command is not None:
                    found[command_id] = command
            for meter_id in meter_ids:
                for command in commands_of(connection, meter_id, limit=LAST_COMMANDS):
                    found[command.command_id] = command
            return sorted(found.values(), key=lambda command: command.number)

        return await self._ledger.read(look)

    async def vouchers(
        self, service_point_id: str | None, before_number: int, limit: int
    ) -> Found[SoldVoucher]:
        """Vouchers that were sold, of one point or all, newest first, before a number."""

        def look(connection: Connection) -> Found[SoldVoucher]:
            def fetch(start: int, count: int) -> list[SoldVoucher]:
                return vouchers_before(
                    connection,
                    service_point_id=service_point_id,
                    before_number=start,
                    limit=count,
                )

            return Found(*_page(fetch, before_number, limit, lambda sold: sold.number))

        return await self._ledger.read(look)

    async def voucher(self, service_point_id: str, counter: int) -> SoldVoucher | None:
        """One voucher that was sold, or None."""
        return await self._ledger.read(
            lambda connection: read_voucher(connection, service_point_id, counter)
        )

    async def events(self, before_seq: int, limit: int) -> Found[StoredEvent]:
        """Events newest first, before a sequence."""

        def fetch(start: int, count: int) -> list[StoredEvent]:
            return self._telemetry.events(before_seq=start, limit=count)

        def look() -> Found[StoredEvent]:
            return Found(*_page(fetch, before_seq, limit, lambda event: event.seq))

        try:
            async with asyncio.timeout(READ_DEADLINE_S):
                return await asyncio.to_thread(look)
        except TimeoutError as error:
            raise StoreAwayError("the events could not be read in time") from error

    async def audit(self, before_seq: int, limit: int) -> Found[AuditRecord]:
        """Records of the audit chain newest first, before a sequence."""

        def look(connection: Connection) -> Found[AuditRecord]:
            def fetch(start: int, count: int) -> list[AuditRecord]:
                return audit_before(connection, before_seq=start, limit=count)

            return Found(*_page(fetch, before_seq, limit, lambda record: record.seq))

        return await self._ledger.read(look)

    async def commands_of(
        self, meter_id: str, before_number: int, limit: int
    ) -> Found[SwitchCommand]:
        """Switch commands of a meter, newest first, before a number."""

        def look(connection: Connection) -> Found[SwitchCommand]:
            def fetch(start: int, count: int) -> list[SwitchCommand]:
                return commands_of(connection, meter_id, before_number=start, limit=count)

            return Found(*_page(fetch, before_number, limit, lambda command: command.number))

        return await self._ledger.read(look)


P = TypeVar("P")


def _page(
    fetch: Callable[[P, int], list[T]], start: P, limit: int, place: Callable[[T], P]
) -> tuple[list[T], bool]:
    # The store gives at most 100 at once, so whether more follow is asked for by itself.
    items = fetch(start, limit)
    more = len(items) == limit and bool(fetch(place(items[-1]), 1))
    return items, more


def _with_balance(connection: Connection, account: Account, currency: Currency) -> AccountBalance:
    credit = load_credit(connection, account, currency)
    open_only = account.status is not AccountStatus.CLOSED
    points = points_of(connection, account.account_id, open_only=open_only)
    forecast = read_forecast(connection, account.account_id)
    return AccountBalance(account, credit.wallet_nano, credit, points, forecast)


def _figures(connection: Connection, record: ShiftRecord) -> ShiftFigures:
    if record.closing is not None:
        return ShiftFigures(record, record.closing.means)
    transactions = shift_transactions(connection, record.shift.number)
    return ShiftFigures(record, cash_up(record.shift, transactions))
