"""Builds what is handed over: the wheel, the offline wheelhouse and the Debian package.

    python packaging/build.py [--source TREE] [--out dist] [--cache build/wheels]

Everything is made for the Python and the machine that run this file; the package says so in its
dependencies. The same commit and the same wheels give the same bytes: times come from
SOURCE_DATE_EPOCH (the last commit's time unless set), owners are root, order is sorted.
Only the download asks the network, and only for wheels that `--cache` lacks.
"""

import argparse
import gzip
import hashlib
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
NAME: Final = "prepaid-gateway"
HOME: Final = Path("opt") / NAME
PYTHON: Final = "python{}.{}".format(*sys.version_info[:2])
TAG: Final = "cp{}{}".format(*sys.version_info[:2])
# The oldest commit time that zip archives can hold, for a tree without git.
EARLIEST_EPOCH: Final = 315_532_800
DOWNLOAD_S: Final = 600
STEP_S: Final = 180
MANUAL_PAGE: Final = re.compile(r"[^/]+\.data/data/share/man/")
COMPRESSION: Final = 6
# The same bytes whatever the run; and nothing is left in a tree that is being packed.
FIXED: Final = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}


class BuildError(Exception):
    """What stopped the build, in one line for a person."""


@dataclass(frozen=True, slots=True)
class Wheel:
    """One wheel that is handed over."""

    path: Path
    metadata: Message
    sha256: str

    @property
    def name(self) -> str:
        """The distribution's name, as its metadata has it."""
        return str(self.metadata["Name"])

    @property
    def version(self) -> str:
        """The distribution's version."""
        return str(self.metadata["Version"])

    @property
    def licence(self) -> str:
        """What the metadata says of the licence: expression, else classifiers, else the field."""
        if self.metadata["License-Expression"]:
            return str(self.metadata["License-Expression"])
        prefix = "License :: "
        classes = [
            str(entry).rpartition(" :: ")[2]
            for entry in self.metadata.get_all("Classifier", [])
            if str(entry).startswith(prefix)
        ]
        return ", ".join(classes) or str(self.metadata["License"] or "see its files")

    @property
    def glibc_minor(self) -> int:
        """The glibc 2.x that its binaries need at least; 0 without binaries."""
        minors = [int(minor) for minor in re.findall(r"manylinux_2_(\d+)_", self.path.name)]
        return min(minors, default=17 if "manylinux2014" in self.path.name else 0)


def packed(archive: zipfile.ZipFile) -> list[str]:
    """What of a wheel is installed: no manual pages of commands that are not."""
    return [name for name in archive.namelist() if not MANUAL_PAGE.match(name)]


def wheel_of(path: Path) -> Wheel:
    """Read a wheel's metadata. Raises BuildError for a wheel that plain unpacking would not do."""
    with zipfile.ZipFile(path) as archive:
        names = packed(archive)
        if any(name.split("/", maxsplit=1)[0].endswith(".data") for name in names):
            raise BuildError(f"{path.name} has files outside site-packages: teach the build first")
        (metadata,) = (n for n in names if re.fullmatch(r"[^/]+\.dist-info/METADATA", n))
        text = archive.read(metadata).decode("utf-8")
    return Wheel(path, HeaderParser().parsestr(text), hashlib.sha256(path.read_bytes()).hexdigest())


def run(
    arguments: Sequence[str | Path],
    *,
    cwd: Path,
    epoch: int,
    timeout_s: int = STEP_S,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Run a tool to its end, `variables` in its environment; its output is kept.

    Raises subprocess errors.
    """
    return subprocess.run(
        [str(word) for word in arguments],
        cwd=cwd,
        check=True,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, **FIXED, "SOURCE_DATE_EPOCH": str(epoch), **variables},
    )


def epoch_of(source: Path) -> int:
    """SOURCE_DATE_EPOCH, else the time of the last commit."""
    if "SOURCE_DATE_EPOCH" in os.environ:
        return int(os.environ["SOURCE_DATE_EPOCH"])
    try:
        answer = run(["git", "log", "-1", "--format=%ct"], cwd=source, epoch=0, timeout_s=30)
    except (OSError, subprocess.SubprocessError):
        return EARLIEST_EPOCH
    return int(answer.stdout)


def build_wheel(source: Path, out: Path, epoch: int) -> Wheel:
    """The project's own wheel."""
    command = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", out)
    run(command, cwd=source, epoch=epoch)
    version = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "version"
    ]
    (path,) = out.glob(f"prepaid_gateway-{version}-*.whl")
    return wheel_of(path)


