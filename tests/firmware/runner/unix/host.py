"""Starts MicroPython's unix port in this CPython, with the chip's clock as the one of mbedtls.

    python host.py CLOCK MICROPYTHON-ARGUMENTS...

mbedtls asks the C library what time it is, and on an ESP32 that is the chip's RTC. So `time` of the
extension module is replaced where it calls it: 2000 and on until the firmware sets the RTC, which
its stand-in writes into the file CLOCK as what to add to the system's time.
"""

import ctypes
import mmap
import struct
import sys
import time
from pathlib import Path

import micropython_run

EPOCH_2000_S = 946_684_800
RELOCATIONS = 4  # type of a section
PAGE = mmap.PAGESIZE
START_S = int(time.time())

clock = Path(sys.argv.pop(1))


@ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.POINTER(ctypes.c_int64))
def chip_time(place):
    now_s = int(time.time())
    now_s += int(clock.read_text()) if clock.exists() else EPOCH_2000_S - START_S
    if place:
        place[0] = now_s
    return now_s


def slot_of(image, name):
    """Where in an ELF image of 64 bits the address of an imported function is put."""
    (first,) = struct.unpack_from("<Q", image, 40)
    size, count = struct.unpack_from("<HH", image, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", image, first + size * n) for n in range(count)]
    for kind, at, length, link in ((s[1], s[4], s[5], s[6]) for s in sections):
        if kind != RELOCATIONS:
            continue
        symbols, strings = sections[link], sections[sections[link][6]]
        for entry in range(at, at + length, 24):
            slot, what = struct.unpack_from("<QQ", image, entry)
            named = struct.unpack_from("<I", image, symbols[4] + 24 * (what >> 32))[0]
            begins = strings[4] + named
            if image[begins : image.index(b"\0", begins)] == name:
                return slot
    raise AssertionError(name)


def replace(name, function):
    """Let the extension module call another function by this name."""
    path = micropython_run.__file__
    maps = Path("/proc/self/maps").read_text().splitlines()
    base = int(next(line for line in maps if line.endswith(path)).split("-")[0], 16)
    slot = base + slot_of(Path(path).read_bytes(), name)
    protect = ctypes.CDLL(None).mprotect
    page = slot // PAGE * PAGE
    assert protect(ctypes.c_void_p(page), PAGE, mmap.PROT_READ | mmap.PROT_WRITE) == 0
    address = ctypes.cast(function, ctypes.c_void_p).value
    ctypes.c_uint64.from_address(slot).value = address


replace(b"time", chip_time)
sys.exit(micropython_run.run_main(sys.argv))
