"""Vouchers: 20 digits that carry an amount to one service point, checked with nobody upstream.

    66 bits, most significant first: version 2 | counter 12 | amount 20 | tag 32

`counter` are the low bits of a number that counts a point's vouchers and is rebuilt in a window
around the one expected next, so there is no clock in it. `amount` is in units of the site's
`voucher_unit`. `tag` are the first 32 bits of HMAC-SHA256 under the point's key over
`PGV1 | account | whole counter (u64 be) | amount in minor units (u32 be)`: a voucher is of one
point, one account, one counter and one amount of money, whatever the unit is set to later. A guess
is right once in 2^32; that is enough only because a point allows a handful of guesses an hour.
"""

import hashlib
import hmac
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.core.errors import RefusedError
from gateway.core.money import Currency, display_amount, format_amount, parse_amount

VERSION: Final = 1
DIGITS: Final = 20
GROUP: Final = 4
COUNTER_BITS: Final = 12
UNIT_BITS: Final = 20
TAG_BITS: Final = 32
COUNTERS: Final = 1 << COUNTER_BITS
UNITS_MAX: Final = (1 << UNIT_BITS) - 1
MINOR_MAX: Final = (1 << 32) - 1
COUNTER_MAX: Final = (1 << 63) - 1
# Half the counters behind the expected one (sold and kept in a drawer), half before it (sold by a
# machine that this one has not heard of).
BEHIND: Final = COUNTERS // 2
KEY_BYTES: Final = 32
_KEY_LABEL: Final = b"prepaid-gateway voucher key of point "
_MARK_LABEL: Final = b"prepaid-gateway mark of voucher key "
_SEPARATORS: Final = frozenset("-\u2010\u2011\u2012\u2013\u2014\u2212")
# What is shown of a token that must not be told: enough to find the slip, nothing of the tag.
_SHOWN: Final = 4


@dataclass(frozen=True, slots=True)
class Voucher:
    """What a token says: `counter` whole, `units` of voucher_unit, `amount_minor` minor units."""

    counter: int
    units: int
    amount_minor: int

    def __post_init__(self) -> None:
        if not 1 <= self.counter <= COUNTER_MAX or not 1 <= self.units <= UNITS_MAX:
            raise ValueError(f"no voucher: counter {self.counter}, {self.units} units")
        if not 1 <= self.amount_minor <= MINOR_MAX:
            raise ValueError(f"no voucher: {self.amount_minor} minor units")


@dataclass(frozen=True, slots=True)
class Claim:
    """What 20 digits claim before anything is proved: low bits of a counter, units."""

    counter_low: int
    units: int


@dataclass(frozen=True, slots=True)
class LockPolicy:
    """So many wrong tries within a time lock a point, or an address, for another time."""

    tries: int = 5
    within_ms: int = 600_000
    lock_ms: int = 3_600_000


def point_key(site_key: bytes, service_point_id: str) -> bytes:
    """The key of one service point: HKDF-Expand (RFC 5869) of the site's key, 32 bytes."""
    info = _KEY_LABEL + service_point_id.encode()
    return hmac.digest(site_key, info + b"\x01", "sha256")


def key_mark(site_key: bytes) -> str:
    """What names a site's voucher key without telling anything of it: 16 hex digits."""
    return hashlib.sha256(_MARK_LABEL + site_key).hexdigest()[:16]


