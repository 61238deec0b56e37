"""Reading a document a person wrote: problems are collected, each with its path."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from gateway.core.errors import RefusedError
from gateway.core.money import (
    INT64_MAX,
    Currency,
    DecimalCodes,
    format_amount,
    parse_amount,
    parse_scaled,
)
from gateway.core.money import parse_price as price_of
from gateway.core.tariff import KWH_SCALE, PERCENT_SCALE, PPM

MAX_PROBLEMS: Final = 50
MAX_NAME: Final = 100

NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
LABEL: Final = re.compile(r"[^\s:/][^:/]{0,38}[^\s:/]|[^\s:/]")
_PERCENT_CODES: Final = DecimalCodes("rate", "TARIFF_INVALID", "TARIFF_INVALID", "TARIFF_INVALID")
_KWH_CODES: Final = DecimalCodes("limit", "TARIFF_INVALID", "TARIFF_INVALID", "TARIFF_INVALID")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a document: error code, path such as `grid.blocks[1].price`, text."""

    code: str
    place: str
    message: str


class TariffProblemsError(RefusedError):
    """A tariff document is refused, with everything that is wrong with it in `problems`.

    The code is that of the problems when they share one (PRICE_PRECISION, ZONE_UNKNOWN, …), else
    TARIFF_INVALID.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        codes = {problem.code for problem in self.problems}
        super().__init__(
            codes.pop() if len(codes) == 1 else "TARIFF_INVALID",
            "\n".join(f"{problem.place}: {problem.message}" for problem in self.problems),
            self.problems[0].place,
        )


class DocumentReader:
    """The forms that occur in all parts of a document; collects instead of stopping."""

    def __init__(self, currency: Currency) -> None:
        self.currency = currency
        self.problems: list[Problem] = []

    def report(self, place: str, message: str, code: str = "TARIFF_INVALID") -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(code, place, message))

    def attempt(self, parse: Callable[[], int], default: int = 0) -> int:
        """`parse()`, or `default` after reporting what it refused."""
        try:
            return parse()
        except RefusedError as refusal:
            self.report(refusal.place, refusal.message, refusal.refusal_code)
            return default

    def mapping(
        self, place: str, value: object, known: Sequence[str], required: Sequence[str] = ()
    ) -> dict[str, object]:
        """The value as a mapping of known keys; empty after a problem with its shape."""
        if not isinstance(value, Mapping):
            self.report(place, f"expected keys such as {', '.join(known)}")
            return {}
        found: dict[str, object] = {}
        for key, item in value.items():
            # YAML 1.1 reads a bare `on` as true.
            name = "on" if key is True else str(key)
            if name in known:
                found[name] = item
                continue
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
            self.report(join(place, name), f"unknown key{hint}")
        for name in required:
            if name not in found:
                self.report(join(place, name), "is missing")
        return found

    def items(self, place: str, value: object, limit: int) -> list[tuple[str, object]]:
        """The elements of a non-empty list with their places; empty after a problem."""
        if not isinstance(value, list | tuple) or not 1 <= len(value) <= limit:
            self.report(place, f"expected a list of 1 to {limit} entries")
            return []
        return [(f"{place}[{index}]", item) for index, item in enumerate(value)]

    def named(self, place: str, value: object, limit: int) -> list[tuple[str, str, object]]:
        """Places, names and values of a mapping of names, in the order of the names.

        So a document means the same whatever order its keys were stored in.
        """
        if not isinstance(value, Mapping) or not 1 <= len(value) <= limit:
            self.report(place, f"expected 1 to {limit} named {place.rpartition('.')[2]}")
            return []
        ordered = sorted(value.items(), key=lambda entry: str(entry[0]))
        return [(join(place, str(key)), key, item) for key, item in ordered]

    def pattern(self, place: str, value: object, pattern: re.Pattern[str], what: str) -> str:
        if isinstance(value, str) and pattern.fullmatch(value):
            return value
        self.report(place, f"{value!r} is no {what}")
        return ""

    def label(self, place: str, value: object, what: str, others: Sequence[str]) -> str:
        """A name that people read and that stands once."""
        name = self.pattern(place, value, LABEL, f"{what} name")
        if name in others:
            self.report(place, f"{name} stands twice")
        if not name.isprintable():
            self.report(place, "has characters that cannot be printed")
        return name

    def flag(self, place: str, value: object) -> bool:
        """true or false, also as the text that was written."""
        if value is True or value == "true":
            return True
        if value is not False and value != "false":
            self.report(place, f"{value!r} is neither true nor false")
        return False

    def kilowatt_hours(self, place: str, value: object) -> int:
        return self.attempt(lambda: parse_scaled(value, KWH_SCALE, INT64_MAX, _KWH_CODES, place))

    def price(self, place: str, value: object) -> int:
        return self.positive(place, self.attempt(lambda: price_of(value, self.currency, place)))

    def amount(self, place: str, value: object) -> int:
        amount = self.attempt(lambda: parse_amount(value, self.currency, place))
        if amount > self.currency.amount_max_nano:
            most = format_amount(self.currency.amount_max_nano, self.currency)
            self.report(place, f"is beyond the maximum of {most}", "MONEY_RANGE")
        return self.positive(place, amount)

    def percent(self, place: str, value: object) -> int:
        """Parts per million of a percentage from 0 to 100."""
        return self.positive(
            place,
            self.attempt(lambda: parse_scaled(value, PERCENT_SCALE, PPM, _PERCENT_CODES, place)),
        )

    def positive(self, place: str, value: int) -> int:
        if value < 0:
            self.report(place, "must not be negative")
        return value

    def above_zero(self, place: str, value: int) -> int:
        """Report a zero that stands where something was meant."""
        if value == 0 and not any(problem.place == place for problem in self.problems):
            self.report(place, "must be above zero")
        return value

    def bases(self, place: str, value: object, known: Sequence[str]) -> tuple[str, ...]:
        named = self.items(place, value, len(known))
        for here, item in named:
            if item not in known:
                self.report(here, f"{item!r} is none of {', '.join(known)}")
        chosen = [item for _, item in named]
        if len({str(item) for item in chosen}) < len(chosen):
            self.report(place, "a base stands twice")
        return tuple(base for base in known if base in chosen)


def join(place: str, name: str) -> str:
    """The path of a key below a place."""
    return f"{place}.{name}" if place else name
