"""Denials in north: told at once, summed up by the minute, bounded whatever comes."""

import pytest

from gateway.core.denials import COUNT_MAX, FURTHER, Denial
from gateway.north.denials import DenialLog
from tests.north.clocks import ManualClock

DAY_S = 86_400


def denial(clock: ManualClock, *, actor: str = "token:A", **changed: str) -> Denial:
    """A forbidden recharge of a known caller."""
    facts = {
        "role": "auditor" if actor else "",
        "source": "10.0.0.7",
        "action": "POST /x",
        "code": "FORBIDDEN",
        "place": "",
        "request": "",
        **changed,
    }
    now = clock.utc_ms()
    return Denial(actor=actor, object={}, count=1, first_utc_ms=now, last_utc_ms=now, **facts)


def test_the_first_is_told_at_once_and_the_same_again_as_one_a_minute() -> None:
    """With how often and since when; then a new first one is told at once again."""
    clock = ManualClock()
    log = DenialLog(clock)
    log.note(denial(clock, place="a"), stranger=False)
    assert [(one.count, one.place) for one in log.due()] == [(1, "a")]
    clock.pass_s(10)
    second_ms = clock.utc_ms()
    for place in "bcd":
        log.note(denial(clock, place=place), stranger=False)
        clock.pass_s(1)
    assert log.due() == []
    clock.pass_s(50)
    (summed,) = log.due()
    assert (summed.count, summed.place) == (3, "b")
    assert (summed.first_utc_ms, summed.last_utc_ms) == (second_ms, second_ms + 2_000)
    clock.pass_s(61)
    assert log.due() == []
    log.note(denial(clock), stranger=False)
    assert [one.count for one in log.due()] == [1]


def test_kinds_are_told_apart_by_caller_address_route_and_code() -> None:
    """Strangers of one IPv6 site are one."""
    clock = ManualClock()
    log = DenialLog(clock)
    for changed in ({}, {"code": "VALIDATION"}, {"action": "PUT /x"}, {"source": "10.0.0.8"}):
        log.note(denial(clock, **changed), stranger=False)
    log.note(denial(clock, actor="token:B"), stranger=False)
    assert len(log.due()) == 5
    for source in ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"):
        log.note(denial(clock, actor="", source=source), stranger=True)
    assert [(one.source, one.count) for one in log.due()] == [
        ("2001:db8::1", 2),
        ("2001:db8:0:1::1", 1),
    ]


@pytest.mark.slow
def test_a_day_of_flood_from_everywhere_is_bounded_and_hides_no_known_caller() -> None:
    """Every denial is counted; strangers get two records a minute at most, whoever is known his."""
    clock = ManualClock()
    log = DenialLog(clock)
    noted, told, known = 0, [], 0
    for minute in range(DAY_S // 60):
        for second in range(0, 60, 20):
            for number in range(20):
                source = f"10.{minute % 250}.{second}.{number}"
                log.note(denial(clock, actor="", source=source), stranger=True)
                noted += 1
            clock.pass_s(20)
            told += log.due()
        if minute % 60 == 30:
            log.note(denial(clock, actor="token:A"), stranger=False)
            (one,) = log.due()
            assert (one.actor, one.count) == ("token:A", 1)
            known += 1
    assert known == 24
    assert len(log._strangers.standing) <= 128
    told += log.due(last=True)
    assert sum(one.count for one in told) == noted
    assert len(told) <= 20 + 2 * DAY_S // 60 + 2


def test_a_program_gone_astray_is_bounded_too() -> None:
    """A thousand kinds of wrong calls at once: a hundred told, the rest as a number."""
    clock = ManualClock()
    log = DenialLog(clock)
    for number in range(1_000):
        log.note(denial(clock, action=f"POST /{number}"), stranger=False)
    assert len(log._known.standing) == 256
    told = log.due()
    assert len(told) == 101
    assert (told[-1].action, told[-1].count) == (FURTHER, 900)
    assert sum(one.count for one in told) == 1_000


def test_counts_end_somewhere() -> None:
    """A number that control would not take is never made."""
    clock = ManualClock()
    log = DenialLog(clock)
    for _ in range(2):
        log.note(denial(clock), stranger=False)
    log._known.standing[("token:A", "10.0.0.7", "POST /x", "FORBIDDEN")].count = COUNT_MAX
    log.note(denial(clock), stranger=False)
    assert [one.count for one in log.due()] == [COUNT_MAX]
