"""Tariffs, accounts, points, assignments, switch commands, outcomes."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.core.credit import PaymentMode
from gateway.core.errors import RefusedError, StoreError
from gateway.core.requests import Outcome, OutcomeStatus
from gateway.store.commands import (
    CommandState,
    RequestCursor,
    SwitchAction,
    SwitchCommand,
    commands_for_key,
    commands_of,
    find_outcome,
    find_outcomes,
    load_request_cursor,
    open_commands,
    put_switch_command,
    read_command,
    record_outcome,
    save_request_cursor,
)
from gateway.store.db import Connection
from gateway.store.registry import (
    Account,
    AccountStatus,
    MeterAssignment,
    ServicePoint,
    TariffVersion,
    account_at,
    accounts_after,
    assign_meter,
    assignment_of,
    close_account,
    commission_point,
    end_assignment,
    open_account,
    publish_tariff,
    put_service_point,
    read_account,
    read_accounts,
    read_assignments,
    read_service_point,
    read_service_points,
    read_tariff,
    read_tariffs,
    update_account,
)
from tests.store.store_files import ledger_file

CREDIT = PaymentMode.CREDIT


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    """A ledger with two service points."""
    with ledger_file(tmp_path / "control") as file:
        for name in ("flat-1", "flat-2"):
            put_service_point(file.connection, ServicePoint(name, name.upper(), feeder="riser-a"))
        yield file.connection


def refused(code: str) -> "pytest.RaisesExc[RefusedError]":
    """A refusal with this code."""
    return pytest.RaisesExc(RefusedError, check=lambda error: error.refusal_code == code)


def account(account_id: str = "anna", point: str = "flat-1") -> Account:
    """An account on a point."""
    return Account(account_id, "Anna", point, "home", 5, disablement_threshold_nano=-7)


def test_tariff_versions_are_consecutive_and_kept(connection: Connection) -> None:
    """Versions 1, 2 are stored as published; 2 before 1, a repeat and a gap are refused."""
    one = TariffVersion("home", 1, 10, {"rates": ["8.00"], "a": 1}, 9, "berta")
    two = replace(one, version=2, effective_from_utc_ms=20)
    with pytest.raises(RefusedError, match="next version of tariff home is 1"):
        publish_tariff(connection, two)
    publish_tariff(connection, one)
    publish_tariff(connection, two)
    for version in (2, 4):
        with pytest.raises(RefusedError) as caught:
            publish_tariff(connection, replace(one, version=version))
        assert caught.value.refusal_code == "TARIFF_VERSION"
    other = replace(one, tariff_id="shop")
    publish_tariff(connection, other)
    assert read_tariff(connection, "home") == [one, two]
    assert read_tariffs(connection) == [one, two, other]
    assert read_tariff(connection, "none") == []


def test_account_opens_once_on_a_free_point(connection: Connection) -> None:
    """Unknown point, taken point and known id are refused by name; a closed account frees it."""
    with refused("POINT_UNKNOWN"):
        open_account(connection, account(point="flat-9"))
    open_account(connection, account())
    with refused("ACCOUNT_EXISTS"):
        open_account(connection, account(point="flat-2"))
    with refused("POINT_TAKEN"):
        open_account(connection, account("carl"))
    assert account_at(connection, "flat-1") == read_account(connection, "anna") == account()
    close_account(connection, "anna", utc_ms=9)
    assert account_at(connection, "flat-1") is None
    open_account(connection, account("carl"))
    assert [item.account_id for item in read_accounts(connection)] == ["anna", "carl"]


def test_closed_account_never_changes(connection: Connection) -> None:
    """Closing keeps the time; after it every change is refused, by the schema too."""
    open_account(connection, account())
    close_account(connection, "anna", utc_ms=9)
    closed = read_account(connection, "anna")
    assert closed is not None
    assert (closed.status, closed.closed_utc_ms) == (AccountStatus.CLOSED, 9)
    with refused("ACCOUNT_CLOSED"):
        update_account(connection, "anna", name="x")
    with refused("ACCOUNT_CLOSED"):
        close_account(connection, "anna", utc_ms=10)
    with refused("ACCOUNT_UNKNOWN"):
        update_account(connection, "nobody", name="x")
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute("UPDATE account SET name = 'x'")


def test_update_changes_only_what_is_given(connection: Connection) -> None:
    """Fields that are left out keep their values; zero is a value."""
    open_account(connection, account())
    update_account(connection, "anna", payment_mode=CREDIT, disablement_threshold_nano=0)
    assert read_account(connection, "anna") == replace(
        account(), payment_mode=CREDIT, disablement_threshold_nano=0
    )


def test_account_pages_follow_the_id(connection: Connection) -> None:
    """Pages by id cover all accounts once."""
    for number in range(5):
        put_service_point(connection, ServicePoint(f"p{number}", ""))
        open_account(connection, account(f"a{number}", f"p{number}"))
    first = accounts_after(connection, limit=3)
    rest = accounts_after(connection, first[-1].account_id, limit=3)
    assert [item.account_id for item in first + rest] == ["a0", "a1", "a2", "a3", "a4"]


def test_point_changes_but_commissioning_stays(connection: Connection) -> None:
    """A new label from the configuration does not take back the commissioning."""
    commission_point(connection, "flat-1", utc_ms=77)
    put_service_point(connection, ServicePoint("flat-1", "Flat 1", "riser-b", critical=True))
    expected = ServicePoint("flat-1", "Flat 1", "riser-b", critical=True, commissioned_utc_ms=77)
    assert read_service_point(connection, "flat-1") == expected
    commission_point(connection, "flat-1", utc_ms=None)
    assert read_service_points(connection)[0].commissioned_utc_ms is None
    with refused("POINT_UNKNOWN"):
        commission_point(connection, "flat-9", utc_ms=1)


def test_meter_stays_at_one_place_at_a_time(connection: Connection) -> None:
    """A stay begins, ends with closing registers, and only then the meter may stay elsewhere."""
    stay = MeterAssignment("m1", "flat-1", 5, (17, 3))
    assign_meter(connection, stay)
    with refused("METER_ASSIGNED"):
        assign_meter(connection, MeterAssignment("m1", "flat-2", 6, (0,)))
    with refused("POINT_UNKNOWN"):
        assign_meter(connection, MeterAssignment("m2", "flat-9", 6, (0,)))
    assert assignment_of(connection, "m1") == stay
    end_assignment(connection, "m1", to_utc_ms=9, closing_wh=(20, 3))
    with refused("METER_UNASSIGNED"):
        end_assignment(connection, "m1", to_utc_ms=10, closing_wh=(20, 3))
    again = MeterAssignment("m1", "flat-2", 9, (20, 3))
    assign_meter(connection, again)
    ended = replace(stay, to_utc_ms=9, closing_wh=(20, 3))
    assert read_assignments(connection) == [ended, again]
    assert read_assignments(connection, open_only=True) == [again]
    with pytest.raises(sqlite3.IntegrityError, match="only be closed, once"):
        connection.execute("UPDATE meter_assignment SET closing_wh = '[21,3]' WHERE number = 1")


def command(command_id: str = "c1", **changes: object) -> SwitchCommand:
    """A cut of flat-1."""
    base = SwitchCommand(command_id, "flat-1", "m1", SwitchAction.OPEN, "CREDIT", 5)
    return replace(base, **changes)  # type: ignore[arg-type]


def test_command_goes_through_its_states(connection: Connection) -> None:
    """Queued, sent, verified with witnesses; open commands are those not finished."""
    put_switch_command(connection, command(request_key="k"))
    put_switch_command(connection, command("c2", issued_utc_ms=4))
    sent = command(request_key="k", state=CommandState.SENT, attempts=1)
    put_switch_command(connection, sent)
    assert [item.command_id for item in open_commands(connection)] == ["c1", "c2"]
    done = replace(
        sent,
        state=CommandState.VERIFIED,
        finished_utc_ms=9,
        witnesses=("output", "current"),
        detail={"load_unproven": False},
    )
    put_switch_command(connection, done)
    assert [item.command_id for item in open_commands(connection)] == ["c2"]
    assert read_command(connection, "c1") == replace(done, number=1)
    assert commands_for_key(connection, "k") == [replace(done, number=1)]
    assert [item.number for item in commands_of(connection, "m1")] == [2, 1]
    assert [item.number for item in commands_of(connection, "m1", before_number=2)] == [1]
    assert [state.finished for state in CommandState] == [False, False, True, True, True]


@pytest.mark.parametrize("state", [CommandState.SENT, CommandState.FAILED])
def test_finished_command_never_changes(connection: Connection, state: CommandState) -> None:
    """What was verified stays verified."""
    put_switch_command(connection, command(state=CommandState.VERIFIED, finished_utc_ms=9))
    with pytest.raises(sqlite3.IntegrityError):
        put_switch_command(
            connection,
            command(state=state, finished_utc_ms=10 if state.finished else None),
        )


def test_sent_command_is_not_queued_again(connection: Connection) -> None:
    """The schema refuses the step back."""
    put_switch_command(connection, command(state=CommandState.SENT))
    with pytest.raises(sqlite3.IntegrityError):
        put_switch_command(connection, command())


def outcome(key: str, **changes: object) -> Outcome:
    """An executed recharge."""
    base = Outcome(
        key, "recharge", "h", OutcomeStatus.EXECUTED, "", "done", {"seq": 1, "list": [1]}, 5
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def test_request_has_one_outcome(connection: Connection) -> None:
    """I5: the second outcome of a key is refused, and the first stays."""
    record_outcome(connection, outcome("a"))
    with pytest.raises(StoreError, match="has an outcome already"):
        record_outcome(connection, outcome("a", status=OutcomeStatus.REFUSED))
    record_outcome(connection, outcome("b", status=OutcomeStatus.EXPIRED))
    assert find_outcome(connection, "a") == outcome("a")
    assert find_outcome(connection, "c") is None
    assert set(find_outcomes(connection, ["b", "c", "a"])) == {"a", "b"}


def test_a_refusal_is_kept_with_the_place_it_is_about(connection: Connection) -> None:
    """The same key gets the same answer; a refusal written before places were kept has none."""
    told = outcome("a", status=OutcomeStatus.REFUSED, place="grid.bands", result={})
    record_outcome(connection, told)
    assert find_outcome(connection, "a") == told
    connection.execute(
        "INSERT INTO outcome (request_key, body_hash, type, status, code, message, result, utc_ms) "
        "VALUES ('old', 'h', 'recharge', 'refused', 'AMOUNT_RANGE', 'too much', '{}', 1)"
    )
    old = find_outcome(connection, "old")
    assert old is not None
    assert (old.place, old.result, old.code) == ("", {}, "AMOUNT_RANGE")


def test_cursor_of_requests_is_kept(connection: Connection) -> None:
    """The newest cursor replaces the one before."""
    assert load_request_cursor(connection) is None
    for number in (3, 8):
        save_request_cursor(connection, RequestCursor("e", number))
    assert load_request_cursor(connection) == RequestCursor("e", 8)
