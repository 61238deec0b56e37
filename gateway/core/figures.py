"""What control measures of itself: every figure with its kind, unit and meaning.

One list for the process that fills it, the process that shows it and the documentation. Names
follow Prometheus: base units as suffix, `_total` for counters.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

PREFIX: Final = "prepaid_gateway_"
# Upper bounds of every histogram: from the decision of a cut (under a millisecond) to a link that
# gave up.
BOUNDS_MS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


class FigureKind(StrEnum):
    """How a figure behaves over time."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure. With a `label` its value is a mapping from label to number."""

    name: str
    kind: FigureKind
    meaning: str
    label: str | None = None


@dataclass(slots=True)
class Histogram:
    """Counts of durations by upper bound: `BOUNDS_MS`, then everything longer."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_MS) + 1))
    total_s: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(BOUNDS_MS, seconds * 1e3)] += 1
        self.total_s += seconds

    @property
    def count(self) -> int:
        """How many durations were counted."""
        return sum(self.counts)

    def quantile_ms(self, share: float) -> float:
        """The upper bound that at least `share` (0 … 1) of the durations keep; inf above all."""
        needed = share * self.count
        reached = 0
        for bound_ms, count in zip(BOUNDS_MS, self.counts, strict=False):
            reached += count
            if reached >= needed:
                return float(bound_ms)
        return float("inf")

    def add(self, other: "Histogram") -> None:
        """Count what another one counted, too."""
        self.counts = [
            mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)
        ]
        self.total_s += other.total_s

    def snapshot(self) -> dict[str, object]:
        """As `histogram_of` takes it."""
        return {"counts": list(self.counts), "total_s": self.total_s}


Value = float | Mapping[str, float] | Histogram


def histogram_of(state: Mapping[str, object]) -> Histogram:
    """The histogram of a snapshot. Raises ValueError for anything else."""
    counts, total_s = state.get("counts"), state.get("total_s")
    if (
        not isinstance(counts, Sequence)
        or len(counts) != len(BOUNDS_MS) + 1
        or not all(isinstance(count, int) for count in counts)
        or not isinstance(total_s, int | float)
    ):
        raise ValueError("not a histogram")
    return Histogram(list(counts), float(total_s))


def _counter(name: str, meaning: str, label: str | None = None) -> Figure:
    return Figure(name, FigureKind.COUNTER, meaning, label)


def _gauge(name: str, meaning: str, label: str | None = None) -> Figure:
    return Figure(name, FigureKind.GAUGE, meaning, label)


def _histogram(name: str, meaning: str) -> Figure:
    return Figure(name, FigureKind.HISTOGRAM, meaning)


CONTROL_FIGURES: Final = (
    _counter("polls_total", "Polls that brought a reading."),
    _counter("polls_failed_total", "Polls that failed, by error code.", "code"),
    _counter("polls_missed_total", "Regular polls left out because the one before still ran."),
    _counter(
        "polls_held_back_total", "Regular polls left out while a meter that failed was left alone."
    ),
    _counter("polls_predicted_total", "Polls ahead of the grid, close to the end of a credit."),
    _counter(
        "polls_predicted_refused_total", "Such polls refused: too many meters were asked fast."
    ),
    _counter("connects_total", "Connections that were opened."),
    _histogram("poll_lateness_seconds", "Start of a poll against the time it was due."),
    _histogram("poll_round_trip_seconds", "The last request of each poll, sent to answered."),
    _histogram("poll_duration_seconds", "Whole polls, connecting included."),
    _gauge(
        "meters", "Meters by state: good, uncertain (a failed poll), away, never (read).", "state"
    ),
    _gauge("points", "Enforced service points by control state.", "state"),
    _gauge("points_blocked", "Enforced service points by standing reason.", "reason"),
    _gauge("mass_cut_halted", "1 while the mass-cut breaker holds every cut."),
    _counter("switches_total", "Finished switch commands, by action and result.", "result"),
    _histogram("cut_decision_seconds", "CREDIT cuts: reply that shows the limit, to decision."),
    _histogram("cut_write_seconds", "CREDIT cuts: that reply, to the meter's answer to the write."),
    _histogram("switch_proof_seconds", "Switch commands: decision, to proof by witnesses."),
    _counter("requests_total", "Requests carried out, by outcome.", "outcome"),
    _histogram("request_seconds", "Requests: begun, to a durable outcome."),
    _counter("ledger_commits_total", "Commits of ledger.db."),
    _counter("ledger_operations_total", "Operations in those commits."),
    _histogram("ledger_commit_seconds", "Ledger operations: queued, to durable."),
    _gauge("ledger_queue", "Ledger operations that wait."),
    _counter("store_write_blocked_total", "Seconds in which another process held ledger.db."),
    _gauge("store_bytes", "Size of control's files: ledger, wal, telemetry.", "file"),
    _gauge("disk_free_bytes", "Free space where control's files are."),
    _counter("telemetry_dropped_total", "Readings, half hours and events that were dropped."),
    _gauge("telemetry_working", "1 while readings are kept."),
    _histogram("sweep_seconds", "Sweeps: decisions of all points, commit, telemetry handed over."),
    _gauge("clock_trusted", "1 while the wall clock may choose rates."),
    _gauge("chain_verified", "1 once the ledger's chain was found whole; nothing switches before."),
    _gauge("recovery", "1 in RECOVERY after a restore: nobody is cut for credit."),
    _gauge("start_time_seconds", "When this process started, seconds since 1970 UTC."),
    _counter("cpu_seconds_total", "Processor time of control, user and system."),
    _gauge("resident_memory_bytes", "Memory of control."),
    _gauge("open_descriptors", "Open file descriptors of control."),
    _gauge("max_descriptors", "How many control may open."),
    _gauge("tasks", "Tasks on control's event loop."),
    _gauge("node_broker_away", "1 while the nodes' broker is away; absent without one."),
    _gauge("tamper_suspected", "Meters with a sign of tampering that nobody has answered for."),
    _gauge("transformers_suspect", "Meters whose current transformer is suspect."),
    _gauge(
        "feeder_loss_percent", "Loss of the last half hour, if it was judged, by feeder.", "feeder"
    ),
    _gauge("nodes", "Devices by state: online, offline, pending, refused, quarantined.", "state"),
    _gauge("node_records_waiting", "Readings that nodes keep until they are taken."),
    _counter("node_messages_total", "Messages of nodes that came from the broker."),
    _counter("node_messages_refused_total", "Such messages refused, by error code.", "code"),
    _counter(
        "node_messages_left_out_total",
        "Such messages and kept readings left out: duplicates, older ones, those that wait.",
        "what",
    ),
    _counter("node_messages_dropped_total", "Such messages that came faster than they were taken."),
    _counter("node_events_dropped_total", "Events of nodes that told too many in a minute."),
    _counter("node_devices_dropped_total", "Unknown devices not taken up: too many wait."),
    _counter("node_commands_total", "Sealed commands that were sent to nodes."),
    _counter("node_commands_failed_total", "Commands to nodes that failed, by error code.", "code"),
)
FIGURES_BY_NAME: Final = {figure.name: figure for figure in CONTROL_FIGURES}
