"""Publishing replays the last days first: real control, real north, the process that counts."""

import asyncio
import io
import json
import os
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest

from gateway.app.tariff_replay import ReplayWish, replay_tariff
from gateway.core.money import Currency, format_amount
from gateway.core.requests import Role
from gateway.core.tariff_document import tariff_from_document
from gateway.store.drafts import open_drafts
from tests.app.published_site import (
    API,
    CHEAPER,
    CHEAPEST,
    DEARER,
    STEEP,
    Published,
    published,
    text_of,
)
from tests.app.test_cli_site import Ended, Terminal
from tests.app.test_tariff_replay import HOME

pytestmark = pytest.mark.slow

INR = Currency("INR")
REPLAY = f"{API}/tariffs/replay"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Published]:
    """Two flats that used energy for fifteen hours."""
    async with published(tmp_path) as running:
        yield running


def counted(site: Published) -> list[str]:
    """The commands of every process that north starts from now on to count."""
    started: list[str] = []
    count = site.context.replays._count

    async def noted(wish: object) -> object:
        started.append(str(wish))
        return await count(wish)  # type: ignore[arg-type]

    site.context.replays._count = noted  # type: ignore[method-assign,assignment]
    return started


async def test_the_route_counts_what_the_command_counts(site: Published) -> None:
    """To the nano, who pays most more first; an auditor may ask, a technician may not."""
    auditor = await site.client("auditor", Role.AUDITOR)
    answer = await auditor.post(REPLAY, json={"document": DEARER})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    wish = ReplayWish(tariff_from_document(DEARER, INR), 7)
    report = replay_tariff(site.control.config, wish, lambda _done, _all: None)
    assert {item["account_id"]: item["draft"] for item in found["accounts"]} == {
        item.account_id: format_amount(item.draft_nano, INR) for item in report.accounts
    }
    differences = [Decimal(item["difference"]) for item in found["accounts"]]
    assert differences == sorted(differences, reverse=True)
    assert Decimal(found["total"]["difference"]) == sum(differences)
    summary = found["summary"]
    assert (summary["pay_more"], summary["pay_less"]) == (
        sum(item > 0 for item in differences),
        sum(item < 0 for item in differences),
    )
    assert summary["largest"]["account_id"] == found["accounts"][0]["account_id"]
    assert found["from"] < found["until"]
    assert found["until"].endswith("Z")
    one = await auditor.post(REPLAY, json={"document": DEARER, "days": 30, "accounts": ["flat-2"]})
    assert [item["account_id"] for item in one.json()["accounts"]] == ["flat-2"]
    technician = await site.client("tech", Role.TECHNICIAN)
    assert (await technician.post(REPLAY, json={"document": DEARER})).status_code == 403


async def test_the_second_manager_sees_what_the_first_one_saw(site: Published) -> None:
    """A steep draft keeps who would have paid more; what was asked for just before is not counted
    again, and the same key again is the same wish."""
    first, second = await site.client("first"), await site.client("second")
    started = counted(site)
    shown = (await first.post(REPLAY, json={"document": STEEP})).json()["summary"]
    answer = await site.publish(first, STEEP, "k-1")
    result = answer.json()["result"]
    assert (answer.status_code, result["draft"], len(started)) == (201, 1, 1)
    assert result["replay"] == {"days": 7, **shown}
    assert (shown["pay_more"], shown["compared"]) == (2, True)
    (draft,) = (await second.get(f"{API}/tariff-drafts")).json()["items"]
    assert draft["replay"] == result["replay"]
    assert draft["rise_now"] == draft["rise"] == result["rise"]
    repeat = await site.publish(first, STEEP, "k-1")
    assert (repeat.status_code, repeat.json()) == (200, answer.json())
    accepted = await site.decide(second, 1)
    assert accepted.json()["result"]["rise"] == result["rise"]
    assert len(started) == 1


async def test_a_publication_that_nobody_looked_at_is_counted_first(site: Published) -> None:
    """No replay was asked for: the result of the version itself says who would have paid less."""
    manager = await site.client("first")
    answer = await site.publish(manager, CHEAPER)
    result = answer.json()["result"]
    assert (answer.status_code, result["version"]) == (201, 2), answer.text
    assert result["replay"]["compared"] is True
    assert (result["replay"]["accounts"], result["replay"]["pay_less"]) == (2, 2)
    assert result["replay"]["largest"] is None


