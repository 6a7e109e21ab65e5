"""Power traces and phase times from spans and marks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joulebook.rows import Mark
from joulebook.summary import OUTSIDE_PHASES
from joulebook_reports.example import example_run
from joulebook_reports.power import PhaseSpan, Step, coarser, phase_seconds, phase_spans, power_traces


def mark(kind: str, second: int, phase: str, pid: int = 1) -> Mark:
    return Mark("r", "m", "b", pid, kind, second * 10**6, second * 10**9, 0, second, phase)


def test_nested_phases_are_exclusive() -> None:
    # train 0-10 with eval 4-6 inside
    marks = [mark("begin", 0, "train"), mark("begin", 4, "eval"), mark("end", 6, "eval"), mark("end", 10, "train")]
    spans = phase_spans(marks, 0, 12_000_000)
    assert spans == [PhaseSpan("train", 0, 4), PhaseSpan("eval", 4, 6), PhaseSpan("train", 6, 10)]
    assert phase_seconds(spans, 12.0) == {"train": 8.0, "eval": 2.0, OUTSIDE_PHASES: 2.0}


def test_an_open_phase_lasts_to_the_end_of_the_run() -> None:
    assert phase_spans([mark("begin", 1, "train")], 0, 5_000_000) == [PhaseSpan("train", 1, 5)]


def test_ranks_that_mark_the_same_count_once() -> None:
    marks = [m for pid in (1, 2) for m in (mark("begin", 0, "train", pid), mark("end", 3, "train", pid))]
    assert phase_spans(marks, 0, 3_000_000) == [PhaseSpan("train", 0, 3)]


def test_watts_are_energy_over_the_span() -> None:
    facts = example_run()
    steps = power_traces(facts).devices["gpu", "GPU-0"]
    first = next(m for m in facts.measurements if m.device_id == "GPU-0")
    assert steps[0] == Step(0.0, 10.0, pytest.approx(first.energy_millijoules / 1000 / 10))


def test_gaps_stay_gaps() -> None:
    steps = [Step(0, 1, 5.0), Step(3, 4, 5.0)]
    assert coarser(steps, most=1) == steps


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=200), st.integers(1, 50))
def test_coarser_traces_keep_the_energy(watts: list[float], most: int) -> None:
    steps = [Step(float(i), float(i + 1), w) for i, w in enumerate(watts)]
    merged = coarser(steps, most)
    assert len(merged) <= most
    assert sum(s.watts * (s.ended - s.started) for s in merged) == pytest.approx(sum(watts))
