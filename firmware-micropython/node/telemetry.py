"""Messages of the node: telemetry, status, events and results, and when telemetry is due.

Decimal numbers are written from integers: a float of the ESP32 holds 24 bits.
"""

import json

from node.port import const

# What this version can do beyond the first form of the protocol; nobody asks others for it.
CAN = ("limits", "release")
_MOST_EVENTS = const(32)
_CHANGE_PCT = const(20)
_CHANGE_DW = const(500)
_MOST_A_MINUTE = const(15)
_FETCH = "update_want"  # an update's pieces have their own pace
# What the flash keeps until the broker has it: somebody will ask why, and when.
KEPT = (
    "trip",
    "lease_reached",
    "lease_expired",
    "relay_failed",
    "register_begun",
    "register_reset",
    "register_regression",
    "register_jump",
    "rollover",
    "update_failed",
)


def decimal(value, digits):
    """A whole number of 10^-digits as JSON text; None is null."""
    if value is None:
        return "null"
    text = str(abs(value))
    if digits:
        text = "0" * (digits + 1 - len(text)) + text
        text = text[:-digits] + "." + text[-digits:]
    return "-" + text if value < 0 else text


def _measured(point):
    """The values of one module as members of a JSON object."""
    v, held = point.values, ""
    total_wh = point.total_wh
    if point.guard.held_wh is not None:
        # The module's own counter: where it was good last, and where it waits for `release`.
        held = f',"counter_wh":{point.guard.last_wh},"held_wh":{point.guard.held_wh}'
    return (
        f'"voltage":{decimal(v and v.voltage_dv, 1)},'
        f'"current":{decimal(v and v.current_ma, 3)},'
        f'"power_w":{decimal(v and v.power_dw, 1)},'
        f'"energy_kwh":{decimal(total_wh, 3)},'
        f'"power_factor":{decimal(v and v.power_factor_pct, 2)},'
        f'"frequency_hz":{decimal(v and v.frequency_dhz, 1)},'
        f'"energy_wh":{decimal(total_wh, 0)},'
        f'"quality":"{point.quality}"{held}'
    )


def telemetry(node, seq):
    """The telemetry message of what was measured last."""
    points = node.meter.points
    head = {
        "device_id": node.device_id,
        "timestamp": node.meter.taken_s() or None,
        "sent": node.clock.unix_s() or None,
        "rssi": node.board.wifi_rssi(),
        "seq": seq,
        "boot_id": node.boot_id,
        "session": node.session,
        "relay": _relay(node),
        "reasons": node.relay.reasons,
        "firmware": node.version,
    }
    text = json.dumps(head)[:-1] + "," + _measured(points[0])
    if len(points) > 1:
        meters = [f'{{"address":{p.address},{_measured(p)}}}' for p in points]
        text += ',"meters":[' + ",".join(meters) + "]"
    return (text + "}").encode()


def status(node):
    """The retained status message."""
    lease = node.meter.lease
    return {
        "device_id": node.device_id,
        "online": True,
        "session": node.session,
        "boot_id": node.boot_id,
        "firmware": node.version,
        "slot": node.slot,
        "trial": node.trial.under_way,
        "reset": node.board.reset_cause(),
        "hardware": node.hardware,
        "spooled": node.spool.waiting if node.spool else 0,
        "relay": _relay(node),
        "reasons": node.relay.reasons,
        "lease": lease
        and {
            "epoch": lease.epoch,
            "seq": lease.seq,
            "cutoff_wh": lease.cutoff_wh,
            "expires": lease.expires,
            "limit_w": lease.limit_w,
            "emergency_limit_w": lease.emergency_limit_w,
            "emergency_wh": lease.emergency_wh,
        },
        "can": CAN,
        "update": node.updating.state(),
    }


def offline(node):
    """What the broker tells when the node has gone."""
    told = {
        "device_id": node.device_id,
        "online": False,
        "session": node.session,
        "boot_id": node.boot_id,
    }
    return json.dumps(told).encode()


def result(node, body, code, message):
    """The answer to a command, at most 64 characters of `message`."""
    point = node.meter.points[0]
    values = point.values
    told = {
        "device_id": node.device_id,
        "session": node.session,
        "id": body["id"],
        "seq": body.get("seq"),
        "ok": code == "DONE",
        "code": code,
        "message": message[:64],
        "relay": _relay(node),
        "reasons": node.relay.reasons,
        "energy_wh": point.total_wh,
        "current_ma": values and values.current_ma,
        "power_dw": values and values.power_dw,
        "at": node.clock.unix_s() or None,
    }
    return json.dumps(told).encode()


