"""QR codes; the one file that imports segno."""

import io
import os
from pathlib import Path
from typing import Final

import segno

# A slip is folded and gets wet: a quarter of the code may be unreadable.
ERROR_LEVEL: Final = "q"
MODULE_PIXELS: Final = 8
QUIET_MODULES: Final = 4


def qr_text(content: str) -> str:
    """A code in half blocks for a dark or a light terminal, with its quiet zone."""
    drawn = io.StringIO()
    _code(content).terminal(drawn, compact=True, border=QUIET_MODULES)
    return drawn.getvalue()


def write_qr(content: str, path: Path, kind: str) -> None:
    """Write a code to a new file of mode 0600, `kind` svg or png: who reads it has the voucher.

    Raises OSError, FileExistsError.
    """
    drawn = io.BytesIO()
    _code(content).save(drawn, kind=kind, scale=MODULE_PIXELS, border=QUIET_MODULES)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(drawn.getvalue())


def _code(content: str) -> segno.QRCode:
    return segno.make_qr(content, error=ERROR_LEVEL)
