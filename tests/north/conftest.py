"""A north that really serves, over a real site, on loopback."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import pytest

from gateway.core.requests import Role
from gateway.north.context import NorthContext, NorthSettings, open_north
from gateway.north.serve import serve
from gateway.north.tokens import create_token
from tests.north.clocks import RealClock
from tests.north.small_site import Executor, settings_of


@dataclass
class Served:
    """A running north: its resources, its address, and who executes requests behind it."""

    context: NorthContext
    url: str
    executor: Executor
    stop: asyncio.Event
    secrets: dict[Role, str] = field(default_factory=dict)
    clients: list[httpx.AsyncClient] = field(default_factory=list)

    async def client(self, role: Role | None) -> httpx.AsyncClient:
        """A client that holds a token of this role; None: no token at all."""
        headers = {}
        if role is not None:
            if role not in self.secrets:
                _, self.secrets[role] = await create_token(self.context, label=role, role=role)
            headers["authorization"] = f"Bearer {self.secrets[role]}"
        client = httpx.AsyncClient(base_url=self.url, headers=headers, timeout=10)
        self.clients.append(client)
        return client

    def local(self) -> httpx.AsyncClient:
        """A client over the Unix socket."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.context.settings.socket_path))
        client = httpx.AsyncClient(transport=transport, base_url="http://local", timeout=10)
        self.clients.append(client)
        return client


@asynccontextmanager
async def serving(settings: NorthSettings, executor: Executor) -> AsyncIterator[Served]:
    """Serve a site until the block ends."""
    stop = asyncio.Event()
    urls: asyncio.Future[tuple[str, ...]] = asyncio.get_running_loop().create_future()
    async with open_north(settings, RealClock(), create=True) as context:
        served = asyncio.create_task(serve(context, stop, urls.set_result))
        served.add_done_callback(partial(_pass_on, urls))
        async with asyncio.timeout(10):
            site = Served(context, (await urls)[0], executor, stop)
        try:
            yield site
        finally:
            for client in site.clients:
                await client.aclose()
            stop.set()
            async with asyncio.timeout(10):
                await served


def _pass_on(urls: asyncio.Future[tuple[str, ...]], served: asyncio.Task[None]) -> None:
    if not urls.done():
        urls.set_exception(served.exception() or RuntimeError("north ended before it served"))


@pytest.fixture
def settings(tmp_path: Path) -> NorthSettings:
    """Settings of a fresh site."""
    return settings_of(tmp_path)


@pytest.fixture
def executor(settings: NorthSettings) -> Iterator[Executor]:
    """Who executes requests at that site."""
    running = Executor(settings)
    running.start()
    yield running
    running.stop()


@pytest.fixture
async def site(settings: NorthSettings, executor: Executor) -> AsyncIterator[Served]:
    """A running north over that site."""
    async with serving(settings, executor) as served:
        yield served
