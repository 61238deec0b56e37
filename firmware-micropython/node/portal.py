"""The set-up portal: one page in the node's own access point, for Wi-Fi and broker.

The access point's key is the device's own portal password, and the form asks for it again: another
page in the phone's browser that posts here knows it not, and is refused for its origin already.
There is no session: each form stands for itself, and nothing kept is ever shown. Whatever else is
asked for, under any name (dns.py), is sent to the page: so a phone opens it by itself. Requests
have a deadline and a bound, and after wrong passwords nothing is taken for ever longer.
"""

import asyncio
import json

from node import dns, wifi
from node.port import const
from node.sealed import equal, portal_password

PORT = const(80)
_MOST_HEAD = const(2_048)
_MOST_BODY = const(1_024)
_MOST_OPEN = const(4)  # connections; phones open several and use one
_DEADLINE_S = const(10)
_WRONG_FREE = const(5)  # wrong passwords in a row before the portal closes for a while
_CLOSED_S = const(30)  # doubled each time
_MOST_CLOSED_S = const(600)
_RESTART_S = 1

_PAGE = """\
<!doctype html><html lang=en><meta name=viewport content="width=device-width,initial-scale=1">
<meta name=color-scheme content="light dark"><title>%s</title><style>
body{font:16px/1.4 system-ui,sans-serif;max-width:26em;margin:0 auto;padding:1em}
h1{font-size:1.3em;margin:.2em 0;overflow-wrap:anywhere}label{display:block;margin:.8em 0}
input,button{font:inherit;width:100%%;box-sizing:border-box;padding:.6em;margin-top:.2em;
border:1px solid #8888;border-radius:.4em}button{background:#06c;color:#fff;border:0;margin-top:1em}
p{padding:.6em;border-left:4px solid #06c;background:#8882}</style>
<h1>%s</h1><p role=status>%s</p><form method=post action=/>
<label>Wi-Fi network<input name=ssid maxlength=32 required autocapitalize=none></label>
<label>Wi-Fi password<input name=password type=password maxlength=63></label>
<label>Broker<input name=host maxlength=64 required autocapitalize=none></label>
<label>Port<input name=port value=%s inputmode=numeric required></label>
<label>Password on the node's label<input name=key type=password required></label>
<button>Save and restart</button></form></html>"""
_DONE = """\
<!doctype html><html lang=en><meta name=viewport content="width=device-width,initial-scale=1">
<meta name=color-scheme content="light dark"><title>%s</title><style>
body{font:16px/1.4 system-ui,sans-serif;max-width:26em;margin:0 auto;padding:1em}</style>
<h1>%s</h1><p role=status>%s</p></html>"""
# The page has no script and loads nothing; only its own form may be sent, to here.
_HEADERS = (
    "Content-Type: text/html; charset=utf-8\r\nCache-Control: no-store\r\nConnection: close\r\n"
    "X-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\nReferrer-Policy: same-origin\r\n"
    "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'\r\n"
)


class PortalError(Exception):
    """A form that is not taken; `str` says why, `status` is HTTP's."""

    def __init__(self, message, status="400 Bad Request"):
        super().__init__(message)
        self.status = status


_DIGITS = "0123456789"
_HOST = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-:"
_HEX = b"0123456789abcdefABCDEF"


def fields_of(body):
    """The fields of a posted form. Raises PortalError."""
    found = {}
    for pair in body.split(b"&"):
        name, _, value = pair.partition(b"=")
        try:
            found[_plain(name)] = _plain(value)
        except ValueError:
            raise PortalError("not a form") from None
    return found


def checked(fields):
    """(wifi, broker host and port) of a form. Raises PortalError naming the field."""
    ssid, password = fields.get("ssid", ""), fields.get("password", "")
    host, port = fields.get("host", ""), fields.get("port", "")
    if not 1 <= len(ssid.encode()) <= 32:
        raise PortalError("Wi-Fi: 1 to 32 bytes")
    if password and not 8 <= len(password.encode()) <= 63:
        raise PortalError("Its password: 8 to 63 bytes, or none")
    if not 1 <= len(host) <= 64 or not all(c in _HOST for c in host):
        raise PortalError("Broker: a name or an address")
    if not 1 <= len(port) <= 5 or not all(c in _DIGITS for c in port) or not 0 < int(port) < 65_536:
        raise PortalError("Port: 1 to 65535")
    return {"ssid": ssid, "password": password}, {"host": host, "port": int(port)}


def head_of(head):
    """(method, path, headers by lower-case name) of a request's head. Raises PortalError."""
    lines = head.split(b"\r\n")
    parts = lines[0].split(b" ")
    if len(parts) != 3 or not parts[2].startswith(b"HTTP/1."):
        raise PortalError("no request")
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        name = name.lower()
        if name in headers:
            # Two of one name say two things: whoever is between may have believed the other.
            headers[name] = b""
        else:
            headers[name] = value.strip()
    return parts[0], parts[1], headers


def length_of(headers):
    """Content-Length, or None."""
    digits = headers.get(b"content-length", b"")
    return int(digits) if digits.isdigit() and len(digits) < 6 else None


