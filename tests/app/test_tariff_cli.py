"""`tariff check`, `presets` and `new` as a person meets them: places, tables, files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.app.cli.tariff import check, new, presets
from gateway.app.cli.tariff_table import tariff_tables
from gateway.app.tariff_file import tariff_of_file
from gateway.core.errors import ConfigurationError, RefusedError
from gateway.core.money import Currency
from gateway.core.tariff_presets import PRESETS

ROOT = Path(__file__).parent.parent.parent
INR = Currency("INR")

BROKEN = """\
id: home
name: Home
currency: INR
timezone: Asia/Kolkata
effective_from: 2026-11-01
seasons:
  summer: {from: "04-01", to: "09-31"}
grid:
  bands:
    peak:
      price: "9.0000001"
      when:
        - {days: [mon, tues], from: "18:00", to: "22:00"}
    rest:
      blocks:
        - {upto_kwh: 300, price: "4.50"}
        - {upto_kwh: 100, price: "3.50"}
        - {price: "-6"}
fixd: {amount: "50"}
taxes:
  - {name: VAT, rate_percent: "18"}
"""
FINE = (
    "t.yaml:11:14: grid.bands.peak.price: price 9.0000001 is finer than 6 decimals and cannot be "
    "kept exactly"
)
TUESDAY = (
    "t.yaml:13:24: grid.bands.peak.when[0].days[1]: 'tues' is none of mon, tue, wed, thu, fri, "
    "sat, sun, holiday"
)


def site(folder: Path, currency: str = "INR", scale: int = 9) -> Path:
    """A configuration file of a small site."""
    path = folder / f"{currency}.yaml"
    path.write_text(
        f"site: {{id: s, name: S, timezone: Asia/Beirut, currency: {currency}, "
        f"money_scale: {scale}}}\n"
    )
    return path


def test_every_problem_of_a_tariff_file_has_line_and_column(tmp_path: Path) -> None:
    """All at once, in the order of the file; a missing key stands at its parent."""
    path = tmp_path / "t.yaml"
    path.write_text(BROKEN)
    with pytest.raises(ConfigurationError) as refusal:
        tariff_of_file(path, INR)
    assert [line.removeprefix(f"{tmp_path}/") for line in refusal.value.problems] == [
        "t.yaml:7:31: seasons.summer.to: 09-31 is no day of any year",
        FINE,
        TUESDAY,
        "t.yaml:17:22: grid.bands.rest.blocks[1].upto_kwh: limits must rise from block to block",
        "t.yaml:18:19: grid.bands.rest.blocks[2].price: must not be negative",
        "t.yaml:19:1: fixd: unknown key; did you mean 'fixed'?",
        "t.yaml:21:5: taxes[0].on: is missing: some of energy, fixed, minimum, rebate",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- a\n", "t.yaml:1:1: (file): a tariff is a map of keys"),
        ("id: a\nid: b\n", "t.yaml:2:1: id: the key 'id' stands twice"),
        ("id: [\n", "is not YAML"),
    ],
)
def test_a_file_that_is_no_tariff_at_all_says_where(
    tmp_path: Path, text: str, problem: str
) -> None:
    """Also what the YAML itself gets wrong has its place."""
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=r".*") as refusal:
        tariff_of_file(path, INR)
    assert problem in refusal.value.problems[0]


def test_unquoted_times_and_prices_are_taken_as_they_were_written(tmp_path: Path) -> None:
    """In a file 18:00 and 9.10 are the texts that stand there, not numbers."""
    path = tmp_path / "t.yaml"
    path.write_text(
        "id: t\nname: T\ncurrency: INR\ntimezone: UTC\neffective_from: 2026-11-01\n"
        "grid: {bands: {a: {price: 9.10, when: [{from: 18:00, to: 22:00}]}, b: {price: 1}}}\n"
    )
    tariff = tariff_of_file(path, INR)
    assert tariff.sources[0].prices_micro == ((9_100_000,), (1_000_000,))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_passes_the_check_of_a_site_of_its_currency(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`new` writes it, `check` takes it and shows its prices; `new` writes over nothing."""
    currency = PRESETS[name].currency
    config = site(tmp_path, currency.code, currency.money_scale)
    output = tmp_path / "new.yaml"
    new(name, output, config)
    assert "timezone: Asia/Beirut\n" in output.read_text()
    capsys.readouterr()
    check(output, config)
    shown = capsys.readouterr().out
    assert shown.startswith(f"{output}: ok, tariff {name}\n")
    assert f"grid, {currency.code} per kWh" in shown
    with pytest.raises(ConfigurationError, match="cannot be written"):
        new(name, output, config)


