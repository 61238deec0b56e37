"""Labels for nodes as a PDF: serial, MAC and set-up secret, as text and as a QR code.

segno has the code; the page is written here: rectangles and one built-in font are thirty lines of
PDF 1.4, a library for documents would bring twenty megabytes.
"""

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.app.firmware.sources import bench_tool_missing
from gateway.core.errors import RefusedError

# Three by eight on A4, 70 x 37 mm each: sold everywhere. In points, 72 to the inch.
MM: Final = 72 / 25.4
PAGE_MM: Final = (210, 297)
LABEL_MM: Final = (70, 37)
COLUMNS: Final = 3
ROWS: Final = 8
PER_PAGE: Final = COLUMNS * ROWS
LABELS_MAX: Final = 10_000
_TOP_MM: Final = (PAGE_MM[1] - ROWS * LABEL_MM[1]) / 2
_EDGE_MM: Final = 4
_CODE_MM: Final = 26
_TEXT_MM: Final = LABEL_MM[0] - _EDGE_MM - _CODE_MM - 3 - 2
# Of a character of Courier, in its size.
_FONT_WIDTH: Final = 0.6


@dataclass(frozen=True, slots=True)
class Label:
    """What stands on one label."""

    serial: str
    mac: str
    secret: str

    @property
    def code(self) -> str:
        """The text of its QR code: four words and a number of this form."""
        return f"prepaid-node 1 {self.serial} {self.mac} {self.secret}"


def labels_pdf(labels: Sequence[Label], skip: int = 0) -> bytes:
    """The sheets; the same labels give the same bytes. `skip`: places used up on the first.

    Raises RefusedError FIRMWARE_TOOL (segno is missing), ARGUMENT (none, or too many).
    """
    if not 1 <= len(labels) <= LABELS_MAX or not 0 <= skip < PER_PAGE:
        raise RefusedError("ARGUMENT", f"{len(labels)} labels from place {skip}: nothing to print")
    places: list[Label | None] = [None] * skip + list(labels)
    pages = [
        "\n".join(
            line
            for place, label in enumerate(places[first : first + PER_PAGE])
            if label is not None
            for line in _drawn(place, label)
        )
        for first in range(0, len(places), PER_PAGE)
    ]
    return _document(pages)


def _drawn(place: int, label: Label) -> Iterator[str]:
    """Drawing commands of one label."""
    left = (place % COLUMNS) * LABEL_MM[0] + _EDGE_MM
    top = PAGE_MM[1] - _TOP_MM - (place // COLUMNS) * LABEL_MM[1] - _EDGE_MM
    yield from _code(label.code, left * MM, top * MM)
    text_left = (left + _CODE_MM + 3) * MM
    mac = ":".join(label.mac[at : at + 2] for at in range(0, len(label.mac), 2))
    for size, below_mm, text in (
        (14, 6, label.serial),
        (7, 11, mac),
        (6, 17, "set-up password"),
        (9, 21, label.secret),
    ):
        shown = "".join(f"\\{letter}" if letter in "()\\" else letter for letter in text)
        fitting = min(size, _TEXT_MM * MM / (_FONT_WIDTH * len(text)))
        yield (
            f"BT /F1 {fitting:.2f} Tf {text_left:.2f} {(top - below_mm) * MM:.2f} Td "
            f"({shown.encode('ascii', 'replace').decode()}) Tj ET"
        )


def _code(text: str, left: float, top: float) -> Iterator[str]:
    """A QR code as filled rectangles, one for each run of dark modules; its quiet zone is free."""
    try:
        segno = importlib.import_module("segno")
    except ImportError as error:
        raise RefusedError(
            "FIRMWARE_TOOL", bench_tool_missing("segno", "makes QR codes")
        ) from error
    matrix = [bytes(row) for row in segno.make_qr(text, error="m").matrix]
    side = _CODE_MM * MM / len(matrix)
    for y, row in enumerate(matrix):
        x = 0
        while x < len(row):
            width = len(row[x:]) - len(row[x:].lstrip(b"\1"))
            if width:
                yield (
                    f"{left + x * side:.3f} {top - (y + 1) * side:.3f} "
                    f"{width * side:.3f} {side:.3f} re f"
                )
            x += width or 1


def _document(pages: Sequence[str]) -> bytes:
    """A PDF of pages of drawing commands (ISO 32000-1, 7.5)."""
    kids = " ".join(f"{4 + 2 * index} 0 R" for index in range(len(pages)))
    box = f"0 0 {PAGE_MM[0] * MM:.2f} {PAGE_MM[1] * MM:.2f}"
    fonts = "/Resources << /Font << /F1 3 0 R >> >>"
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} /MediaBox [{box}] {fonts} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Courier-Bold >>",
    ]
    for index, drawing in enumerate(pages):
        objects += [
            f"<< /Type /Page /Parent 2 0 R /Contents {5 + 2 * index} 0 R >>",
            f"<< /Length {len(drawing)} >>\nstream\n{drawing}\nendstream",
        ]
    out = b"%PDF-1.4\n"
    offsets: list[int] = []
    for number, content in enumerate(objects, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{content}\nendobj\n".encode("ascii")
    start = len(out)
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    return out + (
        f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
        f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n"
    ).encode("ascii")
