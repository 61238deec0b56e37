"""`meter scan` and `meter import`: what is there, what is configured, and what would change."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from gateway.app.cli import app, run
from gateway.app.commission.import_csv import difference
from gateway.app.commission.scan import hosts_of, network_of
from gateway.app.config import load_config
from gateway.sim.faults import fault_named
from tests.app.commission_site import CONFIG, HEADER, commission_site


async def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[object, str, str]:
    """Status, output and complaints of a command."""

    def work() -> object:
        with pytest.raises(SystemExit) as ended:
            run(lambda: app([*words]))
        return ended.value.code

    status = await asyncio.to_thread(work)
    written = capsys.readouterr()
    return status, written.out, written.err


@pytest.mark.slow
async def test_devices_are_found_matched_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Known, unknown, foreign and missing meters; each device is left with no open connection."""
    async with commission_site(tmp_path, meters=6) as site:
        customers = site.site.customers()
        await site.site.add_fault(customers[1].id, fault_named("refused"))
        await site.site.add_fault(customers[2].id, fault_named("identity"))
        await site.site.add_fault(customers[3].id, fault_named("silent"))
        lines = (tmp_path / "meters.csv").read_text().splitlines()
        (tmp_path / "meters.csv").write_text("\n".join(lines[:-1]) + "\n")  # the last is unknown
        port = str(customers[0].port.port)
        cidr = customers[0].port.host.rpartition(".")[0] + ".0/28"
        words = ("meter", "scan", cidr, "--port", port, "-c", str(site.path), "--json")
        status, out, _ = await command(capsys, *words, "--write-csv", str(tmp_path / "new.csv"))
        assert status == 0
        async with asyncio.timeout(2):  # the other end needs a moment to see it
            while any(customer.port.connections for customer in customers):
                await asyncio.sleep(0.01)
        again = await command(capsys, *words, "--write-csv", str(tmp_path / "new.csv"))
    answer = json.loads(out)
    devices = {device["host"]: device for device in answer["devices"]}
    by_id = {c.id: devices.get(c.port.host) for c in customers}
    healthy, _, other, silent, _, unknown = by_id.values()
    assert healthy is not None
    assert other is not None
    assert silent is not None
    assert unknown is not None
    assert (healthy["meter"], healthy["model"], healthy["remark"]) == (
        customers[0].id,
        "pac3220",
        "",
    )
    assert healthy["serial_number"] == customers[0].meter.options.serial
    assert (other["model"], other["remark"]) == ("pac2200", "configured as pac3220")
    assert silent["remark"].startswith("METER_TIMEOUT")
    assert unknown["meter"] is None
    assert [each["meter"] for each in answer["not_found"]] == [customers[1].id]
    last_octets = customers[5].port.host.split(".")[2:]
    rows = (tmp_path / "new.csv").read_text().splitlines()
    assert rows[1].startswith(f"meter-{'-'.join(last_octets)},pac3220,{customers[5].port.host},")
    assert len(rows) == 2
    assert (again[0], again[2].partition(":")[0]) == (1, "FILE_EXISTS")


@pytest.mark.parametrize(
    ("cidr", "words"),
    [
        ("10.0.0.0/8", "scan it in 4096 parts, beginning with 10.0.0.0/20"),
        ("10.1.2.3/99", "give a network such as 10.10.1.0/24"),
        ("meters", "give a network such as 10.10.1.0/24"),
        ("8.8.8.0/24", "--public"),
        ("fd00::/64", "IPv6"),
        ("0.0.0.0/0", "parts"),
    ],
)
async def test_a_network_that_may_not_be_scanned_is_refused(
    capsys: pytest.CaptureFixture[str], cidr: str, words: str
) -> None:
    """Huge, public, IPv6 or no network at all: status 2, the reason and the next step."""
    status, out, err = await command(capsys, "meter", "scan", cidr)
    flat = " ".join(err.replace("│", " ").split())
    assert (status, out, words in flat) == (2, "", True), flat


def test_hosts_of_a_network() -> None:
    """Network and broadcast address are no devices; a single address is."""
    assert hosts_of(network_of("10.1.2.0/30")) == ["10.1.2.1", "10.1.2.2"]
    assert hosts_of(network_of("10.1.2.3")) == ["10.1.2.3"]
    assert len(hosts_of(network_of("10.1.0.0/20"))) == 4_094
    assert hosts_of(network_of("8.8.8.8/32", public=True)) == ["8.8.8.8"]


ROWS = f"{HEADER}\na,pac3220,10.0.0.1,502,7360,S1\nb,pac3220,10.0.0.2,502,7360,S2\n"


def write_site(directory: Path, rows: str = ROWS) -> str:
    """A configuration with a meters file; its path."""
    (directory / "config.yaml").write_text(CONFIG)
    (directory / "meters.csv").write_text(rows)
    return str(directory / "config.yaml")


