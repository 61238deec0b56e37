"""The vocabulary of requests: every field checked, roles checked against type."""

from typing import get_args

import pytest

from gateway.core.errors import RefusedError
from gateway.core.requests import (
    BODIES,
    Body,
    Disconnect,
    Recharge,
    ReplaceMeter,
    Role,
    body_hash,
    check_role,
    decode_body,
    encode_body,
)


def test_bodies_survive_the_way_through_json() -> None:
    """What north stores is what control executes."""
    bodies: list[Body] = [
        Recharge("flat-1", 5, "cash", "r-1"),
        Disconnect("p1", "fire"),
        ReplaceMeter("m1", (1, 2), (0, 0), "broken"),
    ]
    for body in bodies:
        assert decode_body(body.TYPE, encode_body(body)) == body


def test_every_wish_there_is_can_be_asked_for() -> None:
    """A wish that is missing from the vocabulary has routes and commands that only refuse."""
    assert set(BODIES.values()) == set(get_args(Body))


@pytest.mark.parametrize(
    ("kind", "document", "place"),
    [
        ("recharge", {"account_id": "a", "amount_nano": 1.5}, "amount_nano"),
        ("recharge", {"account_id": "a", "amount_nano": True}, "amount_nano"),
        ("recharge", {"account_id": "a", "amount_nano": 2**63}, "amount_nano"),
        ("recharge", {"account_id": "../etc", "amount_nano": 1}, "account_id"),
        ("recharge", {"account_id": "a"}, "amount_nano"),
        ("recharge", {"account_id": "a", "amount_nano": 1, "extra": 1}, "extra"),
        ("disconnect", {"service_point_id": "p", "reason": "x" * 501}, "reason"),
        ("replace_meter", {"meter_id": "m", "closing_wh": [], "opening_wh": [1]}, "closing_wh"),
        ("release_quarantine", {"meter_id": "m", "accept": 1, "reason": ""}, "accept"),
        ("disconnect", {"service_point_id": "p", "reason": "\ud800"}, "reason"),
        ("drop_tables", {}, "type"),
    ],
)
def test_bad_field_is_named(kind: str, document: dict[str, object], place: str) -> None:
    """Control treats north's rows as untrusted: a wrong field is refused by name."""
    with pytest.raises(RefusedError) as refused:
        decode_body(kind, document)
    assert refused.value.place == place


def test_hash_tells_repeat_from_conflict() -> None:
    """The same body has the same hash, any other amount another."""
    assert body_hash(Recharge("a", 1)) == body_hash(Recharge("a", 1))
    assert body_hash(Recharge("a", 1)) != body_hash(Recharge("a", 2))


def test_admin_and_auditor_move_no_money_and_switch_nothing() -> None:
    """domain.md section 8: admin has no money, the auditor only reads."""
    for kind in BODIES.values():
        assert Role.AUDITOR not in kind.ROLES
        assert Role.DEVICE not in kind.ROLES
    with pytest.raises(RefusedError) as refused:
        check_role(Recharge("a", 1), Role.ADMIN)
    assert refused.value.refusal_code == "FORBIDDEN"
    check_role(Recharge("a", 1), Role.OPERATOR)
