"""What the API shows, over real files and a real socket."""

import re
from dataclasses import replace

import httpx

from gateway.core.ledger import TransactionKind
from gateway.core.reading import Quality
from gateway.core.requests import Role
from gateway.core.switching import Fault, Reason
from gateway.store.registry import Account, ServicePoint, open_account, put_service_point
from gateway.store.telemetry import Event, TelemetryWriter
from tests.north.conftest import Served

API = "/api/v1"
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


async def test_meter_shows_reading_and_supply(site: Served) -> None:
    """A meter has its configuration, its newest reading with units in names, and its supply."""
    client = await site.client(Role.AUDITOR)
    meter = (await client.get(f"{API}/meters/flat-1")).json()
    assert MOMENT.fullmatch(meter.pop("last_reading_at"))
    assert MOMENT.fullmatch(meter["supply"].pop("at"))
    energy_wh = meter.pop("energy_wh")
    assert energy_wh >= 12_501
    assert meter == {
        "id": "flat-1",
        "label": "Flat flat-1",
        "model": "pac3220",
        "feeder": "riser-a",
        "service_point_id": "flat-1",
        "account_id": "flat-1",
        "commissioned": False,
        "quality": "good",
        "control": "present",
        "power_w": 1234.5,
        "supply": {
            "control_state": "connected",
            "intended_closed": True,
            "output_closed": True,
            "block_reasons": [],
            "fault": None,
        },
    }


async def test_blocked_supply_names_reasons_and_fault(site: Served) -> None:
    """Block reasons and an unproved switch are shown as they are in the live table."""
    row = replace(
        site.executor.rows[0],
        output_closed=None,
        intended_closed=False,
        reasons=frozenset({Reason.MANUAL, Reason.CREDIT}),
        fault=Fault.FAILED_TO_OPEN,
    )
    site.executor.show(0, row)
    client = await site.client(Role.AUDITOR)
    supply = (await client.get(f"{API}/meters/flat-1")).json()["supply"]
    assert supply["block_reasons"] == ["CREDIT", "MANUAL"]
    assert supply["fault"] == "FAILED_TO_OPEN"
    assert supply["output_closed"] is None
    assert supply["intended_closed"] is False


async def test_latest_measurement_has_values_units_and_null_for_nan(site: Served) -> None:
    """All values by standard name; a value the meter cannot measure is null, never NaN."""
    client = await site.client(Role.TECHNICIAN)
    latest = (await client.get(f"{API}/meters/flat-1/measurements/latest")).json()
    assert latest["values"] == {
        "AcActivePowerTotal": 1234.5,
        "AcVoltageL1N": 230.0,
        "AcCurrentL1": None,
    }
    assert latest["units"]["AcVoltageL1N"] == "V"
    assert latest["energy_wh"] == sum(latest["energy_register_wh"])
    assert latest["quality"] == "good"


async def test_columns_of_all_meters_line_up(site: Served) -> None:
    """Each column is in the order of `meter_ids`; an unknown name is a column of nulls."""
    site.executor.show(1, replace(site.executor.rows[1], power_w=7.0, values=(7.0, 231.0, 1.0)))
    client = await site.client(Role.MANAGER)
    columns = (await client.get(f"{API}/measurements/latest")).json()
    assert columns["meter_ids"] == ["flat-1", "flat-2", "flat-3"]
    assert columns["values"]["AcActivePowerTotal"] == [1234.5, 7.0, 1234.5]
    assert columns["power_w"] == [1234.5, 7.0, 1234.5]
    names = {"names": "AcCurrentL1,NoSuchThing"}
    chosen = (await client.get(f"{API}/measurements/latest", params=names)).json()
    assert chosen["values"] == {"AcCurrentL1": [None, 1.0, None], "NoSuchThing": [None] * 3}
    assert set(chosen["units"]) == {"AcCurrentL1"}


async def test_bad_reading_is_shown_as_bad(site: Served) -> None:
    """Control's own doubt about a reading is passed on, however fresh it is."""
    site.executor.show(2, replace(site.executor.rows[2], quality=Quality.BAD))
    client = await site.client(Role.MANAGER)
    assert (await client.get(f"{API}/meters/flat-3")).json()["quality"] == "bad"
    assert (await client.get(f"{API}/health")).json()["meters_good"] == 2


async def test_account_shows_exact_money(site: Served) -> None:
    """Money is exact decimal text beside its currency, to the last nano-unit."""
    site.executor.post("flat-1", 123_456_789_012_345_679, TransactionKind.ADJUSTMENT)
    client = await site.client(Role.OPERATOR)
    account = (await client.get(f"{API}/accounts/flat-1")).json()
    assert account["balance"] == "123456789.012345679"
    assert account["available"] == "90.25"
    assert account["currency"] == "INR"
    assert account["tariff_id"] == "home"
    assert account["supply"]["control_state"] == "connected"


async def test_transactions_are_paged_newest_first_without_loss(site: Served) -> None:
    """Pages join to the whole list, in order, also when a page ends exactly at the last one."""
    for amount in range(1, 8):
        site.executor.post("flat-1", amount, TransactionKind.ADJUSTMENT)
    client = await site.client(Role.AUDITOR)
    pages = await _pages(client, f"{API}/accounts/flat-1/transactions", limit=3)
    assert [[item["id"] for item in page] for page in pages] == [[7, 6, 5], [4, 3, 2], [1]]
    assert pages[0][0]["amount"] == "0.000000007"
    assert pages[0][0]["balance_after"] == "0.000000028"
    exact = await _pages(client, f"{API}/accounts/flat-1/transactions", limit=7)
    assert [len(page) for page in exact] == [7]


