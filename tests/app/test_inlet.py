"""How requests come in: each once, a backlog holds back cuts for credit, failures are kept."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.app.control.inlet import IN_FLIGHT_MAX, Inlet
from gateway.app.paths import paths_of
from gateway.core.requests import Body, Recharge, Request, Role
from gateway.store.commands import find_outcome, load_request_cursor
from gateway.store.db import open_writer, own_directory
from gateway.store.ledger import LEDGER, read_balance
from gateway.store.reader import StoreReader
from gateway.store.requests import NORTH, RequestReader, insert_request
from gateway.store.writer import InlineWriter
from tests.app.control_site import ControlSite
from tests.app.test_control import RICH, begin

RUPEE = 10**9


class Office:
    """North's side of the requests: the one writer of north.db."""

    def __init__(self, site: ControlSite) -> None:
        path = paths_of(site.config).north_dir / "north.db"
        self.owner = own_directory(path.parent, create=False)
        self.file = open_writer(path, NORTH, owner=self.owner, create=False)
        self._writer = InlineWriter(self.file)

    def recharge(self, key: str, amount_nano: int = RUPEE) -> None:
        """Make a recharge durable."""
        request = Request(key, Recharge("flat-1", amount_nano), "anna", Role.OPERATOR, "test", 1)
        self._writer.submit(lambda c: insert_request(c, request)).result()

    def close(self) -> None:
        """Let go of the file."""
        self.file.stop()
        self.owner.release()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ControlSite]:
    """A site with an account."""
    made = ControlSite(tmp_path)
    yield made
    made.crash()


@pytest.fixture
def office(site: ControlSite) -> Iterator[Office]:
    """The office of that site."""
    made = Office(site)
    yield made
    made.close()


def inlet_of(site: ControlSite) -> Inlet:
    """An inlet as the control process makes it."""
    paths = paths_of(site.config)
    return Inlet(
        RequestReader(paths.north_dir / "north.db"),
        StoreReader(paths.ledger, LEDGER),
        executor=site.executor,
        engine=site.engine,
        books=site.books,
        clock=site.clock,
        cursor=load_request_cursor(site.file.connection),
    )


async def settle(inlet: Inlet) -> None:
    """Let everything in flight end."""
    for _ in range(2_000):
        inlet.look()
        await asyncio.sleep(0)
        if not inlet._in_flight and inlet.look():
            return
    raise AssertionError("requests did not end")


async def test_a_request_is_executed_once_however_often_it_is_seen(
    site: ControlSite, office: Office
) -> None:
    """The outcome is asked for by key: a lost cursor or a restart doubles nothing."""
    await begin(site)
    office.recharge("one")
    await settle(inlet_of(site))
    again = inlet_of(site)
    again._cursor = None
    await settle(again)
    assert read_balance(site.file.connection, "wallet:flat-1") == RICH + RUPEE


async def test_a_request_under_way_is_no_idleness(site: ControlSite, office: Office) -> None:
    """What a reload goes by: it must not build other points while one of these changes."""
    await begin(site)
    inlet = inlet_of(site)
    idle = [inlet.is_idle]
    office.recharge("one")
    inlet.look()
    idle.append(inlet.is_idle)
    await settle(inlet)
    assert [*idle, inlet.is_idle] == [True, False, True]


async def test_of_requests_that_ended_nothing_is_remembered(
    site: ControlSite, office: Office
) -> None:
    """Their outcomes are in the ledger: years of recharges must not pile up in memory."""
    await begin(site)
    for number in range(50):
        office.recharge(f"many-{number}")
    office.recharge("refused", 0)
    inlet = inlet_of(site)
    await settle(inlet)
    assert not site.desk.committed
    assert not inlet._in_flight
    assert not site.executor._locks
    assert not site.counter._under_way


