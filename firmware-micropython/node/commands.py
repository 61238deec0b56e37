"""Carries out the gateway's sealed commands; every one with a right seal gets a result."""

from node import lease, settings, telemetry
from node.bundle import UpdateError
from node.port import const
from node.sealed import RefusedError

_TELL_S = const(60)  # forged commands are told once in so long
_MOST_IDENTIFY_S = const(600)
SETTINGS_PATH = "/data/settings.json"


class Refusal(Exception):  # noqa: N818 - a result, not an error
    """A command of right form that is not carried out: code and words for people."""

    def __init__(self, code, message):
        super().__init__(code)
        self.code = code
        self.message = message


class Commands:
    """Takes messages, keeps what the gateway was last heard, gives results."""

    def __init__(self, node):
        self._node = node
        self.heard_s = None  # when the last command of the gateway was accepted
        self.refused = 0  # messages without an answer: forged, malformed, retained
        self._told_s = None
        self._types = {
            "lease": self._lease,
            "relay": self._relay,
            "time": self._time,
            "ack": self._ack,
            "read": self._read,
            "release": self._release,
            "settings": self._settings,
            "identify": self._identify,
            "restart": self._restart,
            "update": self._update,
            "update_stop": self._update_stop,
        }

    def take(self, message, retained):
        """Carry a message out. Returns the result to send, None when nobody is answered."""
        node = self._node
        try:
            body = node.seal.open(message, retained, node.clock.unix_s())
        except RefusedError as refused:
            if refused.body:
                return telemetry.result(node, refused.body, refused.code, "")
            self._count_refused(refused.code)
            return None
        self.heard_s = node.clock.now_s()
        node.trial.note("gateway")
        node.updating.heard()
        node.backlog.heard()
        code, message = self._carry_out(body)
        node.wake.set()
        return telemetry.result(node, body, code, message)

    def _carry_out(self, body):
        work = self._types.get(body["type"])
        if not work:
            return "UNKNOWN_TYPE", body["type"]
        try:
            return "DONE", work(body["args"]) or ""
        except Refusal as refusal:
            return refusal.code, refusal.message
        except UpdateError as error:
            return error.code, error.message
        except ValueError as error:
            return "BAD_FORM", str(error)
        except OSError:
            return "STORAGE_FULL", "it could not be kept"

    def _count_refused(self, code):
        self.refused += 1
        now_s = self._node.clock.now_s()
        if self._told_s is None or now_s - self._told_s >= _TELL_S:
            self._told_s = now_s
            self._node.events.add("command_refused", code=code, count=self.refused)

    def _lease(self, args):
        node = self._node
        granted = lease.parse(args, node.clock.unix_s())
        if not granted.replaces(node.meter.lease):
            raise Refusal("LEASE_OLD", f"sequence {node.meter.lease.seq} is in force")
        node.meter.grant(granted)

    def _relay(self, args):
        relay, meter = self._node.relay, self._node.meter
        if _one(args, "closed", bool):
            self._may_close()
            # First what may be refused: a trip that stands opens the relay until a command is done.
            relay.clear("command", "lease", "expired", "overload", "voltage", "limit")
            meter.trips.reset()
            if relay.reasons:
                raise Refusal("TRIPPED", relay.reasons[0])
        else:
            relay.add("command")
        self._node.ask_reading()
        if relay.failed:
            raise Refusal("RELAY_FAILED", "the relay does not follow")

    def _may_close(self):
        """Raise Refusal when lease or voltage stand against supply whatever a command says."""
        meter, reasons = self._node.meter, self._node.relay.reasons
        reason = meter.lease_reason()
        latched = "lease" in reasons or "expired" in reasons
        if reason or (latched and not meter.lease):
            raise Refusal("LEASE_REACHED", reason or "no lease")
        if meter.voltage_is_bad():
            raise Refusal("TRIPPED", "voltage")

    def _time(self, args):
        node = self._node
        before_s = node.clock.unix_s()
        if not node.clock.set_by_gateway(_one(args, "unix_s", int)):
            raise ValueError("unix_s")
        if abs(node.clock.unix_s() - before_s) > 2:
            node.events.add("clock_set", before=before_s or None)
        # The gateway sends it where a session is new to it: at its own start, too.
        node.backlog.greeted()

    def _ack(self, args):
        segment = _one(args, "segment", int)
        node = self._node
        if not node.spool or not node.spool.acknowledge(segment):
            return "nothing of that segment waits"
        node.backlog.acknowledged()
        return ""

    def _read(self, args):
        _none(args)
        self._node.ask_reading()

    def _release(self, args):
        node = self._node
        address = args.get("address")
        if type(args.get("count")) is not bool or len(args) > 1 + ("address" in args):
            raise ValueError("count")
        if "address" in args and type(address) is not int:
            raise ValueError("address")
        point = node.meter.release(address, args["count"])
        if not point:
            raise Refusal("NOTHING_HELD", "no counter of this module is held")
        node.ask_reading()
        return f"counts on from {point.guard.last_wh} Wh"

    def _settings(self, args):
        node = self._node
        changed = settings.changed(node.settings, args)
        moved = changed["spool_files"] != node.settings["spool_files"]
        if moved and node.spool and node.spool.waiting:
            # A record's place in the ring follows from its size.
            raise ValueError("spool_files: readings wait to be sent")
        files = node.board.files
        with files.open(SETTINGS_PATH + ".new", "wb") as file:
            file.write(settings.write(changed).encode())
        files.rename(SETTINGS_PATH + ".new", SETTINGS_PATH)
        fixed = [k for k in ("modules", "spool_files") if changed[k] != node.settings[k]]
        node.settings = changed
        node.meter.apply(changed)
        return "after a restart: " + ", ".join(fixed) if fixed else ""

    def _identify(self, args):
        seconds = _one(args, "seconds", int)
        if not 1 <= seconds <= _MOST_IDENTIFY_S:
            raise ValueError("seconds: from 1 to 600")
        self._node.panel.identify(seconds)

    def _restart(self, args):
        _none(args)
        self._node.supervisor.restart("command")

    def _update(self, args):
        kinds = (("version", str), ("size", int), ("sha256", str), ("security", int))
        if len(args) != len(kinds):
            raise ValueError("unknown argument")
        for name, kind in kinds:
            if type(args.get(name)) is not kind:
                raise ValueError(name)
        self._node.updating.begin(args)

    def _update_stop(self, args):
        return self._node.updating.stop(_one(args, "version", str))


def _one(args, name, kind):
    """The only argument. Raises ValueError."""
    if len(args) != 1 or type(args.get(name)) is not kind:
        raise ValueError(name)
    return args[name]


def _none(args):
    if args:
        raise ValueError("no argument is known")
