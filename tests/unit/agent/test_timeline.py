"""A process's marks as states over time: exclusive, innermost first, ended by leaving or by death."""

from itertools import pairwise

import pytest
from builders import line
from joulebook.timeline import State, Stretch, Timeline, edges


def timeline_of(*marks):
    timeline = Timeline()
    for mark in marks:
        timeline.take(mark)
    return timeline


NESTED = (
    line("join", 1, 100, run="r", role="track"),
    line("begin", 2, 200, phase="train", member="0"),
    line("begin", 3, 300, phase="eval"),
    line("end", 4, 400, of=3),
    line("end", 5, 500, of=2),
    line("leave", 6, 600, run="r"),
)


def test_time_inside_an_inner_phase_is_the_inner_ones_alone():
    train, evaluate = State("r", "train", "0"), State("r", "eval", None)
    assert timeline_of(*NESTED).stretches(0, 1000) == [
        Stretch(None, 0, 100, 100),
        Stretch(State("r"), 100, 200, 100),
        Stretch(train, 200, 300, 100),
        Stretch(evaluate, 300, 400, 100),
        Stretch(train, 400, 500, 100),
        Stretch(State("r"), 500, 600, 100),
        Stretch(None, 600, 1000, None),
    ]


@pytest.mark.parametrize(("start", "end"), [(0, 50), (250, 350), (399, 401), (550, 900), (100, 600)])
def test_stretches_exhaust_any_span(start, end):
    found = timeline_of(*NESTED).stretches(start, end)
    assert found[0].start == start
    assert found[-1].end == end
    assert all(a.end == b.start for a, b in pairwise(found))


def test_ends_out_of_order_of_two_threads_close_their_own_phase():
    timeline = timeline_of(
        line("join", 1, 0, run="r"),
        line("begin", 2, 10, phase="a"),
        line("begin", 3, 20, phase="b"),
        line("end", 4, 30, of=2),
        line("end", 5, 40, of=3),
    )
    assert [timeline.at(t) for t in (15, 25, 35, 45)] == [State("r", "a"), State("r", "b"), State("r", "b"), State("r")]


def test_a_nested_track_is_a_child_run_and_its_phases_are_the_childs():
    timeline = timeline_of(
        line("join", 1, 0, run="r"),
        line("begin", 2, 10, phase="train"),
        line("join", 3, 20, run="r.c"),
        line("begin", 4, 30, phase="eval"),
        line("leave", 5, 40, run="r.c"),
    )
    assert [timeline.at(t) for t in (25, 35, 45)] == [State("r.c"), State("r.c", "eval"), State("r", "train")]


def test_a_launcher_is_in_the_run_from_its_start_mark_on():
    timeline = timeline_of(line("join", 1, 10, run="r", role="launcher"))
    assert not timeline.open
    timeline.take(line("start", 2, 20, run="r"))
    assert timeline.at(15) is None
    assert timeline.at(20) == State("r")


def test_marks_outside_every_run_mean_nothing():
    timeline = timeline_of(line("begin", 1, 10, phase="train"), line("end", 2, 20, of=1), line("leave", 3, 30, run="x"))
    assert [timeline.at(t) for t in (15, 25, 35)] == [None, None, None]


def test_death_ends_every_state():
    timeline = timeline_of(*NESTED[:3])
    timeline.end(450)
    assert not timeline.open
    assert timeline.at(449) == State("r", "eval")
    assert timeline.at(450) is None


def test_forgetting_keeps_the_state_that_still_holds():
    timeline = timeline_of(*NESTED[:3])
    timeline.forget(1000)
    assert timeline.at(1000) == State("r", "eval")


def test_edges_are_the_changes_strictly_inside():
    assert edges([timeline_of(*NESTED)], 100, 500) == [200, 300, 400]
