"""Ring of records in flash files for the days without a gateway: the oldest goes first when full.

A record's sequence is its place: file (seq / 128) % files, slot seq % 128. Files are made in full
size once, so that a full flash stops no record. A segment is 64 records, the half of a file, and
what one backlog message carries; acknowledged is by sequence, kept in a file of its own.
A cut while writing loses at most the record that was being written, and `append` had not returned.
"""

from node import records
from node.port import const

FILE_RECORDS = const(128)  # one block of 4,096 bytes
SEGMENT_RECORDS = const(64)
_FILE_BYTES = const(4_096)


class Spool:
    """The ring in one directory. `lost` counts records that were overwritten before their ack."""

    def __init__(self, files, directory, file_count):
        self._files = files
        self._directory = directory
        self._file_count = file_count
        self.next_seq = 1
        self.acknowledged_seq = 0
        self.lost = 0
        self._handed = None  # (segment, last sequence) of what `oldest` gave out last

    @property
    def capacity(self):
        """How many records fit."""
        return self._file_count * FILE_RECORDS

    @property
    def waiting(self):
        """How many records wait for their acknowledgement."""
        return self.next_seq - 1 - self.acknowledged_seq

    def open(self, feed):
        """Make what is missing, find the newest record; `feed` is called between files.

        Raises OSError when the flash does not even hold the empty ring.
        """
        try:
            self._files.mkdir(self._directory)
        except OSError:
            pass
        for index in range(self._file_count):
            if self._files.stat_size(self._path(index)) != _FILE_BYTES:
                with self._files.open(self._path(index), "wb") as file:
                    file.write(b"\xff" * _FILE_BYTES)
            feed()
        self.acknowledged_seq = self._read_acknowledged()
        newest = self._newest_file(feed)
        last = max(newest, self.acknowledged_seq)
        self.next_seq = last + 1
        self.acknowledged_seq = max(self.acknowledged_seq, last - self.capacity)

    def append(self, fields):
        """Keep a record; its sequence (the first field) is put in. Returns (from, to) of records
        that were lost to make room, or None. Raises OSError: the record is not kept.
        """
        seq = self.next_seq
        with self._files.open(self._path(seq // FILE_RECORDS % self._file_count), "r+b") as file:
            file.seek(seq % FILE_RECORDS * records.SIZE)
            file.write(records.pack([seq] + fields[1:]))
        self.next_seq = seq + 1
        overwritten = seq - self.capacity
        if overwritten <= self.acknowledged_seq:
            return None
        lost = self.acknowledged_seq + 1, overwritten
        self.lost += lost[1] - lost[0] + 1
        self.acknowledged_seq = overwritten
        return lost

    def oldest(self):
        """(segment, records) that waits longest: at most 64, oldest first; None: nothing waits.

        Records that the flash has damaged are left out: the gateway sees the gap.
        """
        first = self.acknowledged_seq + 1
        if first >= self.next_seq:
            return None
        segment = first // SEGMENT_RECORDS
        end = min((segment + 1) * SEGMENT_RECORDS, self.next_seq)
        found = []
        with self._files.open(self._path(first // FILE_RECORDS % self._file_count), "rb") as file:
            file.seek(first % FILE_RECORDS * records.SIZE)
            for seq in range(first, end):
                fields = records.unpack(file.read(records.SIZE))
                if fields and fields[0] == seq:
                    found.append(fields)
        self._handed = segment, end - 1
        return segment, found

    def acknowledge(self, segment):
        """Forget what `oldest` gave out as `segment`. Returns False when that was another one.

        Raises OSError when it cannot be kept: then it is sent again after a restart.
        """
        if not self._handed or self._handed[0] != segment:
            return False
        last, self._handed = self._handed[1], None
        if last > self.acknowledged_seq:
            self.acknowledged_seq = last
            path = self._directory + "/acked"
            with self._files.open(path + ".new", "wb") as file:
                file.write(records.pack([last] + [0] * 9))
            self._files.rename(path + ".new", path)
        return True

    def _path(self, index):
        return f"{self._directory}/{index:02d}.seg"

    def _read_acknowledged(self):
        try:
            with self._files.open(self._directory + "/acked", "rb") as file:
                fields = records.unpack(file.read(records.SIZE))
        except OSError:
            return 0
        return fields[0] if fields else 0

    def _newest_file(self, feed):
        """The highest sequence in the ring; 0 when it is empty. Only one file is read in full."""
        newest = None
        for index in range(self._file_count):
            with self._files.open(self._path(index), "rb") as file:
                seq = self._first_good(file, index)
            if seq and (newest is None or seq > newest[0]):
                newest = seq, index
            feed()
        if newest is None:
            return 0
        last = 0
        with self._files.open(self._path(newest[1]), "rb") as file:
            for slot in range(FILE_RECORDS):
                last = max(last, self._seq_in(file.read(records.SIZE), newest[1], slot))
        return last

    def _first_good(self, file, index):
        """The first good record's sequence: enough to order files, as each is filled in order."""
        for slot in range(FILE_RECORDS):
            seq = self._seq_in(file.read(records.SIZE), index, slot)
            if seq:
                return seq
        return 0

    def _seq_in(self, kept, index, slot):
        """The sequence of a record that lies where it belongs, else 0."""
        fields = records.unpack(kept)
        if not fields:
            return 0
        seq = fields[0]
        fits = seq % FILE_RECORDS == slot and seq // FILE_RECORDS % self._file_count == index
        return seq if fits else 0
