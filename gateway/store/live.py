"""The live table: the newest row of every meter in a mapped file, for OPC UA and the live page.

One row is one slice copy with a CRC-32, so a reader never takes a torn row for a good one (a
sequence lock alone is unsound without memory fences). The file is never resized: truncating it
would kill readers with SIGBUS. A new size or layout is a new file, and the pointer file
`live.current` names the one in use.
"""

import json
import math
import mmap
import os
import re
import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.core.errors import StoreError
from gateway.core.reading import Quality
from gateway.core.switching import ControlState, Fault, Reason

LAYOUT_VERSION: Final = 1
POINTER_NAME: Final = "live.current"
STALE_MS: Final = 3_000
READ_TRIES: Final = 3
REGISTERS_MAX: Final = 4
VALUES_MAX: Final = 1_000
_FILE_MODE: Final = 0o640
_MAGIC: Final = b"PGLIVE\x00\x01"
_BOOT_ID_PATTERN: Final = re.compile(r"[0-9A-Za-z-]{1,40}")
_NAME_PATTERN: Final = re.compile(r"live-[0-9A-Za-z-]{1,64}\.table")
# magic, layout version, row bytes, row count, directory bytes, directory CRC-32, boot id
_HEADER: Final = struct.Struct("<8sIIIII40s")
# utc_ms, mono_ns, beats
_BEAT: Final = struct.Struct("<qqQ")
_CRC: Final = struct.Struct("<I")
# sequence, utc_ms, values_utc_ms, available_nano, posted_nano, flags, reasons, control state,
# output, quality, intended, fault, number of registers, registers, power, current, voltage
_ROW: Final = struct.Struct(f"<QqqqqIHBBBBBB{REGISTERS_MAX}q3d")
_BEAT_AT: Final = 128
_DIRECTORY_AT: Final = 192

# Codes in the file. 0 to 2 are COSEM's control states (class 70); the others are shown only.
_STATES: Final = (
    ControlState.DISCONNECTED,
    ControlState.CONNECTED,
    ControlState.READY_FOR_RECONNECTION,
    ControlState.DISCONNECTING,
    ControlState.RECONNECTING,
)
_STATE_CODES: Final = {state: code for code, state in enumerate(_STATES)}
_QUALITIES: Final = (Quality.GOOD, Quality.UNCERTAIN, Quality.BAD)
_QUALITY_CODES: Final = {quality: code for code, quality in enumerate(_QUALITIES)}
_REASONS: Final = (
    Reason.CREDIT,
    Reason.OVERLOAD,
    Reason.MANUAL,
    Reason.LEGAL,
    Reason.TAMPER,
    Reason.SAFETY,
    Reason.SHED,
)
_REASON_BITS: Final = {reason: 1 << bit for bit, reason in enumerate(_REASONS)}
_FAULTS: Final = (None, Fault.FAILED_TO_OPEN, Fault.FAILED_TO_CLOSE)
_FAULT_CODES: Final = {fault: code for code, fault in enumerate(_FAULTS)}
_OUTPUTS: Final = (None, False, True)


@dataclass(frozen=True, slots=True)
class LiveMeter:
    """A row's meaning: whose it is and the names of its measurement values, in order."""

    meter_id: str
    value_names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LiveRow:
    """What is known of a meter now.

    `sequence` is the reading's (0: never read). `utc_ms` is when the registers were read,
    `values_utc_ms` when `values` were: a short poll brings registers only, and is written with
    `values` empty, which keeps the older values and their time. `flags` are control's own bits.
    Money in nano-units. `energy_wh` has at most 4 registers; undefined measurements are NaN in
    `values` and None elsewhere.
    """

    sequence: int
    utc_ms: int
    energy_wh: tuple[int, ...] = ()
    available_nano: int = 0
    posted_nano: int = 0
    quality: Quality = Quality.GOOD
    control_state: ControlState = ControlState.CONNECTED
    intended_closed: bool = True
    output_closed: bool | None = None
    reasons: frozenset[Reason] = frozenset()
    fault: Fault | None = None
    flags: int = 0
    power_w: float | None = None
    current_a: float | None = None
    voltage_v: float | None = None
    values: tuple[float, ...] = ()
    values_utc_ms: int = 0


