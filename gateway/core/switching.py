"""The words of supply: reasons, states, faults, alarms, policy, commands and orders."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.core.proof import OpeningProof, Witness


class Reason(StrEnum):
    """Why supply is blocked; each is cleared only by its own rule."""

    CREDIT = "CREDIT"
    OVERLOAD = "OVERLOAD"
    MANUAL = "MANUAL"
    LEGAL = "LEGAL"
    TAMPER = "TAMPER"
    SAFETY = "SAFETY"
    SHED = "SHED"


# A person answers for these: they act on doubtful readings too (domain.md I8).
UNCONDITIONAL: Final = frozenset({Reason.MANUAL, Reason.SAFETY})
# A critical point is opened for none of these (domain.md I12: CREDIT; and nobody sheds it).
NEVER_CRITICAL: Final = frozenset({Reason.CREDIT, Reason.SHED})


class ControlState(StrEnum):
    """What is shown of a supply."""

    CONNECTED = "connected"
    DISCONNECTING = "disconnecting"
    DISCONNECTED = "disconnected"
    READY_FOR_RECONNECTION = "ready_for_reconnection"
    RECONNECTING = "reconnecting"


class Fault(StrEnum):
    """A command that could not be proved."""

    FAILED_TO_OPEN = "FAILED_TO_OPEN"
    FAILED_TO_CLOSE = "FAILED_TO_CLOSE"


class Alarm(StrEnum):
    """Conditions of a supply that a person must see."""

    FAILED_TO_OPEN = "FAILED_TO_OPEN"
    FAILED_TO_CLOSE = "FAILED_TO_CLOSE"
    UNAUTHORISED_SUPPLY = "UNAUTHORISED_SUPPLY"
    OUTPUT_DIFFERS = "OUTPUT_DIFFERS"
    STALE_DATA = "STALE_DATA"


@dataclass(frozen=True, slots=True)
class SupplyPolicy:
    """How one point is switched and proved.

    `confirm_needed` is arm mode: a person confirms before supply is closed, unless nothing but
    reasons of `returns_by_itself` had opened it. `starting_current_a` is the smallest current that
    the transformer measures. Times in seconds.
    """

    confirm_needed: bool = True
    critical: bool = False
    verify_s: float = 10.0
    retries: int = 2
    min_off_s: float = 60.0
    starting_current_a: float = 0.05
    max_reading_age_s: float = 60.0
    fault_retry_s: float = 900.0
    has_feedback: bool = False
    upstream: bool = False
    confirm_valid_s: float = 120.0
    returns_by_itself: frozenset[Reason] = frozenset()


@dataclass(slots=True)
class Command:
    """A switch command between intent and proof."""

    close: bool
    reasons: tuple[Reason, ...]
    proof: OpeningProof
    attempts: int = 1
    sent_ns: int | None = None
    look_first: bool = False
    lost: int = 0
    was_pending: bool = False
    said_ns: int | None = None
    detail: str = ""


class OrderKind(StrEnum):
    """What the machine wants done or recorded."""

    SEND = "send"
    VERIFIED = "verified"
    FAILED = "failed"
    ALARM = "alarm"
    CLEAR = "clear"


@dataclass(frozen=True, slots=True)
class Order:
    """One step for control to carry out: send, record the end, raise or clear an alarm.

    `shown_ns` is when the opening was first shown by output and current (VERIFIED only).
    """

    kind: OrderKind
    close: bool = False
    attempt: int = 0
    reasons: tuple[Reason, ...] = ()
    witnesses: tuple[Witness, ...] = ()
    load_unproven: bool = False
    shown_ns: int | None = None
    alarm: Alarm | None = None
    detail: str = ""
