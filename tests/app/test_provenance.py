"""Rows that no hash covers are derived from the audit chain: whoever edits one is found."""

import asyncio
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.app.config import load_config
from gateway.app.paths import paths_of
from gateway.core.ledger import GENESIS, canonical_json, chain_hash
from gateway.core.requests import (
    AddPoint,
    ChangeTariff,
    CloseShift,
    OpenAccount,
    OpenShift,
    PublishTariff,
    Recharge,
    RemovePoint,
    ReplaceMeter,
)
from gateway.store.audit import audit_body
from gateway.store.verify import verify_ledger
from tests.app.busy_site import HOUR_S, NANO, SHOP, BusySite
from tests.app.control_site import TARIFF, ControlSite
from tests.app.test_replay import unlock


async def live(site: ControlSite) -> None:
    """A move in, a change of tariff, a second point, a new device, a day at the counter."""
    world = BusySite(site)
    await world.use(0, 1)
    await world.ask(PublishTariff(TARIFF))
    await world.ask(PublishTariff(json.dumps(SHOP)))
    await world.ask(OpenAccount("asha", "flat-1", "home", opening_balance_nano=900 * NANO))
    await world.ask(OpenShift("till-1", 100 * NANO))
    await world.use(500, HOUR_S)
    await world.ask(Recharge("asha", 50 * NANO, "counter", "R-1"))
    await world.ask(ChangeTariff("flat-1", "shop"))
    await world.ask(AddPoint("asha", "flat-2", "home"))
    await world.use(500, HOUR_S, index=1)
    await world.ask(CloseShift(1, ("counter",), (149 * NANO,), "a coin is gone"))
    await world.ask(RemovePoint("flat-2"))
    await world.ask(ReplaceMeter("flat-1", (1_600, 0), (7, 0), "hail"))
    await world.ask(OpenShift("till-1", 20 * NANO))


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a site on which all of it happened."""
    site = ControlSite(tmp_path_factory.mktemp("rows"))
    asyncio.run(live(site))
    assert site.proof().problems == ()
    site.crash()
    return site.directory


@pytest.fixture
def ledger(lived: Path, tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A copy of its ledger whose rows anybody may change."""
    shutil.copytree(lived, tmp_path / "copy")
    path = paths_of(load_config(tmp_path / "copy" / "config.yaml")).ledger
    connection = sqlite3.connect(path, isolation_level=None)
    unlock(connection)
    yield connection
    connection.close()


CHANGES = (
    ("account_point SET account_id = 'bela' WHERE number = 1", "flat-1, stay 1: account is 'bela'"),
    ("account_point SET tariff_id = 'home' WHERE number = 2", "flat-1, stay 2: tariff is 'home'"),
    ("account_point SET from_utc_ms = from_utc_ms - 1 WHERE number = 1", "flat-1, stay 1: beginn"),
    ("account_point SET to_utc_ms = to_utc_ms + 1 WHERE number = 1", "flat-1, stay 1: end is"),
    ("account_point SET to_utc_ms = NULL WHERE number = 3", "flat-2, stay 1: end is None"),
    ("account_point SET service_point_id = 'flat-2' WHERE number = 2", "flat-1: stays: 1 rows"),
    ("meter_assignment SET opening_wh = '[9,0]' WHERE number = 1", "flat-1, stay 1: opening is"),
    ("meter_assignment SET closing_wh = '[1599,0]' WHERE number = 1", "stay 1: closing is (1599"),
    ("meter_assignment SET opening_wh = '[8,0]' WHERE number = 3", "flat-1, stay 2: opening is"),
    ("meter_assignment SET from_utc_ms = 5 WHERE number = 2", "meter flat-2, stay 1: beginning"),
    ("meter_assignment SET service_point_id = 'flat-2' WHERE number = 1", "stay 1: point is"),
    ("meter_assignment SET meter_id = 'flat-9' WHERE number = 2", "meter flat-2: stays: 0 rows"),
    ("shift SET float_nano = float_nano + 1 WHERE number = 1", "shift 1: float is 100000000001"),
    ("shift SET cashier = 'carl' WHERE number = 1", "shift 1: cashier is 'carl'"),
    ("shift SET drawer = 'till-2' WHERE number = 2", "shift 2: drawer is 'till-2'"),
    ("shift SET cash_provider = 'card' WHERE number = 2", "shift 2: means of the float is 'card'"),
    ("shift SET opened_utc_ms = 1 WHERE number = 2", "shift 2: opening is 1, by the requests 18"),
    ("shift SET request_key = 'x' WHERE number = 2", "shift 2: request is 'x'"),
    ("shift_closing SET closed_by = 'carl'", "shift 1: closed by is 'carl'"),
    ("shift_closing SET note = ''", "shift 1: note is ''"),
    ("shift_closing SET utc_ms = utc_ms + 1", "shift 1: closing is"),
    ("shift_closing SET request_key = 'x'", "shift 1: closing request is 'x'"),
    ("shift_closing SET difference_seq = 1", "shift 1: difference is 1"),
    ("shift_closing SET means = replace(means, '149000000000', '150000000000')", "shift 1: count"),
    (
        "shift_closing SET means = replace(means, ':50000000000', ':49000000000')",
        "shift 1: cash-up",
    ),
    ("shift_closing SET number = 2", "shift 1: open, by the requests it is not"),
    ("payment SET amount_nano = amount_nano - 1", "its row of payment is"),
    ("payment SET shift = NULL", "its row of payment is"),
    ("payment SET reference = 'R-2'", "its row of payment is"),
)


