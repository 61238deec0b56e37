"""The `site` section of the configuration file: who, where, and in which money."""

from pydantic import Field, ValidationInfo, field_validator

from gateway.app.config_section import Section
from gateway.app.config_types import CurrencyCode, Identifier, MoneyScale, OneLine, Zone
from gateway.core.errors import RefusedError
from gateway.core.money import Currency


class SiteSection(Section):
    """Who and where the site is."""

    id: Identifier = Field(description="Name of the site in topics, files and records.")
    name: OneLine = Field(description="Name for people.")
    timezone: Zone = Field(description="IANA time zone of tariffs, months and half hours.")
    currency: CurrencyCode = Field(description="ISO 4217 code; frozen when the stores are created.")
    money_scale: MoneyScale = Field(
        default=9,
        description="Decimal places of stored money: 9, or 6 where amounts are large (IDR, LBP, "
        "UGX); prices have three fewer. Frozen when the stores are created.",
    )
    minor_digits: int = Field(
        default=2, ge=0, le=3, description="Decimal places shown to people: 2, JPY 0, KWD 3."
    )
    amount_max: int | None = Field(
        default=None,
        description="Largest amount taken at once (recharge, voucher, fee, credit limit), in major "
        "units; none: 10000000, ten times as much with one decimal place shown, a hundred times "
        "with none, as far as sums fit: at most 100000000 with money scale 9, 100000000000 with 6.",
    )

    @field_validator("amount_max")
    @classmethod
    def _amount_fits(cls, given: int | None, info: ValidationInfo) -> int | None:
        scale = info.data.get("money_scale")
        if given is not None and scale is not None:
            try:
                Currency("XXX", scale, 0, given)
            except RefusedError as refused:
                raise ValueError(refused.message) from refused
        return given


def currency_of(site: SiteSection) -> Currency:
    """The currency that a site keeps. Raises RefusedError CURRENCY_INVALID."""
    return Currency(site.currency, site.money_scale, site.minor_digits, site.amount_max)
