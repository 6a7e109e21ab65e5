"""Power over time of the devices of a run: each measurement's energy over its span. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from joulebook.rows import Mark
from joulebook.summary import OUTSIDE_PHASES, phase_name

from joulebook_reports.facts import RunFacts

MOST_STEPS: Final = 600
"""More steps than this per device are finer than a printed line."""

TOUCHING_SECONDS: Final = 1e-3


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
        phase_spans(facts.marks, start_us, facts.run.ended_at_us),
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


def phase_spans(marks: Sequence[Mark], start_us: int, end_us: int | None) -> list[PhaseSpan]:
    """Innermost phases from the begin and end marks of the process that marked most (ranks mark the same)."""
    by_process: dict[tuple[str, int], list[Mark]] = defaultdict(list)
    for mark in marks:
        if mark.kind in {"begin", "end"}:
            by_process[mark.machine_id, mark.pid].append(mark)
    if not by_process:
        return []
    chosen = max(sorted(by_process), key=lambda process: len(by_process[process]))
    return _exclusive(sorted(by_process[chosen], key=lambda m: (m.at_us, m.n)), start_us, end_us)


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
