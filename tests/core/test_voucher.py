"""Vouchers: 20 digits that are right for one point, account, counter and amount, or refused."""

import hashlib
import hmac
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.core.errors import RefusedError
from gateway.core.ledger import voucher_redemption_of, voucher_sale_of
from gateway.core.money import Currency
from gateway.core.voucher import (
    BEHIND,
    COUNTERS,
    DIGITS,
    MINOR_MAX,
    UNITS_MAX,
    LockPolicy,
    Voucher,
    claim_of,
    encode,
    grouped,
    is_genuine,
    key_mark,
    locked_until,
    masked,
    parse_token,
    point_key,
    rebuild,
    tries_left,
    unit_nano_of,
    units_max,
    units_of,
)

CASES_FILE = Path(__file__).parent.parent / "cases" / "prepaid.yaml"
INR, JPY = Currency("INR"), Currency("JPY", 9, 0)
CENT = INR.minor_nano
KEY = bytes(range(32))
MINUTE_MS = 60_000

counters = st.integers(1, 2**40)
vouchers = st.builds(
    lambda counter, units: Voucher(counter, units, units), counters, st.integers(1, UNITS_MAX)
)


def refusal(what: Callable[[], object]) -> str:
    """The code with which something is refused."""
    with pytest.raises(RefusedError) as refused:
        what()
    return refused.value.refusal_code


def accepted(token: str, expected: int, account: str = "a", key: bytes = KEY) -> Voucher | None:
    """The voucher that a point takes these digits for, when its next counter is `expected`."""
    claim = claim_of(token)
    counter = None if claim is None else rebuild(claim.counter_low, expected)
    if claim is None or counter is None:
        return None
    voucher = Voucher(counter, claim.units, claim.units)
    return voucher if is_genuine(key, account, voucher, token) else None


def test_the_worked_example_of_the_layout() -> None:
    """T05: every digit, from key, account, counter and amount."""
    with CASES_FILE.open(encoding="utf-8") as stream:
        document = yaml.load(stream, Loader=yaml.BaseLoader)  # noqa: S506 - makes text only
    case = next(case for case in document["cases"] if case["id"] == "T05")
    known, expected = cast("Mapping[str, str]", case["given"]), case["expect"]
    amount = int(known["amount_minor"])
    voucher = Voucher(int(known["counter"]), amount, amount)
    token = encode(bytes.fromhex(known["key_hex"]), known["account"], voucher)
    assert (token, len(token)) == (expected["token"], int(expected["length"]))
    assert accepted(token, 1, known["account"]) == voucher


@given(vouchers, st.integers(-BEHIND + 1, BEHIND))
def test_what_is_sold_is_what_is_redeemed(voucher: Voucher, ahead: int) -> None:
    """Round trip wherever in the window the counter lies, and 20 digits always."""
    token = encode(KEY, "a", voucher)
    assert len(token) == DIGITS
    assume(voucher.counter + ahead >= 1)
    assert accepted(token, voucher.counter + ahead) == voucher
    assert parse_token(grouped(token)) == token


@given(vouchers, st.integers(0, DIGITS - 1), st.integers(1, 9))
def test_one_wrong_digit_is_refused(voucher: Voucher, place: int, by: int) -> None:
    """Whatever the digit is part of (a guess would be right once in 2^32)."""
    token = encode(KEY, "a", voucher)
    digit = str((int(token[place]) + by) % 10)
    assert accepted(token[:place] + digit + token[place + 1 :], voucher.counter) is None


@pytest.mark.slow
@given(vouchers, st.integers(0, DIGITS - 1), st.integers(0, DIGITS - 1))
def test_two_digits_exchanged_are_refused(voucher: Voucher, one: int, other: int) -> None:
    """Neighbours or not."""
    digits = list(encode(KEY, "a", voucher))
    assume(digits[one] != digits[other])
    digits[one], digits[other] = digits[other], digits[one]
    assert accepted("".join(digits), voucher.counter) is None


