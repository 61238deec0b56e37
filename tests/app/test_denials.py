"""What north refused gets into the audit chain: once, bounded, with nothing of it believed."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.app.control.denials import DenialRecords
from gateway.core.denials import Denial, encode_denial
from gateway.core.provenance import ASSIGN_METER
from gateway.core.requests import Recharge
from gateway.store.commands import find_outcome
from gateway.store.denials import WAITING_MAX, add_denials, load_denial_cursor
from gateway.store.export import export_lines
from gateway.store.ledger import read_balance
from gateway.store.recovery import begin_north_epoch
from gateway.store.replay import replay_ledger
from gateway.store.requests import LENGTH_MAX
from tests.app.control_site import ControlSite
from tests.app.test_control import RICH, begin
from tests.app.test_inlet import Office
from tests.app.test_replay import unlock

DENIAL = Denial(
    actor="token:01HX",
    role="auditor",
    source="10.0.0.7",
    action="POST /api/v1/accounts/{account_id}/recharges",
    code="FORBIDDEN",
    place="body.amount",
    request="",
    object={"account_id": "flat-1"},
    count=1,
    first_utc_ms=1_000,
    last_utc_ms=1_000,
)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ControlSite]:
    """A site."""
    made = ControlSite(tmp_path)
    yield made
    made.crash()


@pytest.fixture
def office(site: ControlSite) -> Iterator[Office]:
    """North's side of it."""
    made = Office(site)
    yield made
    made.close()


def records_of(site: ControlSite) -> DenialRecords:
    """As the control process makes it."""
    return DenialRecords(site.requests, site.books, site.clock)


def look(site: ControlSite, records: DenialRecords, *, seconds: int = 1, times: int = 1) -> None:
    """Let time pass, then look."""
    for _ in range(times):
        site.clock.pass_s(seconds)
        records.look()


def audited(site: ControlSite) -> list[dict[str, Any]]:
    """The audit records of denials by north."""
    rows = site.file.connection.execute("SELECT body FROM audit ORDER BY seq").fetchall()
    return [record for record in (json.loads(row[0]) for row in rows) if record.get("by")]


def deny(office: Office, *places: str) -> None:
    """Denials of north, told apart by their place."""
    denials = [replace(DENIAL, place=place) for place in places]
    assert add_denials(office.file.connection, denials, None) == len(denials)


async def test_a_denial_is_on_record_with_all_that_is_known(
    site: ControlSite, office: Office
) -> None:
    """And the chain holds with it, and so does the ledger beside it."""
    await begin(site)
    deny(office, "body.amount")
    look(site, records_of(site))
    assert audited(site) == [
        {
            "actor": "token:01HX",
            "role": "auditor",
            "source": "10.0.0.7",
            "approver": None,
            "action": "POST /api/v1/accounts/{account_id}/recharges",
            "object": {"account_id": "flat-1"},
            "request": "",
            "result": "FORBIDDEN",
            "place": "body.amount",
            "by": "north",
            "count": 1,
            "first_utc_ms": 1_000,
            "last_utc_ms": 1_000,
        }
    ]
    assert site.proof().problems == ()
    site.file.connection.execute("DROP TRIGGER audit_frozen")
    site.file.connection.execute("UPDATE audit SET body = replace(body, 'FORBIDDEN', 'HARMLESS')")
    assert "audit" in " ".join(map(str, site.proof().problems))


async def test_each_is_recorded_once_whatever_is_lost(site: ControlSite, office: Office) -> None:
    """A start knows from the ledger how far it had come; north deletes what is recorded."""
    deny(office, "a", "b")
    records = records_of(site)
    look(site, records, times=3)
    site.restart()
    deny(office, "c")
    look(site, records_of(site), times=2)
    assert [record["place"] for record in audited(site)] == ["a", "b", "c"]
    cursor = load_denial_cursor(site.file.connection)
    assert cursor is not None
    assert cursor.denial_id == 3
    add_denials(office.file.connection, [DENIAL], cursor)
    assert office.file.connection.execute("SELECT id FROM denial").fetchall() == [(4,)]


async def test_a_restored_north_is_read_from_its_first_row(
    site: ControlSite, office: Office
) -> None:
    """Its ids begin again or go on: what stands there was not recorded by this ledger."""
    deny(office, "a", "b")
    look(site, records_of(site))
    connection = office.file.connection
    connection.execute("DELETE FROM denial")
    connection.execute("UPDATE sqlite_sequence SET seq = 0 WHERE name = 'denial'")
    begin_north_epoch(connection, "0" * 26, utc_ms=5)
    deny(office, "new")
    look(site, records_of(site))
    assert [record["place"] for record in audited(site)] == ["a", "b", "new"]


