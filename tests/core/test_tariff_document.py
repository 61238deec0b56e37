"""The text form of a tariff: what reads well is taken, everything else is told at once."""

from collections.abc import Mapping
from datetime import UTC, date, datetime

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.money import Currency
from gateway.core.tariff import SourceTariff, Window
from gateway.core.tariff_document import TariffProblemsError, tariff_from_document
from gateway.core.tariff_writer import tariff_to_document

INR = Currency("INR")
EVERY_DAY = frozenset(range(8))

EXAMPLE = """
id: home
name: Home
currency: INR
timezone: Asia/Kolkata
effective_from: 2026-11-01T00:00:00+05:30
grid:
  bands:
    peak: {price: "9.00", when: [{days: [mon, tue], from: "18:00", to: "22:00"}]}
    night: {price: "2.00", when: [{from: "23:00", to: "05:00"}]}
    offpeak: {blocks: [{upto_kwh: 100, price: "3.50"}, {upto_kwh: 300, price: "4.50"}, {price: "6.00"}]}
generator: {price: "25.00"}
fixed: {amount: "50.00", collect: period_close}
taxes: [{name: VAT, rate_percent: "18", on: [energy, fixed]}]
"""  # noqa: E501 - reads as people write it


def base(**changes: object) -> dict[str, object]:
    """A valid flat tariff with keys replaced."""
    document: dict[str, object] = {
        "id": "home",
        "name": "Home",
        "currency": "INR",
        "timezone": "Asia/Kolkata",
        "effective_from": "2026-11-01",
        "grid": {"price": "8.00"},
    }
    return {**document, **changes}


def problems(document: Mapping[str, object]) -> dict[str, str]:
    """What the document is refused for, by place."""
    with pytest.raises(TariffProblemsError) as refusal:
        tariff_from_document(document, INR)
    found: dict[str, str] = {}
    for problem in refusal.value.problems:
        found[problem.place] = f"{found.get(problem.place, '')}{problem.message}\n"
    return found


def bands(**named: object) -> dict[str, object]:
    """A valid tariff but for the bands of its grid."""
    return base(grid={"bands": named})


def test_a_tariff_with_everything_is_read_as_written() -> None:
    """Bands, blocks, sources, fee and tax of the documented example, from real YAML."""
    tariff = tariff_from_document(yaml.safe_load(EXAMPLE), INR, version=3)
    grid = tariff.source("grid")
    assert grid == SourceTariff(
        source="grid",
        bands=("night", "offpeak", "peak"),
        windows=(
            Window("night", EVERY_DAY, 23 * 60, 5 * 60),
            Window("peak", frozenset({0, 1}), 18 * 60, 22 * 60),
        ),
        rest_band="offpeak",
        block_limits_wh=(100_000, 300_000),
        prices_micro=(
            (2_000_000, 2_000_000, 2_000_000),
            (3_500_000, 4_500_000, 6_000_000),
            (9_000_000, 9_000_000, 9_000_000),
        ),
    )
    generator = tariff.source("generator")
    assert generator is not None
    assert generator.prices_micro == ((25_000_000,),)
    assert (tariff.version, tariff.fixed_fee_nano) == (3, 50_000_000_000)
    assert [(rule.name, rule.rate_ppm) for rule in tariff.taxes] == [("VAT", 180_000)]
    assert tariff.effective_from_utc_ms == 1_793_471_400_000


def test_the_document_of_a_tariff_is_the_tariff() -> None:
    """Written and read again, also through keys in another order, it is equal."""
    tariff = tariff_from_document(yaml.safe_load(EXAMPLE), INR, version=3)
    document = tariff_to_document(tariff, INR)
    assert tariff_from_document(document, INR, version=3) == tariff
    shuffled = yaml.safe_load(yaml.safe_dump(document, sort_keys=True))
    assert tariff_from_document(shuffled, INR, version=3) == tariff
    assert document["effective_from"] == "2026-11-01T00:00:00+05:30"


@pytest.mark.parametrize(
    "when",
    [
        "2026-11-01",
        "2026-11-01T00:00:00+05:30",
        "2026-10-31T18:30:00Z",
        date(2026, 11, 1),
        datetime(2026, 10, 31, 18, 30, tzinfo=UTC),
    ],
)
def test_the_same_start_may_be_written_in_several_ways(when: object) -> None:
    """A date is its local midnight; a time needs its offset; YAML's own types are taken."""
    tariff = tariff_from_document(base(effective_from=when), INR)
    assert tariff.effective_from_utc_ms == 1_793_471_400_000


