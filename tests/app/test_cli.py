"""The command line as a person and a program meet it: real processes, exit codes, streams."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import __version__
from gateway.app.cli import run
from gateway.app.cli.output import show_reasons, show_table
from gateway.app.regular import NO_FILE, open_regular
from gateway.core.errors import (
    ConfigurationError,
    GatewayError,
    RefusedError,
    StoreAwayError,
    StoreMissingError,
)

FAILURES = [
    (
        ConfigurationError(("f:1:1: a: wrong", "f:2:1: b: wrong")),
        2,
        "f:1:1: a: wrong\nf:2:1: b: wrong\n",
    ),
    (
        RefusedError("SUPPLY_BLOCKED", "still blocked: CREDIT"),
        1,
        "SUPPLY_BLOCKED: still blocked: CREDIT\n",
    ),
    (
        RefusedError("AMOUNT_RANGE", "must be above zero", "amount"),
        1,
        "AMOUNT_RANGE: amount: must be above zero\n",
    ),
    (
        RefusedError("TARIFF_INVALID", "grid.price: is missing\nname: is missing", "grid.price"),
        1,
        "TARIFF_INVALID: grid.price: is missing\nname: is missing\n",
    ),
    (StoreMissingError("there is no ledger"), 2, "STORE_MISSING: there is no ledger\n"),
    (StoreAwayError("no north answers"), 1, "STORE_AWAY: no north answers\n"),
]

ROOT = Path(__file__).parent.parent.parent
SITE = "site: {id: s, name: S, timezone: Asia/Kolkata, currency: INR}\n"


def gateway(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run `python -m gateway` with arguments."""
    return subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "COLUMNS": "100", "LANG": "C.UTF-8"},
    )


@pytest.mark.parametrize(("error", "code", "told"), FAILURES)
def test_an_error_of_ours_is_one_line_and_a_code(
    capsys: pytest.CaptureFixture[str], error: GatewayError, code: int, told: str
) -> None:
    """Configuration or no store is 2, a refusal or failure 1; on stderr, without a traceback."""

    def failing() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run(failing)
    assert ended.value.code == code
    assert capsys.readouterr() == ("", told)


def test_a_defect_keeps_its_traceback() -> None:
    """What is not of our tree is not dressed up as an answer."""

    def failing() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(failing)


def test_a_name_in_a_table_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    """What a person called a meter is shown as written, brackets included."""
    show_table("Meters", ("id", "label"), [("a", "[bold]Flat[/bold] [x]")])
    assert "[bold]Flat[/bold] [x]" in capsys.readouterr().out


def test_a_reason_stands_once_below_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    """With every name that it holds for; a row without one is not named."""
    show_reasons([("a", "X far\x1b[2J"), ("b", ""), ("c", "Y"), ("d", "X far\x1b[2J")])
    assert capsys.readouterr().out == "a, d: X far\ufffd[2J\nc: Y\n"


def test_a_name_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    """Escapes in what people typed are shown as such; letters of every script stay."""
    show_table("Accounts", ("id", "name"), [("a", "As\x1b[2Jha\r\x9b1A \u0915\u094d\u200d")])
    told = capsys.readouterr().out
    assert "\x1b" not in told
    assert "\x9b" not in told
    assert "\u0915\u094d\u200d" in told


@pytest.mark.slow
def test_help_and_version() -> None:
    """Both answer with 0 on standard output."""
    shown = gateway("--help")
    assert shown.returncode == 0
    assert "check" in shown.stdout
    assert gateway("--version").stdout == f"{__version__}\n"


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("chek",), ("check",), ("check", "--wrong")])
def test_wrong_usage_is_2(arguments: tuple[str, ...]) -> None:
    """An unknown command, a missing or unknown option: status 2, explained on standard error."""
    answer = gateway(*arguments)
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert "Usage" in answer.stderr


@pytest.mark.slow
def test_check_accepts_the_samples() -> None:
    """config/ is good as it is shipped."""
    answer = gateway("check", "-c", "config/config.yaml")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith("config/config.yaml: ok, site palm-court\n")
    assert answer.stderr == ""


