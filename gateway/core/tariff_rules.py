"""The part of a tariff document that is not energy: fee, minimum, rebates, taxes, periods."""

from collections.abc import Mapping, Sequence
from typing import Final

from gateway.core.tariff import (
    CALENDAR_MONTH,
    COLLECTIONS,
    ENERGY,
    LAST_ANNIVERSARY,
    OPENING_DAY,
    PERIOD_CLOSE,
    PPM,
    REBATE,
    REBATE_BASES,
    TAX_BASES,
    Rebate,
    SourceTariff,
    TaxRule,
)
from gateway.core.tariff_prices import PriceReader
from gateway.core.tariff_reader import join

MAX_TAXES: Final = 8
MAX_REBATES: Final = 8
TAX_KEYS: Final = (
    "name", "rate_percent", "per_kwh", "on", "source", "inclusive", "on_recharge",
)  # fmt: skip
REBATE_KEYS: Final = ("name", "percent", "of", "amount", "per_kwh", "upto_kwh", "source")


class RuleReader(PriceReader):
    """Reads what is charged beside energy, and how a period is cut."""

    def period(self, value: object) -> int:
        """`month`, or `{day: 1..28}`, or `{day: opening}`."""
        if value == "month":
            return CALENDAR_MONTH
        if not isinstance(value, Mapping):
            self.report("period", f"{value!r} is neither `month` nor a `{{day: 15}}`")
            return CALENDAR_MONTH
        day = self.mapping("period", value, ("day",), ("day",)).get("day", 1)
        if day == "opening":
            return OPENING_DAY
        if isinstance(day, str) and day.isascii() and day.isdecimal() and len(day) <= 2:
            day = int(day)
        if isinstance(day, int) and not isinstance(day, bool) and 1 <= day <= LAST_ANNIVERSARY:
            return day
        self.report(
            "period.day",
            f"{day!r} is neither a day from 1 to {LAST_ANNIVERSARY}, which every month has, "
            "nor `opening`",
        )
        return CALENDAR_MONTH

    def counts_by_occupancy(self, value: object) -> bool:
        if value not in ("period", "occupancy"):
            self.report("blocks_count", f"{value!r} is neither `period` nor `occupancy`")
        return value == "occupancy"

    def fixed(self, value: object) -> tuple[int, str]:
        """Amount and way of collecting; a fee of nothing is none."""
        keys = self.mapping("fixed", value, ("amount", "collect"), ("amount",))
        collect = keys.get("collect", PERIOD_CLOSE)
        if not isinstance(collect, str) or collect not in COLLECTIONS:
            self.report("fixed.collect", f"{collect!r} is none of {', '.join(COLLECTIONS)}")
            collect = PERIOD_CLOSE
        amount = self.amount("fixed.amount", keys["amount"]) if "amount" in keys else 0
        return amount, collect if amount else PERIOD_CLOSE

    def minimum(self, value: object) -> int:
        keys = self.mapping("minimum", value, ("amount",), ("amount",))
        return self.amount("minimum.amount", keys["amount"]) if "amount" in keys else 0

    def rebates(self, value: object, sources: Sequence[str]) -> tuple[Rebate, ...]:
        rules: list[Rebate] = []
        if value in ([], ()):
            return ()
        for here, item in self.items("rebates", value, MAX_REBATES):
            keys = self.mapping(here, item, REBATE_KEYS, ("name",))
            if "name" not in keys:
                continue
            name = self.label(
                join(here, "name"), keys["name"], "rebate", [rule.name for rule in rules]
            )
            forms = [form for form in ("percent", "amount", "per_kwh") if form in keys]
            if len(forms) != 1:
                self.report(here, "give exactly one of percent, amount, per_kwh")
            else:
                rules.append(self.rebate(here, name, forms[0], keys, sources))
        for base in REBATE_BASES:
            if sum(rule.rate_ppm for rule in rules if base in rule.bases) > PPM:
                self.report("rebates", f"take more than 100 % of {base} together")
        return tuple(rules)

    def rebate(
        self,
        here: str,
        name: str,
        form: str,
        keys: Mapping[str, object],
        sources: Sequence[str],
    ) -> Rebate:
        place = join(here, form)
        self.only(here, keys, {"percent": ("of",), "per_kwh": ("upto_kwh", "source")}, form)
        if form == "percent":
            rate = self.above_zero(place, self.percent(place, keys[form]))
            if "of" not in keys:
                self.report(join(here, "of"), f"is missing: one of {', '.join(REBATE_BASES)}")
                return Rebate(name, rate_ppm=rate)
            bases = self.bases(join(here, "of"), keys["of"], REBATE_BASES)
            return Rebate(name, rate_ppm=rate, bases=bases)
        if form == "amount":
            amount = self.above_zero(place, self.amount(place, keys[form]))
            return Rebate(name, amount_nano=amount)
        limit_wh = None
        if "upto_kwh" in keys:
            limit = join(here, "upto_kwh")
            limit_wh = self.kilowatt_hours(limit, keys["upto_kwh"])
            self.above_zero(limit, self.positive(limit, limit_wh))
        return Rebate(
            name,
            per_kwh_micro=self.above_zero(place, self.price(place, keys[form])),
            limit_wh=limit_wh,
            source=self.one_source(here, keys, sources),
        )

    def only(
        self,
        here: str,
        keys: Mapping[str, object],
        belongs: Mapping[str, tuple[str, ...]],
        form: str,
    ) -> None:
        """Report keys that belong to another form."""
        for other, names in belongs.items():
            for name in names:
                if name in keys and name not in belongs.get(form, ()):
                    self.report(join(here, name), f"goes with {other} only")

    def one_source(self, here: str, keys: Mapping[str, object], sources: Sequence[str]) -> str:
        source = keys.get("source", "")
        if "source" in keys and source not in sources:
            self.report(join(here, "source"), f"{source!r} has no price here")
        return str(source)

    def taxes(
        self, value: object, priced: Sequence[str], sources: Sequence[SourceTariff]
    ) -> tuple[TaxRule, ...]:
        if value in ([], ()):
            return ()
        rules: list[TaxRule] = []
        before = len(self.problems)
        for here, item in self.items("taxes", value, MAX_TAXES):
            keys = self.mapping(here, item, TAX_KEYS, ("name",))
            if "name" not in keys:
                continue
            name = self.label(
                join(here, "name"), keys["name"], "tax", [rule.name for rule in rules]
            )
            rules.append(self.tax(here, name, keys, priced))
        if len(self.problems) == before:
            self.contained(rules, sources)
        return tuple(rules)

    def tax(
        self, here: str, name: str, keys: Mapping[str, object], sources: Sequence[str]
    ) -> TaxRule:
        """One of: a rate on bases, an amount per kWh, a rate on recharge."""
        forms = [form for form in ("rate_percent", "per_kwh") if form in keys]
        if len(forms) != 1:
            self.report(join(here, "rate_percent"), "is missing: give this or per_kwh")
            return TaxRule(name, 0, ())
        place = join(here, forms[0])
        on_recharge = "on_recharge" in keys and self.flag(
            join(here, "on_recharge"), keys["on_recharge"]
        )
        inclusive = on_recharge
        if "inclusive" in keys:
            inclusive = self.flag(join(here, "inclusive"), keys["inclusive"])
        self.only(here, keys, {"rate_percent": ("on",), "per_kwh": ("source",)}, forms[0])
        if forms[0] == "per_kwh":
            if on_recharge:
                self.report(join(here, "on_recharge"), "a recharge has no kWh: give rate_percent")
            price = self.above_zero(place, self.price(place, keys["per_kwh"]))
            source = self.one_source(here, keys, sources)
            return TaxRule(name, 0, (), per_kwh_micro=price, inclusive=inclusive, source=source)
        rate = self.percent(place, keys["rate_percent"])
        bases: tuple[str, ...] = ()
        on = join(here, "on")
        if on_recharge:
            if "on" in keys:
                self.report(on, "a tax on recharge has no other base: leave this out")
        elif "on" not in keys:
            self.report(on, f"is missing: some of {', '.join(TAX_BASES)}")
        else:
            bases = self.bases(on, keys["on"], TAX_BASES)
            if bases == (REBATE,):
                self.report(on, "a rebate alone is never taxed: name what it reduces too")
        return TaxRule(name, rate, bases, inclusive=inclusive, on_recharge=on_recharge)

    def contained(self, rules: Sequence[TaxRule], sources: Sequence[SourceTariff]) -> None:
        """Taxes that are contained in prices must fit one another and the prices."""
        by_rate = [
            (index, rule)
            for index, rule in enumerate(rules)
            if not (rule.on_recharge or rule.per_kwh_micro)
        ]
        inclusive = [(index, rule) for index, rule in by_rate if rule.inclusive]
        for index, rule in inclusive:
            if rule.bases != inclusive[0][1].bases:
                self.report(
                    f"taxes[{index}].on", "inclusive taxes must have the same bases, all of them"
                )
            for other in (other for _, other in by_rate if not other.inclusive):
                shared = [base for base in rule.bases if base in other.bases and base != REBATE]
                if shared:
                    self.report(
                        f"taxes[{index}].inclusive",
                        f"{shared[0]} is taxed on top by {other.name}: it is one or the other",
                    )
        for source in sources:
            here = [
                index
                for index, rule in enumerate(rules)
                if rule.inclusive and rule.per_kwh_micro and rule.source in ("", source.source)
            ]
            total = sum(rules[index].per_kwh_micro for index in here)
            if here and total > min(price for row in source.prices_micro for price in row):
                self.report(
                    f"taxes[{here[0]}].per_kwh",
                    f"more is contained in {ENERGY} than the lowest price of {source.source}",
                )
