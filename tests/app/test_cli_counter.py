"""`counter`: what a cashier types from the float to the count, and what is said."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.core.requests import CloseShift, Role
from tests.app.terminal import terminal
from tests.app.test_cli_site import Desk, Ended

pytestmark = pytest.mark.slow


@pytest.fixture
async def desk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Desk]:
    """A terminal that is wide enough for every table."""
    monkeypatch.setenv("COLUMNS", "200")
    async with terminal(tmp_path, capsys, meters=2) as made:
        yield made


def cells(out: str) -> list[list[str]]:
    """The words of every line."""
    return [line.split() for line in out.splitlines()]


async def test_a_shift_from_the_float_to_the_count(desk: Desk) -> None:
    """Open, recharge, look, count: the Z report names what is missing and where it is posted."""
    begun = await desk.run("counter", "open", "till-1", "--float", "100.00")
    assert begun == Ended(0, "shift 1 is open at till-1\n", "")
    await desk.run("account", "recharge", "flat-1", "30.50")
    await desk.run("account", "recharge", "flat-1", "20", "--provider", "card")
    running = await desk.run("counter", "report", "--drawer", "till-1")
    assert running.out.startswith("Shift 1: X report, shift still open\n")
    assert ["expected", "150.5"] in cells(running.out)
    words = ("--counted", "counter=128.50", "--counted", "card=20", "--note", "gave too much")
    closed = await desk.run("counter", "close", "till-1", *words, "--key", "k-z")
    assert (closed.status, closed.err) == (0, "")
    assert closed.out.startswith("Shift 1: Z report\n")
    assert ["difference", "-2"] in cells(closed.out)
    assert ["posted", "by", "transaction", "3"] in cells(closed.out)
    assert ["note", "gave", "too", "much"] in cells(closed.out)
    by_means = [line for line in cells(closed.out) if line[:1] == ["counter"]]
    assert by_means == [["counter", "1", "30.5", "0", "0", "100", "130.5", "128.5", "-2"]]
    stored = await desk.site.context.records.request("k-z")
    assert stored is not None
    counted = (20_000_000_000, 128_500_000_000)
    assert stored.request.body == CloseShift(1, ("card", "counter"), counted, "gave too much")
    again = await desk.run("counter", "close", "till-1", *words, "--key", "k-z")
    assert again == closed
    listed = json.loads((await desk.run("counter", "list", "--json")).out)
    assert [(shift["number"], shift["difference"]) for shift in listed] == [(1, "-2")]
    assert json.loads((await desk.run("counter", "list", "--open", "--json")).out) == []
    assert "till-1" in (await desk.run("counter", "list")).out


async def test_refusals_are_told_with_their_code(desk: Desk) -> None:
    """Status 1, the code first, nothing on standard output."""
    refused: list[tuple[tuple[str, ...], str]] = [
        (("report", "7"), "SHIFT_UNKNOWN"),
        (("report", "--drawer", "till-1"), "SHIFT_UNKNOWN"),
        (("close", "till-1", "--counted", "counter=0"), "SHIFT_UNKNOWN"),
        (("open", "Till 1"), "VALIDATION"),
        (("open", "till-1", "--float", "-5"), "VALIDATION"),
    ]
    for words, code in refused:
        ended = await desk.run("counter", *words)
        assert (ended.status, ended.out, ended.err.partition(":")[0]) == (1, "", code)
    await desk.run("counter", "open", "till-1")
    refused = [
        (("open", "till-2"), "SHIFT_OPEN"),
        (("close", "till-1", "--counted", "card=0"), "COUNT_MISSING"),
        (("close", "till-1", "--counted", "counter=0", "--counted", "crad=5"), "PROVIDER_UNKNOWN"),
        (("close", "till-1", "--counted", "counter=1.0000000001"), "VALIDATION"),
        (("close", "till-1", "--counted", "counter=five"), "VALIDATION"),
    ]
    for words, code in refused:
        ended = await desk.run("counter", *words)
        assert (ended.status, ended.out, ended.err.partition(":")[0]) == (1, "", code)


@pytest.mark.parametrize(
    "words",
    [
        ("close", "till-1"),
        ("close", "till-1", "--counted", "12"),
        ("close", "till-1", "--counted", "=12"),
        ("close", "till-1", "--counted", "counter="),
        ("close", "till-1", "--counted", "counter=1", "--counted", "counter=2"),
        ("report",),
        ("report", "1", "--drawer", "till-1"),
        ("open",),
    ],
)
async def test_wrong_usage_asks_nothing(desk: Desk, words: tuple[str, ...]) -> None:
    """What cannot be a count is told before anybody is asked: status 2."""
    ended = await desk.run("counter", *words)
    assert (ended.status, ended.out) == (2, "")
    assert desk.executor.executed == 0


async def test_operator_counts_blind(desk: Desk) -> None:
    """Over the API an operator sees how many, not how much, until the count; others see it all."""
    client = await desk.site.client(Role.OPERATOR)
    headers = {"idempotency-key": "k-1"}
    await client.post("/api/v1/shifts", json={"drawer": "till-1"}, headers=headers)
    taken = {"amount": "12.34"}
    headers = {"idempotency-key": "k-2"}
    await client.post("/api/v1/accounts/flat-1/recharges", json=taken, headers=headers)
    shown = await client.get("/api/v1/shifts/1")
    assert "12.34" not in shown.text
    body = shown.json()
    assert (body["recharges"], body["expected"], body["blind"]) == (1, None, True)
    listed = await client.get("/api/v1/shifts")
    assert "12.34" not in listed.text
    for role in (Role.MANAGER, Role.AUDITOR):
        seen = (await (await desk.site.client(role)).get("/api/v1/shifts/1")).json()
        assert (seen["expected"], seen["blind"]) == ("12.34", False)
    wrong = {"counted": {"counter": "1", "Bad Name": "1"}}
    headers = {"idempotency-key": "k-3"}
    refused = await client.post("/api/v1/shifts/1/closing", json=wrong, headers=headers)
    assert refused.status_code == 400
    mine = {"counted": {"counter": "12.00"}, "currency": "INR"}
    headers = {"idempotency-key": "k-4"}
    closed = await client.post("/api/v1/shifts/1/closing", json=mine, headers=headers)
    assert (closed.status_code, closed.json()["result"]["difference"]) == (201, "-0.34")
    after = (await client.get("/api/v1/shifts/1")).json()
    assert (after["expected"], after["counted"], after["blind"]) == ("12.34", "12", False)


async def test_shifts_are_paged_newest_first(desk: Desk) -> None:
    """A cursor leads through all shifts; the open ones have a list of their own."""
    for number in range(1, 6):
        await desk.run("counter", "open", "till-1")
        if number < 5:
            await desk.run("counter", "close", "till-1", "--counted", "counter=0")
    client = await desk.site.client(Role.AUDITOR)
    numbers: list[int] = []
    cursor = ""
    while True:
        page = (await client.get(f"/api/v1/shifts?limit=2&cursor={cursor}")).json()
        numbers += [shift["number"] for shift in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert numbers == [5, 4, 3, 2, 1]
    standing = (await client.get("/api/v1/shifts?state=open")).json()
    assert [shift["number"] for shift in standing["items"]] == [5]
    assert (await client.get("/api/v1/shifts?state=maybe")).status_code == 400
