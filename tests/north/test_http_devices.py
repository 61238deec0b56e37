"""Devices as the API shows them, and the word of who approves or refuses one."""

import pytest

from gateway.core.lease import UNLIMITED_WH
from gateway.core.requests import Role
from gateway.store.devices import DeviceRecord, DeviceStatus, put_devices
from tests.north.conftest import Served

API = "/api/v1"
STATE = {
    "online": True,
    "session": "a" * 16,
    "relay": False,
    "can_switch": True,
    "reasons": ["command"],
    "spooled": 3,
    "lease": ["E" * 26, 4, 5_000, 1_800_000_000],
}


def keep(site: Served, *records: DeviceRecord) -> None:
    """Write records as control would."""
    site.executor.ledger.write(lambda connection: put_devices(connection, records))


async def test_a_device_shows_what_it_told_last(site: Served) -> None:
    """Relay, reasons, backlog and lease; before anything was told they are empty."""
    client = await site.client(Role.AUDITOR)
    assert (await client.get(f"{API}/devices")).json() == {"items": []}
    at = 1_800_000_000_000
    keep(
        site,
        DeviceRecord("node-1", DeviceStatus.APPROVED, "flat-1", 2, "1.0.0", at, at, state=STATE),
        DeviceRecord("node-2", DeviceStatus.PENDING, None, 1, "", at, at),
    )
    shown, pending = (await client.get(f"{API}/devices")).json()["items"]
    assert (shown["status"], shown["meter_id"], shown["generation"]) == ("approved", "flat-1", 2)
    assert (shown["output"], shown["can_be_cut"], shown["waiting_records"]) == ("open", True, 3)
    assert shown["lease"] == {
        "cutoff_wh": 5_000,
        "expires_at": "2027-01-15T08:00:00.000Z",
        "limit_w": None,
        "emergency_limit_w": None,
        "emergency_wh": None,
    }
    assert (shown["held"], shown["modules"], shown["settings"]) == (None, [], {})
    assert (pending["status"], pending["output"], pending["lease"]) == ("pending", None, None)
    unlimited = {**STATE, "lease": ["E" * 26, 5, UNLIMITED_WH, 1_800_000_000]}
    status = DeviceStatus.APPROVED
    keep(site, DeviceRecord("node-1", status, "flat-1", 2, "", at, at, state=unlimited))
    found = (await client.get(f"{API}/devices/node-1")).json()
    assert found["lease"]["cutoff_wh"] is None


@pytest.mark.slow
async def test_a_device_is_approved_and_refused_by_request(site: Served) -> None:
    """With key and role as every wish; an unknown one is 404."""
    client = await site.client(Role.TECHNICIAN)
    at = 1_800_000_000_000
    keep(site, DeviceRecord("node-1", DeviceStatus.PENDING, None, 1, "", at, at))
    answer = await client.post(
        f"{API}/devices/node-1/approval",
        json={"meter_id": "flat-1"},
        headers={"Idempotency-Key": "a-1"},
    )
    assert answer.status_code == 201
    assert (await client.get(f"{API}/devices/node-1")).json()["status"] == "approved"
    answer = await client.post(
        f"{API}/devices/node-1/refusal", json={"reason": "x"}, headers={"Idempotency-Key": "a-2"}
    )
    assert answer.status_code == 201
    assert (await client.get(f"{API}/devices/node-1")).json()["status"] == "refused"
    for call in (
        client.get(f"{API}/devices/node-9"),
        client.post(
            f"{API}/devices/node-9/approval",
            json={"meter_id": "flat-1"},
            headers={"Idempotency-Key": "a-3"},
        ),
    ):
        found = await call
        assert (found.status_code, found.json()["code"]) == (404, "DEVICE_UNKNOWN")


@pytest.mark.slow
async def test_a_device_shows_limits_modules_settings_and_a_held_counter(site: Served) -> None:
    """As control kept them."""
    client = await site.client(Role.TECHNICIAN)
    at, status = 1_800_000_000_000, DeviceStatus.APPROVED
    module = {
        "address": 7,
        "quality": "bad",
        "energy_wh": 5,
        "voltage_v": None,
        "current_a": None,
        "power_w": None,
        "held": False,
    }
    state = {
        **STATE,
        "lease": ["E" * 26, 4, 5_000, 1_800_000_000, 3_000, 1_000, 4_000],
        "held": {"counter_wh": 500, "held_wh": 88_000},
        "modules": [{**module, "address": 1, "quality": "good", "power_w": 12.5}, module],
        "settings": {"poll_s": 2, "modules": [1, 7]},
    }
    keep(site, DeviceRecord("node-1", status, "flat-1", 1, "", at, at, state=state))
    shown = (await client.get(f"{API}/devices/node-1")).json()
    lease = shown["lease"]
    limits = (lease["limit_w"], lease["emergency_limit_w"], lease["emergency_wh"])
    assert limits == (3_000, 1_000, 4_000)
    assert shown["held"] == {"counter_wh": 500, "held_wh": 88_000}
    assert [(one["address"], one["quality"], one["power_w"]) for one in shown["modules"]] == [
        (1, "good", 12.5),
        (7, "bad", None),
    ]
    assert shown["settings"] == {"poll_s": 2, "modules": [1, 7]}


async def test_a_node_is_told_things_by_request(site: Served) -> None:
    """What is no setting is refused before it is stored, and never repeated to anybody."""
    client = await site.client(Role.TECHNICIAN)
    at, status = 1_800_000_000_000, DeviceStatus.APPROVED
    keep(site, DeviceRecord("node-1", status, "flat-1", 1, "", at, at))
    secret = "correct horse battery staple"
    forms: list[tuple[str, object, int, str]] = [
        ("settings", {"settings": {"poll_s": 2}}, 201, ""),
        ("settings", {"settings": {"wifi": secret}}, 400, "SETTING_UNKNOWN"),
        ("settings", {"settings": {secret: 1}}, 400, "SETTING_UNKNOWN"),
        ("settings", {"settings": {"poll_s": secret}}, 400, "SETTING_RANGE"),
        ("settings", {"settings": {"poll_s": True}}, 400, "SETTING_RANGE"),
        ("settings", {"settings": {}}, 400, "VALIDATION"),
        ("identification", {}, 201, ""),
        ("identification", {"for_s": 601}, 400, "VALIDATION"),
        ("restart", None, 201, ""),
        ("counter-release", {"count": False, "reason": "exchanged"}, 201, ""),
        ("counter-release", {"count": False, "reason": " "}, 400, "VALIDATION"),
        ("counter-release", {"reason": "exchanged"}, 400, "VALIDATION"),
    ]
    for number, (path, form, status_code, code) in enumerate(forms):
        answer = await client.post(
            f"{API}/devices/node-1/{path}", json=form, headers={"Idempotency-Key": f"n-{number}"}
        )
        assert (answer.status_code, answer.json().get("code") or "") == (status_code, code), form
        assert secret not in answer.text
    shown = (await client.get(f"{API}/devices/node-1")).json()
    assert shown["settings"] == {"poll_s": 2}
    found = await client.get(f"{API}/requests/n-0")
    assert found.json()["result"]["message"] == "done"
    auditor = await site.client(Role.AUDITOR)
    assert secret not in (await auditor.get(f"{API}/audit-log")).text