async def test_a_backlog_holds_back_a_cut_for_credit(site: ControlSite, office: Office) -> None:
    """A recharge may stand behind the window: nobody is cut before all was seen, for 10 s."""
    await begin(site)
    for number in range(IN_FLIGHT_MAX + 20):
        office.recharge(f"many-{number}")
    inlet = inlet_of(site)
    assert not inlet.look()
    site.clock.pass_s(11)
    assert inlet.look()
    await settle(inlet)
    expected = RICH + (IN_FLIGHT_MAX + 20) * RUPEE
    assert read_balance(site.file.connection, "wallet:flat-1") == expected
    assert inlet.look()


async def test_a_file_that_cannot_be_read_holds_up_no_cut(site: ControlSite) -> None:
    """Without north.db the cut goes on, and the loop does not pay for it at every reading."""
    await begin(site)
    (paths_of(site.config).north_dir / "north.db").unlink()
    inlet = inlet_of(site)
    assert inlet.look()
    assert inlet._away
    looked_ns = inlet._away_ns
    site.clock.pass_s(0.05)
    assert inlet.look()
    assert inlet._away_ns == looked_ns
    site.clock.pass_s(0.06)
    inlet.look()
    assert inlet._away_ns != looked_ns


async def test_a_failed_request_is_looked_at_again_after_the_start(
    site: ControlSite, office: Office
) -> None:
    """The process ends by it, and the cursor does not pass it meanwhile."""
    await begin(site)
    office.recharge("first")
    inlet = inlet_of(site)
    await settle(inlet)
    inlet.keep_cursor()
    office.recharge("second")
    # The disk refuses every write from here on.
    site.file.connection.execute("PRAGMA query_only = ON")
    inlet.look()
    for _ in range(50):
        await asyncio.sleep(0)
    assert inlet.failure is not None
    inlet.keep_cursor()
    site.file.connection.execute("PRAGMA query_only = OFF")
    site.restart()
    assert find_outcome(site.file.connection, "second") is None
    await settle(inlet_of(site))
    assert read_balance(site.file.connection, "wallet:flat-1") == RICH + 2 * RUPEE


async def test_a_row_that_is_no_request_is_refused_and_told(
    site: ControlSite, office: Office
) -> None:
    """north.db is not trusted: a forged body has an outcome, and those after it are executed."""
    await begin(site)
    office.file.connection.execute(
        "INSERT INTO request (key, type, body, body_hash, actor, role, source, created_utc_ms) "
        "VALUES ('forged', 'recharge', '{\"account_id\":\"flat-1\",\"amount_nano\":1.5}', 'x', "
        "'eve', 'admin', 'x', 1)"
    )
    office.recharge("honest")
    await settle(inlet_of(site))
    forged = find_outcome(site.file.connection, "forged")
    assert forged is not None
    assert (forged.code, forged.place) == ("REQUEST_FIELD", "amount_nano")
    rows = site.file.connection.execute("SELECT body FROM audit ORDER BY seq").fetchall()
    records = [json.loads(body) for (body,) in rows]
    assert [record for record in records if record.get("request") == "forged"] == [
        {
            "action": "damaged request",
            "request": "forged",
            "result": "REQUEST_FIELD",
            "place": "amount_nano",
        }
    ]
    assert site.proof().problems == ()
    assert read_balance(site.file.connection, "wallet:flat-1") == RICH + RUPEE


async def test_a_defect_is_told_to_the_log_and_not_to_the_caller(
    site: ControlSite, office: Office
) -> None:
    """The caller gets a sentence and the key; text and traceback stand in the log, once."""
    await begin(site)

    async def fail(_body: Body, _request: Request) -> None:
        raise IndexError("list index out of range")

    site.executor._methods[Recharge] = fail
    office.recharge("unlucky")
    inlet = inlet_of(site)
    with capture_logs() as lines:
        inlet.look()
        for _ in range(50):
            await asyncio.sleep(0)
    assert inlet.failure is not None
    answer = find_outcome(site.file.connection, "unlucky")
    assert answer is not None
    assert (answer.code, "unlucky" in answer.message) == ("INTERNAL", True)
    assert "range" not in answer.message
    told = [line for line in lines if line.get("exc_info")]
    assert [(line["event"], line["key"]) for line in told] == [("request.failed", "unlucky")]
