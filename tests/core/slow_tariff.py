"""A slow model of tariffs, written apart from the code: quarter hours, fractions, lists of days.

It knows the tariff's figures (`gateway/core/tariff.py`) and nothing of bands, segments, periods,
tallies or splits. All boundaries in its worlds lie on quarter hours.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from math import floor
from zoneinfo import ZoneInfo

from gateway.core.tariff import Rebate, SourceTariff, Tariff, TaxRule

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
QUARTER_MS = 900_000
Charges = dict[tuple[str, int, str], int]


@dataclass(frozen=True)
class Story:
    """What happened: energy as (grid, generator, from, to), recharges, how far time went.

    `joined`: another tariff charged until the start, and the day of it. `counted` is what blocks
    had counted then, by (period, or nothing for all time; source); `opening` the day of the month
    on which the account was opened, where that is not the start's. `fed` is what was fed in, as
    (Wh, from, to).
    """

    versions: tuple[Tariff, ...]
    start_ms: int
    energy: tuple[tuple[int, int, int, int], ...]
    recharges_ms: tuple[int, ...]
    label_ms: int
    passed_ms: int
    ended: bool
    joined: bool = False
    opening: int | None = None
    counted: tuple[tuple[tuple[str, str], int], ...] = ()
    fed: tuple[tuple[int, int, int], ...] = ()


def opening_of(story: Story) -> int:
    """The day of the month on which the account was opened."""
    return story.opening or local(story.versions[0].zone, story.start_ms).day


def local(zone: str, at_ms: int) -> datetime:
    """The local clock at an instant."""
    return (EPOCH + timedelta(milliseconds=at_ms)).astimezone(ZoneInfo(zone))


def period_of(tariff: Tariff, day: date, opening: int) -> str:
    """The label of the billing period of a date."""
    first = tariff.period_day
    if first == 0:
        return f"{day:%Y-%m}"
    if first < 0:
        first = min(opening, 28)
    while day.day != first:
        day -= timedelta(days=1)
    return day.isoformat()


def band_on_the_clock(tariff: Tariff, source: SourceTariff, now: datetime) -> str:
    """The band by the label of the local clock."""
    minute = now.hour * 60 + now.minute
    today, yesterday = now.date(), now.date() - timedelta(days=1)
    for window in source.windows:
        if window.from_minute < window.to_minute:
            if _is_day(tariff, window, today) and window.from_minute <= minute < window.to_minute:
                return window.band
        elif (_is_day(tariff, window, today) and minute >= window.from_minute) or (
            _is_day(tariff, window, yesterday) and minute < window.to_minute
        ):
            return window.band
    assert source.rest_band is not None
    return source.rest_band


def _is_day(tariff: Tariff, window: object, day: date) -> bool:
    types, season = window.day_types, window.season  # type: ignore[attr-defined]
    calendar = tariff.calendar
    holiday = day in calendar.holidays or (day.month, day.day) in calendar.yearly_holidays
    if (7 if holiday else day.weekday()) not in types:
        return False
    if season is None:
        return True
    for known in calendar.seasons:
        if known.name == season:
            here = (day.month, day.day)
            if known.first <= known.last:
                return bool(known.first <= here <= known.last)
            return bool(here >= known.first or here <= known.last)
    raise AssertionError(season)


def version_at(versions: Sequence[Tariff], at_ms: int) -> Tariff:
    """The version in force."""
    return [v for v in versions if v.effective_from_utc_ms <= at_ms][-1]


@dataclass(frozen=True)
class Cut:
    """Energy of one source in one quarter hour, at its price."""

    period: str
    version: int
    source: str
    band: str
    wh: int


def counts(story: Story) -> list[Cut]:
    """Every Wh in the order in which it is counted."""
    found: list[Cut] = []
    opening = opening_of(story)
    for grid_wh, generator_wh, start_ms, end_ms in story.energy:
        first = (start_ms // QUARTER_MS + 1) * QUARTER_MS
        cuts = [start_ms, *range(first, end_ms, QUARTER_MS), end_ms]
        for name, wh in (("grid", grid_wh), ("generator", generator_wh)):
            booked = 0
            for cut_ms, until_ms in pairwise(cuts):
                until_wh = floor(Fraction(wh * (until_ms - start_ms), end_ms - start_ms))
                if until_wh == booked:
                    continue
                tariff = version_at(story.versions, cut_ms)
                now = local(tariff.zone, cut_ms)
                source = tariff.source(name)
                assert source is not None
                found.append(
                    Cut(
                        period_of(tariff, now.date(), opening),
                        tariff.version,
                        name,
                        band_on_the_clock(tariff, source, now),
                        until_wh - booked,
                    )
                )
                booked = until_wh
    return found


def worth_of_feed_in(story: Story) -> Charges:
    """What was fed in, quarter hour by quarter hour, at the price of its time: given, no tax."""
    worth: Charges = defaultdict(int)
    opening = opening_of(story)
    for wh, start_ms, end_ms in story.fed:
        first = (start_ms // QUARTER_MS + 1) * QUARTER_MS
        cuts = [start_ms, *range(first, end_ms, QUARTER_MS), end_ms]
        booked = 0
        for cut_ms, until_ms in pairwise(cuts):
            until_wh = floor(Fraction(wh * (until_ms - start_ms), end_ms - start_ms))
            tariff = version_at(story.versions, cut_ms)
            label = period_of(tariff, local(tariff.zone, cut_ms).date(), opening)
            price = tariff.feed_in_micro or 0
            worth[label, tariff.version, "export"] -= (until_wh - booked) * price
            booked = until_wh
    return {key: amount for key, amount in worth.items() if amount}


class Month:
    """The quarter hours of one billing period, each with its date, in the account and without."""

    def __init__(self, story: Story, near: date, opening: int) -> None:
        self.story = story
        first = story.versions[0]
        self.label = period_of(first, near, opening)
        self.dates = [
            day
            for day in (near + timedelta(days=offset) for offset in range(-35, 36))
            if period_of(first, day, opening) == self.label
        ]
        self.starts = {day: midnight(first.zone, day) for day in self.dates}
        self.start_ms = self.starts[self.dates[0]]
        self.end_ms = midnight(first.zone, self.dates[-1] + timedelta(days=1))
        stop_ms = min(self.end_ms, story.passed_ms) if story.ended else self.end_ms
        self.quarters = [
            at_ms
            for at_ms in range(max(self.start_ms, story.start_ms), stop_ms, QUARTER_MS)
            if at_ms < stop_ms
        ]
        self.stop_ms = stop_ms

    def number(self, at_ms: int) -> int:
        """The day of the period, from 1."""
        return sum(1 for start_ms in self.starts.values() if start_ms <= at_ms)

    def first_day(self) -> int:
        """The first day that is paid for here: not that on which another tariff was left."""
        story = self.story
        begun = self.number(self.quarters[0])
        broken = story.start_ms > self.start_ms and story.start_ms not in self.starts.values()
        return begun + 1 if story.joined and broken else begun

    def parts(self, amount: int) -> list[int]:
        """What each day of the period costs, the first at index 0."""
        size = len(self.dates)
        sums = [floor(Fraction(amount * day, size)) for day in range(size + 1)]
        return [b - a for a, b in pairwise(sums)]

    def between(self, amount: int, first: int, last: int) -> int:
        """What days first to last cost."""
        return sum(self.parts(amount)[first - 1 : last])

    def fees(self) -> dict[int, int]:
        """Fixed fee by version."""
        story, passed = self.story, self.story.passed_ms
        paying = [q for q in self.quarters if version_at(story.versions, q).fixed_fee_nano]
        if not paying:
            return {}
        since = paying[0]
        first = version_at(story.versions, since)
        last_day = self.number(self.quarters[-1]) if story.ended else len(self.dates)
        is_over = passed >= self.stop_ms
        final = version_at(story.versions, self.quarters[-1])
        if first.fee_collect == "daily":
            return self.daily_fees()
        if first.fee_collect == "period_close":
            whole = self.stop_ms == self.end_ms and not story.joined
            begin, last_day = (1, len(self.dates)) if whole else (self.first_day(), last_day)
            fee = self.between(final.fixed_fee_nano, begin, last_day)
            return {final.version: fee} if is_over else {}
        recharged = any(self.start_ms <= at < self.end_ms for at in story.recharges_ms)
        if passed < since or (
            first.fee_collect == "first_recharge" and not recharged and not is_over
        ):
            return {}
        begin = max(self.first_day(), self.number(since))
        return {first.version: self.between(first.fixed_fee_nano, begin, last_day)}

    def daily_fees(self) -> dict[int, int]:
        """Each day that is over, at the fee of the version in force when it ends."""
        story = self.story
        by_version: dict[int, int] = defaultdict(int)
        for day in range(self.first_day(), len(self.dates) + 1):
            inside = [q for q in self.quarters if self.number(q) == day]
            later = [start_ms for start_ms in self.starts.values() if self.number(start_ms) > day]
            if inside and story.passed_ms >= min([*later, self.stop_ms]):
                tariff = version_at(story.versions, inside[-1])
                by_version[tariff.version] += self.parts(tariff.fixed_fee_nano)[day - 1]
        return by_version

    def least(self) -> tuple[int, int] | None:
        """Version and amount that energy and fee come to at least, where that is known."""
        story = self.story
        known = story.ended or story.label_ms >= self.end_ms
        if not self.quarters or not known or story.passed_ms < self.stop_ms:
            return None
        final = version_at(story.versions, self.quarters[-1])
        begin, last = self.first_day(), self.number(self.quarters[-1])
        return final.version, self.between(final.minimum_nano, begin, last)


@lru_cache(maxsize=10_000)
def midnight(zone: str, day: date) -> int:
    """The first quarter hour whose label is on this date or later."""
    at_ms = (datetime(day.year, day.month, day.day, tzinfo=UTC) - EPOCH) // timedelta(
        milliseconds=1
    ) - 20 * 4 * QUARTER_MS
    while local(zone, at_ms).date() < day:
        at_ms += QUARTER_MS
    return at_ms


def all_charges(story: Story) -> Charges:
    """Nano-units by (period, version, component)."""
    versions = {tariff.version: tariff for tariff in story.versions}
    energy: dict[tuple[str, int], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    used_wh: dict[tuple[str, int], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    blocks: dict[tuple[str, str], int] = defaultdict(int, story.counted)
    for cut in counts(story):
        tariff = versions[cut.version]
        source = tariff.source(cut.source)
        assert source is not None
        row = source.prices_micro[source.bands.index(cut.band)]
        edges = [0, *source.block_limits_wh, 10**15]
        counter = ("" if tariff.blocks_by_occupancy else cut.period, cut.source)
        low = blocks[counter]
        for block, price in enumerate(row):
            inside = min(low + cut.wh, edges[block + 1]) - max(low, edges[block])
            energy[cut.period, cut.version][cut.source] += max(0, inside) * price
        blocks[counter] = low + cut.wh
        used_wh[cut.period, cut.version][cut.source] += cut.wh
    charges: Charges = {}
    for month in months(story):
        fees, least = month.fees(), month.least()
        here = {v: energy[month.label, v] for v in versions if (month.label, v) in energy}
        raised: dict[int, int] = {}
        if least is not None:
            charged = sum(sum(sources.values()) for sources in here.values()) + sum(fees.values())
            raised = {least[0]: max(0, least[1] - charged)}
        granted: dict[str, int] = defaultdict(int)
        before_wh: dict[str, int] = defaultdict(int)
        for tariff in story.versions:
            number = tariff.version
            parts: dict[str, int] = {
                f"energy:{name}": amount for name, amount in here.get(number, {}).items()
            }
            parts["fixed"] = fees.get(number, 0)
            parts["minimum"] = raised.get(number, 0)
            wh = used_wh[month.label, number]
            _take_rebates(tariff, parts, wh, before_wh, granted)
            _add_taxes(tariff, parts, wh)
            for name, amount in wh.items():
                before_wh[name] += amount
            for name, amount in parts.items():
                if amount:
                    charges[month.label, number, name] = amount
    return charges | worth_of_feed_in(story)


def counted_after(story: Story, other: Tariff, at_ms: int) -> dict[tuple[str, str], int]:
    """What blocks go on from when another tariff follows: where it counts by the same."""
    first = story.versions[0]
    day, opening = local(first.zone, at_ms).date(), opening_of(story)
    if first.blocks_by_occupancy or other.blocks_by_occupancy:
        counter = "" if first.blocks_by_occupancy and other.blocks_by_occupancy else None
    else:
        same = period_of(first, day, opening) == period_of(other, day, opening)
        counter = period_of(first, day, opening) if same else None
    blocks: dict[tuple[str, str], int] = defaultdict(int, story.counted)
    for cut in counts(story):
        blocks["" if first.blocks_by_occupancy else cut.period, cut.source] += cut.wh
    return {key: wh for key, wh in blocks.items() if key[0] == counter}


def months(story: Story) -> list[Month]:
    """The periods that the story touches."""
    zone = story.versions[0].zone
    opening = opening_of(story)
    day = local(zone, story.start_ms).date()
    found = [Month(story, day, opening)]
    while found[-1].end_ms <= story.passed_ms:
        found.append(Month(story, found[-1].dates[-1] + timedelta(days=1), opening))
    return found


def _total(parts: Mapping[str, int], kinds: Sequence[str]) -> int:
    return sum(amount for name, amount in parts.items() if name.partition(":")[0] in kinds)


def _of(rule: Rebate | TaxRule, wh: Mapping[str, int]) -> int:
    return sum(amount for name, amount in wh.items() if rule.source in ("", name))


def _take_rebates(
    tariff: Tariff,
    parts: dict[str, int],
    wh: Mapping[str, int],
    before_wh: Mapping[str, int],
    granted: dict[str, int],
) -> None:
    left = _total(parts, ("energy", "fixed", "minimum"))
    taken: dict[str, int] = {}
    for rule in tariff.rebates:
        if rule.rate_ppm:
            wanted = floor(Fraction(_total(parts, rule.bases) * rule.rate_ppm, 1_000_000))
        elif rule.per_kwh_micro:
            limit = 10**15 if rule.limit_wh is None else rule.limit_wh
            room = max(0, limit - _of(rule, before_wh))
            wanted = min(room, _of(rule, wh)) * rule.per_kwh_micro
        else:
            wanted = max(0, rule.amount_nano - granted[rule.name])
        taken[rule.name] = min(wanted, left)
        left -= taken[rule.name]
        if rule.amount_nano:
            granted[rule.name] += taken[rule.name]
    parts.update({f"rebate:{name}": -amount for name, amount in taken.items()})


def _add_taxes(tariff: Tariff, parts: dict[str, int], wh: Mapping[str, int]) -> None:
    rules = [rule for rule in tariff.taxes if not rule.on_recharge]
    inside = sum(_of(r, wh) * r.per_kwh_micro for r in rules if r.inclusive)
    rates = sum(Fraction(r.rate_ppm, 1_000_000) for r in rules if r.inclusive)
    taxes: dict[str, int] = {}
    for rule in rules:
        if rule.per_kwh_micro:
            amount = _of(rule, wh) * rule.per_kwh_micro
        else:
            base = Fraction(_total(parts, rule.bases))
            if rule.inclusive:
                base = (base - (inside if "energy" in rule.bases else 0)) / (1 + rates)
            amount = floor(max(Fraction(0), base) * Fraction(rule.rate_ppm, 1_000_000))
        taxes[f"tax:{rule.name}"] = amount
        if rule.inclusive:
            taxes[f"contained:{rule.name}"] = -amount
    parts.update(taxes)
