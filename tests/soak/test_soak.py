"""`make soak` itself: resumed where it stopped, failures told with a command; samples."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.soak import nodes, parts, runner
from tests.soak.growth import FILLED_BY, Sample, growth_percent_per_h, growth_problems, watch
from tests.soak.money import meter_year
from tests.soak.parts import Figures, Part
from tests.soak.replays import replay
from tests.south.mosquitto import needs_broker

MIB = 2**20


def part_of(run: Callable[[int, int, int, Path], Figures]) -> Part:
    """A part of ten numbers in chunks of four."""
    return Part("tried", 1, 10, 4, "numbers", run)


def counting(seed: int, start: int, count: int, directory: Path) -> Figures:
    """What came, and that each chunk has a directory of its own."""
    assert not any(directory.iterdir())
    (directory / "used").touch()
    return {"sum": sum(range(start, start + count)) + seed}


def failing(seed: int, start: int, count: int, _: Path) -> Figures:
    """The second chunk breaks a promise."""
    assert start != 4, f"lost at {start}"
    return {"good": count}


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> Callable[[Part], None]:
    """Chunks run in this process; the part given is the only one."""

    def chunks(
        part: Part, seed: int, first: int, target: int
    ) -> Iterator[tuple[int, Figures | str]]:
        for start in range(first, target, part.chunk):
            count = min(part.chunk, target - start)
            yield count, runner.try_chunk(part.name, seed, start, count)

    def only(part: Part) -> None:
        monkeypatch.setattr(runner, "PARTS", (part,))

    monkeypatch.setattr(runner, "_chunks", chunks)
    return only


def test_a_run_goes_on_where_it_stopped(inline: Callable[[Part], None], tmp_path: Path) -> None:
    """Chunks done are kept in the file; another seed begins anew; the table counts all."""
    part = part_of(counting)
    inline(part)
    state = tmp_path / "soak.json"
    soak = runner.load(state, 7, 1.0, fresh=False)
    soak.of(part).done = 8
    soak.of(part).figures = {"sum": 100}
    soak.save()
    assert runner.main(["--state", str(state), "--seed", "7"]) == 0
    kept = json.loads(state.read_text())["parts"]["tried"]
    assert (kept["done"], kept["figures"]) == (10, {"sum": 100 + 8 + 9 + 7})
    assert "| tried | 1 | 10 | 10 numbers | 0 |" in state.with_suffix(".md").read_text()
    assert runner.load(state, 8, 1.0, fresh=False).of(part).done == 0
    assert runner.load(state, 7, 1.0, fresh=True).of(part).done == 0


def test_a_broken_promise_is_told_with_its_command(
    inline: Callable[[Part], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 1, the other chunks still run, and the command printed shows the failure again."""
    inline(part_of(failing))
    state = tmp_path / "soak.json"
    assert runner.main(["--state", str(state), "--seed", "3"]) == 1
    assert "make soak ONLY=tried SEED=3 FROM=4 COUNT=4" in capsys.readouterr().out
    kept = json.loads(state.read_text())["parts"]["tried"]
    assert (kept["done"], kept["figures"], len(kept["failures"])) == (10, {"good": 6}, 1)
    with pytest.raises(AssertionError, match="lost at 4"):
        runner.main(["--seed", "3", "--from", "4", "--count", "4"])


def test_a_scale_shortens_every_part(tmp_path: Path) -> None:
    """SCALE=0.01 runs a hundredth of each part, and at least one number."""
    soak = runner.Soak(1, 0.01, tmp_path / "soak.json")
    assert [soak.target(part) for part in parts.PARTS] == [
        100,
        10,
        10,
        5,
        10,
        10_000,
        100_000,
        1,
        1,
    ]


@pytest.mark.parametrize(("mib_per_h", "percent"), [(0.0, 0.0), (1.0, 1.0), (-2.0, -2.0)])
def test_growth_is_the_slope_in_percent_of_the_mean(mib_per_h: float, percent: float) -> None:
    """A line through memory around 100 MiB, with a saw-tooth on it."""
    samples = [
        Sample(at_s, round((100 + (at_s - 1800) / 3600 * mib_per_h + at_s % 3) * MIB), 10, 3)
        for at_s in range(3601)
    ]
    assert growth_percent_per_h(samples) == pytest.approx(percent, abs=0.03)


def grown(mib_per_h: float, descriptors_per_h: int = 0) -> dict[str, list[Sample]]:
    """A process of 100 MiB that grows so fast for an hour."""
    return {
        "control": [
            Sample(
                at_s,
                round((100 + at_s / 3600 * mib_per_h) * MIB),
                10 + at_s * descriptors_per_h // 3600,
                3,
            )
            for at_s in range(0, 3601, 5)
        ]
    }


def test_growth_is_judged_after_what_has_a_bound_is_full() -> None:
    """1.2 % an hour is too much, less is not; a warm-up that filled nothing proves nothing."""
    assert growth_problems(grown(0.8), FILLED_BY, judged=True) == []
    (told,) = growth_problems(grown(1.2), FILLED_BY, judged=True)
    assert "control grows by 1.19 % per hour" in told
    (told,) = growth_problems(grown(0.8), FILLED_BY - 1, judged=True)
    assert "recharges warmed up" in told
    assert growth_problems(grown(1.2), 10, judged=False) == []


def test_descriptors_that_grow_are_told_after_any_time() -> None:
    """Also where memory is not judged yet."""
    assert growth_problems(grown(0.0, 5), 10, judged=False) == []
    (told,) = growth_problems(grown(0.0, 6), 10, judged=False)
    assert "descriptors" in told


@pytest.mark.slow
def test_a_sample_of_meter_years_adds_up() -> None:
    """Five of the 1,000 meter-years (promise 3)."""
    assert sum(meter_year(1, year) for year in range(5)) > 10_000


@pytest.mark.slow
def test_a_sample_of_replays_credits_once(tmp_path: Path) -> None:
    """1,000 of the 1,000,000 requests, each sent one to three times (promise 7)."""
    counted = replay(1, 0, 1_000, tmp_path)
    assert counted["executed"] == 1_000
    assert counted["sent"] > 2_000
    assert counted["conflicts"] > 0


@pytest.mark.slow
@pytest.mark.timeout(300)
@needs_broker
async def test_a_sample_of_a_nodes_life_goes_right(tmp_path: Path) -> None:
    """An hour and a half of the 28 days (promise 14), in real MicroPython on fast time."""
    incidents = [
        nodes.power_cut_anywhere,
        nodes.module_lies,
        nodes.overload,
        nodes.lease_alone,
        nodes.watchdog,
    ]
    counted = await nodes.node_day(tmp_path, "sample", 900, incidents)
    assert counted["incidents"] == len(incidents)
    assert counted["power cuts"] == counted["watchdog resets"] == 1


@pytest.mark.slow
def test_work_is_watched(tmp_path: Path) -> None:
    """The watch reads both processes; descriptors and threads do not grow in a short run."""
    figures = watch(10.0, tmp_path, meters=10)
    assert figures["control resident KiB"] > 10_000
    assert figures["recharges of the warm-up"] > 0
    assert figures["north descriptors"] > 3
