"""How readings are packed: rows of a sweep in staging, columns of a meter in chunks.

A chunk holds each value as a column of its own: whole numbers of the value's resolution,
differences from row to row less their smallest, the bytes of one weight together, zlib level 1.
One value of a day is read by unpacking its columns only.

    column: 1 byte   width of a difference (0, 1, 2, 4, 8) by its place in WIDTHS, 0x08 where some
                     rows are undefined, decimals << 4
            1 byte   length of the first number | length of the smallest difference << 4
            both     big-endian, signed, as short as they can be
            undefined rows (only with 0x08): how many, their places, each 2 bytes
            zlib     differences less the smallest, byte planes from low to high; none for width 0
"""

import math
import struct
import zlib
from array import array
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate
from operator import sub
from typing import Final, NamedTuple

from gateway.core.errors import StoreCorruptError

# Decimals kept, by the unit at the end of a value's name. A class 0.5 meter means 0.5 % of what it
# shows: what is left out here is at most a tenth of that at a twentieth of the nominal load, and
# digits that only hold noise were half of all bytes. Energy is whole Wh, as the rules count it.
DECIMALS: Final = {
    "v": 1,
    "a": 3,
    "w": 0,
    "va": 0,
    "var": 0,
    "hz": 2,
    "percent": 1,
    "wh": 0,
    "varh": 0,
    "vah": 0,
    "s": 0,
    "bits": 0,
    "count": 0,
}
# Of a value without a unit: power factors, tariffs, counters whose unit a setting chooses.
OTHER_DECIMALS: Final = 3
# A mean of a minute's readings is that much finer than each of them.
MEAN_DECIMALS: Final = 1
ROWS_MAX: Final = 65_535
# Meters that are staged and folded together: folding 5 minutes of them takes about 50 ms.
SHARD_METERS: Final = 4
# The key of a staged row is sweep * 2^20 + shard.
SHARD_BITS: Final = 20
SHARD_MASK: Final = (1 << SHARD_BITS) - 1
# meter number, layout, number of registers, utc_ms, sequence
_ROW: Final = struct.Struct("<HHBqQ")
_COUNT: Final = struct.Struct("<H")
# A difference of two of these still fits 64 bits.
_LIMIT: Final = 2**62
_FLOAT32_MAX: Final = 3.4e38
# `array` codes of unsigned differences by their width; place 0 is no differences at all.
WIDTHS: Final = ("", "B", "H", "I", "Q")
_WIDTH_MASK: Final = 0x07
_UNDEFINED: Final = 0x08
_HEAD: Final = struct.Struct("<BB")
# Values in these units are 32-bit floats in the meters; all others (energy, counters, bit fields)
# need all 64 bits.
_NARROW_SUFFIXES: Final = ("_v", "_a", "_w", "_va", "_var", "_hz", "_percent")


class StagedReading(NamedTuple):
    """One reading as it is kept: meter and layout by number, registers in Wh, values or none."""

    meter: int
    layout: int
    utc_ms: int
    sequence: int
    energy_wh: tuple[int, ...]
    values: tuple[float, ...]


@lru_cache(maxsize=256)
def value_struct(names: tuple[str, ...]) -> struct.Struct:
    """The packing of a row's values by their names."""
    codes = ("f" if name.endswith(_NARROW_SUFFIXES) else "d" for name in names)
    return struct.Struct("<" + "".join(codes))


def pack_rows(rows: Iterable[StagedReading], structs: dict[int, struct.Struct]) -> bytes:
    """Rows of one shard in one sweep; `structs` by layout number. Layout 0: no values."""
    parts: list[bytes] = []
    for row in rows:
        layout = row.layout if row.values else 0
        registers = len(row.energy_wh)
        parts.append(_ROW.pack(row.meter, layout, registers, row.utc_ms, row.sequence))
        parts.append(struct.pack(f"<{registers}q", *row.energy_wh))
        if layout:
            parts.append(_packed_values(structs[layout], row.values))
    return zlib.compress(b"".join(parts), 1)


def _packed_values(layout: struct.Struct, values: tuple[float, ...]) -> bytes:
    try:
        return layout.pack(*values)
    except OverflowError:
        # Beyond 32 bits, as no device measures: undefined rather than a lost sweep.
        return layout.pack(*(v if abs(v) < _FLOAT32_MAX else math.nan for v in values))


def unpack_rows(
    body: bytes, structs: dict[int, struct.Struct], meter: int | None = None
) -> list[StagedReading]:
    """The rows of `pack_rows`, all or one meter's. Raises StoreCorruptError."""
    rows: list[StagedReading] = []
    try:
        packed = zlib.decompress(body)
        at = 0
        while at < len(packed):
            number, layout, registers, utc_ms, sequence = _ROW.unpack_from(packed, at)
            at += _ROW.size
            values_at = at + 8 * registers
            end = values_at + (structs[layout].size if layout else 0)
            if meter is None or meter == number:
                energy_wh = struct.unpack_from(f"<{registers}q", packed, at)
                values = structs[layout].unpack_from(packed, values_at) if layout else ()
                rows.append(StagedReading(number, layout, utc_ms, sequence, energy_wh, values))
            at = end
    except (zlib.error, struct.error, KeyError) as error:
        raise StoreCorruptError(f"a staged sweep cannot be unpacked: {error}") from error
    return rows


def pack_columns(columns: Sequence[bytes]) -> bytes:
    """Columns one after the other, behind a table of their lengths."""
    lengths = struct.pack(f"<H{len(columns)}I", len(columns), *map(len, columns))
    return lengths + b"".join(columns)


