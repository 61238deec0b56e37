"""Boards, their places and the meters file: every problem with its place, and nothing damaged."""

import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.app.cli import app
from gateway.app.clock import SystemClock
from gateway.app.config import Config, load_config
from gateway.app.config_csv import added_lines, parse_table
from gateway.app.config_place import FileRefusedError
from gateway.app.firmware.bench import load_bench
from gateway.app.placing.approval import Fate, fate_of
from gateway.app.placing.boards import read_records
from gateway.app.placing.meters_file import add_meters, reload_gateway
from gateway.app.placing.places import Device, compare, read_places
from gateway.app.placing.service import PROOF_REASON, _proof_in
from gateway.core.errors import ConfigurationError, GatewayError, RefusedError
from gateway.north.client import LocalClient
from gateway.store.devices import DeviceStatus
from tests.app.broker_site import BrokerSite, open_directory
from tests.firmware.bench_site import write_bench

CONFIG = """\
site: {id: palm, name: Palm, timezone: Asia/Kolkata, currency: INR}
state_dir: state
runtime_dir: run
south: {mqtt: {host: 127.0.0.1}}
meters:
  - {id: kiosk-1, model: pzem-node}
  - {id: kiosk-2, model: pzem-node, device: node-0000000000ff}
  - {id: flat-1, model: pac3220, host: 10.0.0.1}
meters_file: meters.csv
"""
METERS = '# the market\nid,model,label\n\n# row A\nkiosk-9,pzem-node,"Tea, milk"\n'