def encode(key: bytes, account_id: str, voucher: Voucher) -> str:
    """The 20 digits of a voucher under a point's key."""
    message = (
        b"PGV1"
        + account_id.encode()
        + voucher.counter.to_bytes(8, "big")
        + voucher.amount_minor.to_bytes(4, "big")
    )
    tag = int.from_bytes(hmac.digest(key, message, "sha256")[: TAG_BITS // 8], "big")
    number = VERSION
    for value, bits in (
        (voucher.counter % COUNTERS, COUNTER_BITS),
        (voucher.units, UNIT_BITS),
        (tag, TAG_BITS),
    ):
        number = number << bits | value
    return f"{number:0{DIGITS}d}"


def is_genuine(key: bytes, account_id: str, voucher: Voucher, token: str) -> bool:
    """Whether `token` is the one of this voucher; takes the same time whatever differs."""
    return hmac.compare_digest(encode(key, account_id, voucher).encode(), token.encode())


def claim_of(token: str) -> Claim | None:
    """What 20 digits claim; None when they are no voucher of this version whatever the key."""
    number = int(token)
    if number >> (COUNTER_BITS + UNIT_BITS + TAG_BITS) != VERSION:
        return None
    units = number >> TAG_BITS & UNITS_MAX
    counter_low = number >> (UNIT_BITS + TAG_BITS) & (COUNTERS - 1)
    return Claim(counter_low, units) if units else None


def rebuild(counter_low: int, expected: int) -> int | None:
    """The whole counter of these low bits in the window around the one expected next.

    The window holds each low value once: `expected - 2048` to `expected + 2047`. None for a
    counter below 1, which no voucher has.
    """
    first = expected - BEHIND
    counter = first + (counter_low - first) % COUNTERS
    return counter if 1 <= counter <= COUNTER_MAX else None


def parse_token(text: str) -> str:
    """The 20 digits that a person typed: spaces, dashes and other scripts' digits are understood.

    Raises RefusedError VOUCHER_FORMAT, which tells how many digits there are and no digit.
    """
    digits = ""
    for letter in text:
        value = unicodedata.decimal(letter, None)
        if value is not None:
            digits += str(value)
        elif not letter.isspace() and letter not in _SEPARATORS:
            raise RefusedError(
                "VOUCHER_FORMAT",
                f"a voucher has {DIGITS} digits, spaces or dashes between them and nothing else",
                "token",
            )
    if len(digits) != DIGITS:
        raise RefusedError(
            "VOUCHER_FORMAT", f"a voucher has {DIGITS} digits, these are {len(digits)}", "token"
        )
    return digits


def grouped(token: str) -> str:
    """A token as people read it: groups of four digits."""
    return " ".join(token[at : at + GROUP] for at in range(0, len(token), GROUP))


def masked(token: str) -> str:
    """A token for records that others read: what was typed wrong is one digit from a right one."""
    return token[:_SHOWN] + "*" * max(0, len(token) - _SHOWN)


# -- amounts ---------------------------------------------------------------------------------


def unit_nano_of(text: str | None, currency: Currency) -> int:
    """The site's `voucher_unit` in nano-units: one minor unit where none is given.

    Raises RefusedError VOUCHER_UNIT (not above zero, not whole minor units, or so large that one
    unit does not fit a voucher) and the codes of `parse_amount`.
    """
    if text is None:
        return currency.minor_nano
    unit_nano = parse_amount(text, currency, "voucher_unit")
    if unit_nano <= 0 or unit_nano % currency.minor_nano:
        smallest = format_amount(currency.minor_nano, currency)
        raise RefusedError(
            "VOUCHER_UNIT", f"is a multiple of {smallest}, above zero, not {text}", "voucher_unit"
        )
    if unit_nano // currency.minor_nano > MINOR_MAX:
        raise RefusedError("VOUCHER_UNIT", f"{text} is too large for a voucher", "voucher_unit")
    return unit_nano


def units_max(unit_nano: int, currency: Currency) -> int:
    """How many units a voucher may carry: 20 bits, and no more minor units than 32 bits hold."""
    return min(UNITS_MAX, MINOR_MAX // (unit_nano // currency.minor_nano))


def units_of(amount_nano: int, unit_nano: int, currency: Currency) -> int:
    """An amount in voucher units.

    Raises RefusedError AMOUNT_RANGE (zero, or above what 20 bits carry: the maximum is named) and
    VOUCHER_UNIT (no multiple of the unit).
    """
    if amount_nano <= 0:
        raise RefusedError("AMOUNT_RANGE", "the amount of a voucher has to be above zero", "amount")
    most_nano = units_max(unit_nano, currency) * unit_nano
    if amount_nano > most_nano:
        most = display_amount(most_nano, currency)
        raise RefusedError(
            "AMOUNT_RANGE", f"a voucher carries at most {most} {currency.code}", "amount"
        )
    units, rest = divmod(amount_nano, unit_nano)
    if rest:
        unit = format_amount(unit_nano, currency)
        raise RefusedError(
            "VOUCHER_UNIT", f"a voucher is a multiple of {unit} {currency.code}", "amount"
        )
    return units


# -- wrong tries -----------------------------------------------------------------------------


def locked_until(tries_utc_ms: Sequence[int], policy: LockPolicy) -> int | None:
    """Until when the last tries lock (exclusive), newest first; None when they do not.

    Nobody tries while a lock stands, so its end is counted from the newest.
    """
    if len(tries_utc_ms) < policy.tries:
        return None
    newest, oldest = tries_utc_ms[0], tries_utc_ms[policy.tries - 1]
    return newest + policy.lock_ms if newest - oldest <= policy.within_ms else None


def tries_left(tries_utc_ms: Sequence[int], now_utc_ms: int, policy: LockPolicy) -> int:
    """How many further wrong tries lock now, by those on record (newest first)."""
    recent = sum(now_utc_ms - utc_ms <= policy.within_ms for utc_ms in tries_utc_ms)
    return max(0, policy.tries - recent)