def fetch_wheels(lock: Path, cache: Path, out: Path, epoch: int) -> list[Wheel]:
    """The wheels that the lock names for this machine, hashes checked; asks the network last."""
    cache.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--quiet", "--disable-pip-version-check"]
    pip += ["download", "--require-hashes", "--only-binary", ":all:", "--requirement", str(lock)]
    offline = [*pip, "--isolated", "--no-index", "--find-links", str(cache), "--dest", str(out)]
    try:
        run(offline, cwd=HERE, epoch=epoch)
    except subprocess.CalledProcessError:
        print(f"build: fetching the wheels that {cache} lacks")
        run([*pip, "--dest", str(cache)], cwd=HERE, epoch=epoch, timeout_s=DOWNLOAD_S)
        run(offline, cwd=HERE, epoch=epoch)
    return sorted(map(wheel_of, out.glob("*.whl")), key=lambda wheel: wheel.name.lower())


def requirements(project: Wheel, wheels: Sequence[Wheel]) -> str:
    """Pins with the one hash of each wheel that lies beside them."""
    lines = [
        f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}"
        for wheel in [*wheels, project]
    ]
    return "".join(f"{line}\n" for line in lines)


def build_wheelhouse(project: Wheel, wheels: Sequence[Wheel], out: Path, epoch: int) -> Path:
    """One archive with every wheel, the pins and a script that installs without a network."""
    stem = f"{NAME}-{project.version}-wheelhouse-{TAG}-{platform.machine()}"
    script = (HERE / "wheelhouse-install").read_text(encoding="utf-8").replace("@PYTHON@", PYTHON)
    members = [
        (f"wheels/{wheel.path.name}", wheel.path.read_bytes(), 0o644)
        for wheel in sorted([*wheels, project], key=lambda wheel: wheel.path.name)
    ]
    members += [
        ("requirements.txt", requirements(project, wheels).encode(), 0o644),
        ("licences.txt", licences(wheels).encode(), 0o644),
        ("install", script.encode(), 0o755),
    ]
    path = out / f"{stem}.tar.gz"
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", COMPRESSION, raw, mtime=epoch) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for name, content, mode in members:
            member = tarfile.TarInfo(f"{stem}/{name}")
            member.size, member.mode, member.mtime = len(content), mode, epoch
            archive.addfile(member, io.BytesIO(content))
    return path


def licences(wheels: Sequence[Wheel]) -> str:
    """Name, version and licence of everything bundled; the texts lie in each `.dist-info`."""
    return "".join(f"{wheel.name} {wheel.version}: {wheel.licence}\n" for wheel in wheels)


def schemas(source: Path) -> str:
    """`application id:newest schema` of every kind of store, as the tree's own code states them."""
    program = (
        "from gateway.store import ledger, requests, telemetry_files as files\n"
        "from gateway.store.db import StoreSchema\n"
        "found = {s for m in (ledger, requests, files) for s in vars(m).values()"
        " if isinstance(s, StoreSchema)}\n"
        "print(*sorted(f'{s.application_id}:{s.newest()}' for s in found))"
    )
    return run([sys.executable, "-c", program], cwd=source, epoch=0).stdout.strip()


def completion(root: Path) -> str:
    """The completion script for bash, as the program in `root` gives it."""
    command = (sys.executable, root / HOME / "bin" / NAME)
    site = root / HOME / "lib" / PYTHON / "site-packages"
    return run(
        command,
        cwd=root,
        epoch=0,
        PYTHONPATH=str(site),
        _PREPAID_GATEWAY_COMPLETE="source_bash",
    ).stdout


def lay_out(root: Path, source: Path, wheels: Sequence[Wheel], epoch: int) -> None:
    """Fill `root` with the installed tree: program, units, samples, documents."""
    site = root / HOME / "lib" / PYTHON / "site-packages"
    for wheel in wheels:
        with zipfile.ZipFile(wheel.path) as archive:
            archive.extractall(site, packed(archive))  # noqa: S202  # hashes of all wheels were checked
    compile_program = (
        "import compileall, py_compile, sys\n"
        "sys.exit(not compileall.compile_dir(sys.argv[1], quiet=1, workers=1, stripdir=sys.argv[2],"
        " prependdir='/', invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH))"
    )
    run([sys.executable, "-c", compile_program, site, root], cwd=HERE, epoch=epoch)

    write(
        root / HOME / "pyvenv.cfg",
        "home = /usr/bin\ninclude-system-site-packages = false\nversion = {}.{}\n".format(
            *sys.version_info[:2]
        ),
    )
    write(
        root / HOME / "bin" / NAME,
        f"#!/{HOME}/bin/python -P\nfrom gateway.app.cli import main\n\nmain()\n",
        mode=0o755,
    )
    link(root / HOME / "bin" / "python", f"/usr/bin/{PYTHON}")
    link(root / "usr/bin" / NAME, f"/{HOME}/bin/{NAME}")

    units = source / "systemd"
    for unit in sorted(units.glob("*.service")) + sorted(units.glob("*.timer")):
        copy(unit, root / "usr/lib/systemd/system" / unit.name)
    for kind in ("sysusers", "tmpfiles"):
        for file in sorted(units.glob(f"*.{kind}.conf")):
            copy(file, root / f"usr/lib/{kind}.d" / file.name.replace(f".{kind}", ""))
    (root / "etc" / NAME).mkdir(parents=True)
    write(root / "usr/share/bash-completion/completions" / NAME, completion(root))

    docs = root / "usr/share/doc" / NAME
    for page in sorted((source / "docs").glob("*.md")):
        copy(page, docs / page.name)
    for sample in sorted((source / "config").glob("*.[cy]*")):
        copy(sample, docs / "examples" / sample.name)
    changelog = (source / "CHANGELOG.md").read_bytes()
    (docs / "changelog.gz").write_bytes(gzip.compress(changelog, 9, mtime=0))
    write(
        docs / "copyright",
        "prepaid-gateway: Apache-2.0; text in /usr/share/common-licenses/Apache-2.0\n\n"
        "Bundled below /opt/prepaid-gateway, each with its licence text in its .dist-info:\n\n"
        + licences(wheels),
    )


