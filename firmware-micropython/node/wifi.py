"""Waiting between tries: at first anything up to ten seconds, so that a whole site does not come
back in one, then doubled each time, up to a minute, with jitter.
"""

import json

from node.port import const

_FIRST_MS = const(10_000)
_SECOND_MS = const(2_000)
_MOST_MS = const(60_000)
CONNECT_MS = const(20_000)


class Backoff:
    """The waits after failures in a row."""

    def __init__(self, random):
        self._random = random
        self._step_ms = 0  # of the last failure; 0: there was none

    def failed(self):
        """How long to wait now, in ms: from none to all of the first step, from half of each later
        one.
        """
        least_ms, room_ms = 0, _FIRST_MS
        if self._step_ms:
            least_ms = room_ms = self._step_ms // 2
        self._step_ms = min(2 * self._step_ms, _MOST_MS) or _SECOND_MS
        return least_ms + room_ms * int.from_bytes(self._random(2), "big") // 65_536

    def worked(self):
        """The next failure begins anew."""
        self._step_ms = 0


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
