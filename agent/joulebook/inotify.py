"""Being woken when a file in a folder changes: the calls of inotify(7) in use (docs/decisions/0021-own-inotify.md)."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path
from typing import Final

MODIFY: Final = 0x2
MOVED_TO: Final = 0x80
CREATE: Final = 0x100
OVERFLOW: Final = 0x4000
"""Bits of <sys/inotify.h>."""
_HEADER: Final = struct.Struct("iIII")
_READ_BYTES: Final = 16_384


class Inotify:
    """Watches one folder. Raises OSError where the kernel refuses (no inotify, too many watches)."""

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd: int = _checked(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), folder)
        try:
            _checked(libc.inotify_add_watch(self.fd, os.fsencode(folder), MODIFY | CREATE | MOVED_TO), folder)
        except OSError:
            os.close(self.fd)
            raise

    def changed(self) -> set[str] | None:
        """Names of the files that were made or written to since the last call; None when some may be unknown."""
        names: set[str] = set()
        while True:
            try:
                data = os.read(self.fd, _READ_BYTES)
            except BlockingIOError:
                return names
            at = 0
            while at < len(data):
                _, mask, _, length = _HEADER.unpack_from(data, at)
                if mask & OVERFLOW:
                    return None
                at += _HEADER.size + length
                names.add(os.fsdecode(data[at - length : at].rstrip(b"\0")))

    def close(self) -> None:
        """Stop watching."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _checked(result: int, folder: Path) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), str(folder))
    return result
