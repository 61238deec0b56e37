"""The worked examples of prepaid.yaml that price energy and judge registers, figure by figure."""

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import cast

import pytest
import yaml

from gateway.core.errors import RefusedError
from gateway.core.guard import GuardEvent, RegisterGuard, VerdictKind
from gateway.core.money import Currency, display_amount, format_amount, parse_amount
from gateway.core.pricing import Flag, Posting, Pricer
from gateway.core.tariff import Tariff
from gateway.core.tariff_document import TariffProblemsError, tariff_from_document

CASES_FILE = Path(__file__).parent.parent / "cases" / "prepaid.yaml"
INR = Currency("INR")
NS = 10**9
HOUR_MS = 3_600_000

Case = Mapping[str, object]


def load_cases() -> dict[str, Case]:
    """All cases by id, every scalar kept as the text that stands in the file."""
    with CASES_FILE.open(encoding="utf-8") as stream:
        document = yaml.load(stream, Loader=yaml.BaseLoader)  # noqa: S506 - BaseLoader makes text only
    return {case["id"]: case for case in document["cases"]}


CASES = load_cases()


def part(case_id: str, name: str) -> Mapping[str, str]:
    """`given` or `expect` of a case."""
    return cast("Mapping[str, str]", CASES[case_id][name])


def listed(case_id: str, name: str, key: str) -> list[str]:
    """A list of texts in `given` or `expect` of a case."""
    return cast("list[str]", cast("Mapping[str, object]", CASES[case_id][name])[key])


def nano(text: str) -> int:
    """Nano-units of a figure of the file."""
    return parse_amount(text, INR)


def instant(text: str) -> int:
    """UTC milliseconds of a figure of the file."""
    return round(datetime.fromisoformat(text).timestamp() * 1_000)


def blocks(case_id: str, key: str = "blocks") -> list[dict[str, str]]:
    """A case's block table as the tariff document writes it."""
    rows = cast("list[dict[str, str]]", cast("Mapping[str, object]", CASES[case_id]["given"])[key])
    return [
        {"price": row["rate"]}
        if row["upto_kwh"] == "null"
        else {"upto_kwh": row["upto_kwh"], "price": row["rate"]}
        for row in rows
    ]


