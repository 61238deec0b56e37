"""`account import` against a running north: looked at, opened, broken off, given again."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.core.errors import RefusedError, StoreAwayError
from gateway.core.requests import Request
from gateway.north.client import LocalClient
from gateway.store.db import Connection
from tests.app.terminal import terminal
from tests.app.test_cli_site import Desk

pytestmark = pytest.mark.slow
HEADER = "account,service_point,tariff,name,opening_balance"


@pytest.fixture
async def desk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Desk]:
    """A terminal at a site of 40 flats; flat-1 has an account already."""
    monkeypatch.setenv("COLUMNS", "200")
    async with terminal(tmp_path, capsys, meters=40) as made:
        yield made


def table(tmp_path: Path, *rows: str, header: str = HEADER) -> str:
    """A tenants' file."""
    path = tmp_path / "tenants.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return str(path)


async def totals(desk: Desk, *words: str, status: int = 0) -> dict[str, dict[str, object]]:
    """What an import counts."""
    ended = await desk.run("account", "import", *words, "--json")
    assert (ended.status, ended.err) == (status, "")
    counted: dict[str, dict[str, object]] = json.loads(ended.out)["totals"]
    return counted


async def open_accounts(desk: Desk) -> int:
    """How many accounts the site has."""
    return len(json.loads((await desk.run("account", "list", "--json")).out))


async def test_dry_run_shows_all_and_changes_nothing(desk: Desk, tmp_path: Path) -> None:
    """Who is new, who is there, and the sum of the opening balances, floats nowhere."""
    file = table(tmp_path, "flat-1,,home,,0", "flat-2,,home,Anna,0.10", "flat-3,,home,Bela,0.20")
    ended = await desk.run("account", "import", file, "--dry-run")
    assert (ended.status, ended.err) == (0, "")
    lines = [line.split() for line in ended.out.splitlines()]
    assert ["flat-2", "flat-2", "home", "0.1", "Anna", "would", "be", "opened"] in lines
    assert ["2", "would", "be", "opened", "0.3", "INR"] in lines
    assert ["1", "there,", "but", "not", "by", "this", "row", "0", "INR"] in lines
    assert "3 accounts, nothing was changed" in ended.out
    assert desk.executor.executed == 0
    assert await open_accounts(desk) == 1


async def test_import_twice_opens_nobody_twice(desk: Desk, tmp_path: Path) -> None:
    """A second run finds each row opened by the first; a file that grew goes on."""
    rows = [f"flat-{n},,,Tenant {n},{n}.50" for n in range(2, 31)]
    file = table(tmp_path, *rows)
    first = await totals(desk, file, "--tariff", "home")
    assert first == {"opened": {"accounts": 29, "opening_balances": "478.5"}}
    executed = desk.executor.executed
    again = await totals(desk, file, "--tariff", "home")
    assert again == {"there": {"accounts": 29, "opening_balances": "478.5"}}
    assert desk.executor.executed == executed
    more = table(tmp_path, *rows, "flat-31,,home,,5", "flat-32,,home,,-5")
    assert await totals(desk, more, "--tariff", "home") == {
        "opened": {"accounts": 2, "opening_balances": "0"},
        "there": {"accounts": 29, "opening_balances": "478.5"},
    }
    assert await open_accounts(desk) == 32
    ended = await desk.run("account", "import", more, "--tariff", "home")
    assert (ended.status, ended.err) == (0, "")
    assert "what was not opened" not in ended.out


async def test_refused_row_is_tried_again_by_the_next_run(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A meter that did not answer refuses its row alone, with the reason and status 1; the next
    run opens it, though the first refusal stays on file for its key."""
    answered = desk.executor._execute
    silent = {"flat-3"}

    def execute(connection: Connection, request: Request, body: object, now: int) -> object:
        if getattr(body, "account_id", "") in silent:
            raise RefusedError("METER_AWAY", "meter flat-3 has no good reading")
        return answered(connection, request, body, now)  # type: ignore[arg-type]

    monkeypatch.setattr(desk.executor, "_execute", execute)
    file = table(tmp_path, "flat-2,,home,,1", "flat-3,,home,,2", "flat-4,,home,,3")
    ended = await desk.run("account", "import", file)
    assert (ended.status, ended.err) == (1, "")
    (row,) = [line for line in ended.out.splitlines() if line.split()[:1] == ["flat-3"]]
    assert row.split()[-1] == "refused"
    assert "\nflat-3: METER_AWAY meter flat-3 has no good reading\n" in ended.out
    assert "flat-2" not in ended.out
    assert (await totals(desk, file, status=1))["refused"]["accounts"] == 1
    silent.clear()
    assert await totals(desk, file) == {
        "opened": {"accounts": 1, "opening_balances": "2"},
        "there": {"accounts": 2, "opening_balances": "4"},
    }


async def test_wrong_file_opens_nobody(desk: Desk, tmp_path: Path) -> None:
    """Problems of form and of the site together, status 1; the good rows wait too."""
    file = table(tmp_path, "flat-2,,home,,1", "flat-3,flat-99,hme,,2", "flat-4,,home,,x")
    for words in ((), ("--dry-run",)):
        ended = await desk.run("account", "import", file, *words)
        assert (ended.status, ended.out) == (1, "")
        assert [line.removeprefix(file).split(" ", 2)[:2] for line in ended.err.splitlines()] == [
            [":3:8:", "service_point:"],
            [":3:16:", "tariff:"],
            [":4:15:", "opening_balance:"],
        ]
    missing = await desk.run("account", "import", str(tmp_path / "none.csv"))
    assert (missing.status, missing.out) == (1, "")
    assert "cannot be read: No such file or directory" in missing.err
    assert desk.executor.executed == 0


async def test_control_that_is_slow_keeps_the_wish(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is only kept is told as such, status 1; the next run finds it done."""
    monkeypatch.setattr("gateway.north.wishes.OUTCOME_WAIT_S", 0.05)
    monkeypatch.setattr("gateway.app.account_import.PENDING_S", 0.3)
    desk.executor.paused.set()
    file = table(tmp_path, "flat-2,,home,,1")
    waiting = await totals(desk, file, status=1)
    assert waiting == {"waiting": {"accounts": 1, "opening_balances": "1"}}
    dry = await totals(desk, file, "--dry-run")
    assert "opened" not in dry
    desk.executor.paused.clear()
    found = await totals(desk, file)
    assert {"opened", "there"} & found.keys()
    assert await open_accounts(desk) == 2


async def test_north_that_goes_away_leaves_the_rest_for_the_next_run(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that could not be asked are unreached, status 1; the same command goes on later."""
    monkeypatch.setattr("gateway.app.account_import.BUSY_FIRST_S", 0.001)
    asked = LocalClient.call

    def call(north: LocalClient, method: str, *words: object) -> object:
        if method == "POST" and "flat-3" in str(words):
            raise StoreAwayError("gone")
        return asked(north, method, *words)  # type: ignore[arg-type]

    file = table(tmp_path, "flat-2,,home,,1", "flat-3,,home,,2")
    with monkeypatch.context() as planted:
        planted.setattr(LocalClient, "call", call)
        ended = await desk.run("account", "import", file)
    assert (ended.status, ended.err) == (1, "")
    assert "not asked: north did not answer" in ended.out
    assert await totals(desk, file) == {
        "opened": {"accounts": 1, "opening_balances": "2"},
        "there": {"accounts": 1, "opening_balances": "1"},
    }
