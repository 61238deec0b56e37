"""The set-up portal: one page in the node's own access point, for Wi-Fi and broker.

The access point's key is the device's own portal password, and the form asks for it again: another
page in the phone's browser that posts here knows it not. Nothing kept is ever shown. Requests have
a deadline and a bound; after a wrong password the next answer waits.
"""

import asyncio
import json

from node import wifi
from node.port import const
from node.sealed import equal, portal_password

PORT = const(80)
_MOST_HEAD = const(2_048)
_MOST_BODY = const(1_024)
_DEADLINE_S = const(10)
_WRONG_S = const(2)
_RESTART_S = 1

_PAGE = """\
<!doctype html><meta name=viewport content="width=device-width"><title>%s</title>
<h1>%s</h1><p>%s</p><form method=post action=/>
<p><label>Wi-Fi <input name=ssid maxlength=32 required></label>
<p><label>Its password <input name=password type=password maxlength=63></label>
<p><label>Broker <input name=host maxlength=64 required></label>
<p><label>Port <input name=port value=1883 inputmode=numeric></label>
<p><label>Password on the node's label <input name=key type=password required></label>
<p><button>Save and restart</button></form>"""


class PortalError(Exception):
    """A form that is not taken; `str` says why."""


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
    if not 1 <= len(host) <= 64 or not all(c.isalpha() or c.isdigit() or c in ".-:" for c in host):
        raise PortalError("Broker: a name or an address")
    if not port.isdigit() or len(port) > 5 or not 1 <= int(port) <= 65_535:
        raise PortalError("Port: 1 to 65535")
    return {"ssid": ssid, "password": password}, {"host": host, "port": int(port)}


class Portal:
    """Serves the page until a form was taken. `name` is the node's, shown and its network's."""

    def __init__(self, board, name, secret):
        self._board = board
        self._name = name
        self._password = portal_password(secret)
        self._lock = asyncio.Lock()  # one request at a time
        self._wrong = False
        self.saved = asyncio.Event()

    async def run(self, port=PORT):
        """Open the access point and serve; returns once something was saved."""
        self._board.wifi_access_point(self._name, self._password)
        server = await self._board.start_server(self._serve, port)
        try:
            await self.saved.wait()
            await asyncio.sleep(_RESTART_S)  # the answer goes out first
        finally:
            server.close()

    async def _serve(self, reader, writer):
        try:
            async with self._lock:
                answer = await asyncio.wait_for(self._answer(reader), _DEADLINE_S)
                writer.write(answer)
                await asyncio.wait_for(writer.drain(), _DEADLINE_S)
        except (OSError, EOFError, asyncio.TimeoutError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader):
        """The whole response to one request."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            if len(head) >= _MOST_HEAD:
                return _response("413 Too Large", "")
            byte = await reader.read(1)
            if not byte:
                raise EOFError
            head += byte
        if not head.startswith(b"POST "):
            return _response("200 OK", self._page("Set up this node."))
        length = _length(head)
        if length is None or length > _MOST_BODY:
            return _response("413 Too Large", "")
        try:
            await self._take(await reader.readexactly(length))
        except PortalError as error:
            return _response("400 Bad Request", self._page(str(error)))
        except OSError:
            return _response("500 Error", self._page("It could not be kept."))
        return _response("200 OK", self._page("Saved. The node restarts."))

    async def _take(self, body):
        fields = fields_of(body)
        if self._wrong:
            await asyncio.sleep(_WRONG_S)
        key = fields.get("key", "").encode()
        self._wrong = not equal(key, self._password.encode())
        if self._wrong:
            raise PortalError("Not this node's password.")
        network, broker = checked(fields)
        kept = wifi.kept(self._board, "broker")
        kept.update(broker)
        self._board.nvs_set("wifi", json.dumps(network).encode())
        self._board.nvs_set("broker", json.dumps(kept).encode())
        self._board.nvs_commit()
        self.saved.set()

    def _page(self, text):
        return _PAGE % (self._name, self._name, text)


def _response(status, page):
    body = page.encode()
    head = f"HTTP/1.0 {status}\r\nContent-Type: text/html; charset=utf-8\r\n"
    head += f"Cache-Control: no-store\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


def _length(head):
    """Content-Length of a request, or None."""
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            digits = line[15:].strip()
            return int(digits) if digits.isdigit() and len(digits) < 6 else None
    return None


def _plain(quoted):
    """Text of a urlencoded field. Raises ValueError."""
    found = bytearray()
    place = 0
    while place < len(quoted):
        if quoted[place] == 0x25:
            found.append(int(quoted[place + 1 : place + 3].decode(), 16))
            place += 3
        else:
            found.append(0x20 if quoted[place] == 0x2B else quoted[place])
            place += 1
    return bytes(found).decode()
