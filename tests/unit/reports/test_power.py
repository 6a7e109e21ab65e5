"""Power traces and phase times from spans and marks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joulebook.rows import Mark, Measurement, Policy, Share, ShareKind, Weights
from joulebook.summary import OUTSIDE_PHASES
from joulebook_collector.testing import a_measurement
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


def held(begun: int, ended: int, phase: str, **changes: object) -> Measurement:
    """The run's measurement in that phase, seconds."""
    share = Share(ShareKind.RUN, 10, Policy.RESERVED, "r", phase, weights=Weights(1.0, 0.0, 1.0))
    row = a_measurement(begun, ended, 10, machine_id="m", boot_id="b", shares=(share,))
    return replace(row, started_at_us=begun * 10**6, ended_at_us=ended * 10**6, **changes)


def test_a_killed_process_and_the_one_after_it_both_take_their_time() -> None:
    # the first trains from 1 s on and is killed at 4; the second from 6 to 10
    marks = [mark("begin", 1, "train"), mark("begin", 6, "train", 2), mark("end", 10, "train", 2)]
    rows = [held(1, 4, "train"), held(4, 6, ""), held(6, 10, "train"), held(10, 11, "")]
    spans = phase_spans(marks, 0, 11_000_000, rows)
    assert spans == [PhaseSpan("train", 1, 4), PhaseSpan("train", 6, 10)]
    assert phase_seconds(spans, 11.0) == {"train": 7.0, OUTSIDE_PHASES: 4.0}


def test_the_measurement_in_which_the_next_process_begins_is_not_the_killed_ones() -> None:
    # the next process joined 10 ms before it began to train, and both marks are in one measurement
    marks = [mark("begin", 1, "train"), mark("begin", 6, "train", 2), mark("end", 10, "train", 2)]
    rows = [held(1, 4, "train"), held(4, 6, ""), replace(held(6, 10, "train"), started_at_us=5_990_000)]
    assert phase_spans(marks, 0, 10_000_000, rows)[0] == PhaseSpan("train", 1, 4)


def test_a_killed_rank_beside_others_adds_nothing_twice() -> None:
    marks = [mark("begin", 0, "train", 1), mark("begin", 0, "train", 2), mark("end", 9, "train", 2)]
    rows = [held(0, 5, "train"), held(5, 9, "train")]
    assert phase_spans(marks, 0, 9_000_000, rows) == [PhaseSpan("train", 0, 9)]


def test_a_killed_process_that_marked_most_does_not_hide_the_next() -> None:
    marks = [mark("begin", 0, "setup"), mark("end", 1, "setup"), mark("begin", 1, "train")]
    marks += [mark("begin", 5, "train", 2), mark("end", 8, "train", 2)]
    rows = [held(0, 1, "setup"), held(1, 3, "train"), held(5, 8, "train")]
    spans = phase_spans(marks, 0, 8_000_000, rows)
    assert spans == [PhaseSpan("setup", 0, 1), PhaseSpan("train", 1, 3), PhaseSpan("train", 5, 8)]


def test_a_process_on_another_machine_goes_on_where_the_first_stopped() -> None:
    there = [replace(mark(kind, at, "train"), machine_id="n") for kind, at in (("begin", 5), ("end", 7))]
    marks = [mark("begin", 0, "train"), mark("end", 3, "train"), *there]
    assert phase_spans(marks, 0, 8_000_000) == [PhaseSpan("train", 0, 3), PhaseSpan("train", 5, 7)]


def test_a_process_that_leaves_ends_its_phases() -> None:
    marks = [mark("begin", 0, "train"), mark("leave", 4, "")]
    assert phase_spans(marks, 0, 9_000_000, [held(0, 4, "train")]) == [PhaseSpan("train", 0, 4)]
