"""The process that counts a replay: one at a time, ended in time, and never in anybody's way.

What is counted is tested in `tests/app/test_publish_replay.py`; here small programs take the place
of the one that counts, so that they can be slow, fall over or talk nonsense.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from gateway.core.errors import RefusedError, StoreAwayError
from gateway.core.requests import Role
from gateway.north.context import NorthSettings
from gateway.north.replays import KEPT_NS, ReplayRunner, ReplayWish
from gateway.store.accounts import AccountPoint, add_point
from tests.north.clocks import ManualClock
from tests.north.conftest import Served, serving
from tests.north.small_site import Executor

pytestmark = pytest.mark.slow

API = "/api/v1"
ONE = ReplayWish({"id": "home"}, 7)
OTHER = ReplayWish({"id": "home"}, 8)
VILLA = {
    "id": "villa",
    "name": "Villa",
    "currency": "INR",
    "timezone": "Asia/Kolkata",
    "effective_from": "2026-01-01T00:00:00+05:30",
    "grid": {"price": "8.00"},
}
# Each writes a line into a file when it begins, and its process id with it.
BEGUN = "import json,os,sys,time;open(sys.argv[1],'a').write(f'{os.getpid()}\\n');"
ANSWERS = BEGUN + "print(json.dumps({'report':{'wish':json.load(sys.stdin)}}))"
SLOW = BEGUN + "time.sleep(60)"
BRIEFLY = BEGUN + "time.sleep(1.0);print(json.dumps({'report':{'by':os.getpid()}}))"


def runner_of(program: str, folder: Path, deadline_s: float = 30.0) -> ReplayRunner:
    """A runner of a small program."""
    command = (sys.executable, "-c", program, str(folder / "begun"))
    return ReplayRunner(command, ManualClock(), deadline_s=deadline_s)


def begun(folder: Path) -> list[int]:
    """The process ids of all that began."""
    path = folder / "begun"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


async def until_begun(folder: Path, count: int = 1) -> list[int]:
    """Wait until so many have begun."""
    async with asyncio.timeout(10):
        while len(begun(folder)) < count:
            await asyncio.sleep(0.02)
    return begun(folder)


def is_there(pid: int) -> bool:
    """Whether a process is still there."""
    return Path(f"/proc/{pid}").exists()


async def until_gone(pid: int) -> None:
    """Wait until a process is no more."""
    async with asyncio.timeout(10):
        while is_there(pid):
            await asyncio.sleep(0.02)


async def test_the_wish_arrives_as_it_was_asked(tmp_path: Path) -> None:
    """Document, days, accounts, and the bounds that the process keeps to itself."""
    wish = ReplayWish({"id": "home", "name": "Grüße"}, 7, ("flat-1",), ("home",))
    report = await runner_of(ANSWERS, tmp_path).ask(wish)
    asked = report["wish"]
    assert isinstance(asked, dict)
    assert asked.pop("deadline_s") == 35
    assert asked.pop("account_days_max") > 0
    assert asked == {
        "document": {"id": "home", "name": "Grüße"},
        "days": 7,
        "accounts": ["flat-1"],
        "tariff_ids": ["home"],
    }


async def test_a_second_asker_of_something_else_is_told_to_come_again(tmp_path: Path) -> None:
    """The same question is answered once for both, another is refused; then it is free again."""
    runner = runner_of(BRIEFLY, tmp_path)
    first = asyncio.create_task(runner.ask(ONE))
    await until_begun(tmp_path)
    with pytest.raises(RefusedError) as busy:
        await runner.ask(OTHER)
    assert busy.value.refusal_code == "REPLAY_BUSY"
    assert "ask again" in busy.value.message
    assert await runner.ask(ONE) == await first
    assert len(begun(tmp_path)) == 1
    assert await runner.ask(OTHER) != await first


async def test_whoever_publishes_waits_in_line_and_takes_what_is_known(tmp_path: Path) -> None:
    """After the one that runs; a report of ten minutes ago is too old."""
    runner = runner_of(BRIEFLY, tmp_path)
    first = asyncio.create_task(runner.ask(ONE))
    await until_begun(tmp_path)
    second = await runner.ask_in_line(OTHER)
    assert first.done()
    assert len(begun(tmp_path)) == 2
    assert await runner.ask_in_line(OTHER) is second
    clock = runner._clock
    assert isinstance(clock, ManualClock)
    clock.pass_s(KEPT_NS / 1e9)
    assert await runner.ask_in_line(OTHER) != second
    assert len(begun(tmp_path)) == 3


async def test_whoever_waits_in_line_does_not_wait_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that runs goes on, and whoever publishes goes on without a replay."""
    monkeypatch.setattr("gateway.north.replays.LINE_S", 0.3)
    runner = runner_of(SLOW, tmp_path)
    first = asyncio.create_task(runner.ask(ONE))
    (pid,) = await until_begun(tmp_path)
    with pytest.raises(RefusedError) as busy:
        await runner.ask_in_line(OTHER)
    assert busy.value.refusal_code == "REPLAY_BUSY"
    assert is_there(pid)
    first.cancel()
    await until_gone(pid)


