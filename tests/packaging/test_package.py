"""What `make package` builds: complete, without a trace of the machine, usable without a network.

That it installs, runs, upgrades and rolls back is tried by `make package-try` in a Debian of its
own.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Final

import pytest

from gateway import __version__

ROOT: Final = Path(__file__).parent.parent.parent
PARTS: Final = ("gateway", "firmware-micropython", "config", "systemd", "docs", "requirements")
FILES: Final = ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md")
PYTHON: Final = f"python{sys.version_info[0]}.{sys.version_info[1]}"
SITE: Final = f"opt/prepaid-gateway/lib/{PYTHON}/site-packages"
EPOCH: Final = "1700000000"
# Nobody listens there: whoever asks an index fails.
NO_INDEX: Final = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_EXTRA_INDEX_URL": ""}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is missing: no Debian"),
    pytest.mark.timeout(300),
]


def output(*words: str | Path, cwd: Path = ROOT) -> str:
    """What a command that has to go well prints."""
    return subprocess.run(
        [str(word) for word in words],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
    ).stdout


def built(source: Path, out: Path) -> list[Path]:
    """Wheel, wheelhouse and Debian package of a tree."""
    answer = subprocess.run(
        [
            *(sys.executable, str(ROOT / "packaging" / "build.py")),
            *("--source", str(source), "--out", str(out)),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH},
    )
    assert answer.returncode == 0, answer.stderr
    return [next(out.glob(pattern)) for pattern in ("*.whl", "*.tar.gz", "*.deb")]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a package is made of, so that nobody edits it meanwhile."""
    tree = tmp_path_factory.mktemp("tree")
    for part in PARTS:
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, tree / name)
    return tree