class LiveTableWriter:
    """Makes and fills the table; control's only. Not shared between threads.

    `boot_id` names this start of the program (letters, digits, dashes; at most 40). Raises
    StoreError when the file cannot be made (directory missing, no space).
    """

    def __init__(self, directory: Path, meters: Sequence[LiveMeter], boot_id: str) -> None:
        if not _BOOT_ID_PATTERN.fullmatch(boot_id):
            raise StoreError(f"boot id {boot_id!r} is not 1 to 40 letters, digits and dashes")
        self._counts = [len(meter.value_names) for meter in meters]
        if max(self._counts, default=0) > VALUES_MAX:
            raise StoreError(f"a meter has more than {VALUES_MAX} values")
        listed = json.dumps([[meter.meter_id, list(meter.value_names)] for meter in meters])
        listing = listed.encode()
        row_bytes = _row_bytes(max(self._counts, default=0))
        self._row_bytes = row_bytes
        self._rows_at = _rows_at(len(listing))
        size = self._rows_at + row_bytes * max(1, len(meters))
        header = _HEADER.pack(
            _MAGIC,
            LAYOUT_VERSION,
            row_bytes,
            len(meters),
            len(listing),
            zlib.crc32(listing),
            boot_id.encode("ascii"),
        )
        self._rows = [bytearray(row_bytes) for _ in meters]
        self._values = [struct.Struct(f"<{count}d") for count in self._counts]
        self._values_utc_ms = [0] * len(meters)
        self._beats = 0
        self.path, self._map = _make_file(directory, boot_id, size)
        self._map[: len(header)] = header
        self._map[_DIRECTORY_AT : _DIRECTORY_AT + len(listing)] = listing
        for index, count in enumerate(self._counts):
            nothing = LiveRow(0, 0, quality=Quality.BAD, values=(math.nan,) * count)
            self.write(index, nothing)
        self.beat(0)
        _point_to(directory, self.path.name)

    def write(self, index: int, row: LiveRow) -> None:
        """Replace a meter's row. `values` has all the meter's values, or is empty (kept).

        Raises ValueError when registers or values do not fit the row.
        """
        if len(row.energy_wh) > REGISTERS_MAX:
            raise ValueError(f"{len(row.energy_wh)} registers, a row has {REGISTERS_MAX}")
        if row.values and len(row.values) != self._counts[index]:
            raise ValueError(f"{len(row.values)} values, the meter has {self._counts[index]}")
        buffer = self._rows[index]
        if row.values:
            self._values[index].pack_into(buffer, _ROW.size, *row.values)
            self._values_utc_ms[index] = row.values_utc_ms or row.utc_ms
        reasons = 0
        for reason in row.reasons:
            reasons |= _REASON_BITS[reason]
        registers = len(row.energy_wh)
        _ROW.pack_into(
            buffer,
            0,
            row.sequence,
            row.utc_ms,
            self._values_utc_ms[index],
            row.available_nano,
            row.posted_nano,
            row.flags,
            reasons,
            _STATE_CODES[row.control_state],
            0 if row.output_closed is None else 1 + row.output_closed,
            _QUALITY_CODES[row.quality],
            row.intended_closed,
            _FAULT_CODES[row.fault],
            registers,
            *row.energy_wh,
            *_NO_REGISTERS[registers:],
            math.nan if row.power_w is None else row.power_w,
            math.nan if row.current_a is None else row.current_a,
            math.nan if row.voltage_v is None else row.voltage_v,
        )
        end = self._row_bytes - _CRC.size
        _CRC.pack_into(buffer, end, zlib.crc32(memoryview(buffer)[:end]))
        start = self._rows_at + index * self._row_bytes
        self._map[start : start + self._row_bytes] = bytes(buffer)

    def beat(self, utc_ms: int, mono_ns: int = 0) -> None:
        """Say that control is alive; at least once a second."""
        self._beats += 1
        beat = _BEAT.pack(utc_ms, mono_ns, self._beats)
        self._map[_BEAT_AT : _BEAT_AT + _BEAT.size + _CRC.size] = beat + _CRC.pack(zlib.crc32(beat))

    def close(self) -> None:
        """Let go of the file; it stays, and its rows become stale."""
        self._map.close()


