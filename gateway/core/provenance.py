"""Stays, meters and shifts as the audit chain tells them, to be compared with the rows.

Who pays for which point, which device stays where and how a drawer was counted is decided by
requests, and the audit chain holds every one that was carried out. The rows are what a program
reads quickly; this derives them again, so that a row that somebody has changed is found.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from gateway.core import requests as wishes
from gateway.core.credit import CreditTerms, DebtKind, DebtTerms
from gateway.core.shift import Closing, MeansTotal, Shift

# Records of older programs tell when they were made, not the instant that their rows hold.
BEFORE_MS: Final = 600_000
AFTER_MS: Final = 60_000
# What control does by itself: a configured meter gets its service point.
ASSIGN_METER: Final = "assign_meter"
ACTIONS: Final = frozenset(
    {
        ASSIGN_METER,
        *(
            kind.TYPE
            for kind in (
                wishes.OpenAccount,
                wishes.AddPoint,
                wishes.RemovePoint,
                wishes.ChangeTariff,
                wishes.CloseAccount,
                wishes.ReplaceMeter,
                wishes.OpenShift,
                wishes.CloseShift,
                wishes.ConfigureAccount,
                wishes.AddDebt,
            )
        ),
    }
)


@dataclass(frozen=True, slots=True)
class Moment:
    """When something was done: to the millisecond, or about then."""

    utc_ms: int
    is_exact: bool

    def fits(self, stored_utc_ms: int | None) -> bool:
        """Whether a row with this instant is of this moment."""
        if stored_utc_ms is None:
            return False
        if self.is_exact:
            return stored_utc_ms == self.utc_ms
        return -BEFORE_MS <= stored_utc_ms - self.utc_ms <= AFTER_MS


@dataclass(frozen=True, slots=True)
class Act:
    """A request that was carried out, by whom, and what its audit record tells beside it."""

    key: str
    actor: str
    moment: Moment
    body: wishes.Body
    cash_provider: str | None = None


@dataclass(slots=True)
class StayRow:
    """An account pays for a point; in a row the instants, derived the moments."""

    account_id: str
    tariff_id: str
    begun: int | Moment
    ended: int | Moment | None = None


@dataclass(slots=True)
class MeterRow:
    """A device stays at a point. `begun` None: before there was a record of it."""

    service_point_id: str
    opening_wh: tuple[int, ...]
    begun: int | Moment | None
    ended: int | Moment | None = None
    closing_wh: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class ShiftRow:
    """A shift as its rows tell it, with the requests that opened and closed it.

    `counted_again` is what its transactions and the stored count come to, `difference_seq` the
    transaction that the request of the count posted.
    """

    shift: Shift
    opened_by_key: str
    closing: Closing | None = None
    closed_by_key: str = ""
    counted_again: tuple[MeansTotal, ...] = ()
    difference_seq: int | None = None


@dataclass(slots=True)
class Provenance:
    """What the requests made, in their order. Memory grows with moves and shifts alone."""

    stays: dict[str, list[StayRow]] = field(default_factory=dict)
    meters: dict[str, list[MeterRow]] = field(default_factory=dict)
    opened: list[Act] = field(default_factory=list)
    closed: dict[int, Act] = field(default_factory=dict)
    terms: dict[str, list[str]] = field(default_factory=dict)
    debts: dict[str, list[DebtTerms]] = field(default_factory=dict)

    def assigned(
        self, meter_id: str, service_point_id: str, opening_wh: tuple[int, ...], utc_ms: int
    ) -> None:
        """Control gave a meter its point."""
        row = MeterRow(service_point_id, opening_wh, Moment(utc_ms, is_exact=True))
        self.meters.setdefault(meter_id, []).append(row)

    def take(self, act: Act) -> None:
        """The next request that was carried out."""
        body = act.body
        if isinstance(body, wishes.OpenAccount | wishes.ConfigureAccount) and body.terms:
            self.terms.setdefault(body.account_id, []).append(body.terms)
        match body:
            case wishes.AddDebt():
                self.debts.setdefault(body.account_id, []).append(debt_terms_of(body))
            case wishes.OpenAccount() | wishes.AddPoint():
                self._begin(body.service_point_id, body.account_id, body.tariff_id, act.moment)
            case wishes.RemovePoint():
                self._end(body.service_point_id, act.moment)
            case wishes.ChangeTariff():
                account_id = self._end(body.service_point_id, act.moment)
                self._begin(body.service_point_id, account_id, body.tariff_id, act.moment)
            case wishes.CloseAccount():
                for rows in self.stays.values():
                    if rows[-1].account_id == body.account_id and rows[-1].ended is None:
                        rows[-1].ended = act.moment
            case wishes.ReplaceMeter():
                self._replace(body, act.moment)
            case wishes.OpenShift():
                self.opened.append(act)
            case wishes.CloseShift():
                # The same count once more changes nothing.
                self.closed.setdefault(body.shift_number, act)

    def _begin(self, point_id: str, account_id: str, tariff_id: str, moment: Moment) -> None:
        self.stays.setdefault(point_id, []).append(StayRow(account_id, tariff_id, moment))

    def _end(self, service_point_id: str, moment: Moment) -> str:
        rows = self.stays.get(service_point_id)
        if not rows:
            return ""
        rows[-1].ended = moment
        return rows[-1].account_id

    def _replace(self, body: wishes.ReplaceMeter, moment: Moment) -> None:
        rows = self.meters.setdefault(body.meter_id, [])
        if not rows:
            # Older programs wrote no record when they gave a meter its point.
            rows.append(MeterRow("", (0,) * len(body.closing_wh), None))
        rows[-1].ended, rows[-1].closing_wh = moment, body.closing_wh
        rows.append(MeterRow(rows[-1].service_point_id, body.opening_wh, moment))

    # -- compared --------------------------------------------------------------------------

    def stay_problems(self, stored: Mapping[str, Sequence[StayRow]]) -> Iterator[str]:
        """What the rows of stays, by point, hold otherwise than was asked for."""
        for point_id in sorted(stored.keys() | self.stays.keys()):
            rows, due = stored.get(point_id, ()), self.stays.get(point_id, [])
            yield from _number(f"{point_id}: stays", len(rows), len(due))
            for number, (row, asked) in enumerate(zip(rows, due, strict=False), start=1):
                place = f"{point_id}, stay {number}"
                yield from _differ(place, "account", row.account_id, asked.account_id)
                yield from _differ(place, "tariff", row.tariff_id, asked.tariff_id)
                yield from _when(place, "beginning", row.begun, asked.begun)
                yield from _when(place, "end", row.ended, asked.ended)

    def meter_problems(
        self, stored: Mapping[str, Sequence[MeterRow]], settled: Collection[tuple[str, str]]
    ) -> Iterator[str]:
        """What the rows of meters hold otherwise; `settled` are meter and point of every line."""
        places = dict(settled)
        for meter_id, point_id in sorted(settled):
            if point_id not in {row.service_point_id for row in stored.get(meter_id, ())}:
                yield f"meter {meter_id}: was settled at {point_id}, where it never was"
        for meter_id in sorted(stored.keys() | self.meters.keys() | places.keys()):
            rows = stored.get(meter_id, ())
            due = self.meters.get(meter_id)
            if due is None and rows:
                due = [MeterRow("", (0,) * len(rows[0].opening_wh), None)]
            yield from _number(f"meter {meter_id}: stays", len(rows), len(due or [""]))
            for number, (row, asked) in enumerate(zip(rows, due or (), strict=False), start=1):
                place = f"meter {meter_id}, stay {number}"
                point_id = asked.service_point_id or places.get(meter_id, row.service_point_id)
                yield from _differ(place, "point", row.service_point_id, point_id)
                yield from _differ(place, "opening", row.opening_wh, asked.opening_wh)
                yield from _differ(place, "closing", row.closing_wh, asked.closing_wh)
                if asked.begun is not None:
                    yield from _when(place, "beginning", row.begun, asked.begun)
                yield from _when(place, "end", row.ended, asked.ended)

    def credit_problems(
        self,
        terms: Mapping[str, Sequence[CreditTerms | None]],
        debts: Mapping[str, Sequence[DebtTerms]],
        read: Callable[[str], CreditTerms | None],
    ) -> Iterator[str]:
        """What the rows of terms and debts, by account, hold otherwise; `read` makes terms of the
        text of a request, None of one that is none."""
        for account_id in sorted(terms.keys() | self.terms.keys()):
            asked = [read(text) for text in self.terms.get(account_id, [])]
            stored = list(terms.get(account_id, ()))
            if stored != asked:
                yield f"{account_id}: its terms are not those that were asked for"
        for account_id in sorted(debts.keys() | self.debts.keys()):
            due = self.debts.get(account_id, [])
            yield from _differ(account_id, "debts", list(debts.get(account_id, ())), due)

    def shift_problems(self, stored: Iterable[ShiftRow]) -> Iterator[str]:
        """What the rows of shifts hold otherwise: who, when, which float, which count."""
        rows = list(stored)
        yield from _number("shifts", len(rows), len(self.opened))
        for number, (row, act) in enumerate(zip(rows, self.opened, strict=False), start=1):
            shift, place = row.shift, f"shift {number}"
            yield from _differ(place, "number", shift.number, number)
            body = act.body
            if not isinstance(body, wishes.OpenShift):
                continue
            provider = act.cash_provider or shift.cash_provider
            yield from _differ(place, "drawer", shift.drawer, body.drawer)
            yield from _differ(place, "cashier", shift.cashier, act.actor)
            yield from _differ(place, "float", shift.float_nano, body.float_nano)
            yield from _differ(place, "means of the float", shift.cash_provider, provider)
            yield from _differ(place, "request", row.opened_by_key, act.key)
            yield from _when(place, "opening", shift.opened_utc_ms, act.moment)
            yield from _closing(place, row, self.closed.get(number))


def debt_terms_of(body: wishes.AddDebt) -> DebtTerms:
    """How a debt is collected, as it was agreed."""
    kind = DebtKind(body.kind)
    return DebtTerms(
        debt_id=body.debt_id,
        kind=kind,
        share_ppm=body.share_ppm if kind is DebtKind.PAYMENT else 0,
        daily_nano=body.daily_nano if kind is DebtKind.TIME else 0,
        weekly_cap_nano=body.weekly_cap_nano or None,
    )


def _closing(place: str, row: ShiftRow, act: Act | None) -> Iterator[str]:
    closing = row.closing
    if closing is None or act is None or not isinstance(act.body, wishes.CloseShift):
        if closing is not None or act is not None:
            yield f"{place}: {'closed' if act is None else 'open'}, by the requests it is not"
        return
    counted = dict(zip(act.body.providers, act.body.counted_nano, strict=False))
    stored = {one.provider: one.counted_nano for one in closing.means}
    yield from _differ(place, "count", stored, {**dict.fromkeys(stored), **counted})
    yield from _differ(place, "cash-up", closing.means, row.counted_again)
    yield from _differ(place, "difference", closing.difference_seq, row.difference_seq)
    yield from _differ(place, "closed by", closing.closed_by, act.actor)
    yield from _differ(place, "note", closing.note, act.body.note)
    yield from _differ(place, "closing request", row.closed_by_key, act.key)
    yield from _when(place, "closing", closing.utc_ms, act.moment)


def _number(place: str, rows: int, asked: int) -> Iterator[str]:
    if rows != asked:
        yield f"{place}: {rows} rows, by the requests there are {asked}"


def _differ(place: str, what: str, stored: object, asked: object) -> Iterator[str]:
    if stored != asked:
        yield f"{place}: {what} is {stored!r}, by the requests {asked!r}"


def _when(
    place: str, what: str, stored: int | Moment | None, asked: int | Moment | None
) -> Iterator[str]:
    if isinstance(asked, Moment) and isinstance(stored, int) and asked.fits(stored):
        return
    if stored is None and asked is None:
        return
    told: object = asked
    if isinstance(asked, Moment):
        told = f"{'' if asked.is_exact else 'about '}{asked.utc_ms}"
    yield f"{place}: {what} is {stored}, by the requests {told}"
