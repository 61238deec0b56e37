"""Promise 6 live, in small: energy past zero stays within its bound while meters are dead."""

import asyncio
from pathlib import Path
from typing import Final

import pytest

from bench.cutoff import Scene, play
from tests.e2e.processes import free_port

# High power, so that a gateway that looked once a second would miss the bound every third time.
LOAD_W: Final = 12_000
METERS: Final = 30


@pytest.mark.slow
def test_energy_past_zero_stays_within_its_bound(tmp_path: Path) -> None:
    """27 points run out while three meters are dead and power swings by half within a second.

    Each is cut after zero, none before it, and its energy past zero is at most
    P x (register refresh + 0.2 s) + 1 Wh. One may exceed it: the machine may stall.
    """
    scene = Scene(
        meters=METERS,
        load_w=LOAD_W,
        lasting_s=(8.0, 14.0),
        meter_port=free_port("127.20.0.1"),
        port=free_port(),
    )
    report = asyncio.run(play(scene, tmp_path))
    past_wh = report.past_zero_wh()
    assert report.alive == 27
    assert len(past_wh) >= 24
    assert all(wh >= 0 for wh in past_wh)
    assert sum(wh > scene.bound_wh for wh in past_wh) <= 1, past_wh
    assert all(cut.reply_to_decision_us is not None for cut in report.cuts)
