"""What the doctor finds: a verdict, a sentence, the next step."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Verdict(StrEnum):
    """How bad it is. Only a problem makes the command fail."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. `next_step` is empty where nothing is to be done."""

    area: str
    verdict: Verdict
    sentence: str
    next_step: str = ""


def fine(area: str, sentence: str) -> Finding:
    """All is well."""
    return Finding(area, Verdict.OK, sentence)


def warn(area: str, sentence: str, next_step: str) -> Finding:
    """It works, and will not for ever."""
    return Finding(area, Verdict.WARNING, sentence, next_step)


def wrong(area: str, sentence: str, next_step: str) -> Finding:
    """It does not work, or promises do not hold."""
    return Finding(area, Verdict.PROBLEM, sentence, next_step)


# Names listed in one sentence; more are counted.
NAMED_MAX: Final = 5


def named(names: list[str]) -> str:
    """The first few of many names, and how many others."""
    shown = ", ".join(names[:NAMED_MAX])
    others = len(names) - NAMED_MAX
    return f"{shown} and {others} more" if others > 0 else shown
