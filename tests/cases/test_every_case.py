"""Every worked example is run by a test, and each figure that it expects is looked at there."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.core.test_prepaid_cases import CASES

TESTS = Path(__file__).parent.parent


def _tests() -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All test functions of the project."""
    for path in sorted(TESTS.rglob("test_*.py")):
        if path == Path(__file__):
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node


def _texts(nodes: Iterator[ast.expr]) -> set[str]:
    return {
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def _read(test: ast.AST) -> tuple[set[str], set[str]]:
    """Case ids that a test compares or asks for, and the keys that it looks up."""
    calls = [node for node in ast.walk(test) if isinstance(node, ast.Call)]
    arguments = _texts(one for call in calls for one in call.args)
    keys = _texts(node.slice for node in ast.walk(test) if isinstance(node, ast.Subscript))
    compared = [node for node in ast.walk(test) if isinstance(node, ast.Compare)]
    ids = arguments | keys | _texts(one for node in compared for one in node.comparators)
    return ids & CASES.keys(), keys | arguments


@cache
def _covered() -> dict[str, set[str]]:
    """Keys that are looked up in tests of each case."""
    found: dict[str, set[str]] = {}
    for test in _tests():
        if test.name.startswith("test_"):
            ids, keys = _read(test)
            for case_id in ids:
                found.setdefault(case_id, set()).update(keys)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("case_id", sorted(CASES))
def test_a_case_is_run_with_every_figure_that_it_expects(case_id: str) -> None:
    """A case that no test names, or a figure that none looks up, is no proof of anything."""
    assert case_id in _covered(), f"no test runs {case_id}"
    expected = CASES[case_id]["expect"]
    assert isinstance(expected, dict)
    assert set(expected) - _covered()[case_id] == set()


def test_a_case_without_a_test_would_be_noticed() -> None:
    """The search reads ids and keys where tests use them, and nothing from plain text."""
    tree = ast.parse('def test_x():\n    "P99"\n    assert part("P01", "expect")["wallet"]\n')
    assert _read(tree) == ({"P01"}, {"P01", "expect", "wallet"})
