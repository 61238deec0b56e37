"""Offline readings as records of 32 bytes: what a spool keeps and a backlog message carries.

Pure. The numbers have the order of a backlog message's `records`.
"""

import binascii
import struct

from node.port import const

SIZE = const(32)
# seq, boot_id, unix_s, ticks_s, energy_wh, voltage_dv, current and power (3 bytes each), PF, flags
_FORM = "<IIIIIHHBHBBB"

CLOCK_SET = const(1)
RELAY_CLOSED = const(2)
QUALITY_GOOD = const(4)
METER_SILENT = const(8)

_HIGHEST = (
    0xFFFFFFFF,
    0xFFFFFFFF,
    0xFFFFFFFF,
    0xFFFFFFFF,
    0xFFFFFFFF,
    0xFFFF,
    0xFFFFFF,
    0xFFFFFF,
    255,
    255,
)


def pack(fields):
    """The record of [seq, boot_id, unix_s, ticks_s, energy_wh, voltage_dv, current_ma, power_dw,
    power_factor_pct, flags]; a value too large for its place is kept as the largest.
    """
    f = [min(max(0, value), most) for value, most in zip(fields, _HIGHEST)]
    words = f[:6] + [f[6] & 0xFFFF, f[6] >> 16, f[7] & 0xFFFF, f[7] >> 16] + f[8:]
    body = struct.pack(_FORM, *words)
    return body + struct.pack("<H", binascii.crc32(body) & 0xFFFF)


def unpack(kept):
    """The fields of a record, or None when it was never written, torn or damaged."""
    if len(kept) != SIZE:
        return None
    body = kept[:-2]
    if struct.unpack_from("<H", kept, SIZE - 2)[0] != binascii.crc32(body) & 0xFFFF:
        return None
    f = struct.unpack(_FORM, body)
    return list(f[:6]) + [f[6] | f[7] << 16, f[8] | f[9] << 16, f[10], f[11]]
