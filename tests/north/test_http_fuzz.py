"""Hostile input: whatever the OpenAPI document allows or nearly allows, no 500."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from gateway.core.requests import Role
from tests.north.conftest import Served

API = "/api/v1"
EXAMPLES = 25
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
async def test_no_input_makes_a_server_error(
    site: Served, monkeypatch: pytest.MonkeyPatch, mode: GenerationMode
) -> None:
    """Every operation, valid and invalid input: no 5xx, and each answer as the document says."""
    monkeypatch.setattr("gateway.north.wishes.OUTCOME_WAIT_S", 0.3)
    admin = await site.client(Role.ADMIN)
    document = (await admin.get(f"{API}/openapi.json")).json()
    # An endless answer; its own tests cover it.
    del document["paths"][f"{API}/stream"]
    headers = {}
    for role in Role:
        headers[role.value] = dict((await site.client(role)).headers)
    count = await asyncio.to_thread(_try_all, document, site.url, headers, mode)
    assert count > 100
    assert (await admin.get(f"{API}/health")).json()["status"] == "ok"


def _try_all(
    document: Mapping[str, object],
    url: str,
    headers: Mapping[str, dict[str, str]],
    mode: GenerationMode,
) -> int:
    schema = schemathesis.openapi.from_dict(dict(document))
    count = 0
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        raw = operation.definition.raw
        if mode is GenerationMode.NEGATIVE and not {"parameters", "requestBody"} & set(raw):
            continue  # nothing in it can be wrong
        roles = raw.get("x-roles", ["manager"])
        role = "manager" if "manager" in roles else roles[0]
        count += _try_one(operation.as_strategy(generation_mode=mode), url, headers[role])
    return count


def _try_one(
    cases: SearchStrategy[schemathesis.Case[Any]], url: str, sent: Mapping[str, str]
) -> int:
    count = 0

    @given(case=cases)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    def attempt(case: schemathesis.Case[Any]) -> None:
        nonlocal count
        count += 1
        answer = case.call(
            base_url=url, headers={"authorization": sent["authorization"]}, timeout=10
        )
        case.validate_response(answer, checks=CHECKS)

    attempt()
    return count
