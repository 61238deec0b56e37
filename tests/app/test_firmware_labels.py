"""Labels of boards: what stands on them, and where."""

import re
from typing import Final

import pytest
import segno

from gateway.app.firmware.labels import PER_PAGE, Label, labels_pdf
from tests.app.drawn import drawing

MAC: Final = "020000000001"


def test_labels_show_serial_mac_and_secret_and_a_code_of_them() -> None:
    """The rectangles are the modules of the code, all of them and no other."""
    label = Label("PG-0001", MAC, "abcdefghijkl")
    [page] = drawing(labels_pdf([label]))
    shown = re.findall(r"\((.*?)\) Tj", page)
    assert shown == ["PG-0001", "02:00:00:00:00:01", "set-up password", "abcdefghijkl"]
    rectangles = [
        [float(figure) for figure in line.split()[:4]]
        for line in page.splitlines()
        if line.endswith("re f")
    ]
    side = rectangles[0][3]
    left, top = min(row[0] for row in rectangles), max(row[1] for row in rectangles) + side
    dark = {
        (round((top - y) / side) - 1, round((x - left) / side) + step)
        for x, y, width, _ in rectangles
        for step in range(round(width / side))
    }
    code = segno.make_qr(f"prepaid-node 1 PG-0001 {MAC} abcdefghijkl", error="m")
    assert dark == {
        (y, x) for y, row in enumerate(code.matrix) for x, module in enumerate(row) if module
    }


def test_a_long_serial_stays_on_its_label() -> None:
    """A character of this font is 0.6 of its size wide."""
    [page] = drawing(labels_pdf([Label("ABCDEFGHIJKL0001", MAC, "abcdefghijkl")]))
    seen: list[str] = []
    for size, x, text in re.findall(r"/F1 ([\d.]+) Tf ([\d.]+) .*?\((.*?)\)", page):
        seen.append(text)
        assert float(x) + 0.6 * float(size) * len(text) <= 68 * 72 / 25.4
    assert len(seen) == 4


@pytest.mark.slow
def test_labels_fill_sheets() -> None:
    """24 on each; the first may be begun already; all within the page."""
    many = [Label(f"PG-{n:04d}", f"{n:012x}", "abcdefghijkl") for n in range(50)]
    pages = drawing(labels_pdf(many, skip=20))
    assert [page.count("Tj") // 4 for page in pages] == [4, PER_PAGE, 22]
    for page in pages:
        for x, y, *_ in re.findall(r"([\d.]+) ([\d.]+) Td", page):
            assert 0 < float(x) < 595
            assert 0 < float(y) < 842
    assert labels_pdf(many) == labels_pdf(many)
