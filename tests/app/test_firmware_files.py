"""What a full disk leaves of the files that a bench and a release write."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.app.firmware.record import Record, boards_in
from gateway.app.firmware.signing import write_new
from gateway.core.errors import RefusedError
from tests.app.test_firmware_bench import MAC, OTHER_MAC


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """A disk that is full: no file grows beyond `size`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_no_half_line_in_the_record(tmp_path: Path) -> None:
    """What fits of a line would tie the next one to it, and the record would be damaged."""
    path = tmp_path / "boards.jsonl"
    first = {"serial": "PG-0001", "mac": MAC, "result": "done"}
    with Record.open(path, "PG-") as record:
        record.write(first)
        whole = path.read_bytes()
        with files_end_at(len(whole) + 20), pytest.raises(RefusedError, match="No space left"):
            record.write({**first, "mac": OTHER_MAC, "serial": "PG-0002"})
        assert path.read_bytes() == whole
        record.write({**first, "mac": OTHER_MAC, "serial": "PG-0002"})
    assert list(boards_in(path.read_bytes(), path)) == [MAC, OTHER_MAC]


def test_a_file_that_cannot_be_written_whole_is_not_left(tmp_path: Path) -> None:
    """Else the next try, with room again, would be refused: it is there already."""
    path = tmp_path / "node.pgn"
    with files_end_at(100), pytest.raises(RefusedError) as refused:
        write_new(path, bytes(20_000))
    assert refused.value.refusal_code == "FILE_REFUSED"
    assert not path.exists()
    write_new(path, bytes(20_000))
    with pytest.raises(RefusedError, match="is there already"):
        write_new(path, b"")
    assert path.stat().st_size == 20_000
