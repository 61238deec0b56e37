"""The slip: narrow enough for every receipt printer, with digits that can be read."""

import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.voucher import GROUP, grouped
from gateway.core.voucher_slip import _STROKES, WIDTH_MAX, WIDTH_MIN, Slip, slip_text

SLIP = Slip(
    site="Palm Court",
    service_point="flat-101",
    amount="500.00",
    currency="INR",
    token="18451462421805660642",
    sold_at="2027-01-15 13:30",
    reference="R-1234",
    note="Help: 555-0100",
)
words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=200)


@pytest.mark.parametrize("width", [WIDTH_MIN, 40, 42, WIDTH_MAX])
def test_everything_stands_on_it(width: int) -> None:
    """Site, point, amount with currency, digits in groups, reference, what to do, the note."""
    text = slip_text(SLIP, width)
    assert max(len(line) for line in text.splitlines()) <= width
    flowing = " ".join(text.split())
    for part in (
        "Palm Court",
        "Service point flat-101",
        "Amount 500.00 INR",
        "2027-01-15 13:30",
        "Reference R-1234",
        "1845 1462 4218 0566 0642",
        "Enter these 20 digits for service point flat-101",
        "Help: 555-0100",
    ):
        assert part in flowing
    assert text.endswith("\n")


@given(words, words, words, st.integers(WIDTH_MIN, WIDTH_MAX))
def test_no_line_is_too_long(site: str, reference: str, note: str, width: int) -> None:
    """Whatever a site is called and a receipt is numbered."""
    text = slip_text(replace(SLIP, site=site, reference=reference, note=note), width)
    assert all(len(line) <= width for line in text.splitlines())
    assert not any(unicodedata.category(c) == "Cc" for c in text.replace("\n", ""))


def test_a_reference_forges_no_line_and_moves_no_printer() -> None:
    """A line feed would begin a line of one's own, an escape opens a drawer."""
    text = slip_text(replace(SLIP, reference="R-1\nAmount 9999.00 INR\x1bp\x00\u202e"))
    assert "\x1b" not in text
    assert [line for line in text.splitlines() if line.startswith("Amount")] == [
        f"Amount {'500.00 INR':>{WIDTH_MIN - 7}}"
    ]


@given(st.integers(1 << 64, (1 << 65) - 1))
def test_the_large_digits_are_the_digits(number: int) -> None:
    """Read back stroke by stroke from the paper."""
    token = f"{number:020d}"
    lines = slip_text(replace(SLIP, token=token), WIDTH_MIN).splitlines()
    at = lines.index(grouped(token).center(WIDTH_MIN).rstrip()) + 2
    read = ""
    for row, groups in ((0, 2), (1, 2), (2, 1)):
        rows = [line.ljust(WIDTH_MIN) for line in lines[at + 4 * row : at + 4 * row + 3]]
        left = 0 if groups == 2 else (WIDTH_MIN - 15) // 2
        for group in range(groups):
            for digit in range(GROUP):
                column = left + 17 * group + 4 * digit
                top, middle, bottom = (line[column : column + 3] for line in rows)
                shapes = list(zip(*_STROKES, strict=True))
                read += str(shapes.index((top, middle, bottom)))
    assert read == token


@pytest.mark.parametrize("width", [31, 49, 0])
def test_another_width_is_a_defect(width: int) -> None:
    """The command line refuses it before."""
    with pytest.raises(ValueError, match="32 to 48"):
        slip_text(SLIP, width)