async def test_a_version_in_between_changes_what_the_second_manager_sees(site: Published) -> None:
    """The list says what rises now; a rise that grew is a problem with its code, and the
    draft waits."""
    first, second = await site.client("first"), await site.client("second")
    await site.publish(first, STEEP)
    assert (await site.publish(first, CHEAPEST)).json()["result"]["version"] == 2
    (draft,) = (await second.get(f"{API}/tariff-drafts")).json()["items"]
    assert draft["rise_now"] != draft["rise"]
    assert "700 % more" in draft["rise_now"]
    grown = await site.decide(second, 1)
    assert (grown.status_code, grown.json()["code"]) == (409, "RISE_GREW")
    assert "700 % more" in grown.json()["detail"]
    assert [one.number for one in open_drafts(site.control.file.connection)] == [1]


@pytest.mark.parametrize(
    ("form", "status", "code", "place"),
    [
        ({"document": {**HOME, "grid": {"price": "a lot"}}}, 422, "PRICE_FORMAT", "grid.price"),
        ({"document": {"id": "home"}}, 422, "TARIFF_INVALID", "name"),
        ({"document": {**HOME, "currency": "EUR"}}, 422, "TARIFF_INVALID", "currency"),
        ({"document": HOME, "days": 0}, 400, "VALIDATION", "body.days"),
        ({"document": HOME, "days": 3_661}, 400, "VALIDATION", "body.days"),
        ({"document": HOME, "days": "7"}, 400, "VALIDATION", "body.days"),
        ({"document": HOME, "day": 7}, 400, "VALIDATION", "body.day"),
        ({"document": [HOME]}, 400, "VALIDATION", "body.document"),
        ({"document": HOME, "accounts": ["Flat 1"]}, 400, "VALIDATION", "body.accounts.0"),
        ({"document": HOME, "accounts": ["flat-7"]}, 404, "ACCOUNT_UNKNOWN", "account"),
        ({"document": HOME, "tariff_ids": ["villa"]}, 404, "TARIFF_UNKNOWN", "tariff_id"),
        ({"document": {**HOME, "id": "villa"}}, 409, "NO_ACCOUNTS", "tariff_id"),
    ],
)
async def test_what_cannot_be_replayed_says_where(
    site: Published, form: object, status: int, code: str, place: str
) -> None:
    """Problems of RFC 9457 with the place of what is wrong."""
    manager = await site.client("first")
    answer = await manager.post(REPLAY, json=form)
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, problem["code"]) == (status, code), problem
    places = {problem.get("place"), *(item["place"] for item in problem.get("errors", ()))}
    assert place in places


