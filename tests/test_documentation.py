"""README and docs say what is there: links, commands, files and events are compared with it."""

import ast
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final, Protocol, cast

import pytest
from typer.main import get_command

from gateway.app.cli import app
from gateway.core.guard import GuardEvent
from gateway.core.switching import Alarm
from gateway.sim.commands import COMMANDS as METER_COMMANDS
from gateway.sim.control import COMMANDS
from gateway.sim.faults import FaultKind

ROOT: Final = Path(__file__).parent.parent
PROGRAM: Final = "prepaid-gateway"
PAGES: Final = (
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted(ROOT.glob("*/README.md")),
)
PAGE_NAMES: Final = [page.relative_to(ROOT).as_posix() for page in PAGES]
LINK: Final = re.compile(r"\[[^\]]*\]\(([^()\s]+)\)")
FENCE: Final = re.compile(r"^```[a-z]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN: Final = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
HEADING: Final = re.compile(r"^#+ +(.+)$", re.MULTILINE)
# Tops of the repository: a path below one of them is a file or a directory that must be there.
TOPS: Final = "gateway|tests|docs|config|systemd|bench|requirements|packaging|firmware-micropython"
FILE: Final = re.compile(rf"(?<![\w/.<-])((?:{TOPS})/[\w./-]*\w/?|(?:{TOPS})/)")
# Git ignores what a command writes there: a fresh clone has none of it.
MADE_BY_COMMANDS: Final = frozenset({"bench/results/"})
EVENT_ROW: Final = re.compile(
    r"^\| `([A-Z_]+)` \| (?:notice|warning|critical|cleared) \|", re.MULTILINE
)


class Parameter(Protocol):
    """What a test needs of an option or argument."""

    opts: list[str]
    secondary_opts: list[str]
    required: bool
    param_type_name: str
    nargs: int
    is_flag: bool


class Command(Protocol):
    """What a test needs of a command: its parameters."""

    params: list[Parameter]


@cache
def program() -> Command:
    """The whole command line."""
    return cast("Command", get_command(app))


def commands_of(command: Command) -> dict[str, Command] | None:
    """The commands of a group; None for a command that is no group."""
    return cast("dict[str, Command] | None", getattr(command, "commands", None))


def options_of(command: Command) -> dict[str, Parameter]:
    """Every spelling of every option, `--help` included."""
    return {
        name: parameter
        for parameter in command.params
        if parameter.param_type_name == "option"
        for name in (*parameter.opts, *parameter.secondary_opts)
    }


def command_problem(words: list[str], *, whole: bool) -> str | None:
    """What is wrong with the words after the program's name; None when they fit.

    `whole` asks for every argument and required option too, as in a line that is there to be
    copied; without it the words may stop anywhere, as in running text.
    """
    command = program()
    given = list(words)
    while (commands := commands_of(command)) is not None and given:
        name = given.pop(0)
        if name.startswith("-"):
            return None if name in {*options_of(command), "--help", "-h"} else f"no option {name}"
        if name not in commands:
            return f"no command {name}"
        command = commands[name]
    if commands is not None:
        return "a command is missing" if whole else None
    return arguments_problem(command, given, whole=whole)


def arguments_problem(command: Command, given: list[str], *, whole: bool) -> str | None:
    """What is wrong with options and arguments of one command."""
    options = options_of(command)
    seen: set[str] = set()
    places = 0
    while given:
        word = given.pop(0)
        if not word.startswith("-"):
            places += 1
            continue
        name, _, value = word.partition("=")
        if name in {"--help", "-h"}:
            return None
        if name not in options:
            return f"no option {name}"
        seen.update(options[name].opts)
        if not (options[name].is_flag or value):
            if not given and whole:
                return f"{name} without a value"
            del given[:1]
    arguments = [item for item in command.params if item.param_type_name == "argument"]
    if places > len(arguments):
        return f"{places} arguments, at most {len(arguments)}"
    if not whole:
        return None
    missing = [
        max(item.opts, key=len)
        for item in command.params
        if item.param_type_name == "option" and item.required and not seen & set(item.opts)
    ]
    missing += [item.opts[0] for item in arguments[places:] if item.required]
    return f"{missing[0]} is missing" if missing else None


def shown_commands(text: str) -> Iterator[tuple[list[str], bool]]:
    """The words of every command of the program, and whether the line is there to be copied.

    In a block, two spaces end the command and begin a remark about it.
    """
    for block in FENCE.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            command = line.removeprefix("$ ").strip()
            name, _, rest = command.partition(" ")
            if name.rpartition("/")[2] == PROGRAM:
                yield shlex.split(rest.partition("  ")[0]), True
    for span in SPAN.findall(FENCE.sub("", text)):
        name, _, rest = span.partition(" ")
        if name.rpartition("/")[2] == PROGRAM and rest:
            yield shlex.split(rest), False


def slug(heading: str) -> str:
    """The anchor that a heading gets: small letters, digits and hyphens."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def link_problems(page: Path, text: str) -> Iterator[str]:
    """Relative links of a page that lead nowhere."""
    for target in LINK.findall(FENCE.sub("", text)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        place = (page.parent / name).resolve() if name else page
        if not place.exists():
            yield f"{target}: there is no {name}"
        elif anchor and anchor not in anchors(place):
            yield f"{target}: no heading gives #{anchor}"


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors of a page's headings."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    return frozenset(slug(heading) for heading in HEADING.findall(text))


EVENT_CALLS: Final = frozenset({"event", "_tell", "_tell_later", "_stand"})


def raised_events(tree: ast.Module) -> Iterator[str]:
    """Kinds given to a call that keeps an event: literal, chosen by a condition, or by a name.

    A name is one of the function, or a constant of the module or of where that imports it from.
    """
    known = constants(tree)
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for node in ast.walk(function):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            if isinstance(node.func, ast.Attribute) and node.func.attr in EVENT_CALLS:
                kind = node.args[0]
                yield from texts(kind)
                if isinstance(kind, ast.Name):
                    yield from assigned(function, kind.id)
                    if kind.id.isupper():
                        yield known[kind.id]


def constants(tree: ast.Module) -> dict[str, str]:
    """Texts under names of a module: what it says itself, and what it imports from our own."""
    found = own_constants(tree)
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gateway."):
            source = constants_of(cast("str", node.module))
            for name in node.names:
                if name.name in source:
                    found[name.asname or name.name] = source[name.name]
    return found


def own_constants(tree: ast.Module) -> dict[str, str]:
    """Texts that a module itself gives names to, with `Final` or without."""
    found: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                found.update((ast.unparse(target), text) for text in texts(node.value))
    return found


@cache
def constants_of(module: str) -> dict[str, str]:
    """`own_constants` of one of our modules, by its dotted name."""
    path = ROOT.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return own_constants(ast.parse(path.read_text(encoding="utf-8")))


def assigned(function: ast.AST, name: str) -> Iterator[str]:
    """Texts that a function assigns to a name."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and any(ast.unparse(t) == name for t in node.targets):
            yield from texts(node.value)


def texts(node: ast.AST) -> Iterator[str]:
    """The text that an expression is, or the two that a condition chooses from."""
    if isinstance(node, ast.IfExp):
        yield from texts(node.body)
        yield from texts(node.orelse)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


def events_of_source() -> set[str]:
    """Every kind of event that control can raise."""
    kinds = {*(event.value for event in GuardEvent), *(alarm.value for alarm in Alarm)}
    for path in (ROOT / "gateway").rglob("*.py"):
        kinds.update(raised_events(ast.parse(path.read_text(encoding="utf-8"))))
    return kinds


@pytest.mark.parametrize("name", PAGE_NAMES)
def test_links_lead_somewhere(name: str) -> None:
    """Every relative link resolves, to a heading too where it names one."""
    page = ROOT / name
    assert list(link_problems(page, page.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("name", PAGE_NAMES)
def test_files_that_are_named_exist(name: str) -> None:
    """A path of the repository in code or in running text is there."""
    text = (ROOT / name).read_text(encoding="utf-8")
    # Targets of links start at the page, not at the repository: `link_problems` follows those.
    named = set(FILE.findall(re.sub(r"\]\([^()\s]+\)", "]", text))) - MADE_BY_COMMANDS
    assert sorted(path for path in named if not (ROOT / path).exists()) == []


@pytest.mark.parametrize("name", PAGE_NAMES)
def test_commands_that_are_shown_exist(name: str) -> None:
    """A command in a block can be copied as it stands; one in running text names what exists."""
    text = (ROOT / name).read_text(encoding="utf-8")
    found = [
        f"{shlex.join(words)}: {problem}"
        for words, whole in shown_commands(text)
        if (problem := command_problem(words, whole=whole)) is not None
    ]
    assert found == []


def test_commands_of_make_exist() -> None:
    """`make demo` gives the program only options that it has."""
    make = shutil.which("make")
    assert make is not None
    shown = subprocess.run(
        [make, "--dry-run", "--always-make", "demo", "FOR=60s"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    ).stdout.replace("\\\n", " ")
    lines = [line.split() for line in shown.splitlines() if f"/{PROGRAM} " in line]
    assert len(lines) == 1
    assert command_problem(lines[0][1:], whole=True) is None


def test_targets_of_make_that_are_shown_exist() -> None:
    """`make NAME` in the pages is a target of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    shown = {
        target
        for page in PAGES
        for code in (*SPAN.findall(page.read_text(encoding="utf-8")), *_blocks(page))
        for target in re.findall(r"^make ([a-z-]+)", code, re.MULTILINE)
    }
    assert {"demo", "test"} <= shown <= targets


def test_every_event_is_described() -> None:
    """docs/operator.md has a row for each kind that is raised, and for no other."""
    described = EVENT_ROW.findall((ROOT / "docs" / "operator.md").read_text(encoding="utf-8"))
    assert sorted(described) == sorted(events_of_source())


def test_every_fault_and_simulator_command_is_described() -> None:
    """docs/simulator.md has a row for each, and for no other."""
    text = (ROOT / "docs" / "simulator.md").read_text(encoding="utf-8")
    faults = re.findall(r"^\| `([a-z_]+)` \| (?:link|wire|meter|contactor) \|", text, re.MULTILINE)
    assert sorted(faults) == sorted(kind.value for kind in FaultKind)
    section = text.partition("## The control socket")[2].partition("## Faults")[0]
    assert sorted(re.findall(r"^\| `([a-z_]+)` \|", section, re.MULTILINE)) == sorted(COMMANDS)
    assert METER_COMMANDS.keys().isdisjoint(COMMANDS)


def test_every_option_of_simulate_is_described() -> None:
    """docs/simulator.md has a row for each knob."""
    text = (ROOT / "docs" / "simulator.md").read_text(encoding="utf-8")
    commands = commands_of(program())
    assert commands is not None
    options = {name for name in options_of(commands["simulate"]) if name not in {"--help", "-h"}}
    assert set(re.findall(r"^\| `(--[a-z-]+)` \|", text, re.MULTILINE)) == options


def test_every_page_of_docs_is_reached_from_the_readme() -> None:
    """A page that nobody links to is not read; a link on a page that is reached will do."""
    linked = set(LINK.findall((ROOT / "README.md").read_text(encoding="utf-8")))
    pages = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}
    for page in pages & linked:
        text = (ROOT / page).read_text(encoding="utf-8")
        linked.update(f"docs/{target.partition('#')[0]}" for target in LINK.findall(text))
    assert sorted(pages - linked) == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("acount list -c x", "no command acount"),
        ("account pay flat-1 5 -c x", "no command pay"),
        ("account list -c x --all", "no option --all"),
        ("account list", "--config is missing"),
        ("account recharge flat-1 -c x", "amount is missing"),
        ("account show a b -c x", "2 arguments, at most 1"),
        ("meter", "a command is missing"),
        ("check -c", "-c without a value"),
    ],
)
def test_a_planted_command_is_found(line: str, problem: str) -> None:
    """Each way in which a shown command can be wrong is noticed."""
    ((words, whole),) = shown_commands(f"```\n$ {PROGRAM} {line}\n```\n")
    found = command_problem(words, whole=whole)
    assert found is not None
    assert found.lower() == problem.lower()


def test_a_planted_event_and_link_and_file_are_found(tmp_path: Path) -> None:
    """The searches see what they are there for."""
    planted = (
        "from gateway.core.lowcredit import EVENT as LOW\n"
        'OWN: Final = "FIVE"\n'
        'def f(self):\n    self.j.event("ONE", 1)\n    kind = "TWO" if 1 else "THREE"\n'
        "    self.j.event(kind, 2)\n    self.j.event(LOW, 3)\n    self.j.event(OWN, 4)\n"
    )
    found = set(raised_events(ast.parse(planted)))
    assert found == {"ONE", "TWO", "THREE", "LOW_CREDIT", "FIVE"}
    with pytest.raises(KeyError):
        set(raised_events(ast.parse("def f(self):\n    self.j.event(FROM_NOWHERE, 1)\n")))
    page = tmp_path / "page.md"
    page.write_text("# A head\n[x](gone.md) [y](#a-head) [z](#other) [w](https://example.org)\n")
    assert list(link_problems(page, page.read_text())) == [
        "gone.md: there is no gone.md",
        "#other: no heading gives #other",
    ]
    assert FILE.findall("see `gateway/core/gone.py`, tests/ and my/tests/x.py") == [
        "gateway/core/gone.py",
        "tests/",
    ]


def _blocks(page: Path) -> list[str]:
    return cast("list[str]", FENCE.findall(page.read_text(encoding="utf-8")))
