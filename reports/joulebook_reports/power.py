"""Power over time of the devices of a run: each measurement's energy over its span. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from joulebook.rows import Mark, Measurement
from joulebook.summary import OUTSIDE_PHASES, claims_some, phase_name

from joulebook_reports.facts import RunFacts

MOST_STEPS: Final = 600
"""More steps than this per device are finer than a printed line."""

TOUCHING_SECONDS: Final = 1e-3
BLURRED_US: Final = 25_000
"""A measurement that holds a begin may begin this much before it: marks that are closer share one (20 ms)."""


@dataclass(frozen=True, slots=True)
class Step:
    """Mean power over [started, ended), seconds from the run's start; watts >= 0."""

    started: float
    ended: float
    watts: float


@dataclass(frozen=True, slots=True)
class PhaseSpan:
    """A phase on the run's own clock, seconds from its start."""

    name: str
    started: float
    ended: float


@dataclass(frozen=True, slots=True)
class Traces:
    """Steps by device (component, device id), and the phases to shade behind them."""

    devices: dict[tuple[str, str], list[Step]]
    phases: list[PhaseSpan]


def power_traces(facts: RunFacts) -> Traces:
    """Whole power of every device over the run, whoever used it; gaps stay gaps."""
    devices: dict[tuple[str, str], list[Step]] = defaultdict(list)
    start_us = facts.run.started_at_us
    for m in sorted(facts.measurements, key=lambda m: (m.component, m.device_id, m.started_at_us)):
        begun, ended = ((at - start_us) / 1e6 for at in (m.started_at_us, m.ended_at_us))
        watts = m.energy_millijoules / 1000 / (ended - begun)
        devices[str(m.component), m.device_id].append(Step(begun, ended, watts))
    return Traces(
        {key: coarser(steps) for key, steps in devices.items()},
        phase_spans(facts.marks, start_us, facts.run.ended_at_us, facts.measurements),
    )


def coarser(steps: Sequence[Step], most: int = MOST_STEPS) -> list[Step]:
    """At most about ``most`` steps: neighbours without a gap between them merged, their energy kept."""
    size = -(-len(steps) // most)
    merged: list[Step] = []
    joined = 0
    for step in steps:
        if merged and joined < size and abs(step.started - merged[-1].ended) < TOUCHING_SECONDS:
            merged[-1] = _merged(merged[-1], step)
            joined += 1
        else:
            merged.append(step)
            joined = 1
    return merged


def _merged(a: Step, b: Step) -> Step:
    energy = a.watts * (a.ended - a.started) + b.watts * (b.ended - b.started)
    return Step(a.started, b.ended, energy / (b.ended - b.started + a.ended - a.started))


def phase_seconds(phases: Sequence[PhaseSpan], run_seconds: float) -> dict[str, float]:
    """Exclusive seconds of each phase, and of the run outside all of them."""
    seconds: dict[str, float] = defaultdict(float)
    for span in phases:
        seconds[span.name] += span.ended - span.started
    return {**seconds, OUTSIDE_PHASES: max(0.0, run_seconds - sum(seconds.values()))}


def phase_spans(
    marks: Sequence[Mark], start_us: int, end_us: int | None, measurements: Sequence[Measurement] = ()
) -> list[PhaseSpan]:
    """Innermost phases by the marks of the process that marked most, and of those that lived before or after it.

    Processes side by side mark the same, so each moment is told by one of them. A phase that its process did not end,
    because it was killed, lasts as long as the measurements say; without any, to the end of the run.
    """
    by_process: dict[Process, list[Mark]] = defaultdict(list)
    for mark in sorted(marks, key=lambda m: (m.at_us, m.n)):
        by_process[mark.machine_id, mark.boot_id, mark.pid].append(mark)
    told: list[PhaseSpan] = []
    lives: list[tuple[float, float]] = []
    for process in sorted(by_process, key=lambda process: (-_edges(by_process[process]), process)):
        own = by_process[process]
        if not _edges(own):
            continue
        until = _last_seen_us(own, marks, measurements) if measurements or not _ends_open(own) else end_us
        spans = _exclusive([m for m in own if m.kind in _EDGES], start_us, until)
        told += [rest for span in spans for rest in _outside(span, lives)]
        first, last = own[0].at_us, max(own[-1].at_us, until if _ends_open(own) and until else 0)
        lives.append(((first - start_us) / 1e6, (last - start_us) / 1e6))
    return sorted(told, key=lambda span: span.started)


Process = tuple[str, str, int]
_EDGES: Final = ("begin", "end")


def _edges(marks: Sequence[Mark]) -> int:
    return sum(mark.kind in _EDGES for mark in marks)


def _ends_open(own: Sequence[Mark]) -> bool:
    """True for a process that neither ended its phases nor left the run."""
    return own[-1].kind != "leave" and sum((m.kind == "begin") - (m.kind == "end") for m in own) > 0


def _last_seen_us(own: Sequence[Mark], marks: Sequence[Mark], measurements: Sequence[Measurement]) -> int:
    """When the process was in its last phase for the last time: until another begins the same, UTC microseconds."""
    last = max((m for m in own if m.kind in _EDGES), key=lambda m: (m.at_us, m.n))
    if not _ends_open(own):
        return own[-1].at_us
    where = (last.run_id, last.machine_id, last.boot_id, last.rank)
    begun = [
        m.at_us
        for m in marks
        if m.kind == "begin" and m.at_us > last.at_us and (m.run_id, m.machine_id, m.boot_id, m.rank) == where
    ]
    ends = [
        m.ended_at_us
        for m in measurements
        if (m.machine_id, m.boot_id) == where[1:3]
        and m.ended_at_us > last.at_us
        and m.started_at_us < min(begun, default=m.ended_at_us) - BLURRED_US
        and any(s.run_id == last.run_id and s.rank == last.rank and s.phase and claims_some(s) for s in m.shares)
    ]
    return min([max(ends, default=last.at_us), *begun])


def _outside(span: PhaseSpan, lives: Sequence[tuple[float, float]]) -> list[PhaseSpan]:
    """What of a span lies in none of these lives."""
    rest = [(span.started, span.ended)]
    for begun, ended in lives:
        rest = [part for a, b in rest for part in ((a, min(b, begun)), (max(a, ended), b)) if part[1] > part[0]]
    return [PhaseSpan(span.name, a, b) for a, b in rest]


def _exclusive(marks: Sequence[Mark], start_us: int, end_us: int | None) -> list[PhaseSpan]:
    """Exclusive time: a phase pauses while one nested in it lasts."""
    spans: list[PhaseSpan] = []
    stack: list[str] = []
    since = start_us
    for mark in marks:
        _add(spans, stack, since, mark.at_us, start_us)
        since = mark.at_us
        if mark.kind == "begin":
            stack.append(mark.phase)
        elif stack:
            stack.pop()
    if end_us is not None:
        _add(spans, stack, since, end_us, start_us)
    return spans


def _add(spans: list[PhaseSpan], stack: Sequence[str], since: int, until: int, start_us: int) -> None:
    if stack and until > since:
        spans.append(PhaseSpan(phase_name(stack[-1]), (since - start_us) / 1e6, (until - start_us) / 1e6))
