"""docs/api.md is a contract: its tables are the program's routes, roles, answers and events."""

import re
from pathlib import Path

import pytest

from gateway.core.requests import Role
from gateway.north.hub import KINDS, RESET
from tests.north.conftest import Served

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
ROW = re.compile(
    r"^\| (GET|POST|PUT|PATCH|DELETE) \| `(\S+)` \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE
)
LETTERS = {
    "A": Role.ADMIN,
    "M": Role.MANAGER,
    "O": Role.OPERATOR,
    "T": Role.TECHNICIAN,
    "U": Role.AUDITOR,
    "N": Role.TENANT,
    "D": Role.DEVICE,
}


@pytest.mark.slow
async def test_routes_roles_and_answers_are_documented(site: Served) -> None:
    """Every route is in the table with its roles and answers, and nothing else is."""
    client = await site.client(Role.ADMIN)
    document = (await client.get("/api/v1/openapi.json")).json()
    built = {}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            roles = frozenset(Role(name) for name in operation.get("x-roles", ()))
            # Refusals and "away" are the same everywhere and have a section of their own.
            common = {"4XX", "503"} if roles else set()
            built[f"{method.upper()} {path}"] = (roles, set(operation["responses"]) - common)
    written = {}
    for method, path, roles_text, answers in ROW.findall(PAGE.read_text(encoding="utf-8")):
        letters = roles_text.split() if roles_text != "anybody" else ()
        roles = frozenset(LETTERS[letter] for letter in letters)
        written[f"{method} {path}"] = (roles, set(answers.split(", ")))
    assert written == built


def test_events_are_documented() -> None:
    """Every kind of event has its row, and no row is left over."""
    text = PAGE.read_text(encoding="utf-8").partition("## Stream")[2]
    assert set(re.findall(r"^\| `([a-z_.]+)` \|", text, re.MULTILINE)) == KINDS | {RESET}
