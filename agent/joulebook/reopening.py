"""Meters that were refused at the start are tried again: a driver may be loaded, a permission given, a controller back.

Opening may take seconds, so it happens in a thread that lives for one attempt; metering goes on meanwhile.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from joulebook.meters import Meter, MeterUnavailable, Refused, Roots, open_each
from joulebook.units import NS_PER_SECOND

LONGEST_PAUSE_SECONDS: Final = 600.0
"""Time to the next attempt is the refusal's ``patience_seconds`` at first, doubled after each up to this."""
CLOSE_SECONDS: Final = 0.5
"""How long an agent that ends waits for an attempt; one that hangs ends with the process."""


@dataclass(slots=True)
class _Waiting:
    """A refused meter. due_ns: CLOCK_BOOTTIME of the next attempt, pause_ns after the last."""

    refused: Refused
    pause_ns: int
    due_ns: int


@dataclass(slots=True)
class _Attempt:
    """One attempt for the meters of those names, in its own thread. opened, refused: what became of it, at its end."""

    names: Sequence[str]
    roots: Roots
    opened: list[Meter] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, name="joulebook-reopen", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        for name in self.names:
            try:
                opened, refused = open_each([name], self.roots)
            except Exception as error:  # noqa: BLE001 - a defect of one opener harms no other and no metering
                defect = MeterUnavailable(f"{name}: a defect, please report it: {error!r}", "joulebook doctor --debug")
                opened, refused = [], [Refused(name, defect)]
            self.opened += opened
            self.refused += refused


class Reopening:
    """The refused meters, and those that opened since and wait to be taken in (``opened``)."""

    def __init__(self, refused: Sequence[Refused], roots: Roots, now_ns: int) -> None:
        """now_ns: CLOCK_BOOTTIME at which they were refused."""
        self.opened: list[Meter] = []
        self._roots = roots
        self._attempt: _Attempt | None = None
        self._waiting = {one.name: _Waiting(one, p := _patience_ns(one), now_ns + p) for one in refused}

    @property
    def refused(self) -> list[Refused]:
        """Those that do not open, each with what it said last."""
        return [waiting.refused for waiting in self._waiting.values()]

    def step(self, now_ns: int) -> None:
        """Begin an attempt that is due, and take in what the last one came to. Never waits."""
        if self._attempt is None:
            due = [name for name, waiting in self._waiting.items() if waiting.due_ns <= now_ns]
            if due:
                self._attempt = _Attempt(due, self._roots)
        elif not self._attempt.thread.is_alive():
            attempt, self._attempt = self._attempt, None
            self._end(attempt, now_ns)

    def _end(self, attempt: _Attempt, now_ns: int) -> None:
        still = {one.name: one for one in attempt.refused}
        for name in attempt.names:
            if name in still:
                self._put_off(still[name], now_ns)
            else:  # opened, or its part is read by others already
                del self._waiting[name]
        self.opened += attempt.opened

    def _put_off(self, refused: Refused, now_ns: int) -> None:
        waiting = self._waiting[refused.name]
        if str(refused.error) != str(waiting.refused.error):
            print(refused.error.lines("agent"), file=sys.stderr)
        pause = min(2 * waiting.pause_ns, int(LONGEST_PAUSE_SECONDS * NS_PER_SECOND))
        pause = max(pause, _patience_ns(refused))
        self._waiting[refused.name] = _Waiting(refused, pause, now_ns + pause)

    def close(self) -> None:
        """Give back what was opened and never taken in."""
        if self._attempt is not None:
            self._attempt.thread.join(CLOSE_SECONDS)
            if not self._attempt.thread.is_alive():
                self.opened += self._attempt.opened
        for meter in self.opened:
            meter.close()
        self.opened = []


def _patience_ns(refused: Refused) -> int:
    return int(refused.error.patience_seconds * NS_PER_SECOND)
