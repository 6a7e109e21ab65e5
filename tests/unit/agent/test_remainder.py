"""What a node draws beyond its parts: leaves only, nothing clipped, nothing lost while meters lag."""

import json

import pytest
from builders import device
from hypothesis import given
from hypothesis import strategies as st
from joulebook.history import DeviceHistory
from joulebook.meters import Reading
from joulebook.remainder import DEFICIT, Remainder, remainder_device
from joulebook.rows import Component, Method

S = 1_000_000_000


def history(component, **values):
    values = {"device_id": f"m/{component}", **values}
    return DeviceHistory(device(component, **values), "sim", S)


def node(**values):
    whole = history(Component.NODE, **values)
    left = DeviceHistory(remainder_device(whole.device), "sim", S, whole=whole)
    return whole, left


def read(known, at, joules):
    known.add(Reading("d", at, energy_microjoules=round(joules * 1e6)))


def test_the_remainder_is_a_leaf_of_its_own():
    whole, left = node()
    assert (left.device.device_id, left.device.component) == ("m/node/remainder", Component.OTHER)
    assert "beyond its metered parts" in left.device.note
    assert left.whole is whole


def test_parts_and_remainder_are_the_whole():
    whole, left = node()
    part = history(Component.CPU)
    found = Remainder(whole, [part], left)
    for second in range(1, 11):
        read(part, second * S, 100 * second)
        read(whole, second * S, 150 * second)
        found.follow(second * S)
    assert left.history.gained(0, 20 * S) / 1e6 == pytest.approx(50 * 9, rel=1e-3)
    assert not left.notes


def test_a_whole_that_lags_behind_its_parts_loses_nothing_and_says_so():
    """The controller shows the load two seconds late: for that long the parts draw more than it says."""
    whole, left = node()
    part = history(Component.GPU)
    found = Remainder(whole, [part], left)
    drawn = [0.0]
    for second in range(60):
        drawn.append(drawn[-1] + (1000 if 10 <= second < 40 else 100))
    for second in range(3, 60):
        read(part, second * S, drawn[second])
        read(whole, second * S, drawn[second - 2] + 50 * second)
        found.follow(second * S)
    assert any(note == DEFICIT for _, note in left.notes)
    assert left.history.gained(0, 60 * S) / 1e6 == pytest.approx(50 * 56, rel=0.05)


def test_what_the_parts_are_not_known_up_to_waits():
    whole, left = node()
    part = history(Component.CPU)
    found = Remainder(whole, [part], left)
    for second in (1, 2):
        read(part, second * S, 100 * second)
        read(whole, second * S, 150 * second)
        found.follow(second * S)
    read(whole, 3 * S, 450)
    found.follow(3 * S)
    assert left.history.last_time < 3 * S - S // 2
    read(part, 3 * S, 300)
    found.follow(3 * S)
    assert left.history.gained(0, 4 * S) / 1e6 == pytest.approx(100, rel=0.01)


def test_a_part_that_lost_track_is_not_taken_to_have_drawn_that_before():
    """The whole is told late: by then a part has gone on from a gap, which is not in what it drew before."""
    whole, left = node()
    part = history(Component.GPU)
    found = Remainder(whole, [part], left)
    for second in range(1, 11):
        read(part, second * S, 100 * second)
    read(part, 11 * S, 0)  # reset
    read(part, 12 * S, 100)
    for second in range(1, 10):
        read(whole, second * S, 150 * second)
    found.follow(12 * S)
    assert left.history.gained(0, 9 * S) / 1e6 == pytest.approx(50 * 8, rel=0.01)
    assert not left.notes


def test_a_part_that_is_lost_for_good_leaves_its_energy_to_the_remainder():
    whole, left = node()
    part = history(Component.GPU)
    found = Remainder(whole, [part], left)
    for second in range(1, 21):
        if second <= 5:
            read(part, second * S, 100 * second)
        read(whole, second * S, 150 * second)
        found.follow(second * S)
    assert left.history.gained(0, 20 * S) / 1e6 == pytest.approx(150 * 19 - 100 * 4, rel=0.01)