@given(vouchers)
def test_a_voucher_is_of_one_point_one_account_and_one_key(voucher: Voucher) -> None:
    """Another point's key, another account, another site: refused."""
    token = encode(point_key(KEY, "flat-1"), "a", voucher)
    counter = voucher.counter
    assert accepted(token, counter, key=point_key(KEY, "flat-1")) == voucher
    assert accepted(token, counter, key=point_key(KEY, "flat-2")) is None
    assert accepted(token, counter, key=point_key(KEY[::-1], "flat-1")) is None
    assert accepted(token, counter, "b", key=point_key(KEY, "flat-1")) is None


@given(st.integers(1, 2**50), st.integers(-BEHIND, BEHIND - 1))
def test_the_window_holds_each_counter_once(expected: int, offset: int) -> None:
    """2,048 behind the expected one, 2,047 ahead, none below 1; the 12 bits wrap within."""
    counter = expected + offset
    found = rebuild(counter % COUNTERS, expected)
    assert found == (counter if counter >= 1 else None)


@pytest.mark.parametrize(
    ("expected", "counter", "right"),
    [
        (5_000, 5_000 - BEHIND, True),
        (5_000, 5_000 - BEHIND - 1, False),
        (5_000, 5_000 + BEHIND - 1, True),
        (5_000, 5_000 + BEHIND, False),
        (1, 1, True),
        (1, BEHIND, True),
        (1, BEHIND + 1, False),
        (4_096, 4_095, True),
        (4_096, 4_096, True),
        (4_096, 4_097, True),
    ],
)
def test_edges_of_the_window(expected: int, counter: int, right: bool) -> None:
    """A counter beyond the window is taken for another one, whose tag differs."""
    token = encode(KEY, "a", Voucher(counter, 500, 500))
    assert (accepted(token, expected) is not None) == right


def test_the_same_low_bits_do_not_make_the_same_voucher() -> None:
    """After 4,096 vouchers the low bits come again; the tag is over the whole counter."""
    first, again = (encode(KEY, "a", Voucher(7 + n * COUNTERS, 500, 500)) for n in range(2))
    assert first[:5] == again[:5]
    assert first != again
    assert accepted(first, 7 + COUNTERS) is None


def test_another_unit_does_not_change_what_a_voucher_is_worth() -> None:
    """The tag is over minor units: read with another unit the digits are wrong, not dearer."""
    token = encode(KEY, "a", Voucher(1, 500, 500))
    assert not is_genuine(KEY, "a", Voucher(1, 500, 50_000), token)


@pytest.mark.parametrize("token", ["0" * 20, "9" * 20, "1" * 20, str(1 << 64), str(3 << 64)])
def test_digits_of_no_voucher_claim_nothing(token: str) -> None:
    """Another version, too large a number, an amount of zero."""
    assert claim_of(token.zfill(20)) is None


@pytest.mark.parametrize(
    "typed",
    [
        "18451462421805660642",
        "1845 1462 4218 0566 0642",
        " 1845-1462-4218-0566-0642\n",
        "1845\u00a01462\u20114218\u20130566\u22120642",
        "\u0661\u0668\u0664\u0665 \u0967\u096a\u096c\u0968 4218 0566 0642",
    ],
)
def test_what_people_type_is_understood(typed: str) -> None:
    """Spaces and dashes of all kinds, digits of other scripts."""
    assert parse_token(typed) == "18451462421805660642"


@pytest.mark.parametrize(
    "typed", ["", "1845", "1" * 21, "1845146242180566064O", "1845,1462", "²" * 20, "1.0", "-" * 99]
)
def test_what_is_no_voucher_is_refused_without_a_digit_of_it(typed: str) -> None:
    """The message may be logged: it never repeats what was typed."""
    with pytest.raises(RefusedError) as refused:
        parse_token(typed)
    assert refused.value.refusal_code == "VOUCHER_FORMAT"
    assert "1845" not in refused.value.message


def test_a_masked_token_keeps_its_tag_to_itself() -> None:
    """Four digits find the slip, the rest is stars."""
    assert masked("18451462421805660642") == "1845" + "*" * 16
    assert masked("") == ""


def test_a_points_key_is_hkdf_of_the_sites() -> None:
    """As RFC 5869 expands: a stranger can make it with what the docs say."""
    info = b"prepaid-gateway voucher key of point flat-1"
    assert point_key(KEY, "flat-1") == hmac.new(KEY, info + b"\x01", hashlib.sha256).digest()
    assert key_mark(KEY) != key_mark(KEY[::-1])
    assert key_mark(KEY) not in KEY.hex()


