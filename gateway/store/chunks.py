"""How readings are packed: rows of a sweep in staging, columns of a meter in chunks.

A chunk holds each value as a column of its own: scaled integers, differences from row to row,
zlib level 1. One value of a day is read by unpacking its columns only.
"""

import math
import struct
import zlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Final

from gateway.core.errors import StoreCorruptError

# Readings are kept to a thousandth of their unit; registers and times are whole numbers.
VALUE_SCALE: Final = 1_000
ROWS_MAX: Final = 65_535
# Meters that are staged and folded together: folding 5 minutes of them takes about 50 ms.
SHARD_METERS: Final = 4
# The key of a staged row is shard * 2^40 + sweep.
SHARD_BITS: Final = 40
# meter number, layout, number of registers, utc_ms, sequence
_ROW: Final = struct.Struct("<HHBqQ")
_FIRST: Final = struct.Struct("<cq")
_COUNT: Final = struct.Struct("<H")
# A difference of two of these still fits 64 bits.
_LIMIT: Final = 2**62
_FLOAT32_MAX: Final = 3.4e38
_WIDTHS: Final = (("b", 7), ("h", 15), ("i", 31), ("q", 63))
# Values in these units are 32-bit floats in the meters; all others (energy, counters, bit fields)
# need all 64 bits.
_NARROW_SUFFIXES: Final = ("_v", "_a", "_w", "_va", "_var", "_hz", "_percent")


@dataclass(frozen=True, slots=True)
class StagedReading:
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
    """A column of whole numbers below 2^62: the first, then differences in the narrowest width."""
    deltas = [after - before for before, after in pairwise(numbers)]
    low, high = min(deltas, default=0), max(deltas, default=0)
    if low == high == 0:
        return _FIRST.pack(b"0", numbers[0])
    code = next(c for c, bits in _WIDTHS if -(1 << bits) <= low and high < 1 << bits)
    return _FIRST.pack(code.encode(), numbers[0]) + zlib.compress(array(code, deltas).tobytes(), 1)


def unpack_integers(column: bytes, rows: int) -> list[int]:
    """The numbers of `pack_integers`. Raises StoreCorruptError."""
    try:
        code, number = _FIRST.unpack_from(column)
        if code == b"0":
            return [number] * rows
        deltas = array(code.decode(), zlib.decompress(column[_FIRST.size :]))
    except (struct.error, zlib.error, ValueError, UnicodeDecodeError) as error:
        raise StoreCorruptError(f"a column cannot be unpacked: {error}") from error
    if len(deltas) != rows - 1:
        raise StoreCorruptError(f"a column has {len(deltas) + 1} rows, expected {rows}")
    return list(accumulate(deltas, initial=number))


def pack_values(values: Sequence[float]) -> bytes:
    """A column of measurements, to a thousandth; what is no number (or too large) is undefined."""
    undefined: list[int] = []
    try:
        scaled = [round(value * VALUE_SCALE) for value in values]
        plain = min(scaled) > -_LIMIT and max(scaled) < _LIMIT
    except (ValueError, OverflowError):
        plain = False
    if not plain:
        scaled, last = [], 0
        for index, value in enumerate(values):
            if abs(value) * VALUE_SCALE < _LIMIT:
                last = round(value * VALUE_SCALE)
            else:
                undefined.append(index)
            scaled.append(last)
    head = struct.pack(f"<H{len(undefined)}H", len(undefined), *undefined)
    return head + pack_integers(scaled)


def unpack_values(column: bytes, rows: int) -> list[float | None]:
    """The measurements of `pack_values`; None where undefined. Raises StoreCorruptError."""
    try:
        count = _COUNT.unpack_from(column)[0]
        undefined = struct.unpack_from(f"<{count}H", column, _COUNT.size)
    except struct.error as error:
        raise StoreCorruptError(f"a column cannot be unpacked: {error}") from error
    numbers = unpack_integers(column[_COUNT.size * (1 + count) :], rows)
    values: list[float | None] = [number / VALUE_SCALE for number in numbers]
    for index in undefined:
        if index < rows:
            values[index] = None
    return values