async def test_a_full_page_of_a_hundred_has_a_next_one(site: Served) -> None:
    """The largest page allowed still tells that more follow."""

    def fill(connection: object) -> None:
        for number in range(100):
            name = f"a{number:03}"
            put_service_point(connection, ServicePoint(name, name))  # type: ignore[arg-type]
            open_account(connection, Account(name, "", name, "home", 0))  # type: ignore[arg-type]

    site.executor.ledger.write(fill)
    client = await site.client(Role.AUDITOR)
    pages = await _pages(client, f"{API}/accounts", limit=100)
    assert [len(page) for page in pages] == [100, 1]
    ids = [str(item["id"]) for page in pages for item in page]
    assert ids == sorted(set(ids))


async def test_meters_are_paged(site: Served) -> None:
    """Meters come by id, page by page."""
    client = await site.client(Role.AUDITOR)
    pages = await _pages(client, f"{API}/meters", limit=2)
    assert [[item["id"] for item in page] for page in pages] == [["flat-1", "flat-2"], ["flat-3"]]


async def test_foreign_cursor_is_refused(site: Served) -> None:
    """A cursor that this list did not hand out is a 400, not an empty page."""
    client = await site.client(Role.AUDITOR)
    for path in ("meters", "accounts", "accounts/flat-1/transactions", "tariffs"):
        for cursor in ("!", "AAAA", "bWV0ZXJzOg", "dHJhbnNhY3Rpb25zOng", "bm9ib2R5OmE", "é"):
            answer = await client.get(f"{API}/{path}", params={"cursor": cursor})
            assert (answer.status_code, answer.json()["code"]) == (400, "CURSOR_INVALID")


async def test_page_size_is_bounded(site: Served) -> None:
    """A page has 1 to 100 items."""
    client = await site.client(Role.AUDITOR)
    for limit in ("0", "101", "-1", "x", "1e3", "9" * 30):
        answer = await client.get(f"{API}/meters", params={"limit": limit})
        assert (answer.status_code, answer.json()["code"]) == (400, "VALIDATION")


async def test_unknown_things_are_404_with_their_own_code(site: Served) -> None:
    """What does not exist is named in the code."""
    client = await site.client(Role.MANAGER)
    for path, code in {
        "meters/nobody": "METER_UNKNOWN",
        "meters/nobody/commands": "METER_UNKNOWN",
        "meters/nobody/measurements/latest": "METER_UNKNOWN",
        "accounts/nobody": "ACCOUNT_UNKNOWN",
        "accounts/nobody/transactions": "ACCOUNT_UNKNOWN",
        "tariffs/nobody": "TARIFF_UNKNOWN",
        "requests/nobody": "REQUEST_UNKNOWN",
        "commands/nobody": "COMMAND_UNKNOWN",
        "nowhere": "NOT_FOUND",
        "meters/": "NOT_FOUND",
    }.items():
        answer = await client.get(f"{API}/{path}")
        assert (path, answer.status_code, answer.json()["code"]) == (path, 404, code)


async def test_events_are_listed_newest_first(site: Served) -> None:
    """What control recorded is shown with its cursor, and an empty store is an empty list."""
    client = await site.client(Role.AUDITOR)
    assert (await client.get(f"{API}/events")).json() == {"items": [], "next_cursor": None}
    settings = site.context.settings
    telemetry = TelemetryWriter(
        settings.telemetry_dir, (), owner=site.executor.owner, threaded=False
    )
    for number in range(3):
        event = Event(1_780_000_000_000 + number, "METER_RESET", "flat-1", "alarm", {"n": number})
        telemetry.add_event(event).result()
    pages = await _pages(client, f"{API}/events", limit=2)
    telemetry.close(5)
    assert [[item["id"] for item in page] for page in pages] == [[3, 2], [1]]
    assert pages[1][0] == {
        "id": 1,
        "at": "2026-05-28T20:26:40.000Z",
        "kind": "METER_RESET",
        "subject": "flat-1",
        "severity": "alarm",
        "detail": {"n": 0},
    }


async def test_unchanged_tariff_is_304(site: Served) -> None:
    """A caller that holds the current version gets no body again."""
    client = await site.client(Role.AUDITOR)
    first = await client.get(f"{API}/tariffs/home")
    again = await client.get(
        f"{API}/tariffs/home", headers={"if-none-match": first.headers["etag"]}
    )
    assert again.status_code == 304
    assert again.content == b""
    other = await client.get(f"{API}/tariffs/home", headers={"if-none-match": '"other"'})
    assert other.status_code == 200


async def _pages(
    client: httpx.AsyncClient, path: str, *, limit: int
) -> list[list[dict[str, object]]]:
    pages, cursor = [], ""
    for _ in range(20):
        answer = await client.get(path, params={"limit": limit, "cursor": cursor})
        assert answer.status_code == 200
        body = answer.json()
        pages.append(body["items"])
        cursor = body["next_cursor"]
        if cursor is None:
            return pages
    raise AssertionError("the list does not end")
