"""A node beside a meter, with real processes: added at run time, approved, cut and restored."""

import asyncio
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.app.node_key import load_node_key
from gateway.core.sealing import command_key, device_secret
from tests.app.node_site import ScriptedNode
from tests.e2e.conftest import MakeSite
from tests.e2e.gateway_site import Gateway
from tests.south.mosquitto import Mosquitto, needs_broker

pytestmark = [needs_broker, pytest.mark.slow]

DEVICE = "node-aabbccddeeff"
NODE = "kiosk-7"


@contextmanager
def field(place: Path) -> Iterator[tuple[Mosquitto, ScriptedNode]]:
    """A broker and a node in a thread with a loop of its own; the node's key comes later."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def begin() -> tuple[Mosquitto, ScriptedNode, asyncio.Task[None]]:
        broker = Mosquitto(place)
        await broker.start()
        node = ScriptedNode(broker.port, DEVICE, b"")
        return broker, node, asyncio.create_task(node.run())

    async def end(broker: Mosquitto, task: asyncio.Task[None]) -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await broker.kill()

    broker, node, task = asyncio.run_coroutine_threadsafe(begin(), loop).result(20)
    try:
        yield broker, node
    finally:
        asyncio.run_coroutine_threadsafe(end(broker, task), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def shown(site: Gateway) -> dict[str, object]:
    """What `device show` tells; empty while the device is unknown."""
    ended = site.cli("device", "show", DEVICE, "--json")
    found: dict[str, object] = json.loads(ended.stdout) if ended.returncode == 0 else {}
    return found


def test_a_node_is_added_while_it_runs_approved_cut_and_restored(
    make_site: MakeSite, tmp_path: Path
) -> None:
    """SIGHUP brings broker and node, the command line approves, money cuts, a person confirms."""
    site = make_site(meters=1).start()
    site.open("flat-101", "500.00")
    with field(tmp_path) as (broker, node):
        mqtt = {"mqtt": {"host": "127.0.0.1", "port": broker.port}}
        added = [{"id": NODE, "model": "pzem-node", "p_max_w": 100_000}]
        with site.config.open("a", encoding="utf-8") as file:
            file.write(f"south: {json.dumps(mqtt)}\nmeters: {json.dumps(added)}\n")
        for name in ("control", "north"):
            os.kill(site.pid(name), signal.SIGHUP)
        site.until(lambda: shown(site).get("status") == "pending", "a pending device")
        secret = device_secret(load_node_key(site.paths.control_dir), DEVICE, 1)
        node.key = command_key(secret)
        done = site.cli("device", "approve", DEVICE, NODE)
        assert done.returncode == 0, done.stderr
        site.until(lambda: site.row(NODE).energy_wh == (node.energy_wh,), "its readings")
        site.open_account(NODE, "0.40")
        done = site.cli("device", "commission", NODE, "--yes")
        assert done.returncode == 0, done.stderr
        site.until(lambda: shown(site)["lease"], "a lease")
        node.step_wh = 1
        cut = site.finished_cut(NODE)
        assert (cut.state.value, "output" in cut.witnesses) == ("verified", True)
        node.step_wh = 0
        site.until(lambda: shown(site)["output"] == "open", "the open relay shown")
        site.recharge(NODE, "100.00", "r-1")
        site.order(NODE, "confirm_reconnect", "c-1")
        site.until(lambda: site.row(NODE).output_closed, "supply")
        for words in (("off", "--reason", "proof of the relay"), ("on",)):
            done = site.cli("meter", "switch", NODE, *words)
            assert (done.returncode, node.closed) == (0, words == ("on",)), done.stderr
        listed = site.cli("device", "list")
        assert (listed.returncode, DEVICE in listed.stdout) == (0, True)
    # Everything else went on, and the whole ends in time without its broker.
    assert site.row("flat-101").output_closed
    assert site.stop("control") == 0
    proof = site.cli("ledger", "verify")
    assert proof.returncode == 0, proof.stdout
