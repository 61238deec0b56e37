"""Cases for every property of same/properties.py, as hypothesis strategies by its name."""

import json
from collections.abc import Mapping
from typing import Any, Final

from hypothesis import strategies as st

from node import frames, sealed
from tests.firmware.same.properties import SECRET

SMALL: Final = st.integers(0, 200)
U32: Final = st.integers(0, 0xFFFFFFFF)
U31: Final = st.integers(0, 0x7FFFFFFF)


def frame() -> st.SearchStrategy[Any]:
    """Good replies, and the same with bytes changed, cut off or added."""
    good = st.binary(min_size=20, max_size=20).map(lambda b: frames.seal(b"\x01\x04\x14" + b))
    spoilt = st.tuples(good, st.integers(0, 24), st.integers(1, 255)).map(
        lambda t: t[0][: t[1]] + bytes((t[0][t[1]] ^ t[2],)) + t[0][t[1] + 1 :]
    )
    cut = st.tuples(good, st.integers(0, 30)).map(lambda t: (t[0] + b"\x00" * 5)[: t[1]])
    sealed_bytes = st.binary(min_size=2, max_size=24).map(frames.seal)
    reply = st.one_of(good, spoilt, cut, sealed_bytes, st.binary(max_size=30))
    return st.fixed_dictionaries({"address": st.just(1), "reply": reply.map(bytes.hex)})


def guarded() -> st.SearchStrategy[Any]:
    """Counters that mostly walk on from the last one, and jump, fall, wrap and reset."""

    @st.composite
    def steps(draw: st.DrawFn) -> list[list[int]]:
        counter = draw(st.sampled_from([0, 5, 5_000, 9_999_980, 4_000_000_000]))
        unix_s, path = 1_700_000_000, []
        for _ in range(draw(st.integers(1, 25))):
            elapsed_s = draw(st.sampled_from([0, 1, 1, 1, 5, 60, 3_600]))
            unix_s += elapsed_s
            move = draw(st.sampled_from(["on", "on", "on", "jump", "fall", "zero", "wrap", "back"]))
            old = counter
            if move == "on":
                counter += draw(st.integers(0, 10))
            elif move == "jump":
                counter += draw(st.integers(0, 5_000_000))
            elif move == "fall":
                counter = max(0, counter - draw(st.integers(0, 3_000)))
            elif move in ("zero", "wrap"):
                counter = draw(st.integers(0, 5))
            shown = min(counter, 0xFFFFFFFE)
            path.append([elapsed_s, shown, draw(st.sampled_from([0, unix_s]))])
            if move == "back":
                counter = old
        return path

    return st.fixed_dictionaries({"p_max_w": st.sampled_from([3_000, 23_000]), "steps": steps()})


def leased() -> st.SearchStrategy[Any]:
    """Leases right and wrong, judged around their cut-off and expiry."""
    wrong = st.one_of(st.none(), st.booleans(), st.text(max_size=3), st.integers(-5, 2**33))
    numbers = {
        "seq": st.integers(1, 0x7FFFFFFF),
        "cutoff_wh": st.integers(0, 2_000),
        "expires": st.integers(0, 2_000),
        "grace_wh": st.integers(0, 500),
        "limit_w": st.integers(0, 100_000),
        "emergency_limit_w": st.integers(0, 100_000),
    }
    emergency = {"emergency_wh": st.integers(0, 2_000)}
    right = st.fixed_dictionaries(
        numbers
        | {
            "epoch": st.text("0123456789ABCDEFGHJKMNPQRSTVWXYZ", min_size=1, max_size=26),
            "policy": st.sampled_from(["hold", "grace", "open"]),
        },
        optional=emergency,
    )
    keys = st.sampled_from([*numbers, *emergency, "epoch", "policy", "more"])
    spoilt = st.tuples(right, keys, wrong).map(lambda t: t[0] | {t[1]: t[2]})
    return st.fixed_dictionaries(
        {
            "args": st.one_of(right, right, spoilt),
            "granted_s": st.integers(0, 2_000),
            "unix_s": st.integers(0, 2_000),
            "uptime_s": st.integers(0, 2_000),
            "total_wh": st.integers(0, 3_000),
            "spoil": SMALL,
        }
    )


def recorded() -> st.SearchStrategy[Any]:
    """Ten fields within their places."""
    u24 = st.integers(0, 0xFFFFFF)
    byte = st.integers(0, 255)
    fields = st.tuples(U32, U32, U32, U32, U32, st.integers(0, 0xFFFF), u24, u24, byte, byte)
    return st.fixed_dictionaries({"fields": fields.map(list), "spoil": st.integers(0, 255)})


def spooled() -> st.SearchStrategy[Any]:
    """Appending, sending, cutting, in rings small enough to go round."""
    step = st.one_of(
        st.tuples(st.just("append"), st.integers(1, 150)),
        st.tuples(st.just("send"), st.integers(0, 1)),
        st.tuples(st.just("cut"), st.integers(0, 5)),
    )
    steps = st.lists(step.map(list), max_size=14)
    return st.fixed_dictionaries({"files": st.integers(1, 3), "steps": steps})


