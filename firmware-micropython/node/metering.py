"""What is measured and what follows from it: modules, folded counters, lease, trips, relay.

The first module is the service point's: its counter is what a lease is about. A counter in doubt,
or a silent module, never cuts.
"""

from node import guard, lease, pzem, trips
from node.frames import FrameError
from node.port import const

LEASE_PATH = "/data/lease.bin"
_KEY = "guard"
_LOCKED_KEY = "locked"  # the rules that lock out, by their names; they count where a reason stands
_RTC_AT = const(6)  # behind the relay's record
_KEEP_S = const(300)  # how old the counter in NVS may be
_MOST_OTHERS = const(5)
_READS = const(3)  # of a counter in doubt, at once
_WELDED_S = const(5)  # an open relay that still carries power so long has failed


def _never():
    return False


class Point:
    """One module: last values (None: silent, or none yet), quality, folded counter."""

    def __init__(self, address, p_max_w):
        self.address = address
        self.guard = guard.Guard(p_max_w)
        self.values = None
        self.quality = "bad"
        self.answered = False  # in the last poll
        self.fresh = False  # the last poll brought a good counter
        self.read_s = 0  # when the values came, or were missing last; by the monotonic clock

    @property
    def total_wh(self):
        """Folded energy in Wh; None before the first reading."""
        return None if self.guard.last_wh is None else self.guard.total_wh


