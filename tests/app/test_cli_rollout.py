"""`firmware image` and `firmware rollout` from a terminal."""

import json
from datetime import date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from gateway.core.rollout_plan import Phase
from gateway.store.devices import DeviceRecord, DeviceStatus, put_devices
from gateway.store.firmware import put_progress, read_members, read_rollout
from tests.app import test_cli_site
from tests.app.test_cli_site import Desk
from tests.north.small_site import Executor

pytestmark = pytest.mark.slow

peer, config, settings = test_cli_site.peer, test_cli_site.config, test_cli_site.settings
executor, desk = test_cli_site.executor, test_cli_site.desk
WHY = ("--reason", "because")


async def added(desk: Desk, place: Path, text: bytes = b"firmware") -> str:
    """An image that was added; its SHA-256."""
    path = place / "node.pgn"
    path.write_bytes(text)
    ended = await desk.run("firmware", "image", "add", str(path), "--json")
    assert ended.status == 0, ended.err
    return str(json.loads(ended.out)["result"]["sha256"])


def approved(executor: Executor, *names: str) -> None:
    """Devices on record."""
    records = [DeviceRecord(one, DeviceStatus.APPROVED, "flat-1", 1, "", 0, 0) for one in names]
    executor.ledger.write(lambda connection: put_devices(connection, records))


async def test_images_are_added_listed_and_removed(desk: Desk, tmp_path: Path) -> None:
    """By version or by the first digits of their hash; what is not there is said."""
    sha256 = await added(desk, tmp_path)
    again = await desk.run("firmware", "image", "add", str(tmp_path / "node.pgn"))
    assert again.out.endswith("(it was there already)\n")
    listed = (await desk.run("firmware", "image", "list")).out
    assert sha256[:16] in listed
    second = await added(desk, tmp_path, b"another")
    for name, status in (("9.9.9", 1), (sha256[:7], 1), (sha256[:8], 0), ("1.0.1", 0)):
        ended = await desk.run("firmware", "image", "remove", name)
        assert (name, ended.status) == (name, status)
    assert second not in (await desk.run("firmware", "image", "list", "--json")).out
    ended = await desk.run("firmware", "image", "add", str(tmp_path / "nothing.pgn"))
    assert (ended.status, "FILE_REFUSED" in ended.err) == (1, True)


async def test_a_rollout_from_its_beginning_to_its_end(
    desk: Desk, executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun, listed, shown with every device, paused, resumed, stopped."""
    await added(desk, tmp_path)
    approved(executor, "node-1", "node-2")
    ended = await desk.run(
        *("firmware", "rollout", "begin", "1.0.0", "--device", "node-2", "--device", "node-1"),
        *("--stages", "0,100", "--observe-minutes", "5"),
    )
    assert ended.out == "roll-out 1 of 1.0.0 to 2 devices has begun, 0 are left out\n"
    assert f"firmware rollout show 1 --follow -c {tmp_path}/" in ended.err
    shown = json.loads((await desk.run("firmware", "rollout", "show", "1", "--json")).out)
    assert (shown["plan"]["stages"], shown["plan"]["observe_s"]) == ([0, 100], 300)
    assert [one["id"] for one in shown["devices"]] == ["node-2", "node-1"]

    def fetching(connection: object) -> None:
        record = read_rollout(connection, 1)  # type: ignore[arg-type]
        members = read_members(connection, 1)  # type: ignore[arg-type]
        assert record is not None
        members[0].phase, members[0].offset = Phase.FETCHING, 3
        put_progress(connection, 1, record.head, [(0, members[0])], ended_utc_ms=None)  # type: ignore[arg-type]

    executor.ledger.write(fetching)
    text = (await desk.run("firmware", "rollout", "show", "1")).out
    assert "fetching 3 of 8 bytes" in text
    assert "1 of 2 (0, 100 %)" in text
    monkeypatch.setenv("COLUMNS", "80")
    listed = (await desk.run("firmware", "rollout", "list")).out
    today = datetime.now(ZoneInfo("Asia/Kolkata")).date()
    [row] = [line.split() for line in listed.splitlines() if "1.0.0" in line]
    assert row[:-1] == ["1", "1.0.0", "running", "1/2", "0", "of", "2", "0", "0"]
    assert abs((date.fromisoformat(row[-1]) - today).days) <= 1
    for act, said in (("pause", "is paused"), ("resume", "goes on"), ("stop", "is stopped")):
        ended = await desk.run("firmware", "rollout", act, "1", *WHY)
        assert ended.out == f"roll-out 1 {said}\n"
    assert "stopped" in (await desk.run("firmware", "rollout", "list")).out
    ended = await desk.run("firmware", "rollout", "show", "1", "--follow")
    assert (ended.status, "STOPPED" in ended.out) == (1, True)
    # A log gets lines where a terminal gets a bar.
    assert ended.err.splitlines()[0] == "1.0.0, stopped, stage 1 of 2: 2 skipped"
    ended = await desk.run("firmware", "rollout", "stop", "1", *WHY)
    assert (ended.status, "ROLLOUT_STATE" in ended.err) == (1, True)


async def test_wrong_words_are_refused(desk: Desk, executor: Executor, tmp_path: Path) -> None:
    """Usage is 2, a rule is 1."""
    await added(desk, tmp_path)
    approved(executor, "node-1")
    begin = ("firmware", "rollout", "begin", "1.0.0")
    assert (await desk.run(*begin, "--stages", "some")).status == 2
    assert (await desk.run(*begin, "--parallel-max", "17")).status == 2
    ended = await desk.run(*begin, "--stages", "100,10")
    assert (ended.status, "ROLLOUT_STAGES" in ended.err) == (1, True)
    ended = await desk.run("firmware", "rollout", "show", "7")
    assert (ended.status, "ROLLOUT_UNKNOWN" in ended.err) == (1, True)
