"""Register guard: which movement of a module's Wh counter is energy, folded into one total.

Pure. The total is base + counter. A counter that wraps, is reset or falls back moves the base, so
the total never goes back; what no installation could have taken is held for a person and counts
for nothing until then. The first rule that fits wins:

1. An advance beyond p_max x time x 1.5 is held, by the time when it was first seen: waiting makes
   it no more plausible, a greater p_max_w may.
2. Any other one counts; what is more than ten seconds can bring only once a second reading goes on
   from it, as the very first counter: a single wrong one is no energy.
3. A drop is read once more, too. Confirmed, it is
   (a) a roll-over, if the way over the counter's end is a plausible advance,
   (b) a regression after a silence, if what is missing fits into what a power cut may cost,
   (c) a reset, if the new value can have been counted since the last good one,
   (d) held.
4. A counter that leaves the held path, mostly to come back, is judged anew from the last good one.
"""

import binascii
import struct

from node.port import const

ROLL_OVER_WH = const(9_999_990)  # after 9,999.99 kWh the module counts from 0
_SILENCE_S = const(10)
_LOSS_S = const(300)  # energy of so long may be gone after a power cut
_UNKNOWN_S = const(900)  # what a restart with unset clock is believed to have lasted
_SLACK_WH = const(2)

_FORM = "<BqIIII"
_VERSION = const(1)
_NONE = const(0xFFFFFFFF)

GOOD = const(0)
AGAIN = const(1)  # doubtful: read once more at once
HELD = const(2)


