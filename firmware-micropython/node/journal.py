"""Events that matter, on the flash until the broker has them: a ring of records with CRC.

One small file, made once in full size, so that a full flash stops no event. How far the broker has
them is one number in NVS. A cut while writing loses at most the event that was being written, and
`keep` had not returned; one that was sent and not yet marked is sent again, with the numbers it
had. Writing wears the flash, so that no more than a bounded number an hour is kept.
"""

import binascii
import json
import struct

from node.port import const

SLOTS = const(16)
RECORD_BYTES = const(512)
MOST_AN_HOUR = const(30)
_HEAD = "<IH"  # the event's number in the ring, from 1; bytes of its text
_HEAD_BYTES = const(6)
_CRC_BYTES = const(4)
_HOUR_S = const(3_600)
_KEY = "event_sent"


class Journal:
    """The ring of one node. `number` is the last event's, `taken_number` what the broker has."""

    def __init__(self, board, path):
        self._board = board
        self._path = path
        self._usable = False
        self._hour_s = 0
        self._writes = 0
        self.number = self.taken_number = 0

    def open(self):
        """Make what is missing. Returns [(number, event)] that the broker does not have, oldest
        first. Raises OSError when the flash does not hold the empty ring: nothing is kept then.
        """
        files = self._board.files
        kept = self._board.nvs_get(_KEY)
        self.taken_number = int.from_bytes(kept, "big") if kept and len(kept) == 4 else 0
        if files.stat_size(self._path) != SLOTS * RECORD_BYTES:
            with files.open(self._path, "wb") as file:
                for _ in range(SLOTS):
                    file.write(b"\xff" * RECORD_BYTES)
        found = []
        with files.open(self._path, "rb") as file:
            for slot in range(SLOTS):
                record = _unpack(file.read(RECORD_BYTES))
                if record and record[0] % SLOTS == slot:
                    found.append(record)
        found.sort(key=lambda record: record[0])
        self.number = max(self.taken_number, found[-1][0] if found else 0)
        self._usable = True
        return [record for record in found if record[0] > self.taken_number]

    def keep(self, event, now_s):
        """Keep an event. Returns its number, None where it is not kept: too many in this hour, too
        long, or the flash refuses.
        """
        if not self._usable or not self._may_write(now_s):
            return None
        text = json.dumps(event).encode()
        room = RECORD_BYTES - _HEAD_BYTES - _CRC_BYTES
        if len(text) > room:
            return None
        number = self.number + 1
        body = struct.pack(_HEAD, number, len(text)) + text + bytes(room - len(text))
        try:
            with self._board.files.open(self._path, "r+b") as file:
                file.seek(number % SLOTS * RECORD_BYTES)
                file.write(body + struct.pack("<I", binascii.crc32(body)))
        except OSError:
            return None
        self.number = number
        return number

    def taken(self, number):
        """The broker has the events up to this number. Never raises: else they are sent again."""
        if number <= self.taken_number:
            return
        self.taken_number = number
        try:
            self._board.nvs_set(_KEY, number.to_bytes(4, "big"))
            self._board.nvs_commit()
        except OSError:
            pass

    def _may_write(self, now_s):
        if now_s - self._hour_s >= _HOUR_S:
            self._hour_s, self._writes = now_s, 0
        self._writes += 1
        return self._writes <= MOST_AN_HOUR


def _unpack(kept):
    """(number, event) of a record, or None when it was never written, torn or damaged."""
    if len(kept) != RECORD_BYTES:
        return None
    end = RECORD_BYTES - _CRC_BYTES
    if struct.unpack_from("<I", kept, end)[0] != binascii.crc32(kept[:end]):
        return None
    number, length = struct.unpack_from(_HEAD, kept)
    try:
        return number, json.loads(kept[_HEAD_BYTES : _HEAD_BYTES + length])
    except ValueError:
        return None
