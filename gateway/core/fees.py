"""When fixed fees and the minimum charge of a billing period fall due, and how much of them.

Both are pure functions of the period and of what is known of it (`Facts`): the instant up to which
time has passed, whether there was a recharge, whether all energy is known, when the account ended.

A fee is for days of the local calendar, shared out by one cumulative split: days a to b of the n
days of a period cost `floor(fee * b / n) - floor(fee * (a - 1) / n)`, so that parts of any kind sum
to exactly the fee. The way in which a period's fee is collected is that of the first version in it
that has a fee; so a change of the way in mid-period charges no day twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from gateway.core.civil import Period, civil_day
from gateway.core.tariff import DAILY, FIRST_RECHARGE, PERIOD_CLOSE, Tariff

_NEVER_MS: Final = 2**62


class Facts(NamedTuple):
    """What is known of a period when its charges are computed.

    Fees are accrued up to `accrued_utc_ms`. `recharged` says that the period saw a recharge,
    `complete` that the last of its energy is known. `ended_utc_ms` is when the account ended, 0
    while it lasts. `joined` says that another tariff charged it until it came under this one, the
    day of the change included.
    """

    accrued_utc_ms: int
    recharged: bool = False
    complete: bool = False
    ended_utc_ms: int = 0
    joined: bool = False


class Due(NamedTuple):
    """An amount that a version of the schedule (by its index there) charges."""

    version: int
    amount_nano: int


def share_nano(amount_nano: int, first_day: int, last_day: int, days: int) -> int:
    """The part of an amount for days `first_day` to `last_day` of `days`, both included."""
    if last_day < first_day:
        return 0
    return amount_nano * last_day // days - amount_nano * (first_day - 1) // days


@dataclass(frozen=True, slots=True)
class _Stay:
    """The part of a period [begin, end) that an account lasts, and the versions in it.

    `versions` are indexes with the instant from which on each is in force here; days count from 1.
    `joined` as in `Facts`.
    """

    schedule: Sequence[Tariff]
    zone: ZoneInfo
    period: Period
    begin_utc_ms: int
    end_utc_ms: int
    versions: tuple[tuple[int, int], ...]
    joined: bool

    @property
    def days(self) -> int:
        return self.day(self.period.end_utc_ms) - 1

    def day(self, utc_ms: int) -> int:
        """The day of the period that holds an instant; its end is in the day after the last."""
        return civil_day(self.zone, utc_ms) - civil_day(self.zone, self.period.start_utc_ms) + 1

    @property
    def first_day(self) -> int:
        """The first day that counts: that of a change belongs to the tariff before."""
        if self.joined:
            return self.day(self.begin_utc_ms - 1) + 1
        return self.day(self.begin_utc_ms)

    @property
    def last_day(self) -> int:
        """The last day that counts: that on which the account ended is still paid for."""
        return self.day(self.end_utc_ms - 1)

    @property
    def ends_early(self) -> bool:
        return self.end_utc_ms < self.period.end_utc_ms


def _stay(
    schedule: Sequence[Tariff], zone: ZoneInfo, period: Period, start_utc_ms: int, facts: Facts
) -> _Stay | None:
    begin = max(period.start_utc_ms, start_utc_ms)
    end = min(period.end_utc_ms, facts.ended_utc_ms or _NEVER_MS)
    if end <= begin:
        return None
    starts = [tariff.effective_from_utc_ms for tariff in schedule]
    starts[0] = min(starts[0], begin)
    versions = tuple(
        (index, max(begin, since))
        for index, (since, until) in enumerate(pairwise([*starts, _NEVER_MS]))
        if since < end and until > begin
    )
    return _Stay(schedule, zone, period, begin, end, versions, facts.joined)


def fixed_fees(
    schedule: Sequence[Tariff], zone: ZoneInfo, period: Period, start_utc_ms: int, facts: Facts
) -> list[Due]:
    """What each version of the schedule charges as fixed fee in a period, by these facts."""
    stay = _stay(schedule, zone, period, start_utc_ms, facts)
    if stay is None or facts.accrued_utc_ms < stay.begin_utc_ms:
        return []
    paying = next((item for item in stay.versions if schedule[item[0]].fixed_fee_nano), None)
    if paying is None:
        return []
    way = schedule[paying[0]].fee_collect
    if way == DAILY:
        return _daily_fees(stay, facts)
    if way == PERIOD_CLOSE:
        return _closing_fee(stay, facts)
    index, since_ms = paying
    due_ms = stay.end_utc_ms if way == FIRST_RECHARGE and not facts.recharged else since_ms
    if facts.accrued_utc_ms < due_ms:
        return []
    last_day = stay.last_day if facts.ended_utc_ms else stay.days
    first_day = max(stay.first_day, stay.day(since_ms))
    fee_nano = schedule[index].fixed_fee_nano
    return [Due(index, share_nano(fee_nano, first_day, last_day, stay.days))]


def _daily_fees(stay: _Stay, facts: Facts) -> list[Due]:
    """In arrears: each day that is over, at the fee of the version in force when it ends."""
    through = stay.last_day
    if not facts.ended_utc_ms or facts.accrued_utc_ms < stay.end_utc_ms:
        through = min(through, stay.day(facts.accrued_utc_ms) - 1)
    dues: list[Due] = []
    firsts = [max(stay.first_day, stay.day(since_ms)) for _, since_ms in stay.versions]
    for (index, _), (first, following) in zip(
        stay.versions, pairwise([*firsts, stay.days + 1]), strict=True
    ):
        fee_nano = stay.schedule[index].fixed_fee_nano
        amount_nano = share_nano(fee_nano, first, min(through, following - 1), stay.days)
        dues.append(Due(index, amount_nano))
    return dues


def _closing_fee(stay: _Stay, facts: Facts) -> list[Due]:
    """Whole at the close, also of a first partial period; by days where the account ends before, or
    where another tariff charged the days before."""
    if facts.accrued_utc_ms < stay.end_utc_ms:
        return []
    index = stay.versions[-1][0]
    fee_nano = stay.schedule[index].fixed_fee_nano
    if stay.ends_early or stay.joined:
        fee_nano = share_nano(fee_nano, stay.first_day, stay.last_day, stay.days)
    return [Due(index, fee_nano)]


def minimum_charge(
    schedule: Sequence[Tariff], zone: ZoneInfo, period: Period, start_utc_ms: int, facts: Facts
) -> Due | None:
    """The least that energy and fee of a period come to, once its energy is known.

    It is that of the version in force at the end, by days where the account did not last for the
    whole period.
    """
    if not facts.complete:
        return None
    stay = _stay(schedule, zone, period, start_utc_ms, facts)
    if stay is None or facts.accrued_utc_ms < stay.end_utc_ms:
        return None
    index = stay.versions[-1][0]
    minimum_nano = schedule[index].minimum_nano
    return Due(index, share_nano(minimum_nano, stay.first_day, stay.last_day, stay.days))
