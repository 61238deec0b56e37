"""The real esptool, by our command lines, against the boot loader's protocol on TCP."""

import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gateway.app.clock import SystemClock
from gateway.app.firmware.bench import Bench, load_bench
from gateway.app.firmware.image import IMAGE_OFFSET, read_image
from gateway.app.firmware.record import Record
from gateway.app.firmware.station import STEPS, Order, Station
from gateway.app.firmware.tools import SerialBoard
from gateway.core.errors import RefusedError
from gateway.core.sealing import device_secret
from tests.firmware.bench_site import MAC, NODE_KEY, WIFI_PASSWORD, board, write_bench
from tests.firmware.esp32_rom import FLASH_BYTES, Chip, boot_loader

pytestmark = pytest.mark.slow


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A bench with a small base image."""
    return load_bench(write_bench(tmp_path))


def test_a_flash_holds_both_images_and_nothing_else(bench: Bench) -> None:
    """Erased whole, then base and file system at their places; the files can be mounted."""
    chip = Chip(MAC)
    with boot_loader(chip) as port:
        fresh = SerialBoard(port)
        assert fresh.mac() == MAC
        fresh.write(bench)
        fresh.verify(bench)
    assert chip.erased == 1
    wanted = bytearray(b"\xff" * FLASH_BYTES)
    wanted[0x1000 : 0x1000 + len(bench.base)] = bench.base
    wanted[IMAGE_OFFSET : IMAGE_OFFSET + len(bench.image)] = bench.image
    assert chip.flash == wanted
    assert read_image(bytes(chip.flash[IMAGE_OFFSET:])) == bench.files


def test_nothing_is_started_between_writing_and_checking(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command lines only: a socket has no reset line that could show it."""
    commands: list[Sequence[str]] = []
    start = subprocess.run

    def watched(command: Sequence[str], **options: Any) -> Any:
        commands.append(command)
        return start(command, **options)

    monkeypatch.setattr("gateway.app.firmware.tools.subprocess.run", watched)
    with boot_loader(Chip(MAC)) as port:
        fresh = SerialBoard(port)
        fresh.write(bench)
        fresh.verify(bench)
    write, verify = commands
    assert write[write.index("--after") + 1] == "no-reset"
    assert write.index("--after") < write.index("write-flash")
    assert "--after" not in verify


class OnePass:
    """A board whose MicroPython has the files that esptool wrote to the chip."""

    def __init__(self, chip: Chip, port: str, stack: ExitStack) -> None:
        self.port = port
        self._chip = chip
        self._stack = stack
        self._before = SerialBoard(port)
        self.mac, self.write, self.verify = (
            self._before.mac,
            self._before.write,
            self._before.verify,
        )

    def hello(self) -> Mapping[str, Any]:
        """Comes up with what is in the flash."""
        files = read_image(bytes(self._chip.flash[IMAGE_OFFSET:]))
        live = self._stack.enter_context(board(files=files, load_ma=260))
        after = SerialBoard(live.port, settle_s=0, wait_s=1)
        self.keep, self.sums, self.test, self.restart = (
            after.keep,
            after.sums,
            after.test,
            after.restart,
        )
        return after.hello()


def test_one_pass_from_the_box_to_done(bench: Bench) -> None:
    """esptool writes, MicroPython comes up with those files, mpremote does the rest."""
    chip, steps = Chip(MAC), list[str]()
    with boot_loader(chip) as port, ExitStack() as stack:
        record = stack.enter_context(Record.open(bench.record, bench.file.serials))
        station = Station(bench, record, Order(operator="ann"), SystemClock())
        line = station.work(OnePass(chip, port, stack), steps.append)
    assert (line["result"], line["serial"]) == ("done", "PG-0001"), line
    assert steps == list(STEPS)
    secret = device_secret(NODE_KEY, f"node-{MAC}", 1)
    for hidden in (secret, WIFI_PASSWORD.encode()):
        assert hidden not in chip.flash


def test_a_worn_flash_is_told(bench: Bench) -> None:
    """One bit does not take; the write itself finds it, and so does the check alone."""
    chip = Chip(MAC)
    chip.worn_at = 0x1000
    with boot_loader(chip) as port:
        worn = SerialBoard(port)
        with pytest.raises(RefusedError) as written:
            worn.write(bench)
        with pytest.raises(RefusedError) as checked:
            worn.verify(bench)
    for refused, why in ((written, "MD5 of file does not match"), (checked, "Verification failed")):
        assert refused.value.refusal_code == "BOARD_FAILED"
        assert f": esptool: ERROR: A fatal error occurred: {why}" in refused.value.message
        assert "\n" not in refused.value.message


def test_images_do_not_stay_on_the_disk(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removed when the tool ended, also when it failed."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    chip = Chip(MAC)
    chip.worn_at = 0x1000
    with boot_loader(chip) as port, pytest.raises(RefusedError):
        SerialBoard(port).verify(bench)
    assert list((tmp_path / "temporary").iterdir()) == []
