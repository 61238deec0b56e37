"""Images and roll-outs as the API takes and shows them."""

import hashlib
from typing import Any

import pytest

from gateway.app.firmware.bundle import BUNDLE_MAX
from gateway.core.requests import Role
from gateway.core.rollout_plan import IMAGE_BYTES_MAX
from gateway.north.http.gate import MAX_BODY_BYTES
from gateway.store.devices import DeviceRecord, DeviceStatus
from gateway.store.uploads import KEPT, PART_BYTES, read_upload
from tests.north.conftest import Served
from tests.north.test_http_devices import keep

API = "/api/v1"
AT = 1_800_000_000_000
OCTETS = {"content-type": "application/octet-stream"}


async def add(site: Served, content: bytes, key: str) -> Any:
    """Upload an image."""
    client = await site.client(Role.TECHNICIAN)
    headers = {"idempotency-key": key, **OCTETS}
    return await client.post(f"{API}/firmware-images", content=content, headers=headers)


@pytest.mark.slow
async def test_an_image_is_kept_with_its_bytes_shown_and_removed(site: Served) -> None:
    """The bytes lie beside the wish in parts that control may read; the same again is a repeat."""
    content = bytes(range(256)) * 700  # 179,200 bytes, three parts
    sha256 = hashlib.sha256(content).hexdigest()
    answer = await add(site, content, "i-1")
    assert (answer.status_code, answer.json()["result"]["sha256"]) == (201, sha256)
    kept = await site.context.north.read(lambda c: read_upload(c, sha256, IMAGE_BYTES_MAX))
    assert kept == content
    assert len(content) > PART_BYTES
    assert (await add(site, content, "i-1")).status_code == 200
    assert (await add(site, b"other", "i-1")).status_code == 409
    client = await site.client(Role.AUDITOR)
    (shown,) = (await client.get(f"{API}/firmware-images")).json()["items"]
    assert (shown["sha256"], shown["size"]) == (sha256, len(content))
    assert (await client.get(f"{API}/firmware-images/{sha256}")).json() == shown
    field = await site.client(Role.TECHNICIAN)
    gone = await field.delete(f"{API}/firmware-images/{sha256}", headers={"idempotency-key": "d-1"})
    assert gone.status_code == 201
    for call in (
        client.get(f"{API}/firmware-images/{sha256}"),
        field.delete(f"{API}/firmware-images/{sha256}", headers={"idempotency-key": "d-2"}),
    ):
        found = await call
        assert (found.status_code, found.json()["code"]) == (404, "IMAGE_UNKNOWN")


async def test_an_image_is_bounded_and_nothing_else_got_larger(site: Served) -> None:
    """One byte more than a node takes is 413, and so is a large body of any other route."""
    assert IMAGE_BYTES_MAX == BUNDLE_MAX
    assert (await add(site, bytes(IMAGE_BYTES_MAX), "b-1")).status_code == 201
    assert (await add(site, bytes(IMAGE_BYTES_MAX + 1), "b-2")).status_code == 413
    assert (await add(site, b"", "b-3")).status_code == 400
    client = await site.client(Role.TECHNICIAN)
    for path in ("firmware-rollouts", "firmware-images/", "vouchers/unlock"):
        answer = await client.post(
            f"{API}/{path}", content=bytes(MAX_BODY_BYTES + 1), headers={"idempotency-key": "x"}
        )
        assert (path, answer.status_code) in {
            ("firmware-rollouts", 413),
            ("firmware-images/", 404),
            ("vouchers/unlock", 413),
        }


@pytest.mark.slow
async def test_old_uploads_go(site: Served) -> None:
    """Whoever uploads one after the other fills no disk."""
    for number in range(KEPT + 2):
        await add(site, b"%d" % number, f"u-{number}")

    def count(connection: Any) -> list[int]:
        tables = ("upload", "upload_part")
        return [
            connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]  # noqa: S608
            for name in tables
        ]

    assert await site.context.north.read(count) == [KEPT, KEPT]


@pytest.mark.slow
async def test_a_rollout_is_begun_shown_and_steered(site: Served) -> None:
    """With what a plan has by default; devices in the order given, with their meters."""
    sha256 = (await add(site, b"firmware", "i-1")).json()["result"]["sha256"]
    approved = DeviceStatus.APPROVED
    keep(
        site,
        *(DeviceRecord(f"node-{n}", approved, f"flat-{n}", 1, "1.0.0", AT, AT) for n in (1, 2, 3)),
    )
    client = await site.client(Role.MANAGER)
    form = {"image": sha256, "devices": ["node-2", "node-1"]}
    path = f"{API}/firmware-rollouts"
    begun = await client.post(path, json=form, headers={"idempotency-key": "r-1"})
    assert begun.status_code == 201
    assert begun.json()["result"] == {
        "rollout": 1,
        "version": "1.0.0",
        "devices": 2,
        "skipped": 0,
    }
    shown = (await client.get(f"{path}/1")).json()
    assert shown["plan"] == {
        "stages": [0, 10, 100],
        "observe_s": 3_600,
        "failures_max": 1,
        "parallel_max": 4,
        "offline_s": 3_600,
    }
    assert (shown["state"], shown["stage"], shown["counts"]) == ("running", 1, {"waiting": 2})
    assert [(one["id"], one["meter_id"], one["phase"]) for one in shown["devices"]] == [
        ("node-2", "flat-2", "waiting"),
        ("node-1", "flat-1", "waiting"),
    ]
    for act, state in (("pause", "paused"), ("resume", "running"), ("stop", "stopped")):
        answer = await client.post(
            f"{path}/1/{act}", json={"reason": "x"}, headers={"idempotency-key": act}
        )
        assert (answer.status_code, answer.json()["result"]["state"]) == (201, state)
    (listed,) = (await client.get(path)).json()["items"]
    assert (listed["state"], listed["why"], listed["counts"]) == ("stopped", "x", {"skipped": 2})
    assert listed["ended_at"] is not None
    again = await client.post(
        f"{path}/1/stop", json={"reason": "x"}, headers={"idempotency-key": "again"}
    )
    assert (again.status_code, again.json()["code"]) == (409, "ROLLOUT_STATE")
    unknown = await client.get(f"{path}/9")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "ROLLOUT_UNKNOWN")


@pytest.mark.slow
async def test_a_plan_is_checked_before_and_after(site: Served) -> None:
    """The form has the bounds of numbers; that stages rise is control's rule."""
    sha256 = (await add(site, b"firmware", "i-1")).json()["result"]["sha256"]
    client = await site.client(Role.MANAGER)
    changes: tuple[tuple[dict[str, object], int], ...] = (
        ({"stages": [100, 10]}, 422),
        ({"stages": [10]}, 422),
        ({"stages": []}, 400),
        ({"stages": [101]}, 400),
        ({"parallel_max": 17}, 400),
        ({"failures_max": 0}, 400),
        ({"devices": []}, 400),
        ({"devices": ["../x"]}, 400),
        ({"devices": ["node-1", "node-1"]}, 400),
        ({"image": "x"}, 400),
        ({"image": "1" * 64}, 404),
        ({"more": 1}, 400),
    )
    for number, (change, status) in enumerate(changes):
        form = {"image": sha256, "devices": ["node-1"], **change}
        answer = await client.post(
            f"{API}/firmware-rollouts", json=form, headers={"idempotency-key": f"p-{number}"}
        )
        assert (change, answer.status_code) == (change, status)
