"""Laws of binding: whatever the marks, every span's energy is exhausted, and late marks end where early ones do."""

from itertools import pairwise

from builders import counter_history, cpu_history, line, measured
from hypothesis import given
from hypothesis import strategies as st
from joulebook.binding import Machine, Party, reassign
from joulebook.cgroup import Limit
from joulebook.clock import Offset
from joulebook.rows import Policy, Reassignment
from joulebook.split import resplit
from joulebook.timeline import Timeline
from joulebook_collector.moves import with_moves

S = 1_000_000_000
OFFSET = Offset(1_000_000 * S)
START, END = S, 5 * S


@st.composite
def timelines(draw, run_id):
    """A process that joins, goes through phases that may nest, and perhaps leaves."""
    at = draw(st.integers(0, END))
    timeline = Timeline()
    timeline.take(line("join", 1, at, run=run_id))
    stack, n = [], 1
    for _ in range(draw(st.integers(0, 8))):
        at += draw(st.integers(0, 2 * S))
        n += 1
        if stack and draw(st.booleans()):
            timeline.take(line("end", n, at, of=stack.pop()))
        else:
            stack.append(n)
            timeline.take(line("begin", n, at, phase=draw(st.sampled_from(["train", "eval"]))))
    if draw(st.booleans()):
        timeline.take(line("leave", n + 1, at + draw(st.integers(0, S)), run=run_id))
    return timeline


@st.composite
def worlds(draw):
    """Up to three runs, their CPU use, and a machine that was busy at least as long as they together."""
    parties, total = [], 0
    for i in range(draw(st.integers(0, 3))):
        used = draw(st.integers(0, 8)) * S
        total += used
        cpu = cpu_history((0, 0), (10 * S, used))
        limit = draw(st.sampled_from([None, 1.0, 3.0, 8.0]))
        run_id = f"r{i}"
        cpus = None if limit is None else Limit(f"/r{draw(st.integers(0, i))}", limit)
        parties.append(Party(run_id, run_id, run_id, draw(timelines(run_id)), cpu, cpus=cpus))
    machine_cpu = cpu_history((0, 0), (10 * S, total + draw(st.integers(0, 8)) * S))
    return Machine("m", "b", machine_cpu, S, policy=draw(st.sampled_from(Policy))), parties


def device_of(watts):
    history = counter_history([(t, t * watts // 1000) for t in range(0, 6 * S, 10_000_000)])
    history.capacity = 8.0
    return history


@given(worlds(), st.integers(0, 500))
def test_shares_exhaust_every_measurement_and_measurements_exhaust_the_span(world, watts):
    machine, parties = world
    history = device_of(watts)
    rows = measured(machine, [history], parties, START, END, OFFSET)
    for row in rows:
        assert sum(share.millijoules for share in row.shares) == row.energy_millijoules
        assert all(share.millijoules >= 0 for share in row.shares)
        assert sum(s.weights.reserved_fraction for s in row.shares) < 1 + 1e-6
    segment = history.history.segments[0]
    assert sum(row.energy_millijoules for row in rows) == segment.at(END) // 1000 - segment.at(START) // 1000
    assert all(a.ended_ns == b.started_ns for a, b in pairwise(rows))


@given(worlds(), st.integers(1, 500), st.integers(START + S // 10, END - S // 10))
def test_closing_a_span_in_two_changes_no_total(world, watts, middle):
    machine, parties = world

    def totals(*edges):
        found = {}
        for a, b in pairwise(edges):
            for row in measured(machine, [device_of(watts)], parties, a, b, OFFSET):
                found[""] = found.get("", 0) + row.energy_millijoules
        return found

    assert totals(START, END) == totals(START, middle, END)


@given(worlds(), worlds(), st.integers(1, 500))
def test_reassignments_end_where_early_marks_would_have(before, after, watts):
    """The old shares with their moves hold the millijoules of the new shares, and nothing is lost on the way."""
    machine, parties = before
    for row in measured(machine, [device_of(watts)], parties, START, END, OFFSET):
        later = measured(after[0], [device_of(watts)], after[1], row.started_ns, row.ended_ns, OFFSET)
        if len(later) != 1 or later[0].energy_millijoules != row.energy_millijoules:
            continue
        wanted = later[0].shares
        moves = [Reassignment("i", 1, mj, giver, taker) for mj, giver, taker in reassign(row.shares, wanted)]
        moved = with_moves(row, moves)
        held = {(s.run_id, s.phase): s.millijoules for s in moved.shares if s.millijoules}
        assert held == {(s.run_id, s.phase): s.millijoules for s in wanted if s.millijoules}
        assert moved.note == row.note
        assert sum(s.millijoules for s in resplit(moved, Policy.UTILISATION)) == row.energy_millijoules
