"""What is handed over is locked: the same versions that the tests ran with, each by its hash."""

import re
import tomllib
from pathlib import Path
from typing import Final

import pytest

from gateway.app.firmware.sources import BENCH_TOOLS

ROOT: Final = Path(__file__).parent.parent.parent
PIN: Final = re.compile(r"^([a-z0-9._-]+)==(\S+)", re.MULTILINE)


def lock(name: str) -> str:
    """The text of a lock."""
    return (ROOT / "requirements" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["run.txt", "bench.txt"])
def test_the_package_gets_the_versions_that_the_tests_ran_with(name: str) -> None:
    """Every pin of the run-time lock, and of the bench's, stands in the development lock too."""
    pins = set(PIN.findall(lock(name)))
    assert len(pins) > 20
    assert sorted(pins - set(PIN.findall(lock("dev.txt")))) == []


@pytest.mark.parametrize("name", ["run.txt", "bench.txt"])
def test_the_run_time_lock_is_hashed_and_names_no_host(name: str) -> None:
    """Nothing unhashed is packed, and where wheels come from is the machine's business."""
    text = lock(name)
    entries = re.split(r"\n(?=[a-z])", text.strip())
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
    assert "://" not in text
    assert not re.search(r"^--?(index|extra-index|find-links|i |f )", text, re.MULTILINE)


def test_the_run_time_lock_is_whole_and_no_more() -> None:
    """Every dependency of both processes is there, no tool of the developers is."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0].lower() for text in requirements}

    extras = project["optional-dependencies"]
    locked = {name for name, _ in PIN.findall(lock("run.txt"))}
    wanted = names(project["dependencies"]) | names(extras["north"])
    assert sorted(wanted - locked) == []
    assert sorted((names(extras["dev"]) - wanted) & locked) == []


def test_the_lock_of_a_bench_has_all_its_tools() -> None:
    """Those that a message asks for when they are missing, and no web framework."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    tools = {text.partition(">")[0] for text in project["optional-dependencies"]["bench"]}
    assert tools == set(BENCH_TOOLS)
    locked = {name for name, _ in PIN.findall(lock("bench.txt"))}
    assert tools <= locked
    assert "fastapi" not in locked
