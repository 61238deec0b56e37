"""What statements and receipts look like outside."""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from pydantic import BaseModel, Field

from gateway.core.documents.outages import OffSupply
from gateway.core.documents.receipt import Receipt
from gateway.core.documents.sheet import sheet_of
from gateway.core.documents.statement import (
    ComponentLine,
    EnergyLine,
    FlagCount,
    MeterRegisters,
    MoneyLine,
    Moved,
)
from gateway.core.ledger import Entry
from gateway.core.money import Currency, display_amount, format_price
from gateway.north.documents import MonthlyStatement
from gateway.north.http.forms import rfc3339
from gateway.north.http.results import money

L = TypeVar("L")
V = TypeVar("V")

AMOUNT: Final = "Exact, major units"
SHOWN: Final = "As shown to people, signed as the balance moves: half-up to the minor unit"


class EntryView(BaseModel):
    """An amount on a ledger account."""

    ledger_account: str
    amount: str


class PeriodView(BaseModel):
    """A billing period; `from` is in it, `to` is not."""

    label: str
    starts_at: str
    ends_at: str
    final_at: str = Field(description="What is posted from then on stands in a later bill")


class MoneyLineView(BaseModel):
    """A recharge, reversal, opening balance or correction."""

    transaction: int
    at: str
    kind: str
    amount: str = Field(description=AMOUNT)
    shown: str = Field(description=SHOWN)
    provider: str
    reference: str
    reverses: int | None
    reversed_by: int | None


class EnergyLineView(BaseModel):
    """Energy of one price."""

    period: str = Field(description="Whose energy it is; an earlier period is late data")
    tariff_id: str
    tariff_version: int
    source: str
    time_of_use: str
    block: int = Field(description="From 1")
    block_from_wh: int
    block_upto_wh: int | None
    energy_wh: int
    price_per_kwh: str
    amount: str = Field(description=AMOUNT)
    shown: str = Field(description=SHOWN)


class ComponentLineView(BaseModel):
    """A fee, tax, minimum or rebate that was charged, or (`export`) what was given for feed-in."""

    period: str
    tariff_id: str
    tariff_version: int
    name: str
    amount: str = Field(description=AMOUNT)
    shown: str = Field(description=SHOWN)
    fed_in_wh: int = Field(description="Energy that was fed in; 0 for every other charge")
    price_per_kwh: str | None = Field(description="What a kWh fed in is worth; else None")


class MovedView(BaseModel):
    """What the wallet gave to a debt or to emergency credit; negative: was lent.

    `apart` changed that account without the wallet: closing = opening + amount + apart.
    """

    ledger_account: str
    opening: str
    amount: str = Field(description=AMOUNT)
    shown: str = Field(description=SHOWN)
    apart: str
    closing: str


class RebaseView(BaseModel):
    """Registers that moved by other than what was settled."""

    transaction: int
    at: str
    from_wh: list[int]
    to_wh: list[int]
    advance_wh: list[int]
    flags: list[str]


class MeterView(BaseModel):
    """A meter's import registers (T1, T2) at both ends."""

    service_point_id: str
    meter_id: str
    read_from: str
    read_to: str
    opening_wh: list[int]
    closing_wh: list[int]
    advance_wh: list[int]
    rebases: list[RebaseView]


class FlagView(BaseModel):
    """How many settlement lines carry a flag."""

    flag: str
    lines: int
    energy_wh: int


class OffSupplyView(BaseModel):
    """Time without supply for one cause."""

    service_point_id: str
    cause: str
    minutes: int
    times: int


class BillView(BaseModel):
    """A statement: closing = opening + money - energy - charges - moved, exactly.

    The `shown` amounts foot with `rounding_shown`. `state` is `open` while the period runs,
    `settling` while its last postings may come, then `final`.
    """

    account_id: str
    name: str
    service_point_id: str
    currency: str
    period: PeriodView
    state: str
    opening: str
    opening_shown: str
    closing: str
    closing_shown: str
    rounding_shown: str
    energy_wh: int
    fed_in_wh: int
    estimated: bool
    money: list[MoneyLineView]
    energy: list[EnergyLineView]
    charges: list[ComponentLineView]
    moved: list[MovedView]
    meters: list[MeterView]
    flags: list[FlagView]
    off_supply: list[OffSupplyView]


class ReceiptView(BaseModel):
    """A recharge: `went_to` and `came_from` both sum to `amount`."""

    account_id: str
    transaction: int
    at: str
    currency: str
    amount: str
    provider: str
    reference: str
    request_key: str | None
    came_from: list[EntryView]
    went_to: list[EntryView]
    balance_before: str
    balance_after: str
    reversed_by: int | None


