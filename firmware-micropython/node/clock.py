"""The node's time: seconds since the start that never wrap, and the wall clock once it is known.

The gateway's sealed `time` command outranks a time server, which anyone on the network can play: a
server sets an unset clock, and corrects by seconds what the gateway has set. The last time that the
gateway vouched for is kept: no server may set the clock before it.
"""

from node.port import const

_KEY = "time"
_FLOOR_KEY = "floor_only"  # whether the board's clock, which outlives a reset, is but the floor
_KEEP_S = const(21_600)  # how often the floor is written: it wears the flash
_AGAIN_S = const(86_400)  # how long the gateway's word needs no server
_UNSURE_S = const(600)  # a clock that only a server has set is set anew so often
_DRIFT_S = const(10)  # what a board's clock may be off after a day
LOWEST_S = const(1_700_000_000)
_HIGHEST_S = const(0x7FFFFFFF)


class Clock:
    """Time of one boot. `floor_s`: it was at least that late already, 0 when nothing is known.

    What the board's own clock says after a reset counts, unless it was but the floor.
    """

    def __init__(self, board):
        self._board = board
        self._last_ms = board.ticks_ms()
        self._rest_ms = 0
        self._uptime_s = 0
        self._server_due_s = 0
        self._by_gateway_s = None
        kept = board.nvs_get(_KEY)
        self.floor_s = int.from_bytes(kept, "big") if kept and len(kept) == 4 else 0
        self._kept_s = 0
        self._known = board.nvs_get(_FLOOR_KEY) != b"\x01" or not board.unix_s()

    def now_s(self):
        """Seconds since the start. To be called at least once in 6 days, as the ticks wrap."""
        now_ms = self._board.ticks_ms()
        self._rest_ms += self._board.ticks_diff(now_ms, self._last_ms)
        self._last_ms = now_ms
        self._uptime_s += self._rest_ms // 1_000
        self._rest_ms %= 1_000
        return self._uptime_s

    def unix_s(self):
        """Wall time, 0 while it is not known."""
        return self._board.unix_s() if self._known else 0

    def date_certificates(self):
        """Put an unset clock to the floor: certificates are judged by it, nothing else is."""
        if self.floor_s and not self._board.unix_s():
            self._note(_FLOOR_KEY, b"\x01")
            self._board.set_unix_s(self.floor_s)
            self._known = False

    def set_by_gateway(self, unix_s):
        """The gateway's word. Returns False for what is no time of this century."""
        if not LOWEST_S <= unix_s <= _HIGHEST_S:
            return False
        self._by_gateway_s = self.now_s()
        self._set(unix_s)
        self._keep(unix_s)
        return True

    async def ask_server(self, host):
        """Ask a time server when it is time to. Returns whether it has set the clock."""
        now_s, spoke_s = self.now_s(), self._by_gateway_s
        if now_s < self._server_due_s or (spoke_s is not None and now_s - spoke_s < _AGAIN_S):
            return False
        self._server_due_s = now_s + 60
        unix_s = await self._board.ntp(host, 3_000)
        if not max(LOWEST_S, self.floor_s) <= unix_s <= _HIGHEST_S:
            return False
        if spoke_s is not None and abs(unix_s - self._board.unix_s()) > _DRIFT_S:
            return False
        self._server_due_s = now_s + (_UNSURE_S if spoke_s is None else _AGAIN_S)
        self._set(unix_s)
        return True

    def keep(self):
        """Keep the gateway's time now and then, never a server's alone. Never raises."""
        if self._by_gateway_s is not None and self.now_s() - self._kept_s >= _KEEP_S:
            self._keep(self.unix_s())

    def _set(self, unix_s):
        self._board.set_unix_s(unix_s)
        self._known = True
        if self._board.nvs_get(_FLOOR_KEY) == b"\x01":
            self._note(_FLOOR_KEY, b"\x00")

    def _keep(self, unix_s):
        self._kept_s = self.now_s()
        self.floor_s = unix_s
        self._note(_KEY, unix_s.to_bytes(4, "big"))

    def _note(self, key, value):
        try:
            self._board.nvs_set(key, value)
            self._board.nvs_commit()
        except OSError:
            pass  # the next time is as good
