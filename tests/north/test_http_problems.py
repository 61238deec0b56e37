"""Errors: every one is an RFC 9457 problem, whatever went wrong and wherever."""

import asyncio
import json
import traceback
from urllib.parse import urlsplit

import httpx
import pytest

from gateway.core.errors import RefusedError
from gateway.core.requests import Role
from gateway.north.http.problems import STATUS_BY_CODE, refusal_response, status_of
from tests.north.conftest import Served

API = "/api/v1"
FIELDS = {"type", "title", "status", "detail", "code", "retry"}


async def test_every_kind_of_error_is_a_problem(site: Served) -> None:
    """Not found, wrong method, bad JSON, too large, unauthenticated, forbidden: one shape."""
    manager, nobody = await site.client(Role.MANAGER), await site.client(None)
    auditor = await site.client(Role.AUDITOR)
    large = b'{"amount": "' + b"1" * 70_000 + b'"}'
    path = f"{API}/accounts/flat-1/recharges"
    headers = {"idempotency-key": "k", "content-type": "application/json"}
    cases = [
        (await nobody.get(f"{API}/meters"), 401, "UNAUTHENTICATED"),
        (await auditor.post(path, json={"amount": "1"}, headers=headers), 403, "FORBIDDEN"),
        (await manager.get(f"{API}/nowhere"), 404, "NOT_FOUND"),
        (await manager.delete(f"{API}/meters"), 405, "METHOD_NOT_ALLOWED"),
        (await manager.post(path, content=b"{", headers=headers), 400, "VALIDATION"),
        (await manager.post(path, content=b"\xff", headers=headers), 400, "VALIDATION"),
        (await manager.post(path, content=b"[" * 30_000, headers=headers), 400, "VALIDATION"),
        (await manager.post(path, content=b"9" * 9_000, headers=headers), 400, "VALIDATION"),
        (await manager.post(path, content=large, headers=headers), 413, "BODY_TOO_LARGE"),
        (await manager.get(f"{API}/meters/NOT%20AN%20ID"), 400, "VALIDATION"),
    ]
    for answer, status, code in cases:
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code)
        assert set(problem) >= FIELDS
        assert problem["type"] == f"urn:prepaid-gateway:problem:{code.lower().replace('_', '-')}"
    assert cases[3][0].headers["allow"] == "GET"


async def test_validation_names_each_place_without_the_input(site: Served) -> None:
    """Each wrong field is named; what the caller sent is not echoed."""
    manager = await site.client(Role.MANAGER)
    answer = await manager.post(
        f"{API}/accounts/flat-1/recharges",
        json={"amount": "hunter2", "colour": "hunter2", "provider": 7},
        headers={"idempotency-key": "k"},
    )
    places = {item["place"] for item in answer.json()["errors"]}
    assert places == {"body.amount", "body.colour", "body.provider"}
    assert "hunter2" not in answer.text


async def test_a_body_without_declared_length_is_bounded_too(site: Served) -> None:
    """Chunked bodies are counted as they arrive."""
    manager = await site.client(Role.MANAGER)

    async def chunks() -> object:
        for _ in range(80):
            yield b"x" * 1024

    answer = await manager.post(
        f"{API}/accounts/flat-1/recharges",
        content=chunks(),  # type: ignore[arg-type]
        headers={"idempotency-key": "k", "content-type": "application/json"},
    )
    assert (answer.status_code, answer.json()["code"]) == (413, "BODY_TOO_LARGE")