@pytest.mark.parametrize(
    "when",
    [
        "2026-11-01T00:00:00",
        datetime(2026, 11, 1),  # noqa: DTZ001 - a time without offset is the case
        "2026-11-01T00:00:00.0005+05:30",
        "tomorrow",
        "1999-12-31",
        "2200-01-01T00:00:00Z",
        20261101,
        None,
        ["2026-11-01"],
    ],
)
def test_a_start_that_is_not_certain_is_refused(when: object) -> None:
    """A time without offset, finer than a millisecond or far away is no start."""
    assert list(problems(base(effective_from=when))) == ["effective_from"]


def test_bands_with_limits_of_their_own_share_the_finer_blocks() -> None:
    """Two bands with different limits become one matrix that charges the same."""
    tariff = tariff_from_document(
        bands(
            day={
                "blocks": [{"upto_kwh": "1.5", "price": "1"}, {"price": "2"}],
                "when": [{"from": "06:00", "to": "18:00"}],
            },
            night={"blocks": [{"upto_kwh": 3, "price": "3"}, {"price": "4"}]},
        ),
        INR,
    )
    grid = tariff.source("grid")
    assert grid is not None
    assert grid.block_limits_wh == (1_500, 3_000)
    assert grid.prices_micro == (
        (1_000_000, 2_000_000, 2_000_000),
        (3_000_000, 3_000_000, 4_000_000),
    )
    assert tariff_from_document(tariff_to_document(tariff, INR), INR) == tariff


def test_every_problem_is_told_at_once_with_its_place() -> None:
    """One refusal names all that is wrong, so that a person corrects it in one go."""
    found = problems(
        {
            "id": "Home!",
            "currency": "USD",
            "timezone": "Mars/Olympus",
            "effective_from": "2026-11-01",
            "grid": {"blocks": [{"upto_kwh": 100, "price": "-3.50"}, {"price": "4.5000001"}]},
            "generater": {"price": "1"},
            "taxes": [{"name": "VAT", "rate_percent": "101", "on": ["water"]}],
        }
    )
    assert set(found) == {
        "id",
        "name",
        "currency",
        "timezone",
        "grid.blocks[0].price",
        "grid.blocks[1].price",
        "generater",
        "taxes[0].rate_percent",
        "taxes[0].on[0]",
    }
    assert "did you mean 'generator'" in found["generater"]


def test_one_kind_of_problem_keeps_its_code() -> None:
    """Several too fine prices are PRICE_PRECISION; mixed problems are TARIFF_INVALID."""
    fine = {"price": "1.0000001"}
    with pytest.raises(TariffProblemsError) as same:
        tariff_from_document(base(grid=fine, generator=fine), INR)
    with pytest.raises(TariffProblemsError) as mixed:
        tariff_from_document(base(grid=fine, name=""), INR)
    assert same.value.refusal_code == "PRICE_PRECISION"
    assert mixed.value.refusal_code == "TARIFF_INVALID"
    assert mixed.value.message.count("\n") == 1


PRICED: dict[str, object] = {"price": "1"}


def during(start: object, end: object, **more: object) -> dict[str, object]:
    """A band that applies in one window."""
    return {**PRICED, "when": [{"from": start, "to": end, **more}]}


