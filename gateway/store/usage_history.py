"""Usage profiles from what the telemetry store still holds: the start of a forecast.

Used once, when control (or north) begins and has no snapshot of a profile, or when its history is
to be read anew. From then on each finished half hour is learned as it comes.
"""

from collections.abc import Mapping, Sequence
from typing import Final
from zoneinfo import ZoneInfo

from gateway.core.civil import DAY_MS
from gateway.core.usage import UsageProfile, profile_of_intervals
from gateway.store.telemetry_reader import StoredEvent, TelemetryReader

# Two weeks more than a cell remembers: older half hours would have faded.
HISTORY_DAYS: Final = 42
EVENTS_MAX: Final = 20_000
_OFF: Final = "SUPPLY_CUT"
_ON: Final = "SUPPLY_RESTORED"


def usage_from_history(
    reader: TelemetryReader,
    meter_id: str,
    zone: ZoneInfo,
    registers: int,
    *,
    from_utc_ms: int,
    to_utc_ms: int,
    off_spans: Sequence[tuple[int, int]] = (),
) -> UsageProfile:
    """The profile of a meter's half hours in [from, to); empty where there are none.

    `off_spans` of the meter's service point come from `off_supply`. May raise StoreAwayError. A
    new tenant's history begins when the account was opened: give that as `from_utc_ms`.
    """
    begin = max(from_utc_ms, to_utc_ms - HISTORY_DAYS * DAY_MS)
    intervals = reader.intervals(meter_id, begin, to_utc_ms)
    return profile_of_intervals(zone, registers, intervals, off_spans)


def off_supply(
    reader: TelemetryReader, from_utc_ms: int, to_utc_ms: int
) -> Mapping[str, tuple[tuple[int, int], ...]]:
    """When each service point was without supply, as [from, to) spans in time order.

    From the events of the site, read once for all points; at most EVENTS_MAX of the newest are
    looked at. A cut without an end lasts to `to_utc_ms`, an end without its cut began at
    `from_utc_ms`. May raise StoreAwayError.
    """
    switched: dict[str, list[StoredEvent]] = {}
    cursor: int | None = None
    for _ in range(EVENTS_MAX // 100):
        page = reader.events(before_seq=cursor, limit=100)
        for event in page:
            if event.kind in {_OFF, _ON} and from_utc_ms <= event.utc_ms < to_utc_ms:
                switched.setdefault(event.subject, []).append(event)
        if len(page) < 100 or page[-1].utc_ms < from_utc_ms:
            break
        cursor = page[-1].seq
    return {
        subject: tuple(_spans(list(reversed(events)), from_utc_ms, to_utc_ms))
        for subject, events in switched.items()
    }


def _spans(
    events: Sequence[StoredEvent], from_utc_ms: int, to_utc_ms: int
) -> Sequence[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    off_since: int | None = from_utc_ms if events[0].kind == _ON else None
    for event in events:
        if event.kind == _OFF:
            off_since = event.utc_ms if off_since is None else off_since
        elif off_since is not None:
            spans.append((off_since, event.utc_ms))
            off_since = None
    if off_since is not None:
        spans.append((off_since, to_utc_ms))
    return spans
