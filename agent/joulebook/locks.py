"""Locks of single bytes of a file, of the open file and not of the process: closing another descriptor keeps them,
the kernel lets go of them when the last descriptor is closed, and asking about one takes nothing (fcntl(2), OFD locks).
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path
from typing import Final

_FLOCK: Final = "hhqqi4x"
"""struct flock: type, whence, start, length, pid."""


def lock(fd: int, byte: int) -> None:
    """Take the byte. Raises BlockingIOError when another holds it, OSError where there are no locks."""
    _set(fd, byte, fcntl.F_WRLCK)


def unlock(fd: int, byte: int) -> None:
    """Let go of the byte."""
    _set(fd, byte, fcntl.F_UNLCK)


def is_locked(path: Path, byte: int) -> bool:
    """True while somebody holds the byte. Raises OSError when the file cannot be opened."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not keep who asks
    try:
        wanted = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
        found: int = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_OFD_GETLK, wanted))[0]
    finally:
        os.close(fd)
    return found != fcntl.F_UNLCK


def _set(fd: int, byte: int, kind: int) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, kind, os.SEEK_SET, byte, 1, 0))
