"""Feeders and suspicions as the API shows them, and the word of who answers for changes."""

from dataclasses import replace

import pytest

from gateway.core.requests import Role
from gateway.store.watch import WatchKind, WatchState, put_watch_states
from tests.north.conftest import Served

API = "/api/v1"
LAST = {
    "start_utc_ms": 1_800_000_000_000,
    "end_utc_ms": 1_800_001_800_000,
    "supplied_wh": 7_000,
    "used_wh": 6_000,
    "doubtful": [],
}


def keep(site: Served, *states: WatchState) -> None:
    """Write states as control would."""
    site.executor.ledger.write(lambda connection: put_watch_states(connection, states))


async def test_feeders_show_their_last_half_hour(site: Served) -> None:
    """Before the first, while judged, and with the meters that kept it from being judged."""
    client = await site.client(Role.AUDITOR)
    settings = site.context.settings
    entries = [replace(entry, feeder="riser") for entry in settings.meters]
    entries[0] = replace(entries[0], role="check")
    site.context.use(replace(settings, meters=tuple(entries)))
    (feeder,) = (await client.get(f"{API}/feeders")).json()["items"]
    assert feeder["id"] == "riser"
    assert feeder["check_meters"] == [entries[0].meter_id]
    assert feeder["meters"] == len(entries) - 1
    assert (feeder["alarm"], feeder["last"]) == (None, None)
    keep(site, WatchState(WatchKind.FEEDER, "riser", 1, {"standing": "loss", "last": LAST}))
    (feeder,) = (await client.get(f"{API}/feeders")).json()["items"]
    assert feeder["alarm"] == "loss"
    assert (feeder["last"]["loss_wh"], feeder["last"]["loss_percent"]) == (1_000, 14.29)
    assert feeder["last"]["start_at"] == "2027-01-15T08:00:00.000Z"
    assert feeder["last"]["judged"] is True
    doubtful = {**LAST, "doubtful": ["flat-1"]}
    keep(site, WatchState(WatchKind.FEEDER, "riser", 1, {"standing": None, "last": doubtful}))
    (feeder,) = (await client.get(f"{API}/feeders")).json()["items"]
    assert (feeder["last"]["judged"], feeder["last"]["doubtful_meters"]) == (False, ["flat-1"])


@pytest.mark.slow
async def test_suspicions_are_those_that_stand(site: Served) -> None:
    """Signs with their time, transformers with their phase; meters that are gone are left out."""
    keep(
        site,
        WatchState(
            WatchKind.TAMPER, "flat-1", 1, {"signs": [["meter_reset", 1_800_000_000_000, "x"]]}
        ),
        WatchState(WatchKind.TAMPER, "flat-2", 1, {"signs": []}),
        WatchState(WatchKind.TAMPER, "gone", 1, {"signs": [["meter_reset", 1, "x"]]}),
        WatchState(
            WatchKind.TRANSFORMER,
            "flat-2",
            1,
            {"reversed L2": [True, 0, 0, 0], "overloaded total": [False, 9, 0, 9]},
        ),
    )
    client = await site.client(Role.TECHNICIAN)
    found = (await client.get(f"{API}/suspicions")).json()["items"]
    assert [(one["meter_id"], one["kind"], one["what"], one["since"]) for one in found] == [
        ("flat-1", "tamper", "meter_reset", "2027-01-15T08:00:00.000Z"),
        ("flat-2", "transformer", "reversed L2", None),
    ]


async def test_changes_are_answered_for_with_a_reason(site: Served) -> None:
    """A wish like any other; a blank reason and a time beyond a shift are refused."""
    client = await site.client(Role.TECHNICIAN)
    path = f"{API}/meters/flat-1/changes-acknowledgement"
    headers = {"idempotency-key": "ack-1"}
    answer = await client.post(path, json={"reason": "new transformer"}, headers=headers)
    assert answer.status_code == 201
    assert (await client.post(path, json={"reason": "new transformer"}, headers=headers)).json()[
        "state"
    ] == "executed"
    for body in ({"reason": " "}, {"reason": "x", "for_s": 30_000}, {"for_s": 1}):
        answer = await client.post(path, json=body, headers={"idempotency-key": "ack-2"})
        assert (answer.status_code, answer.json()["code"]) == (400, "VALIDATION")
    answer = await client.post(
        f"{API}/meters/none/changes-acknowledgement",
        json={"reason": "x"},
        headers={"idempotency-key": "ack-3"},
    )
    assert (answer.status_code, answer.json()["code"]) == (404, "METER_UNKNOWN")
