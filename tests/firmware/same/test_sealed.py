"""Sealed commands: test vectors of RFC 4231, derived keys, and every refusal in its order."""

import gc
import json

from node import sealed
from tests.firmware.same.tools import refused

SECRET = bytes(range(32))
RIGHT = {
    "device": "node-1",
    "session": "s1",
    "seq": 1,
    "id": "a",
    "type": "relay",
    "expires": 0,
    "args": {"closed": True},
}


def message(key=None, **changed):
    """A sealed command with some fields changed."""
    body = dict(RIGHT)
    body.update(changed)
    text = json.dumps(body)
    key = sealed.derive(SECRET, "command 1") if key is None else key
    return json.dumps({"body": text, "mac": sealed.hmac_sha256(key, text.encode()).hex()}).encode()


def test_hmac_vectors():
    """RFC 4231, cases 1, 2, 3 and 6."""
    for key, text, code in (
        (
            b"\x0b" * 20,
            b"Hi There",
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
        ),
        (
            b"Jefe",
            b"what do ya want for nothing?",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        ),
        (
            b"\xaa" * 20,
            b"\xdd" * 50,
            "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe",
        ),
        (
            b"\xaa" * 131,
            b"Test Using Larger Than Block-Size Key - Hash Key First",
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        ),
    ):
        assert sealed.hmac_sha256(key, text).hex() == code


def test_derived_passwords_are_stable():
    """The gateway derives the same; both were computed with CPython's hmac and base64."""
    assert sealed.mqtt_password(SECRET) == "88b60c570f42da485b2afc5aa26db4ef"
    assert sealed.portal_password(SECRET) == "b3nms4sqkpsv"


def test_a_right_command_opens_once():
    """Its sequence is used up."""
    seal = sealed.Seal(SECRET, "node-1", "s1")
    assert seal.open(message(), False, 0)["args"] == {"closed": True}
    again = refused(sealed.RefusedError, seal.open, message(), False, 0)
    assert again.code == "REPLAYED"
    assert again.body["id"] == "a"
    assert seal.open(message(seq=2), False, 0)["seq"] == 2


def test_each_refusal():
    """What is wrong first is told; only a sealed command has somebody to answer."""
    seal = sealed.Seal(SECRET, "node-1", "s1")

    def code(sent, retained=False, now_s=50):
        error = refused(sealed.RefusedError, seal.open, sent, retained, now_s)
        return error.code, error.body is not None

    assert code(message(), retained=True) == ("BAD_FORM", False)
    assert code(b" " * 2_049) == ("BAD_FORM", False)
    assert code(b"{}") == ("BAD_FORM", False)
    assert code(b'{"body": "\\ud800", "mac": ""}') in (("BAD_FORM", False), ("BAD_SEAL", False))
    assert code(message(key=b"other")) == ("BAD_SEAL", False)
    assert code(message(device="node-2")) == ("NOT_MINE", True)
    assert code(message(session="s0")) == ("WRONG_SESSION", True)
    assert code(message(seq="1")) == ("BAD_FORM", True)
    assert code(message(seq=True)) == ("BAD_FORM", True)
    assert code(message(id=5)) == ("BAD_FORM", False)
    assert code(message(args=[])) == ("BAD_FORM", True)
    assert code(message(seq=0)) == ("REPLAYED", True)
    assert code(message(seq=5, expires=50)) == ("EXPIRED", True)
    assert code(message(seq=6, expires=50), now_s=0) == ("CLOCK_UNSET", True)
    assert code(message(seq=6)) == ("REPLAYED", True)
    assert seal.open(message(seq=7, expires=51), False, 50)["seq"] == 7
    # The command that sets the clock expires by none.
    assert seal.open(message(seq=8, expires=1, type="time"), False, 0)["type"] == "time"


def test_a_forgery_costs_little_memory():
    """Whoever reaches the broker can send one; an ESP32 has some 100 KB to spare."""
    seal = sealed.Seal(SECRET, "node-1", "s1")
    deep = b"[" * 2_048
    gc.collect()
    gc.disable()
    allocated = getattr(gc, "mem_alloc", lambda: 0)  # CPython has none
    try:
        before = allocated()
        error = refused(sealed.RefusedError, seal.open, deep, False, 0)
        spent = allocated() - before
    finally:
        gc.enable()
    assert error.code == "BAD_FORM"
    assert spent < 16_384


def test_forgeries_are_counted():
    """One for each message under a wrong key."""
    seal = sealed.Seal(SECRET, "node-1", "s1")
    for _ in range(3):
        refused(sealed.RefusedError, seal.open, message(key=b"no"), False, 0)
    assert seal.forged == 3