@pytest.mark.parametrize(
    ("document", "place", "message"),
    [
        (bands(a=during("08:00", "12:00"), b=during("11:59", "13:00"), c=PRICED), "grid.bands",
         "overlap on mon from 11:59"),
        (bands(a=during("22:00", "06:00"), b=during("05:00", "07:00"), c=PRICED), "grid.bands",
         "overlap on mon from 05:00"),
        (bands(a=during("22:00", "06:00", days=["sun"]), b=during("05:00", "07:00", days=["mon"]),
               c=PRICED), "grid.bands", "overlap on mon from 05:00"),
        (bands(a=during("00:00", "12:00"), b=during("12:30", "24:00")), "grid.bands",
         "no band covers mon 12:00-12:30"),
        (bands(a=during("00:00", "24:00", days=["sat"])), "grid.bands", "no band covers mon 00:00"),
        (bands(a=PRICED, b=PRICED), "grid.bands", "only one band may go without"),
        (bands(a=during("00:00", "24:00"), b=PRICED), "grid.bands", "no time is left for b"),
        (bands(a=during("08:00", "08:00"), b=PRICED), "grid.bands.a.when[0]", "is empty"),
        (bands(a=during("24:00", "08:00"), b=PRICED), "grid.bands.a.when[0]", "is empty"),
        (bands(a=during(1080, "22:00"), b=PRICED), "grid.bands.a.when[0].from", "quoted time"),
        (bands(a=during("8:00", "22:00"), b=PRICED), "grid.bands.a.when[0].from", "quoted time"),
        (bands(a=during("08:00", "24:01"), b=PRICED), "grid.bands.a.when[0].to", "quoted time"),
        (bands(a=during("08:00", "09:00", days=["mo"]), b=PRICED), "grid.bands.a.when[0].days[0]",
         "none of mon"),
        (bands(a=during("08:00", "09:00", days=["mon", "mon"]), b=PRICED),
         "grid.bands.a.when[0].days[1]", "twice"),
        (bands(a=during("08:00", "09:00", days=[]), b=PRICED), "grid.bands.a.when[0].days",
         "list of 1 to 8"),
        (bands(**{"Peak time": PRICED}), "grid.bands.Peak time", "band name"),
        (bands(a={**PRICED, "blocks": []}), "grid.bands.a", "exactly one of price, blocks"),
        (bands(), "grid.bands", "named bands"),
        (base(grid={}), "grid", "exactly one of price, blocks, bands"),
        (base(grid={"price": "1", "blocks": []}), "grid", "exactly one"),
        (base(grid="8.00"), "grid", "expected keys"),
        (base(grid={"blocks": []}), "grid.blocks", "list of 1 to 16"),
        (base(grid={"blocks": [{"price": "1"}] * 17}), "grid.blocks", "list of 1 to 16"),
        (base(grid={"blocks": [{"price": "1"}, {"price": "2"}]}), "grid.blocks[0].upto_kwh",
         "missing"),
        (base(grid={"blocks": [{"upto_kwh": 9, "price": "1"}]}), "grid.blocks[0].upto_kwh",
         "last block is open"),
        (base(grid={"blocks": [{"upto_kwh": 9, "price": "1"}, {"upto_kwh": 9, "price": "2"},
                               {"price": "3"}]}), "grid.blocks[1].upto_kwh", "must rise"),
        (base(grid={"blocks": [{"upto_kwh": 0, "price": "1"}, {"price": "3"}]}),
         "grid.blocks[0].upto_kwh", "must rise"),
        (base(grid={"blocks": [{"upto_kwh": "0.0001", "price": "1"}, {"price": "3"}]}),
         "grid.blocks[0].upto_kwh", "finer than 3 decimals"),
        (base(grid={"price": 8.5}), "grid.price", "binary fraction"),
        (base(fixed={"amount": "-1"}), "fixed.amount", "negative"),
        (base(fixed={"amount": "1", "collect": "weekly"}), "fixed.collect", "none of period_close"),
        (base(fixed={}), "fixed.amount", "missing"),
        (base(taxes=[{"name": "A:B", "rate_percent": "1", "on": ["energy"]}]), "taxes[0].name",
         "tax name"),
        (base(taxes=[{"name": "A", "rate_percent": "-1", "on": ["energy"]}]),
         "taxes[0].rate_percent", "negative"),
        (base(taxes=[{"name": "A", "rate_percent": "1.00001", "on": ["energy"]}]),
         "taxes[0].rate_percent", "finer"),
        (base(taxes=[{"name": "A", "rate_percent": "1", "on": ["fixed", "fixed"]}]), "taxes[0].on",
         "twice"),
        (base(taxes=[{"name": "A", "rate_percent": "1", "on": ["energy"]}] * 2), "taxes[1].name",
         "twice"),
        (base(taxes="VAT"), "taxes", "list of 1 to 8"),
        (base(name="x" * 101), "name", "at most 100"),
        (base(name="a\nb"), "name", "at most 100"),
        (base(notes="x"), "notes", "unknown key"),
    ],
)  # fmt: skip
def test_a_document_that_cannot_be_meant_is_refused(
    document: dict[str, object], place: str, message: str
) -> None:
    """Each mistake is told at its own place and in words that say what to do."""
    found = problems(document)
    assert message in found[place]


def test_windows_may_meet_and_run_over_midnight() -> None:
    """Adjacent windows that cover the whole week need no band without `when`."""
    tariff = tariff_from_document(
        bands(day=during("06:00", "22:00"), night=during("22:00", "06:00")), INR
    )
    grid = tariff.source("grid")
    assert grid is not None
    assert grid.rest_band is None
    assert tariff_from_document(tariff_to_document(tariff, INR), INR) == tariff


def test_a_document_with_endless_mistakes_gets_a_bounded_answer() -> None:
    """No more than fifty problems are listed, whatever is sent."""
    assert len(problems(base(**{f"key{n}": n for n in range(1_000)}))) == 50


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["price", "blocks", "bands", "when", "upto_kwh", "from", "days", "x"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(
    key=st.sampled_from(
        ["id", "name", "currency", "timezone", "effective_from", "grid", "fixed", "taxes"]
    ),
    value=JSON,
)
def test_nothing_that_is_sent_breaks_the_reader(key: str, value: object) -> None:
    """Any JSON in any place is either a tariff that survives its text, or a refusal."""
    document = base(**{key: value})
    try:
        tariff = tariff_from_document(document, INR)
    except TariffProblemsError:
        return
    assert tariff_from_document(tariff_to_document(tariff, INR), INR) == tariff
