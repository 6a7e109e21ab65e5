"""Marks files: what a trainer says of itself, append-only, one writer each (docs/reference/marks.md).

Writing is one ``write`` of one line to a file opened with O_APPEND: no socket to lose it, no thread,
no signal, no exit hook. Reading takes whole lines only; a torn tail waits for its rest.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

VERSION: Final = 1
SUFFIX: Final = ".jsonl"
MAX_LINE: Final = 16_384
LARGEST: Final = 2**63 - 1
"""Largest whole number that a row of the book holds."""

_clock = time.clock_gettime_ns
_BOOT: Final = time.CLOCK_BOOTTIME
_CPU: Final = time.CLOCK_PROCESS_CPUTIME_ID


class MarksWriter:
    """Appends marks. An error of the file system is counted and never raised: the job goes on (law 7).

    held: lock the file while it is open, so that an agent which cannot see the process knows that it lives.
    """

    def __init__(self, path: Path, *, held: bool = False) -> None:
        self.pid = os.getpid()
        self.lost = 0
        self._n = 0
        self._fd = -1
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            self.lost += 1
        if held:
            self._hold()

    def _hold(self) -> None:
        from contextlib import suppress

        from joulebook.locks import lock

        with suppress(OSError):  # no locks there: then the process must be seen to be known to live
            lock(self._fd, 0)

    def write(self, kind: str, body: str = "") -> int:
        """Append one mark, timed now. body: ready JSON members, each beginning with a comma. Returns its number."""
        self._n += 1
        line = (
            f'{{"v":1,"n":{self._n},"kind":"{kind}","at_ns":{_clock(_BOOT)},'
            f'"at_us":{time.time_ns() // 1000},"cpu_ns":{_clock(_CPU)}{body}}}\n'
        )
        try:
            os.write(self._fd, line.encode())
        except OSError:
            self.lost += 1
        return self._n

    def close(self) -> None:
        """Close the file; nothing is flushed, because nothing is held back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def members(values: Mapping[str, Any]) -> str:
    """JSON members for ``MarksWriter.write``, None left out."""
    kept = {key: value for key, value in values.items() if value is not None}
    return "," + as_json(kept)[1:-1] if kept else ""


def as_json(value: Any) -> str:
    """Any value as JSON that every reader takes: other libraries' numbers as numbers, all else that is odd as text."""
    import json

    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False, default=_plain)
    except (ValueError, TypeError):
        return json.dumps(_tamed(value), separators=(",", ":"), default=_plain)


def _plain(value: Any) -> Any:
    item = getattr(value, "item", None)
    return item() if callable(item) and getattr(value, "ndim", 0) == 0 else str(value)


def _tamed(value: Any) -> Any:
    """Non-finite numbers as text, keys as text, throughout."""
    import math

    if isinstance(value, Mapping):
        return {str(key): _tamed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_tamed(item) for item in value]
    plain = value if isinstance(value, str | int | float | bool | None) else _plain(value)
    return str(plain) if isinstance(plain, float) and not math.isfinite(plain) else plain


def open_regular(path: Path) -> BinaryIO:
    """A file that others may have put there: neither a link to elsewhere nor a pipe may catch the reader.

    Raises OSError on what is no regular file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(None, "no regular file")
    return open(fd, "rb")


class Line(NamedTuple):
    """One mark as read. values: the members beside kind, n and the times."""

    n: int
    kind: str
    at_ns: int
    at_us: int
    cpu_ns: int
    values: Mapping[str, Any]


class MarksReader:
    """Reads a growing marks file line by line.

    key: what messages call it.  offset: bytes taken so far.  last_n: the largest number of a mark so far.  corrupt:
    numbers (from 1) of lines that are no marks, or after which the file was cut; they are passed over and reported,
    the others count.  refused: it could not be read, which was said.
    """

    __slots__ = ("_known_n", "corrupt", "key", "last_n", "line_number", "offset", "path", "refused")

    def __init__(self, path: Path, key: str = "") -> None:
        self.path = path
        self.key = key or path.name
        self.offset = 0
        self.line_number = 0
        self.last_n = -1
        self.corrupt: list[int] = []
        self.refused = False
        self._known_n = -1

    def read(self, *, final: bool = False, until_ns: int | None = None) -> Iterator[Line]:
        """The marks since the last read, those after ``until_ns`` (CLOCK_BOOTTIME) left for the next.

        final: the writer writes no more, so a torn tail is corrupt and not to come.
        A file that is shorter than what was read of it, or was taken away, is read from its start: what it held is
        known already, and what comes next lies before where we were.  Raises OSError on what is no regular file.
        """
        data = self._new()
        *lines, tail = data.split(b"\n")
        if final and tail:
            lines.append(tail)
        end = self.offset + len(data)
        for raw in lines:
            line = parse(raw)
            if line is not None and until_ns is not None and line.at_ns > until_ns:
                return
            self.offset = min(self.offset + len(raw) + 1, end)
            self.line_number += 1
            if line is None:
                self.corrupt.append(self.line_number)
            elif line.n > self._known_n:
                self.last_n = max(self.last_n, line.n)
                yield line

    def _new(self) -> bytes:
        try:
            with open_regular(self.path) as file:
                if os.fstat(file.fileno()).st_size < self.offset:
                    self._start_anew()
                file.seek(self.offset)
                return file.read()
        except FileNotFoundError:
            if self.offset > 0:
                self._start_anew()
            return b""

    def _start_anew(self) -> None:
        self.corrupt.append(self.line_number)
        self.offset, self._known_n = 0, self.last_n

    def refuse(self, error: OSError, *, final: bool) -> None:
        """The disk may let it be read again; what it still refuses when the process is gone (final) is missing."""
        if not self.refused:
            print(f"joulebook agent: marks file {self.key} cannot be read: {error}", file=sys.stderr)
        self.refused = True
        if final and self.line_number + 1 not in self.corrupt:
            self.corrupt.append(self.line_number + 1)


def parse(raw: bytes) -> Line | None:
    """A line's mark, None when it is none."""
    import json

    if len(raw) > MAX_LINE:
        return None
    try:
        values = json.loads(raw)
        json.dumps(values, allow_nan=False)  # 1e400 reads as infinity, and no row can carry that
        if values.pop("v") != VERSION:
            return None
        n, kind, at_ns, at_us, cpu_ns = (values.pop(key) for key in ("n", "kind", "at_ns", "at_us", "cpu_ns"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if not (isinstance(kind, str) and all(isinstance(v, int) and 0 <= v <= LARGEST for v in (n, at_ns, at_us, cpu_ns))):
        return None
    return Line(n, kind, at_ns, at_us, cpu_ns, values)