class Guard:
    """One module's counter. `check` takes each reading, `total_wh` is what counts so far."""

    def __init__(self, p_max_w):
        self.p_max_w = p_max_w
        self.base_wh = 0
        self.last_wh = None  # the last good counter; None before the first
        self.last_unix_s = 0  # when it was read; 0: with an unset clock
        self._last_s = None  # the same by the monotonic clock; None: in an earlier boot
        self._seen_wh = None  # a counter to be confirmed that was seen once
        self._seen_s = 0
        self.held_wh = None  # the counter that waits for `release`, or for coming back
        self._held_s = None
        self._held_elapsed_s = None  # from the last good to the first held one; None: not known
        self._jump_wh = 0  # by how much that one was beyond the last good one

    @property
    def total_wh(self):
        """Folded energy in Wh: never goes back."""
        return self.base_wh + (self.last_wh or 0)

    def check(self, counter_wh, now_s, unix_s):
        """Judge a counter read at monotonic second `now_s` and wall time `unix_s` (0: unset).

        Returns (GOOD, AGAIN or HELD, event or None); the event is one of `register_begun`,
        `rollover`, `register_reset`, `register_regression`, `register_jump`, told once.
        """
        if self.last_wh is None:
            if self._is_new(counter_wh, now_s):
                return AGAIN, None
            return self._accept(counter_wh, now_s, unix_s, "register_begun")
        elapsed_s = self._elapsed_s(now_s, unix_s)
        confirmed = False
        if self.held_wh is not None and self._goes_on(counter_wh, now_s):
            self.held_wh, self._held_s = counter_wh, now_s
            self._seen_wh = None
            if 0 <= self._jump_wh <= self._most_wh(self._held_elapsed_s):
                # A person has said meanwhile that the installation takes that much.
                return self._accept(counter_wh, now_s, unix_s, None)
            if self._held_elapsed_s is not None or elapsed_s is None:
                return HELD, None
            # The clock was set meanwhile: one more chance, now that the time is known.
            confirmed = True
        advance_wh = counter_wh - self.last_wh
        if advance_wh > self._most_wh(elapsed_s):
            return self._hold(counter_wh, now_s, elapsed_s)
        if 0 <= advance_wh <= self._most_wh(_SILENCE_S):
            return self._accept(counter_wh, now_s, unix_s, None)
        if not confirmed and self._is_new(counter_wh, now_s):
            return AGAIN, None
        if advance_wh >= 0:
            return self._accept(counter_wh, now_s, unix_s, None)
        return self._confirmed_drop(counter_wh, now_s, unix_s, elapsed_s)

    def release(self, now_s, unix_s, count):
        """A person's word that the held counter is right: go on from it.

        `count`: an advance to it becomes energy. Returns False when nothing is held.
        """
        if self.held_wh is None:
            return False
        if not count or self.held_wh < self.last_wh:
            self.base_wh += self.last_wh - self.held_wh
        self._accept(self.held_wh, now_s, unix_s, None)
        return True

    def pack(self):
        """The state to keep through resets and power cuts, with CRC."""
        body = struct.pack(
            _FORM,
            _VERSION,
            self.base_wh,
            _NONE if self.last_wh is None else self.last_wh,
            self.last_unix_s,
            _NONE if self.held_wh is None else self.held_wh,
            _NONE if self._held_elapsed_s is None else self._held_elapsed_s,
        )
        return body + struct.pack("<I", binascii.crc32(body))

    def unpack(self, kept):
        """Go on from a kept state. Returns False, and changes nothing, when it is damaged."""
        size = struct.calcsize(_FORM)
        if len(kept or b"") != size + 4 or kept[0] != _VERSION:
            return False
        if struct.unpack_from("<I", kept, size)[0] != binascii.crc32(kept[:size]):
            return False
        _, self.base_wh, last, self.last_unix_s, held, elapsed = struct.unpack_from(_FORM, kept)
        self.last_wh = None if last == _NONE else last
        self.held_wh = None if held == _NONE else held
        self._held_elapsed_s = None if elapsed == _NONE else elapsed
        self._last_s = self._seen_wh = self._held_s = None
        # The first held one is not kept: it was this one, or less.
        self._jump_wh = 0 if held == _NONE else held - last
        return True

    def _elapsed_s(self, now_s, unix_s):
        """The most seconds since the last good counter, as clocks tell whole ones; None when no
        clock knows.
        """
        if self._last_s is not None:
            return now_s - self._last_s + 1
        if unix_s and self.last_unix_s:
            return max(0, unix_s - self.last_unix_s) + 1
        return None

    def _most_wh(self, elapsed_s):
        """The most that can have been counted in so long."""
        # Whole seconds: two readings of one second, one of them asked for, may be almost one apart.
        seconds = _UNKNOWN_S if elapsed_s is None else max(1, elapsed_s)
        return self.p_max_w * seconds // 2_400 + _SLACK_WH

    def _goes_on(self, counter_wh, now_s):
        """Whether a counter is the held one, moved on by what can have been used since."""
        if self._held_s is None:
            return counter_wh >= self.held_wh
        return 0 <= counter_wh - self.held_wh <= self._most_wh(now_s - self._held_s + 1)

    def _is_new(self, counter_wh, now_s):
        """Whether a counter does not go on from the one that was seen just before."""
        seen_wh, most_wh = self._seen_wh, self._most_wh(now_s - self._seen_s + 1)
        self._seen_wh, self._seen_s = counter_wh, now_s
        return seen_wh is None or not 0 <= counter_wh - seen_wh <= most_wh

    def _accept(self, counter_wh, now_s, unix_s, event):
        self.last_wh = counter_wh
        self.last_unix_s = unix_s
        self._last_s = now_s
        self._seen_wh = self.held_wh = None
        return GOOD, event

    def _hold(self, counter_wh, now_s, elapsed_s):
        event = "register_jump" if self.held_wh is None else None
        self.held_wh, self._held_s = counter_wh, now_s
        self._held_elapsed_s = elapsed_s
        self._jump_wh = counter_wh - self.last_wh
        self._seen_wh = None
        return HELD, event

    def _confirmed_drop(self, counter_wh, now_s, unix_s, elapsed_s):
        last_wh = self.last_wh
        most_wh = self._most_wh(elapsed_s)
        if last_wh < ROLL_OVER_WH and ROLL_OVER_WH - last_wh + counter_wh <= most_wh:
            self.base_wh += ROLL_OVER_WH
            return self._accept(counter_wh, now_s, unix_s, "rollover")
        silent = elapsed_s is None or elapsed_s > _SILENCE_S
        if silent and last_wh - counter_wh <= self._most_wh(_LOSS_S):
            self.base_wh += last_wh - counter_wh
            return self._accept(counter_wh, now_s, unix_s, "register_regression")
        if counter_wh <= most_wh:
            self.base_wh += last_wh
            return self._accept(counter_wh, now_s, unix_s, "register_reset")
        return self._hold(counter_wh, now_s, elapsed_s)