class Portal:
    """Serves the page until a form was taken. `name` is the node's, shown and its network's."""

    def __init__(self, board, name, secret):
        self._board = board
        self._name = name
        self._password = portal_password(secret)
        self._lock = asyncio.Lock()  # one request at a time
        self._open = 0
        self._wrong = 0  # passwords in a row
        self._closed_s = 0  # for so long none is looked at
        self._address = ""
        self.saved = asyncio.Event()

    async def run(self, port=PORT):
        """Open the access point and serve; returns once something was saved."""
        self._address = self._board.wifi_access_point(self._name, self._password)
        server = await self._board.start_server(self._serve, port)
        names = asyncio.create_task(self._serve_names())
        try:
            while not self.saved.is_set():
                try:
                    await asyncio.wait_for(self.saved.wait(), 1)
                except asyncio.TimeoutError:
                    self._closed_s = max(0, self._closed_s - 1)
            await asyncio.sleep(_RESTART_S)  # the answer goes out first
        finally:
            names.cancel()
            server.close()

    async def _serve_names(self):
        try:
            line = self._board.open_datagrams(dns.PORT)
        except OSError:
            return  # the page is there all the same, under its address
        try:
            while True:
                asked, sender = await line.receive()
                answer = dns.answer(asked, self._address)
                if answer:
                    line.send(answer, sender)
        finally:
            line.close()

    async def _serve(self, reader, writer):
        if self._open >= _MOST_OPEN:
            writer.close()
            return
        self._open += 1
        try:
            # A browser opens connections that it may use later: those hold up nobody.
            head = await asyncio.wait_for(self._head(reader), _DEADLINE_S)
            async with self._lock:
                writer.write(await asyncio.wait_for(self._answer(head, reader), _DEADLINE_S))
                await asyncio.wait_for(writer.drain(), _DEADLINE_S)
        except (OSError, EOFError, asyncio.TimeoutError):
            pass
        finally:
            self._open -= 1
            writer.close()

    async def _head(self, reader):
        """A request's head, or as much of it as is taken."""
        head = b""
        while not head.endswith(b"\r\n\r\n") and len(head) < _MOST_HEAD:
            byte = await reader.read(1)
            if not byte:
                raise EOFError
            head += byte
        return head

    async def _answer(self, head, reader):
        """The whole response to one request."""
        if not head.endswith(b"\r\n\r\n"):
            return self._response("413 Too Large", "Too large.")
        try:
            return await self._answer_to(head, reader)
        except PortalError as error:
            return self._response(error.status, str(error))
        except OSError:
            return self._response("500 Error", "It could not be kept.")

    async def _answer_to(self, head, reader):
        """The same, for a whole head. Raises PortalError, OSError."""
        method, path, headers = head_of(head)
        host = headers.get(b"host", b"")
        is_ours = host.split(b":")[0] == self._address.encode()
        if method in (b"GET", b"HEAD"):
            if is_ours and path == b"/":
                return self._response("200 OK", "Set up this node.")
            return self._redirection()
        if method != b"POST":
            raise PortalError("Not here.", "405 Not Allowed")
        # A page from elsewhere, in a browser that is in this network or was led here by a name.
        if not is_ours or headers.get(b"origin", b"http://" + host) != b"http://" + host:
            raise PortalError("Use this node's own page.", "403 Forbidden")
        length = length_of(headers)
        if length is None or length > _MOST_BODY:
            raise PortalError("Too large.", "413 Too Large")
        self._take(await reader.readexactly(length))
        text = "Saved. The node restarts and joins the network."
        return self._response("200 OK", text, _DONE % (self._name, self._name, text))

    def _take(self, body):
        if self._closed_s:
            raise PortalError(
                f"Too many wrong passwords: try again in {self._closed_s} s.",
                "429 Too Many Requests",
            )
        fields = fields_of(body)
        if not equal(fields.get("key", "").encode(), self._password.encode()):
            self._wrong += 1
            if self._wrong >= _WRONG_FREE:
                doubled = min(self._wrong - _WRONG_FREE, 8)
                self._closed_s = min(_CLOSED_S << doubled, _MOST_CLOSED_S)
            raise PortalError("Not this node's password.")
        self._wrong = 0
        network, broker = checked(fields)
        kept = wifi.kept(self._board, "broker")
        kept.update(broker)
        self._board.nvs_set("wifi", json.dumps(network).encode())
        self._board.nvs_set("broker", json.dumps(kept).encode())
        self._board.nvs_commit()
        self.saved.set()

    def _response(self, status, text, page=None):
        # Where a CA is kept the broker is spoken to by TLS.
        port = 8883 if wifi.kept(self._board, "broker").get("ca") else 1883
        page = page or _PAGE % (self._name, self._name, text, port)
        body = page.encode()
        head = f"HTTP/1.0 {status}\r\n{_HEADERS}Content-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    def _redirection(self):
        """To the page: what a phone's look for the internet, or any other name, is answered."""
        head = f"HTTP/1.0 302 Found\r\nLocation: http://{self._address}/\r\n{_HEADERS}"
        return (head + "Content-Length: 0\r\n\r\n").encode()


def _plain(quoted):
    """Text of a urlencoded field. Raises ValueError."""
    found = bytearray()
    place = 0
    while place < len(quoted):
        if quoted[place] == 0x25:
            digits = quoted[place + 1 : place + 3]
            if len(digits) != 2 or digits[0] not in _HEX or digits[1] not in _HEX:
                raise ValueError
            found.append(int(digits.decode(), 16))
            place += 3
        else:
            found.append(0x20 if quoted[place] == 0x2B else quoted[place])
            place += 1
    return bytes(found).decode()
