"""A running node updates itself over the broker: signed, in chunks, on trial, then proved."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gateway.app.firmware.build import compiled
from gateway.app.firmware.bundle import Bundle
from tests.firmware.chip_node import ChipNode
from tests.firmware.micropython import FIRMWARE
from tests.firmware.node_site import Gateway, Site
from tests.firmware.real_device import signed
from tests.firmware.releases import key
from tests.firmware.tls_site import tls_site
from tests.firmware.unix_node import needs_unix
from tests.south.mosquitto import needs_broker

pytestmark = [pytest.mark.slow, needs_broker]


def release(version: str, security: int) -> Bundle:
    """The very application, signed as a release."""
    keys = [key("current").public, key("next").public]
    return signed(compiled(FIRMWARE / "node", keys), version, security)


@asynccontextmanager
async def plain_site(place: Path) -> AsyncIterator[Site]:
    """A site without TLS, its node on the WebAssembly build."""
    made = Site(place, "mpy")
    try:
        yield made
    finally:
        await made.stop()


@pytest.fixture(params=["plain", pytest.param("tls", marks=needs_unix)])
async def site(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """A site whose node takes updates, without and with TLS."""
    async with plain_site(tmp_path) if request.param == "plain" else tls_site() as made:
        assert isinstance(made.node, ChipNode)
        made.node.install(release("1.0.0", 1))
        yield made


def _asks(offset: int, told: dict[str, Any]) -> bool:
    return (told["kind"], told.get("offset")) == ("update_want", offset)


async def serve(gateway: Gateway, raw: bytes, since: int) -> None:
    """Answer every wish for a chunk; the third one twice, and a wrong one before it."""
    offset = 0
    while offset < len(raw):
        wish = await gateway.wait("event", partial(_asks, offset), since)
        chunk = raw[offset : offset + wish["count"]]
        message = offset.to_bytes(4, "big") + chunk
        if offset == 2_048:
            await gateway.publish("firmware", (offset + 1).to_bytes(4, "big") + chunk)
            await gateway.publish("firmware", message)
        await gateway.publish("firmware", message)
        offset += len(chunk)


async def test_a_running_node_updates_itself_and_proves_it(site: Site) -> None:
    """The relay stays where it is; the other slot runs on trial until the gateway is heard."""
    gateway = site.gateway
    session = await site.start()
    await gateway.wait("telemetry", lambda t: t["quality"] == "good")
    assert (await gateway.command(session, "relay", closed=False))["ok"]
    await site.wait_relay(closed=False)
    moves = site.node.moves
    bundle = release("2.0.0", 2)
    since = len(gateway.heard)
    offer = {
        "version": "2.0.0",
        "size": len(bundle.raw),
        "sha256": bundle.sha256,
        "security": 2,
    }
    assert (await gateway.command(session, "update", **offer))["code"] == "DONE"
    await asyncio.wait_for(serve(gateway, bundle.raw, since), 60)
    status = await gateway.wait("status", lambda s: s["online"] and s["session"] != session, since)
    assert (status["firmware"], status["slot"], status["trial"]) == ("2.0.0", "b", True)
    session = status["session"]
    await gateway.wait("telemetry", lambda t: t["session"] == session, since)
    assert gateway.events("update_proved") == []
    assert (await gateway.command(session, "read"))["ok"]
    await gateway.wait("event", lambda e: e["kind"] == "update_proved", since)
    status = await gateway.wait("status", lambda s: s["session"] == session and not s["trial"])
    assert (status["relay"], status["reasons"], site.node.moves) == ("open", ["command"], moves)
    refused = await gateway.command(session, "update", **(offer | {"security": 1}))
    assert refused["code"] == "UPDATE_OLD"


async def test_a_bundle_that_nobody_signed_is_refused_by_the_running_node(site: Site) -> None:
    """The event says why; the node runs on."""
    gateway = site.gateway
    session = await site.start()
    raw = bytearray(release("2.0.0", 2).raw)
    raw[40] ^= 1
    since = len(gateway.heard)
    offer = {"version": "2.0.0", "size": len(raw), "sha256": "0" * 64, "security": 2}
    assert (await gateway.command(session, "update", **offer))["code"] == "DONE"
    await asyncio.wait_for(serve(gateway, bytes(raw), since), 60)
    told = await gateway.wait("event", lambda e: e["kind"] == "update_failed", since)
    assert told["code"] == "UPDATE_SIGNATURE"
    assert (await gateway.command(session, "read"))["ok"]


async def test_a_running_node_gives_up_an_update_that_is_stopped(site: Site) -> None:
    """It says so, its status too, and asks for nothing more; the same update may begin again."""
    gateway = site.gateway
    session = await site.start()
    bundle = release("2.0.0", 2)
    offer = {
        "version": "2.0.0",
        "size": len(bundle.raw),
        "sha256": bundle.sha256,
        "security": 2,
    }
    assert (await gateway.command(session, "update", **offer))["code"] == "DONE"
    await gateway.wait("event", partial(_asks, 0))
    await gateway.publish("firmware", (0).to_bytes(4, "big") + bundle.raw[:1_024])
    await gateway.wait("event", partial(_asks, 1_024))
    since = len(gateway.heard)
    told = await gateway.command(session, "update_stop", version="2.0.0")
    assert (told["code"], told["message"]) == (
        "DONE",
        f"given up at 1024 of {len(bundle.raw)} bytes",
    )
    await gateway.wait("status", lambda s: s["online"] and s["update"] is None, since)
    # It would ask once more after five seconds.
    await asyncio.sleep(7)
    later = [told["kind"] for kind, told in gateway.heard[since:] if kind == "event"]
    assert "update_want" not in later
    since = len(gateway.heard)
    assert (await gateway.command(session, "update", **offer))["code"] == "DONE"
    await gateway.wait("event", partial(_asks, 0), since)
