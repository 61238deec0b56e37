"""Exact money: integers of the smallest unit a site keeps, decimal text at the edges.

Amounts are integer nano-units (1e-9 of the major unit) where `money_scale` is 9, and prices are
integer micro-units per kWh, so that `cost_nano = wh * price_micro` has no rounding step. A site
with very large amounts chooses scale 6 and keeps the same names: the integers are then 1e-6
units of money and 1e-3 units per kWh (domain.md section 2).
"""

import re
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final, NamedTuple

from gateway.core.errors import RefusedError

INT64_MAX: Final = 2**63 - 1
PRICE_MAX: Final = 10**12  # half an hour at a megawatt still costs less than an int64 holds
MAX_TEXT: Final = 64
# No person means more than this at once, in major units: a slip of the finger. By the decimals
# shown: a currency without a smaller unit (UGX, IDR) has amounts a hundred times as large.
AMOUNT_MAJOR_MAX: Final = {0: 1_000_000_000, 1: 100_000_000}
AMOUNT_MAJOR_MAX_ELSE: Final = 10_000_000
# However large a site wants it: 92 such amounts must fit into the 64 bits of a balance.
AMOUNT_CEILING_NANO: Final = 10**17
MONEY_SCALES: Final = (6, 9)
WH_PER_KWH_DIGITS: Final = 3

_DECIMAL: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,2})?", re.ASCII)
_CODE: Final = re.compile(r"[A-Z]{3}")


@dataclass(frozen=True, slots=True)
class Currency:
    """A site's currency: ISO 4217 code, decimals kept (`money_scale`) and decimals shown.

    `amount_max` is the largest amount taken at once, in major units; None: by the decimals shown,
    10,000,000 with two. Raises RefusedError CURRENCY_INVALID.
    """

    code: str
    money_scale: int = 9
    minor_digits: int = 2
    amount_max: int | None = None

    def __post_init__(self) -> None:
        if not _CODE.fullmatch(self.code):
            raise RefusedError(
                "CURRENCY_INVALID", f"{self.code!r} is no three-letter currency code", "currency"
            )
        if self.money_scale not in MONEY_SCALES:
            raise RefusedError(
                "CURRENCY_INVALID", f"money scale is 9 or 6, not {self.money_scale}", "money_scale"
            )
        if not 0 <= self.minor_digits <= self.money_scale:
            raise RefusedError(
                "CURRENCY_INVALID",
                f"minor digits lie between 0 and {self.money_scale}, not {self.minor_digits}",
                "minor_digits",
            )
        most = self.amount_ceiling
        if self.amount_max is not None and not 1 <= self.amount_max <= most:
            hint = "" if self.money_scale == min(MONEY_SCALES) else "; money scale 6 keeps more"
            raise RefusedError(
                "CURRENCY_INVALID",
                f"the largest amount lies between 1 and {most} at money scale {self.money_scale}, "
                f"or sums would not fit into 64 bits{hint}",
                "amount_max",
            )

    @property
    def price_scale(self) -> int:
        """Decimals of a price per kWh: three fewer than of money, since prices multiply Wh."""
        return self.money_scale - WH_PER_KWH_DIGITS

    @property
    def amount_max_nano(self) -> int:
        """The largest amount that is taken at once, far from where 64 bits end."""
        usual = AMOUNT_MAJOR_MAX.get(self.minor_digits, AMOUNT_MAJOR_MAX_ELSE)
        major = min(usual, self.amount_ceiling) if self.amount_max is None else self.amount_max
        return int(major * 10**self.money_scale)

    @property
    def amount_ceiling(self) -> int:
        """The largest `amount_max` of this money scale, in major units."""
        return AMOUNT_CEILING_NANO // int(10**self.money_scale)

    def as_stored(self) -> "Currency":
        """For reading what was accepted before, whatever the maximum was at that time."""
        return replace(self, amount_max=self.amount_ceiling)

    @property
    def minor_nano(self) -> int:
        """One minor unit (cent, paisa) in nano-units."""
        return int(10 ** (self.money_scale - self.minor_digits))


class DecimalCodes(NamedTuple):
    """What a decimal that cannot be taken is called, by what is wrong with it."""

    noun: str
    malformed: str
    too_fine: str
    too_large: str


_MONEY_CODES: Final = DecimalCodes("amount", "MONEY_FORMAT", "MONEY_PRECISION", "MONEY_RANGE")
_PRICE_CODES: Final = DecimalCodes("price", "PRICE_FORMAT", "PRICE_PRECISION", "PRICE_RANGE")


