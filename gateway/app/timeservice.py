"""Whether the kernel says that a time service keeps the wall clock right (adjtimex(2))."""

import ctypes
import os
from typing import Final

# struct timex is 208 bytes on 64-bit Linux; the first field, `modes`, is 0 for reading only.
TIMEX_BYTES: Final = 512
TIME_ERROR: Final = 5


def is_synchronised() -> bool:
    """True when chrony, systemd-timesyncd or another service has synchronised the clock."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        state = libc.adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))
    except (OSError, AttributeError):
        return False
    return os.name == "posix" and 0 <= state < TIME_ERROR
