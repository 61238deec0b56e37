"""Amounts and prices as text and as integers."""

from decimal import ROUND_FLOOR, ROUND_HALF_UP, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import RefusedError
from gateway.core.money import (
    INT64_MAX,
    PRICE_MAX,
    Currency,
    display_amount,
    format_amount,
    format_price,
    parse_amount,
    parse_price,
    round_half_up_minor,
)

INR = Currency("INR")
LBP = Currency("LBP", money_scale=6, minor_digits=0)
CURRENCIES = st.sampled_from([INR, LBP, Currency("KWD", minor_digits=3)])


@pytest.mark.parametrize(
    ("text", "nano"),
    [
        ("12.50", 12_500_000_000),
        ("0", 0),
        ("-0", 0),
        ("+3", 3_000_000_000),
        (".5", 500_000_000),
        ("7.", 7_000_000_000),
        ("1e-9", 1),
        ("-0.000000001", -1),
        ("1.50000000000000", 1_500_000_000),
        ("9223372036.854775807", INT64_MAX),
        (8, 8_000_000_000),
        ("000000000000000000000000000001", 1_000_000_000),
    ],
)
def test_an_exact_amount_is_taken_in_any_usual_spelling(text: object, nano: int) -> None:
    """Leading and trailing zeros, signs and exponents change nothing about an amount."""
    assert parse_amount(text, INR) == nano


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (12.5, "MONEY_PRECISION"),
        (float("nan"), "MONEY_PRECISION"),
        ("NaN", "MONEY_PRECISION"),
        ("-Infinity", "MONEY_PRECISION"),
        ("0.0000000001", "MONEY_PRECISION"),
        ("1e-10", "MONEY_PRECISION"),
        ("9223372036.854775808", "MONEY_RANGE"),
        ("1e99", "MONEY_RANGE"),
        (10**30, "MONEY_RANGE"),
        ("1e100", "MONEY_FORMAT"),
        ("", "MONEY_FORMAT"),
        (" 1", "MONEY_FORMAT"),
        ("1_000", "MONEY_FORMAT"),
        ("1,5", "MONEY_FORMAT"),
        ("٣", "MONEY_FORMAT"),
        ("0x10", "MONEY_FORMAT"),
        ("9" * 65, "MONEY_FORMAT"),
        (True, "MONEY_FORMAT"),
        (None, "MONEY_FORMAT"),
    ],
)
def test_what_is_no_exact_amount_is_refused_by_its_code(text: object, code: str) -> None:
    """Nothing is rounded, guessed or cut: the code says what is wrong."""
    with pytest.raises(RefusedError) as refusal:
        parse_amount(text, INR, "recharge.amount")
    assert refusal.value.refusal_code == code
    assert refusal.value.place == "recharge.amount"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("7.3333333", "PRICE_PRECISION"),
        ("1000000.000001", "PRICE_RANGE"),
        ("eight", "PRICE_FORMAT"),
    ],
)
def test_a_price_has_codes_of_its_own(text: str, code: str) -> None:
    """A tariff's author is told about a price, not about money."""
    with pytest.raises(RefusedError) as refusal:
        parse_price(text, INR)
    assert refusal.value.refusal_code == code


@pytest.mark.parametrize(
    ("currency", "most"),
    [
        (INR, 10_000_000),
        (Currency("KWD", minor_digits=3), 10_000_000),
        (LBP, 1_000_000_000),
        (Currency("UGX", minor_digits=0), 100_000_000),
        (Currency("INR", amount_max=500), 500),
        (Currency("UGX", 6, 0, 100_000_000_000), 100_000_000_000),
    ],
)
def test_the_largest_amount_follows_the_currency_and_fits_64_bits(
    currency: Currency, most: int
) -> None:
    """By the decimals shown unless it is given; many such amounts fit into a balance."""
    assert currency.amount_max_nano == most * 10**currency.money_scale
    assert 92 * currency.amount_max_nano <= INT64_MAX
    assert currency.as_stored().amount_max_nano >= currency.amount_max_nano


@pytest.mark.parametrize(("scale", "most"), [(9, 100_000_000), (6, 100_000_000_000)])
def test_a_largest_amount_that_64_bits_cannot_bear_is_refused(scale: int, most: int) -> None:
    """Sums of such amounts would not fit."""
    assert Currency("UGX", scale, 0, most).amount_max == most
    for wrong in (most + 1, 0, -1):
        with pytest.raises(RefusedError, match=f"between 1 and {most}") as refusal:
            Currency("UGX", scale, 0, wrong)
        assert refusal.value.place == "amount_max"


def test_scale_six_keeps_three_decimals_of_a_price() -> None:
    """Large currencies trade decimals for range; Wh times price stays exact in their scale."""
    assert LBP.price_scale == 3
    assert parse_price("28355", LBP) * 120_000 == parse_amount("3402600", LBP)
    assert parse_amount("9000000000000", LBP) == 9 * 10**18
    with pytest.raises(RefusedError, match="finer than 3 decimals"):
        parse_price("0.0001", LBP)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Currency("inr"),
        lambda: Currency("INR", money_scale=7),
        lambda: Currency("INR", minor_digits=10),
        lambda: Currency("INR", minor_digits=-1),
    ],
)
def test_a_currency_that_cannot_be_kept_is_refused(make: object) -> None:
    """Code, scale and minor digits are checked when a site is created."""
    assert callable(make)
    with pytest.raises(RefusedError) as refusal:
        make()
    assert refusal.value.refusal_code == "CURRENCY_INVALID"


@given(nano=st.integers(-INT64_MAX, INT64_MAX), currency=CURRENCIES)
def test_an_amount_survives_its_text(nano: int, currency: Currency) -> None:
    """Format then parse gives the same integer, and the text has no superfluous zero."""
    text = format_amount(nano, currency)
    assert parse_amount(text, currency) == nano
    assert "." not in text or not text.endswith(("0", "."))


@given(price=st.integers(0, PRICE_MAX), currency=CURRENCIES)
def test_a_price_survives_its_text(price: int, currency: Currency) -> None:
    """Format then parse gives the same integer."""
    assert parse_price(format_price(price, currency), currency) == price


@given(nano=st.integers(-INT64_MAX, INT64_MAX), currency=CURRENCIES)
def test_a_display_is_the_exact_amount_floored(nano: int, currency: Currency) -> None:
    """I11: a display never shows more than there is, and less than one minor unit too little."""
    exact = Decimal(nano).scaleb(-currency.money_scale)
    quantum = Decimal(1).scaleb(-currency.minor_digits)
    shown = display_amount(nano, currency)
    assert Decimal(shown) == exact.quantize(quantum, ROUND_FLOOR)
    assert len(shown.partition(".")[2]) == currency.minor_digits


def test_a_small_debt_is_never_shown_as_nothing() -> None:
    """Eight thousandths owed read as one cent owed, and never as minus zero."""
    assert display_amount(parse_amount("-0.008", INR), INR) == "-0.01"
    assert display_amount(0, INR) == "0.00"
    assert display_amount(parse_amount("-12", INR), INR) == "-12.00"


@given(nano=st.integers(-(10**15), 10**15), currency=CURRENCIES)
def test_lines_of_documents_round_half_up(nano: int, currency: Currency) -> None:
    """Document lines round as the decimal standard's ROUND_HALF_UP does."""
    exact = Decimal(nano).scaleb(-currency.money_scale)
    quantum = Decimal(1).scaleb(-currency.minor_digits)
    rounded = Decimal(round_half_up_minor(nano, currency)).scaleb(-currency.money_scale)
    assert rounded == exact.quantize(quantum, ROUND_HALF_UP)
