"""Where something stands in a file a person wrote, and what is wrong there."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from gateway.app.regular import open_regular
from gateway.core.errors import ConfigurationError

# A file with more wrong places than this has one cause; the rest would only scroll it away.
MAX_PROBLEMS: Final = 2_000
SHOWN_CHARACTERS: Final = 60

Step = str | int


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A position in a text file; `line` and `column` count from 1, in characters."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that a person has to change. `path` names the key; empty for the whole file."""

    place: Place
    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.path or '(file)'}: {self.message}"


class FileRefusedError(ConfigurationError):
    """A file with problems; `found` holds them with their places."""

    def __init__(self, found: tuple[Problem, ...], lines: tuple[str, ...]) -> None:
        super().__init__(lines)
        self.found = found


def refuse(problems: Iterable[Problem]) -> FileRefusedError:
    """All problems as one error, file by file in the order of lines, each once."""
    ordered = list(dict.fromkeys(problems))
    files = {name: rank for rank, name in enumerate(dict.fromkeys(p.place.file for p in ordered))}
    ordered.sort(key=lambda problem: (files[problem.place.file], problem))
    lines = [str(problem) for problem in ordered[:MAX_PROBLEMS]]
    if len(ordered) > MAX_PROBLEMS:
        lines.append(f"… and {len(ordered) - MAX_PROBLEMS} more problems")
    return FileRefusedError(tuple(ordered), tuple(lines))


def show_path(steps: Sequence[Step]) -> str:
    """`("meters", 3, "host")` as `meters[3].host`."""
    shown = ""
    for step in steps:
        if isinstance(step, int):
            shown += f"[{step}]"
        else:
            shown += f".{step}" if shown else step
    return shown


def quote(text: str) -> str:
    """A person's text inside a message: shortened, control characters made visible."""
    if len(text) > SHOWN_CHARACTERS:
        text = text[: SHOWN_CHARACTERS - 1] + "…"
    return repr(text)


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that does not exist, with the likeliest one that does."""
    names = sorted(known)
    close = get_close_matches(name.lower(), names, n=1, cutoff=0.6)
    remedy = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(names)}"
    return f"unknown {what} {quote(name)}: {remedy}"


def read_text(path: Path, shown: str, limit_bytes: int) -> str:
    """The text of a configuration file, without a byte order mark.

    `shown` is how the file is named in messages. Raises FileRefusedError when the file cannot
    be read, is longer than `limit_bytes` or is not UTF-8 (naming the first wrong byte's place).
    """
    start = Place(shown, 1, 1)
    try:
        with open_regular(path) as stream:
            content = stream.read(limit_bytes + 1)
    except OSError as error:
        raise refuse([Problem(start, "", f"cannot be read: {error.strerror}")]) from error
    if len(content) > limit_bytes:
        raise refuse([Problem(start, "", f"is longer than {limit_bytes} bytes")])
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line_start = before.rfind(b"\n") + 1
        column = len(before[line_start:].decode("utf-8")) + 1
        place = Place(shown, before.count(b"\n") + 1, column)
        message = "is not UTF-8 (a spreadsheet: save as 'CSV UTF-8')"
        raise refuse([Problem(place, "", message)]) from error
