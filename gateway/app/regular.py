"""Files that a person names: opened without waiting for whatever else may have that name."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, Final

NO_FILE: Final = "a pipe, socket or device and no file: write it into a file first"


def open_regular(path: Path) -> BinaryIO:
    """A regular file for reading. Raises OSError, at once also for a pipe that nobody writes to."""
    # Without O_NONBLOCK the opening of a named pipe waits for its other end.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, NO_FILE, str(path))