def _relay(node):
    return "closed" if node.relay.closed else "open"


class Events:
    """Events that wait for the broker, oldest first; the oldest goes when there are too many.

    Those of `KEPT` survive resets and power cuts (journal.py), and go last.
    """

    def __init__(self):
        self.node = None  # whoever's they are; set once it is whole
        self.lost = 0
        self._journal = None
        self._waiting = []
        self._seq = 0
        self._sent_s = []

    def keep_in(self, journal):
        """Take over what an earlier boot could not send, and keep what matters from now on."""
        try:
            kept = journal.open()
        except OSError:
            return
        self._journal = journal
        for number, event in kept:
            event["kept"] = number
        self._waiting = [event for _, event in kept] + self._waiting

    def add(self, kind, keep=True, **more):
        """Something happened now. `keep`: it survives a reset where its kind does."""
        self._seq += 1
        if len(self._waiting) >= _MOST_EVENTS:
            self._drop()
        more["seq"] = self._seq
        more["kind"] = kind
        if self.node:
            more["at"] = self.node.clock.unix_s() or None
            more["energy_wh"] = self.node.meter.points[0].total_wh
            more["session"] = self.node.session
            more["boot_id"] = self.node.boot_id
            if keep and kind in KEPT and self._journal:
                more["kept"] = self._journal.keep(more, self.node.clock.now_s())
            self.node.wake.set()
        self._waiting.append(more)

    def oldest(self):
        """(the oldest event, its message) where one may be sent now, else None.

        The gateway takes 20 a minute of a node: what is beyond waits here.
        """
        if not self._waiting:
            return None
        event = self._waiting[0]
        if event["kind"] != _FETCH and not self._may_send():
            # A wish for a piece of an update need not wait for those that are held back.
            wishes = [waiting for waiting in self._waiting if waiting["kind"] == _FETCH]
            if not wishes:
                return None
            event = wishes[0]
        told = {"session": self.node.session, "boot_id": self.node.boot_id}
        told.update(event)
        told.pop("kept", None)
        told["device_id"] = self.node.device_id
        if self.lost:
            told["lost"] = self.lost
        return event, json.dumps(told).encode()

    def sent(self, event):
        """The broker has an event; another one may have taken its place meanwhile."""
        if event["kind"] != _FETCH:
            self._sent_s.append(self.node.clock.now_s())
        if event.get("kept"):
            self._journal.taken(event["kept"])
        for place, waiting in enumerate(self._waiting):
            if waiting is event:
                self._waiting.pop(place)
                break

    def _may_send(self):
        now_s = self.node.clock.now_s()
        self._sent_s = [at_s for at_s in self._sent_s if now_s - at_s < 60]
        return len(self._sent_s) < _MOST_A_MINUTE

    def _drop(self):
        """Make room: the oldest that is not kept, else the oldest."""
        place = 0
        while place < len(self._waiting) and self._waiting[place].get("kept"):
            place += 1
        self._waiting.pop(place if place < len(self._waiting) else 0)
        self.lost += 1


class Reporter:
    """When telemetry is due: each period, at once when asked, and on a change that matters."""

    def __init__(self):
        self.asked = True
        self._sent_s = None
        self._shown = None
        self._power_dw = None

    def due(self, node):
        """Whether a message is to be sent now."""
        now_s = node.clock.now_s()
        if not node.meter.polled:
            return False
        if self.asked or self._sent_s is None:
            return True
        if now_s - self._sent_s >= node.settings["telemetry_s"]:
            return True
        if self._shown != _shown(node):
            return True
        return now_s > self._sent_s and self._moved(_power_dw(node))

    def sent(self, node):
        """A message of the present values is being sent."""
        self.asked = False
        self._sent_s = node.clock.now_s()
        self._shown = _shown(node)
        self._power_dw = _power_dw(node)

    def _moved(self, power_dw):
        if power_dw is None or self._power_dw is None:
            return False
        moved_dw = abs(power_dw - self._power_dw)
        largest_dw = max(power_dw, self._power_dw)
        return moved_dw > _CHANGE_DW and moved_dw * 100 > _CHANGE_PCT * largest_dw


def _power_dw(node):
    values = node.meter.points[0].values
    return values and values.power_dw


def _shown(node):
    return node.relay.reasons, [p.quality for p in node.meter.points]