def parse_amount(text: object, currency: Currency, place: str = "") -> int:
    """Exact nano-units of a decimal text such as "12.50" (an int is taken as major units).

    Raises RefusedError: MONEY_PRECISION for a float, NaN, infinity or more decimals than the
    currency keeps; MONEY_RANGE beyond 64 bits; MONEY_FORMAT for anything else.
    """
    return parse_scaled(text, currency.money_scale, INT64_MAX, _MONEY_CODES, place)


def parse_price(text: object, currency: Currency, place: str = "") -> int:
    """Exact micro-units per kWh of a decimal text such as "7.333333".

    Raises RefusedError: PRICE_PRECISION, PRICE_RANGE, PRICE_FORMAT, as `parse_amount`.
    """
    return parse_scaled(text, currency.price_scale, PRICE_MAX, _PRICE_CODES, place)


def parse_scaled(text: object, scale: int, limit: int, codes: DecimalCodes, place: str) -> int:
    """The integer `text * 10**scale`, exact and at most `limit` in size, or a refusal."""
    if isinstance(text, float):
        raise RefusedError(
            codes.too_fine,
            f"{codes.noun} {text!r} is a binary fraction; write it as text in quotes",
            place,
        )
    if isinstance(text, int) and not isinstance(text, bool):
        text = str(text) if abs(text) <= limit else "9" * MAX_TEXT
    if not isinstance(text, str) or len(text) > MAX_TEXT:
        raise RefusedError(codes.malformed, f"{codes.noun} must be a decimal text", place)
    if text.strip().lstrip("+-").lower() in {"nan", "snan", "inf", "infinity"}:
        raise RefusedError(codes.too_fine, f"{codes.noun} {text!r} is not a number", place)
    if not _DECIMAL.fullmatch(text):
        raise RefusedError(
            codes.malformed, f'{codes.noun} {text!r} is no decimal such as "12.50"', place
        )
    # The text is at most 64 digits with a two-digit exponent, so the tuple form stays small and
    # the decimal context, which would round, is never asked.
    sign, digits, exponent = Decimal(text).as_tuple()
    unscaled = int("".join(map(str, digits)))
    shift = int(exponent) + scale
    factor: int = 10 ** abs(shift)
    value = unscaled * factor if shift >= 0 else unscaled // factor
    if shift < 0 and value * factor != unscaled:
        raise RefusedError(
            codes.too_fine,
            f"{codes.noun} {text} is finer than {scale} decimals and cannot be kept exactly",
            place,
        )
    if value > limit:
        raise RefusedError(codes.too_large, f"{codes.noun} {text} is too large", place)
    return -value if sign else value


def format_scaled(value: int, scale: int) -> str:
    """Exact decimal text of `value * 10**-scale` without superfluous zeros."""
    whole, part = divmod(abs(value), 10**scale)
    sign = "-" if value < 0 else ""
    decimals = f"{part:0{scale}d}".rstrip("0") if part else ""
    return f"{sign}{whole}.{decimals}" if decimals else f"{sign}{whole}"


def format_amount(amount_nano: int, currency: Currency) -> str:
    """Exact decimal text of an amount: `parse_amount` gives the same integer back."""
    return format_scaled(amount_nano, currency.money_scale)


def format_price(price_micro: int, currency: Currency) -> str:
    """Exact decimal text of a price per kWh: `parse_price` gives the same integer back."""
    return format_scaled(price_micro, currency.price_scale)


def display_amount(amount_nano: int, currency: Currency) -> str:
    """Text for people, floored to the minor unit: never more than is there (I11)."""
    minor = amount_nano // currency.minor_nano
    whole, part = divmod(abs(minor), 10**currency.minor_digits)
    sign = "-" if minor < 0 else ""
    if currency.minor_digits == 0:
        return f"{sign}{whole}"
    return f"{sign}{whole}.{part:0{currency.minor_digits}d}"


def round_half_up_minor(amount_nano: int, currency: Currency) -> int:
    """The amount in nano-units rounded to whole minor units, halves away from zero.

    For lines of documents only; what is owed is never rounded.
    """
    unit = currency.minor_nano
    rounded = (abs(amount_nano) * 2 + unit) // (2 * unit) * unit
    return -rounded if amount_nano < 0 else rounded