@pytest.mark.slow
def test_check_names_problems_on_standard_error(tmp_path: Path) -> None:
    """Status 2, one line for each problem, nothing on standard output."""
    (tmp_path / "c.yaml").write_text(SITE + "stat_dir: x\ncreate: maybe\n")
    answer = gateway("check", "-c", "c.yaml", cwd=tmp_path)
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert answer.stderr.splitlines() == [
        "c.yaml:2:1: stat_dir: unknown key 'stat_dir': did you mean 'state_dir'?",
        "c.yaml:3:9: create: is 'maybe': expected true or false",
    ]


@pytest.mark.slow
def test_check_answers_programs_in_json(tmp_path: Path) -> None:
    """`--json` puts verdict, problems and notes on standard output; the status stays."""
    (tmp_path / "bad.yaml").write_text(SITE + "stat_dir: x\n")
    (tmp_path / "good.yaml").write_text(SITE + "north: {opcua: {}}\n")
    bad = gateway("check", "-c", "bad.yaml", "--json", cwd=tmp_path)
    good = gateway("check", "-c", "good.yaml", "--json", "--print", cwd=tmp_path)
    assert bad.returncode == 2
    assert json.loads(bad.stdout)["problems"][0].startswith("bad.yaml:2:1: stat_dir: ")
    assert good.returncode == 0
    answer = json.loads(good.stdout)
    assert answer["notes"] == ["north.opcua: accepted, not served by this version yet"]
    assert answer["configuration"]["supply"]["mass_cut"]["max_cuts"] == 10


@pytest.mark.slow
def test_what_check_prints_is_a_configuration(tmp_path: Path) -> None:
    """`--print` writes YAML that `check` accepts and prints the same again."""
    (tmp_path / "c.yaml").write_text(
        SITE + 'meters: [{id: a, model: pac3220, host: 10.0.0.1, label: "ä: [b]"}]\n',
        encoding="utf-8",
    )
    first = gateway("check", "-c", "c.yaml", "--print", cwd=tmp_path)
    (tmp_path / "again.yaml").write_text(first.stdout, encoding="utf-8")
    second = gateway("check", "-c", "again.yaml", "--print", cwd=tmp_path)
    assert first.stdout == second.stdout
    assert "ä: [b]" in first.stdout


@pytest.mark.slow
def test_a_configuration_that_is_not_there_is_2(tmp_path: Path) -> None:
    """A wrong path is told like any other problem."""
    answer = gateway("check", "-c", "absent.yaml", cwd=tmp_path)
    assert answer.returncode == 2
    assert answer.stderr == "absent.yaml:1:1: (file): cannot be read: No such file or directory\n"


READERS = (
    ("account", "import", "pipe", "-c", "c.yaml"),
    ("account", "terms", "flat-1", "pipe", "-c", "c.yaml"),
    ("tariff", "check", "pipe", "-c", "c.yaml"),
    ("tariff", "publish", "pipe", "-c", "c.yaml"),
    ("tariff", "replay", "pipe", "-c", "c.yaml"),
    ("meter", "import", "pipe", "-c", "c.yaml"),
    ("meter", "verify-report", "pipe"),
    ("restore", "pipe", "-c", "c.yaml"),
    ("check", "-c", "pipe"),
)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", READERS, ids=" ".join)
def test_a_pipe_given_as_a_file_is_refused_at_once(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """Nobody writes to it: a command that waited for that would never end."""
    (tmp_path / "c.yaml").write_text(SITE, encoding="utf-8")
    os.mkfifo(tmp_path / "pipe")
    answer = gateway(*arguments, cwd=tmp_path)
    assert answer.returncode in (1, 2)
    assert answer.stdout == ""
    assert "pipe" in answer.stderr
    assert "no file: write" in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1


def test_only_a_regular_file_is_opened(tmp_path: Path) -> None:
    """A pipe, a device, a directory: each at once, each with what it is."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"x")
    for path, said in ((tmp_path / "pipe", NO_FILE), (Path(os.devnull), NO_FILE), (tmp_path, "Is")):
        with pytest.raises(OSError, match=said):
            open_regular(path)
    with open_regular(tmp_path / "file") as stream:
        assert stream.read() == b"x"


@pytest.mark.slow
def test_the_schema_is_json() -> None:
    """`config schema` prints a JSON Schema with the file's top-level keys."""
    schema = json.loads(gateway("config", "schema").stdout)
    assert {"site", "meters", "meters_file", "supply"} <= set(schema["properties"])
