"""The catalogue of faults in docs/promises.md names tests that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
NAMED = re.compile(r"`(tests/[\w/]+\.py|test_\w+)`")


def test_every_fault_has_a_test_that_is_there() -> None:
    """Each row ends in at least one test; each test is in the file that is named before it."""
    page = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
    table = page.split("## Faults, and the test that names each")[1].split("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 25
    for row in rows:
        path, tests = "", 0
        for name in NAMED.findall(row):
            if name.startswith("tests/"):
                path = name
                continue
            tests += 1
            text = (ROOT / path).read_text(encoding="utf-8")
            assert f"def {name}(" in text, f"{path} has no {name}: {row}"
        assert tests, f"no test: {row}"
