"""What people typed, before it goes to a printer or a terminal: these obey control characters."""

import unicodedata
from typing import Final

# Joiners shape letters of Indic scripts and Arabic; other format characters reorder or hide text.
_JOINERS: Final = frozenset("\u200c\u200d")
_LAYOUT: Final = frozenset("\t\n\r")


def one_line(text: str) -> str:
    """The text in one line: control and format characters, line feeds too, become one space."""
    kept = (c if c.isprintable() or c in _JOINERS else " " for c in text)
    return " ".join("".join(kept).split())


def visible(text: str) -> str:
    """The text with whatever would move a reader's cursor shown as a question mark in a box."""
    return "".join(c if c.isprintable() or c in _JOINERS | _LAYOUT else "\ufffd" for c in text)


def has_controls(text: str) -> bool:
    """Whether a text has control characters other than tab and line feeds."""
    return any(c not in _LAYOUT and unicodedata.category(c) == "Cc" for c in text)
