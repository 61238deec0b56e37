"""A bench without a checkout: the wheel alone makes releases and puts them onto boards."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Final

import pytest

from gateway.app.firmware.image import FIXED
from tests.firmware.bench_site import write_bench

ROOT: Final = Path(__file__).parent.parent.parent
FIRMWARE: Final = ROOT / "firmware-micropython"
STEP_S: Final = 120

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def output(*words: str | Path, cwd: Path) -> str:
    """What a command that has to go well prints."""
    done = subprocess.run(
        [str(word) for word in words],
        check=False,
        capture_output=True,
        text=True,
        timeout=STEP_S,
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of programs of a new environment with the built wheel.

    Libraries and the bench's tools are those that the tests have; the project's own files are not:
    a path in a .pth brings a directory, and none of the .pth files in it.
    """
    place = tmp_path_factory.mktemp("bench")
    words = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", place)
    output(*words, cwd=ROOT)
    (wheel,) = place.glob("*.whl")
    venv.create(place / "venv", with_pip=True, symlinks=True)
    programs = place / "venv" / "bin"
    output(programs / "pip", "install", "--quiet", "--no-index", "--no-deps", wheel, cwd=place)
    (libraries,) = (place / "venv" / "lib").glob("python*/site-packages")
    (libraries / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    shown = output(
        programs / "python", "-c", "import gateway; print(gateway.__file__)", cwd=place
    ).strip()
    assert Path(shown).is_relative_to(libraries)
    return programs


def test_the_wheel_carries_the_firmware_as_it_is_here(installed: Path) -> None:
    """Byte for byte, nothing missing and nothing else; the repository has one copy."""
    shown = output(
        installed / "python",
        "-c",
        "from gateway.app.firmware.sources import *; print(firmware_directory())",
        cwd=installed,
    )
    carried = Path(shown.strip())
    wanted = {path.relative_to(FIRMWARE) for path in FIRMWARE.glob("node/*.py")}
    wanted |= {Path(name) for name in FIXED}
    found = {path.relative_to(carried) for path in carried.rglob("*.py")}
    assert found == wanted
    for name in wanted:
        assert (carried / name).read_bytes() == (FIRMWARE / name).read_bytes()
    assert list((ROOT / "gateway").rglob("loader.py")) == []


def test_a_release_and_boards_without_a_checkout(installed: Path, tmp_path: Path) -> None:
    """Key, release, boards: no --source, no `firmware` in bench.json; the override still counts."""
    program = installed / "prepaid-gateway"
    output(program, "firmware", "keygen", "k.pem", cwd=tmp_path)
    words = ("--version", "1.3.0", "--security", "1", "--key", "k.pem")
    output(program, "firmware", "release", "node.new", *words, cwd=tmp_path)
    write_bench(tmp_path, release="node.new", public=["k.pem.pub"])
    path = tmp_path / "bench.json"
    fields = json.loads(path.read_text())
    del fields["firmware"]
    path.write_text(json.dumps(fields))
    told = json.loads(
        output(program, "firmware", "flash", "--simulate", "2", "--json", cwd=tmp_path)
    )
    assert [(line["result"], line["version"]) for line in told] == [("done", "1.3.0")] * 2
    other = tmp_path / "firmware"
    other.mkdir()
    for name in FIXED:
        (other / name).write_text("# another one\n")
    path.write_text(json.dumps({**fields, "firmware": "firmware"}))
    again = json.loads(
        output(program, "firmware", "flash", "--simulate", "1", "--again", "--json", cwd=tmp_path)
    )
    assert again[0]["result"] == "done"
    assert again[0]["image_sha256"] != told[0]["image_sha256"]