async def test_a_replay_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    """At its deadline: the process is gone, and the answer names what takes its time."""
    runner = runner_of(SLOW, tmp_path, deadline_s=0.7)
    with pytest.raises(RefusedError) as late:
        await runner.ask(ONE)
    assert late.value.refusal_code == "REPLAY_TIMEOUT"
    assert "prepaid-gateway tariff replay" in late.value.message
    (pid,) = begun(tmp_path)
    await until_gone(pid)


async def test_a_replay_that_nobody_waits_for_is_ended(tmp_path: Path) -> None:
    """The first one to go ends nothing that the second one waits for; the last one does."""
    runner = runner_of(SLOW, tmp_path)
    first, second = (asyncio.create_task(runner.ask(ONE)) for _ in range(2))
    (pid,) = await until_begun(tmp_path)
    first.cancel()
    await asyncio.sleep(0.3)
    assert is_there(pid)
    second.cancel()
    await until_gone(pid)
    await asyncio.wait({first, second})
    assert first.cancelled()
    assert second.cancelled()


async def test_whoever_asks_again_at_once_is_counted_anew(tmp_path: Path) -> None:
    """What was given up a moment ago is not joined, whatever is asked then."""
    program = (
        BEGUN + "time.sleep(0 if json.load(sys.stdin)['days']>7 else 60);print('{\"report\":{}}')"
    )
    for again in (ReplayWish(OTHER.document, 9), OTHER):
        runner = runner_of(program, tmp_path)
        first = asyncio.create_task(runner.ask(ONE))
        await until_begun(tmp_path, len(begun(tmp_path)) + 1)
        first.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert await runner.ask(again) == {}
    runner = runner_of(BRIEFLY, tmp_path)
    first = asyncio.create_task(runner.ask(ONE))
    await until_begun(tmp_path, len(begun(tmp_path)) + 1)
    first.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert set(await runner.ask(ONE)) == {"by"}


async def test_whoever_publishes_gets_no_report_of_another_draft(tmp_path: Path) -> None:
    """The replay of its draft was given up, and somebody else's began before its turn came."""
    answer = "print(json.dumps({'report':{'days':json.load(sys.stdin)['days']}}))"
    runner = runner_of(BEGUN + "time.sleep(0.5);" + answer, tmp_path)
    gone = asyncio.create_task(runner.ask(ONE))
    await until_begun(tmp_path)
    gone.cancel()
    await asyncio.wait({gone})
    other = asyncio.create_task(runner.ask(OTHER))
    await asyncio.sleep(0)
    assert await runner.ask_in_line(ONE) == {"days": 7}
    assert await other == {"days": 8}


async def test_the_end_of_north_ends_it_too(tmp_path: Path) -> None:
    """Nothing goes on counting for nobody."""
    runner = runner_of(SLOW, tmp_path)
    asking = asyncio.create_task(runner.ask(ONE))
    (pid,) = await until_begun(tmp_path)
    await runner.close()
    await until_gone(pid)
    await asyncio.wait({asking})


@pytest.mark.parametrize(
    "program",
    ["raise SystemExit(3)", "import os; os.kill(os.getpid(), 9)", "print('{')", "print('[]')", ""],
)
async def test_a_process_that_falls_over_is_told_as_that(tmp_path: Path, program: str) -> None:
    """Whatever its end, the caller hears a code, and the next one is counted."""
    runner = runner_of(program, tmp_path)
    for _ in range(2):
        with pytest.raises(RefusedError) as failed:
            await runner.ask(ONE)
        assert failed.value.refusal_code == "REPLAY_FAILED"


async def test_a_process_that_does_not_even_begin_is_told_as_that(tmp_path: Path) -> None:
    """No memory or no process left for it, or no such program: a refusal like any other."""
    runner = ReplayRunner((str(tmp_path / "nowhere"),), ManualClock())
    with pytest.raises(RefusedError) as failed:
        await runner.ask(ONE)
    assert failed.value.refusal_code == "REPLAY_FAILED"


