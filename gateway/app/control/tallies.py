"""What control counts while it works; `gauges.py` shows it."""

from collections import Counter
from dataclasses import dataclass, field

from gateway.core.figures import Histogram


@dataclass(slots=True)
class Tallies:
    """Counts and durations since the start.

    `cut_decision` and `cut_write` begin with the reply that first showed the limit, and leave out
    cuts that something held (breaker, calendar, a request under way). `switches` counts by
    "open verified", "close failed" and so on, `requests` by outcome.
    """

    switches: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    cut_decision: Histogram = field(default_factory=Histogram)
    cut_write: Histogram = field(default_factory=Histogram)
    switch_proof: Histogram = field(default_factory=Histogram)
    request_time: Histogram = field(default_factory=Histogram)
    commit_time: Histogram = field(default_factory=Histogram)
    sweep_time: Histogram = field(default_factory=Histogram)
