"""A real control and a real north over the same stores, in one loop: two flats that used energy."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import httpx

from gateway.app.control.inlet import Inlet
from gateway.app.north import north_settings
from gateway.app.paths import make_runtime_dir, paths_of
from gateway.core.requests import Role
from gateway.north.context import Listen, NorthContext, open_north
from gateway.north.serve import serve
from gateway.north.tokens import create_token
from gateway.store.commands import load_request_cursor
from gateway.store.ledger import LEDGER
from gateway.store.reader import StoreReader
from gateway.store.requests import RequestReader
from tests.app.control_site import ControlSite, HandClock
from tests.app.test_tariff_replay import HOME, begun

API = "/api/v1"
STEPS = 60  # fifteen hours


def priced(peak: str, first: str, rest: str, **more: object) -> dict[str, object]:
    """The flats' tariff at other prices of the grid, from March on."""
    bands = {
        "peak": {"price": peak, "when": [{"from": "18:00", "to": "22:00"}]},
        "rest": {"blocks": [{"upto_kwh": 20, "price": first}, {"price": rest}]},
    }
    return {**HOME, "effective_from": "2027-03-01", "grid": {"bands": bands}, **more}


DEARER: Final = priced("10.00", "4.00", "7.00")
STEEP: Final = priced("18.00", "7.00", "12.50")
CHEAPER: Final = priced("8.00", "3.00", "6.00")
# A quarter of what is steep, and in force before it.
CHEAPEST: Final = priced("4.50", "1.75", "3.125", effective_from="2027-02-01")


class _NorthClock:
    """The site's time, which stands, for whoever waits really."""

    def __init__(self, clock: HandClock) -> None:
        self._clock = clock

    def mono_ns(self) -> int:
        return self._clock.mono_ns()

    def utc_ms(self) -> int:
        return self._clock.utc_ms()

    def loop_delay_s(self, seconds: float) -> float:
        return seconds

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass
class Published:
    """The running site, and its managers."""

    control: ControlSite
    context: NorthContext
    url: str
    clients: list[httpx.AsyncClient] = field(default_factory=list)
    keys: int = 0

    async def client(self, label: str, role: Role = Role.MANAGER) -> httpx.AsyncClient:
        """Somebody with a key of their own."""
        _, secret = await create_token(self.context, label=label, role=role)
        headers = {"authorization": f"Bearer {secret}"}
        client = httpx.AsyncClient(base_url=self.url, headers=headers, timeout=60)
        self.clients.append(client)
        return client

    async def publish(
        self, client: httpx.AsyncClient, document: object, key: str = ""
    ) -> httpx.Response:
        """Ask for a version."""
        self.keys += 1
        headers = {"idempotency-key": key or f"publish-{self.keys}"}
        return await client.post(f"{API}/tariffs", json=document, headers=headers)

    async def decide(self, client: httpx.AsyncClient, number: int) -> httpx.Response:
        """Approve a draft."""
        self.keys += 1
        headers = {"idempotency-key": f"decide-{self.keys}"}
        form = {"accept": True, "reason": "agreed"}
        path = f"{API}/tariff-drafts/{number}/decision"
        return await client.post(path, json=form, headers=headers)


@asynccontextmanager
async def published(folder: Path) -> AsyncIterator[Published]:
    """Serve it, control at work."""
    flats = await begun(folder)
    await flats.live(STEPS)
    await flats.site.books.post((0, 1))
    await flats.site.display.flush()
    async with running(flats.site) as site:
        yield site


@asynccontextmanager
async def running(control: ControlSite) -> AsyncIterator[Published]:
    """North over a control that carries out what it is asked."""
    paths = paths_of(control.config)
    make_runtime_dir(paths.north_runtime_dir)
    control.live.beat(control.clock.utc_ms())
    settings = replace(north_settings(control.config), listen=(Listen("127.0.0.1", 0),))
    stop = asyncio.Event()
    urls: asyncio.Future[tuple[str, ...]] = asyncio.get_running_loop().create_future()
    try:
        async with open_north(settings, _NorthClock(control.clock)) as context:
            served = asyncio.create_task(serve(context, stop, urls.set_result))
            working = asyncio.create_task(_work(control, stop))
            site = Published(control, context, (await asyncio.wait_for(urls, 10))[0])
            try:
                yield site
            finally:
                for client in site.clients:
                    await client.aclose()
                stop.set()
                await asyncio.wait_for(asyncio.gather(served, working), 20)
    finally:
        control.crash()


async def _work(control: ControlSite, stop: asyncio.Event) -> None:
    paths = paths_of(control.config)
    requests = RequestReader(paths.north_dir / "north.db")
    ledger = StoreReader(paths.ledger, LEDGER)
    inlet = Inlet(
        requests,
        ledger,
        executor=control.executor,
        engine=control.engine,
        books=control.books,
        clock=control.clock,
        cursor=load_request_cursor(control.file.connection),
    )
    while not stop.is_set():
        inlet.look()
        await asyncio.sleep(0.01)
    requests.close()
    ledger.close()


def text_of(document: object) -> str:
    """A document as it is written into a file: JSON is YAML."""
    return json.dumps(document, indent=2)
