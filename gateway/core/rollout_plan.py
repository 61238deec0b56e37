"""The words of a roll-out of firmware: image, plan, members, what is seen of a device.

See `rollout.py`, which is the state machine over them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Final

from gateway.core.errors import RefusedError

# What a node takes (docs/firmware-update.md); gateway/app/firmware/bundle.py has the same sum.
IMAGE_BYTES_MAX: Final = 270_728
CHUNK_BYTES_MAX: Final = 1_024
IMAGES_MAX: Final = 8
# Open ones, each with its image in memory.
ROLLOUTS_MAX: Final = 4
DEVICES_MAX: Final = 1_000
STAGES_MAX: Final = 8
DAY_S: Final = 86_400
OBSERVE_S_MAX: Final = 7 * DAY_S
OFFLINE_S_MAX: Final = 7 * DAY_S
PARALLEL_MAX: Final = 16
# A device that was not heard for so long is left out of the roll-out.
LEFT_OUT_MS: Final = 7 * DAY_S * 1_000
# A node proves itself within 5 minutes of a start and has three of them.
QUIET_MS: Final = 20 * 60 * 1_000
# A node that fetches asks every 5 s: one that does not has forgotten what it was doing.
STALL_MS: Final = 30 * 1_000


class State(StrEnum):
    """Where a roll-out stands."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    COMPLETED = "completed"


class Phase(StrEnum):
    """Where a device stands in its roll-out."""

    WAITING = "waiting"
    OFFERED = "offered"
    FETCHING = "fetching"
    INSTALLING = "installing"
    TRIAL = "trial"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


class Skip(StrEnum):
    """Why a device is left as it is."""

    SAME_VERSION = "SAME_VERSION"
    OTHER_HARDWARE = "OTHER_HARDWARE"
    NOT_APPROVED = "NOT_APPROVED"
    THIRD_PARTY = "THIRD_PARTY"
    IN_ROLLOUT = "IN_ROLLOUT"
    OFFLINE = "OFFLINE"
    STOPPED = "STOPPED"


# Something of the update is under way at the device.
ACTIVE: Final = frozenset({Phase.OFFERED, Phase.FETCHING, Phase.INSTALLING, Phase.TRIAL})
ENDED: Final = frozenset({State.STOPPED, State.COMPLETED})


@dataclass(frozen=True, slots=True)
class Image:
    """A bundle as nodes are told of it; `sha256` in hex, `size` in bytes."""

    sha256: str
    version: str
    hardware: str
    security: int
    size: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How a roll-out goes on. `stages` are percentages of its devices, 0 is one device."""

    stages: tuple[int, ...] = (0, 10, 100)
    observe_s: int = 3_600
    failures_max: int = 1
    parallel_max: int = 4
    offline_s: int = 3_600

    def limit(self, stage: int, base: int, left: int) -> int:
        """How many devices may have the image in a stage: of `base`, and `left` at most."""
        percent = self.stages[stage]
        if percent == 100:
            return left
        return min(left, max(1, -(-base * percent // 100)))


@dataclass(slots=True)
class Member:
    """One device of a roll-out.

    `session` is the node's when it was offered the image; `offset` bytes it has; `best` grows with
    everything that brings it nearer to its end; times count while the gateway runs.
    """

    device_id: str
    phase: Phase = Phase.WAITING
    stage: int = -1
    session: str = ""
    offset: int = 0
    best: int = 0
    quiet_ms: int = 0
    away_ms: int = 0
    code: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Head:
    """What is kept of a roll-out as a whole.

    `base`: the devices that percentages are of. `observed_ms`: of the stage's time of observation,
    `lull_ms`: since nobody was there to go on with. `why` it was stopped.
    """

    state: State = State.RUNNING
    stage: int = 0
    base: int = 0
    observed_ms: int = 0
    lull_ms: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of a device at this moment; all but `approved` counts only while `present`.

    `present`: heard lately, and its status is of the session in which it speaks. A node of somebody
    else tells no session or no hardware. `busy`: a command about its relay is under way.
    `update_version` is what its status says to be fetching (up to `offset`) or to have `failed`.
    """

    approved: bool = True
    present: bool = False
    session: str = ""
    firmware: str = ""
    hardware: str = ""
    on_trial: bool = False
    busy: bool = False
    update_version: str = ""
    offset: int | None = None
    failed: str = ""
    # What it said beside the code in `failed`.
    note: str = ""


AWAY: Final = Seen()


@dataclass(frozen=True, slots=True)
class ChunkAsk:
    """A node asks for `count` bytes from `offset` on."""

    session: str
    version: str
    offset: int
    count: int


@dataclass(frozen=True, slots=True)
class News:
    """Something that people are to hear of a roll-out; without a device it is about the whole."""

    kind: str
    device_id: str = ""
    code: str = ""
    reason: str = ""


def check_plan(plan: Plan) -> None:
    """Refuse a plan that nobody means. Raises RefusedError ROLLOUT_STAGES, ROLLOUT_RANGE."""
    stages = plan.stages
    rising = all(earlier < later for earlier, later in pairwise(stages))
    if not 1 <= len(stages) <= STAGES_MAX or not rising or stages[0] < 0 or stages[-1] != 100:
        raise RefusedError(
            "ROLLOUT_STAGES",
            f"stages are at most {STAGES_MAX} rising percentages, the last of them 100; 0 is one "
            "device",
            "stages",
        )
    for name, value, least, most in (
        ("observe_s", plan.observe_s, 0, OBSERVE_S_MAX),
        ("failures_max", plan.failures_max, 1, DEVICES_MAX),
        ("parallel_max", plan.parallel_max, 1, PARALLEL_MAX),
        ("offline_s", plan.offline_s, 1, OFFLINE_S_MAX),
    ):
        if not least <= value <= most:
            raise RefusedError("ROLLOUT_RANGE", f"{name} is {least} to {most}", name)


def ask_problem(image: Image, ask: ChunkAsk) -> str:
    """What is wrong with a node's wish for a chunk of this image; empty for nothing."""
    if ask.version != image.version:
        return f"it asks for {ask.version or 'no version'}, the roll-out is of {image.version}"
    if not 1 <= ask.count <= CHUNK_BYTES_MAX:
        return f"it asks for {ask.count} bytes at once, at most {CHUNK_BYTES_MAX}"
    if not 0 <= ask.offset <= image.size - ask.count:
        return f"it asks for bytes {ask.offset} to {ask.offset + ask.count} of {image.size}"
    return ""


def skip_of(image: Image, seen: Seen) -> Skip | None:
    """Why a device that waits is left as it is; None while nothing is against it."""
    if not seen.approved:
        return Skip.NOT_APPROVED
    if not seen.present:
        return None
    if not seen.session or not seen.hardware:
        return Skip.THIRD_PARTY
    if seen.hardware != image.hardware:
        return Skip.OTHER_HARDWARE
    # On trial it may still go back.
    return Skip.SAME_VERSION if seen.firmware == image.version and not seen.on_trial else None


def count_of(members: Sequence[Member], phase: Phase) -> int:
    """How many members stand there."""
    return sum(member.phase is phase for member in members)
