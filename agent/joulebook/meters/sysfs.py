"""Attributes of /sys: small files, read over and over, that come and go with their driver."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

MOST_TEXT: Final = 64
"""Bytes of a number's file that are looked at, and characters of a name that are kept."""

ALL_ONES: Final = frozenset(ones * unit for ones in (0xFFFF, 0xFFFF_FFFF) for unit in (1, 1_000, 1_000_000))
"""A register that holds nothing reads as all ones, whatever unit the driver turns it into."""


class Attribute:
    """A file kept open between reads, so that a read is one system call.

    directory, pattern: the file is the first that the pattern finds below the directory.  It is looked for
    again after an error: a driver that was reloaded has made new files, maybe under another hwmon number.
    """

    def __init__(self, directory: Path, pattern: str, most_bytes: int = MOST_TEXT) -> None:
        self._directory, self._pattern = directory, pattern
        self._most_bytes = most_bytes
        self._fd: int | None = None

    def read(self) -> bytes:
        """What the file holds now. Raises OSError."""
        if self._fd is None:
            self._fd = os.open(self.find(), os.O_RDONLY | os.O_CLOEXEC)
        try:
            held = os.pread(self._fd, self._most_bytes, 0)
        except OSError:
            self.close()
            raise
        if not held:
            self.close()
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), str(self._directory / self._pattern))
        return held

    def number(self) -> int:
        """The whole number, >= 0, of the file's first line. Raises OSError, or ValueError where it is none."""
        word = self.read().split(b"\n", 1)[0].strip()
        if not word.isdigit():
            raise ValueError(f"{self._directory / self._pattern} holds {word!r}")
        return int(word)

    def find(self) -> Path:
        """Where the file is now. Raises FileNotFoundError."""
        found = min(self._directory.glob(self._pattern), default=None)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._directory / self._pattern))
        return found

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def milliwatts(microwatts: int, most_watts: float) -> int:
    """Power in mW. Raises ValueError where the number cannot be one: all ones, above ``most_watts``, or zero.

    Nothing that is switched on draws 0 W: a sensor that says so does not measure (METHODS 0: missing is never 0).
    """
    if microwatts in ALL_ONES or not 1_000 <= microwatts <= most_watts * 1e6:
        raise ValueError(f"{microwatts} uW is no power of a device of at most {most_watts:g} W")
    return microwatts // 1_000


def text_of(path: Path) -> str:
    """The first line of a file, its printable characters only; "" where there is none or it cannot be read."""
    try:
        with path.open("rb") as file:
            held = file.read(4 * MOST_TEXT)
    except OSError:
        return ""
    line = held.decode(errors="replace").split("\n", 1)[0].strip()
    return "".join(c for c in line if c.isprintable() and c != "\ufffd")[:MOST_TEXT].strip()


def number_of(path: Path | str) -> int | None:
    """The whole number, >= 0, of a file's first line; None where there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        word = os.read(fd, MOST_TEXT).split(b"\n", 1)[0].strip()
    except OSError:
        return None
    finally:
        os.close(fd)
    return int(word) if word.isdigit() else None