async def test_failure_of_the_program_is_a_problem_that_tells_nothing(
    site: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A 500 problem with a number under which the log has the traceback; the next request works."""
    client = await site.client(Role.AUDITOR)
    with monkeypatch.context() as broken:
        broken.setattr(site.context, "entries", None)
        answer = await client.get(f"{API}/meters/flat-1")
    assert (answer.status_code, answer.json()["code"]) == (500, "INTERNAL")
    assert "NoneType" not in answer.text
    incident = answer.json()["detail"].rpartition(" ")[2]
    told = [record for record in caplog.records if record.exc_info]
    assert len(told) == 1
    assert told[0].exc_info is not None
    trace = "".join(traceback.format_exception(told[0].exc_info[1]))
    assert (f"incident {incident}" in trace, "NoneType" in trace) == (True, True)
    assert (await client.get(f"{API}/meters/flat-1")).status_code == 200


async def test_bytes_that_are_no_http_get_a_problem(site: Served) -> None:
    """Garbage on the socket is answered and closed, and the next caller is served."""
    for garbage in (
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9\r\n\r\n",
    ):
        answer = await _raw(site, garbage)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 Bad Request")
        assert b"application/problem+json" in head
        assert json.loads(body)["code"] == "VALIDATION"
    assert (await (await site.client(None)).get("/healthz")).status_code == 200


async def test_head_that_never_ends_is_refused(site: Served) -> None:
    """A request head has a bound."""
    answer = await _raw(site, b"GET / HTTP/1.1\r\n" + b"x-padding: y\r\n" * 5_000)
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))


@pytest.mark.slow
async def test_request_that_trickles_is_dropped(
    site: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that sends byte by byte holds a connection no longer than the deadline."""
    monkeypatch.setattr("gateway.north.peer.REQUEST_DEADLINE_S", 0.3)
    for start in (b"", b"GET /healthz HT", b"POST /x HTTP/1.1\r\ncontent-length: 9\r\n\r\nabc"):
        reader, writer = await _connect(site)
        writer.write(start)
        async with asyncio.timeout(2):
            while await reader.read(4096):
                pass
        writer.close()


@pytest.mark.slow
async def test_kept_connection_survives_the_deadline_of_one_request(
    site: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline is per request: an idle connection in between is left alone."""
    monkeypatch.setattr("gateway.north.peer.REQUEST_DEADLINE_S", 0.2)
    reader, writer = await _connect(site)
    for _ in range(3):
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        async with asyncio.timeout(2):
            assert b"200 OK" in await reader.readuntil(b'"ok"}')
        await asyncio.sleep(0.25)
    writer.close()


async def test_connections_are_bounded(site: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """One connection too many gets an honest 503 and Retry-After; those open go on."""
    monkeypatch.setattr("gateway.north.peer.MAX_CONNECTIONS", 3)
    links = [await _connect(site) for _ in range(3)]
    await asyncio.sleep(0.05)
    answer = await _raw(site, b"")
    assert answer.startswith(b"HTTP/1.1 503 Service Unavailable")
    assert b"retry-after: 1" in answer
    reader, writer = links[0]
    writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
    async with asyncio.timeout(2):
        assert b"200 OK" in await reader.readuntil(b'"ok"}')
    for _, open_writer in links:
        open_writer.close()


@pytest.mark.slow
async def test_requests_at_once_are_bounded(site: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound a caller gets 503 BUSY at once instead of waiting in line."""
    monkeypatch.setattr("gateway.north.http.gate.MAX_REQUESTS_AT_ONCE", 2)
    monkeypatch.setattr("gateway.north.wishes.OUTCOME_WAIT_S", 1.0)
    site.executor.paused.set()
    await asyncio.sleep(0.05)
    client = await site.client(Role.OPERATOR)

    async def recharge(key: str) -> httpx.Response:
        path = f"{API}/accounts/flat-1/recharges"
        return await client.post(path, json={"amount": "1"}, headers={"idempotency-key": key})

    waiting = [asyncio.create_task(recharge(f"k-{number}")) for number in range(2)]
    await asyncio.sleep(0.3)
    busy = await client.get("/healthz")
    assert (busy.status_code, busy.json()["code"]) == (503, "BUSY")
    site.executor.paused.clear()
    assert {(await task).status_code for task in waiting} <= {201, 202}
    assert (await client.get("/healthz")).status_code == 200


async def test_answers_are_prompt_on_a_kept_connection(site: Served) -> None:
    """Twenty small answers in a row do not each wait for a delayed acknowledgement (40 ms)."""
    client = await site.client(Role.AUDITOR)
    await client.get(f"{API}/auth/me")
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(20):
        await client.get(f"{API}/auth/me")
    assert loop.time() - began < 0.6


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("IDEMPOTENCY_CONFLICT", 409),
        ("ACCOUNT_UNKNOWN", 404),
        ("METER_UNKNOWN", 404),
        ("POINT_UNKNOWN", 404),
        ("TARIFF_UNKNOWN", 404),
        ("TRANSACTION_UNKNOWN", 404),
        ("FORBIDDEN", 403),
        ("SUPPLY_BLOCKED", 409),
        ("REQUEST_FIELD", 400),
        ("SOMETHING_EXISTS", 409),
        ("PRICE_PRECISION", 422),
        ("ZONE_UNKNOWN", 422),
        ("A_RULE_OF_TOMORROW", 422),
    ],
)
def test_refusals_have_their_status(code: str, status: int) -> None:
    """The table, then the suffixes, then 422: a new rule needs no change here."""
    assert status_of(code) == status
    answer = refusal_response(RefusedError(code, "no", "body.x"))
    problem = json.loads(bytes(answer.body))
    assert (answer.status_code, problem["status"], problem["place"]) == (status, status, "body.x")


def test_temporary_problems_say_when_to_come_again() -> None:
    """429 and 503 carry Retry-After, 401 names the scheme."""
    for code, status in STATUS_BY_CODE.items():
        headers = refusal_response(RefusedError(code, "no")).headers
        assert ("retry-after" in headers) == (status in (429, 503))
        assert ("www-authenticate" in headers) == (status == 401)


async def _connect(site: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    url = urlsplit(site.url)
    async with asyncio.timeout(2):
        return await asyncio.open_connection(url.hostname, url.port)


async def _raw(site: Served, sent: bytes) -> bytes:
    reader, writer = await _connect(site)
    writer.write(sent)
    async with asyncio.timeout(5):
        answer = await reader.read(65536)
    writer.close()
    return answer
