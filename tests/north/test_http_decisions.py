"""What a person decides: held energy, an exchanged meter, the clock, and why a switch was asked."""

import asyncio

import httpx
import pytest
from ulid import ULID

from gateway.core.requests import Role
from gateway.store.commands import CommandState, SwitchAction, SwitchCommand, put_switch_command
from tests.north.conftest import Served

pytestmark = pytest.mark.slow

API = "/api/v1"
RELEASE = f"{API}/meters/flat-1/quarantine-release"
REPLACEMENT = f"{API}/meters/flat-1/replacement"
CLOCK = f"{API}/clock/confirmation"
EXCHANGE = {"closing_wh": [12_900, 510], "opening_wh": [17, 0], "reason": "display broken"}


@pytest.mark.parametrize(("accept", "charged_wh"), [(True, [90_000, 0]), (False, [0, 0])])
async def test_held_energy_is_charged_or_not_as_decided(
    site: Served, *, accept: bool, charged_wh: list[int]
) -> None:
    """The manager's word decides, once: 201 with what was charged, 200 for the repeat."""
    site.executor.hold("flat-1")
    client = await site.client(Role.MANAGER)
    form = {"accept": accept, "reason": "compared with the display"}
    answer = await _post(client, RELEASE, "k-1", form)
    assert answer.status_code == 201
    assert answer.json()["result"] == {"charged_wh": charged_wh}
    assert answer.headers["location"] == f"{API}/requests/k-1"
    assert not site.executor.guards["flat-1"].held
    repeat = await _post(client, RELEASE, "k-1", form)
    assert (repeat.status_code, repeat.json()) == (200, answer.json())


async def test_nothing_held_or_never_read_is_a_conflict(site: Served) -> None:
    """What the present state does not allow is 409, an unknown meter is 404."""
    client = await site.client(Role.MANAGER)
    decided = {"accept": True, "reason": "x"}
    refused = [
        (RELEASE, decided, 409, "NOTHING_HELD"),
        (REPLACEMENT, EXCHANGE, 409, "NO_BASELINE"),
        (f"{API}/meters/nobody/quarantine-release", decided, 404, "METER_UNKNOWN"),
        (f"{API}/meters/nobody/replacement", EXCHANGE, 404, "METER_UNKNOWN"),
    ]
    for number, (path, form, status, code) in enumerate(refused):
        answer = await _post(client, path, f"k-{number}", form)
        assert (path, answer.status_code, answer.json()["code"]) == (path, status, code)


async def test_exchange_of_a_meter_charges_what_the_old_one_still_counted(site: Served) -> None:
    """Closing less last good registers is charged, then the new device's registers count."""
    site.executor.guards["flat-1"].check(1, 0, (12_000, 500))
    client = await site.client(Role.TECHNICIAN)
    below = await _post(client, REPLACEMENT, "k-1", {**EXCHANGE, "closing_wh": [11_999, 500]})
    assert (below.status_code, below.json()["code"]) == (422, "REPLACEMENT_REGISTERS")
    answer = await _post(client, REPLACEMENT, "k-2", EXCHANGE)
    assert (answer.status_code, answer.json()["result"]) == (201, {"charged_wh": [900, 10]})
    assert site.executor.guards["flat-1"].registers_wh == (17, 0)


async def test_clock_is_vouched_for_with_a_reason(site: Served) -> None:
    """The words reach control as they were said, without the spaces around them."""
    client = await site.client(Role.ADMIN)
    answer = await _post(client, CLOCK, "k-1", {"reason": "  compared with my phone "})
    assert answer.status_code == 201
    assert site.executor.clock_reasons == ["compared with my phone"]


