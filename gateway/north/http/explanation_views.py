"""What explanations look like outside."""

from pydantic import BaseModel, Field

from gateway.core.explain import (
    Component,
    ExplainedLine,
    Explanation,
    PricedEnergy,
    PricedFeedIn,
    shortfalls,
)
from gateway.core.money import Currency, format_price, format_scaled
from gateway.core.tariff import PERCENT_SCALE
from gateway.north.http.bill_views import EntryView, entry_view
from gateway.north.http.forms import Page, rfc3339
from gateway.north.http.results import money


class PricedView(BaseModel):
    """Energy of one rate cell: energy_wh x price_per_kwh / 1000 = amount, exactly."""

    cell: str
    source: str | None
    time_of_use: str | None
    block: int | None
    block_from_wh: int | None
    block_upto_wh: int | None
    energy_wh: int
    price_per_kwh: str | None
    amount: str


class BasisView(BaseModel):
    """What a tax is computed from, accumulated in the period."""

    of: list[str]
    rate_percent: str
    inclusive: bool
    before: str
    after: str


class PartView(BaseModel):
    """A charge that is no energy at a price: what the period had accumulated before and after."""

    name: str
    amount: str
    before: str
    after: str
    basis: BasisView | None


class FeedInView(BaseModel):
    """Energy fed in: energy_wh x price_per_kwh / 1000 is given (`amount` is negative), exactly.

    The export registers from and to; they move by other than `advance_wh` where `flags` say why.
    """

    from_wh: list[int]
    to_wh: list[int]
    advance_wh: list[int]
    flags: list[str]
    energy_wh: int
    price_per_kwh: str | None = Field(description="None: the version has no feed-in price")
    amount: str


class LineView(BaseModel):
    """A settlement line: registers from and to, and what each of its charges is made of."""

    service_point_id: str
    meter_id: str
    tariff_id: str
    tariff_version: int
    period: str
    starts_at: str
    ends_at: str
    from_wh: list[int]
    to_wh: list[int]
    advance_wh: list[int]
    flags: list[str]
    energy: list[PricedView]
    charges: list[PartView]
    feed_in: FeedInView | None = Field(description="None: the line has no export registers")
    amount: str


class ExplainedView(BaseModel):
    """A transaction, explained. `problems` is empty when it adds up to the nano-unit."""

    transaction: int
    kind: str
    at: str
    entries: list[EntryView] = Field(description="On the account's own ledger accounts")
    other_side: list[EntryView] = Field(description="Left out for settlements of many accounts")
    balance_after: str
    request_key: str | None
    reverses: int | None
    reversed_by: int | None
    memo: dict[str, str]
    lines: list[LineView]
    adds_up: bool
    problems: list[str]


class ExplanationPage(Page):
    """Explained transactions, oldest first."""

    account_id: str
    currency: str
    items: list[ExplainedView]


def explained_view(
    explanation: Explanation, balance_nano: int, currency: Currency
) -> ExplainedView:
    """One explained transaction, with the wallet after it."""
    posted, problems = explanation.posted, shortfalls(explanation)
    return ExplainedView(
        transaction=posted.seq,
        kind=posted.kind,
        at=rfc3339(posted.utc_ms),
        entries=[entry_view(entry, currency) for entry in posted.own],
        other_side=[entry_view(entry, currency) for entry in posted.others],
        balance_after=money(balance_nano, currency),
        request_key=posted.request_key,
        reverses=posted.reverses_seq,
        reversed_by=posted.reversed_by_seq,
        memo=dict(posted.memo),
        lines=[_line(line, currency) for line in explanation.lines],
        adds_up=not problems,
        problems=list(problems),
    )


def _line(explained: ExplainedLine, currency: Currency) -> LineView:
    line = explained.line
    return LineView(
        service_point_id=line.service_point_id,
        meter_id=line.meter_id,
        tariff_id=line.tariff_id,
        tariff_version=explained.version,
        period=line.period,
        starts_at=rfc3339(line.from_utc_ms),
        ends_at=rfc3339(line.to_utc_ms),
        from_wh=list(line.from_wh),
        to_wh=list(line.to_wh),
        advance_wh=list(line.advance_wh),
        flags=list(line.flags),
        energy=[_priced(priced, currency) for priced in explained.energy],
        charges=[_part(component, currency) for component in explained.components],
        feed_in=None if explained.feed_in is None else _feed_in(explained.feed_in, currency),
        amount=money(sum(amount for _, amount in line.charges), currency),
    )


def _priced(priced: PricedEnergy, currency: Currency) -> PricedView:
    rate = priced.rate
    return PricedView(
        cell=priced.key,
        source=rate.source if rate else None,
        time_of_use=rate.band if rate else None,
        block=rate.block + 1 if rate else None,
        block_from_wh=rate.from_wh if rate else None,
        block_upto_wh=rate.upto_wh if rate else None,
        energy_wh=priced.wh,
        price_per_kwh=format_price(rate.price_micro, currency) if rate else None,
        amount=money(priced.amount_nano, currency),
    )


def _feed_in(fed: PricedFeedIn, currency: Currency) -> FeedInView:
    price = fed.price_micro
    return FeedInView(
        from_wh=list(fed.registers.from_wh),
        to_wh=list(fed.registers.to_wh),
        advance_wh=list(fed.registers.advance_wh),
        flags=list(fed.registers.flags),
        energy_wh=fed.wh,
        price_per_kwh=None if price is None else format_price(price, currency),
        amount=money(fed.amount_nano, currency),
    )


def _part(component: Component, currency: Currency) -> PartView:
    basis = component.basis
    return PartView(
        name=component.name,
        amount=money(component.amount_nano, currency),
        before=money(component.before_nano, currency),
        after=money(component.after_nano, currency),
        basis=None
        if basis is None
        else BasisView(
            of=list(basis.terms.bases),
            rate_percent=format_scaled(basis.terms.rate_ppm, PERCENT_SCALE),
            inclusive=basis.terms.inclusive,
            before=money(basis.before_nano, currency),
            after=money(basis.after_nano, currency),
        ),
    )
