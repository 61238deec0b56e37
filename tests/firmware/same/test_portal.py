"""What the portal reads of requests and forms, on both interpreters."""

import json

from node import portal
from node.portal import PortalError, checked, fields_of, head_of, length_of
from node.sealed import portal_password
from tests.firmware.same.memory import MemoryBoard
from tests.firmware.same.tools import refused

GOOD = {"ssid": "home", "password": "secret word", "host": "broker.lan", "port": "1883"}


def test_a_form_is_read_as_it_was_typed():
    """Spaces, escapes, another language, signs that mean something elsewhere."""
    body = b"ssid=My+Wi-Fi&password=%26%3D%25+%C3%A4&key=a%2Bb&empty="
    wanted = {"ssid": "My Wi-Fi", "password": "&=% \u00e4", "key": "a+b", "empty": ""}
    assert fields_of(body) == wanted
    for broken in (b"a=%", b"a=%4", b"a=%zz", b"a=%+1", b"a=%-1", b"a=% 1", b"a=%ff", b"%=1"):
        refused(PortalError, fields_of, broken)


def test_what_a_field_may_hold():
    """Bytes of a radio's limits, a name or an address, a port in plain digits."""
    wifi, broker = checked(GOOD)
    assert wifi == {"ssid": "home", "password": "secret word"}
    assert broker == {"host": "broker.lan", "port": 1883}
    for name, value in (
        ("ssid", ""),
        ("ssid", "\u00e4" * 17),
        ("password", "short"),
        ("password", "x" * 64),
        ("host", ""),
        ("host", "a b"),
        ("host", "a/b"),
        ("host", "b\u00fccher.lan"),
        ("host", 'a"b'),
        ("port", ""),
        ("port", "0"),
        ("port", "65536"),
        ("port", "-1"),
        ("port", "+80"),
        ("port", "8 0"),
        ("port", "\u00b2"),
        ("port", "\u0663"),
        ("port", "000001"),
    ):
        spoilt = dict(GOOD)
        spoilt[name] = value
        refused(PortalError, checked, spoilt)
        del spoilt[name]
        if name != "password":
            refused(PortalError, checked, spoilt)
    assert checked({"ssid": "open", "password": "", "host": "10.0.0.2", "port": "1"})


def test_heads_are_read_strictly():
    """Method, path and headers; two of one name are worth none."""
    method, path, headers = head_of(b"POST / HTTP/1.1\r\nHost: 192.168.4.1\r\nORIGIN:x\r\n\r\n")
    assert (method, path) == (b"POST", b"/")
    assert (headers[b"host"], headers[b"origin"]) == (b"192.168.4.1", b"x")
    twice = head_of(b"GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n")[2]
    assert twice[b"host"] == b""
    for broken in (b"\r\n\r\n", b"GET /\r\n\r\n", b"GET / FTP/1\r\n\r\n", b"a b c d\r\n\r\n"):
        refused(PortalError, head_of, broken)


def test_lengths_are_plain_digits():
    """Anything else is no length."""
    for text, length in ((b"12", 12), (b"99999", 99_999), (b"", None), (b"-1", None)):
        assert length_of({b"content-length": text}) == length
    for text in (b"0x10", b"1 2", b"100000", b"+1", b"1.0"):
        assert length_of({b"content-length": text}) is None
    assert length_of({}) is None


def test_the_page_fits_and_shows_nothing_kept():
    """No script, no other host; names only."""
    page = portal._PAGE % ("node-1", "node-1", "Set up this node.", 1883)
    assert len(page) < 2_048
    assert "<script" not in page
    assert "http" not in page


class Sent:
    """A request that has come, to be read as from a stream."""

    def __init__(self, raw):
        self._raw = raw

    async def read(self, most):
        taken, self._raw = self._raw[:most], self._raw[most:]
        return taken

    async def readexactly(self, count):
        if len(self._raw) < count:
            raise EOFError
        return await self.read(count)


async def answered(opened, raw):
    """The status line of the answer to a request, and all of it."""
    reader = Sent(raw)
    answer = await opened._answer(await opened._head(reader), reader)
    return int(answer.split(b" ")[1]), answer


def post(body, headers=b"Host: 192.168.4.1\r\n"):
    """A posted form."""
    length = b"Content-Length: %d\r\n\r\n" % len(body)
    return b"POST / HTTP/1.1\r\n" + headers + length + body


async def test_requests_are_answered_alike_on_both_interpreters():
    """Page, redirection, refusals, guesses, and at last the form that is kept."""
    board = MemoryBoard()
    secret = bytes(range(32))
    board.nvs["broker"] = b'{"host": "old", "port": 1, "ca": "PEM"}'
    opened = portal.Portal(board, "node-1", secret)
    opened._address = "192.168.4.1"
    ours = b"Host: 192.168.4.1\r\n"
    status, page = await answered(opened, b"GET / HTTP/1.1\r\n" + ours + b"\r\n")
    assert (status, b"value=8883" in page, b"old" in page) == (200, True, False)
    status, page = await answered(opened, b"GET /x HTTP/1.1\r\nHost: captive.apple.com\r\n\r\n")
    assert (status, b"Location: http://192.168.4.1/\r\n" in page) == (302, True)
    assert (await answered(opened, b"x" * 3_000))[0] == 413
    assert (await answered(opened, b"PUT / HTTP/1.1\r\n\r\n"))[0] == 405
    assert (await answered(opened, b"\xff\xfe\r\n\r\n"))[0] == 400
    form = b"ssid=home&password=secret+word&host=broker.lan&port=8883&key="
    good = form + portal_password(secret).encode()
    evil = ours + b"Origin: http://evil.example\r\n"
    assert (await answered(opened, post(good, evil)))[0] == 403
    assert (await answered(opened, post(good, b"Host: evil.example\r\n")))[0] == 403
    assert (await answered(opened, post(b"y" * 1_025)))[0] == 413
    assert (await answered(opened, post(b"key=%ff")))[0] == 400
    for _ in range(4):
        assert (await answered(opened, post(form + b"wrong")))[0] == 400
    assert opened._closed_s == 0
    assert (await answered(opened, post(form + b"wrong")))[0] == 400
    assert (await answered(opened, post(good)))[0] == 429
    assert "wifi" not in board.nvs
    opened._closed_s = 0
    board.nvs_broken = True
    assert (await answered(opened, post(good)))[0] == 500
    assert not opened.saved.is_set()
    board.nvs_broken = False
    assert (await answered(opened, post(good)))[0] == 200
    assert opened.saved.is_set()
    kept = json.loads(board.nvs["broker"])
    assert kept == {"host": "broker.lan", "port": 8883, "ca": "PEM"}
