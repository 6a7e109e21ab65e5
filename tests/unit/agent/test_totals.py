"""Running totals: exact, never falling, bounded, and nothing counted twice however runs come and go."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joulebook.rows import Component, Labels, Measurement, Method, Policy, Share, ShareKind
from joulebook.totals import OTHER, Totals

SECOND = 10**9


def share(millijoules, run_id="", phase="", kind=None):
    kind = kind or (ShareKind.RUN if run_id else ShareKind.UNATTRIBUTED)
    return Share(kind, millijoules, Policy.RESERVED, run_id=run_id, phase=phase)


def row(*shares, device="d", component=Component.CPU, start=0, seconds=4, coverage=1.0):
    return Measurement(
        machine_id="m",
        boot_id="b",
        device_id=device,
        component=component,
        started_at_us=start * 10**6,
        ended_at_us=(start + seconds) * 10**6,
        started_ns=start * SECOND,
        ended_ns=(start + seconds) * SECOND,
        energy_millijoules=sum(share.millijoules for share in shares),
        meter="rapl",
        method=Method.COUNTER,
        u_common=0.03,
        u_common_key="k",
        u_indep=0.0,
        coverage=coverage,
        source="agent",
        shares=shares,
    )


def by_run(energies):
    return {run.run_id: sum(millijoules for _, _, millijoules in run.parts) for run in energies.runs}


def by_kind(energies):
    totals = Counter()
    for part in energies.shares:
        totals[part.kind] += part.millijoules
    return totals


def test_a_row_is_counted_by_device_kind_phase_and_run():
    totals = Totals()
    totals.add([row(share(700, "r", "train"), share(300), coverage=0.5)])
    _, energies = totals.freeze()
    (device,) = energies.devices
    assert (device.millijoules, device.observed_ns, device.created_us) == (1000, 2 * SECOND, 0)
    assert by_kind(energies) == {ShareKind.RUN: 700, ShareKind.UNATTRIBUTED: 300}
    (phase,) = energies.phases
    assert (phase.phase, phase.millijoules) == ("train", 700)
    assert phase.exemplar is not None
    assert (phase.exemplar.run_id, phase.exemplar.millijoules, phase.exemplar.at_us) == ("r", 700, 4 * 10**6)
    (run,) = energies.runs
    assert run.parts == (("train", Component.CPU, 700),)
    assert energies.residual_millijoules == 0


def test_a_run_and_its_phases_are_shown_at_zero_before_their_first_joule():
    totals = Totals()
    totals.open("r", 5, Labels(name="n", project="p", study="s", arm="a"))
    _, energies = totals.freeze()
    assert [(run.run_id, run.name, run.project, run.study, run.arm) for run in energies.runs] == [
        ("r", "n", "p", "s", "a")
    ]
    totals.expect([row(share(700, "r", "train"), share(300))])
    _, energies = totals.freeze()
    assert energies.runs[0].parts == (("train", Component.CPU, 0),)
    assert by_kind(energies) == {ShareKind.RUN: 0, ShareKind.UNATTRIBUTED: 0}
    assert not energies.devices


def test_a_counter_does_not_fall_when_a_late_mark_moves_joules_and_is_right_again_once_it_has_grown():
    totals = Totals()
    totals.add([row(share(1000))])
    totals.move(Component.CPU, 600, share(600), share(600, "r", "train"), 0)
    _, energies = totals.freeze()
    assert by_kind(energies) == {ShareKind.UNATTRIBUTED: 1000, ShareKind.RUN: 600}
    assert dict(energies.overstated) == {"share": 600, "phase": 0, "run": 0}
    assert energies.residual_millijoules == 0
    totals.add([row(share(800), start=4)])
    _, energies = totals.freeze()
    assert by_kind(energies) == {ShareKind.UNATTRIBUTED: 1200, ShareKind.RUN: 600}
    assert dict(energies.overstated) == {"share": 0, "phase": 0, "run": 0}


def test_an_ended_run_goes_only_after_its_last_value_was_seen_and_its_grace_is_over():
    totals = Totals(keep_ns=900 * SECOND)
    totals.open("r", 0)
    totals.add([row(share(5, "r"))])
    seen, _ = totals.freeze()
    totals.expire(0, seen)
    assert by_run(totals.freeze()[1]) == {"r": 5}, "it is open"
    totals.end("r")
    totals.add([row(share(7, "r"), start=4)])
    totals.expire(10**6 * SECOND, seen)
    assert by_run(totals.freeze()[1]) == {"r": 12}, "its last value was seen by nobody"
    seen, _ = totals.freeze()
    totals.expire(10**6 * SECOND, seen)
    totals.expire((10**6 + 899) * SECOND, seen)
    assert by_run(totals.freeze()[1]) == {"r": 12}, "its grace is not over"
    totals.expire((10**6 + 900) * SECOND, seen)
    _, energies = totals.freeze()
    assert by_run(energies) == {}
    assert by_kind(energies)[ShareKind.RUN] == 12, "the machine's totals keep it"


def test_beyond_the_bound_runs_are_summed_under_other():
    totals = Totals(most_runs=2)
    for name in "abcd":
        totals.open(name, 0)
        totals.add([row(share(10, name))])
    _, energies = totals.freeze()
    assert by_run(energies) == {"a": 10, "b": 10, OTHER: 20}
    assert energies.folded_runs == 2


def test_a_run_that_is_itself_called_other_makes_no_second_series_of_that_name():
    totals = Totals(most_runs=2)
    for name in (OTHER, "a", "b", "c"):
        totals.open(name, 0)
        totals.add([row(share(10, name))])
    assert by_run(totals.freeze()[1]) == {"a": 10, "b": 10, OTHER: 20}


def test_a_seen_run_gives_its_place_and_is_not_counted_again_under_other():
    totals = Totals(most_runs=1)
    totals.open("a", 0)
    totals.add([row(share(10, "a"))])
    totals.end("a")
    seen, _ = totals.freeze()
    totals.expire(0, seen)
    totals.add([row(share(3, "b"))])
    assert by_run(totals.freeze()[1]) == {"b": 3}


def test_an_ended_run_that_nobody_has_seen_moves_to_other_whole():
    totals = Totals(most_runs=1)
    totals.add([row(share(10, "a"))])
    totals.end("a")
    totals.add([row(share(3, "b"))])
    assert by_run(totals.freeze()[1]) == {"b": 3, OTHER: 10}


def test_what_moves_to_other_is_what_the_run_holds_now_not_what_it_held():
    totals = Totals(most_runs=1)
    totals.add([row(share(10, "a"))])
    totals.move(Component.CPU, 4, share(4, "a"), share(4), 0)
    totals.end("a")
    totals.add([row(share(3, "b"))])
    assert by_run(totals.freeze()[1]) == {"b": 3, OTHER: 6}


def phases_of(energies, run_id):
    (run,) = [run for run in energies.runs if run.run_id == run_id]
    return {phase for phase, _, _ in run.parts}


def test_series_of_runs_that_have_gone_make_room_for_others():
    totals = Totals(most_parts=2, keep_ns=0)
    for number in range(5):
        totals.add([row(share(1, f"run-{number}", "train"), share(1, f"run-{number}", "eval"))])
        seen, energies = totals.freeze()
        assert phases_of(energies, f"run-{number}") == {"train", "eval"}
        totals.expire(0, seen)


def test_series_that_moved_to_other_count_there():
    totals = Totals(most_runs=1, most_parts=2)
    totals.add([row(share(1, "a", "setup"))])
    totals.add([row(share(1, "b", "train"))])
    totals.add([row(share(1, "b", "eval"))])
    assert phases_of(totals.freeze()[1], "b") == {"train", OTHER}


def test_what_a_late_row_brings_back_goes_again():
    totals = Totals(keep_ns=SECOND)
    totals.add([row(share(10, "gone"))])
    seen, _ = totals.freeze()
    for now in (0, SECOND):
        totals.expire(now, seen)
    assert not totals.freeze()[1].runs


def test_phases_are_bounded():
    totals = Totals(most_phases=3)
    for number in range(10):
        totals.add([row(share(1, "r", f"epoch-{number}"))])
    _, energies = totals.freeze()
    assert {part.phase: part.millijoules for part in energies.phases} == {
        "epoch-0": 1,
        "epoch-1": 1,
        "epoch-2": 1,
        OTHER: 7,
    }
    assert {phase: millijoules for phase, _, millijoules in energies.runs[0].parts}[OTHER] == 7


def test_however_many_phases_runs_have_their_series_are_bounded_together():
    totals = Totals(most_parts=50)
    for number in range(100):
        totals.add([row(share(1, f"run-{number}", f"phase-{phase}")) for phase in range(5)])
    _, energies = totals.freeze()
    assert sum(len(run.parts) for run in energies.runs) == 50 + 90  # one more, "other", for each run that came later
    assert sum(by_run(energies).values()) == 500


def test_memory_is_bounded_over_ten_thousand_runs_that_nobody_scrapes():
    totals = Totals()
    for number in range(10_000):
        totals.open(f"run-{number}", 0)
        totals.add([row(share(1, f"run-{number}", "train"), share(1))])
        totals.end(f"run-{number}")
    _, energies = totals.freeze()
    assert len(energies.runs) == 201
    assert sum(by_run(energies).values()) == 10_000
    assert energies.folded_runs == 9_800
    assert len(json.dumps(totals.state())) < 50_000


def test_a_frozen_view_does_not_change_and_is_kept_while_nothing_happens():
    totals = Totals()
    totals.add([row(share(1, "r"))])
    first, before = totals.freeze()
    second, same = totals.freeze()
    assert (second, same is before) == (first + 1, True)
    totals.add([row(share(1, "r"), start=4)])
    _, after = totals.freeze()
    assert (by_run(before), by_run(after)) == ({"r": 1}, {"r": 2})


ROWS = st.lists(
    st.tuples(
        st.integers(0, 6),
        st.sampled_from(["", "train", "eval", "x", "y"]),
        st.integers(0, 10**6),
        st.integers(0, 10**6),
        st.sampled_from(list(Component)[:3]),
    ),
    max_size=40,
)


@given(rows=ROWS, looks=st.lists(st.booleans(), min_size=40, max_size=40), moves=st.lists(st.floats(0, 1), max_size=40))
@settings(max_examples=200)
def test_shares_sum_to_measurements_whatever_comes_and_goes_and_what_a_reader_adds_up_is_the_same(rows, looks, moves):
    """A reader sees some snapshots only; the sum of what it saw each series rise by is the runs' energy, exactly."""
    totals = Totals(most_runs=3, most_phases=2, most_parts=5, keep_ns=2 * SECOND)
    measured, runs_gained, last, owed, seen = 0, 0, {}, 0, 0
    for number, (run, phase, own, rest, component) in enumerate(rows):
        name = f"run-{run}"
        added = row(share(own, name, phase), share(rest), component=component, device=component, start=4 * number)
        totals.expect([added])
        totals.add([added])
        measured += own + rest
        if number < len(moves):
            part = int(moves[number] * rest)
            totals.move(component, part, share(part), share(part, name, phase), 0)
        if looks[number] or number == len(rows) - 1:
            seen, energies = totals.freeze()
            now = {
                (part.run_id, part.created_us, phase, component): millijoules
                for part in energies.runs
                for phase, component, millijoules in part.parts
            }
            assert all(now[key] >= last.get(key, 0) for key in now)
            runs_gained += sum(now[key] - last.get(key, 0) for key in now)
            last = now
            owed = dict(energies.overstated)
            assert energies.residual_millijoules == 0
            assert sum(device.millijoules for device in energies.devices) == measured
            assert sum(by_kind(energies).values()) == measured + owed["share"]
            assert len(energies.runs) <= 4
            assert sum(len(run.parts) for run in energies.runs) <= 5 + 4 * 3
            assert runs_gained == by_kind(energies)[ShareKind.RUN]
            assert sum(part.millijoules for part in energies.phases) == by_kind(energies)[ShareKind.RUN]
        totals.end(name)
        totals.expire(number * SECOND, seen)


