"""The board: control's figures, whole or not at all."""

import threading
from pathlib import Path

import pytest

from gateway.core.errors import StoreAwayError, StoreError
from gateway.core.figures import Histogram
from gateway.store.board import BOARD_NAME, STALE_MS, BoardWriter, read_board


def test_figures_come_back_as_they_were_shown(tmp_path: Path) -> None:
    """Numbers, labelled numbers and histograms; the time they were shown at."""
    histogram = Histogram()
    histogram.observe(0.003)
    writer = BoardWriter(tmp_path)
    writer.write(
        5_000, {"polls_total": 7, "meters": {"good": 2}, "poll_round_trip_seconds": histogram}
    )
    board = read_board(tmp_path)
    assert board.figures == {
        "polls_total": 7.0,
        "meters": {"good": 2.0},
        "poll_round_trip_seconds": histogram,
    }
    assert not board.stale(5_000 + STALE_MS)
    assert board.stale(5_001 + STALE_MS)
    assert (tmp_path / BOARD_NAME).stat().st_mode & 0o007 == 0


def test_a_newer_writers_figures_are_left_out(tmp_path: Path) -> None:
    """An unknown name or shape costs that figure alone."""
    (tmp_path / BOARD_NAME).write_text(
        '{"utc_ms": 1, "figures": {"later": 1, "polls_total": {"x": 1}, "ledger_queue": 3,'
        '"sweep_seconds": {"counts": [1, 2], "total_s": 3}, "meters": {"good": [1]}}}'
    )
    assert read_board(tmp_path).figures == {"ledger_queue": 3.0}


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"utc_ms": 1}', '{"utc_ms": 1, "figures": 3}', "\0"]
)
def test_a_damaged_board_is_away(tmp_path: Path, text: str) -> None:
    """Nobody but control writes it, yet what cannot be read is no crash of north."""
    (tmp_path / BOARD_NAME).write_text(text)
    with pytest.raises(StoreAwayError):
        read_board(tmp_path)


def test_no_board_and_no_directory(tmp_path: Path) -> None:
    """Absent figures mean that control does not run; a lost directory is said to the writer."""
    with pytest.raises(StoreAwayError, match="control is not running"):
        read_board(tmp_path)
    with pytest.raises(StoreError, match="cannot be written"):
        BoardWriter(tmp_path / "gone").write(1, {})


def test_a_reader_never_sees_half_a_board(tmp_path: Path) -> None:
    """While one thread writes without pause, every read is whole and of one round."""
    writer, stop = BoardWriter(tmp_path), threading.Event()
    writer.write(0, {"polls_total": 0, "meters": {str(at): 0.0 for at in range(200)}})

    def write() -> None:
        for round_number in range(1_000_000):
            if stop.is_set():
                return
            meters = {str(at): float(round_number) for at in range(200)}
            writer.write(round_number, {"polls_total": round_number, "meters": meters})

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(500):
            board = read_board(tmp_path)
            meters = board.figures["meters"]
            assert isinstance(meters, dict)
            assert set(meters.values()) == {board.figures["polls_total"]}
    finally:
        stop.set()
        thread.join()
