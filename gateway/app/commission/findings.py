"""What commissioning finds: one sentence per check, its result and the next step."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Result(StrEnum):
    """How a check ended. Only `failed` keeps a point from being commissioned."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    NOT_DONE = "not done"


class Check(StrEnum):
    """Every check by its code; docs/commissioning.md says what each means."""

    REACH = "REACH"
    IDENTITY = "IDENTITY"
    SERIAL = "SERIAL"
    VOLTAGE = "VOLTAGE"
    VOLTAGE_ORDER = "VOLTAGE_ORDER"
    CT_REVERSED = "CT_REVERSED"
    PHASE_CURRENT = "PHASE_CURRENT"
    CT_RATIO = "CT_RATIO"
    P_MAX = "P_MAX"
    REFERENCE = "REFERENCE"
    TARIFF_INPUT = "TARIFF_INPUT"
    OUTPUT_MODE = "OUTPUT_MODE"
    OUTPUT_GROUP = "OUTPUT_GROUP"
    REMOTE_TIMEOUT = "REMOTE_TIMEOUT"
    PROTECTION = "PROTECTION"
    WRITE = "WRITE"
    FEEDBACK = "FEEDBACK"
    AUXILIARY = "AUXILIARY"
    CONTACTOR = "CONTACTOR"
    SWITCH_OPEN = "SWITCH_OPEN"
    SWITCH_CLOSE = "SWITCH_CLOSE"
    FALL_BACK = "FALL_BACK"
    UNPROVEN = "UNPROVEN"
    REFRESH = "REFRESH"
    ROUND_TRIP = "ROUND_TRIP"
    PIPELINE = "PIPELINE"
    CLOCK = "CLOCK"


# No reason makes these acceptable: another device would be billed, or nobody could reconnect.
NEVER_ACCEPTED: Final = frozenset(
    {Check.REACH, Check.IDENTITY, Check.AUXILIARY, Check.SWITCH_CLOSE}
)

# The switch proof: with one of these not done nobody saw the supply go and come back, or (with a
# fail_safe policy) fall off by itself.
SWITCH_PROOF: Final = (Check.SWITCH_OPEN, Check.SWITCH_CLOSE, Check.FALL_BACK)


@dataclass(frozen=True, slots=True)
class Finding:
    """One check of one meter. `next_step` is empty where there is nothing to do."""

    check: Check
    result: Result
    text: str
    next_step: str = ""

    def as_json(self) -> dict[str, str]:
        """The finding as a report and `--json` carry it."""
        return {
            "check": self.check.value,
            "result": self.result.value,
            "text": self.text,
            "next_step": self.next_step,
        }


def ok(check: Check, text: str) -> Finding:
    """The check passed."""
    return Finding(check, Result.OK, text)


def warning(check: Check, text: str, next_step: str = "") -> Finding:
    """Something to look at; it stops nothing."""
    return Finding(check, Result.WARNING, text, next_step)


def failed(check: Check, text: str, next_step: str) -> Finding:
    """A mistake: the point is not commissioned with it."""
    return Finding(check, Result.FAILED, text, next_step)


def not_done(check: Check, text: str, next_step: str = "") -> Finding:
    """Nothing can be said."""
    return Finding(check, Result.NOT_DONE, text, next_step)


def unproven(proof: Iterable[Finding]) -> tuple[Finding, ...]:
    """What keeps a point from being enforced on the word of nobody: a switch proof not made.

    A proof that was made and failed is a failure by its own name.
    """
    missing = {each.check for each in proof if each.result is Result.NOT_DONE} & set(SWITCH_PROOF)
    if not missing:
        return ()
    if missing == {Check.FALL_BACK}:
        return (
            failed(
                Check.UNPROVEN,
                "nobody saw this output fall off: whether fail_safe works is not known",
                'do what FALL_BACK says, or answer for it with --accept UNPROVEN --reason "..."',
            ),
        )
    return (
        failed(
            Check.UNPROVEN,
            "nobody saw this supply open and close: whether a cut works, and can be taken back, "
            "is not known",
            "run again with --with-load while a load is on, or answer for it with "
            '--accept UNPROVEN --reason "..."',
        ),
    )


def failures(findings: Iterable[Finding], accepted: Mapping[str, str]) -> tuple[Finding, ...]:
    """The failed checks that nobody took the responsibility for (`accepted`: code to reason)."""
    return tuple(
        finding
        for finding in findings
        if finding.result is Result.FAILED and finding.check.value not in accepted
    )
