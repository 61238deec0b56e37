"""`tariff publish`, `drafts` and `decide` from a terminal."""

import json
from pathlib import Path

import pytest

from gateway.core.requests import Role
from gateway.north.tokens import create_token
from tests.app import test_cli_site
from tests.app.test_cli_site import Desk

pytestmark = pytest.mark.slow

peer, config, settings = test_cli_site.peer, test_cli_site.config, test_cli_site.settings
executor, desk = test_cli_site.executor, test_cli_site.desk
TARIFF = """\
id: villa
name: Villa
currency: INR
timezone: Asia/Kolkata
effective_from: "2026-01-01"
grid: {{price: "{price}"}}
"""


async def publish(desk: Desk, folder: Path, price: str) -> test_cli_site.Ended:
    """`tariff publish` of the villa at a price."""
    path = folder / f"{price}.yaml"
    path.write_text(TARIFF.format(price=price), encoding="utf-8")
    return await desk.run("tariff", "publish", str(path))


async def test_a_draft_is_no_publication_and_one_person_is_not_two(
    desk: Desk, tmp_path: Path
) -> None:
    """The terminal says NOT in force, what rises and the next command; approving it here fails."""
    assert (await publish(desk, tmp_path, "8.00")).out == "published villa\n"
    ended = await publish(desk, tmp_path, "14.00")
    assert ended.status == 0
    first, second = ended.out.splitlines()
    assert first.startswith("NOT in force: grid")
    assert first.endswith("75 % more.")
    assert "prepaid-gateway tariff decide 1 --approve (or --refuse) --reason WHY" in second
    shown = (await desk.run("tariff", "drafts")).out
    assert "times in Asia/Kolkata" in shown
    assert "villa" in shown
    listed = json.loads((await desk.run("tariff", "drafts", "--json")).out)["items"]
    assert [(item["number"], item["rise"]) for item in listed] == [
        (1, first.removeprefix("NOT in force: ").removesuffix("."))
    ]
    same = await desk.run("tariff", "decide", "1", "--approve", "--reason", "sure")
    assert (same.status, same.out) == (1, "")
    assert same.err.startswith("SAME_PERSON: draft 1 is your own")
    refused = await desk.run("tariff", "decide", "1", "--refuse", "--reason", "a mistake")
    assert refused.out == "draft 1 is refused: its tariff never comes into force\n"
    gone = await desk.run("tariff", "decide", "1", "--refuse", "--reason", "again")
    assert (gone.status, gone.err.partition(":")[0]) == (1, "DRAFT_UNKNOWN")


async def test_the_draft_of_somebody_else_is_published_from_here(
    desk: Desk, tmp_path: Path
) -> None:
    """A manager with a key drafts it over HTTP; the person at the machine approves."""
    await publish(desk, tmp_path, "8.00")
    client = await desk.site.client(None)
    _, secret = await create_token(desk.site.context, label="boss", role=Role.MANAGER)
    form = {
        "id": "villa",
        "name": "Villa",
        "currency": "INR",
        "timezone": "Asia/Kolkata",
        "effective_from": "2026-02-01",
        "grid": {"price": "16.00"},
    }
    headers = {"authorization": f"Bearer {secret}", "idempotency-key": "k-1"}
    answer = await client.post("/api/v1/tariffs", json=form, headers=headers)
    assert answer.json()["result"]["draft"] == 1
    ended = await desk.run("tariff", "decide", "1", "--approve", "--reason", "agreed")
    assert (ended.status, ended.out) == (0, "published villa, version 2\n")


@pytest.mark.parametrize(
    "words",
    [
        ("tariff", "decide", "1", "--reason", "x"),
        ("tariff", "decide", "1", "--approve"),
        ("tariff", "decide", "one", "--approve", "--reason", "x"),
    ],
)
async def test_half_a_decision_is_none(desk: Desk, words: tuple[str, ...]) -> None:
    """Without a word, a reason or a number: status 2, nothing asked."""
    ended = await desk.run(*words)
    assert (ended.status, ended.out) == (2, "")
    assert desk.executor.executed == 0


async def test_published_versions_are_listed_and_shown(desk: Desk, tmp_path: Path) -> None:
    """`tariff list` has the newest, `tariff show` any version with its prices."""
    for price in ("8.00", "9.00"):
        await publish(desk, tmp_path, price)
    listed = (await desk.run("tariff", "list")).out
    (row,) = [line.split() for line in listed.splitlines() if "villa" in line]
    assert row[:2] == ["villa", "2"]
    old = await desk.run("tariff", "show", "villa", "--version", "1")
    assert (old.status, old.err) == (0, "")
    assert old.out.startswith("villa, version 1 of 2, in force from ")
    assert " 8" in old.out
    newest = json.loads((await desk.run("tariff", "show", "villa", "--json")).out)
    assert (newest["version"], newest["document"]["grid"]) == (2, {"price": "9.00"})
    gone = await desk.run("tariff", "show", "villa", "--version", "3")
    assert (gone.status, gone.err.partition(":")[0]) == (1, "TARIFF_UNKNOWN")
