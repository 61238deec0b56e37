"""Reading a document that a person wrote: all problems at once, each with its path.

A small walker for short documents (calendars, thresholds). `tariff_document.py` grew the same
ideas first and keeps its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from gateway.core.errors import RefusedError

MAX_PROBLEMS: Final = 50


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a document: error code, path such as `windows[1].from`, text."""

    code: str
    place: str
    message: str


class DocumentProblemsError(RefusedError):
    """A document is refused, with everything that is wrong with it in `problems`.

    The code is that of the problems when they share one, else the document's general one.
    """

    def __init__(self, problems: Sequence[Problem], general_code: str) -> None:
        self.problems = tuple(problems)
        codes = {problem.code for problem in self.problems}
        super().__init__(
            codes.pop() if len(codes) == 1 else general_code,
            "\n".join(f"{problem.place}: {problem.message}" for problem in self.problems),
            self.problems[0].place,
        )


class ProblemList:
    """Collects problems instead of stopping at the first. `code` is that of a plain mistake."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.problems: list[Problem] = []

    def __len__(self) -> int:
        return len(self.problems)

    def report(self, place: str, message: str, code: str = "") -> None:
        """Add a problem; beyond MAX_PROBLEMS they are not told."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(code or self.code, place, message))

    def take(self, refusal: RefusedError, place: str) -> None:
        """Add what another rule refused, at its own place if it names one."""
        self.report(refusal.place or place, refusal.message, refusal.refusal_code)

    def raise_if_any(self) -> None:
        """Raises DocumentProblemsError when something was reported."""
        if self.problems:
            raise DocumentProblemsError(self.problems, self.code)

    def mapping(
        self, place: str, value: object, known: Sequence[str], required: Sequence[str] = ()
    ) -> dict[str, object]:
        """The value as a mapping of known keys; empty after a problem with its shape."""
        if not isinstance(value, Mapping):
            self.report(place, f"expected keys such as {', '.join(known)}")
            return {}
        found: dict[str, object] = {}
        for key, item in value.items():
            name = str(key)
            if name in known:
                found[name] = item
                continue
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            self.report(joined(place, name), f"unknown key; {hint}")
        for name in required:
            if name not in found:
                self.report(joined(place, name), "is missing")
        return found

    def items(self, place: str, value: object, limit: int) -> list[tuple[str, object]]:
        """The elements of a non-empty list with their places; empty after a problem."""
        if not isinstance(value, list | tuple) or not 1 <= len(value) <= limit:
            self.report(place, f"expected a list of 1 to {limit} entries")
            return []
        return [(f"{place}[{index}]", item) for index, item in enumerate(value)]


def joined(place: str, name: str) -> str:
    """The path of a key below a place."""
    return f"{place}.{name}" if place else name
