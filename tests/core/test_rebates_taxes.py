"""Rebates and taxes, figure by figure: what they are of, their limits, and what they leave."""

from collections.abc import Mapping

from gateway.core.charges import recharge_taxes
from gateway.core.pricing import Pricer
from tests.core.test_fees import INR, UNIT, at, fee, opened, priced, sums, tariff, use


def month(**keys: object) -> Mapping[str, int]:
    """What February comes to with 100 kWh at one rupee."""
    pricer = opened(priced(INR, 1, keys))
    use(pricer, 100_000, "2026-03-01")
    return sums(pricer.settle())["2026-02"]


def test_rebates_take_a_share_an_amount_and_so_much_for_the_first_kwh() -> None:
    """In the order in which they stand, all of them on the charges of the month."""
    charges = month(
        rebates=[
            {"name": "Senior", "percent": "10", "of": ["energy"]},
            {"name": "Relief", "amount": "20"},
            {"name": "Lifeline", "per_kwh": "0.5", "upto_kwh": 50, "source": "grid"},
        ]
    )
    assert charges["rebate:Senior"] == -10 * UNIT
    assert charges["rebate:Relief"] == -20 * UNIT
    assert charges["rebate:Lifeline"] == -25 * UNIT


def test_rebates_never_take_more_than_the_charges() -> None:
    """A relief of 150 gives 100 on a bill of 100; what comes after it finds nothing left."""
    charges = month(
        rebates=[
            {"name": "Relief", "amount": "150"},
            {"name": "More", "percent": "50", "of": ["energy"]},
        ]
    )
    assert charges == {"energy:grid": 100 * UNIT, "rebate:Relief": -100 * UNIT}


def test_a_rebate_per_period_is_given_once_although_the_price_changes() -> None:
    """A new version goes on where the old one left off: amount and kWh."""
    rules = [
        {"name": "Relief", "amount": "50"},
        {"name": "Lifeline", "per_kwh": "0.5", "upto_kwh": 60},
    ]
    first, second = tariff(rebates=rules), tariff(2, rebates=rules, effective_from="2026-02-15")
    pricer = opened(first, second)
    use(pricer, 40_000, "2026-02-15")
    pricer.settle()
    use(pricer, 140_000, "2026-03-01")
    charges = sums(pricer.settle())["2026-02"]
    # 40 kWh cost 40: relief takes all of it, 10 are left; 20 of the first 60 kWh remain.
    assert charges["rebate:Relief"] == -10 * UNIT
    assert charges["rebate:Lifeline"] == -10 * UNIT
    assert pricer.charged_nano() == 180 * UNIT - 50 * UNIT - 10 * UNIT


def test_energy_of_an_old_version_takes_from_the_rebate_of_a_fee_charged_ahead() -> None:
    """A meter out of reach: days of the new version come before energy of the old one."""
    rules = [{"name": "Relief", "amount": "10"}]
    first = tariff(rebates=rules)
    second = fee("28", "daily", 2, rebates=rules, effective_from="2026-02-11")
    pricer = opened(first, second)
    pricer.close_periods(at("2026-02-21"))
    assert pricer.running_nano() == 0
    pricer.charge_at_label([("grid", 4_000)])
    assert pricer.running_nano() == 4 * UNIT
    assert sums(pricer.settle())["2026-02"] == {
        "energy:grid": 4 * UNIT,
        "fixed": 10 * UNIT,
        "rebate:Relief": -10 * UNIT,
    }


def test_a_contained_tax_changes_no_total() -> None:
    """118 with 18 % in it: 18 of tax, taken out of the price again; energy stays Wh x price."""
    vat = {"name": "VAT", "rate_percent": "18", "on": ["energy"], "inclusive": True}
    charges = month(grid={"price": "1.18"}, taxes=[vat])
    assert charges == {
        "energy:grid": 118 * UNIT,
        "tax:VAT": 18 * UNIT,
        "contained:VAT": -18 * UNIT,
    }


def test_two_contained_taxes_share_what_is_left_without_them() -> None:
    """130 with 10 % and 20 % in it, and a duty of 0.10 a kWh before: 100 net, 10, 20 and 10."""
    charges = month(
        grid={"price": "1.4"},
        taxes=[
            {"name": "A", "rate_percent": "10", "on": ["energy"], "inclusive": True},
            {"name": "B", "rate_percent": "20", "on": ["energy"], "inclusive": True},
            {"name": "Duty", "per_kwh": "0.1", "inclusive": True},
        ],
    )
    assert [charges[f"tax:{name}"] for name in ("A", "B", "Duty")] == [
        10 * UNIT,
        20 * UNIT,
        10 * UNIT,
    ]
    assert sum(charges.values()) == 140 * UNIT


def test_a_tax_per_kwh_is_on_top_and_may_be_of_one_source() -> None:
    """0.10 a kWh of the grid; the generator's is free of it."""
    duty = {"name": "Duty", "per_kwh": "0.1", "source": "grid"}
    version = tariff(taxes=[duty], generator={"price": "2"})
    pricer = Pricer([version], start_utc_ms=at("2026-02-01"), sources=("grid", "generator"))
    pricer.advance({"grid": 10_000, "generator": 10_000}, at("2026-02-01"), at("2026-02-02"))
    assert sums(pricer.settle())["2026-02"]["tax:Duty"] == UNIT
    assert pricer.remaining_wh(11 * UNIT, "grid", at("2026-02-02")) == 10_000
    assert pricer.remaining_wh(11 * UNIT, "generator", at("2026-02-02")) == 5_500


def test_a_tax_on_rebated_energy_is_on_what_is_left() -> None:
    """A rebate named as base lowers the tax, never below nothing."""
    vat = {"name": "VAT", "rate_percent": "10", "on": ["energy", "rebate"]}
    rebate = {"name": "Relief", "amount": "40"}
    assert month(taxes=[vat], rebates=[rebate])["tax:VAT"] == 6 * UNIT


def test_taxes_on_recharge_are_floored_and_contained_by_default() -> None:
    """118 paid hold 18; a tax on top is computed on the amount; bills see neither."""
    rules = [
        {"name": "VAT", "rate_percent": "18", "on_recharge": True},
        {"name": "Stamp", "rate_percent": "1", "on_recharge": "true", "inclusive": "false"},
    ]
    version = tariff(taxes=rules)
    assert recharge_taxes(version, 118 * UNIT) == [
        ("tax:VAT", 18 * UNIT),
        ("tax:Stamp", 118 * UNIT // 100),
    ]
    assert recharge_taxes(version, 1) == [("tax:VAT", 0), ("tax:Stamp", 0)]
    assert month(taxes=rules) == {"energy:grid": 100 * UNIT}


def test_remaining_energy_counts_on_a_lifeline_rebate() -> None:
    """At one rupee with half of it given back for the first 10 kWh, nine rupees buy 14 kWh."""
    rebate = {"name": "Lifeline", "per_kwh": "0.5", "upto_kwh": 10}
    pricer = opened(tariff(rebates=[rebate]))
    assert 13_999.9 < pricer.remaining_wh(9 * UNIT, "grid", at("2026-02-01")) <= 14_000
    use(pricer, 6_000, "2026-02-02")
    assert 6_999.9 < pricer.remaining_wh(5 * UNIT, "grid", at("2026-02-02")) <= 7_000