def published() -> st.SearchStrategy[Any]:
    """Messages of every kind of length, and bodies that are no PUBLISH."""
    payload = st.one_of(st.binary(max_size=300), st.sampled_from([b"x" * 127, b"y" * 20_000]))
    return st.fixed_dictionaries(
        {
            "topic": st.text("abc/é€", max_size=40),
            "payload": payload.map(bytes.hex),
            "retain": st.booleans(),
            "packet_id": st.integers(1, 0xFFFF),
            "flags": st.integers(0, 15),
            "body": st.binary(max_size=12)
            .map(lambda b: bytes((0, 2)) + bytes(x & 127 for x in b) if b else b)
            .map(bytes.hex),
        }
    )


def _message(body: dict[str, Any], spoil: str) -> str:
    text = json.dumps(body)
    code = sealed.hmac_sha256(sealed.derive(SECRET, "command 1"), text.encode()).hex()
    if spoil == "mac":
        code = code[:-1] + ("0" if code[-1] != "0" else "1")
    elif spoil == "body":
        text = text.replace("time", "hour").replace("lease", "legal")
    elif spoil == "long":
        return json.dumps({"body": text, "mac": code, "more": "x" * 2_048})
    return json.dumps({"body": text, "mac": code})


def commanded() -> st.SearchStrategy[Any]:
    """Commands in a row: right, replayed, foreign, late, spoilt, and what is no command."""
    body = st.fixed_dictionaries(
        {
            "device": st.sampled_from(["node-1", "node-1", "node-1", "node-2"]),
            "session": st.sampled_from(["s1", "s1", "s1", "s0"]),
            "seq": st.integers(0, 12),
            "id": st.text("abc", min_size=1, max_size=4),
            "type": st.sampled_from(["lease", "relay", "time"]),
            "expires": st.sampled_from([0, 100, 200]),
            "args": st.just({}),
        }
    )
    wrong = st.tuples(body, st.sampled_from(["device", "seq", "id", "args", "expires"])).map(
        lambda t: t[0] | {t[1]: None}
    )
    spoil = st.sampled_from(["", "", "", "", "mac", "body", "long"])
    command = st.tuples(st.one_of(body, body, wrong), spoil).map(lambda t: _message(*t))
    nonsense = st.sampled_from(
        ["", "{", "[]", "7", '{"body": 1, "mac": "x"}', '{"body": "{}"}', "[" * 900, "null", "{}"]
    )
    message = st.tuples(
        st.one_of(command, command, command, nonsense),
        st.sampled_from([False, False, False, True]),
        st.sampled_from([0, 50, 100, 150]),
    )
    messages = st.lists(message.map(list), min_size=1, max_size=12)
    return st.fixed_dictionaries({"messages": messages})


def mac() -> st.SearchStrategy[Any]:
    """Keys shorter and longer than a block of the hash."""
    lengths = st.binary(max_size=150).map(bytes.hex)
    return st.fixed_dictionaries({"key": lengths, "message": lengths})


def relayed() -> st.SearchStrategy[Any]:
    """Changes of reasons, each perhaps cut at one of its writes, and at one of the start after."""
    names = st.lists(
        st.sampled_from(["command", "lease", "overload", "safety"]), min_size=1, unique=True
    )
    writes = st.one_of(st.none(), st.integers(0, 9))
    step = st.tuples(st.booleans(), names, writes, writes, st.booleans()).map(list)
    return st.fixed_dictionaries(
        {
            "closed_at_first": st.booleans(),
            "nvs_is_eager": st.booleans(),
            "steps": st.lists(step, min_size=1, max_size=8),
        }
    )


def tripped() -> st.SearchStrategy[Any]:
    """A load around its limit of 1,000 W, with gaps."""
    chosen = st.fixed_dictionaries(
        {
            "limit_w": st.just(1_000),
            "limit_delay_s": st.integers(1, 40),
            "limit_hold_s": st.integers(1, 150),
            "trip_most": st.integers(1, 4),
        }
    )
    power = st.sampled_from([None, 0, 9_000, 10_000, 10_001, 20_000, 20_000, 20_000])
    step = st.tuples(st.sampled_from([1, 1, 5, 30, 120]), power).map(list)
    return st.fixed_dictionaries({"settings": chosen, "steps": st.lists(step, max_size=40)})


def configured() -> st.SearchStrategy[Any]:
    """Known and unknown keys, right and wrong values."""
    keys = ["poll_s", "p_max_w", "limit_w", "modules", "voltage_low_dv", "voltage_high_dv", "no"]
    values = st.one_of(
        st.integers(-5, 100_001),
        st.booleans(),
        st.none(),
        st.text("ab", max_size=2),
        st.lists(st.integers(-1, 250), max_size=4),
    )
    return st.fixed_dictionaries({"changes": st.dictionaries(st.sampled_from(keys), values)})


def healthy() -> st.SearchStrategy[Any]:
    """Tries good and bad, mostly bad."""
    tries = st.lists(st.sampled_from([True] + [False] * 9), max_size=60)
    return st.fixed_dictionaries({"tries": tries})


CASES: Final[Mapping[str, st.SearchStrategy[Any]]] = {
    make.__name__: make()
    for make in (
        frame,
        guarded,
        leased,
        recorded,
        spooled,
        published,
        commanded,
        mac,
        relayed,
        tripped,
        configured,
        healthy,
    )
}
