"""Denials: no secret is copied, nothing of another process is believed, a flood is bounded."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.denials import (
    HIDDEN,
    NS_PER_S,
    TEXT_MAX,
    Allowance,
    Denial,
    audited_denial,
    decode_denial,
    encode_denial,
    shown,
)
from gateway.core.errors import RefusedError

DENIAL = Denial(
    actor="token:01HX",
    role="operator",
    source="10.0.0.7",
    action="POST /api/v1/accounts/{account_id}/recharges",
    code="FORBIDDEN",
    place="body.amount",
    request="till-1",
    object={"account_id": "flat-1"},
    count=3,
    first_utc_ms=1_000,
    last_utc_ms=2_000,
)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("flat-101", "flat-101"),
        ("body.amount", "body.amount"),
        ("192.168.100.200", "192.168.100.200"),
        ("2001:db8::1", "2001:db8::1"),
        ("12345678901234567890", "1234" + "*" * 16),
        ("body.1234-5678-9012-3456-7890", "body.1234" + "*" * 20),
        ("1234 5678 9012 3456 7890", "1234" + "*" * 20),
        ("1234 - 5678 - 9012 - 3456 - 7890", "1234" + "*" * 28),
        ("1234--5678--9012--3456--7890", "1234" + "*" * 24),
        ("pgw_c2VjcmV0", HIDDEN),
        ("Bearer PGW_c2VjcmV0", HIDDEN),
        ("line\nfeed", HIDDEN),
        ("\x1b[2J", HIDDEN),
        ("x" * 300, "x" * TEXT_MAX),
    ],
)
def test_what_a_caller_wrote_is_shown_without_secrets(text: str, kept: str) -> None:
    """Vouchers keep their first four digits, tokens nothing, terminals nothing to obey."""
    assert shown(text) == kept


@given(st.text(alphabet="0123456789", min_size=20, max_size=20), st.text(max_size=300), st.text())
def test_no_voucher_gets_through_whatever_stands_around_it(
    token: str, before: str, after: str
) -> None:
    """Also where the text is cut: at most the first four digits of it are there."""
    text = shown(f"{before}x{token}x{after}")
    assert token[:16] not in text
    assert len(text) <= TEXT_MAX


def test_a_denial_is_the_same_on_the_other_side() -> None:
    """And its audit record has the members of every refused request."""
    assert decode_denial(json.loads(json.dumps(encode_denial(DENIAL)))) == DENIAL
    record = audited_denial(DENIAL)
    assert (record["result"], record["by"], record["count"]) == ("FORBIDDEN", "north", 3)
    assert set(record) > {"actor", "role", "source", "action", "object", "request", "place"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"code": "executed"},
        {"code": ""},
        {"actor": 7},
        {"count": -1},
        {"count": True},
        {"count": 10**30},
        {"object": []},
        {"object": {"a": 1}},
        {"object": {str(number): "x" for number in range(9)}},
    ],
)
def test_what_is_no_denial_is_refused(wrong: dict[str, object]) -> None:
    """Control trusts nothing in north.db: no forged `executed`, no numbers without end."""
    with pytest.raises(RefusedError):
        decode_denial({**encode_denial(DENIAL), **wrong})
    with pytest.raises(RefusedError):
        decode_denial({})


def test_control_hides_what_north_should_have_hidden() -> None:
    """The rule is applied on both sides."""
    leaky = replace(DENIAL, place="12345678901234567890", object={"id": "pgw_x"})
    kept = decode_denial(encode_denial(leaky))
    assert (kept.place, dict(kept.object)) == ("1234" + "*" * 16, {"id": HIDDEN})


def test_an_allowance_is_a_burst_and_then_a_rate() -> None:
    """Five at once, one every two seconds, never more than five again."""
    allowance, now_ns = Allowance(5, 2.0), 10 * NS_PER_S
    assert [allowance.take(now_ns) for _ in range(6)] == [True] * 5 + [False]
    assert not allowance.take(now_ns + 2 * NS_PER_S - 1)
    assert allowance.take(now_ns + 2 * NS_PER_S)
    assert not allowance.take(now_ns + 3 * NS_PER_S)
    assert allowance.left(now_ns + 1_000 * NS_PER_S) == 5
    assert not allowance.take(now_ns + 1_000 * NS_PER_S, 6)


@given(st.lists(st.integers(0, 5 * NS_PER_S), max_size=200))
def test_no_rhythm_of_calls_gets_more_out_of_an_allowance(pauses_ns: list[int]) -> None:
    """In any time: the burst and one for each whole refill time."""
    allowance, now_ns, taken = Allowance(3, 4.0), 0, 0
    for pause_ns in pauses_ns:
        now_ns += pause_ns
        taken += allowance.take(now_ns)
    assert taken <= 3 + now_ns // (4 * NS_PER_S)
