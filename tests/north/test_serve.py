"""Listeners: taking addresses, stopping cleanly, and what uvicorn must go on doing."""

import asyncio
import signal
import socket
import stat
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import uvloop

from gateway.core.errors import ConfigurationError, StoreLockedError, StoreMissingError
from gateway.core.requests import Role
from gateway.north.context import Listen, NorthSettings, open_north
from gateway.north.serve import serve
from tests.north.clocks import RealClock
from tests.north.conftest import serving
from tests.north.small_site import Executor

pytestmark = pytest.mark.slow

API = "/api/v1"


async def test_local_socket_is_closed_to_others_and_removed_at_the_end(
    settings: NorthSettings, executor: Executor
) -> None:
    """The command line's socket has mode 0660 and is gone after a clean stop."""
    async with serving(settings, executor):
        mode = settings.socket_path.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o660
    assert not settings.socket_path.exists()


async def test_socket_of_a_dead_process_is_replaced(
    settings: NorthSettings, executor: Executor
) -> None:
    """A socket file that nobody answers at does not stop a start."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(settings.socket_path))
    async with serving(settings, executor) as site:
        assert (await site.local().get("/healthz")).status_code == 200


async def test_a_file_in_the_way_is_not_deleted(
    settings: NorthSettings, executor: Executor
) -> None:
    """What is no socket is somebody's file: the start fails and names it."""
    settings.socket_path.write_text("mine")
    with pytest.raises(ConfigurationError, match="in the way"):
        async with serving(settings, executor):
            pass
    assert settings.socket_path.read_text() == "mine"


