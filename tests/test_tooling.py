"""What set-up and continuous integration rely on: the lock, the scripts, what may not be named."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "requirements" / "dev.txt"
NPM_LOCK = ROOT / "requirements" / "micropython" / "package-lock.json"
PIN = re.compile(r"^([a-z0-9._-]+)==(\S+)", re.MULTILINE)


def test_every_pin_of_the_lock_has_a_hash() -> None:
    """Nothing unhashed is ever installed."""
    entries = re.split(r"\n(?=[a-z])", LOCK.read_text(encoding="utf-8").strip())
    assert len(entries) > 40
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []


def test_the_lock_names_no_host() -> None:
    """Where packages come from is the machine's business, not the repository's."""
    text = LOCK.read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"^--?(index|extra-index|find-links|i |f )", text, re.MULTILINE)


def test_the_lock_holds_every_dependency() -> None:
    """A dependency added to pyproject.toml without `make lock` is found here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    wanted = {
        re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower()
        for requirement in [*project["dependencies"], *(name for extra in extras for name in extra)]
    }
    locked = {name for name, _ in PIN.findall(LOCK.read_text(encoding="utf-8"))}
    assert sorted(wanted - locked) == []


def test_the_lock_of_npm_names_no_host_and_hashes_everything() -> None:
    """MicroPython for the firmware's tests is pinned as the Python packages are."""
    text = NPM_LOCK.read_text(encoding="utf-8")
    assert "://" not in text
    packages = json.loads(text)["packages"]
    wanted = packages.pop("")["dependencies"]
    assert {f"node_modules/{name}": version for name, version in wanted.items()} == {
        path: package["version"] for path, package in packages.items()
    }
    assert all(package["integrity"].startswith("sha512-") for package in packages.values())


def test_make_lists_its_commands() -> None:
    """`make` alone says what there is and changes nothing."""
    make = shutil.which("make")
    assert make is not None
    shown = subprocess.run(
        [make, "help"], cwd=ROOT, check=True, capture_output=True, text=True, timeout=30
    )
    for command in ("demo", "test", "check", "bench", "soak", "lock", "package", "clean"):
        assert f"make {command}" in shown.stdout


def test_continuous_integration_runs_make_test() -> None:
    """One command for a person and for a machine."""
    assert "exec make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "- run: .ci/run" in (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert os.access(ROOT / ".ci" / "setup", os.X_OK)
    assert os.access(ROOT / ".ci" / "npm", os.X_OK)


def test_every_bench_is_listed() -> None:
    """`make bench` runs what bench/README.md describes."""
    listed = (ROOT / "bench" / "README.md").read_text(encoding="utf-8")
    scripts = [path.name for path in (ROOT / "bench").glob("[a-z]*.py")]
    assert [name for name in scripts if f"`{name}`" not in listed] == []


def set_up(directory: Path, fake_python: str, fake_apt: str) -> subprocess.CompletedProcess[str]:
    """Run a copy of .ci/setup in an empty directory with a python3 and an apt-get of the test."""
    (directory / ".ci").mkdir()
    setup = directory / ".ci" / "setup"
    setup.write_bytes((ROOT / ".ci" / "setup").read_bytes())
    setup.chmod(0o755)
    tools = directory / "bin"
    tools.mkdir()
    for name, body in (("python3", fake_python), ("apt-get", fake_apt)):
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o755)
    for name in ("dirname", "id", "env", "rm", "sh"):
        found = shutil.which(name)
        assert found is not None
        (tools / name).symlink_to(found)
    return subprocess.run(
        [str(setup), "lock.txt"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": str(tools), "LOG": str(directory / "apt.log")},
    )


@pytest.mark.slow
def test_set_up_names_the_python_it_needs(tmp_path: Path) -> None:
    """Without Python 3.11 to 3.13 it ends with one clear line."""
    answer = set_up(tmp_path, "exit 1", "exit 1")
    assert answer.returncode == 1
    assert answer.stderr.startswith("setup: needs Python 3.11 to 3.13: ")
    assert answer.stderr.count("\n") == 1
    assert not (tmp_path / ".venv").exists()


@pytest.mark.slow
def test_set_up_installs_or_names_the_missing_package(tmp_path: Path) -> None:
    """A Python without ensurepip asks apt as root, and names the package when that fails."""
    python = f'case "$*" in *ensurepip*) exit 1;; esac\nexec {sys.executable} "$@"'
    answer = set_up(tmp_path, python, 'echo "$*" >> "$LOG"; exit 1')
    assert answer.returncode == 1
    last = answer.stderr.splitlines()[-1]
    assert last.endswith("apt-get install python3-venv")
    if os.getuid() == 0:
        asked = (tmp_path / "apt.log").read_text().splitlines()
        assert asked[0].startswith("install ")
        assert asked[0].endswith(" python3-venv")
    assert not (tmp_path / ".venv").exists()
