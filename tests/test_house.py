"""The house keeps its order: who may import whom, how long a file and a function may grow."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent
FILE_LINES: Final = 500
FUNCTION_LINES: Final = 70

# Which modules of the house a room may import, by prefix. Nobody but app imports app.
ALLOWED: Final[Mapping[str, tuple[str, ...]]] = {
    "core": ("gateway.core",),
    "south": ("gateway.core", "gateway.south"),
    "store": ("gateway.core", "gateway.store"),
    "north": ("gateway.core", "gateway.store", "gateway.north"),
    "sim": ("gateway.core", "gateway.sim", "gateway.south.models", "gateway.south.registers"),
    "app": ("gateway",),
    # gateway/__main__.py is the command line under another name.
    "__main__.py": ("gateway.app.cli",),
    "__init__.py": (),
}
# Where a library may be imported: files or rooms, by prefix of their path under gateway/.
OWNERS: Final[Mapping[str, tuple[str, ...]]] = {
    "amqtt": ("app/demo/broker.py",),
    "aiomqtt": ("south/mqtt.py", "north/mqtt.py"),
    "asyncua": ("north/opcua/",),
    "fastapi": ("north/",),
    "pymodbus": ("south/modbus.py",),
    "sqlite3": ("store/",),
    "typer": ("app/cli/",),
}
# The rules are pure: no I/O, no event loop, no clock, no logging, no chance.
IMPURE: Final = frozenset(
    {"asyncio", "concurrent", "ctypes", "io", "logging", "mmap", "multiprocessing", "os", "pathlib"}
    | {"random", "secrets", "select", "shutil", "signal", "socket", "ssl", "subprocess", "tempfile"}
    | {"threading", "time", "urllib"}
)
# The node's application gets everything else through its board (docs/developer.md).
FIRMWARE_LIBRARIES: Final = frozenset(
    {"asyncio", "binascii", "deflate", "gc", "hashlib", "json", "node", "struct"}
)
# Two files know which interpreter they run on; the first chooses between these only.
FIRMWARE_PORT: Final = "node/port.py"
PORTED: Final = frozenset({"micropython", "zlib"})
FIRMWARE_BOARD: Final = "node/board_esp32.py"


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and full name of every import, in functions and for typing too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            # `from gateway import north` names a room only in what is taken from it.
            inner = module == "gateway" or module.startswith("gateway.")
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}" if inner else module


def starts_with(name: str, prefixes: tuple[str, ...]) -> bool:
    """Whether a dotted name is one of the prefixes or lies below one."""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def import_problems(path: str, tree: ast.AST) -> Iterator[str]:
    """What is wrong with the imports of one file; `path` is relative to gateway/."""
    room = path.split("/", maxsplit=1)[0]
    for line, name in imports(tree):
        place = f"gateway/{path}:{line}"
        library = name.split(".", maxsplit=1)[0]
        if name.startswith("."):
            yield f"{place}: relative import"
        elif library == "gateway":
            # The version stands in the package itself.
            if name != "gateway.__version__" and not starts_with(name, ALLOWED.get(room, ())):
                yield f"{place}: {room} may not import {name}"
        elif library in OWNERS and not path.startswith(OWNERS[library]):
            yield f"{place}: {library} belongs to {' and '.join(OWNERS[library])}"
        elif room == "core" and library in IMPURE:
            yield f"{place}: core is pure and may not import {library}"
        elif room == "core" and library not in sys.stdlib_module_names:
            yield f"{place}: core imports the standard library only, not {library}"


def firmware_problems(path: str, tree: ast.AST) -> Iterator[str]:
    """What is wrong with the imports of one file of firmware-micropython/node/."""
    for line, name in imports(tree):
        library = name.split(".", maxsplit=1)[0]
        allowed = library in FIRMWARE_LIBRARIES or (path == FIRMWARE_PORT and library in PORTED)
        if not allowed:
            yield f"firmware-micropython/{path}:{line}: {name} belongs behind the board"


def length_problems(path: str, source: str, tree: ast.AST) -> Iterator[str]:
    """Files and functions that hold a second idea, as their length tells."""
    lines = source.count("\n")
    if lines >= FILE_LINES:
        yield f"{path}: {lines} lines, at most {FILE_LINES - 1}"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length >= FUNCTION_LINES:
                yield f"{path}:{node.lineno}: {node.name} has {length} lines"


def problems(root: Path) -> list[str]:
    """Everything wrong in the tree under `root`."""
    found: list[str] = []
    for top in ("gateway", "tests", "bench", "firmware-micropython"):
        for path in sorted((root / top).rglob("*.py")):
            source = path.read_text(encoding="utf-8")
            tree = ast.parse(source)
            relative = path.relative_to(root).as_posix()
            if top == "gateway":
                found += import_problems(relative.removeprefix("gateway/"), tree)
            below = relative.removeprefix("firmware-micropython/")
            if below != relative and below.startswith("node/") and below != FIRMWARE_BOARD:
                found += firmware_problems(below, tree)
            found += length_problems(relative, source, tree)
    return found


def test_the_house_is_in_order() -> None:
    """Imports run in the stated direction and nothing has outgrown its file."""
    assert problems(ROOT) == []


def test_every_room_has_a_rule() -> None:
    """A new directory under gateway/ needs a decision about its imports first."""
    rooms = {path.parent.name for path in (ROOT / "gateway").glob("*/__init__.py")}
    assert rooms == {"core", "south", "store", "north", "sim", "app"}


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        ("core/x.py", "import orjson", "core imports the standard library only, not orjson"),
        ("core/x.py", "import asyncio", "core is pure and may not import asyncio"),
        ("core/x.py", "from gateway.store import db", "core may not import gateway.store.db"),
        ("core/x.py", "from gateway import store", "core may not import gateway.store"),
        ("core/x.py", "from . import y", "relative import"),
        ("south/poller.py", "import pymodbus.client", "pymodbus belongs to south/modbus.py"),
        ("south/x.py", "from gateway.store import db", "south may not import gateway.store.db"),
        ("north/x.py", "import sqlite3", "sqlite3 belongs to store/"),
        ("north/x.py", "from gateway.south import poller", "north may not import gateway.south"),
        ("north/x.py", "def f():\n    import gateway.app", "north may not import gateway.app"),
        ("store/x.py", "from gateway.north import hub", "store may not import gateway.north.hub"),
        ("sim/x.py", "from gateway.south.poller import P", "sim may not import gateway.south.poll"),
        ("app/x.py", "import fastapi", "fastapi belongs to north/"),
        ("other/x.py", "import gateway.core", "other may not import gateway.core"),
    ],
)
def test_a_planted_import_is_found(tmp_path: Path, path: str, source: str, expected: str) -> None:
    """Each rule refuses the import it is there for."""
    planted = tmp_path / "gateway" / path
    planted.parent.mkdir(parents=True)
    planted.write_text(source + "\n")
    (found,) = problems(tmp_path)
    assert expected in found


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("core/x.py", "import json\nfrom gateway.core.money import Currency"),
        ("south/modbus.py", "import pymodbus\nfrom gateway.core.errors import MeterError"),
        ("store/db.py", "import sqlite3"),
        ("sim/x.py", "from gateway.south.models import meter_model"),
        ("app/x.py", "from gateway.north import hub\nfrom gateway.sim import site"),
        ("app/cli/__init__.py", "import typer\nfrom gateway import __version__"),
    ],
)
def test_an_allowed_import_is_left_alone(tmp_path: Path, path: str, source: str) -> None:
    """The rules refuse no more than they say."""
    planted = tmp_path / "gateway" / path
    planted.parent.mkdir(parents=True)
    planted.write_text(source + "\n")
    assert problems(tmp_path) == []


@pytest.mark.parametrize("source", ["import machine", "import os", "import time", "import gateway"])
def test_the_node_reaches_outside_through_its_board_only(tmp_path: Path, source: str) -> None:
    """What would not run on all three interpreters is refused, but in the board's own file."""
    node = tmp_path / "firmware-micropython" / "node"
    node.mkdir(parents=True)
    (node / "board_esp32.py").write_text(source + "\n")
    (node / "port.py").write_text("from micropython import const\nfrom node import frames\n")
    assert problems(tmp_path) == []
    (node / "app.py").write_text(f"import json\n{source}\n")
    (found,) = problems(tmp_path)
    assert "node/app.py:2" in found


def test_a_planted_length_is_found(tmp_path: Path) -> None:
    """A file of 500 lines and a function of 70 are one too long each."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "long.py").write_text("x = 1\n" * FILE_LINES)
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "f.py").write_text("def f():\n" + "    x = 1\n" * (FUNCTION_LINES - 1))
    assert problems(tmp_path) == [
        "tests/long.py: 500 lines, at most 499",
        "bench/f.py:1: f has 70 lines",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("gateway.app.cli", {"pydantic", "fastapi", "uvicorn", "pymodbus", "sqlite3", "rich"}),
        ("gateway.app.config", {"fastapi", "uvicorn", "pymodbus", "sqlite3"}),
    ],
)
def test_what_a_module_loads_stays_small(module: str, absent: set[str]) -> None:
    """The command line answers at once, and configuration drags no server into control."""
    program = f"import sys, {module}; print(*sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=30
    )
    assert absent & set(answer.stdout.split()) == set()