@pytest.fixture(scope="module")
def packages(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Wheel, wheelhouse and Debian package."""
    return built(tree, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def unpacked(packages: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree of the Debian package."""
    root = tmp_path_factory.mktemp("root")
    output("dpkg-deb", "-R", packages[2], root)
    return root


def test_the_same_tree_gives_the_same_bytes(
    tree: Path, packages: list[Path], tmp_path: Path
) -> None:
    """A second build is the same, so that anybody can check what is handed over."""
    again = built(tree, tmp_path)
    digests = [
        [hashlib.sha256(path.read_bytes()).hexdigest() for path in made]
        for made in (packages, again)
    ]
    assert digests[0] == digests[1]


def test_the_debian_package_says_what_it_needs(packages: list[Path]) -> None:
    """Its control fields fit the wheels inside; owners are root, modes the usual ones."""
    fields = dict(
        line.split(": ", 1)
        for line in output("dpkg-deb", "-f", packages[2]).splitlines()
        if not line.startswith(" ")
    )
    assert fields["Package"] == "prepaid-gateway"
    assert fields["Version"] == __version__
    assert f"{PYTHON}," in fields["Depends"]
    assert re.search(r"libc6 \(>= 2\.\d+\)", fields["Depends"])
    listed = output("dpkg-deb", "-c", packages[2]).splitlines()
    assert {line.split()[1] for line in listed} == {"root/root"}
    assert {line.split()[0] for line in listed} == {
        "drwxr-xr-x",
        "-rw-r--r--",
        "-rwxr-xr-x",
        "lrwxrwxrwx",
    }
    programs = [line.split()[5] for line in listed if line.startswith("-rwx")]
    assert programs == ["./opt/prepaid-gateway/bin/prepaid-gateway"]


def test_nothing_of_this_machine_is_packed(packages: list[Path], unpacked: Path) -> None:
    """No path of the builder, no address that pip was given, no note of where a wheel lay."""
    asked = output(sys.executable, "-m", "pip", "config", "list")
    asked += " ".join(value for name, value in os.environ.items() if name.startswith("PIP_"))
    hosts = {host.encode() for host in re.findall(r"://(?:[^/@'\s]*@)?([\w.-]+\.\w+)", asked)}
    paths = {str(ROOT).encode(), str(unpacked).encode(), sys.prefix.encode()}
    files = [path for path in unpacked.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 1000
    site = unpacked / SITE
    ours = (site / "gateway", site / f"prepaid_gateway-{__version__}.dist-info")
    found = []
    for path in files:
        # What a library's own pages name is the library's business.
        foreign = path.is_relative_to(site) and not any(map(path.is_relative_to, ours))
        content = path.read_bytes()
        if any(trace in content for trace in (paths if foreign else paths | hosts)):
            found.append(path.relative_to(unpacked).as_posix())
    assert found == []
    assert [path for path in files if path.name == "direct_url.json"] == []
    with tarfile.open(packages[1]) as archive:
        assert {(member.uid, member.gid, member.uname) for member in archive} == {(0, 0, "")}


def test_the_package_starts_nothing_and_owns_no_configuration(unpacked: Path) -> None:
    """Units, users and samples are there; a site's own file is not, so nothing polls unasked."""
    assert list((unpacked / "etc/prepaid-gateway").iterdir()) == []
    assert not (unpacked / "DEBIAN/conffiles").exists()
    for unit in (ROOT / "systemd").glob("*.service"):
        packed = unpacked / "usr/lib/systemd/system" / unit.name
        assert packed.is_file()
        for program in re.findall(r"^ExecStart=(/opt/\S+)", packed.read_text(), re.MULTILINE):
            assert (unpacked / program.lstrip("/")).is_file()
    assert (unpacked / "usr/lib/sysusers.d/prepaid-gateway.conf").is_file()
    assert (unpacked / "usr/share/doc/prepaid-gateway/examples/config.yaml").is_file()
    assert (unpacked / "usr/share/doc/prepaid-gateway/install.md").is_file()
    scripts = {path.name for path in (unpacked / "DEBIAN").iterdir()}
    assert scripts >= {"preinst", "postinst", "prerm", "postrm", "md5sums"}
    assert "systemctl enable" not in (unpacked / "DEBIAN/postinst").read_text()
    # A template that was not filled in.
    assert not re.search(r"@[A-Z_]+@", (unpacked / "DEBIAN/preinst").read_text())


def test_every_library_brings_its_licence(unpacked: Path) -> None:
    """The copyright file names each bundled library, and its texts lie beside it."""
    named = (unpacked / "usr/share/doc/prepaid-gateway/copyright").read_text()
    libraries = sorted((unpacked / SITE).glob("*.dist-info"))
    assert len(libraries) > 20
    for library in libraries:
        name, version = library.name.removesuffix(".dist-info").split("-")
        line = rf"^{name.replace('_', '[-_.]')} {re.escape(version)}: \S"
        assert re.search(line, named, re.IGNORECASE | re.MULTILINE), name
    assert "prepaid-gateway" in named


def test_the_packed_program_runs(unpacked: Path) -> None:
    """Its own files are enough: both processes can be loaded from them alone."""
    program = unpacked / "opt/prepaid-gateway/bin/prepaid-gateway"
    assert program.read_text().startswith("#!/opt/prepaid-gateway/bin/python -P\n")
    # -I and -S: neither the tree nor this environment's libraries can help out.
    load = (
        f"import sys; sys.path.insert(0, {str(unpacked / SITE)!r})\n"
        "import gateway.app.control.process, gateway.app.north, gateway\n"
        "print(gateway.__version__, gateway.__file__)"
    )
    shown = output(sys.executable, "-I", "-S", "-c", load, cwd=unpacked)
    assert shown.split() == [__version__, str(unpacked / SITE / "gateway/__init__.py")]


def test_the_wheelhouse_installs_without_a_network(packages: list[Path], tmp_path: Path) -> None:
    """One script makes a working environment, from wheels whose hashes are fixed."""
    output("tar", "-xzf", packages[1], "-C", tmp_path)
    (house,) = tmp_path.iterdir()

    def install(target: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(house / "install"), str(target)],
            check=False,
            capture_output=True,
            text=True,
            timeout=200,
            env={**os.environ, **NO_INDEX, "PYTHON": sys.executable},
        )

    made = install(tmp_path / "venv")
    assert made.returncode == 0, made.stderr
    shown = output(tmp_path / "venv/bin/prepaid-gateway", "--version", cwd=tmp_path)
    assert shown.strip() == __version__
    again = install(tmp_path / "venv")
    assert again.returncode == 1
    assert "is there already" in again.stderr

    # pip refuses a wheel whose hash differs from its line.
    hashed = set(
        re.findall(r"--hash=sha256:(\w+)$", (house / "requirements.txt").read_text(), re.MULTILINE)
    )
    wheels = list(house.glob("wheels/*.whl"))
    assert hashed == {hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in wheels}
    assert "--require-hashes" in (house / "install").read_text()
