"""Hard bounds of a phase: outer edges count, inner ones cancel, and an edge that nothing bounds bounds nothing."""

from dataclasses import replace

from joulebook.phase_bounds import Bounds, phase_bounds
from joulebook.rows import Component, Measurement, Method, Policy, Share, ShareKind


def row(start, end, millijoules, slacks=(None, None), phase="train", device="d"):
    share = Share(ShareKind.RUN, millijoules, Policy.RESERVED, "r", phase)
    made = Measurement(
        "m", "b", device, Component.CPU, start, end, start, end, millijoules, "rapl", Method.COUNTER, 0.03, "k", 0.0,
        1.0, "agent", (share,), None, "", *slacks,
    )  # fmt: skip
    return made, share


def test_only_the_ends_of_a_stretch_count():
    rows = [row(10, 20, 1000, (30, None)), row(20, 30, 1000), row(30, 40, 1000, (None, 50))]
    assert phase_bounds(rows) == {"train": Bounds(2920, 3080)}


def test_stretches_and_devices_add_up():
    rows = [row(10, 20, 1000, (30, 40)), row(50, 60, 500, (5, 6)), row(10, 20, 200, (1, 2), device="e")]
    assert phase_bounds(rows) == {"train": Bounds(1700 - 84, 1700 + 84)}


def test_an_edge_without_bounds_leaves_the_phase_without():
    assert phase_bounds([row(10, 20, 1000, (30, None)), row(10, 20, 5, (1, 1), phase="eval")]) == {
        "train": None,
        "eval": Bounds(3, 7),
    }


def test_a_part_of_a_row_has_its_part_of_the_slack_and_no_bound_is_below_zero():
    m, share = row(10, 20, 1000, (30, 2000))
    half = (m, replace(share, millijoules=500))
    assert phase_bounds([half]) == {"train": Bounds(0, 1515)}
