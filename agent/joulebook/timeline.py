"""What a process was doing when: its marks as a timeline of states (exclusive time, innermost phase wins)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from joulebook.marks import Line
from joulebook.rows import NO_PHASE


class State(NamedTuple):
    """What a process is in: a run, a phase of it, for a member of the ensemble."""

    run_id: str
    phase: str = NO_PHASE
    member: str | None = None


@dataclass(slots=True)
class _Entry:
    run_id: str
    n: int
    phase: str | None = None  # None: the entry is a run, not a phase
    member: str | None = None


class Stretch(NamedTuple):
    """Part of a span spent in one state, and the whole length of that state's stretch (None while it lasts)."""

    state: State | None
    start: int
    end: int
    whole_ns: int | None


@dataclass(slots=True)
class Timeline:
    """States of one process in order of time; built from marks, which may come late and out of order of files.

    times, states: state i holds from times[i] to times[i + 1].  Before the first there is none.
    """

    times: list[int] = field(default_factory=list)
    states: list[State | None] = field(default_factory=list)
    _stack: list[_Entry] = field(default_factory=list)

    def take(self, line: Line) -> None:
        """Follow one mark. Marks of one file are in order; an ``end`` names its ``begin``, so threads may overlap."""
        values = line.values
        stack = self._stack
        if line.kind == "start" or (line.kind == "join" and values.get("role") != "launcher"):
            stack.append(_Entry(str(values.get("run", "")), line.n))
        elif line.kind == "begin" and stack:
            member = values.get("member")
            stack.append(_Entry(stack[-1].run_id, line.n, str(values.get("phase", "")), member))
        elif line.kind == "end":
            self._stack = [entry for entry in stack if entry.n != values.get("of")]
        elif line.kind == "leave":
            self._stack = [entry for entry in stack if entry.run_id != values.get("run")]
        else:
            return
        self._set(line.at_ns)

    def end(self, at_ns: int) -> None:
        """The process is gone: no state from then on."""
        self._stack = []
        self._set(at_ns)

    def _set(self, at_ns: int) -> None:
        self.times.append(max(at_ns, self.times[-1] if self.times else 0))
        self.states.append(self._state())

    def _state(self) -> State | None:
        if not self._stack:
            return None
        top = self._stack[-1]
        return State(top.run_id, top.phase or NO_PHASE, top.member)

    @property
    def open(self) -> bool:
        """True while the process is in a run."""
        return bool(self._stack)

    def at(self, at_ns: int) -> State | None:
        """The state at an instant, None outside every run."""
        i = bisect_right(self.times, at_ns) - 1
        return self.states[i] if i >= 0 else None

    def stretches(self, start: int, end: int) -> list[Stretch]:
        """What the process did over [start, end), without gaps."""
        found: list[Stretch] = []
        i = bisect_right(self.times, start) - 1
        at = start
        while at < end:
            began = self.times[i] if i >= 0 else 0
            until = self.times[i + 1] if i + 1 < len(self.times) else None
            stop = end if until is None else min(end, until)
            if stop > at:
                state = self.states[i] if i >= 0 else None
                found.append(Stretch(state, at, stop, None if until is None else until - began))
            at, i = stop, i + 1
        return found

    def forget(self, before: int) -> None:
        """Drop states that ended before ``before``."""
        keep = max(0, bisect_right(self.times, before) - 1)
        del self.times[:keep], self.states[:keep]


def edges(timelines: Iterable[Timeline], start: int, end: int) -> list[int]:
    """Instants strictly within [start, end) at which some process changed state, ascending."""
    return sorted({t for timeline in timelines for t in timeline.times if start < t < end})
