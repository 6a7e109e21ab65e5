"""Histories: wrap, reset and gap; integration of power; the time at which a stepping counter had its value."""

import random
from itertools import pairwise

import pytest
from builders import counter_history, device
from joulebook.history import DeviceHistory, History
from joulebook.meters import Reading
from joulebook.rows import Component, Method

S = 1_000_000_000


def test_a_wrap_keeps_the_energy_and_says_so():
    # 100 W; the counter wraps at 1000 J: 950 J, then 50 J on.
    history = counter_history([(0, 950_000_000), (S, 50_000_000)], wraps_at_microjoules=10**9, most_watts=300)
    assert history.history.gained(0, 2 * S) == pytest.approx(100_000_000, rel=0.001)
    assert history.notes_in(0, 2 * S) == ["counter wrapped"]


def test_a_reset_is_a_gap_and_not_an_energy():
    history = counter_history([(0, 950_000_000), (S, 50_000_000), (2 * S, 150_000_000)])
    assert history.history.gained(0, 3 * S) == pytest.approx(100_000_000, rel=0.001)
    assert len(history.history.known(0, 3 * S)) == 1
    assert "reset" in history.notes_in(0, 3 * S)[0]


def test_power_is_integrated_by_trapezoids():
    # 100 W rising to 300 W over 2 s: mean 200 W, 400 J.
    history = DeviceHistory(device(Component.GPU, Method.INTEGRATED), "sim", S)
    for at, watts in ((0, 100), (S, 200), (2 * S, 300)):
        history.add(Reading("g", at, power_milliwatts=watts * 1000))
    assert history.history.gained(0, 2 * S) == 400_000_000
    # Each read 100 W above the one before, 1 s apart: two jumps of 100 J, sqrt(2 * 100^2 / 12) J.
    assert history.integration_u(0, 2 * S) == pytest.approx((2 * 100e6**2 / 12) ** 0.5)


def test_a_window_mean_belongs_to_the_time_before_its_reading():
    history = DeviceHistory(device(Component.GPU, Method.INTEGRATED, averaged=True), "sim", S)
    for at, watts in ((0, 100), (S, 200), (2 * S, 300)):
        history.add(Reading("g", at, power_milliwatts=watts * 1000))
    assert history.history.gained(0, 2 * S) == 500_000_000


def test_power_is_not_integrated_across_a_silence():
    history = DeviceHistory(device(Component.GPU, Method.INTEGRATED, limit_watts=400.0), "sim", S, idle_watts=50.0)
    for at in (0, S, 8 * S, 9 * S):
        history.add(Reading("g", at, power_milliwatts=100_000))
    assert history.history.gained(0, 10 * S) == 200_000_000
    assert history.notes_in(0, 10 * S) == ["power was not read: 350 to 2800 J of 7.0 s are missing"]


def test_a_model_says_nothing_about_the_time_that_nobody_sampled():
    history = DeviceHistory(device(Component.CPU, Method.MODELLED), "sim", S)
    for at, microjoules in ((0, 0), (S, 10**8), (3600 * S, 36 * 10**9), (3601 * S, 36 * 10**9 + 10**8)):
        history.add(Reading("d", at, energy_microjoules=microjoules))
    assert history.history.gained(0, 4000 * S) == pytest.approx(2 * 10**8, rel=0.01)
    assert history.notes_in(0, 4000 * S) == ["nothing was sampled: at least 0 J of 3599.0 s are missing"]