def bill_view(found: MonthlyStatement, currency: Currency) -> BillView:
    """A statement with its exact and its shown amounts."""
    statement, sheet = found.statement, sheet_of(found.statement, currency)
    period = statement.period
    return BillView(
        account_id=statement.account_id,
        name=found.account.name,
        service_point_id=found.account.service_point_id,
        currency=currency.code,
        period=PeriodView(
            label=period.label,
            starts_at=rfc3339(period.start_utc_ms),
            ends_at=rfc3339(period.end_utc_ms),
            final_at=rfc3339(period.final_utc_ms),
        ),
        state=found.state,
        opening=money(statement.opening_nano, currency),
        opening_shown=display_amount(sheet.opening_nano, currency),
        closing=money(statement.closing_nano, currency),
        closing_shown=display_amount(sheet.closing_nano, currency),
        rounding_shown=display_amount(sheet.rounding_nano, currency),
        energy_wh=statement.energy_wh,
        fed_in_wh=statement.fed_wh,
        estimated=statement.has_estimates,
        meters=[_meter(meter) for meter in statement.meters],
        flags=[_flag(count) for count in statement.flags],
        off_supply=[_off(off) for off in statement.off_supply],
        money=_each(_money, statement.money, sheet.money_nano, currency),
        energy=_each(_energy, statement.energy, sheet.energy_nano, currency),
        charges=_each(_component, statement.components, sheet.components_nano, currency),
        moved=_each(_moved, statement.moved, sheet.moved_nano, currency),
    )


def _each(
    view: Callable[[L, str, Currency], V],
    lines: Sequence[L],
    shown_nano: Sequence[int],
    currency: Currency,
) -> list[V]:
    """Lines with what is shown of each."""
    return [
        view(line, display_amount(amount_nano, currency), currency)
        for line, amount_nano in zip(lines, shown_nano, strict=True)
    ]


def receipt_view(receipt: Receipt, currency: Currency) -> ReceiptView:
    """A receipt with exact amounts."""
    return ReceiptView(
        account_id=receipt.account_id,
        transaction=receipt.seq,
        at=rfc3339(receipt.utc_ms),
        currency=currency.code,
        amount=money(receipt.amount_nano, currency),
        provider=receipt.provider,
        reference=receipt.reference,
        request_key=receipt.request_key,
        came_from=[entry_view(entry, currency) for entry in receipt.came_from],
        went_to=[entry_view(entry, currency) for entry in receipt.went_to],
        balance_before=money(receipt.balance_before_nano, currency),
        balance_after=money(receipt.balance_after_nano, currency),
        reversed_by=receipt.reversed_by_seq,
    )


def entry_view(entry: Entry, currency: Currency) -> EntryView:
    """An entry as it is shown."""
    return EntryView(ledger_account=entry.ledger_account, amount=money(entry.amount_nano, currency))


# -- inside ----------------------------------------------------------------------------------


def _money(line: MoneyLine, shown: str, currency: Currency) -> MoneyLineView:
    return MoneyLineView(
        transaction=line.seq,
        at=rfc3339(line.utc_ms),
        kind=line.kind,
        amount=money(line.amount_nano, currency),
        shown=shown,
        provider=line.provider,
        reference=line.reference,
        reverses=line.reverses_seq,
        reversed_by=line.reversed_by_seq,
    )


def _energy(line: EnergyLine, shown: str, currency: Currency) -> EnergyLineView:
    rate = line.rate
    return EnergyLineView(
        period=line.period,
        tariff_id=rate.tariff_id,
        tariff_version=rate.version,
        source=rate.source,
        time_of_use=rate.band,
        block=rate.block + 1,
        block_from_wh=rate.from_wh,
        block_upto_wh=rate.upto_wh,
        energy_wh=line.wh,
        price_per_kwh=format_price(rate.price_micro, currency),
        amount=money(line.amount_nano, currency),
        shown=shown,
    )


def _component(line: ComponentLine, shown: str, currency: Currency) -> ComponentLineView:
    return ComponentLineView(
        period=line.period,
        tariff_id=line.tariff_id,
        tariff_version=line.version,
        name=line.name,
        amount=money(line.amount_nano, currency),
        shown=shown,
        fed_in_wh=line.fed_wh,
        price_per_kwh=None
        if line.price_micro is None
        else format_price(line.price_micro, currency),
    )


def _moved(line: Moved, shown: str, currency: Currency) -> MovedView:
    return MovedView(
        ledger_account=line.ledger_account,
        opening=money(line.opening_nano, currency),
        amount=money(line.amount_nano, currency),
        shown=shown,
        apart=money(line.apart_nano, currency),
        closing=money(line.closing_nano, currency),
    )


def _meter(meter: MeterRegisters) -> MeterView:
    return MeterView(
        service_point_id=meter.service_point_id,
        meter_id=meter.meter_id,
        read_from=rfc3339(meter.from_utc_ms),
        read_to=rfc3339(meter.to_utc_ms),
        opening_wh=list(meter.opening_wh),
        closing_wh=list(meter.closing_wh),
        advance_wh=list(meter.advance_wh),
        rebases=[
            RebaseView(
                transaction=rebase.seq,
                at=rfc3339(rebase.utc_ms),
                from_wh=list(rebase.from_wh),
                to_wh=list(rebase.to_wh),
                advance_wh=list(rebase.advance_wh),
                flags=list(rebase.flags),
            )
            for rebase in meter.rebases
        ],
    )


def _flag(count: FlagCount) -> FlagView:
    return FlagView(flag=count.flag, lines=count.lines, energy_wh=count.wh)


def _off(off: OffSupply) -> OffSupplyView:
    return OffSupplyView(
        service_point_id=off.service_point_id,
        cause=off.cause,
        minutes=off.minutes,
        times=off.times,
    )
