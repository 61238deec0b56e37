"""Whether control does its work: what the watchdog looks at before it is fed."""

from typing import Final

from gateway.app.config import Config
from gateway.app.control.engine import Engine
from gateway.app.notify import Progress
from gateway.core.clock import Clock
from gateway.south.pacing import BACKOFF_MAX_S
from gateway.store.writer import GroupCommitWriter

# No loop is so busy that nothing of a kind happens for this long. With a watchdog of 20 s and a
# start of a few seconds it is polling again within 45 s (promise 15).
STILL_S: Final = 10.0
# A sweep waits for its commit. A disk that hangs is no better after a restart, and cuts for credit
# go on without it meanwhile: so much longer.
COMMIT_STILL_S: Final = 60.0


def pulse_of(
    config: Config, engine: Engine, writer: GroupCommitWriter, clock: Clock
) -> list[Progress]:
    """Polls are started and sweeps are committed.

    A ledger that another process blocks is told and given up elsewhere; waiting for it counts.
    """
    settings = [meter.settings for meter in config.meters]
    sweep_s = config.posting.sweep_s

    def polls() -> int:
        return sum(poller.metrics.lateness.count for poller in engine.polls.pollers)

    def polls_limit_s() -> float | None:
        if not settings:
            return None
        # Meters that fail are left alone for a while; one that answers is asked every period.
        regular = [
            3 * (one.poll_s + one.timeout_s)
            for index, one in enumerate(settings)
            if engine.presence(index) == "good"
        ]
        slowest_s = 2 * BACKOFF_MAX_S + max(one.poll_s + one.timeout_s for one in settings)
        return STILL_S + clock.loop_delay_s(min(regular, default=slowest_s))

    return [
        Progress("polls", polls, polls_limit_s),
        Progress(
            "sweeps",
            lambda: engine.tallies.sweep_time.count + writer.blocked_rounds,
            lambda: COMMIT_STILL_S + clock.loop_delay_s(3 * sweep_s),
        ),
    ]