def build_deb(source: Path, project: Wheel, wheels: Sequence[Wheel], out: Path, epoch: int) -> Path:
    """The Debian package."""
    architecture = run(["dpkg", "--print-architecture"], cwd=HERE, epoch=epoch).stdout.strip()
    path = out / f"{NAME}_{project.version}_{architecture}.deb"
    with tempfile.TemporaryDirectory(prefix="deb-", dir=out) as work:
        root = Path(work) / "root"
        lay_out(root, source, [*wheels, project], epoch)
        files = sorted(item for item in root.rglob("*") if item.is_file() and not item.is_symlink())
        values = {
            "VERSION": project.version,
            "ARCHITECTURE": architecture,
            "PYTHON": PYTHON,
            "GLIBC": f"2.{max(wheel.glibc_minor for wheel in wheels)}",
            "SIZE_KB": str(sum((file.stat().st_size + 1023) // 1024 for file in files)),
            "SCHEMAS": schemas(source),
        }
        control = root / "DEBIAN"
        for template in sorted((HERE / "debian").iterdir()):
            text = template.read_text(encoding="utf-8")
            for key, value in values.items():
                text = text.replace(f"@{key}@", value)
            write(
                control / template.name, text, mode=0o644 if template.name == "control" else 0o755
            )
        sums = (
            f"{hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()}"
            f"  {file.relative_to(root)}\n"
            for file in files
        )
        write(control / "md5sums", "".join(sums))
        settle(root, epoch)
        options = ("--root-owner-group", "-Zgzip", f"-z{COMPRESSION}")
        run(["dpkg-deb", *options, "--build", root, path], cwd=HERE, epoch=epoch)
    return path


def settle(root: Path, epoch: int) -> None:
    """Modes that do not hang on the builder's umask, and one time for everything."""
    for item in everything(root):
        if not item.is_symlink():
            executable = item.is_dir() or item.stat().st_mode & 0o100
            item.chmod(0o755 if executable else 0o644)
        os.utime(item, (epoch, epoch), follow_symlinks=False)


def everything(root: Path) -> Iterator[Path]:
    """All below `root`, what a directory holds before the directory."""
    for directory, folders, files in os.walk(root, topdown=False):
        yield from (Path(directory) / name for name in (*files, *folders))
    yield root


def write(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Write a text file, with the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)


def copy(source: Path, target: Path) -> None:
    """Copy a file's content, with the directories above it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())


def link(path: Path, target: str) -> None:
    """Make a symbolic link, with the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def build(source: Path, out: Path, cache: Path) -> list[Path]:
    """Everything into `out`; what it made. Raises BuildError, subprocess errors."""
    if shutil.which("dpkg-deb") is None:
        raise BuildError("dpkg-deb is missing: build on Debian or Ubuntu")
    lock = source / "requirements" / "run.txt"
    epoch = epoch_of(source)
    out.mkdir(parents=True, exist_ok=True)
    tagged = cache / f"{TAG}-{sysconfig.get_platform()}"
    with tempfile.TemporaryDirectory(prefix="wheels-", dir=out) as work:
        wheels = fetch_wheels(lock, tagged, Path(work), epoch)
        project = build_wheel(source, out, epoch)
        return [
            project.path,
            build_wheelhouse(project, wheels, out, epoch),
            build_deb(source, project, wheels, out, epoch),
        ]


def main() -> int:
    """The command line. Exit code 0, or 1 with what stopped it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    root = HERE.parent
    parser.add_argument("--source", type=Path, default=root, help="the tree to build")
    parser.add_argument("--out", type=Path, default=root / "dist", help="where results go")
    parser.add_argument(
        "--cache", type=Path, default=root / "build" / "wheels", help="wheels fetched before"
    )
    options = parser.parse_args()
    try:
        made = build(options.source.resolve(), options.out.resolve(), options.cache.resolve())
    except BuildError as error:
        print(f"build: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"build: {error.cmd[:4]} failed:\n{error.stdout}{error.stderr}", file=sys.stderr)
        return 1
    for path in made:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        print(f"{digest}  {path.name}  {path.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