def test_a_stepping_counter_is_placed_where_it_stepped():
    """150 W, a counter that moves every 100 ms, read at 1 Hz with a burst of reads around two marks 10 s apart."""
    step, watts = 100_000_000, 150
    errors_ms = []
    for seed in range(200):
        rng = random.Random(seed)
        first = 10**12 + rng.randrange(S)
        start = first + rng.randrange(20, 900) * 1_000_000
        end = start + 10 * S + rng.randrange(S)
        reads = {first + k * step // 4 for k in range(6)}
        for mark in (start, end):
            reads |= {mark + 1_000_000 + k * step // 4 for k in range(6)}
        reads |= {first + k * S for k in range(1, 14)}
        history = DeviceHistory(device(Component.GPU, step_ns=step, most_watts=700), "sim", S)
        for at in sorted(reads):
            history.add(Reading("g", at, energy_microjoules=at // step * step * watts // 1000))
        gained = history.history.gained(start, end) / 1e6
        errors_ms.append((gained / watts - (end - start) / S) * 1000)
    # An update is seen within a quarter of a step: the error of an edge is within +-12.5 ms, rarely a whole lag.
    within = sum(abs(error) <= 26 for error in errors_ms) / len(errors_ms)
    assert within > 0.9
    assert max(abs(error) for error in errors_ms) <= 100
    assert abs(sum(errors_ms) / len(errors_ms)) < 10


def test_an_absence_is_claimed_whole_and_labelled():
    history = DeviceHistory(device(), "sim", S)
    history.resume(Reading("d", 10 * S, energy_microjoules=5_000_000), now_ns=30 * S)
    history.add(Reading("d", 30 * S, energy_microjoules=2_005_000_000))
    assert history.history.gained(10 * S, 30 * S) == pytest.approx(2_000_000_000, rel=0.001)
    label = "claimed across an absence of the agent"
    assert history.unread_in(10 * S, 20 * S) == [(10 * S, 20 * S, label)]
    assert history.unread_in(25 * S, 35 * S) == [(25 * S, 30 * S, label)]
    assert history.unread_in(30 * S, 40 * S) == []


def test_a_counter_that_was_silent_for_long_keeps_its_energy_and_says_what_nobody_saw():
    history = counter_history([(0, 0), (S, 10**8), (8 * S, 8 * 10**8), (9 * S, 9 * 10**8)])
    assert history.history.gained(0, 9 * S) == pytest.approx(9 * 10**8, rel=0.001)
    assert history.unread_in(0, 9 * S) == [(S, 8 * S, "claimed across 7 s without a reading")]


def test_idle_energy_of_parts_sums_to_that_of_the_whole():
    history = counter_history([(0, 0)])
    assert history.idle_millijoules(0, S) is None
    history.idle_watts = 33.3333
    edges = [7, S // 3, S, 2 * S + 1, 3 * S]
    parts = [history.idle_millijoules(a, b) for a, b in pairwise(edges)]
    assert sum(parts) == history.idle_millijoules(7, 3 * S) == 99_999


def test_the_raw_value_at_an_edge_resumes_to_the_same_total():
    # 500 J gained across the wrap at 1000 J: at the middle the counter stood at 900 + 250 - 1000 J.
    readings = [(0, 900_000_000), (S, 400_000_000)]
    history = counter_history(readings, wraps_at_microjoules=10**9, most_watts=600)
    assert history.raw_at(S // 2) == pytest.approx(150_000_000, rel=0.01)
    assert counter_history([(0, 1)]).raw_at(0) == 1


def test_forgetting_keeps_what_later_spans_need():
    history = History()
    for t in range(0, 100, 10):
        history.add(t, t * 5)
    history.forget(55)
    assert history.gained(55, 90) == 175
    assert history.segments[0].times[0] == 50


def test_the_value_before_a_gap_is_that_of_its_time():
    history = History()
    for t, value in ((10, 0), (20, 100)):
        history.add(t, value)
    history.gap()
    for t, value in ((40, 100), (50, 200)):
        history.add(t, value)
    assert [history.value_at(t) for t in (5, 15, 30, 45, 60)] == [0, 50, 100, 150, 200]


def test_knots_never_go_back():
    history = History()
    history.add(10, 100)
    history.add(10, 200)
    history.add(9, 300)
    history.add(20, 50)
    assert history.segments[0].values == [100, 100]


def test_slack_bounds_the_true_value_between_two_readings_and_the_limit_of_power_narrows_it():
    # 100 W and 300 W by turns, a second each; read once a second: at 1.5 s the counter may have had 100 to 400 J.
    true = [(0, 0), (S, 100), (2 * S, 400), (3 * S, 500), (4 * S, 800)]
    history = counter_history([(t, joules * 10**6) for t, joules in true])
    assert history.slack_millijoules(3 * S // 2) == pytest.approx(150_000, rel=0.01)
    assert history.slack_millijoules(5 * S) is None
    limited = counter_history([(t, joules * 10**6) for t, joules in true], most_watts=310)
    assert limited.slack_millijoules(2 * S - S // 100) < 20_000


@pytest.mark.parametrize("step_ns", [1_000_000, 100_000_000])
def test_no_true_value_lies_outside_its_slack(step_ns):
    """A counter that steps, read at any times, of a power that jumps: the hard bounds hold at every instant."""
    draw = random.Random(step_ns)
    for _ in range(40):
        powers = [draw.choice([0, 50, 400]) for _ in range(100)]

        def joules(t, powers=powers):
            whole, part = divmod(t, S // 10)
            return sum(powers[:whole]) / 10 + (powers[whole] * part / S if whole < len(powers) else 0)

        history = counter_history([(0, 0)], step_ns=step_ns, most_watts=400)
        t = 0
        while t < 9 * S:
            t += draw.randrange(1_000_000, S)
            history.add(Reading("d", t, energy_microjoules=int(joules(t // step_ns * step_ns) * 1e6)))
        for _ in range(50):
            at = draw.randrange(S, 7 * S)
            slack = history.slack_millijoules(at)
            assert slack is not None
            assert abs(history.history.value_at(at) / 1e3 - joules(at) * 1e3) <= slack + 1