def tariff(
    grid: object,
    *,
    generator: object | None = None,
    tax_bp: str = "0",
    taxable: list[str] | None = None,
    fixed: str = "0",
    zone: str = "Asia/Kolkata",
    effective_from: str = "2026-01-01",
    version: int = 1,
) -> Tariff:
    """A tariff through its document, as a person would write it."""
    document: dict[str, object] = {
        "id": "case",
        "name": "Case",
        "currency": "INR",
        "timezone": zone,
        "effective_from": effective_from,
        "grid": grid,
    }
    if generator is not None:
        document["generator"] = generator
    if fixed != "0":
        document["fixed"] = {"amount": fixed}
    if tax_bp != "0":
        percent = str(int(tax_bp) // 100)
        document["taxes"] = [{"name": "VAT", "rate_percent": percent, "on": taxable or ["energy"]}]
    return tariff_from_document(document, INR, version=version)


def fresh(*versions: Tariff, start: str = "2026-01-05T00:00:00+05:30") -> Pricer:
    """A pricer for a new account on grid (and generator where it has a price)."""
    sources = [source.source for source in versions[0].sources]
    return Pricer(versions, start_utc_ms=instant(start), sources=sources)


def use(pricer: Pricer, wh: int, source: str = "grid") -> None:
    """Let energy flow over one minute after the label."""
    pricer.advance({source: wh}, pricer.label_utc_ms, pricer.label_utc_ms + 60_000)


def charged(postings: list[Posting]) -> dict[str, int]:
    """Nano-units per component, over all postings."""
    sums: dict[str, int] = {}
    for posting in postings:
        for component, amount_nano in posting.charges:
            sums[component] = sums.get(component, 0) + amount_nano
    return sums


def counted(postings: list[Posting], *, by: Callable[[Posting, str], str]) -> dict[str, int]:
    """Wh per key, over all postings."""
    sums: dict[str, int] = {}
    for posting in postings:
        for cell, wh in posting.cells:
            key = by(posting, cell.band)
            sums[key] = sums.get(key, 0) + wh
    return sums


def test_b01_a_month_of_blocks_fixed_fee_and_tax_equals_the_example_bill() -> None:
    """Energy, fixed fee and tax of a closed month are those of the older example bill."""
    given, expect = part("B01", "given"), part("B01", "expect")
    pricer = fresh(
        tariff(
            {"blocks": blocks("B01")},
            fixed=given["fixed"],
            tax_bp=given["tax_bp"],
            taxable=listed("B01", "given", "taxable"),
        )
    )
    use(pricer, int(given["energy_wh"]))
    assert pricer.close_periods(instant("2026-02-01T00:00:00+05:30")) == 1
    charges = charged(pricer.settle())
    assert charges["energy:grid"] == nano(expect["energy"])
    assert charges["fixed"] == nano(expect["fixed"])
    assert charges["energy:grid"] + charges["fixed"] == nano(expect["taxable_base"])
    assert charges["tax:VAT"] == nano(expect["tax"])
    assert sum(charges.values()) == nano(expect["total"])


@pytest.mark.parametrize("index", range(7))
def test_b03_blocks_leave_no_hole_between_kilowatt_hours(index: int) -> None:
    """A block ends at exactly its limit in Wh; the next Wh is in the block above."""
    pricer = fresh(tariff({"blocks": blocks("B03")}))
    use(pricer, int(listed("B03", "given", "energy_wh_list")[index]))
    assert pricer.running_nano() == nano(listed("B03", "expect", "energy")[index])


@pytest.mark.slow
@pytest.mark.parametrize("step", [int(text) for text in listed("B04", "given", "steps")])
def test_b04_any_partition_of_postings_gives_the_same_sums(step: int) -> None:
    """Energy and tax telescope, whatever the steps in which they are posted."""
    given, expect = part("B04", "given"), part("B04", "expect")
    taxable = listed("B04", "given", "taxable")
    pricer = fresh(tariff({"blocks": blocks("B04")}, tax_bp=given["tax_bp"], taxable=taxable))
    left_wh = int(given["energy_wh"])
    sums: dict[str, int] = {}
    while left_wh:
        wh = min(step, left_wh)
        # The clock stays: what is tested are many postings, not many months.
        pricer.advance({"grid": wh}, pricer.label_utc_ms, pricer.label_utc_ms + 1)
        left_wh -= wh
        for component, amount_nano in charged(pricer.settle()).items():
            sums[component] = sums.get(component, 0) + amount_nano
    assert sums == {"energy:grid": nano(expect["energy"]), "tax:VAT": nano(expect["tax"])}


def test_b05_a_settlement_that_crosses_a_block_is_split_at_the_limit() -> None:
    """Ten Wh cost the lower price, the other twenty the higher one."""
    pricer = fresh(tariff({"blocks": blocks("B05")}))
    use(pricer, int(part("B05", "given")["period_cum_wh"]))
    pricer.settle()
    use(pricer, 30)
    assert pricer.running_nano() == nano(part("B05", "expect")["charge"])


def test_b06_a_new_month_starts_its_blocks_again() -> None:
    """Energy over midnight of the month's end is split by time; the new part costs block one."""
    given, expect = part("B06", "given"), part("B06", "expect")
    pricer = fresh(tariff({"blocks": blocks("B06")}, zone=given["tz"]))
    pricer.advance({"grid": int(given["period_cum_wh"])}, pricer.label_utc_ms, instant(given["t0"]))
    pricer.settle()
    pricer.advance({"grid": 200}, instant(given["t0"]), instant(given["t1"]))
    postings = pricer.settle()
    by_period = counted(postings, by=lambda posting, _: posting.period)
    assert by_period == {
        "2026-01": int(expect["old_period_wh"]),
        "2026-02": int(expect["new_period_wh"]),
    }
    assert sum(posting.total_nano for posting in postings) == nano(expect["charge"])
    assert by_period["2026-02"] == int(expect["new_period_cum_wh"])


def test_b07_a_watt_hour_has_an_exact_price() -> None:
    """Wh times micro-price is nano-units: nothing is rounded, three times is exactly thrice."""
    expect = part("B07", "expect")
    pricer = fresh(tariff({"price": part("B07", "given")["price"]}))
    sums = []
    for _ in range(3):
        use(pricer, 1)
        sums.append(sum(posting.total_nano for posting in pricer.settle()))
    assert sums == [nano(expect["each"])] * 3
    assert pricer.charged_nano() == nano(expect["sum"])
    assert expect["display_balance_rounding"] == "floor"
    assert display_amount(-sum(sums), INR) == "-0.03"


def test_b08_the_remainder_of_a_floored_tax_is_carried() -> None:
    """Tax is floored on the cumulative, so four postings sum to the tax of the whole."""
    given, expect = part("B08", "given"), part("B08", "expect")
    pricer = fresh(tariff({"price": given["price"]}, tax_bp=given["tax_bp"]))
    posts = []
    for _ in range(4):
        use(pricer, 1)
        posts.append(charged(pricer.settle())["tax:VAT"])
    assert posts == [nano(text) for text in listed("B08", "expect", "tax_posts")]
    assert sum(posts) == nano(expect["tax_sum"])


def test_b09_a_price_that_is_too_fine_is_refused() -> None:
    """More decimals than a price keeps are refused by their own code, never rounded."""
    with pytest.raises(TariffProblemsError) as refusal:
        tariff({"price": part("B09", "given")["price"]})
    assert refusal.value.refusal_code == part("B09", "expect")["error"]
    assert refusal.value.place == "grid.price"


def test_s01_two_registers_are_priced_by_their_sources() -> None:
    """T1 is charged as grid, T2 as generator."""
    given, expect = part("S01", "given"), part("S01", "expect")
    pricer = fresh(tariff({"price": given["t1_rate"]}, generator={"price": given["t2_rate"]}))
    pricer.advance(
        ((given["t1"], 3_200), (given["t2"], 1_150)),
        pricer.label_utc_ms,
        pricer.label_utc_ms + HOUR_MS,
    )
    charges = charged(pricer.settle())
    assert charges["energy:grid"] == nano(expect["grid"])
    assert charges["energy:generator"] == nano(expect["generator"])
    assert sum(charges.values()) == nano(expect["charge"])


def test_s02_generator_energy_never_advances_the_blocks_of_the_grid() -> None:
    """Generator and grid interleaved cost what each costs alone."""
    given, expect = part("S02", "given"), part("S02", "expect")
    pricer = fresh(
        tariff({"blocks": blocks("S02", "grid_blocks")}, generator={"price": given["gen_rate"]})
    )
    for _ in range(30):
        use(pricer, 4_000)
        use(pricer, 1_000, "generator")
    charges = charged(pricer.settle())
    assert charges["energy:grid"] == nano(expect["grid"])
    assert charges["energy:generator"] == nano(expect["generator"])
    assert sum(charges.values()) == nano(expect["total"])


def test_s05_a_window_that_the_clock_change_cuts_is_shorter() -> None:
    """The hour that does not exist takes no energy."""
    given, expect = part("S05", "given"), part("S05", "expect")
    start, end = given["peak"].removesuffix(" local").split("-")
    grid = {
        "bands": {
            "peak": {"price": "8.00", "when": [{"from": start, "to": end}]},
            "offpeak": {"price": "5.00"},
        }
    }
    pricer = fresh(tariff(grid, zone=given["tz"]), start=given["t0"])
    pricer.advance({"grid": 2_500}, instant(given["t0"]), instant(given["t1"]))
    assert counted(pricer.settle(), by=lambda _, band: band) == {
        "peak": int(expect["peak_wh"]),
        "offpeak": int(expect["offpeak_wh"]),
    }


def test_s07_a_gap_is_spread_over_its_time_and_flagged() -> None:
    """Six hours without readings are allocated linearly and say that this is an estimate."""
    given, expect = part("S07", "given"), part("S07", "expect")
    start, end = given["peak"].split("-")
    grid = {
        "bands": {
            "peak": {"price": given["peak_rate"], "when": [{"from": start, "to": end}]},
            "offpeak": {"price": given["offpeak_rate"]},
        }
    }
    pricer = fresh(tariff(grid, zone=given["tz"]), start=given["t0"])
    flags = pricer.advance({"grid": 6_000}, instant(given["t0"]), instant(given["t1"]))
    assert sorted(flag.value for flag in flags) == listed("S07", "expect", "flags")
    postings = pricer.settle()
    assert counted(postings, by=lambda _, band: band) == {
        "peak": int(expect["peak_wh"]),
        "offpeak": int(expect["offpeak_wh"]),
    }
    assert sum(posting.total_nano for posting in postings) == nano(expect["charge"])
    assert [posting.flags for posting in postings] == [("ESTIMATED_ALLOCATION",)]


def test_s09_a_tariff_change_inside_an_interval_is_floored_to_the_older_price() -> None:
    """Energy before the change is the floor of its share; the rest costs the new price."""
    given, expect = part("S09", "given"), part("S09", "expect")
    pricer = fresh(
        tariff({"price": given["old"]}),
        tariff({"price": given["new"]}, effective_from=given["effective"], version=2),
        start=given["t0"],
    )
    flags = pricer.advance({"grid": 37}, instant(given["t0"]), instant(given["t1"]))
    postings = pricer.settle()
    by_version = counted(postings, by=lambda posting, _: str(posting.tariff_version))
    assert by_version == {"1": int(expect["old_wh"]), "2": int(expect["new_wh"])}
    assert sum(posting.total_nano for posting in postings) == nano(expect["charge"])
    assert not flags


def test_r01_a_counter_that_wraps_is_charged_over_the_modulus() -> None:
    """A drop near the modulus, seen twice, is a rollover."""
    given, expect = part("R01", "given"), part("R01", "expect")
    guard = RegisterGuard(p_max_w=int(given["p_max_w"]), modulus_wh=int(given["modulus_wh"]))
    guard.check(1, 0, (int(given["prev"]),))
    read_ns = int(given["dt_s"]) * NS
    assert guard.check(2, read_ns, (150,)).read_again
    verdict = guard.check(3, read_ns, (150,))
    assert verdict.advance_wh == (int(expect["delta_wh"]),)
    assert verdict.events == (expect["event"],)


def test_r03_a_counter_that_fell_back_after_a_power_cut_charges_nothing() -> None:
    """A small fall after lost communication rebases; later energy counts from there."""
    given, expect = part("R03", "given"), part("R03", "expect")
    guard = RegisterGuard(
        p_max_w=int(given["p_max_w"]), nvm_interval_s=int(given["nvm_interval_s"])
    )
    guard.check(1, 0, (int(given["prev"]),))
    first = guard.check(2, 40 * NS, (4_999_700,), communication_lost=True)
    assert (first.kind, first.read_again) == (VerdictKind.RECHECK, True)
    rebased = guard.check(3, 40 * NS + NS // 10, (4_999_700,))
    later = guard.check(4, 80 * NS, (4_999_900,))
    deltas = [str(verdict.advance_wh[0]) for verdict in (rebased, later)]
    assert deltas == listed("R03", "expect", "deltas")
    assert rebased.events == (expect["event"],)
    assert guard.registers_wh == (int(expect["baseline"]),)


def test_r04_a_single_zero_is_a_bad_read_and_charges_nothing() -> None:
    """After one wrong zero the registers go on as if it had not been."""
    given, expect = part("R04", "given"), part("R04", "expect")
    guard = RegisterGuard(p_max_w=30_000)
    guard.check(1, 0, (int(given["prev"]),))
    zero = guard.check(2, 9 * NS, (0,))
    good = guard.check(3, 10 * NS, (5_000_050,))
    assert zero.read_again
    assert [str(v.advance_wh[0]) for v in (zero, good)] == listed("R04", "expect", "deltas")
    assert good.events == (expect["event"],)


def test_r06_an_impossible_jump_is_held_until_a_person_releases_it() -> None:
    """A jump beyond the point's power is never charged by waiting."""
    given, expect = part("R06", "given"), part("R06", "expect")
    guard = RegisterGuard(p_max_w=int(given["p_max_w"]))
    guard.check(1, 0, (int(given["prev"]),))
    times_ns = [int(given["dt_s"]) * NS, 20 * NS, 90_000 * NS]
    verdicts = [guard.check(2 + n, at_ns, (5_500_000,)) for n, at_ns in enumerate(times_ns)]
    assert [verdict.kind for verdict in verdicts] == [VerdictKind.QUARANTINED] * 3
    assert {verdict.advance_wh for verdict in verdicts} == {(int(expect["delta_wh"]),)}
    assert verdicts[0].events == (expect["alarm"],)
    assert verdicts[1].events == ()
    assert guard.held_wh == (int(expect["quarantined_wh"]),)
    assert bool(guard.held) is (expect["latched_until_released"] == "true")
    assert not verdicts[0].settles


def test_r07_a_replaced_meter_is_charged_to_its_closing_and_from_its_opening() -> None:
    """Both parts are energy of the same point and of the same period."""
    given, expect = part("R07", "given"), part("R07", "expect")
    guard = RegisterGuard(p_max_w=10_000)
    guard.check(1, 0, (int(given["prev"]),))
    old = guard.replace((int(given["old_close"]),), (int(given["new_open"]),))
    new = guard.check(2, 3_600 * NS, (1_017,))
    assert old[0] + new.advance_wh[0] == int(expect["delta_wh"])
    pricer = fresh(tariff({"blocks": [{"upto_kwh": 1, "price": "1"}, {"price": "2"}]}))
    use(pricer, old[0])
    use(pricer, new.advance_wh[0])
    assert pricer.running_nano() == nano("1") + 560 * 2_000_000
    assert expect["period_cum"] == "continues"


def test_r10_a_clock_that_steps_back_neither_loses_energy_nor_moves_the_label() -> None:
    """The registers say how much, the sequence says in which order, the label stands still."""
    given, expect = part("R10", "given"), part("R10", "expect")
    before = instant(f"2026-03-05T{given['last_event']}+05:30")
    stepped = instant("2026-03-05T11:58:05+05:30")
    guard = RegisterGuard(p_max_w=10_000)
    guard.check(1, 0, (int(given["prev"]),))
    verdict = guard.check(2, 5 * NS, (1_008,))
    assert verdict.advance_wh == (int(expect["delta_wh"]),)
    pricer = fresh(tariff({"price": given["rate"]}), start="2026-03-05T12:00:00+05:30")
    pricer.advance({"grid": 0}, pricer.label_utc_ms, before)
    flags = pricer.advance({"grid": verdict.advance_wh[0]}, before, stepped)
    assert pricer.running_nano() == nano(expect["charge"])
    assert pricer.label_utc_ms == instant(f"2026-03-05T{expect['event_time']}+05:30")
    assert [flag.value for flag in flags] == listed("R10", "expect", "flags")


def test_p18_remaining_energy_tells_when_credit_could_end() -> None:
    """Remaining Wh and the seconds they last at a power are those of the example."""
    given, expect = part("P18", "given"), part("P18", "expect")
    pricer = fresh(tariff({"price": given["rate"]}))
    left_wh = pricer.remaining_wh(nano(given["wallet"]), "grid", pricer.label_utc_ms)
    power_w = int(given["power_w"])
    assert left_wh == float(expect["remaining_wh"])
    assert left_wh * 3_600 / power_w == float(expect["seconds_to_zero"])
    naive_wh = power_w * int(given["poll_s"]) / 3_600
    assert round(naive_wh, 2) == float(expect["naive_overshoot_wh_max"])


def test_g01_a_wallet_is_what_was_paid_less_what_was_used() -> None:
    """37 Wh at a price with six decimals and one day's fee leave the wallet of the example."""
    pricer = fresh(tariff({"price": "7.333333"}))
    for _ in range(37):
        use(pricer, 1)
    left = nano("500") - pricer.charged_nano() - nano("1.785714285")
    assert format_amount(left, INR) == part("G01", "expect")["wallet"]


def test_refusals_are_of_the_error_tree() -> None:
    """A refused tariff is a RefusedError, so that every caller answers it alike."""
    with pytest.raises(RefusedError):
        tariff({"price": "-1"})


def test_events_and_flags_are_plain_text() -> None:
    """Events and flags go into the ledger as the words of domain.md."""
    assert GuardEvent.METER_RESET == "METER_RESET"
    assert Flag.CLOCK_STEPPED == "CLOCK_STEPPED"
