"""The slip of a voucher: plain text for a receipt printer of 32 to 48 columns.

The digits stand twice: in groups of four as they are read out, and large, drawn with the strokes
that every printer's character set has.
"""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from gateway.core.plain_text import one_line
from gateway.core.voucher import GROUP, grouped

WIDTH_MIN: Final = 32
WIDTH_MAX: Final = 48
# Seven strokes a digit, three rows of three characters.
_STROKES: Final = (
    (" _ ", "   ", " _ ", " _ ", "   ", " _ ", " _ ", " _ ", " _ ", " _ "),
    ("| |", "  |", " _|", " _|", "|_|", "|_ ", "|_ ", "  |", "|_|", "|_|"),
    ("|_|", "  |", "|_ ", " _|", "  |", " _|", "|_|", "  |", "|_|", " _|"),
)
_BETWEEN: Final = "  "


@dataclass(frozen=True, slots=True)
class Slip:
    """What is printed. `amount` is shown money such as "500.00", `sold_at` local time as text."""

    site: str
    service_point: str
    amount: str
    currency: str
    token: str
    sold_at: str
    reference: str = ""
    note: str = ""


def slip_text(slip: Slip, width: int = WIDTH_MIN) -> str:
    """The slip, each line at most `width` characters (32 to 48), with a line feed at the end.

    Raises ValueError for another width.
    """
    if not WIDTH_MIN <= width <= WIDTH_MAX:
        raise ValueError(f"a slip is {WIDTH_MIN} to {WIDTH_MAX} columns wide, not {width}")
    reference, note = one_line(slip.reference), one_line(slip.note)
    rule = "-" * width
    lines = [
        *_centred(one_line(slip.site), width),
        *_centred("PREPAID VOUCHER", width),
        rule,
        *_pair("Service point", slip.service_point, width),
        *_pair("Amount", f"{slip.amount} {slip.currency}", width),
        *_pair("Sold", slip.sold_at, width),
        *(_pair("Reference", reference, width) if reference else ()),
        rule,
        "",
        grouped(slip.token).center(width).rstrip(),
        "",
        *_large(slip.token, width),
        rule,
        *_wrapped(
            f"Enter these {len(slip.token)} digits for service point {slip.service_point}, or "
            "show them to the cashier. Spaces do not matter. They work once, and nowhere else. "
            "Keep this slip until the credit shows.",
            width,
        ),
        *(_wrapped(note, width) if note else ()),
    ]
    return "".join(f"{line}\n" for line in lines)


def _large(token: str, width: int) -> Iterator[str]:
    """The groups drawn large, as many side by side as fit (two)."""
    groups = [token[at : at + GROUP] for at in range(0, len(token), GROUP)]
    for at in range(0, len(groups), 2):
        pair = groups[at : at + 2]
        for strokes in _STROKES:
            drawn = (" ".join(strokes[int(digit)] for digit in group) for group in pair)
            yield _BETWEEN.join(drawn).center(width).rstrip()
        yield ""


def _centred(text: str, width: int) -> Iterator[str]:
    for line in _wrapped(text, width):
        yield line.center(width).rstrip()


def _pair(name: str, value: str, width: int) -> list[str]:
    """Name left, value right; below it where both do not fit in one line."""
    if len(name) + 1 + len(value) <= width:
        return [f"{name} {value:>{width - len(name) - 1}}"]
    return [name, *(f"{line:>{width}}" for line in _wrapped(value, width - 2))]


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width)