async def test_a_replay_over_http_is_bounded(
    site: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accounts times days: beyond the bound it names the command that has none."""
    monkeypatch.setattr("gateway.north.replays.ACCOUNT_DAYS_MAX", 13)
    manager = await site.client("first")
    answer = await manager.post(REPLAY, json={"document": DEARER})
    assert (answer.status_code, answer.json()["code"]) == (422, "REPLAY_TOO_BIG")
    assert "2 accounts and 7 days" in answer.json()["detail"]
    assert (await manager.post(REPLAY, json={"document": DEARER, "days": 6})).status_code == 200


async def test_a_new_tariff_is_published_and_says_that_nobody_is_under_it(site: Published) -> None:
    """Nothing is counted, and nothing keeps it back."""
    manager = await site.client("first")
    started = counted(site)
    result = (await site.publish(manager, {**DEARER, "id": "villa"})).json()["result"]
    assert (result["version"], started) == (1, [])
    assert result["replay"]["code"] == "NO_ACCOUNTS"
    assert "no account is under tariff villa yet" in result["replay"]["why"]


async def test_stores_that_cannot_be_read_keep_no_tariff_back(site: Published) -> None:
    """The counting process finds no ledger of this configuration: published, and it says so."""
    path = site.control.config.path
    text = await asyncio.to_thread(path.read_text, "utf-8")
    await asyncio.to_thread(path.write_text, text.replace("state_dir: state", "state_dir: gone"))
    manager = await site.client("first")
    answer = await site.publish(manager, DEARER)
    result = answer.json()["result"]
    assert (answer.status_code, result["version"]) == (201, 2)
    assert (result["replay"]["compared"], result["replay"]["code"]) == (False, "STORE_AWAY")


async def test_the_process_that_counts_has_the_lowest_priority(site: Published) -> None:
    """From its first moment, before it has read its wish; without one it ends."""
    command = site.context.settings.replay_command
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    async with asyncio.timeout(10):
        while os.getpriority(os.PRIO_PROCESS, process.pid) != 19:
            await asyncio.sleep(0.01)
    await process.communicate(b"")
    assert process.returncode == 1


# -- the terminal ----------------------------------------------------------------------------


@pytest.fixture
def run(
    site: Published,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Terminal:
    """A terminal at that site, with nobody at its keyboard."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    return Terminal(site.control.config.path, capsys)


async def published_by(desk: Terminal, folder: Path, document: object, *words: str) -> Ended:
    """`tariff publish` of a document."""
    path = folder / "draft.yaml"
    await asyncio.to_thread(path.write_text, text_of(document), "utf-8")
    return await desk.run("tariff", "publish", str(path), *words)


async def test_the_terminal_shows_who_pays_more_and_then_asks(
    site: Published, run: Terminal, tmp_path: Path
) -> None:
    """Without an answer nothing is published; with --yes it is, and the table comes before."""
    unanswered = await published_by(run, tmp_path, STEEP)
    assert unanswered.status == 1
    assert "who pays more" in unanswered.out
    assert "of 2 accounts 2 pay more, 0 less, 0 the same" in unanswered.err
    assert "Publish home?" in unanswered.err
    assert open_drafts(site.control.file.connection) == []
    drafted = await published_by(run, tmp_path, STEEP, "--yes")
    assert drafted.status == 0, drafted.err
    rows = [line.split() for line in drafted.out.splitlines() if " flat-" in line]
    assert len(rows) == 2
    assert all(row[4].startswith("+") for row in rows)
    assert "all accounts" in drafted.out
    assert drafted.out.index("all accounts") < drafted.out.index("NOT in force: grid")
    listed = (await run.run("tariff", "drafts")).out
    assert "draft 1, the 7 days before it was made: of 2 accounts 2 pay more" in listed
    assert "the largest is flat-" in listed


async def test_a_yes_at_the_keyboard_publishes_and_a_no_does_not(
    site: Published, run: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The question is about this tariff, and only yes is yes."""
    for typed, status, versions in (("n\n", 1, 1), ("\n", 1, 1), ("y\n", 0, 2)):
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        assert (await published_by(run, tmp_path, DEARER)).status == status
        assert len(site.control.found.shelf.known("home")) == versions


async def test_the_terminal_answers_programs_in_json_alone(
    site: Published, run: Terminal, tmp_path: Path
) -> None:
    """--json --yes: one JSON object, with what was compared in the result."""
    ended = await published_by(run, tmp_path, DEARER, "--yes", "--json")
    assert ended.status == 0, ended.err
    result = json.loads(ended.out)["result"]
    assert (result["version"], result["replay"]["accounts"]) == (2, 2)


async def test_the_terminal_publishes_a_new_tariff_without_a_question(
    site: Published, run: Terminal, tmp_path: Path
) -> None:
    """Nobody is under it: it says so, and there is nothing to agree to."""
    ended = await published_by(run, tmp_path, {**DEARER, "id": "villa"})
    assert (ended.status, ended.out) == (0, "published villa\n")
    assert "no account is under tariff villa yet" in ended.err


async def test_a_broken_file_is_told_before_anything_is_counted(
    site: Published, run: Terminal, tmp_path: Path
) -> None:
    """With its line, and no process is started."""
    started = counted(site)
    ended = await published_by(run, tmp_path, {**DEARER, "grid": {"price": "x"}}, "--yes")
    assert ended.status != 0
    assert "draft.yaml:" in ended.err
    assert "grid.price" in ended.err
    assert started == []
