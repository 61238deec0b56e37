"""The kill loop of `make soak`, a few kills long."""

import time

import pytest

from tests.faults.kill_loop import run_kills

pytestmark = pytest.mark.slow

KILLS = 8


@pytest.mark.timeout(400)
def test_kill_loop_loses_and_doubles_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Acknowledged payments are in the ledger once; charges, registers and supply agree."""
    # A short name: sockets live below it.
    directory = tmp_path_factory.mktemp("k")
    seed = time.time_ns() % 1_000_000
    print(f"kill loop: seed {seed}")  # noqa: T201 - the way back to a failure
    told: list[tuple[int, int]] = []
    report = run_kills(seed, KILLS, directory, lambda done, total: told.append((done, total)))
    assert told[-1] == (KILLS, KILLS)
    assert report.kills == KILLS
    assert sum(report.deaths.values()) >= KILLS
    assert report.attempts >= report.payments >= KILLS
    assert not list(directory.iterdir()), "a proved site is removed"
