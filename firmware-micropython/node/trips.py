"""Rules that open the relay by themselves: overload, over- and under-voltage, a lease's limit.

Pure. A value outside its limit for as long as its delay trips; supply returns after a hold, for
voltage only once it has been good for all of it. More than `most_trips` within `window_s` lock out:
then a command alone brings supply back. A silent module decides nothing.
"""

NAMES = ("overload", "voltage", "limit")


class Trip:
    """One rule over one value: `low` and `high` are the good range, None: no limit there.

    `times`: delay, hold, most trips, window. Times in monotonic seconds. `open` is whether the rule
    stands against supply, `locked` whether it does so until `reset`.
    """

    def __init__(self, low, high, times):
        self.low = low
        self.high = high
        self.delay_s, self.hold_s, self.most_trips, self.window_s = times
        self.open = self.locked = False
        self._bad_s = None  # since when the value is bad; None: it is good
        self._hold_s = 0  # since when the hold runs
        self._trips_s = []

    def check(self, now_s, value, seen_open):
        """Take a value (None: unknown). Returns whether it has just tripped.

        `seen_open`: the value is measured with the relay open too, and must be good to return.
        """
        if value is None:
            self._bad_s = None
            return False
        bad = (self.low is not None and value < self.low) or (
            self.high is not None and value > self.high
        )
        if self.open:
            if bad and seen_open:
                self._hold_s = now_s
            if not self.locked and now_s - self._hold_s >= self.hold_s:
                self.open = False
                self._bad_s = None
            return False
        if not bad:
            self._bad_s = None
            return False
        if self._bad_s is None:
            self._bad_s = now_s
        if now_s - self._bad_s < self.delay_s:
            return False
        self._trip(now_s)
        return True

    def reset(self):
        """A command's word: supply may return, earlier trips are forgotten."""
        self.open = self.locked = False
        self._bad_s = None
        self._trips_s = []

    def go_on(self, locked):
        """The rule stood when the node restarted: so it does now, its hold begins anew."""
        self.open, self.locked = True, locked

    def take_over(self, old):
        """Go on where the same rule with other settings stood."""
        self.open, self.locked = old.open, old.locked
        self._bad_s, self._hold_s, self._trips_s = old._bad_s, old._hold_s, old._trips_s

    def _trip(self, now_s):
        self.open = True
        self._bad_s = None
        self._hold_s = now_s
        self._trips_s = [t for t in self._trips_s if now_s - t < self.window_s]
        self._trips_s.append(now_s)
        self.locked = len(self._trips_s) >= self.most_trips


class Trips:
    """The node's rules by reason, from its settings (settings.py).

    `limit` is the lease's over power, with the times of the node's own overload.
    """

    def __init__(self, settings):
        s = settings
        window = (s["trip_most"], s["trip_window_s"])
        power = (s["limit_delay_s"], s["limit_hold_s"]) + window
        self.overload = Trip(None, s["limit_w"] * 10 or None, power)
        self.limit = Trip(None, None, power)
        self.voltage = Trip(
            s["voltage_low_dv"] or None,
            s["voltage_high_dv"] or None,
            (s["voltage_delay_s"], s["voltage_hold_s"]) + window,
        )

    def take_over(self, old):
        """Go on where the same rules with other settings or another lease stood."""
        for name in NAMES:
            getattr(self, name).take_over(getattr(old, name))

    def check(self, now_s, power_dw, voltage_dv, limit_w=0):
        """Take what was measured (None: unknown) and the lease's limit as of now (0: none).

        Returns the reasons that have just tripped.
        """
        tripped = []
        self.limit.high = limit_w * 10 or None
        if self.overload.check(now_s, power_dw, False):
            tripped.append("overload")
        if self.voltage.check(now_s, voltage_dv, True):
            tripped.append("voltage")
        if self.limit.check(now_s, power_dw, False):
            tripped.append("limit")
        return tripped

    @property
    def reasons(self):
        """The reasons that stand against supply now."""
        return [n for n in NAMES if getattr(self, n).open]

    @property
    def locked(self):
        """The reasons that stand until a command."""
        return [n for n in NAMES if getattr(self, n).locked]

    def reasons_of(self, names):
        """Those of some reasons that are rules of this file."""
        return [n for n in NAMES if n in names]

    def reset(self):
        """A command closes the relay: nothing holds it open any longer."""
        for name in NAMES:
            getattr(self, name).reset()