def test_amounts_are_whole_units_up_to_the_maximum() -> None:
    """The unit is the minor unit unless configured; the maximum is named."""
    assert units_of(50_000 * CENT, CENT, INR) == 50_000
    assert units_of(UNITS_MAX * CENT, CENT, INR) == UNITS_MAX
    with pytest.raises(RefusedError, match=r"at most 10485\.75 INR"):
        units_of((UNITS_MAX + 1) * CENT, CENT, INR)
    assert refusal(lambda: units_of(0, CENT, INR)) == "AMOUNT_RANGE"
    assert refusal(lambda: units_of(-CENT, CENT, INR)) == "AMOUNT_RANGE"
    assert refusal(lambda: units_of(CENT + 1, CENT, INR)) == "VOUCHER_UNIT"
    assert refusal(lambda: units_of(CENT, 50 * CENT, INR)) == "VOUCHER_UNIT"
    assert units_of(150 * CENT, 50 * CENT, INR) == 3


def test_the_unit_is_whole_minor_units() -> None:
    """Half a rupee is one, a tenth of a paisa is none; yen have no minor unit."""
    assert unit_nano_of(None, INR) == CENT
    assert unit_nano_of("0.50", INR) == 50 * CENT
    assert unit_nano_of(None, JPY) == 10**9
    for text, currency in (("0.001", INR), ("0", INR), ("0.5", JPY), ("99999999999", INR)):
        assert refusal(lambda t=text, c=currency: unit_nano_of(t, c)) in {  # type: ignore[misc]
            "VOUCHER_UNIT",
            "MONEY_RANGE",
        }


@given(st.integers(1, MINOR_MAX))
def test_every_amount_that_is_taken_fits_the_32_bits_of_the_tag(unit_minor: int) -> None:
    """Large units lower the maximum, so that a voucher of the maximum can always be made."""
    most = units_max(unit_minor * CENT, INR)
    assert 1 <= most <= UNITS_MAX
    assert len(encode(KEY, "a", Voucher(1, most, most * unit_minor))) == DIGITS


@pytest.mark.parametrize(
    "fields", [(0, 1, 1), (1, 0, 1), (1, UNITS_MAX + 1, 1), (1, 1, 0), (1, 1, MINOR_MAX + 1)]
)
def test_a_voucher_that_cannot_be_is_none(fields: tuple[int, int, int]) -> None:
    """A defect above shows here, not on paper."""
    with pytest.raises(ValueError, match="no voucher"):
        Voucher(*fields)


def test_five_wrong_tries_in_ten_minutes_lock_for_an_hour() -> None:
    """Counted from the newest; four, or five that took longer, lock nothing."""
    policy = LockPolicy()
    close = [minute * MINUTE_MS for minute in (10, 8, 5, 3, 0)]
    assert locked_until(close, policy) == 70 * MINUTE_MS
    assert locked_until(close[:4], policy) is None
    assert locked_until([*close[:4], -1], policy) is None
    assert locked_until([*close, -MINUTE_MS], policy) == 70 * MINUTE_MS
    assert tries_left(close, 10 * MINUTE_MS, policy) == 0
    assert tries_left(close, 13 * MINUTE_MS + 1, policy) == 2
    assert tries_left([], 0, policy) == 5


def test_money_of_a_voucher_waits_between_sale_and_redemption() -> None:
    """cash -> vouchers -> wallet; a voucher of another machine is owed by that one."""
    sale = voucher_sale_of("a", 5, "counter", utc_ms=1, request_key="k", memo=())
    assert [(e.ledger_account, e.amount_nano) for e in sale.entries] == [
        ("vouchers", 5),
        ("cash:counter", -5),
    ]
    for here, source in ((True, "vouchers"), (False, "cash:voucher")):
        redeemed = voucher_redemption_of(
            "a", 5, sold_here=here, utc_ms=2, request_key="r", memo=(("voucher", "1"),)
        )
        assert [(e.ledger_account, e.amount_nano) for e in redeemed.entries] == [
            ("wallet:a", 5),
            (source, -5),
        ]