def line(number: int, **more: object) -> str:
    """A line of a bench's record."""
    mac = f"{number:012x}"
    told: dict[str, object] = {
        "serial": f"PG-{number:04d}",
        "mac": mac,
        "device_id": f"node-{mac}",
        "generation": 1,
        "result": "done",
    }
    return json.dumps(told | more) + "\n"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A site with two nodes, a meter and a meters file."""
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(CONFIG)
    Path("meters.csv").write_text(METERS)
    Path("boards.jsonl").write_text("".join(line(number) for number in range(1, 10)))
    return load_config(Path("config.yaml"))


def problems_of(work: Callable[[], object]) -> list[str]:
    """What a refusal says, line by line."""
    with pytest.raises(ConfigurationError) as caught:
        work()
    return list(caught.value.problems)


def test_the_last_line_of_a_board_counts(config: Config) -> None:
    """Done, failed since, begun only, torn by a power cut."""
    Path("boards.jsonl").write_text(
        line(1, result="begun")
        + line(1)
        + line(2)
        + line(2, result="failed", generation=2)
        + line(3, result="begun")
        + line(4)[:-20]
    )
    Path("other.jsonl").write_text(line(5, generation=3))
    boards = read_records([Path("boards.jsonl"), Path("other.jsonl")])
    assert sorted(boards.done) == ["PG-0001", "PG-0005"]
    assert boards.others == {"PG-0002": "failed", "PG-0003": "begun"}
    assert boards.done["PG-0005"].generation == 3
    assert str(boards.done["PG-0001"].place) == "boards.jsonl:2:1"


def test_a_record_that_contradicts_itself_is_refused(config: Config) -> None:
    """One serial or one device of two boards, lines without what is needed: all at once."""
    Path("boards.jsonl").write_text(
        line(1)
        + line(2, serial="PG-0001")
        + line(3, device_id="node-000000000001")
        + line(4, device_id="Node 4")
        + line(5, generation="2")
        + line(6, generation=True)
        + line(7, serial="PG\x1b[2J")
    )
    told = problems_of(lambda: read_records([Path("boards.jsonl")]))
    assert told == [
        "boards.jsonl:2:1: serial: another board is 'PG-0001' too, at boards.jsonl:1:1",
        "boards.jsonl:3:1: device_id: node-000000000001 is PG-0001 already, at boards.jsonl:1:1",
        "boards.jsonl:4:1: device_id: 'Node 4' is no device id",
        "boards.jsonl:5:1: generation: is no number from 1",
        "boards.jsonl:6:1: generation: is no number from 1",
        "boards.jsonl:7:1: serial: 'PG\\x1b[2J' is no serial",
    ]
    assert problems_of(lambda: read_records([Path("none.jsonl")])) == [
        "none.jsonl:1:1: (file): cannot be read: No such file or directory"
    ]


def test_another_file_is_no_record(tmp_path: Path) -> None:
    """Told once, not board by board; a record whose only line was torn is one, and so is none."""
    path = tmp_path / "tenants.csv"
    path.write_text("account,name\nkiosk-1,A. Tenant\n")
    with pytest.raises(RefusedError, match=r"tenants\.csv is no record of a bench") as refused:
        read_records([path])
    assert refused.value.refusal_code == "RECORD_REFUSED"
    for text in ("", line(1)[:40]):
        path.write_text(text)
        assert read_records([path]).done == {}


def test_every_problem_of_the_places_is_told_with_its_place(config: Config) -> None:
    """Form, bench, configuration and gateway, in one run."""
    with Path("boards.jsonl").open("a") as file:
        file.write(line(10, result="failed") + line(11, generation=2))
    Path("places.csv").write_text(
        "serial;meter_id;label\n"
        "PG-0001;kiosk-1;\n"
        "PG-0001;kiosk-3;\n"
        "PG-0099;kiosk-4;\n"
        ";kiosk-5;\n"
        "PG-0002;Kiosk 6;\n"
        "PG-0003;flat-1;\n"
        "PG-0004;kiosk-2;\n"
        "PG-0005;kiosk-7;Tea\n"
        "PG-0006;kiosk-8;\n"
        "PG-0010;kiosk-10;\n"
        "PG-0011;kiosk-11;\n"
        "PG-0007;kiosk-12;\n"
        "PG-0008;kiosk-13;\n"
        "PG-0009;kiosk-13;\n"
    )
    devices = {
        "node-000000000005": Device("approved", "kiosk-3", 1, ""),
        "node-000000000006": Device("refused", None, 2, "not ours"),
        "node-0000000000aa": Device("approved", "kiosk-12", 1, ""),
    }
    boards = read_records([Path("boards.jsonl")])
    places, problems = read_places(Path("places.csv"), boards, config)
    problems += compare(places, devices, may_add=True, meters="meters.csv")
    assert sorted({str(one).removeprefix("places.csv:") for one in problems}, key=_line_of) == [
        "3:1: serial: 'PG-0001' stands twice, first at places.csv:2:1",
        "3:9: meter_id: kiosk-3 has the device node-000000000005: refuse that one first",
        "4:1: serial: no board 'PG-0099' in boards.jsonl: did you mean 'PG-0009'?",
        "5:1: serial: is missing: the board's serial",
        (
            "6:9: meter_id: is 'Kiosk 6': expected 1 to 63 small letters, digits and hyphens, no "
            "hyphen first"
        ),
        "7:9: meter_id: flat-1 is a pac3220, which is polled, and no node",
        "8:9: meter_id: the configuration gives kiosk-2 the device node-0000000000ff",
        "9:1: serial: PG-0005 serves kiosk-3: refuse it there first",
        (
            "10:1: serial: PG-0006 (node-000000000006) is refused (not ours): leave it out, or "
            "approve it by itself"
        ),
        "11:1: serial: PG-0010 is not done (failed): flash it again",
        (
            "12:1: serial: PG-0011 has a secret of generation 2, the gateway expects 1: flash it "
            "with --again --generation 1"
        ),
        "13:9: meter_id: kiosk-12 has the device node-0000000000aa: refuse that one first",
        "15:9: meter_id: 'kiosk-13' stands twice, first at places.csv:14:9",
    ]
    without = [str(one) for one in compare(places, {}, may_add=False, meters="meters.csv")]
    assert (
        "places.csv:9:9: meter_id: the configuration has no node 'kiosk-7': --new writes it into "
        "meters.csv"
    ) in without


def _line_of(text: str) -> tuple[int, int]:
    first, second, _ = text.split(":", 2)
    return int(first), int(second)


def test_what_stands_already_is_left_alone(config: Config) -> None:
    """Approved for this very meter, pending, never heard."""
    Path("places.csv").write_text("serial,meter_id\nPG-0001,kiosk-1\n")
    places, problems = read_places(Path("places.csv"), read_records([Path("boards.jsonl")]), config)
    assert problems == []
    assert [place.is_new for place in places] == [False]
    (place,) = places
    assert fate_of(place, Device("approved", "kiosk-1", 1, "ann")) is Fate.THERE
    assert fate_of(place, Device("pending", None, 1, "")) is Fate.NEW
    assert fate_of(place, None) is Fate.UNHEARD


@pytest.mark.parametrize(
    ("text", "added"),
    [
        ("id,model\n", "k-1,pzem-node\n"),
        ("id,model", "\nk-1,pzem-node\n"),
        ("model;id\r\n", "pzem-node;k-1\r\n"),
        ("# c\nid\tmodel\tlabel\tport\n#last", "\nk-1\tpzem-node\tA;B\t\n"),
        ('\ufeffid,model,label\nx,y,"a\nb"\n', "k-1,pzem-node,A;B\n"),
    ],
)
def test_added_lines_are_written_as_the_file_is(text: str, added: str) -> None:
    """Its delimiter, line ends and columns; read back they are the rows."""
    row = {"id": "k-1", "model": "pzem-node"} | ({"label": "A;B"} if "label" in text else {})
    plain = text.removeprefix("\ufeff")
    columns = ("id", "model", "label", "port")
    assert added_lines(plain, [row], columns, "m.csv") == added
    rows = parse_table(plain + added, columns, "m.csv").rows
    assert rows[-1].cells == row
    assert len(rows) == len(parse_table(plain, columns, "m.csv").rows) + 1


def test_a_cell_without_a_column_is_refused() -> None:
    """The header is the person's: it is named, not changed."""
    with pytest.raises(FileRefusedError, match=r"m.csv:2:1: label: is no column of this file"):
        added_lines("\nid,model\n", [{"id": "x", "label": "y"}], ("id", "model", "label"), "m.csv")


