"""What a PDF of ours draws."""

import re


def drawing(pdf: bytes) -> list[str]:
    """The drawing commands of each page; checks that every offset in the table is true."""
    start = int(pdf.rsplit(b"startxref\n", 1)[1].split(b"\n")[0])
    table = pdf[start:].split(b"trailer")[0].splitlines()[3:]
    for number, line in enumerate(table, 1):
        assert pdf[int(line[:10]) :].startswith(b"%d 0 obj\n" % number)
    return [
        stream[1].decode()
        for stream in re.finditer(rb"stream\n(.*?)\nendstream", pdf, re.DOTALL)
        if int(pdf[: stream.start()].rsplit(b"/Length ", 1)[1].split(b" ")[0]) == len(stream[1])
    ]