class Meter:
    """The modules, the lease in force and the rules, on one relay."""

    def __init__(self, board, settings, clock, relay, events):
        self._board = board
        self._clock = clock
        self._relay = relay
        self._events = events
        self._bus = pzem.Bus(board, settings["modules"], settings["max_current_ma"])
        self.points = [Point(a, settings["p_max_w"]) for a in settings["modules"]]
        self.polled = False  # the modules were asked at least once
        self.is_alone = _never  # whether the lease's limits hold: nobody else sees to them
        self._silent = []
        self._kept = self._kept_nvs = None
        self._others = []  # records of modules of other settings
        self._kept_s = 0
        self._relay_failed = False
        self._power_open_s = None
        self._restore()
        self.lease = lease.load(board, LEASE_PATH)
        self.apply(settings)
        self._kept_locked = board.nvs_get(_LOCKED_KEY) or b""
        for reason in self.trips.reasons_of(relay.reasons):
            getattr(self.trips, reason).go_on(reason in self._kept_locked.decode().split())

    def apply(self, settings):
        """Use other settings; other modules take a restart."""
        self.settings = settings
        old = getattr(self, "trips", None)
        self.trips = trips.Trips(settings)
        if old:
            # Also what has not tripped: a lease comes often, and must not forget earlier trips.
            self.trips.take_over(old)
        for point in self.points:
            point.guard.p_max_w = settings["p_max_w"]

    def grant(self, granted):
        """Put a lease in force. Raises OSError: it could not be kept at all."""
        try:
            lease.keep(granted, self._board, LEASE_PATH)
        except OSError:
            # A full flash leaves the copy in NVS, and one good copy is enough.
            if self._board.nvs_get("lease") != granted.pack():
                raise
        self.lease = granted

    def release(self, address, count):
        """A person's word that a module's held counter is right: the guard goes on from it.

        `address` None is the first module's; `count` makes an advance to it energy. Returns the
        point, None when nothing is held there. Raises ValueError: no such module.
        """
        points = [p for p in self.points if address is None or p.address == address]
        if not points:
            raise ValueError("address: no such module")
        point, base_wh = points[0], points[0].guard.base_wh
        if not point.guard.release(self._clock.now_s(), self._clock.unix_s(), count):
            return None
        self._events.add(
            "register_released",
            address=point.address,
            counter_wh=point.guard.last_wh,
            base_wh=point.guard.base_wh,
            base_before_wh=base_wh,
        )
        self._keep()
        return point

    def taken_s(self):
        """Wall time of the first module's values, however long ago; 0 while the clock is unset."""
        unix_s = self._clock.unix_s()
        return unix_s and unix_s - (self._clock.now_s() - self.points[0].read_s)

    def lease_reason(self):
        """Why the lease stands against supply at the last known counter, or None."""
        if not self.lease:
            return None
        expired = self.lease.has_expired(self._clock.unix_s(), self._clock.now_s())
        return self.lease.reason(self.points[0].total_wh or 0, expired)

    def voltage_is_bad(self):
        """Whether voltage stands against supply right now."""
        values, rule = self.points[0].values, self.trips.voltage
        if not values or not rule.open:
            return False
        low, high = rule.low or 0, rule.high or values.voltage_dv
        return not low <= values.voltage_dv <= high

    async def poll(self):
        """Read every module, then judge. Returns whether the first one answered well."""
        for point in self.points:
            await self._read(point)
        self.polled = True
        self._judge()
        self._watch_relay()
        self._keep()
        return self.points[0].fresh

    async def _read(self, point):
        point.answered = point.fresh = False
        for _ in range(_READS):
            try:
                values = await self._bus.read(point.address)
            except FrameError as error:
                self._failed(point, error.code)
                return
            if point.address in self._silent:
                self._silent.remove(point.address)
                self._events.add("meter_back", address=point.address)
            point.values, point.answered = values, True
            point.read_s = self._clock.now_s()
            base_wh = point.guard.base_wh
            verdict, event = point.guard.check(
                values.energy_wh, self._clock.now_s(), self._clock.unix_s()
            )
            if event:
                self._events.add(
                    event,
                    address=point.address,
                    counter_wh=values.energy_wh,
                    base_wh=point.guard.base_wh,
                    base_before_wh=base_wh,
                )
            if verdict != guard.AGAIN:
                break
        point.fresh = verdict == guard.GOOD
        point.quality = "good" if point.fresh else "uncertain"

    def _failed(self, point, code):
        """A poll without an answer: after the third in a row the module is silent."""
        if self._bus.modules[point.address].silent:
            point.values, point.quality = None, "bad"
            if point.address not in self._silent:
                self._silent.append(point.address)
                self._events.add("meter_silent", address=point.address, code=code)
        if not point.values:
            point.read_s = self._clock.now_s()

    def _judge(self):
        point, now_s = self.points[0], self._clock.now_s()
        if point.fresh:
            reason = self.lease_reason()
            if reason and self._relay.add(reason):
                kind = "lease_reached" if reason == "lease" else "lease_expired"
                self._events.add(kind, cutoff_wh=self.lease.cutoff_wh)
        # Power and voltage are good even where the counter is in doubt.
        values = point.values if point.answered else None
        power_dw, voltage_dv = values and values.power_dw, values and values.voltage_dv
        limit_w = self.lease.limit_at(point.total_wh) if self.lease and self.is_alone() else 0
        tripped = self.trips.check(now_s, power_dw, voltage_dv, limit_w)
        # Before the reason itself: a cut between leaves a lock of a reason that does not stand.
        self._keep_locked()
        for reason in tripped:
            if self._relay.add(reason):
                locked = getattr(self.trips, reason).locked
                self._events.add(
                    "trip", reason=reason, power_dw=power_dw, voltage_dv=voltage_dv, locked=locked
                )
        standing = self.trips.reasons
        over = [r for r in self.trips.reasons_of(self._relay.reasons) if r not in standing]
        if over:
            try:
                self._relay.clear(*over)
            except OSError:
                pass  # it stays open; the next poll tries again

    def _watch_relay(self):
        """Tell once when the relay does not follow, or carries power although it is open."""
        self._relay.refresh()
        point, now_s = self.points[0], self._clock.now_s()
        if self._relay.closed or not point.values or not point.values.power_dw:
            self._power_open_s = None
        elif self._power_open_s is None:
            self._power_open_s = now_s
        welded = self._power_open_s is not None and now_s - self._power_open_s >= _WELDED_S
        failed = self._relay.failed or welded
        if failed and not self._relay_failed:
            self._events.add("relay_failed", wanted="closed" if self._relay.closed else "open")
        self._relay_failed = failed

    def _keep(self):
        """The counters into RTC memory at each change, into NVS as its wear allows."""
        counters = [(p.guard.base_wh, p.guard.last_wh, p.guard.held_wh) for p in self.points]
        if counters == self._kept:
            return
        packed = b"".join(bytes((p.address,)) + p.guard.pack() for p in self.points)
        packed += b"".join(self._others)
        try:
            self._board.rtc_set(self._board.rtc_get()[:_RTC_AT] + packed)
            self._kept = counters
            # A held counter moves on as any other: whether there is one lasts, not its value.
            bases = [(base_wh, held_wh is None) for base_wh, _, held_wh in counters]
            now_s = self._clock.now_s()
            if bases != self._kept_nvs or now_s - self._kept_s >= _KEEP_S:
                self._board.nvs_set(_KEY, packed)
                self._board.nvs_commit()
                self._kept_nvs, self._kept_s = bases, now_s
        except OSError:
            pass  # what stands in memory goes on; the next change tries again

    def _keep_locked(self):
        """Which rules lock out, into NVS when it changes: a power cut lifts no lock-out."""
        locked = " ".join(self.trips.locked).encode()
        if locked == self._kept_locked:
            return
        try:
            self._board.nvs_set(_LOCKED_KEY, locked)
            self._board.nvs_commit()
            self._kept_locked = locked
        except OSError:
            pass  # the next poll tries again

    def _restore(self):
        """Go on from RTC memory, which is newer, or from NVS; each module by its address. Those
        that are no longer asked stay kept: their total goes on when they come back.
        """
        size = 1 + len(self.points[0].guard.pack())
        for kept in (self._board.nvs_get(_KEY) or b"", self._board.rtc_get()[_RTC_AT:]):
            for place in range(0, len(kept) - size + 1, size):
                record = bytes(kept[place : place + size])
                points = [p for p in self.points if p.address == record[0]]
                if points:
                    points[0].guard.unpack(record[1:])
                elif guard.Guard(0).unpack(record[1:]):
                    others = [other for other in self._others if other[0] != record[0]]
                    self._others = (others + [record])[-_MOST_OTHERS:]