@pytest.mark.parametrize(("change", "words"), CHANGES)
def test_a_row_that_somebody_changed_is_named(
    ledger: sqlite3.Connection, change: str, words: str
) -> None:
    """Each field of stays, meters, shifts and payments, changed alone."""
    changed = ledger.execute(f"UPDATE {change}").rowcount
    assert changed == 1
    problems = verify_ledger(ledger).problems
    assert any(words in one for one in problems), problems


@pytest.mark.parametrize("table", ["account_point", "meter_assignment", "shift", "payment"])
def test_a_row_that_is_gone_is_missed(ledger: sqlite3.Connection, table: str) -> None:
    """As is one that nobody asked for."""
    ledger.execute(f"DELETE FROM {table} WHERE rowid = (SELECT max(rowid) FROM {table})")  # noqa: S608
    assert verify_ledger(ledger).problem_count >= 1


@pytest.mark.parametrize("change", ["currency = ''", "minor_digits = -1", "money_scale = 3"])
def test_a_site_that_cannot_be_read_is_a_finding(ledger: sqlite3.Connection, change: str) -> None:
    """And no end of the proof: what else was found is told too."""
    ledger.execute("PRAGMA ignore_check_constraints = 1")
    ledger.execute(f"UPDATE site SET {change}")  # noqa: S608
    ledger.execute("DELETE FROM ledger_transaction WHERE seq = 2")
    report = verify_ledger(ledger)
    assert "the site cannot be read" in " ".join(report.problems)
    assert len(report.problems) > 1


def test_a_request_that_cannot_be_read_is_a_finding(ledger: sqlite3.Connection) -> None:
    """Nothing is compared then, and nobody may take that for a proof."""

    def spoilt(body: dict[str, Any]) -> dict[str, Any]:
        if body["action"] == "remove_point":
            body["object"] = "flat-2"
        return body

    chain_again(ledger, spoilt)
    ledger.execute("UPDATE account_point SET account_id = 'bela' WHERE number = 1")
    (problem,) = verify_ledger(ledger).problems
    assert "no row was compared" in problem


def of_an_older_program(connection: sqlite3.Connection) -> None:
    """Write the audit chain as before: no `made`, and no record of a meter's first place."""

    def older(body: dict[str, Any]) -> dict[str, Any] | None:
        body.pop("made", None)
        return None if body["action"] == "assign_meter" else body

    chain_again(connection, older)


def chain_again(
    connection: sqlite3.Connection, change: Callable[[dict[str, Any]], dict[str, Any] | None]
) -> None:
    """Write the audit chain with changed records and new hashes; None leaves one out."""
    rows = connection.execute("SELECT utc_ms, body FROM audit ORDER BY seq").fetchall()
    connection.execute("DELETE FROM audit")
    seq, link = 0, GENESIS
    for utc_ms, text in rows:
        body = change(json.loads(text))
        if body is None:
            continue
        seq += 1
        link = chain_hash(link, audit_body(seq, utc_ms, body))
        values = (seq, utc_ms, canonical_json(body).decode(), link)
        connection.execute("INSERT INTO audit VALUES (?, ?, ?, ?)", values)


def test_an_older_store_still_proves_itself(ledger: sqlite3.Connection) -> None:
    """Its records tell less: instants are held to ten minutes, all else is compared as ever."""
    of_an_older_program(ledger)
    assert verify_ledger(ledger).problems == ()
    ledger.execute("UPDATE account_point SET from_utc_ms = from_utc_ms - 599000 WHERE number = 1")
    ledger.execute("UPDATE shift SET cash_provider = 'card' WHERE number = 2")
    assert verify_ledger(ledger).problems == ()
    ledger.execute("UPDATE account_point SET from_utc_ms = from_utc_ms - 599000 WHERE number = 1")
    assert "by the requests about" in verify_ledger(ledger).problems[0]


ON_TRUST_BEFORE = (
    "account_point SET from_utc_ms = from_utc_ms - 1 ",
    "account_point SET to_utc_ms = to_utc_ms + 1 ",
    "meter_assignment SET from_utc_ms = 5 ",
    "shift SET cash_provider",
    "shift_closing SET utc_ms = utc_ms + 1",
)


@pytest.mark.parametrize("change", [change for change, _ in CHANGES])
def test_rows_of_an_older_store_are_compared_too(ledger: sqlite3.Connection, change: str) -> None:
    """All but single milliseconds, the means of a float, and since when a first meter is there."""
    of_an_older_program(ledger)
    ledger.execute(f"UPDATE {change}")
    is_on_trust = change.startswith(ON_TRUST_BEFORE)
    assert (verify_ledger(ledger).problem_count == 0) == is_on_trust