def test_a_whole_that_was_not_read_leaves_a_gap():
    whole, left = node(method=Method.INTEGRATED)
    part = history(Component.CPU)
    found = Remainder(whole, [part], left)
    for second in (1, 2, 3, 20, 21, 22):
        read(part, second * S, 100 * second)
        whole.add(Reading("d", second * S, power_milliwatts=150_000))
        found.follow(second * S)
    assert [(round(a / S), round(b / S)) for a, b, _ in left.history.known(0, 30 * S)] == [(1, 3), (20, 21)]
    assert left.history.gained(0, 30 * S) / 1e6 == pytest.approx(50 * 3, rel=0.01)


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=2, max_size=30))
def test_the_remainder_never_falls_and_reaches_the_true_difference_at_its_greatest(powers):
    whole, left = node()
    part = history(Component.CPU)
    found = Remainder(whole, [part], left)
    of_part = of_whole = 0
    differences = []
    for second, (own, beyond) in enumerate(powers, 1):
        of_part, of_whole = of_part + own, of_whole + own + beyond - 100 * (second % 2)
        of_whole = max(of_whole, 0)
        read(part, second * S, of_part)
        if second > 1 and of_whole < differences[-1][1]:
            of_whole = differences[-1][1]
        read(whole, second * S, of_whole)
        found.follow(second * S)
        differences.append((of_whole - of_part, of_whole))
    values = [v for segment in left.history.segments for v in segment.values]
    assert values == sorted(values)
    taken = [difference for difference, _ in differences[: len(values)]]
    assert len(values) >= len(powers) - 1
    # A part's knots lie half a millisecond before its readings: at 500 W a quarter of a joule.
    assert values[-1] / 1e6 == pytest.approx(max(taken) - taken[0], abs=0.5)


def agents(edges, *, break_part=False):
    """Two agents of one boot with an absence of 20 s between them, and where the first left node and part.

    200 W of the node go to its part (120 W) and to the rest of it (80 W).
    """
    whole, left = node()
    part = history(Component.CPU)
    first = Remainder(whole, [part], left)
    for second in range(1, 11):
        read(part, second * S, 120 * second)
        read(whole, second * S, 200 * second)
        first.follow(second * S)
    left.edge, part.edge = edges
    raw = part.raw_at(part.edge)
    saved = json.loads(json.dumps(first.state()))
    whole, left = node()
    part = history(Component.CPU)
    if not break_part:
        part.resume(Reading("d", edges[1], energy_microjoules=raw), 30 * S)
    second = Remainder(whole, [part], left)
    second.resume(saved, 30 * S)
    return second


@pytest.mark.parametrize("edges", [(9 * S, 9 * S), (8 * S, 9 * S), (9 * S, 5 * S + S // 2)])
def test_what_a_node_drew_beyond_its_parts_while_no_agent_lived_is_claimed(edges):
    found = agents(edges)
    for now in range(30, 41):
        read(found.whole, now * S, 200 * now)  # the node is read first, and must not have its part's joules
        found.follow(now * S)
        read(found.parts[0], now * S, 120 * now)
        found.follow(now * S)
    gained = found.left.history.gained(0, 100 * S) / 1e6
    assert gained == pytest.approx(80 * (40 - edges[0] / S), abs=200 * 0.002)
    assert found.left.edge == edges[0]
    assert not [note for _, note in found.left.notes]
    ((since, until, note),) = found.left.unread_in(0, 100 * S)
    assert (since, until, note) == (edges[0], 30 * S, "claimed across an absence of the agent")


def test_a_deficit_outlives_the_agent():
    """The parts drew 30 J more than the node has said when the agent died: they are gained again, not booked."""
    whole, left = node()
    part = history(Component.CPU)
    first = Remainder(whole, [part], left)
    for second, ahead in ((1, 0), (2, 0), (3, 30), (4, 30)):
        read(part, second * S, 100 * second + ahead)
        read(whole, second * S, 110 * second)
        first.follow(second * S)
    left.edge = part.edge = 3 * S
    saved, raw = first.state(), part.raw_at(3 * S)
    whole, left = node()
    part = history(Component.CPU)
    part.resume(Reading("d", 3 * S, energy_microjoules=raw), 5 * S)
    second = Remainder(whole, [part], left)
    second.resume(saved, 5 * S)
    for now in range(5, 21):
        read(part, now * S, 100 * now + 30)
        read(whole, now * S, 110 * now)
        second.follow(now * S)
    # 10 W beyond the parts from 1 s to 20 s, less 30 J that the parts were ahead, less the 10 J booked by 3 s
    assert left.history.gained(0, 20 * S) / 1e6 == pytest.approx(190 - 30 - 10, abs=0.5)


@pytest.mark.parametrize("kind", ["the part does not go on", "another part", "polled node", "lost track"])
def test_where_not_all_go_on_there_is_a_gap(kind):
    if kind == "the part does not go on":
        found = agents((9 * S, 9 * S), break_part=True)
        assert found.whole.last is None
        return
    whole, left = node(method=Method.INTEGRATED) if kind == "polled node" else node()
    part = history(Component.CPU)
    part.resume(Reading("d", 9 * S, energy_microjoules=1), 30 * S)
    found = Remainder(whole, [part], left)
    if kind == "lost track":
        assert found.state() is None, "it has told nothing yet"
        return
    names = ["m/other"] if kind == "another part" else ["m/cpu"]
    found.resume({"raw": 1, "edge": 9 * S, "base": 0, "parts": names}, 30 * S)
    assert whole.last is None
    assert left.history.last_time is None
