"""Control's figures, gathered once a second and shown to north on the board."""

import asyncio
import os
import resource
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import structlog

from gateway.app.control.engine import Engine
from gateway.app.control.keeper import TelemetryKeeper
from gateway.core.clock import Clock
from gateway.core.errors import StoreError
from gateway.core.figures import Histogram, Value
from gateway.store.board import BoardWriter
from gateway.store.writer import GroupCommitWriter

log = structlog.get_logger()

GATHER_EVERY_S: Final = 1.0
# Sizes of directories are looked at less often: a scan of a month of telemetry files.
SIZES_EVERY_NS: Final = 60_000_000_000
STATM_PATH: Final = Path("/proc/self/statm")
DESCRIPTORS_PATH: Final = Path("/proc/self/fd")


class Gauges:
    """Gathers the figures of core/figures.py. Nothing here may stop control: it says so once."""

    def __init__(
        self,
        engine: Engine,
        writer: GroupCommitWriter,
        keeper: TelemetryKeeper,
        *,
        ledger: Path,
        telemetry_dir: Path,
        board: BoardWriter,
        clock: Clock,
        more: Callable[[], Mapping[str, Value]] = dict,
    ) -> None:
        self._more = more
        self._engine = engine
        self._writer = writer
        self._keeper = keeper
        self._ledger = ledger
        self._telemetry_dir = telemetry_dir
        self._board = board
        self._clock = clock
        self._started_utc_ms = clock.utc_ms()
        self._telemetry_bytes = 0
        self._sized_ns: int | None = None
        self._failed = False

    async def run(self, stop: asyncio.Event) -> None:
        """Show the figures every second until `stop`."""
        while not stop.is_set():
            self.show()
            try:
                async with asyncio.timeout(GATHER_EVERY_S):
                    await stop.wait()
            except TimeoutError:
                continue

    def show(self) -> None:
        """Gather and show once."""
        try:
            self._board.write(self._clock.utc_ms(), self.gather())
        except (StoreError, OSError) as error:
            if not self._failed:
                log.warning("figures.failed", reason=str(error))
            self._failed = True
        else:
            self._failed = False

    def gather(self) -> dict[str, Value]:
        """Every figure by name. Raises OSError."""
        return {
            **self._polls(),
            **self._supply(),
            **self._stores(),
            **self._process(),
            **self._more(),
        }

    def _polls(self) -> dict[str, Value]:
        polls = self._engine.polls
        failures: Counter[str] = Counter()
        for poller in polls.pollers:
            failures.update(poller.metrics.failures)
        metrics = [poller.metrics for poller in polls.pollers]
        return {
            "polls_total": sum(one.polls for one in metrics),
            "polls_failed_total": dict(failures),
            "polls_missed_total": sum(one.skipped for one in metrics),
            "polls_held_back_total": sum(one.held_back for one in metrics),
            "polls_predicted_total": sum(one.predicted for one in metrics),
            "polls_predicted_refused_total": sum(one.predicted_refused for one in metrics),
            "connects_total": sum(one.connects for one in metrics),
            "poll_lateness_seconds": _sum(one.lateness for one in metrics),
            "poll_round_trip_seconds": _sum(one.round_trip for one in metrics),
            "poll_duration_seconds": _sum(one.poll_time for one in metrics),
        }

    def _supply(self) -> dict[str, Value]:
        engine, now_ns = self._engine, self._clock.mono_ns()
        tallies = engine.tallies
        enforced = [point.supply for point in engine.points if point.supply.enforced]
        return {
            "meters": Counter(engine.presence(index) for index in range(len(engine.points))),
            "points": Counter(supply.state(now_ns).value for supply in enforced),
            "points_blocked": Counter(
                reason.value for supply in enforced for reason in supply.reasons
            ),
            "mass_cut_halted": float(engine.breaker.halted),
            "switches_total": dict(tallies.switches),
            "cut_decision_seconds": tallies.cut_decision,
            "cut_write_seconds": tallies.cut_write,
            "switch_proof_seconds": tallies.switch_proof,
            "requests_total": dict(tallies.requests),
            "request_seconds": tallies.request_time,
            "sweep_seconds": tallies.sweep_time,
            "clock_trusted": float(engine.gate.clock.trusted),
            "chain_verified": float(engine.gate.chain_verified),
            "recovery": float(engine.gate.recovery is not None),
        }

    def _stores(self) -> dict[str, Value]:
        writer, now_ns = self._writer, self._clock.mono_ns()
        if self._sized_ns is None or now_ns - self._sized_ns >= SIZES_EVERY_NS:
            self._sized_ns = now_ns
            self._telemetry_bytes = sum(map(_size, self._telemetry_dir.rglob("*")))
        room = os.statvfs(self._ledger.parent)
        return {
            "ledger_commits_total": writer.committed_batches,
            "ledger_operations_total": writer.committed_operations,
            "ledger_commit_seconds": self._engine.tallies.commit_time,
            "ledger_queue": writer.queued,
            "store_write_blocked_total": writer.blocked_rounds,
            "store_bytes": {
                "ledger": _size(self._ledger),
                "wal": _size(self._ledger.with_name(f"{self._ledger.name}-wal")),
                "telemetry": self._telemetry_bytes,
            },
            "disk_free_bytes": room.f_bavail * room.f_frsize,
            "telemetry_dropped_total": self._keeper.dropped,
            "telemetry_working": float(self._keeper.working),
        }

    def _process(self) -> dict[str, Value]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        pages = int(STATM_PATH.read_text(encoding="ascii").split()[1])
        return {
            "start_time_seconds": self._started_utc_ms / 1000,
            "cpu_seconds_total": used.ru_utime + used.ru_stime,
            "resident_memory_bytes": pages * resource.getpagesize(),
            "open_descriptors": _count(DESCRIPTORS_PATH),
            "max_descriptors": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            "tasks": len(asyncio.all_tasks()),
        }


def _sum(histograms: Iterable[Histogram]) -> Histogram:
    total = Histogram()
    for histogram in histograms:
        total.add(histogram)
    return total


def _count(directory: Path) -> int:
    with os.scandir(directory) as entries:
        return sum(1 for _ in entries)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        # Deleted by retention while it was looked at.
        return 0