async def test_taken_address_is_named(settings: NorthSettings, executor: Executor) -> None:
    """A port that somebody else has is one clear problem, and nothing is left behind."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        taken = replace(settings, listen=(Listen("127.0.0.1", port),))
        with pytest.raises(
            ConfigurationError, match=f"127.0.0.1:{port}: another program has this port"
        ):
            async with serving(taken, executor):
                pass
    assert not settings.socket_path.exists()


async def test_second_north_of_one_site_is_refused(
    settings: NorthSettings, executor: Executor
) -> None:
    """north.db has one writer: a second process is told who that is, the first one goes on."""
    async with serving(settings, executor) as site:
        with pytest.raises(StoreLockedError):
            async with open_north(settings, RealClock()):
                pass
        with pytest.raises(ConfigurationError, match="another north"):
            await serve(site.context, asyncio.Event())
        assert (await site.local().get("/healthz")).status_code == 200


async def test_missing_store_is_not_made_by_accident(settings: NorthSettings) -> None:
    """Without `create` a missing north.db stops the start."""
    with pytest.raises(StoreMissingError):
        async with open_north(settings, RealClock()):
            pass
    assert not settings.north_path.exists()


async def test_stop_ends_streams_and_waits_for_requests(
    settings: NorthSettings, executor: Executor
) -> None:
    """A stop ends an open stream cleanly, answers the request under way, within seconds."""
    executor.paused.set()
    loop = asyncio.get_running_loop()
    async with serving(settings, executor) as site:
        client = await site.client(Role.OPERATOR)
        stream = client.stream("GET", f"{API}/stream")
        opened = await stream.__aenter__()
        waiting = asyncio.create_task(
            client.post(
                f"{API}/accounts/flat-1/recharges",
                json={"amount": "1"},
                headers={"idempotency-key": "k-1"},
            )
        )
        await asyncio.sleep(0.2)
        began = loop.time()
        site.stop.set()
        async with asyncio.timeout(5):
            async for _ in opened.aiter_lines():
                pass
            assert (await waiting).status_code == 202
        await stream.__aexit__(None, None, None)
    assert loop.time() - began < 5


async def test_signal_handlers_stay_those_of_the_supervisor(
    settings: NorthSettings, executor: Executor
) -> None:
    """Stopping on signals is app's business: serving replaces no handler."""
    before = (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
    async with serving(settings, executor):
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


async def test_answers_tell_nothing_of_the_server(
    settings: NorthSettings, executor: Executor
) -> None:
    """No Server header; nothing of a person's data is kept by caches."""
    async with serving(settings, executor) as site:
        client = await site.client(Role.AUDITOR)
        answer = await client.get(f"{API}/accounts/flat-1")
        assert "server" not in answer.headers
        assert answer.headers["cache-control"] == "no-store"


async def test_control_away_is_said_and_wishes_are_kept(
    settings: NorthSettings, executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With control silent: not ready, readings doubtful, reads say so, a wish is kept as 202."""
    async with serving(settings, executor) as site:
        client = await site.client(Role.MANAGER)
        assert (await client.get("/readyz")).status_code == 200
        executor.paused.set()
        monkeypatch.setattr("gateway.store.live.STALE_MS", 100)
        await asyncio.sleep(0.3)
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()) == (503, {"status": "away"})
        health = (await client.get(f"{API}/health")).json()
        assert (health["status"], health["control"]) == ("degraded", "away")
        meter = (await client.get(f"{API}/meters/flat-1")).json()
        assert (meter["control"], meter["quality"]) == ("away", "uncertain")
        loop = asyncio.get_running_loop()
        began = loop.time()
        kept = await client.post(
            f"{API}/accounts/flat-1/recharges",
            json={"amount": "1"},
            headers={"idempotency-key": "k-1"},
        )
        assert kept.status_code == 202
        assert loop.time() - began < 1
        executor.paused.clear()
        for _ in range(100):
            done = (await client.get(kept.headers["location"])).json()
            if done["state"] == "executed":
                break
            await asyncio.sleep(0.02)
        assert done["state"] == "executed"


async def test_north_serves_before_control_ever_ran(
    settings: NorthSettings, tmp_path: Path
) -> None:
    """Without any file of control: meters are known and bad, money is 503, wishes are kept."""
    stop = asyncio.Event()
    urls: asyncio.Future[tuple[str, ...]] = asyncio.get_running_loop().create_future()
    async with open_north(settings, RealClock(), create=True) as context:
        served = asyncio.create_task(serve(context, stop, urls.set_result))
        async with asyncio.timeout(5):
            await urls
        transport = httpx.AsyncHTTPTransport(uds=str(settings.socket_path))
        async with httpx.AsyncClient(transport=transport, base_url="http://local") as client:
            meter = (await client.get(f"{API}/meters/flat-1")).json()
            assert (meter["control"], meter["quality"]) == ("away", "bad")
            assert (meter["supply"], meter["commissioned"]) == (None, None)
            latest = (await client.get(f"{API}/measurements/latest")).json()
            assert latest["energy_wh"] == [None, None, None]
            money = await client.get(f"{API}/accounts/flat-1")
            assert (money.status_code, money.json()["code"]) == (503, "STORE_AWAY")
            assert money.headers["retry-after"] == "1"
            kept = await client.post(
                f"{API}/accounts/flat-1/recharges",
                json={"amount": "1"},
                headers={"idempotency-key": "k-1"},
            )
            assert kept.status_code == 202
            asked = await client.get(kept.headers["location"])
            assert asked.status_code == 503
            assert (await client.get("/healthz")).status_code == 200
        stop.set()
        async with asyncio.timeout(10):
            await served


@pytest.mark.slow
def test_both_listeners_work_under_uvloop(settings: NorthSettings, executor: Executor) -> None:
    """The program runs on uvloop: TCP, the Unix socket and its peer check work there too."""

    async def run() -> None:
        async with serving(settings, executor) as site:
            client = await site.client(Role.AUDITOR)
            assert (await client.get(f"{API}/meters")).status_code == 200
            me = (await site.local().get(f"{API}/auth/me")).json()
            assert me["source"] == "local socket"

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