def column_of(body: bytes, index: int) -> bytes:
    """One column of `pack_columns`. Raises StoreCorruptError."""
    try:
        count = _COUNT.unpack_from(body)[0]
        lengths = struct.unpack_from(f"<{count}I", body, _COUNT.size)
    except struct.error as error:
        raise StoreCorruptError(f"a chunk cannot be unpacked: {error}") from error
    if not 0 <= index < count:
        raise StoreCorruptError(f"a chunk has {count} columns, asked for number {index}")
    start = _COUNT.size + 4 * count + sum(lengths[:index])
    return body[start : start + lengths[index]]


def pack_integers(numbers: Sequence[int]) -> bytes:
    """A column of whole numbers, each of magnitude below 2^62."""
    return _packed(numbers, 0, ())


def unpack_integers(column: bytes, rows: int) -> list[int]:
    """The numbers of `pack_integers`. Raises StoreCorruptError."""
    return _unpacked(column, rows)[0]


@lru_cache(maxsize=4096)
def decimals_of(name: str) -> int:
    """How many decimals of a value are kept, by the unit that its name ends in."""
    return DECIMALS.get(name.rpartition("_")[2], OTHER_DECIMALS)


def pack_values(values: Sequence[float], decimals: int) -> bytes:
    """A column of measurements with so many decimals; no number, or one too large: undefined."""
    scale: int = 10**decimals
    if values.count(values[0]) == len(values) and abs(values[0]) * scale < _LIMIT:
        # One number stands for all rows: so are most columns of a quiet meter.
        return _packed((round(values[0] * scale),), decimals, ())
    undefined: list[int] = []
    try:
        scaled = [round(value * scale) for value in values]
        plain = min(scaled) > -_LIMIT and max(scaled) < _LIMIT
    except (ValueError, OverflowError):
        plain = False
    if not plain:
        scaled, last = [], 0
        for index, value in enumerate(values):
            if abs(value) * scale < _LIMIT:
                last = round(value * scale)
            else:
                undefined.append(index)
            scaled.append(last)
    return _packed(scaled, decimals, undefined)


def unpack_values(column: bytes, rows: int) -> list[float | None]:
    """The measurements of `pack_values`; None where undefined. Raises StoreCorruptError."""
    numbers, decimals, undefined = _unpacked(column, rows)
    scale: int = 10**decimals
    values: list[float | None] = [number / scale for number in numbers]
    for index in undefined:
        if index < rows:
            values[index] = None
    return values


def _packed(numbers: Sequence[int], decimals: int, undefined: Sequence[int]) -> bytes:
    first = numbers[0]
    deltas = list(map(sub, numbers[1:], numbers))
    low, high = min(deltas, default=0), max(deltas, default=0)
    span = high - low
    width = 0 if not span else 1 + (span > 0xFF) + (span > 0xFFFF) + (span > 0xFFFF_FFFF)
    flags = width | decimals << 4 | (_UNDEFINED if undefined else 0)
    first_bytes, low_bytes = _shortest(first), _shortest(low)
    parts = [_HEAD.pack(flags, len(first_bytes) | len(low_bytes) << 4), first_bytes, low_bytes]
    if undefined:
        parts.append(struct.pack(f"<H{len(undefined)}H", len(undefined), *undefined))
    if width:
        differences = array(WIDTHS[width], [delta - low for delta in deltas])
        size, octets = differences.itemsize, differences.tobytes()
        if size > 1:
            octets = b"".join(octets[plane::size] for plane in range(size))
        parts.append(zlib.compress(octets, 1))
    return b"".join(parts)


def _unpacked(column: bytes, rows: int) -> tuple[list[int], int, Sequence[int]]:
    """Numbers, decimals and undefined rows of a column. Raises StoreCorruptError."""
    try:
        flags, lengths = _HEAD.unpack_from(column)
        low_at = _HEAD.size + (lengths & 0x0F)
        at = low_at + (lengths >> 4)
        first = int.from_bytes(column[_HEAD.size : low_at], "big", signed=True)
        low = int.from_bytes(column[low_at:at], "big", signed=True)
        undefined: Sequence[int] = ()
        if flags & _UNDEFINED:
            count = _COUNT.unpack_from(column, at)[0]
            undefined = struct.unpack_from(f"<{count}H", column, at + _COUNT.size)
            at += _COUNT.size * (1 + count)
        if not flags & _WIDTH_MASK:
            return [first + low * row for row in range(rows)], flags >> 4, undefined
        differences = array(WIDTHS[flags & _WIDTH_MASK])
        planes = zlib.decompress(column[at:])
        size = differences.itemsize
        octets, each = bytearray(len(planes)), len(planes) // size
        for plane in range(size):
            octets[plane::size] = planes[plane * each : (plane + 1) * each]
        differences.frombytes(octets)
    except (struct.error, zlib.error, ValueError, IndexError) as error:
        raise StoreCorruptError(f"a column cannot be unpacked: {error}") from error
    if len(differences) != rows - 1:
        raise StoreCorruptError(f"a column has {len(differences) + 1} rows, expected {rows}")
    return list(accumulate(map(low.__add__, differences), initial=first)), flags >> 4, undefined


def _shortest(number: int) -> bytes:
    size = 0 if not number else (number if number > 0 else ~number).bit_length() // 8 + 1
    return number.to_bytes(size, "big", signed=True)
