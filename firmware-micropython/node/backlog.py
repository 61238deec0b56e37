"""Offline readings: kept every quarter of an hour while nobody acknowledges, sent afterwards.

The gateway counts as away when it was not heard for five minutes. One segment is on its way at a
time; without an acknowledgement it is sent again, ever more slowly.
"""

import asyncio
import json

from node import records
from node.port import const

_AWAY_S = const(300)
_AGAIN_S = const(20)
_MOST_AGAIN_S = const(600)


class Backlog:
    """Keeps records of the first module and hands segments out."""

    def __init__(self, node):
        self._node = node
        self._due_s = node.settings["record_s"]
        self._send_s = 0  # not before
        self._wait_s = _AGAIN_S
        self._unheard = True  # on this connection
        self._storage_failed = False

    def connected(self):
        """A new connection: whatever was on its way is sent again."""
        self._send_s, self._wait_s = 0, _AGAIN_S
        self._unheard = True

    def heard(self):
        """The gateway is there: what went out before it was is sent again at once."""
        if self._unheard:
            self.connected()
            self._unheard = False

    def greeted(self):
        """The gateway has just started: what went out while it was away is sent again."""
        self._send_s, self._wait_s = 0, _AGAIN_S

    def acknowledged(self):
        """The gateway has the segment: the next one may go."""
        self._send_s, self._wait_s = 0, _AGAIN_S
        self._node.wake.set()

    def is_away(self):
        """Whether nobody hears telemetry."""
        node = self._node
        heard_s = node.commands.heard_s
        recent = heard_s is not None and node.clock.now_s() - heard_s < _AWAY_S
        return not (node.link.connected and recent)

    async def run(self):
        """Keep a record each `record_s` while the gateway is away, for ever."""
        while True:
            self._node.supervisor.beat("backlog", 60)
            now_s = self._node.clock.now_s()
            if now_s >= self._due_s:
                self._due_s = now_s + self._node.settings["record_s"]
                if self.is_away():
                    self.keep()
            await asyncio.sleep(1)

    def keep(self):
        """Keep one record now."""
        node = self._node
        if not node.spool:
            return
        try:
            lost = node.spool.append(_record(node))
        except OSError:
            self._storage_refuses()
            return
        self._storage_failed = False
        if lost:
            node.events.add("spool_lost", lost_from=lost[0], lost_to=lost[1])
        node.wake.set()

    def next_message(self):
        """The message that is due now, or None."""
        node = self._node
        if not node.spool or not node.spool.waiting or node.clock.now_s() < self._send_s:
            return None
        self._send_s = node.clock.now_s() + self._wait_s
        self._wait_s = min(2 * self._wait_s, _MOST_AGAIN_S)
        try:
            segment, found = node.spool.oldest()
        except OSError:
            self._storage_refuses()
            return None
        told = {
            "device_id": node.device_id,
            "session": node.session,
            "segment": segment,
            "records": found,
        }
        return json.dumps(told).encode()

    def _storage_refuses(self):
        """Told once, until a record is kept again."""
        if not self._storage_failed:
            self._node.events.add("storage_failed")
        self._storage_failed = True


def _record(node):
    """The fields of a record of the present values; `append` puts the sequence in."""
    point = node.meter.points[0]
    v = point.values
    flags = records.CLOCK_SET if node.clock.unix_s() else 0
    flags |= records.RELAY_CLOSED if node.relay.closed else 0
    flags |= records.QUALITY_GOOD if point.quality == "good" else 0
    flags |= 0 if v else records.METER_SILENT
    return [
        0,
        node.boot_id,
        node.meter.taken_s(),
        node.clock.now_s(),
        point.total_wh or 0,
        v.voltage_dv if v else 0,
        v.current_ma if v else 0,
        v.power_dw if v else 0,
        v.power_factor_pct if v else 0,
        flags,
    ]