async def test_a_hostile_north_writes_nothing_but_bounded_denials(
    site: ControlSite, office: Office
) -> None:
    """No forged execution, no broken row that holds up those after it, no flood."""
    await begin(site)
    connection = office.file.connection
    forged = {**encode_denial(DENIAL), "code": "executed", "action": "recharge"}
    for body in ("{", "[]", "{}", json.dumps(forged), "[" * 5_000, '"\\ud800"'):
        connection.execute("INSERT INTO denial (body) VALUES (?)", (body,))
    secret = {**encode_denial(DENIAL), "place": "12345678901234567890", "more": "x"}
    connection.execute("INSERT INTO denial (body) VALUES (?)", (json.dumps(secret),))
    with capture_logs() as lines:
        look(site, records_of(site))
    assert [line["ids"] for line in lines if line["event"] == "denial.damaged"] == [
        [1, 2, 3, 4, 5, 6]
    ]
    (only,) = audited(site)
    assert only["place"] == "1234" + "*" * 16
    assert site.proof().problems == ()


async def test_a_row_that_cannot_be_read_holds_up_none_after_it(
    site: ControlSite, office: Office
) -> None:
    """Text that is none, and one larger than control lets itself be given."""
    await begin(site)
    connection = office.file.connection
    connection.execute("INSERT INTO denial (body) VALUES (CAST(x'ff' AS TEXT))")
    connection.execute("PRAGMA ignore_check_constraints = 1")
    connection.execute("INSERT INTO denial (body) VALUES (?)", ("x" * (LENGTH_MAX + 1),))
    deny(office, "behind them")
    with capture_logs() as lines:
        look(site, records_of(site))
    assert [line["ids"] for line in lines if line["event"] == "denial.damaged"] == [[1, 2]]
    assert [record["place"] for record in audited(site)] == ["behind them"]


async def test_no_denial_turns_off_the_proofs_of_rows(site: ControlSite, office: Office) -> None:
    """Whatever a hostile north calls what it refused, a row that was changed is still named."""
    await begin(site)
    connection = office.file.connection
    forged = {**encode_denial(DENIAL), "action": ASSIGN_METER}
    connection.execute("INSERT INTO denial (body) VALUES (?)", (json.dumps(forged),))
    look(site, records_of(site))
    assert [record["action"] for record in audited(site)] == [ASSIGN_METER]
    assert site.proof().problems == ()
    unlock(site.file.connection)
    site.file.connection.execute("UPDATE account_point SET tariff_id = 'cheap' WHERE number = 1")
    assert "tariff is 'cheap'" in " ".join(site.proof().problems)


@pytest.mark.slow
async def test_control_takes_no_more_than_a_bounded_number(
    site: ControlSite, office: Office
) -> None:
    """Fifty at once, 250 in a burst, then ten a minute: the rest waits in north.db."""
    deny(office, *map(str, range(WAITING_MAX)))
    records = records_of(site)
    look(site, records)
    assert len(audited(site)) == 50
    look(site, records, times=9)
    burst = len(audited(site))
    assert 250 <= burst <= 252
    look(site, records, times=600)
    assert len(audited(site)) - burst == pytest.approx(100, abs=1)


@pytest.mark.slow
async def test_a_flood_of_denials_holds_up_no_request(site: ControlSite, office: Office) -> None:
    """Recharges between them are executed as ever, and a replay of the ledger holds."""
    await begin(site)
    deny(office, *map(str, range(WAITING_MAX)))
    records = records_of(site)
    for number in range(5):
        look(site, records)
        await site.do(Recharge("flat-1", 10**9), key=f"paid-{number}")
    assert all(find_outcome(site.file.connection, f"paid-{n}") for n in range(5))
    assert read_balance(site.file.connection, "wallet:flat-1") == RICH + 5 * 10**9
    assert len(audited(site)) == 250
    assert site.proof().problems == ()
    assert replay_ledger(site.file.connection).proved
    assert len(list(export_lines(site.file.connection))) > 5


async def test_without_north_nothing_is_recorded_and_nobody_waits(site: ControlSite) -> None:
    """A file that cannot be read is looked for again after a while."""
    records = records_of(site)
    (site.directory / "state" / "north" / "north.db").unlink()
    look(site, records, times=3)
    assert audited(site) == []


async def test_a_table_that_cannot_be_read_is_said_once_and_again_after_it_could(
    site: ControlSite, office: Office
) -> None:
    """The file's other tables are not away, so nobody else tells of it."""
    records = records_of(site)
    connection = office.file.connection
    with capture_logs() as logs:
        look(site, records)
        connection.execute("ALTER TABLE denial RENAME TO gone")
        look(site, records, seconds=11, times=3)
        connection.execute("ALTER TABLE gone RENAME TO denial")
        deny(office, "a")
        look(site, records, seconds=11)
        connection.execute("ALTER TABLE denial RENAME TO gone")
        look(site, records, seconds=11, times=2)
    assert [one["event"] for one in logs].count("denials.away") == 2
    assert [record["place"] for record in audited(site)] == ["a"]
