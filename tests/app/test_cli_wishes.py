"""Whatever can be asked for over HTTP can be asked for from a terminal."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.north.test_http_access import EXPECTED, FORMS

COMMANDS: Final = Path(__file__).parents[2] / "gateway" / "app" / "cli"
# Keys of the API are made by an administrator, who needs none of what a terminal shows.
OVER_HTTP_ONLY: Final = frozenset({"POST /api/v1/api-keys", "DELETE /api/v1/api-keys/{key_id}"})


def paths_of(tree: ast.AST) -> Iterator[str]:
    """Every path in a module, `{}` for what is put in at run time; without the query."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value.partition("?")[0]
        elif isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
            yield "".join(map(str, parts)).partition("?")[0]


def without_names(operation: str) -> str:
    """The path of an operation as `paths_of` gives it."""
    path = operation.split()[1].removeprefix("/api/v1")
    return re.sub(r"\{[a-z0-9_]+\}", "{}", path)


def test_every_change_is_a_command_too() -> None:
    """No route that changes something is left to those who can write HTTP by hand."""
    known = {
        path
        for file in COMMANDS.glob("*.py")
        for path in paths_of(ast.parse(file.read_text(encoding="utf-8")))
    }
    changes = {operation for operation in EXPECTED if not operation.startswith("GET ")}
    assert set(FORMS) <= changes
    missing = {one for one in changes - OVER_HTTP_ONLY if without_names(one) not in known}
    assert missing == set()


def test_a_path_is_found_with_and_without_names_in_it() -> None:
    """The search sees both kinds, and not what was never written."""
    planted = 'north.call("POST", f"/meters/{meter}/x?a={b}")\nnorth.call("GET", "/feeders")\n'
    found = set(paths_of(ast.parse(planted)))
    assert {without_names("POST /api/v1/meters/{meter_id}/x"), "/feeders"} <= found
    assert "/meters/{}/y" not in found
