"""Requests of every kind, valid and hostile, repeated, with crashes between: a short run of it.

`make soak ONLY=fuzz` runs a thousand sites.
"""

from pathlib import Path

import pytest

from gateway.core.requests import BODIES
from tests.app.fuzz_world import run_fuzz

STEPS = 220


@pytest.mark.slow
def test_nothing_that_is_asked_for_breaks_control(tmp_path: Path) -> None:
    """Never INTERNAL, one outcome each, the invariants hold and the ledger is computed again."""
    sites = [run_fuzz(f"short {number}", STEPS, tmp_path / str(number)) for number in range(3)]
    asked = set[str]().union(*(site.kinds for site in sites))
    assert asked == set(BODIES), f"never asked for: {set(BODIES) - asked}"
    executed = {kind for site in sites for kind in BODIES if site.counted[kind]}
    assert len(executed) >= 20, f"only {sorted(executed)} were ever carried out"
    for what in ("kills", "restarts", "repeats", "cuts for credit"):
        assert any(site.counted[what] for site in sites), what
