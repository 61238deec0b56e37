"""Requests of every kind with values of every kind: what people mean, slips, and hostility.

A field's values go by its name, so that most requests nearly fit the site; one in some carries a
value that nobody means.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from random import Random
from typing import Final

from gateway.core.requests import BODIES, Body
from tests.app.account_model import FRIENDLY, TARIFFS
from tests.app.account_world import AccountWorld

NANO: Final = 10**9
HOUR_MS: Final = 3_600_000
POINTS: Final = ("flat-1", "flat-2", "flat-3")
# What money follows from comes more often, what is mostly refused less.
WEIGHTS: Final = {
    "recharge": 12, "open_account": 10, "configure_account": 8, "issue_voucher": 6,
    "redeem_voucher": 8, "add_debt": 10, "transfer": 8, "write_off": 5, "add_point": 8,
    "remove_point": 5, "change_tariff": 8, "invoke_emergency": 6, "reverse_transaction": 6,
    "serve_notice": 5, "confirm_reconnect": 5, "release_halt": 1, "release_recovery": 1,
    "unlock_overload": 1, "unlock_vouchers": 1, "acknowledge_changes": 1,
    "add_image": 1, "remove_image": 1, "begin_rollout": 1, "pause_rollout": 1,
    "resume_rollout": 1, "stop_rollout": 1,
}  # fmt: skip
HOSTILE_INTEGERS: Final = (
    0, -1, 1, 2, 7, 255, 10**9 - 1, 10**12, 10**15, 9 * 10**18, 2**31, 2**53 + 1, 2**62,
    2**63 - 1, -(2**63) + 1, -(10**12), 2**63, -(2**70),
)  # fmt: skip
HOSTILE_TEXTS: Final = (
    "", " ", "x", "x" * 500, "x" * 501, "null", "0", "-1", "wallet", "accumulated", "site",
    "'; DROP TABLE entry; --", "../../ledger.db", "\x00", "\u202eevil", "é" * 250, "🔌",
    "wallet:flat-1", "a:b:c", "MANUAL", "CREDIT", "flat-1 ", "FLAT-1", "%s%n", "{}", "[1]",
)  # fmt: skip
HOSTILE_DOCUMENTS: Final = (
    "", "{", "null", "[]", "0", '"x"', "{}", "[" * 2_000, '{"a":' * 500 + "1" + "}" * 500,
    '{"id": 1}', '{"emergency": []}', '{"emergency": {"limit": -1}}', '{"notice_days": 1e400}',
    '{"emergency": {"limit": "1e9", "threshold": "0"}}', '{"payment_mode": ["credit"]}',
    '{"low_credit": ["1", "1", "1 %", "1 days", "0 %", "-1", "999 days"]}',
    '{"disablement_threshold": "99999999999999999999"}', '{"friendly_hours": {"preset": "none"}}',
    '{"emergency": {"limit": "10", "threshold": "NaN"}}', '{"notice_days": true}',
)  # fmt: skip
TERMS: Final[Sequence[Mapping[str, object]]] = (
    {},
    {"emergency": {"limit": "30.00", "threshold": "500.00"}},
    {"emergency": {"limit": "55.00", "threshold": "20.00", "automatic": True}},
    {"emergency": {"limit": "0.50", "threshold": "0", "automatic": True}},
    {"disablement_threshold": "-15.00"},
    {"disablement_threshold": "12.00", "low_credit": ["100.00", "20 %", "3 days"]},
    {"payment_mode": "credit", "notice_days": 1},
    {"payment_mode": "credit", "emergency": {"limit": "5", "threshold": "1", "automatic": True}},
    {"friendly_hours": FRIENDLY},
    {"friendly_hours": FRIENDLY, "emergency": {"limit": "9", "threshold": "9"}},
)


class Wishes:
    """Draws bodies for a site; the same chance draws the same ones."""

    def __init__(
        self, chance: Random, world: AccountWorld, tokens: Sequence[tuple[str, str]]
    ) -> None:
        self._chance = chance
        self._world = world
        self._tokens = tokens
        self._opened = 0

    def any(self) -> Body:
        """A request of any kind; values of three in four are all near to what is there."""
        kinds = sorted(BODIES)
        kind = self._chance.choices(kinds, [WEIGHTS.get(kind, 2) for kind in kinds])[0]
        hostile = self._chance.choice((0.0, 0.0, 0.0, 0.3))
        values: dict[str, object] = {}
        for field in fields(BODIES[kind]):
            if field.default is not MISSING and self._chance.random() < 0.3:
                continue
            draw = DRAWS.get(f"{kind}.{field.name}") or DRAWS.get(field.name)
            wild = draw is None or self._chance.random() < hostile
            values[field.name] = self._wild(field) if wild or draw is None else draw(self)
        if kind == "redeem_voucher" and self._tokens and self._chance.random() < 0.6:
            sold = self._chance.choice(self._tokens)
            values["service_point_id"], values["token"] = sold
        return BODIES[kind](**values)  # type: ignore[arg-type]

    # -- values ------------------------------------------------------------------------------

    def _wild(self, field: object) -> object:
        chance, type_name = self._chance, str(getattr(field, "type", ""))
        name = str(getattr(field, "name", ""))
        if name in ("terms", "document"):
            return chance.choice(HOSTILE_DOCUMENTS)
        if "bool" in type_name:
            return chance.random() < 0.5
        if "tuple[int" in type_name:
            return tuple(chance.choices(HOSTILE_INTEGERS, k=chance.randint(1, 4)))
        if "tuple[str" in type_name:
            return tuple(chance.choices(HOSTILE_TEXTS, k=chance.randint(1, 4)))
        return chance.choice(HOSTILE_INTEGERS if "int" in type_name else HOSTILE_TEXTS)

    def account(self) -> str:
        """An open account, or none."""
        there = sorted(self._world.site.desk.accounts)
        return self._chance.choice(there * 9 + ["nobody"])

    def new_account(self) -> str:
        """An account that is not there yet, or one just opened."""
        self._opened += self._chance.random() < 0.7
        return f"account-{self._opened}"

    def point(self) -> str:
        """A service point, now and then none."""
        return self._chance.choice(POINTS * 5 + ("flat-9",))

    def amount(self) -> int:
        """An amount that somebody may pay."""
        chance = self._chance
        most = chance.choice((1, 10**7, 60 * NANO, 300 * NANO))
        return chance.randint(1, most) if chance.random() < 0.4 else chance.randint(1, 200) * NANO

    def transaction(self) -> int:
        """A recharge, or any other transaction."""
        found = list(self._world.recharges)
        return self._chance.choice([*found, 1, 5, 40]) if found else self._chance.randint(1, 60)

    def override(self) -> int:
        """An override that stands, or none."""
        standing = self._world.site.engine.governor.overrides.standing
        return self._chance.choice([1, 2, *(one.number for one in standing)])

    def small(self) -> int:
        """A number of what is counted from one."""
        return self._chance.randint(1, 6)

    def watts(self) -> int:
        """A limit of power."""
        return self._chance.choice((0, 0, 100, 2_000, 5_000, 50_000))

    def until(self) -> int:
        """An end within days, or one that is past."""
        hours = self._chance.choice((-1, 1, 2, 7, 30, 71, 100))
        return self._world.now_ms + hours * HOUR_MS

    def terms(self) -> str:
        """Terms that may be agreed."""
        return json.dumps(self._chance.choice(TERMS))

    def document(self) -> str:
        """The next version of a tariff, or one with something missing or wrong."""
        chance, world = self._chance, self._world
        name = chance.choice((*TARIFFS, "other"))
        when = chance.choice(("2026-01-01T00:00:00+05:30", world.next_midnight()))
        price = chance.choice(("", "20.5", "24.999999", "61", "0"))
        whole = json.loads(world.document(name if name in TARIFFS else "flat", effective=when,
                                          price=price))  # fmt: skip
        whole["id"] = name
        if chance.random() < 0.3:
            key = chance.choice(sorted(whole))
            whole[key] = chance.choice((None, [], {}, "x", -1, "0", {"price": "NaN"}, 10**30))
        return json.dumps(whole)

    def digits(self) -> str:
        """Twenty digits."""
        return f"{self._chance.randrange(10**20):020d}"

    def registers(self) -> tuple[int, ...]:
        """Near to where some meter stands, or those of another model."""
        flat = self._chance.choice(self._world.flats)
        more = self._chance.choice((0, 0, 1, 500, -1, 10**8))
        found = (flat.registers_wh[0] + more, flat.registers_wh[1])
        return found if self._chance.random() < 0.9 else found[:1]

    def pick(self, values: Sequence[object]) -> object:
        """One of these."""
        return self._chance.choice(values)


def _one_of(*values: object) -> Callable[[Wishes], object]:
    return lambda wishes: wishes.pick(values)


DRAWS: Final[Mapping[str, Callable[[Wishes], object]]] = {
    "account_id": Wishes.account,
    "open_account.account_id": Wishes.new_account,
    "from_account_id": Wishes.account,
    "to_account_id": Wishes.account,
    "service_point_id": Wishes.point,
    "meter_id": Wishes.point,
    "point_id": Wishes.point,
    "tariff_id": _one_of(*TARIFFS, *TARIFFS, "other"),
    "debt_id": _one_of("d1", "d2", "d3", "wallet", "accumulated"),
    "amount_nano": Wishes.amount,
    "opening_balance_nano": Wishes.amount,
    "disablement_threshold_nano": _one_of(0, -5 * NANO, 3 * NANO),
    "float_nano": Wishes.amount,
    "daily_nano": _one_of(7 * NANO + 1, NANO),
    "weekly_cap_nano": _one_of(0, 12 * NANO),
    "share_ppm": _one_of(1, 250_000, 1_000_000),
    "counted_nano": lambda wishes: (wishes.amount(), wishes.amount()),
    "providers": _one_of(("card", "counter"), ("counter", "card"), ("counter", "bank")),
    "provider": _one_of("counter", "card"),
    "refund_provider": _one_of("counter", ""),
    "payment_reference": _one_of("", "R-1", "R-2"),
    "transaction_seq": Wishes.transaction,
    "shift_number": Wishes.small,
    "draft": Wishes.small,
    "number": Wishes.override,
    "counter": Wishes.small,
    "accept": _one_of(True, False),
    "terms": Wishes.terms,
    "document": Wishes.document,
    "token": Wishes.digits,
    "name": _one_of("", "Asha", "é"),
    "note": _one_of("", "counted twice"),
    "drawer": _one_of("till-1", "till-2"),
    "reason": _one_of("why not", "seen", "x"),
    "kind": _one_of("payment", "time"),
    "set_override.kind": _one_of("KEEP_CONNECTED", "MAINTENANCE", "RESTORE_ALL"),
    "scope": _one_of("point", "feeder", "site"),
    "target": _one_of("flat-1", "flat-3", "main", ""),
    "cause": _one_of("MANUAL", "SAFETY", "LEGAL", "TAMPER", "CREDIT"),
    "owner": _one_of("", "proof-1"),
    "feeder": _one_of("main", "main", "other"),
    "address": _one_of("", "10.0.0.7", "fe80::1"),
    "closing_wh": Wishes.registers,
    "opening_wh": Wishes.registers,
    "until_utc_ms": Wishes.until,
    "to_w": _one_of(-1, 0, 1_000, 4_000),
    "below_priority": _one_of(0, 2, 5, 10),
    "limit_t1_w": Wishes.watts,
    "limit_t2_w": Wishes.watts,
    "limit_emergency_w": Wishes.watts,
    "for_s": _one_of(0, 60, 3_600),
    "sha256": _one_of("0" * 64),
    "size": _one_of(5_000),
    "rollout": Wishes.small,
    "stages": _one_of((0, 100), (100,)),
    "device_ids": _one_of((), ("node-1",)),
}