def test_a_preset_goes_to_the_terminal_without_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    """With its own example currency; an unknown one is refused."""
    new("single-rate")
    assert capsys.readouterr().out == PRESETS["single-rate"].text()
    presets()
    assert "three-blocks" in capsys.readouterr().out
    presets(as_json=True)
    assert json.loads(capsys.readouterr().out)[0]["name"] == "single-rate"
    with pytest.raises(RefusedError, match="no preset"):
        new("flat")


def test_tables_show_everything_that_a_tariff_says(tmp_path: Path) -> None:
    """Prices by band and block, windows, calendar, fee, minimum, rebates and taxes in words."""
    path = tmp_path / "t.yaml"
    path.write_text(
        """\
id: t
name: All of it
currency: INR
timezone: Asia/Kolkata
effective_from: 2026-11-01
period: {day: opening}
blocks_count: occupancy
seasons: {hot: {from: "04-01", to: "06-30"}}
holidays: ["12-25", "2026-01-26"]
grid:
  bands:
    peak: {price: "9", when: [{season: hot, days: [mon, holiday], from: "12:00", to: "16:00"}]}
    rest: {blocks: [{upto_kwh: 100, price: "3.5"}, {price: "4.5"}]}
generator: {price: "25"}
fixed: {amount: "50", collect: daily}
minimum: {amount: "100"}
rebates:
  - {name: Lifeline, per_kwh: "1", upto_kwh: 50, source: grid}
  - {name: Senior, percent: "10", of: [energy]}
  - {name: Relief, amount: "5"}
taxes:
  - {name: VAT, rate_percent: "18", on: [energy, fixed], inclusive: true}
  - {name: Duty, per_kwh: "0.1"}
  - {name: Levy, rate_percent: "5", on_recharge: true}
"""
    )
    tables = {table.title: table for table in tariff_tables(tariff_of_file(path, INR), INR)}
    terms = {row[0]: row[1] for row in tables["All of it"].rows}
    assert terms["effective from"] == "2026-11-01T00:00:00+05:30"
    assert terms["blocks count"] == "for as long as the account lasts"
    assert terms["season hot"] == "04-01 to 06-30, both included"
    assert terms["holidays"] == "12-25, 2026-01-26"
    assert terms["fixed fee"] == "50 INR, each midnight, in equal parts"
    assert terms["minimum charge"] == "100 INR of energy and fee a period"
    assert "opened" in str(terms["billing period"])
    grid = tables["grid, INR per kWh"]
    assert grid.columns == ("band", "to 100 kWh", "above 100 kWh")
    assert list(grid.rows) == [("peak", "9", "9"), ("rest (the rest of the time)", "3.5", "4.5")]
    assert list(tables["generator, INR per kWh"].rows) == [("at all times", "25")]
    assert list(tables["Windows, local time"].rows) == [
        ("grid", "peak", "hot", "mon holiday", "12:00", "16:00")
    ]
    assert list(tables["Rebates"].rows) == [
        ("Lifeline", "1 per kWh of grid, the first 50 kWh of a period"),
        ("Senior", "10 % of energy"),
        ("Relief", "5 INR a period"),
    ]
    assert list(tables["Taxes"].rows) == [
        ("VAT", "18 %", "energy, fixed", "contained"),
        ("Duty", "0.1 per kWh", "all sources", "on top"),
        ("Levy", "5 %", "recharge", "contained"),
    ]


@pytest.mark.slow
def test_the_command_exits_with_two_and_names_the_line(tmp_path: Path) -> None:
    """As a process: 2 and places on standard error; JSON gives the document back."""
    (tmp_path / "t.yaml").write_text(BROKEN)
    config = site(tmp_path)
    begin = [sys.executable, "-m", "gateway", "tariff"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
    bad = subprocess.run(
        [*begin, "check", "t.yaml", "-c", str(config)],
        check=False, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.startswith("t.yaml:7:31: seasons.summer.to: ")
    good = subprocess.run(
        [*begin, "check", str(ROOT / "config" / "tariff.yaml"), "-c", str(config), "--json"],
        check=False, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert good.returncode == 0, good.stderr
    assert json.loads(good.stdout)["id"] == "home"
