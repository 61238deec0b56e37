"""What is known of one supply, and how it survives a restart; the rules are in supply.py."""

from collections.abc import Mapping, Sequence
from typing import cast

from gateway.core.blocks import Blocks
from gateway.core.limiter import Limiter
from gateway.core.proof import Observation, OpenOutput
from gateway.core.switching import NEVER_CRITICAL, Alarm, Command, Fault, Reason, SupplyPolicy


class SupplyMemory:
    """The state of a supply. Times are monotonic nanoseconds, on file wall milliseconds."""

    def __init__(self, policy: SupplyPolicy, limiter: Limiter | None = None) -> None:
        self.policy = policy
        self.limiter = limiter or Limiter()
        self.emergency_in_use = False  # whoever keeps the account says so: a lower limit holds
        self.enforced = False
        self.blocks = Blocks()
        self.reconnection_pending = False
        self.needs_person = True  # arm mode asks, unless only what returns by itself had opened
        self.confirmed_ns: int | None = None
        self.opened_ns: int | None = None
        self.command: Command | None = None
        self.fault: Fault | None = None
        self.fault_ns = 0
        self.alarms: set[Alarm] = set()
        self.observed: Observation | None = None
        self.open_output = OpenOutput()
        self.recent_w: float | None = None  # what flowed before the last opening
        self._good_ns: int | None = None
        self._disturbed = True  # nothing seen yet: an open output may be a restart's
        self._unaccounted = False  # the ledger is an older one: who opened the output is lost
        self._accepted_ns: int | None = None  # a person answers for closing what somebody opened

    @property
    def reasons(self) -> set[Reason]:
        """The reasons that block supply now; those held back are not among them."""
        return self.blocks.standing

    def snapshot(self, now_ns: int, utc_ms: int) -> dict[str, object]:
        """JSON values from which `restore` goes on after a restart."""

        def wall(mono_ns: int | None) -> int | None:
            return None if mono_ns is None else utc_ms - (now_ns - mono_ns) // 1_000_000

        command = self.command
        # A close that is not proved may have to be begun anew, and then needs its person again.
        unproved = command is not None and command.close and command.was_pending
        return {
            **self.blocks.snapshot(),
            "reconnection_pending": self.reconnection_pending or unproved,
            "needs_person": self.needs_person,
            "confirmed_utc_ms": wall(self.confirmed_ns),
            "opened_utc_ms": wall(self.opened_ns),
            "opened_energy_wh": self.open_output.energy_wh,
            "recent_w": self.recent_w,
            "fault": self.fault,
            "alarms": sorted(self.alarms),
            "limiter": {**self.limiter.snapshot(now_ns), "utc_ms": utc_ms},
        }

    def restore(self, state: Mapping[str, object], now_ns: int, utc_ms: int) -> None:
        """Take up a snapshot; a command under way at the crash is rebuilt by looking.

        Snapshots of older versions know neither limiter nor owners.
        """
        self.blocks.restore(state)
        self.reconnection_pending = bool(state["reconnection_pending"])
        self.needs_person = bool(state.get("needs_person", True))
        if self.policy.critical:
            self.blocks.discard(NEVER_CRITICAL)

        def mono(name: str) -> int | None:
            # A wall clock that stepped back must not stretch a wait without end.
            then_utc_ms = cast("int | None", state[name])
            return (
                None if then_utc_ms is None else now_ns - max(0, utc_ms - then_utc_ms) * 1_000_000
            )

        self.opened_ns = mono("opened_utc_ms")
        self.confirmed_ns = mono("confirmed_utc_ms")
        if self.confirmed_ns is not None and cast("int", state["confirmed_utc_ms"]) > utc_ms:
            # The clock is behind: how long ago that person stood there is not known.
            self.confirmed_ns = None
        self.open_output = OpenOutput(cast("int | None", state["opened_energy_wh"]))
        self.recent_w = cast("float | None", state.get("recent_w"))
        fault = cast("str | None", state["fault"])
        self.fault = Fault(fault) if fault else None
        self.fault_ns = now_ns
        self.alarms = {Alarm(name) for name in cast("Sequence[str]", state["alarms"])}
        limiter = cast("Mapping[str, object] | None", state.get("limiter"))
        if limiter is not None:
            elapsed_ms = max(0, utc_ms - cast("int", limiter["utc_ms"]))
            self.limiter.restore(limiter, now_ns, elapsed_ms)
