"""What a process was in at an instant: a log line is booked to it."""

import json

from joulebook.marks import parse
from joulebook.timeline import State, Timeline


def line(kind, n, at_ns, **values):
    found = parse(
        json.dumps({"v": 1, "n": n, "kind": kind, "at_ns": at_ns, "at_us": 1, "cpu_ns": 1, **values}).encode()
    )
    assert found is not None
    return found


def test_the_innermost_phase_of_the_innermost_run_holds():
    timeline = Timeline()
    for mark in (
        line("join", 1, 100, run="r", role="track"),
        line("begin", 2, 200, phase="train", member="0"),
        line("end", 3, 300, of=2),
        line("join", 4, 400, run="r.child"),
        line("begin", 5, 500, phase="inference"),
    ):
        timeline.take(mark)
    assert timeline.at(99) is None
    assert timeline.at(150) == State("r")
    assert timeline.at(299) == State("r", "train", "0")
    assert timeline.at(300) == State("r")
    assert timeline.at(10_000) == State("r.child", "inference")