async def test_an_import_is_tried_and_then_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The dry run changes nothing and tells every difference; then the file is replaced whole."""
    config, new = write_site(tmp_path), tmp_path / "new.csv"
    new.write_text(
        f"{HEADER}\na,pac3220,10.0.0.1,502,9000,S1\nb,pac3220,10.0.0.2,502,7360,S2\n"
        "c,pac3220,10.0.0.3,502,7360,\n"
    )
    words = ("meter", "import", str(new), "-c", config, "--json")
    status, out, _ = await command(capsys, *words, "--dry-run")
    assert status == 0
    assert (tmp_path / "meters.csv").read_text() == ROWS
    answer = json.loads(out)
    assert (answer["applied"], answer["added"], answer["gone"]) == (False, ["c"], [])
    assert answer["changed"] == {"a": [{"key": "p_max_w", "from": 7360, "to": 9000}]}
    assert answer["unchanged"] == 1
    status, out, _ = await command(capsys, *words)
    assert (status, json.loads(out)["applied"]) == (0, True)
    assert (tmp_path / "meters.csv").read_text() == new.read_text()
    assert (tmp_path / "meters.csv.before").read_text() == ROWS
    assert load_config(Path(config)).meters[0].settings.p_max_w == 9_000


async def test_a_wrong_file_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Doubled ids, addresses and serial numbers: all told at once with their places, status 2."""
    config, new = write_site(tmp_path), tmp_path / "new.csv"
    new.write_text(
        f"{HEADER}\na,pac3220,10.0.0.1,502,7360,S1\na,pac3220,10.0.0.9,502,x,\n"
        "d,pac3220,10.0.0.1,502,7360,S1\n"
    )
    status, out, err = await command(capsys, "meter", "import", str(new), "-c", config)
    assert (status, out) == (2, "")
    lines = err.splitlines()
    assert any(line.startswith(f"{new}:3:1: id: the id 'a' stands twice") for line in lines)
    assert any(line.startswith(f"{new}:3:24: p_max_w:") for line in lines)
    assert any(line.startswith(f"{new}:4:11: host: the meter at 10.0.0.1:502") for line in lines)
    assert any("the serial number 'S1' stands twice" in line for line in lines)
    assert (tmp_path / "meters.csv").read_text() == ROWS


@pytest.mark.slow
async def test_meters_do_not_vanish_by_an_import(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file without a meter is refused until somebody says so; a site without a file too."""
    config, new = write_site(tmp_path), tmp_path / "new.csv"
    new.write_text(f"{HEADER}\na,pac3220,10.0.0.1,502,7360,S1\n")
    status, _, err = await command(capsys, "meter", "import", str(new), "-c", config)
    assert (status, err.partition(":")[0]) == (1, "METERS_GONE")
    assert (tmp_path / "meters.csv").read_text() == ROWS
    status, _, _ = await command(capsys, "meter", "import", str(new), "-c", config, "--remove")
    assert status == 0
    (tmp_path / "config.yaml").write_text(CONFIG.replace("meters_file: meters.csv\n", ""))
    status, _, err = await command(capsys, "meter", "import", str(new), "-c", config)
    assert (status, "names no meters_file" in err) == (1, True)


async def test_an_import_can_be_taken_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file that was kept may be imported itself: then the two have changed places."""
    config, new = write_site(tmp_path), tmp_path / "new.csv"
    target, kept = tmp_path / "meters.csv", tmp_path / "meters.csv.before"
    new.write_text(ROWS.replace("7360,S1", "9000,S1"))
    for source in (new, kept):
        status, _, err = await command(capsys, "meter", "import", str(source), "-c", config)
        assert status == 0, err
    assert (target.read_text(), kept.read_text()) == (ROWS, new.read_text())
    assert {name for name in os.listdir(tmp_path) if name.startswith(".")} == set()  # noqa: PTH208


async def test_an_import_keeps_link_mode_and_owner(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Control reads the file as another user: it must still be able to; a link stays a link, and
    one that somebody put beside it is not written through."""
    config, new = write_site(tmp_path), tmp_path / "new.csv"
    target, stranger = tmp_path / "site" / "m.csv", tmp_path / "stranger"
    target.parent.mkdir()
    (tmp_path / "meters.csv").rename(target)
    (tmp_path / "meters.csv").symlink_to(target)
    target.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(target, 12_345, 23_456)
    wanted = target.stat()
    stranger.write_text("precious")
    for name in (".m.csv.new", ".m.csv.old", "m.csv.before"):
        (target.parent / name).symlink_to(stranger)
    new.write_text(ROWS.replace("7360,S1", "9000,S1"))
    status, _, err = await command(capsys, "meter", "import", str(new), "-c", config)
    assert status == 0, err
    assert (tmp_path / "meters.csv").is_symlink()
    assert target.read_text() == new.read_text()
    found = target.stat()
    assert (found.st_mode, found.st_uid, found.st_gid) == (
        wanted.st_mode,
        wanted.st_uid,
        wanted.st_gid,
    )
    assert stranger.read_text() == "precious"


async def test_a_pipe_is_not_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It would be checked full and copied empty."""
    config = write_site(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    words = ("meter", "import", str(tmp_path / "pipe"), "-c", config, "--remove")
    status, _, err = await command(capsys, *words)
    assert (status, "is no file" in err) == (1, True)
    assert (tmp_path / "meters.csv").read_text() == ROWS


def test_an_import_can_be_tried_before_there_is_a_file(tmp_path: Path) -> None:
    """The present file may be missing: the first import has nothing to compare with."""
    config = Path(write_site(tmp_path))
    with_file = load_config(config)
    (tmp_path / "meters.csv").rename(tmp_path / "first.csv")
    wanted = load_config(config, meters_file=tmp_path / "first.csv")
    assert difference(with_file, wanted).unchanged == 2
