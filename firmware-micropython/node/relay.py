"""The relay: closed exactly while no reason stands against supply; both survive resets and cuts.

The record is kept in NVS (survives power loss) and in RTC memory (survives a reset when NVS fails).
Beside it NVS holds one byte for boot.py, which sets the pin by it: 1 closed, 0 open.
Order of every change: RTC memory, record, byte, pin. So what is good in RTC memory is the newest,
and a restart at any point leaves the relay as it was before the change or as the change wants it: a
pin that has moved is never moved back, a change that does not move it never does.
"""

import binascii
import struct

from node.port import const

# A reason's place is its bit in the kept record: append only.
REASONS = ("command", "lease", "expired", "overload", "voltage", "safety", "limit")
_FORM = "<H"
_KEY = "relay_why"
_BOOT_KEY = "relay"
_SIZE = const(6)  # first in RTC memory; what others keep there goes behind


class Relay:
    """The relay of one board.

    `failed`: the pin does not follow. `unrecorded`: the last change is not in NVS.
    """

    def __init__(self, board):
        """Take over the newest good record. Without one the relay stays as the pin shows it, open
        as if by command.
        """
        self._board = board
        self.failed = self.unrecorded = False
        rtc, nvs = _unpack(board.rtc_get()[:_SIZE]), _unpack(board.nvs_get(_KEY))
        self._mask = nvs if rtc is None else rtc
        if self._mask is None:
            self._mask = 0 if board.relay_get() else 1 << REASONS.index("command")
        if not rtc == nvs == self._mask or board.nvs_get(_BOOT_KEY) != self._level():
            self._record_anyway()
        self.refresh()

    @property
    def reasons(self):
        """The names of the reasons that stand, in the order of `REASONS`."""
        return [name for i, name in enumerate(REASONS) if self._mask >> i & 1]

    @property
    def closed(self):
        """Whether the relay is meant to be closed."""
        return not self._mask

    def add(self, reason):
        """A reason against supply: opens the relay. Returns False when it stood already.

        It opens even if the record cannot be written.
        """
        mask = self._mask | 1 << REASONS.index(reason)
        if mask == self._mask:
            return False
        self._mask = mask
        self._record_anyway()
        self.refresh()
        return True

    def clear(self, *reasons):
        """Take reasons away; closes when none is left. Returns False when none of them stood.

        Raises OSError when the record cannot be written: then nothing has changed.
        """
        before = self._mask
        mask = before
        for reason in reasons:
            mask &= ~(1 << REASONS.index(reason))
        if mask == before:
            return False
        self._mask = mask
        try:
            self._record()
        except OSError:
            self._mask = before
            self._record_anyway()
            raise
        self.refresh()
        return True

    def refresh(self):
        """Bring the pin in line with the reasons; to be called now and then. Tells by `failed`."""
        if self._board.relay_get() != self.closed:
            self._board.relay_set(self.closed)
        self.failed = self._board.relay_get() != self.closed

    def _level(self):
        return b"\x01" if self.closed else b"\x00"

    def _record(self):
        kept = struct.pack(_FORM, self._mask)
        kept += struct.pack("<I", binascii.crc32(kept))
        self.unrecorded = True
        self._board.rtc_set(kept + self._board.rtc_get()[_SIZE:])
        self._board.nvs_set(_KEY, kept)
        if self._board.nvs_get(_BOOT_KEY) != self._level():
            self._board.nvs_set(_BOOT_KEY, self._level())
        self._board.nvs_commit()
        self.unrecorded = False

    def _record_anyway(self):
        try:
            self._record()
        except OSError:
            pass  # what stands in memory goes on; the next change tries again


def _unpack(kept):
    """The mask of a kept record, or None."""
    if len(kept or b"") != _SIZE:
        return None
    if struct.unpack_from("<I", kept, _SIZE - 4)[0] != binascii.crc32(kept[: _SIZE - 4]):
        return None
    return struct.unpack_from(_FORM, kept)[0]
