"""Which period a document is about, and which postings belong to it."""

import re
from dataclasses import dataclass
from datetime import date
from typing import Final
from zoneinfo import ZoneInfo

from gateway.core.civil import DAY_MS, labelled_month, local_instant, month_period
from gateway.core.errors import RefusedError

# How long after a period's end its last postings may come and still stand in its document: fees
# fall due at midnight and are posted seconds later, a meter may be out of reach for a night.
SETTLING_MS: Final = DAY_MS
LAST_ANNIVERSARY: Final = 28  # a day that every month has

_LABEL: Final = re.compile(r"(\d{4})-(\d{2})(?:-(\d{2}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class DocumentPeriod:
    """A billing period [start, end) in UTC milliseconds, with the label of the one after it.

    What is posted within `settling_ms` after the end and is charged to this period or an earlier
    one still belongs to it. Whatever comes later belongs to the period in which it is posted.
    """

    label: str
    start_utc_ms: int
    end_utc_ms: int
    next_label: str
    settling_ms: int = SETTLING_MS

    @property
    def final_utc_ms(self) -> int:
        """From when on nothing more is added to the period's documents."""
        return self.end_utc_ms + self.settling_ms

    def place(self, posted_utc_ms: int, charged_period: str = "") -> int:
        """Where a posting belongs: -1 to an earlier document, 0 to this one, 1 to a later one.

        `charged_period` is the label of the period whose energy or fee it charges; without one
        (a recharge) the time of posting alone decides.
        """
        if posted_utc_ms < self.start_utc_ms:
            return -1
        settles = charged_period != ""
        settling = posted_utc_ms < self.start_utc_ms + self.settling_ms
        if settles and settling and charged_period < self.label:
            return -1
        if posted_utc_ms < self.end_utc_ms:
            return 0
        if settles and charged_period < self.next_label and posted_utc_ms < self.final_utc_ms:
            return 0
        return 1


def document_period(zone: ZoneInfo, label: str) -> DocumentPeriod:
    """The period of a label: `YYYY-MM`, or `YYYY-MM-DD` for one that begins on an anniversary.

    Raises RefusedError PERIOD_INVALID for any other text or a date that does not exist.
    """
    found = _LABEL.fullmatch(label)
    if found is None:
        raise _invalid(label, "write YYYY-MM, or YYYY-MM-DD where periods begin on another day")
    try:
        if found[3] is None:
            month = labelled_month(zone, label)
            following = month_period(zone, month.end_utc_ms).label
            return DocumentPeriod(label, month.start_utc_ms, month.end_utc_ms, following)
        first = date(int(found[1]), int(found[2]), int(found[3]))
        if first.day > LAST_ANNIVERSARY:
            raise _invalid(label, f"periods begin on day 1 to {LAST_ANNIVERSARY} of a month")
        months = first.year * 12 + first.month
        after = date(months // 12, months % 12 + 1, first.day)
        return DocumentPeriod(
            label, local_instant(zone, first, 0), local_instant(zone, after, 0), after.isoformat()
        )
    except (ValueError, OverflowError, OSError) as error:
        raise _invalid(label, "there is no such date") from error


def _invalid(label: str, why: str) -> RefusedError:
    return RefusedError("PERIOD_INVALID", f"{label!r} is no period: {why}", "period")
