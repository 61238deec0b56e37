"""Waiting between tries: doubled each time, up to a minute, with jitter so that a whole site does
not come back in one second.
"""

import json

from node.port import const

_FIRST_MS = const(1_000)
_MOST_MS = const(60_000)
CONNECT_MS = const(20_000)


class Backoff:
    """The waits after failures in a row."""

    def __init__(self, random):
        self._random = random
        self._next_ms = _FIRST_MS

    def failed(self):
        """How long to wait now, in ms: from half of the present step to all of it."""
        step_ms = self._next_ms
        self._next_ms = min(2 * step_ms, _MOST_MS)
        return step_ms // 2 + step_ms // 2 * int.from_bytes(self._random(2), "big") // 65_536

    def worked(self):
        """The next failure begins anew."""
        self._next_ms = _FIRST_MS


def kept(board, key):
    """A JSON object of the NVS; empty when there is none, or none that can be read."""
    try:
        found = json.loads(board.nvs_get(key) or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


async def joined(board):
    """Be in the network. Returns whether the node is; False also without credentials."""
    if board.wifi_connected():
        return True
    network = kept(board, "wifi")
    if not network.get("ssid"):
        return False
    return await board.wifi_connect(network["ssid"], network.get("password", ""), CONNECT_MS)