async def test_refusals_of_the_process_come_through(tmp_path: Path) -> None:
    """With their code and place; a store that is away is one."""
    told = {"code": "ACCOUNT_UNKNOWN", "message": "there is no account x", "place": "account"}
    with pytest.raises(RefusedError) as unknown:
        await runner_of(f"print({json.dumps(told)!r})", tmp_path).ask(ONE)
    assert (unknown.value.refusal_code, unknown.value.place) == ("ACCOUNT_UNKNOWN", "account")
    away = {"code": "STORE_AWAY", "message": "cannot be read", "place": ""}
    with pytest.raises(StoreAwayError):
        await runner_of(f"print({json.dumps(away)!r})", tmp_path).ask(ONE)


# -- over HTTP -------------------------------------------------------------------------------


@asynccontextmanager
async def counting(
    settings: NorthSettings, executor: Executor, program: str, folder: Path
) -> AsyncIterator[Served]:
    """North with a small program, and an account under `villa`."""
    command = (sys.executable, "-c", program, str(folder / "begun"))
    async with serving(replace(settings, replay_command=command), executor) as site:
        client = await site.client(Role.MANAGER)
        await publish(client, VILLA, "villa-1")
        executor.ledger.write(lambda c: add_point(c, AccountPoint("flat-1", "flat-1", "villa", 1)))
        yield site


async def publish(client: httpx.AsyncClient, document: object, key: str) -> httpx.Response:
    """Ask for a version."""
    return await client.post(
        f"{API}/tariffs", json=document, headers={"idempotency-key": key}, timeout=30
    )


@pytest.fixture
def executor(settings: NorthSettings) -> Iterator[Executor]:
    """Who executes requests there."""
    running = Executor(settings)
    running.start()
    yield running
    running.stop()


async def test_a_busy_replay_is_a_problem_that_says_when_to_come_again(
    settings: NorthSettings, executor: Executor, tmp_path: Path
) -> None:
    """503 with Retry-After; everybody else is answered at once meanwhile."""
    async with counting(settings, executor, SLOW, tmp_path) as site:
        client = await site.client(Role.AUDITOR)
        form = {"document": VILLA}
        first = asyncio.create_task(client.post(f"{API}/tariffs/replay", json=form))
        (pid,) = await until_begun(tmp_path)
        busy = await client.post(f"{API}/tariffs/replay", json={**form, "days": 8})
        assert (busy.status_code, busy.json()["code"]) == (503, "REPLAY_BUSY")
        assert busy.json()["retry"] == "backoff"
        assert int(busy.headers["retry-after"]) >= 1
        begun_s = time.monotonic()
        assert (await client.get(f"{API}/tariffs")).status_code == 200
        assert time.monotonic() - begun_s < 2
        # The caller goes away, and what was counted for it with it.
        first.cancel()
        await until_gone(pid)
        again = asyncio.create_task(client.post(f"{API}/tariffs/replay", json={**form, "days": 8}))
        await until_begun(tmp_path, 2)
        again.cancel()


async def test_a_failed_replay_keeps_no_tariff_back(
    settings: NorthSettings, executor: Executor, tmp_path: Path
) -> None:
    """Published all the same; what was not compared and why is kept with a draft."""
    async with counting(settings, executor, "raise SystemExit(3)", tmp_path) as site:
        client = await site.client(Role.MANAGER)
        answer = await publish(client, {**VILLA, "grid": {"price": "16.00"}}, "k-1")
        assert (answer.status_code, answer.json()["result"]["draft"]) == (201, 1)
        (draft,) = (await client.get(f"{API}/tariff-drafts")).json()["items"]
        assert (draft["replay"]["compared"], draft["replay"]["code"]) == (False, "REPLAY_FAILED")
        assert draft["replay"]["days"] == 7


async def test_two_of_the_same_publication_are_one(
    settings: NorthSettings, executor: Executor, tmp_path: Path
) -> None:
    """The client asks again while the first is still being counted: one wish, no conflict."""
    program = BEGUN + "time.sleep(1);print(json.dumps({'report':{'summary':{'by':os.getpid()}}}))"
    async with counting(settings, executor, program, tmp_path) as site:
        client = await site.client(Role.MANAGER)
        document = {**VILLA, "grid": {"price": "9.00"}}
        answers = await asyncio.gather(*(publish(client, document, "k-1") for _ in range(2)))
        assert sorted(answer.status_code for answer in answers) == [200, 201]
        assert len(begun(tmp_path)) == 1
        stored = await site.context.records.request("k-1")
        assert stored is not None
        later = await publish(client, document, "k-1")
        assert later.status_code == 200
        other = await publish(client, {**document, "name": "Hut"}, "k-1")
        assert (other.status_code, other.json()["code"]) == (409, "IDEMPOTENCY_CONFLICT")
        assert len(begun(tmp_path)) == 1