@given(rows=ROWS)
def test_totals_go_on_over_a_clean_restart(rows):
    whole, first = Totals(), Totals()
    second = None
    for number, (run, phase, own, rest, component) in enumerate(rows):
        added = row(share(own, f"run-{run}", phase), share(rest), component=component, device=component, start=number)
        if number == len(rows) // 2:
            second = Totals()
            second.restore(json.loads(json.dumps(first.state())))
        (second or first).add([added])
        whole.add([added])
    got, wanted = (second or first).freeze()[1], whole.freeze()[1]
    assert (got.devices, got.shares) == (wanted.devices, wanted.shares)
    assert by_run(got) == by_run(wanted)


def test_restoring_nothing_begins_at_zero():
    totals = Totals()
    totals.restore(None)
    assert totals.freeze()[1].devices == ()


def test_a_broken_row_shows_in_the_residual():
    totals = Totals()
    good = row(share(10))
    totals.add([good])
    object.__setattr__(good, "shares", (share(9),))
    totals.add([good])
    assert totals.freeze()[1].residual_millijoules == 1


@pytest.mark.parametrize("open_again", [True, False])
def test_a_run_that_goes_on_is_kept(open_again):
    totals = Totals(keep_ns=SECOND)
    totals.open("r", 0)
    totals.add([row(share(1, "r"))])
    totals.end("r")
    if open_again:
        totals.open("r", 0)
    seen, _ = totals.freeze()
    totals.expire(0, seen)
    totals.expire(SECOND, seen)
    assert bool(totals.freeze()[1].runs) is open_again