class LiveTableReader:
    """Reads the table of another process; never raises for what that process does or does not.

    `stale` and `rows` look whether a newer file took over; `row` alone does not. After that the
    directory (`meters`) may be another: `generation` counts the files seen.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pointer_id: tuple[int, int] | None = None
        self._table: _Table | None = None
        self.generation = 0
        self.torn_rows = 0

    @property
    def meters(self) -> tuple[LiveMeter, ...]:
        """Whose rows the table holds, by index; empty while there is no table."""
        return self._table.meters if self._table else ()

    @property
    def boot_id(self) -> str:
        """Which start of control made the table; empty while there is none."""
        return self._table.boot_id if self._table else ""

    def row(self, index: int) -> LiveRow | None:
        """A meter's newest row; None when it was never read or there is no such row.

        A row that is torn three times in a row is answered with the last good one.
        """
        table = self._table
        if table is None or not 0 <= index < len(table.meters):
            return None
        for _ in range(READ_TRIES):
            row = table.read(index)
            if row is not None:
                table.last[index] = row
                break
            self.torn_rows += 1
        kept = table.last[index]
        return kept if kept is not None and kept.sequence else None

    def rows(self) -> list[LiveRow | None]:
        """The newest rows of all meters, by index."""
        self.refresh()
        return [self.row(index) for index in range(len(self.meters))]

    def heartbeat_utc_ms(self) -> int:
        """When control last said that it is alive; 0 when it never did."""
        return self._table.heartbeat_utc_ms() if self._table else 0

    def stale(self, now_utc_ms: int) -> bool:
        """Whether every row is out of date, since control was silent for 3 s.

        A heartbeat from the future is as bad: the wall clock was set back.
        """
        self.refresh()
        return abs(now_utc_ms - self.heartbeat_utc_ms()) > STALE_MS

    def refresh(self) -> bool:
        """Follow the pointer when it names another file; True when the table is another one."""
        try:
            status = (self._directory / POINTER_NAME).stat()
        except OSError:
            return False
        pointer_id = (status.st_ino, status.st_mtime_ns)
        if pointer_id == self._pointer_id:
            return False
        table = _open_table(self._directory)
        if table is None:
            # Replaced between two looks, or made by a version that this one cannot read.
            return False
        self._pointer_id = pointer_id
        if self._table is not None:
            self._table.close()
        self._table = table
        self.generation += 1
        return True

    def close(self) -> None:
        """Let go of the file."""
        if self._table is not None:
            self._table.close()
            self._table = None
            self._pointer_id = None


class _Table:
    """One mapped file, seen from a reader."""

    def __init__(
        self, mapped: mmap.mmap, meters: tuple[LiveMeter, ...], boot_id: str, row_bytes: int
    ) -> None:
        self._map = mapped
        self._row_bytes = row_bytes
        self._rows_at = len(mapped) - row_bytes * max(1, len(meters))
        self._values = [struct.Struct(f"<{len(meter.value_names)}d") for meter in meters]
        self._heartbeat_utc_ms = 0
        self.meters = meters
        self.boot_id = boot_id
        self.last: list[LiveRow | None] = [None] * len(meters)

    def read(self, index: int) -> LiveRow | None:
        """A row, or None when it was being written."""
        start = self._rows_at + index * self._row_bytes
        payload = self._map[start : start + self._row_bytes]
        end = self._row_bytes - _CRC.size
        if zlib.crc32(memoryview(payload)[:end]) != _CRC.unpack_from(payload, end)[0]:
            return None
        return _decoded(payload, self._values[index].unpack_from(payload, _ROW.size))

    def heartbeat_utc_ms(self) -> int:
        """The newest heartbeat that was not torn."""
        slot = self._map[_BEAT_AT : _BEAT_AT + _BEAT.size + _CRC.size]
        if zlib.crc32(slot[: _BEAT.size]) == _CRC.unpack_from(slot, _BEAT.size)[0]:
            self._heartbeat_utc_ms = _BEAT.unpack_from(slot)[0]
        return self._heartbeat_utc_ms

    def close(self) -> None:
        """Unmap the file."""
        self._map.close()


_NO_REGISTERS: Final = (0,) * REGISTERS_MAX


def _decoded(payload: bytes, values: tuple[float, ...]) -> LiveRow:
    (
        sequence,
        utc_ms,
        values_utc_ms,
        available_nano,
        posted_nano,
        flags,
        reasons,
        state,
        output,
        quality,
        intended,
        fault,
        registers,
        *numbers,
    ) = _ROW.unpack_from(payload)
    power_w, current_a, voltage_v = numbers[REGISTERS_MAX:]
    return LiveRow(
        sequence=sequence,
        utc_ms=utc_ms,
        energy_wh=tuple(numbers[:registers]),
        available_nano=available_nano,
        posted_nano=posted_nano,
        quality=_QUALITIES[quality],
        control_state=_STATES[state],
        intended_closed=bool(intended),
        output_closed=_OUTPUTS[output],
        reasons=frozenset(reason for reason, bit in _REASON_BITS.items() if reasons & bit),
        fault=_FAULTS[fault],
        flags=flags,
        power_w=None if math.isnan(power_w) else power_w,
        current_a=None if math.isnan(current_a) else current_a,
        voltage_v=None if math.isnan(voltage_v) else voltage_v,
        values=values,
        values_utc_ms=values_utc_ms,
    )


def _row_bytes(values: int) -> int:
    # A multiple of a cache line: two rows never share one.
    return -(-(_ROW.size + 8 * values + _CRC.size) // 64) * 64


def _rows_at(listing_bytes: int) -> int:
    return -(-(_DIRECTORY_AT + listing_bytes) // 64) * 64


def _make_file(directory: Path, boot_id: str, size: int) -> tuple[Path, mmap.mmap]:
    try:
        for number in range(1, 1_000):
            path = directory / f"live-{boot_id}-{number}.table"
            with suppress(FileExistsError):
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
                break
        else:
            raise StoreError(f"{directory}: too many live tables of one boot id")
        try:
            os.fchmod(fd, _FILE_MODE)
            # Reserved now: writing into a hole of a full file system would kill the process.
            os.posix_fallocate(fd, 0, size)
            return path, mmap.mmap(fd, size)
        finally:
            os.close(fd)
    except OSError as error:
        raise StoreError(f"{directory}: live table cannot be made: {error.strerror}") from error


def _point_to(directory: Path, name: str) -> None:
    """Name the file in use in one step, then remove the others (readers keep what they mapped)."""
    fresh = directory / f"{POINTER_NAME}.new"
    try:
        fresh.write_text(name, encoding="ascii")
        fresh.chmod(_FILE_MODE)
        fresh.replace(directory / POINTER_NAME)
        for path in directory.glob("live-*.table"):
            if path.name != name:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{directory}: live table cannot be named: {error.strerror}") from error


def _open_table(directory: Path) -> _Table | None:
    try:
        name = (directory / POINTER_NAME).read_text(encoding="ascii")
        if not _NAME_PATTERN.fullmatch(name):
            return None
        fd = os.open(directory / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            mapped = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
        finally:
            os.close(fd)
    except (OSError, ValueError):
        return None
    table = _parsed(mapped)
    if table is None:
        mapped.close()
    return table


def _parsed(mapped: mmap.mmap) -> _Table | None:
    """The table in a mapped file, or None unless every size in it fits the file."""
    if len(mapped) < _DIRECTORY_AT:
        return None
    magic, layout, row_bytes, count, listing_bytes, crc, boot_id = _HEADER.unpack_from(mapped)
    listing = mapped[_DIRECTORY_AT : _DIRECTORY_AT + listing_bytes]
    if magic != _MAGIC or layout != LAYOUT_VERSION or zlib.crc32(listing) != crc:
        return None
    try:
        meters = tuple(LiveMeter(name, tuple(values)) for name, values in json.loads(listing))
    except (ValueError, TypeError):
        return None
    widest = max((len(meter.value_names) for meter in meters), default=0)
    fits = len(mapped) == _rows_at(listing_bytes) + row_bytes * max(1, count)
    if len(meters) != count or row_bytes != _row_bytes(widest) or not fits:
        return None
    return _Table(mapped, meters, boot_id.rstrip(b"\x00").decode("ascii", "replace"), row_bytes)
