"""Low-credit alerts: absolute, as a share of the last recharge, by days left.

One alert per downward crossing of a threshold; the threshold is armed again only by a credit that
lifts above it (domain.md section 5). A balance that flutters around a threshold, or days left that
rise because less is used, alert nobody twice.

Written as texts: `["100", "50", "20 %", "3 days"]`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, cast

from gateway.core.errors import RefusedError
from gateway.core.money import Currency, DecimalCodes, format_amount, format_scaled, parse_scaled
from gateway.core.problems import ProblemList
from gateway.core.tariff import PERCENT_SCALE, PPM

EVENT: Final = "LOW_CREDIT"
MAX_THRESHOLDS: Final = 12
TENTHS_PER_DAY: Final = 10
DAYS_MAX: Final = 60

_PERCENT: Final = re.compile(r"(.+?)\s*%")
_DAYS: Final = re.compile(r"(.+?)\s*days?")
_CODES: Final = DecimalCodes(
    "threshold", "THRESHOLD_INVALID", "THRESHOLD_INVALID", "THRESHOLD_INVALID"
)


class ThresholdKind(StrEnum):
    """What a threshold is compared with, and the unit of its limit."""

    AMOUNT = "amount"  # nano-units of credit
    SHARE = "share"  # parts per million of the last recharge
    DAYS = "days"  # tenths of a day


@dataclass(frozen=True, slots=True)
class Threshold:
    """One threshold. `name` is stable and shown: `LOW_100`, `LOW_20_PERCENT`, `LOW_3_DAYS`."""

    name: str
    kind: ThresholdKind
    limit: int


@dataclass(frozen=True, slots=True)
class LowCredit:
    """A threshold was crossed downwards. Becomes an event LOW_CREDIT of the account.

    `limit_nano` is what the credit was compared with; None for days left.
    """

    threshold: str
    kind: ThresholdKind
    limit_nano: int | None
    credit_nano: int
    days_left_tenths: int | None = None


class LowCreditWatch:
    """Which thresholds of one account are armed. `credit_nano` is what is left without emergency.

    A threshold that is new arms with the first look that finds more than its limit, so a new
    account without money alerts nobody.
    """

    def __init__(self, thresholds: Sequence[Threshold]) -> None:
        names = [threshold.name for threshold in thresholds]
        if len(set(names)) < len(names):
            raise ValueError(f"a threshold stands twice in {names}")
        self._thresholds = tuple(thresholds)
        self._armed: set[str] = set()
        # Arm if the next look finds more: new ones, and days left after a credit, since the
        # forecast that tells them comes later.
        self._waiting = set(names)
        self._last_recharge_nano = 0

    @property
    def waiting(self) -> int:
        """How many thresholds the next look may arm."""
        return len(self._waiting)

    def recharged(self, amount_nano: int, credit_nano: int) -> None:
        """A recharge led to this credit; shares count from its amount."""
        if amount_nano > 0:
            self._last_recharge_nano = amount_nano
        self.credited(credit_nano)

    def credited(self, credit_nano: int) -> None:
        """A credit (recharge, transfer, credit note) led to this credit: arm what lies below it."""
        for threshold in self._thresholds:
            if threshold.kind is ThresholdKind.DAYS:
                self._waiting.add(threshold.name)
            elif credit_nano > self._limit_nano(threshold):
                self._armed.add(threshold.name)

    def observe(self, credit_nano: int) -> tuple[LowCredit, ...]:
        """Thresholds that this credit reaches or passes downwards, the highest first."""
        crossed: list[tuple[int, LowCredit]] = []
        for threshold in self._thresholds:
            if threshold.kind is not ThresholdKind.DAYS:
                limit_nano = self._limit_nano(threshold)
                if self._crosses(threshold.name, credit_nano > limit_nano):
                    alert = LowCredit(threshold.name, threshold.kind, limit_nano, credit_nano)
                    crossed.append((limit_nano, alert))
        return _highest_first(crossed)

    def observe_days(self, days_left_tenths: int | None, credit_nano: int) -> tuple[LowCredit, ...]:
        """The same for days left, in tenths; None (not known) changes nothing."""
        if days_left_tenths is None:
            return ()
        crossed: list[tuple[int, LowCredit]] = []
        for threshold in self._thresholds:
            if threshold.kind is ThresholdKind.DAYS and self._crosses(
                threshold.name, days_left_tenths > threshold.limit
            ):
                alert = LowCredit(
                    threshold.name, threshold.kind, None, credit_nano, days_left_tenths
                )
                crossed.append((threshold.limit, alert))
        return _highest_first(crossed)

    def snapshot(self) -> dict[str, object]:
        """What is armed, as JSON values. By name: thresholds may change in between."""
        return {
            "known": [threshold.name for threshold in self._thresholds],
            "armed": sorted(self._armed),
            "waiting": sorted(self._waiting),
            "last_recharge_nano": self._last_recharge_nano,
        }

    def restore(self, state: Mapping[str, object]) -> None:
        """Go on where `snapshot` was taken; a threshold that it does not know is new."""
        names = {threshold.name for threshold in self._thresholds}
        known, armed, waiting = (
            set(cast("Sequence[str]", state[key])) for key in ("known", "armed", "waiting")
        )
        self._armed = names & armed
        self._waiting = (names & waiting) | (names - known)
        self._last_recharge_nano = cast("int", state["last_recharge_nano"])

    def _crosses(self, name: str, above: bool) -> bool:  # noqa: FBT001 - the one fact about it
        """Take a look at one threshold; whether it was armed and is reached now."""
        if name in self._waiting:
            self._waiting.discard(name)
            if above:
                self._armed.add(name)
        if above or name not in self._armed:
            return False
        self._armed.discard(name)
        return True

    def _limit_nano(self, threshold: Threshold) -> int:
        if threshold.kind is ThresholdKind.SHARE:
            return self._last_recharge_nano * threshold.limit // PPM
        return threshold.limit


def _highest_first(crossed: Sequence[tuple[int, LowCredit]]) -> tuple[LowCredit, ...]:
    return tuple(alert for _, alert in sorted(crossed, key=lambda pair: -pair[0]))


def thresholds_from_document(
    value: object, currency: Currency, place: str = "low_credit"
) -> tuple[Threshold, ...]:
    """Thresholds of a list of texts: `"100"`, `"20 %"` of the last recharge, `"3 days"`.

    Raises DocumentProblemsError THRESHOLD_INVALID with every problem and its path.
    """
    problems = ProblemList("THRESHOLD_INVALID")
    thresholds: dict[str, Threshold] = {}
    for here, item in problems.items(place, value, MAX_THRESHOLDS):
        try:
            threshold = _threshold(item, currency, here)
        except RefusedError as refusal:
            problems.take(refusal, here)
            continue
        if threshold.name in thresholds:
            problems.report(here, f"{item} stands twice")
        thresholds[threshold.name] = threshold
    problems.raise_if_any()
    return tuple(thresholds.values())


def thresholds_to_document(thresholds: Sequence[Threshold], currency: Currency) -> list[str]:
    """The texts of thresholds; `thresholds_from_document` gives equal ones back."""
    texts = {
        ThresholdKind.AMOUNT: lambda limit: format_amount(limit, currency),
        ThresholdKind.SHARE: lambda limit: f"{format_scaled(limit, PERCENT_SCALE)} %",
        ThresholdKind.DAYS: lambda limit: f"{format_scaled(limit, 1)} days",
    }
    return [texts[threshold.kind](threshold.limit) for threshold in thresholds]


def _threshold(item: object, currency: Currency, place: str) -> Threshold:
    text = item.strip() if isinstance(item, str) else item
    if isinstance(text, str) and (found := _PERCENT.fullmatch(text)):
        limit = _parsed(found[1], PERCENT_SCALE, PPM, place)
        return Threshold(
            f"LOW_{format_scaled(limit, PERCENT_SCALE)}_PERCENT", ThresholdKind.SHARE, limit
        )
    if isinstance(text, str) and (found := _DAYS.fullmatch(text)):
        limit = _parsed(found[1], 1, DAYS_MAX * TENTHS_PER_DAY, place)
        return Threshold(f"LOW_{format_scaled(limit, 1)}_DAYS", ThresholdKind.DAYS, limit)
    limit = _parsed(text, currency.money_scale, 2**63 - 1, place)
    return Threshold(f"LOW_{format_amount(limit, currency)}", ThresholdKind.AMOUNT, limit)


def _parsed(text: object, scale: int, limit: int, place: str) -> int:
    value = parse_scaled(text, scale, limit, _CODES, place)
    if value < 0:
        raise RefusedError("THRESHOLD_INVALID", f"{text} is negative", place)
    return value