@pytest.mark.parametrize(
    ("path", "form"),
    [
        (RELEASE, {"accept": True}),
        (RELEASE, {"accept": True, "reason": "  "}),
        (RELEASE, {"accept": True, "reason": "x" * 501}),
        (RELEASE, {"reason": "x"}),
        (RELEASE, {"accept": "yes", "reason": "x"}),
        (RELEASE, {"accept": 1, "reason": "x"}),
        (REPLACEMENT, {**EXCHANGE, "closing_wh": []}),
        (REPLACEMENT, {**EXCHANGE, "closing_wh": [0] * 9}),
        (REPLACEMENT, {**EXCHANGE, "closing_wh": [-1, 0]}),
        (REPLACEMENT, {**EXCHANGE, "closing_wh": [1.5, 0]}),
        (REPLACEMENT, {**EXCHANGE, "opening_wh": ["17", 0]}),
        (REPLACEMENT, {**EXCHANGE, "opening_wh": [True, 0]}),
        (REPLACEMENT, {**EXCHANGE, "opening_wh": [2**63, 0]}),
        (REPLACEMENT, {**EXCHANGE, "reason": ""}),
        (CLOCK, {}),
        (CLOCK, {"reason": "\t"}),
        (CLOCK, {"reason": "x", "utc_ms": 0}),
        (f"{API}/mass-cut/release", {"reason": " "}),
    ],
)
async def test_malformed_decision_is_refused_before_it_is_stored(
    site: Served, path: str, form: object
) -> None:
    """No reason, no clear yes or no, no whole Wh: 400, and no request is left behind."""
    client = await site.client(Role.MANAGER)
    answer = await _post(client, path, "k-1", form)
    assert (answer.status_code, answer.json()["code"]) == (400, "VALIDATION")
    assert (await client.get(f"{API}/requests/k-1")).status_code == 404


async def test_a_word_about_the_present_expires_and_an_exchange_does_not(
    site: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held energy and the clock are decided as they are now; an exchange has happened for good."""
    monkeypatch.setattr("gateway.north.wishes.OUTCOME_WAIT_S", 0.05)
    monkeypatch.setattr("gateway.north.http.decisions.PRESENT_EXPIRY_MS", 100)
    site.executor.hold("flat-1")
    site.executor.guards["flat-2"].check(1, 0, (12_000, 500))
    client = await site.client(Role.MANAGER)
    site.executor.paused.set()
    await asyncio.sleep(0.05)
    asked = [
        await _post(client, RELEASE, "k-1", {"accept": True, "reason": "x"}),
        await _post(client, CLOCK, "k-2", {"reason": "x"}),
        await _post(client, f"{API}/meters/flat-2/replacement", "k-3", EXCHANGE),
    ]
    assert [answer.status_code for answer in asked] == [202, 202, 202]
    await asyncio.sleep(0.15)
    site.executor.paused.clear()
    states = [await _ended(client, key) for key in ("k-1", "k-2", "k-3")]
    assert states == ["expired", "expired", "executed"]
    assert site.executor.guards["flat-1"].held
    assert site.executor.clock_reasons == []


async def test_command_tells_the_persons_reason_beside_what_blocks(site: Served) -> None:
    """`reason` is what was said, by key, by id and in lists; `block_reasons` what control saw."""
    client = await site.client(Role.TECHNICIAN)
    path = f"{API}/meters/flat-1/commands"
    asked = await _post(client, path, "k-1", {"action": "disconnect", "reason": "works on riser"})
    listed = (await client.get(path)).json()["items"][0]
    by_key = (await client.get(asked.headers["location"])).json()
    by_id = (await client.get(f"{API}/commands/{listed['id']}")).json()
    for view in (listed, by_key, by_id):
        assert (view["reason"], view["block_reasons"]) == ("works on riser", ["MANUAL"])
    await _post(client, path, "k-2", {"action": "reconnect"})
    back = (await client.get(path)).json()["items"][0]
    assert (back["reason"], back["block_reasons"]) == ("", [])


@pytest.mark.parametrize("request_key", [None, "forgotten"])
async def test_command_that_nobody_asked_for_has_no_words(
    site: Served, request_key: str | None
) -> None:
    """A cut for credit, or one whose request is no longer kept, shows what blocked supply."""
    command = SwitchCommand(
        command_id=str(ULID()),
        service_point_id="flat-3",
        meter_id="flat-3",
        action=SwitchAction.OPEN,
        reason="CREDIT,MANUAL",
        issued_utc_ms=1_780_000_000_000,
        request_key=request_key,
        state=CommandState.SENT,
    )
    site.executor.ledger.write(lambda connection: put_switch_command(connection, command))
    client = await site.client(Role.AUDITOR)
    (view,) = (await client.get(f"{API}/meters/flat-3/commands")).json()["items"]
    assert (view["reason"], view["block_reasons"]) == ("", ["CREDIT", "MANUAL"])


async def _post(client: httpx.AsyncClient, path: str, key: str, form: object) -> httpx.Response:
    return await client.post(path, json=form, headers={"idempotency-key": key})


async def _ended(client: httpx.AsyncClient, key: str) -> str:
    async with asyncio.timeout(5):
        while (state := (await client.get(f"{API}/requests/{key}")).json()["state"]) == "pending":
            await asyncio.sleep(0.02)
    return str(state)
