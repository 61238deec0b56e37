"""The demo with nodes: the firmware itself, over amqtt, cut at zero and back after a recharge."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.app.demo.nodes import demo_nodes, openings
from tests.app.broker_site import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

NODES = 3


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A demo that runs, its files below `tmp_path`."""
    command = [sys.executable, "-m", "gateway", "demo", "--meters", "1", "--nodes", str(NODES)]
    command += ["--port", str(free_port()), "--meter-port", str(free_port())]
    command += ["--directory", str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        yield process
        if process.poll() is None:
            process.kill()


def cli(place: Path, *words: str) -> str:
    """Output of a command at the demo's site; empty where it failed."""
    command = [sys.executable, "-m", "gateway", *words, "-c", str(place / "config.yaml")]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    return ended.stdout if ended.returncode == 0 else ""


def until(what: Callable[[], object], described: str, seconds: float = 100.0) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {described}"
        time.sleep(0.5)


def test_a_simulated_node_is_cut_at_zero_and_back_after_a_recharge(
    demo: subprocess.Popen[str], tmp_path: Path
) -> None:
    """Devices are approved by the file; the first one cut is recharged, confirmed and closes."""
    names = [node.meter_id for node in demo_nodes(NODES)]

    def devices() -> dict[str, dict[str, object]]:
        told = cli(tmp_path, "device", "list", "--json")
        return {one["meter_id"]: one for one in json.loads(told)["items"]} if told else {}

    def opened() -> list[str]:
        return [name for name in names if openings(tmp_path / "nodes", name)]

    until(lambda: sorted(devices()) == names, "all devices serve their meters")
    assert {one["status"] for one in devices().values()} == {"approved"}
    until(opened, "a node is cut")
    name = opened()[0]
    device = next(node.device_id for node in demo_nodes(NODES) if node.meter_id == name)
    nvs = tmp_path / "nodes" / device / "nvs.json"

    def is_closed() -> bool:
        return bytes.fromhex(json.loads(nvs.read_text(encoding="ascii"))["relay"]) == b"\1"

    assert not is_closed()
    assert cli(tmp_path, "account", "recharge", name, "50")
    until(lambda: cli(tmp_path, "account", "confirm", name), "it may be confirmed", 40)
    until(is_closed, "its relay closes", 40)
    demo.send_signal(signal.SIGINT)
    output, _ = demo.communicate(timeout=40)
    assert demo.returncode == 0, output
    assert "ledger verify" in output
    assert "clean" in output
    (row,) = [line for line in output.splitlines() if f" {name} " in line]
    balance, past_wh = row.split("│")[2:4]
    assert float(balance) <= 0
    assert 0 <= float(past_wh) < 10