def test_new_nodes_go_behind_what_stands_there(config: Config) -> None:
    """Byte for byte, comments too; owner and mode as before; the old file is kept."""
    path = Path("meters.csv").resolve()
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 1234, 2345)
    before = path.stat()
    kept = add_meters(config, [{"id": "kiosk-20", "model": "pzem-node", "label": "Tea, milk"}])
    assert path.read_text() == f'{METERS}kiosk-20,pzem-node,"Tea, milk"\n'
    after = path.stat()
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)
    assert stat.S_IMODE(after.st_mode) == 0o640
    assert kept.read_text() == METERS
    assert {node.meter_id for node in load_config(config.path).nodes} >= {"kiosk-9", "kiosk-20"}
    assert sorted(found.name for found in path.parent.iterdir()) == [
        "boards.jsonl",
        "config.yaml",
        "meters.csv",
        "meters.csv.before",
    ]


def test_a_row_that_the_configuration_refuses_is_not_written(config: Config) -> None:
    """Checked whole before anything is replaced, with the place where it would stand."""
    rows = [{"id": "kiosk-20", "model": "pzem-node"}, {"id": "kiosk-9", "model": "pzem-node"}]
    path = Path("meters.csv").resolve()
    (told,) = problems_of(lambda: add_meters(config, rows))
    assert told == f"{path}:7:1: id: the id 'kiosk-9' stands twice, first at {path}:5:1"
    assert Path("meters.csv").read_text() == METERS
    assert not Path("meters.csv.before").exists()


