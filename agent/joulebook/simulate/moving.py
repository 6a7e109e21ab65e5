"""Files of a simulated /sys that follow an instant, and the faults that befall them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from joulebook.clock import boottime_ns
from joulebook.errors import BadInput
from joulebook.simulate.truth import FILE

RATE_HZ: Final = 200

FAULTS: Final[Mapping[str, bytes | None]] = {
    "gone": b"",
    "negative": b"-1000000\n",
    "ones": b"4294967295000000\n",
    "zero": b"0\n",
    "garbage": b"\xff\xfe no number \x00\n",
    "denied": None,
}
"""What every file of the device holds; nothing: it cannot be opened, except by root."""
FAULT_FORMS: Final = f"{'|'.join(FAULTS)}:DEVICE:FROM_S[:UNTIL_S]"


@dataclass(frozen=True, slots=True)
class Fault:
    """kind: a key of FAULTS.  device: index.  from_ns, until_ns: CLOCK_BOOTTIME, until None for good."""

    kind: str
    device: int
    from_ns: int
    until_ns: int | None = None

    def holds(self, device: int, at_ns: int) -> bool:
        """Whether that device has it at that instant."""
        return self.device == device and self.from_ns <= at_ns and (self.until_ns is None or at_ns < self.until_ns)


def parse_fault(text: str, devices: int, t0_ns: int) -> Fault:
    """The fault of "KIND:DEVICE:FROM_S[:UNTIL_S]", seconds since t0. Raises BadInput."""
    kind, *words = text.split(":")
    try:
        device, begins, *ends = (float(word) for word in words)
        sound = kind in FAULTS and device in range(devices) and 0 <= begins < (ends or [float("inf")])[0]
        if not sound or len(ends) > 1:
            raise ValueError(text)
        until = t0_ns + int(ends[0] * 1e9) if ends else None
        return Fault(kind, int(device), t0_ns + int(begins * 1e9), until)
    except (ValueError, OverflowError):
        raise BadInput(f"{text!r} is no fault of one of {devices} devices", f"give {FAULT_FORMS}") from None


@dataclass(frozen=True, slots=True)
class Moving:
    """A file and what it holds at an instant. device: index of the device whose faults befall it."""

    path: Path
    device: int
    content: Callable[[int], bytes]


class Ticking(Protocol):
    """Something that shows an instant when it is told to."""

    def tick(self, at_ns: int) -> None:
        """Show a CLOCK_BOOTTIME instant."""
        ...

    def close(self) -> None:
        """Show the last one for good."""
        ...


class MovingFiles:
    """The files, kept open. ``tick`` brings each to an instant; whoever holds them keeps ticking."""

    def __init__(self, files: Sequence[Moving], faults: Sequence[Fault] = ()) -> None:
        self._faults = faults
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._open = [(file, os.open(file.path, flags, 0o644)) for file in files]

    def tick(self, at_ns: int) -> None:
        """Write every file as it stands at a CLOCK_BOOTTIME instant."""
        for file, fd in self._open:
            fault = next((fault for fault in self._faults if fault.holds(file.device, at_ns)), None)
            content = file.content(at_ns) if fault is None else FAULTS[fault.kind]
            if self._faults:
                os.fchmod(fd, 0o644 if content is not None else 0)
            # The cut comes last; until then readers see stale bytes after the first newline only.
            os.pwrite(fd, content or b"", 0)
            os.ftruncate(fd, len(content or b""))

    def close(self) -> None:
        """Close the files; they stay, still."""
        for _, fd in self._open:
            os.close(fd)
        self._open = []


def keep_moving(files: Ticking, stop: threading.Event, seconds: float | None = None) -> None:
    """Tick at RATE_HZ until told to stop, or for so many seconds."""
    until = None if seconds is None else time.monotonic() + seconds
    while not stop.is_set() and (until is None or time.monotonic() < until):
        files.tick(boottime_ns())
        stop.wait(1 / RATE_HZ)


def claim(directory: Path) -> None:
    """Make sure that a tree may be made in that directory. Raises BadInput where one was not simulated."""
    if (directory / "class").exists() and not (directory / FILE).exists():
        raise BadInput(f"{directory} holds a tree that was not simulated", "name a new or empty directory")
    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / FILE).exists():
        (directory / FILE).write_text("{}\n")


def write_files(directory: Path, files: Mapping[str, str]) -> None:
    """Still files, a line each, in a directory that is made."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text + "\n")


def link(at: Path, to: Path) -> None:
    """A symbolic link of the class tree, in place of an older one."""
    at.parent.mkdir(parents=True, exist_ok=True)
    at.unlink(missing_ok=True)
    at.symlink_to(os.path.relpath(to.absolute(), at.parent.absolute()))
