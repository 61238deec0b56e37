"""Watchdog, heartbeats, restarts, the clock and the waits between tries."""

import json

from node.clock import Clock
from node.portal import PortalError, checked, fields_of
from node.supervisor import Supervisor
from node.telemetry import Events
from node.wifi import Backoff
from tests.firmware.same.clocks import ClockBoard
from tests.firmware.same.tools import refused

NOW_S = 1_800_000_000


def ran(work):
    """The outcome of a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")


def supervised():
    """A supervisor, its board, and a list that grows with every feeding."""
    board, fed = ClockBoard(), []
    return Supervisor(Clock(board), Events(), lambda: fed.append(1)), board, fed


def test_the_watchdog_is_fed_only_while_every_task_works():
    """One overdue beat is enough; it is fed again once that task is back."""
    supervisor, board, fed = supervised()
    supervisor.beat("meter", 30)
    supervisor.beat("link", 180)
    board.pass_s(30)
    assert supervisor.step()
    board.pass_s(1)
    assert supervisor.stale() == ["meter"]
    assert not supervisor.step()
    supervisor.beat("meter", 30)
    assert supervisor.step()
    assert len(fed) == 2


def test_memory_that_fails_three_times_in_ten_minutes_asks_for_a_restart():
    """Twice, or more slowly, is lived with; it is told when it begins."""
    supervisor, board, _ = supervised()
    for _ in range(3):
        supervisor.memory_failed()
        board.pass_s(400)
        assert supervisor.restart_reason is None
    supervisor.memory_failed()
    supervisor.memory_failed()
    assert supervisor.restart_reason == "memory"
    supervisor.restart("command")
    assert supervisor.restart_reason == "memory"


def test_uptime_goes_on_where_ticks_wrap():
    """No second is lost at the wrap, nor by looking often."""
    board = ClockBoard()
    clock = Clock(board)
    for second in range(1, 6):
        for _ in range(4):
            board.ticks += 250
            clock.now_s()
        assert clock.now_s() == second


def test_the_gateway_outranks_a_time_server():
    """A server sets an unset clock only, never before what is known; the floor is kept."""
    board = ClockBoard()
    clock = Clock(board)
    assert not clock.set_by_gateway(5)
    board.server_s = NOW_S
    assert ran(clock.ask_server("x"))
    assert board.unix == NOW_S
    assert clock.set_by_gateway(NOW_S + 50)
    board.pass_s(3_600)
    board.server_s = NOW_S + 9_999
    assert not ran(clock.ask_server("x"))
    later = ClockBoard()
    later.nvs = board.nvs
    clock = Clock(later)
    later.server_s = NOW_S + 49
    assert not ran(clock.ask_server("x"))
    assert later.unix == 0
    later.pass_s(60)
    later.server_s = NOW_S + 51
    assert ran(clock.ask_server("x"))


def test_a_time_server_corrects_the_gateway_by_seconds_only():
    """A day after the gateway's word too; what it says raises no floor in any boot."""
    board = ClockBoard()
    clock = Clock(board)
    clock.set_by_gateway(NOW_S)
    board.pass_s(86_400)
    board.server_s = 2_147_000_000
    assert not ran(clock.ask_server("x"))
    board.pass_s(60)
    board.server_s = NOW_S + 86_463
    assert ran(clock.ask_server("x"))
    assert clock.unix_s() == NOW_S + 86_463
    assert clock.floor_s == NOW_S
    clock.keep()
    assert clock.floor_s == NOW_S + 86_463
    later = ClockBoard()
    later.nvs = dict(board.nvs)
    later.server_s = 2_147_000_000
    clock = Clock(later)
    assert ran(clock.ask_server("x"))
    later.pass_s(50_000)
    clock.keep()
    assert clock.floor_s == NOW_S + 86_463
    # One forged answer lasts ten minutes at most.
    later.server_s = NOW_S + 86_500
    assert ran(clock.ask_server("x"))


def test_an_unset_clock_dates_certificates_only():
    """The last known time is on the board, and still counts as unknown until somebody says it."""
    board = ClockBoard()
    clock = Clock(board)
    clock.date_certificates()
    assert board.unix == 0
    clock.set_by_gateway(NOW_S)
    later = ClockBoard()
    later.nvs = board.nvs
    clock = Clock(later)
    clock.date_certificates()
    assert (later.unix, clock.unix_s()) == (NOW_S, 0)
    for _ in range(2):
        # The board's clock outlives a reset, and what was a floor is one still.
        later = restarted(later)
        later.pass_s(7_000)
        clock = Clock(later)
        clock.date_certificates()
        assert clock.unix_s() == 0
    clock.set_by_gateway(NOW_S + 5)
    assert clock.unix_s() == NOW_S + 5
    assert Clock(restarted(later)).unix_s() == NOW_S + 5
    # The power was away: the floor is dated anew.
    later = restarted(later)
    later.unix = 0
    clock = Clock(later)
    clock.date_certificates()
    assert (later.unix, clock.unix_s()) == (NOW_S + 5, 0)


def restarted(board):
    """The board after a reset."""
    again = ClockBoard()
    again.nvs, again.unix = dict(board.nvs), board.unix
    return again


def test_waits_double_to_a_minute_with_jitter():
    """At first up to ten seconds, then between half and the whole of each step; anew after a
    success.
    """
    low = Backoff(bytes)
    assert [low.failed() for _ in range(8)] == [0, 1000, 2000, 4000, 8000, 16000, 30000, 30000]
    high = Backoff(lambda count: b"\xff" * count)
    for _ in range(2):
        assert 9_990 <= high.failed() < 10_000
        assert 1_990 <= high.failed() < 2_000
        high.worked()


def test_a_form_is_checked_before_it_counts():
    """Right ones are taken with every byte; each wrong field is named."""
    good = fields_of(b"ssid=My+caf%C3%A9&password=a%26b%3Dc%25dd&host=10.0.0.2&port=1883")
    network, broker = checked(good)
    assert network == {"ssid": "My café", "password": "a&b=c%dd"}
    assert broker == {"host": "10.0.0.2", "port": 1_883}
    assert json.loads(json.dumps(network)) == network
    for name, value in (
        ("ssid", ""),
        ("ssid", "x" * 33),
        ("password", "short"),
        ("host", "a b"),
        ("host", ""),
        ("port", "0"),
        ("port", "65536"),
        ("port", "x"),
    ):
        changed = dict(good)
        changed[name] = value
        refused(PortalError, checked, changed)
    for body in (b"%zz=1", b"a=%", b"a=%ff"):
        refused(PortalError, fields_of, body)
