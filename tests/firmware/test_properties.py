"""Properties of the firmware: on CPython with new cases in every run, in MicroPython with the same.

What MicroPython makes of a case must equal what CPython makes of it: whatever is wrong in both
fails on CPython already, whatever differs is found by the replay.
"""

import hmac
import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tests.firmware import micropython
from tests.firmware.cases import CASES
from tests.firmware.same import properties

RECORDED = 40  # cases of each property


def test_every_property_has_cases() -> None:
    """A new property needs its strategy."""
    found = {
        name
        for name, value in vars(properties).items()
        if callable(value) and getattr(value, "__module__", "") == properties.__name__
    }
    assert {name for name in found if not name.startswith("_")} == set(CASES)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CASES))
def test_property_holds(name: str) -> None:
    """The property holds on CPython for whatever hypothesis finds."""
    check: Callable[[Any], Any] = getattr(properties, name)

    @settings(max_examples=60, deadline=None, database=None)
    @given(CASES[name])
    def holds(case: Any) -> None:
        check(case)

    holds()


@settings(max_examples=40, deadline=None, database=None)
@given(CASES["mac"])
def test_hmac_is_the_standard_one(case: dict[str, str]) -> None:
    """Against CPython's own."""
    key, message = bytes.fromhex(case["key"]), bytes.fromhex(case["message"])
    assert properties.mac(case)[0] == hmac.digest(key, message, "sha256").hex()


@cache
def recorded(name: str) -> list[list[Any]]:
    """[name, case, outcome on CPython] of cases that are the same in every run."""
    check: Callable[[Any], Any] = getattr(properties, name)
    lines: list[list[Any]] = []

    @settings(
        max_examples=RECORDED,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(CASES[name])
    def record(case: Any) -> None:
        lines.append([name, case, json.loads(json.dumps(check(case)))])

    record()
    return lines


@pytest.mark.slow
@pytest.mark.parametrize("form", [pytest.param("py", marks=pytest.mark.slow), "mpy"])
def test_micropython_agrees_with_cpython(form: str) -> None:
    """Every recorded case has the same outcome there, from the source and from `.mpy`."""
    cases = [line for name in sorted(CASES) for line in recorded(name)]
    text = "\n".join(json.dumps(line) for line in cases)
    program = "from tests.firmware.runner import suite\nsuite.replay('/cases')"
    *different, count = micropython.run(program, form=form, extra={"/cases": text.encode()})
    assert different == []
    assert count == len(cases) >= 10 * RECORDED
