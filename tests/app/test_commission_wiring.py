"""What measured values say about wiring, by hand-made meters."""

import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from gateway.app.commission.checks import check_ratio
from gateway.app.commission.electrical import (
    NAMED_FACTORS,
    check_direction,
    check_reference,
    check_voltages,
)
from gateway.app.commission.findings import Check, Result
from gateway.app.commission.survey import Settings, Survey
from gateway.app.config import load_config
from tests.app.commission_site import CONFIG, HEADER

NAN = math.nan


def values(
    *angles: float, volts: tuple[float, ...] = (230.0, 230.0, 230.0), apparent_va: float = 1_000.0
) -> dict[str, float]:
    """A meter whose currents lag their voltages by these angles; 0 VA where none is given."""
    found: dict[str, float] = {}
    for phase in (1, 2, 3):
        angle = math.radians(angles[phase - 1]) if phase <= len(angles) else 0.0
        size = apparent_va if phase <= len(angles) else 0.0
        found[f"voltage_l{phase}_n_v"] = volts[phase - 1]
        found[f"apparent_power_l{phase}_va"] = size
        found[f"active_power_l{phase}_w"] = size * math.cos(angle)
        found[f"reactive_power_l{phase}_var"] = size * math.sin(angle)
    for first, second in ((1, 2), (2, 3), (3, 1)):
        a, b = volts[first - 1], volts[second - 1]
        found[f"voltage_l{first}_l{second}_v"] = math.sqrt(a * a + b * b + a * b)
    return found


@pytest.mark.parametrize(
    ("angles", "check", "result", "words"),
    [
        ((25, 10, 40), Check.PHASE_CURRENT, Result.OK, "belongs to its voltage"),
        ((-8, -8, -8), Check.CT_REVERSED, Result.OK, "towards the customer"),
        ((205, 25, 25), Check.CT_REVERSED, Result.FAILED, "L1 -"),
        ((205, 205, 205), Check.CT_REVERSED, Result.FAILED, "transformers look"),
        ((25, 145, -95), Check.PHASE_CURRENT, Result.FAILED, "L2 and L3 are exchanged"),
        ((145, 145, 145), Check.PHASE_CURRENT, Result.FAILED, "moved on by one phase"),
        ((25, 25), Check.PHASE_CURRENT, Result.NOT_DONE, "no load on L3"),
        ((25, -40, 25), Check.PHASE_CURRENT, Result.WARNING, "L2 has an unusual power factor"),
        ((), Check.CT_REVERSED, Result.NOT_DONE, "no load"),
    ],
)
def test_the_pattern_of_phases_names_the_mistake(
    angles: tuple[float, ...], check: Check, result: Result, words: str
) -> None:
    """The angle between each current and its voltage tells reversed from exchanged."""
    seen = values(*angles)
    found = {finding.check: finding for finding in check_direction(seen, seen, "3P4W")}
    assert found[check].result is result
    assert words in found[check].text


def test_one_phase_with_an_odd_power_factor_is_no_exchanged_current() -> None:
    """An exchange moves two currents: a single capacitive load fails nothing."""
    seen = values(25, -60, 25)
    assert not [f for f in check_direction(seen, seen, "3P4W") if f.result is Result.FAILED]


@pytest.mark.parametrize(
    ("volts", "connection", "check", "result"),
    [
        ((230, 231, 229), "3P4W", Check.VOLTAGE_ORDER, Result.OK),
        ((230, 0, 229), "3P4W", Check.VOLTAGE, Result.FAILED),
        ((230, NAN, NAN), "3P4W", Check.VOLTAGE, Result.FAILED),
        ((230, NAN, NAN), "1P2W", Check.VOLTAGE, Result.OK),
        ((0, 0, 0), "1P2W", Check.VOLTAGE, Result.FAILED),
        ((20, 20, 20), "3P4W", Check.VOLTAGE, Result.WARNING),
        ((230, 230, 230), "3P3W", Check.VOLTAGE, Result.NOT_DONE),
        ((230, 230, 230), None, Check.VOLTAGE, Result.OK),
    ],
)
def test_every_phase_has_its_voltage(
    volts: tuple[float, ...], connection: str | None, check: Check, result: Result
) -> None:
    """A missing phase fails; a single-phase connection needs one only."""
    seen = values(volts=volts)
    found = check_voltages(seen, connection, is_closed=True, upstream=False)
    assert {finding.check: finding for finding in found}[check].result is result


def test_one_phase_on_two_inputs_is_found() -> None:
    """No voltage between two inputs: they carry the same phase."""
    seen = values() | {"voltage_l1_l2_v": 0.5}
    found = {f.check: f for f in check_voltages(seen, "3P4W", is_closed=True, upstream=False)}
    assert found[Check.VOLTAGE_ORDER].result is Result.FAILED
    assert "L1-L2" in found[Check.VOLTAGE_ORDER].text


@pytest.mark.parametrize(("factor", "meaning"), NAMED_FACTORS)
def test_a_wrong_factor_is_named(factor: float, meaning: str) -> None:
    """Each usual mistake has its factor, and 3 % of tolerance do not confuse two of them."""
    for measured in (2_000 * factor * 0.97, 2_000 * factor * 1.03):
        found = check_reference(measured, measured, 2_000)
        assert (found.result, meaning in found.text) == (Result.FAILED, True)


@pytest.mark.parametrize(
    ("earlier_w", "power_w", "result", "words"),
    [
        (2_050, 2_060, Result.OK, "2060 W measured"),
        (2_000, 1_000, Result.NOT_DONE, "not steady"),
        (5, 5, Result.FAILED, "not on this meter"),
        (2_900, 2_900, Result.FAILED, "1.45 times"),
    ],
)
def test_a_known_load_is_compared(
    earlier_w: float, power_w: float, result: Result, words: str
) -> None:
    """Steady and within a tenth passes."""
    found = check_reference(earlier_w, power_w, 2_000)
    assert (found.result, words in found.text) == (result, True)


@pytest.mark.parametrize(("primary_a", "secondary_a"), [(100, 0), (0, 5)])
def test_a_ratio_of_nothing_fails_and_ends_nothing(
    tmp_path: Path, primary_a: int, secondary_a: int
) -> None:
    """A meter may answer with any number: one that cannot be a ratio is that meter's finding."""
    (tmp_path / "config.yaml").write_text(CONFIG, encoding="utf-8")
    (tmp_path / "meters.csv").write_text(f"{HEADER}\na,pac3220,10.0.0.1,502,7360,S1\n")
    (meter,) = load_config(tmp_path / "config.yaml").meters
    settings = Settings(primary_current_a=primary_a, secondary_current_a=secondary_a)
    (found,) = check_ratio(meter, cast("Survey", SimpleNamespace(settings=settings)))
    assert (found.result, f"{primary_a}/{secondary_a}" in found.text) == (Result.FAILED, True)


def test_every_check_is_described() -> None:
    """docs/commissioning.md has a row for each check, and for no other."""
    text = (Path(__file__).parents[2] / "docs" / "commissioning.md").read_text(encoding="utf-8")
    described = re.findall(r"^\| `([A-Z_]+)` \|", text, re.MULTILINE)
    assert described == [check.value for check in Check]
