"""Binding marks to joules: cuts at changes of state, reservations, CPU seconds, GPUs by who uses them."""

import math

import pytest
from builders import claimed, counter_history, cpu_history, device, line, measured
from joulebook.binding import Machine, Party, reassign
from joulebook.cgroup import Limit
from joulebook.clock import Offset
from joulebook.history import DeviceHistory
from joulebook.meters import Busy, Reading
from joulebook.rows import DIVIDED, Component, Method, Policy, Share, ShareKind
from joulebook.timeline import Timeline

S = 1_000_000_000
OFFSET = Offset(1_000_000 * S)


def party(key, *marks, **values):
    timeline = Timeline()
    for mark in marks:
        timeline.take(mark)
    values = {"run_id": key, "root_run_id": key, "cpu": cpu_history(), **values}
    return Party(key=key, timeline=timeline, **values)


def machine(policy=Policy.RESERVED, cpu=None, **values):
    return Machine("m", "b", cpu or cpu_history(), S, policy=policy, **values)


def used_by(**fractions):
    """Cumulative use of a device by party (others: that of no run)."""
    return {key.replace("others", ""): cpu_history((0, 0), (10 * S, int(f * 10 * S))) for key, f in fractions.items()}


def constant(watts, seconds=10, **values):
    """A device of constant power, read every 10 ms."""
    step = 10_000_000
    return counter_history([(t, t * watts // 1000) for t in range(0, seconds * S + 1, step)], **values)


def test_a_phase_gets_the_energy_between_its_marks():
    # 100 W: 2 s outside phases, 3 s of training, 5 s outside.
    run = party(
        "r",
        line("join", 1, 0, run="r"),
        line("begin", 2, 2 * S, phase="train"),
        line("end", 3, 5 * S, of=2),
    )
    rows = measured(machine(), [constant(100)], [run], S, 9 * S, OFFSET)
    by_phase = {}
    for row in rows:
        for share in row.shares:
            if share.kind is ShareKind.RUN:
                by_phase[share.phase] = by_phase.get(share.phase, 0) + share.millijoules
    assert by_phase["train"] == pytest.approx(300_000, rel=0.01)
    assert by_phase[""] == pytest.approx(500_000, rel=0.01)
    assert sum(row.energy_millijoules for row in rows) == pytest.approx(800_000, rel=0.001)
    assert [(row.started_ns, row.ended_ns) for row in rows] == [(S, 2 * S), (2 * S, 5 * S), (5 * S, 9 * S)]


def test_phases_closer_than_the_shortest_cut_share_a_measurement_by_time():
    marks = [line("join", 1, 0, run="r")]
    for i in range(10):
        marks.append(line("begin", 2 + 2 * i, S + i * 2_000_000, phase="a"))
        marks.append(line("end", 3 + 2 * i, S + i * 2_000_000 + 500_000, of=2 + 2 * i))
    rows = measured(machine(), [constant(100)], [party("r", *marks)], S - 1_000_000, S + 18_000_000, OFFSET)
    assert len(rows) == 1
    by_phase = {share.phase: share.weights.reserved_fraction for share in rows[0].shares if share.run_id}
    assert by_phase["a"] == pytest.approx(9 * 0.5 / 19, rel=1e-6)  # the tenth begins as the span ends
    assert "too short to resolve" in rows[0].note


def test_two_runs_without_limits_reserve_a_half_each():
    runs = [party(key, line("join", 1, 0, run=key)) for key in ("a", "b")]
    shares = claimed(machine(), constant(100), runs, S, 2 * S)
    assert [s.weights.reserved_fraction for s in shares] == [0.5, 0.5, 0.0]


def test_a_limited_run_reserves_its_limit_and_others_what_it_leaves():
    limited = party("a", line("join", 1, 0, run="a"), cpus=Limit("/a", 2.0))
    free = party("b", line("join", 1, 0, run="b"))
    history = constant(100)
    history.capacity = 8.0
    alone = claimed(machine(), history, [limited], S, 2 * S)
    assert [(s.kind, s.weights.reserved_fraction) for s in alone] == [("run", 0.25), ("unattributed", 0.75)]
    both = claimed(machine(), history, [limited, free], S, 2 * S)
    assert [s.weights.reserved_fraction for s in both] == [0.25, 0.75, 0.0]


def test_a_runs_reservation_goes_to_its_processes_in_a_phase():
    launcher = party("l", line("start", 1, 0, run="r"), run_id="r", root_run_id="r", launcher=True)
    ranks = [
        party(f"k{i}", line("join", 1, 0, run="r"), line("begin", 2, 1, phase="train"), root_run_id="r", rank=i)
        for i in range(2)
    ]
    shares = claimed(machine(), constant(100), [launcher, *ranks], S, 2 * S)
    told = {(s.phase, s.rank): s.weights.reserved_fraction for s in shares if s.run_id}
    assert told == {("", None): 0.0, ("train", 0): 0.5, ("train", 1): 0.5}


def test_cpu_seconds_are_each_partys_own_and_the_rest_is_everybody_elses():
    run = party("r", line("join", 1, 0, run="r"), cpu=cpu_history((0, 0), (10 * S, 4 * S)))
    shares = claimed(machine(cpu=cpu_history((0, 0), (10 * S, 10 * S))), constant(100), [run], S, 6 * S)
    assert [(s.kind, s.weights.cpu_seconds) for s in shares] == [("run", 2.0), ("unattributed", 3.0)]


def test_utilisation_divides_by_cpu_seconds_exactly():
    run = party("r", line("join", 1, 0, run="r"), cpu=cpu_history((0, 0), (10 * S, 3 * S)))
    busy = machine(Policy.UTILISATION, cpu=cpu_history((0, 0), (10 * S, 4 * S)))
    (row,) = measured(busy, [constant(100)], [run], S, 9 * S, OFFSET)
    mine = next(s.millijoules for s in row.shares if s.run_id)
    assert mine == pytest.approx(row.energy_millijoules * 3 / 4, abs=1)
    assert sum(s.millijoules for s in row.shares) == row.energy_millijoules


def test_a_gpu_is_shared_by_who_keeps_it_busy():
    runs = [party(key, line("join", 1, 0, run=key)) for key in ("a", "b")]
    history = constant(200, component=Component.GPU, device_id="GPU-0")
    used = machine(Policy.UTILISATION, gpu_use={"GPU-0": used_by(a=0.6, b=0.2, others=0.2)})
    (row,) = measured(used, [history], runs, S, 9 * S, OFFSET)
    parts = {s.run_id: s.millijoules / row.energy_millijoules for s in row.shares}
    assert parts == pytest.approx({"a": 0.6, "b": 0.2, "": 0.2}, abs=1e-5)


def test_users_that_cannot_be_told_apart_widen_what_each_of_them_had_and_no_one_users():
    runs = [party(key, line("join", 1, 0, run=key)) for key in ("a", "b")]
    history = constant(200, component=Component.GPU, device_id="GPU-0")
    alone, both = {"GPU-0": used_by(a=0.6)}, {"GPU-0": used_by(a=0.6, b=0.2)}
    history.look(4 * S, 5 * S, Busy({1: 0.6, 2: 0.2}, "MPS", u_split=0.3))
    history.look(5 * S, 6 * S, Busy({1: 0.6, 2: 0.2}, "MPS", u_split=0.3))
    gain = history.device.u_common
    for used, start, end, u in (
        (both, 1, 4, gain), (both, 1, 5, math.hypot(gain, 0.3)), (both, 6, 9, gain), (alone, 4, 6, gain),
    ):  # fmt: skip
        (row,) = measured(machine(gpu_use=used), [history], runs, start * S, end * S, OFFSET)
        assert row.u_common == u
        assert row.u_common_key.startswith(DIVIDED) == (u != gain)
        assert (row.note == "MPS") == (end > 4 and start < 6)
    history.forget(6 * S)
    assert history.looks == []


def test_a_run_that_may_not_see_a_gpu_reserves_none_of_it():
    blind = party("a", line("join", 1, 0, run="a"), gpus=frozenset())
    seeing = party("b", line("join", 1, 0, run="b"), gpus=frozenset({"GPU-0"}))
    history = constant(200, component=Component.GPU, device_id="GPU-0")
    told = {s.run_id: s.weights.reserved_fraction for s in claimed(machine(), history, [blind, seeing], S, 2 * S)}
    assert told == {"a": 0.0, "b": 1.0, "": 0.0}


def test_the_edge_error_of_a_counter_is_in_the_independent_part():
    # METHODS 1.3: u_r = tau / (T sqrt 6); tau = 0.1 s over T = 8 s: 0.51 %.
    history = constant(100, step_ns=100_000_000)
    (row,) = measured(machine(), [history], [], S, 9 * S, OFFSET)
    assert row.u_indep == pytest.approx(0.1 / (8 * 6**0.5), rel=1e-6)
    assert row.method is Method.COUNTER


def test_moves_turn_the_old_shares_into_the_new_ones():
    def share(run_id, millijoules):
        kind = ShareKind.RUN if run_id else ShareKind.UNATTRIBUTED
        return Share(kind, millijoules, Policy.RESERVED, run_id)

    moves = reassign([share("", 70), share("a", 30)], [share("", 0), share("a", 45), share("b", 55)])
    assert [(mj, giver.run_id, taker.run_id) for mj, giver, taker in moves] == [(15, "", "a"), (55, "", "b")]


def test_runs_in_one_limited_group_share_its_limit():
    runs = [party(key, line("join", 1, 0, run=key), cpus=Limit("/pod", 2.0)) for key in ("a", "b")]
    history = constant(100)
    history.capacity = 8.0
    shares = claimed(machine(), history, runs, S, 2 * S)
    assert [s.weights.reserved_fraction for s in shares] == [0.125, 0.125, 0.75]


def test_a_gpu_in_slices_is_reserved_by_the_slices_that_a_run_sees():
    parts = {"MIG-a": 3 / 7, "MIG-b": 2 / 7, "MIG-c": 1 / 7}
    history = constant(200, component=Component.GPU, device_id="GPU-0", partitions=parts)
    runs = [party(key, line("join", 1, 0, run=key), gpus=frozenset({slice_})) for key, slice_ in
            (("a", "MIG-a"), ("b", "MIG-b"))]  # fmt: skip
    told = {s.run_id: s.weights.reserved_fraction for s in claimed(machine(), history, runs, S, 2 * S)}
    assert told == pytest.approx({"a": 3 / 7, "b": 2 / 7, "": 2 / 7})


def test_polled_power_of_a_short_phase_is_suspect_and_its_interval_wide():
    values = {"component": Component.GPU, "method": Method.INTEGRATED, "device_id": "GPU-0"}
    history = DeviceHistory(device(**values), "sim", S)
    for t in range(0, 30 * S, S // 10):
        history.add(Reading("GPU-0", t, power_milliwatts=200_000))
    short = [line("begin", 2, 2 * S, phase="train"), line("end", 3, 6 * S, of=2)]
    run = party("r", line("join", 1, 0, run="r"), *short)
    rows = {row.started_ns: row for row in measured(machine(), [history], [run], S, 20 * S, OFFSET)}
    assert "aliasing-suspect" in rows[2 * S].note
    assert rows[2 * S].u_indep >= 0.25
    assert "aliasing" not in rows[6 * S].note


@pytest.mark.parametrize(("period_ns", "suspect"), [(S // 2, True), (14 * S, False)])
def test_instant_power_that_moves_as_fast_as_it_is_polled_is_suspect(period_ns, suspect):
    values = {"component": Component.GPU, "method": Method.INTEGRATED, "device_id": "GPU-0"}
    history = DeviceHistory(device(**values), "sim", S)
    for t in range(0, 30 * S, S // 10):
        history.add(Reading("GPU-0", t, power_milliwatts=400_000 if t % period_ns < period_ns // 2 else 100_000))
    (row,) = measured(machine(), [history], [], S, 29 * S, OFFSET)
    assert ("aliasing-suspect: the load moves" in row.note) == suspect
    assert (row.u_indep >= 0.25) == suspect
