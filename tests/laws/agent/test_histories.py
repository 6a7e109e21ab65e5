"""Laws of device histories: over any readings, what is booked is what the counter said, once, and gaps hold the truth.

A world is a true curve of power, a counter that shows it (in steps, wrapping, or restarted), and the readings that a
meter takes of it: irregular, some missing, some twice, some late. Spans close at random instants as the sampler's do.
"""

import re
from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import pytest
from builders import cpu_history, device
from hypothesis import given
from hypothesis import strategies as st
from joulebook.binding import Machine, Scene, measure
from joulebook.clock import Offset
from joulebook.history import LATE_NS, DeviceHistory
from joulebook.meters import Reading
from joulebook.remainder import Remainder, remainder_device
from joulebook.rows import Component, Method

MS = 1_000_000
S = 1000 * MS
MOST_WATTS = 400
OFFSET = Offset(1_000_000 * S)
SCENE = Scene(Machine("m", "b", cpu_history((0, 0), (10**15, 10**15)), S), [])


@dataclass
class World:
    """watts: of each second from 0 on, the last one for ever.  restarts: when the counter went back to 0, ns.

    step_ns, phase_ns: when the counter is brought up to date.  wraps_at: microjoules, None when it never does.
    """

    watts: list[int]
    step_ns: int
    phase_ns: int = 0
    wraps_at: int | None = None
    began_at: int = 0
    restarts: list[int] = field(default_factory=list)

    def __post_init__(self):
        self._at_second = [0, *accumulate(watts * 10**6 for watts in self.watts)]

    def true(self, t):
        """Microjoules drawn over [0, t)."""
        i = min(t // S, len(self.watts) - 1)
        return self._at_second[i] + self.watts[i] * (t - i * S) // 1000

    def life(self, t):
        """How often the counter has been restarted."""
        return bisect_right(self.restarts, t)

    def shown(self, t):
        """What the counter shows at t: its value at its last update."""
        since = self.restarts[self.life(t) - 1] if self.life(t) else 0
        updated = max(since, t - (t - self.phase_ns) % self.step_ns)
        total = self.true(updated) - self.true(since) + (0 if self.life(t) else self.began_at)
        return total if self.wraps_at is None else total % self.wraps_at


powers = st.lists(st.integers(0, MOST_WATTS), min_size=1, max_size=60)
# Whole microseconds, halves of steps too: nothing is shorter than the clock of the book can tell.
gaps_ms = st.one_of(st.integers(1, 60), st.integers(1, 1500), st.integers(1, 30_000))


@st.composite
def readings(draw, world, *, told):
    """Instants at which the counter was read, with their readings. told: the meter tells that it was restarted."""
    times = list(accumulate(draw(st.lists(gaps_ms, min_size=2, max_size=40))))
    found, life = [], 0
    for t in (ms * MS for ms in times):
        again = told and world.life(t) != life
        life = world.life(t)
        found.append(Reading("d", t, world.shown(t), restarted=again))
    return found


def disturbed(draw, found):
    """The same readings, some of them said twice and some once more later, out of order."""
    order = []
    for i, reading in enumerate(found):
        order.append(reading)
        if i and draw(st.integers(0, 5)) == 0:
            order.append(found[draw(st.integers(0, i))])
    return order


def booked(history, arriving, draw):
    """Rows of a device whose spans close at random instants while readings arrive, as the sampler closes them."""
    rows = []
    history.edge = arriving[0].at_ns
    for reading in arriving:
        history.add(reading)
        if draw(st.booleans()):
            close(history, rows, reading.at_ns - draw(st.integers(0, 3000)) * MS)
    close(history, rows, history.last.at_ns)
    return rows


def close(history, rows, end):
    until = min(history.history.last_time, end)
    if until > history.edge:
        rows += measure(SCENE, [history], history.edge, until, OFFSET)
        history.edge = until


def new_history(world):
    described = device(
        Component.GPU, step_ns=world.step_ns, wraps_at_microjoules=world.wraps_at, most_watts=float(MOST_WATTS)
    )
    return DeviceHistory(described, "sim", S)


def assert_lawful(rows, history):
    assert all(row.energy_millijoules >= 0 and 0.0 <= row.coverage <= 1.0 for row in rows)
    assert all(a.ended_ns <= b.started_ns for a, b in pairwise(rows)), "a joule is counted twice"
    if rows:
        first, last = history.history.segments[0], rows[-1].ended_ns
        total = history.history.value_at(last) // 1000 - first.at(rows[0].started_ns) // 1000
        assert sum(row.energy_millijoules for row in rows) == total
    for at, note in history.notes:
        holding = [row for row in rows if row.started_ns <= at <= row.ended_ns]
        assert all(note in row.note for row in holding)
        assert holding or not rows or at > rows[-1].ended_ns, "a gap is told of by no row"


def missing(note):
    """The bounds that a note gives, J."""
    least, most = re.search(r"(\d+) to (\d+) J", note).groups()
    return int(least), int(most)


def spent(world, found):
    """Pairs of readings that follow each other, with the joules that the counter counted between them."""
    updated = [t - (t - world.phase_ns) % world.step_ns for t in (reading.at_ns for reading in found)]
    return [
        (a, b, (world.true(v) - world.true(u)) / 1e6)
        for (a, b), (u, v) in zip(pairwise(found), pairwise(updated), strict=True)
    ]


steps = st.sampled_from([MS, 20 * MS, 100 * MS, S])


@given(powers, steps, st.integers(0, 999), st.data())
def test_what_a_counter_gained_is_booked_once_however_spans_are_closed(watts, step_ns, phase_ms, data):
    world = World(watts, step_ns, phase_ms * MS % step_ns, began_at=data.draw(st.integers(0, 10**12)))
    found = data.draw(readings(world, told=True))
    history = new_history(world)
    assert_lawful(booked(history, disturbed(data.draw, found), data.draw), history)
    assert history.breaks == 0
    assert history.total_microjoules == found[-1].energy_microjoules - found[0].energy_microjoules


@given(powers, st.integers(10**6, 10**10), st.data())
def test_a_wrap_costs_nothing_and_what_may_have_gone_all_the_way_round_is_a_gap(watts, wraps_at, data):
    world = World(watts, MS, wraps_at=wraps_at, began_at=data.draw(st.integers(0, wraps_at - 1)))
    found = data.draw(readings(world, told=True))
    history = new_history(world)
    assert_lawful(booked(history, disturbed(data.draw, found), data.draw), history)
    notes = iter([note for _, note in history.notes if "missing" in note])
    known = 0.0
    for a, b, joules in spent(world, found):
        if MOST_WATTS * (b.at_ns - a.at_ns + LATE_NS) // 1000 >= wraps_at:
            least, most = missing(next(notes))
            assert least <= joules <= most
        else:
            known += joules
    assert next(notes, None) is None
    assert history.total_microjoules == round(known * 1e6)


@given(powers, steps, st.lists(st.integers(1, 60_000), max_size=4), st.booleans(), st.data())
def test_a_counter_that_restarts_is_a_gap_with_bounds_and_never_a_joule_too_many(watts, step_ns, at_ms, told, data):
    restarts = sorted(ms * MS for ms in at_ms)
    world = World(watts, step_ns, began_at=data.draw(st.integers(0, 10**11)), restarts=restarts)
    found = data.draw(readings(world, told=told))
    history = new_history(world)
    assert_lawful(booked(history, disturbed(data.draw, found), data.draw), history)
    notes = iter([note for _, note in history.notes if "missing" in note])
    known = claimed = 0
    for a, b, joules in spent(world, found):
        gained = b.energy_microjoules - a.energy_microjoules
        if world.life(a.at_ns) == world.life(b.at_ns):
            known += gained
        elif told or gained < 0:
            least, most = missing(next(notes))
            assert least <= joules <= most
        else:
            # Nobody told, and it has passed its old value already: less than was drawn, and never more.
            assert gained <= joules * 1e6
            claimed += gained
    assert next(notes, None) is None
    assert history.total_microjoules == known + claimed


@given(powers, st.booleans(), st.data())
def test_polled_power_is_integrated_where_it_was_read_and_bounded_where_it_was_not(watts, averaged, data):
    world = World(watts, S)
    times = list(accumulate(data.draw(st.lists(gaps_ms, min_size=2, max_size=40))))
    found = [Reading("d", ms * MS, power_milliwatts=1000 * watts[min(ms // 1000, len(watts) - 1)]) for ms in times]
    described = device(Component.GPU, Method.INTEGRATED, averaged=averaged, limit_watts=float(MOST_WATTS), step_ns=S)
    history = DeviceHistory(described, "sim", S)
    assert_lawful(booked(history, disturbed(data.draw, found), data.draw), history)
    notes = iter([note for _, note in history.notes])
    picojoules = 0
    for a, b in pairwise(found):
        elapsed, power = b.at_ns - a.at_ns, b.power_milliwatts
        if elapsed > 5 * S:
            least, most = missing(next(notes))
            assert least <= (world.true(b.at_ns) - world.true(a.at_ns)) / 1e6 <= most
        else:
            picojoules += (2 * power if averaged else power + a.power_milliwatts) * elapsed // 2
    assert next(notes, None) is None
    assert history.total_microjoules == picojoules // 10**6


@given(powers, steps, st.data())
def test_a_stretch_that_nobody_read_is_claimed_whole_and_labelled(watts, step_ns, data):
    world = World(watts, step_ns)
    found = data.draw(readings(world, told=True))
    history = new_history(world)
    rows = booked(history, found, data.draw)
    longest = max(5 * S, 3 * step_ns)
    unread = sum(b.at_ns - a.at_ns for a, b in pairwise(found) if b.at_ns - a.at_ns > longest)
    labelled = [row for row in rows if "without a reading" in row.note]
    assert all((row.coverage < 1) == (row in labelled) for row in rows)
    hidden = sum((1 - row.coverage) * (row.ended_ns - row.started_ns) for row in rows)
    # The first and the last of them may reach beyond the rows by what a counter lags behind its reading.
    assert unread - 2 * step_ns - 1000 <= hidden <= unread + 1000


def gpu(*readings, step_ns=100 * MS):
    history = new_history(World([0], step_ns))
    for at_ms, joules in readings:
        history.add(Reading("d", at_ms * MS, joules * 10**6))
    return history


def test_a_reading_that_comes_late_hides_nothing_twice():
    history = gpu((1_000, 0), (11_000, 100), (6_000, 50), (21_000, 200), step_ns=MS)
    (row,) = measure(SCENE, [history], 1_000 * MS, 20_000 * MS, OFFSET)
    assert row.coverage == 0.0
    assert row.energy_millijoules == pytest.approx(190_000, abs=10)


def test_a_counter_caught_in_the_act_leaves_what_was_booked_alone():
    """A span that ends between two knots is closed; then a look soon after tells when the counter really moved."""
    history = gpu((0, 0), (1000, 100))
    rows = measure(SCENE, [history], 0, 500 * MS, OFFSET)
    history.edge = 500 * MS
    history.add(Reading("d", 1010 * MS, 105_000_000))
    rows += measure(SCENE, [history], 500 * MS, 1000 * MS, OFFSET)
    segment = history.history.segments[0]
    assert sum(row.energy_millijoules for row in rows) == segment.at(1000 * MS) // 1000 - segment.at(0) // 1000


def test_a_gap_ends_after_what_is_known_before_it():
    """Its counter may have stood where it restarted for half a step: not before the span that is closed already."""
    history = gpu((1, 0), (1000, 90))
    rows = measure(SCENE, [history], 1 * MS, 950 * MS, OFFSET)
    history.edge = 950 * MS
    history.add(Reading("d", 1001 * MS, 1, None, restarted=True))
    history.add(Reading("d", 1500 * MS, 50_000_000))
    rows += measure(SCENE, [history], 950 * MS, 1450 * MS, OFFSET)
    assert all(a.ended_ns <= b.started_ns for a, b in pairwise(rows))
    assert sum(row.energy_millijoules for row in rows) == pytest.approx(90_000 * 949 / 999 + 50_000, abs=2)


def test_a_counter_that_is_brought_up_to_date_late_is_no_gap():
    """Two looks a millisecond apart: 2 J fall between them, of ten milliseconds and more that were not shown before."""
    history = gpu((1000, 0), (2000, 150), step_ns=MS)
    for at_us, joules in ((2_010_000, 150), (2_011_000, 152), (3_000_000, 300)):
        history.add(Reading("d", at_us * 1000, energy_microjoules=joules * 10**6))
    assert (history.breaks, history.total_microjoules) == (0, 300 * 10**6)


def test_two_gaps_with_one_reading_between_them_are_both_told():
    history = gpu((0, 900), (1000, 1000), (2000, 50), (3000, 20), (4000, 120))
    rows = measure(SCENE, [history], 0, 4000 * MS, OFFSET)
    assert rows[-1].note.count("counter reset") == 2


def test_a_meter_that_tells_in_another_way_from_now_on_leaves_a_gap_and_no_interpolation():
    history = gpu((0, 900), (1000, 1000))
    history.add(Reading("d", 2000 * MS, power_milliwatts=100_000))
    history.add(Reading("d", 3000 * MS, power_milliwatts=100_000))
    rows = measure(SCENE, [history], 0, 3000 * MS, OFFSET)
    assert sum(row.energy_millijoules for row in rows) < 201_000
    assert "told in another way since: 0 to 400 J of 1.0 s are missing" in rows[-1].note


def remainder(whole, part):
    """A node's remainder, brought up to date reading by reading."""
    left = DeviceHistory(remainder_device(whole.device), "sim", S, whole=whole)
    return Remainder(whole, [part], left), left


def follow(found, readings, *, part_watts=100):
    """The node's readings (ms, J or None for power, W), its part read as often as it."""
    for at_ms, joules, watts in readings:
        value = {"power_milliwatts": watts * 1000} if joules is None else {"energy_microjoules": joules * 10**6}
        found.whole.add(Reading("n", at_ms * MS, **value))
        found.parts[0].add(Reading("d", at_ms * MS, energy_microjoules=part_watts * at_ms * 1000))
        found.follow(at_ms * MS)


def test_what_a_nodes_meter_did_not_read_its_remainder_says():
    """Nobody looks for 20 s: both claim their counters' difference and say so. Then the node's counter restarts."""
    whole = DeviceHistory(device(Component.NODE), "sim", S)
    found, left = remainder(whole, gpu(step_ns=MS))
    follow(found, [(at, at * 3 // 10, None) for at in (1_000, 2_000, 22_000, 23_000)])
    rows = measure(SCENE, [found.parts[0], left], 1_000 * MS, 23_000 * MS, OFFSET)
    assert [row.coverage for row in rows] == pytest.approx([1 - 20 / 22] * 2, abs=1e-3)
    assert all("claimed across 20 s without a reading" in row.note for row in rows)
    follow(found, [(24_000, 5, None), (25_000, 305, None)])
    (row,) = measure(SCENE, [left], 23_000 * MS, 25_000 * MS, OFFSET)
    assert "counter reset: at least 5 J are missing" in row.note
    assert row.energy_millijoules == pytest.approx(200_000, abs=1)


def test_a_remainder_is_as_uncertain_as_its_nodes_power_was_unsteady():
    """200 W and 400 W in turn, of which 100 W are a part's: each jump is 200 J in 1 s, over sqrt 12, on the whole."""
    whole = DeviceHistory(device(Component.NODE, Method.INTEGRATED, u_indep=0.0), "sim", S)
    found, left = remainder(whole, gpu(step_ns=MS))
    follow(found, [(at * 1000, None, 200 + 200 * (at % 2)) for at in range(1, 13)])
    (row,) = measure(SCENE, [left], 1_000 * MS, 11_000 * MS, OFFSET)
    assert row.energy_millijoules == pytest.approx(2_000_000, abs=1)
    assert row.u_indep * row.energy_millijoules == pytest.approx((10 * 200_000**2 / 12) ** 0.5, rel=1e-3)
