"""The whole gateway rolls real firmware out to a node in MicroPython, and stops a bad release."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.app.firmware.build import compiled
from gateway.app.firmware.bundle import Bundle
from gateway.app.node_key import load_node_key
from gateway.core.sealing import device_secret
from tests.app.broker_site import open_directory
from tests.app.rollout_site import write_public
from tests.e2e.conftest import MakeSite
from tests.e2e.gateway_site import Gateway
from tests.e2e.test_node_whole import (
    DEVICE,
    LIGHT_W,
    NODE,
    START_WH,
    Field,
    configure,
    mosquitto,
    shown,
)
from tests.firmware.micropython import FIRMWARE
from tests.firmware.real_device import signed
from tests.firmware.releases import key
from tests.south.mosquitto import needs_broker

pytestmark = [needs_broker, pytest.mark.slow, pytest.mark.timeout(300)]


def release(version: str, security: int, source: Path = FIRMWARE / "node") -> Bundle:
    """An application, signed as a release."""
    return signed(compiled(source, [key("current").public, key("next").public]), version, security)


def bad_release(version: str, security: int, place: Path) -> Bundle:
    """One that works until it is asked to work: it raises once it has started."""
    source = place / "bad"
    shutil.copytree(FIRMWARE / "node", source)
    app = source / "app.py"
    text = app.read_text(encoding="utf-8")
    assert "def main(slot" in text
    app.write_text(text + '\n\ndef main(slot):\n    raise RuntimeError("worse")\n', "utf-8")
    return release(version, security, source)


def told(site: Gateway, *words: str) -> dict[str, Any]:
    """What a command of `firmware` answers."""
    done = site.cli("firmware", *words, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def written(place: Path, bundle: Bundle) -> str:
    """A bundle as a file."""
    path = place / f"{bundle.release.version}.pgn"
    path.write_bytes(bundle.raw)
    return str(path)


@contextmanager
def powered(site: Gateway, place: Path) -> Iterator[Field]:
    """Broker, gateway and a node with version 1.0.0 of the firmware, signed with the site's key."""
    with open_directory() as open_place:
        port, plain_port = configure(site, open_place / "broker")
        public = place / "firmware.pem.pub"
        write_public(public)
        firmware = json.dumps({"firmware": {"public": [str(public)]}})[1:-1]
        text = site.config.read_text(encoding="utf-8")
        site.config.write_text(text.replace("south: {", f"south: {{{firmware}, ", 1), "utf-8")
        with mosquitto(open_place, open_place / "broker", port):
            for name in ("control", "north"):
                os.kill(site.pid(name), signal.SIGHUP)
            field = Field(place)
            try:
                field.node.install(release("1.0.0", 1))
                secret = device_secret(load_node_key(site.paths.control_dir), DEVICE, 1)
                field.node.provision(DEVICE, secret, {"host": "127.0.0.1", "port": plain_port})
                field.power_on()
                site.until(lambda: shown(site).get("status") == "pending", "a pending device")
                done = site.cli("device", "approve", DEVICE, NODE)
                assert done.returncode == 0, done.stderr
                site.until(lambda: site.row(NODE).energy_wh == (START_WH,), "its readings")
                yield field
            finally:
                field.close()


def test_a_release_reaches_a_node_and_a_bad_one_stops(make_site: MakeSite, tmp_path: Path) -> None:
    """Added, begun, fetched, installed, restarted, proved, done; the next one goes back."""
    site = make_site(meters=1).start()
    with powered(site, tmp_path) as field:
        site.open_account(NODE, "50.00")
        done = site.cli("device", "commission", NODE, "--yes")
        assert done.returncode == 0, done.stderr
        field.load(LIGHT_W)
        moves = field.node.moves
        good = release("2.0.0", 2)
        assert told(site, "image", "add", written(tmp_path, good))["state"] == "executed"
        (image,) = told(site, "image", "list")["items"]
        assert (image["version"], image["size"]) == ("2.0.0", len(good.raw))
        begun = told(site, "rollout", "begin", "2.0.0", "--observe-minutes", "0")["result"]
        assert (begun["devices"], begun["skipped"]) == (1, 0)

        def device() -> dict[str, Any]:
            (found,) = told(site, "rollout", "show", "1")["devices"]
            return dict(found)

        offset = site.until(lambda: device()["offset"], "bytes fetched")
        assert device()["phase"] in ("fetching", "installing", "trial", "done")
        # Control dies in the middle of it.
        site.kill("control")
        site.start_process("control")
        site.ready()
        followed = site.cli("firmware", "rollout", "show", "1", "--follow", timeout_s=150)
        assert followed.returncode == 0, followed.stderr
        assert (device()["phase"], device()["code"]) == ("done", None)
        assert 0 < offset <= len(good.raw)
        assert told(site, "rollout", "list")["items"][0]["state"] == "completed"
        site.until(lambda: shown(site)["firmware"] == "2.0.0", "the new version")
        assert site.events("ROLLOUT_DEVICE_DONE", NODE)

        bad = bad_release("3.0.0", 2, tmp_path)
        told(site, "image", "add", written(tmp_path, bad))
        told(site, "rollout", "begin", "3.0.0")
        followed = site.cli("firmware", "rollout", "show", "2", "--follow", timeout_s=150)
        assert followed.returncode == 1, followed.stdout
        assert "stopped" in followed.stdout
        assert "UPDATE_BACK" in followed.stdout
        (stopped,) = site.until(lambda: site.events("ROLLOUT_STOPPED"), "that it was told")
        assert stopped.severity == "critical"
        site.until(lambda: shown(site)["firmware"] == "2.0.0", "the version before")
        # All the while the relay stayed as it was, and every watt-hour was metered.
        assert field.node.relay_closed
        assert field.node.moves == moves
        field.load(0)
        site.until(lambda: site.row(NODE).energy_wh == (field.counter_wh,), "the last watt-hour")
        refused = site.cli("firmware", "rollout", "begin", "2.0.0")
        assert (refused.returncode, "ROLLOUT_EMPTY" in refused.stderr) == (1, True)
        assert site.cli("firmware", "image", "remove", "3.0.0").returncode == 0
        assert site.stop("control") == 0
        assert site.cli("ledger", "verify").returncode == 0
