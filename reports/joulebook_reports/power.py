"""Power over time of the devices of a run: each measurement's energy over its span. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from joulebook.rows import Mark
from joulebook.summary import phase_name

from joulebook_reports.facts import RunFacts


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
    return Traces(dict(devices), phase_spans(facts.marks, start_us, facts.run.ended_at_us))


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
