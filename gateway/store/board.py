"""Control's figures in a small file of its runtime directory, written anew every second.

A whole file replaces the one before, so a reader sees one second's figures or the one before, never
half of each. It lies in memory (tmpfs): nothing is synced.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from gateway.core.errors import StoreAwayError, StoreError
from gateway.core.figures import FIGURES_BY_NAME, FigureKind, Histogram, Value, histogram_of

BOARD_NAME: Final = "figures.json"
STALE_MS: Final = 5_000
_MAX_BYTES: Final = 1_000_000
_FILE_MODE: Final = 0o640


@dataclass(frozen=True, slots=True)
class Board:
    """Figures by name as they stood at `utc_ms`."""

    utc_ms: int
    figures: Mapping[str, Value]

    def stale(self, now_utc_ms: int) -> bool:
        """Whether control has not written for 5 s (or the clock was set back since)."""
        return abs(now_utc_ms - self.utc_ms) > STALE_MS


class BoardWriter:
    """Writes the board of one directory."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / BOARD_NAME
        self._temporary = directory / f"{BOARD_NAME}.new"

    def write(self, utc_ms: int, figures: Mapping[str, Value]) -> None:
        """Show these figures. Raises StoreError when the directory cannot be written."""
        plain = {
            name: value.snapshot() if isinstance(value, Histogram) else value
            for name, value in figures.items()
        }
        body = orjson.dumps({"utc_ms": utc_ms, "figures": plain}, option=orjson.OPT_NON_STR_KEYS)
        try:
            descriptor = os.open(
                self._temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _FILE_MODE
            )
            try:
                view = memoryview(body)
                while view:
                    view = view[os.write(descriptor, view) :]
            finally:
                os.close(descriptor)
            self._temporary.replace(self._path)
        except OSError as error:
            raise StoreError(f"{self._path}: cannot be written: {error.strerror}") from error


def read_board(directory: Path) -> Board:
    """The figures that control showed last. Raises StoreAwayError: none, or not readable.

    A figure of a name or shape unknown to this version is left out: the writer may be newer.
    """
    path = directory / BOARD_NAME
    try:
        with path.open("rb") as file:
            body = orjson.loads(file.read(_MAX_BYTES))
        found, utc_ms = body["figures"], int(body["utc_ms"])
        figures = {name: _known(name, value) for name, value in found.items()}
    except FileNotFoundError as error:
        raise StoreAwayError(f"{path} does not exist: control is not running") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreAwayError(f"{path} cannot be read: {error}") from error
    return Board(utc_ms, {name: value for name, value in figures.items() if value is not None})


def _known(name: str, value: object) -> Value | None:
    try:
        return _value(name, value)
    except (ValueError, TypeError):
        return None


def _value(name: str, value: object) -> Value | None:
    figure = FIGURES_BY_NAME.get(name)
    if figure is None:
        return None
    if figure.kind is FigureKind.HISTOGRAM:
        return histogram_of(value) if isinstance(value, Mapping) else None
    if figure.label is None:
        return float(value) if isinstance(value, int | float) else None
    if not isinstance(value, Mapping):
        return None
    return {str(label): float(number) for label, number in value.items()}