def test_a_file_that_is_not_ours_is_refused_with_what_to_do(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's, and none at all."""
    rows = [{"id": "kiosk-20", "model": "pzem-node"}]
    with monkeypatch.context() as other:
        other.setattr("os.geteuid", lambda: 54_321)
        with pytest.raises(RefusedError, match=r"may not be written by you: run this as root"):
            add_meters(config, rows)
    Path("config.yaml").write_text(CONFIG.replace("meters_file: meters.csv\n", ""))
    with pytest.raises(RefusedError, match=r"names no meters_file: make a file meters.csv beside"):
        add_meters(load_config(Path("config.yaml")), rows)
    assert Path("meters.csv").read_text() == METERS


def test_a_gateway_that_does_not_run_takes_nothing_over(config: Config) -> None:
    """Said at once, with what to do; what was written stays for the next start."""
    with LocalClient(Path("none.sock")) as north, pytest.raises(RefusedError) as caught:
        reload_gateway(config, north, ["kiosk-20"], SystemClock(), lambda _: None)
    assert caught.value.refusal_code == "NOT_READY"
    assert "control is not running: start it, then run this again" in str(caught.value)


def command(action: str, reason: str = "", state: str = "verified") -> dict[str, object]:
    """A command of a meter."""
    return {"action": action, "reason": reason, "state": state}


@pytest.mark.parametrize(
    ("newest_first", "found"),
    [
        ([], (False, False)),
        ([command("open", PROOF_REASON)], (True, False)),
        ([command("close", ""), command("open", PROOF_REASON)], (False, True)),
        (
            [command("open", "credit"), command("close"), command("open", PROOF_REASON)],
            (False, True),
        ),
        ([command("close"), command("open", "credit")], (False, False)),
        ([command("close", "", "failed"), command("open", PROOF_REASON)], (True, False)),
        ([command("close"), command("open", PROOF_REASON, "failed")], (False, False)),
    ],
)
def test_a_proof_is_found_among_the_commands(
    newest_first: list[dict[str, object]], found: tuple[bool, bool]
) -> None:
    """Open for one now, and completed once: an interrupted one is gone on with, none repeated."""
    assert _proof_in(newest_first) == found


def test_a_certificate_without_a_time_server_is_warned_of(tmp_path: Path) -> None:
    """A node cannot judge a certificate without knowing the day."""

    def warnings(**broker: object) -> tuple[str, ...]:
        return load_bench(write_bench(tmp_path, broker={"host": "gw", **broker})).warnings

    (told,) = warnings(ca="ca.pem")
    assert told.startswith("BENCH_NTP: broker.ca without broker.ntp: a new board does not know ")
    assert warnings(ca="ca.pem", ntp="10.20.0.5") == ()
    assert warnings(port=1883) == ()


@pytest.fixture
def broker() -> Iterator[BrokerSite]:
    """A site with a broker's directory; no mosquitto runs."""
    with open_directory() as place:
        made = BrokerSite(place)
        assert made.key
        made.write()
        yield made


def added(broker: BrokerSite, *records: Path) -> tuple[int, str]:
    """Status and words of `broker add-user` with records."""
    words = [word for path in records for word in ("--record", str(path))]
    done = CliRunner().invoke(
        app,
        [
            *("broker", "add-user", str(broker.directory), *words),
            *("-c", str(broker.place / "config.yaml")),
        ],
    )
    if isinstance(done.exception, GatewayError):
        return 1, str(done.exception)
    return done.exit_code, done.output


def users(broker: BrokerSite) -> dict[str, str]:
    """The password file."""
    text = (broker.directory / "passwords").read_text()
    return dict(entry.split(":", 1) for entry in text.splitlines())


def test_all_boards_of_a_bench_may_log_in(broker: BrokerSite) -> None:
    """With the secret that the bench gave each, once; refused ones stay out."""
    record = broker.place / "boards.jsonl"
    record.write_text(line(1) + line(2) + line(3, generation=2) + line(4, result="failed"))
    broker.record("node-000000000002", DeviceStatus.REFUSED, generation=2)
    broker.record("node-000000000003", DeviceStatus.APPROVED, generation=2)
    status, told = added(broker, record)
    assert status == 0, told
    assert "PG-0002 (node-000000000002) is refused: left out" in told
    assert told.count("systemctl") == 1
    made = users(broker)
    assert sorted(made) == ["gateway", "node-000000000001", "node-000000000003"]
    before = (broker.directory / "passwords").read_bytes()
    status, told = added(broker, record)
    assert (status, "changed: nothing" in told, "systemctl" in told) == (0, True, False)
    assert (broker.directory / "passwords").read_bytes() == before
    # Of the same device with the first secret there is another line.
    broker.record("node-000000000003", DeviceStatus.APPROVED, generation=1)
    broker.write()
    assert users(broker)["node-000000000003"] != made["node-000000000003"]


@pytest.mark.slow
def test_a_board_with_another_generation_lets_nobody_in(broker: BrokerSite) -> None:
    """It could not log in, and commands to it would not be believed: say which, change nothing."""
    record = broker.place / "boards.jsonl"
    record.write_text(line(1) + line(2, generation=3))
    status, told = added(broker, record)
    assert status == 1
    assert told == (
        f"{record}:2:1: generation: PG-0002 has a secret of generation 3, the gateway expects 1: "
        "flash it with --again --generation 1\n"
    )
    assert not (broker.directory / "added").exists()
    record.write_text("")
    assert added(broker, record) == (1, f"no board is done in {record}")


@pytest.mark.slow
def test_device_and_record_exclude_each_other(broker: BrokerSite) -> None:
    """One way or the other."""
    invoke: Any = CliRunner().invoke
    config = str(broker.place / "config.yaml")
    for words in (
        ["broker", "add-user", "d", "-c", config],
        ["broker", "add-user", "d", "node-1", "--record", "r", "-c", config],
        ["device", "approve", "-c", config],
        ["device", "approve", "node-1", "-c", config],
        ["device", "approve", "--record", "r", "-c", config],
        ["device", "commission", "-c", config],
        ["device", "commission", "kiosk-1", "--all", "-c", config],
    ):
        assert invoke(app, words).exit_code == 2, words
