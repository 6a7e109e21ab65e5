"""Hand-worked sums of one run. All millijoules; spans of 10 s on one boot clock."""

from __future__ import annotations

from dataclasses import replace

import pytest
from joulebook.errors import JoulebookError, LedgerError
from joulebook.remainder import SUFFIX
from joulebook.rows import (
    UNREAD,
    Component,
    Labels,
    Measurement,
    Method,
    Policy,
    Run,
    Share,
    ShareKind,
    Status,
    Weights,
)
from joulebook.split import split
from joulebook.summary import (
    OUTSIDE_PHASES,
    REMAINDER,
    Conservation,
    check_conservation,
    combined_u,
    conservation_under,
    document,
    iso_utc,
    run_energy,
    run_in,
)

SECOND = 1_000_000_000
START_US = 1_780_000_000_000_000


def run_share(
    millijoules: int, run_id: str = "r1", phase: str = "train", cpu: float = 1.0, reserved: float = 1.0
) -> Share:
    return Share(ShareKind.RUN, millijoules, Policy.RESERVED, run_id, phase, weights=Weights(cpu, 0.0, reserved))


def rest(millijoules: int, cpu: float = 0.0, reserved: float = 0.0) -> Share:
    return Share(ShareKind.UNATTRIBUTED, millijoules, Policy.RESERVED, weights=Weights(cpu, 0.0, reserved))


def measured(
    *shares: Share, device: str = "package-0", at: int = 0, seconds: int = 10, **changes: object
) -> Measurement:
    base = Measurement(
        machine_id="m",
        boot_id="b",
        device_id=device,
        component=Component.CPU,
        started_at_us=START_US + at * 1_000_000,
        ended_at_us=START_US + (at + seconds) * 1_000_000,
        started_ns=at * SECOND,
        ended_ns=(at + seconds) * SECOND,
        energy_millijoules=sum(s.millijoules for s in shares),
        meter="rapl",
        method=Method.COUNTER,
        u_common=0.03,
        u_common_key="rapl",
        u_indep=0.0,
        coverage=1.0,
        source="agent",
        shares=shares,
    )
    return replace(base, **changes)


def a_run(seconds: int = 20) -> Run:
    return Run("r1", "m", "b", Status.OK, START_US, 0, Labels(), START_US + seconds * 1_000_000, seconds * SECOND)


def test_energy_falls_to_component_phase_and_conservation() -> None:
    # cpu 700 + 400, dram 90; others 300 of run r2 and 100 that nobody claimed
    energy = run_energy(
        a_run(),
        [
            measured(run_share(700), run_share(300, "r2")),
            measured(run_share(400, phase="eval"), rest(100), at=10),
            measured(run_share(90), device="dram-0", component=Component.DRAM, u_common=0.1, u_common_key="dram"),
        ],
    )
    assert energy.component == {Component.CPU: 1100, Component.DRAM: 90}
    assert energy.phase == {"train": {Component.CPU: 700, Component.DRAM: 90}, "eval": {Component.CPU: 400}}
    assert energy.devices == {"package-0": 1500, "dram-0": 90}
    assert (energy.conservation.measured, energy.conservation.runs) == (1590, 1490)
    assert (energy.conservation.idle, energy.conservation.unattributed) == (0, 100)
    assert energy.conservation.holds


def test_intervals_add_common_gain_within_a_key_and_square_it_across_keys() -> None:
    # cpu: 1000 mJ at 3 % of one gain -> u = 30, interval 1000 +- 60
    # dram: 400 mJ at 10 % -> u = 40, interval 400 +- 80; together sqrt(30^2 + 40^2) = 50 -> 1400 +- 100
    energy = run_energy(
        a_run(10),
        [
            measured(run_share(600)),
            measured(run_share(400), device="package-1"),
            measured(run_share(400), device="dram-0", component=Component.DRAM, u_common=0.1, u_common_key="dram"),
        ],
    )
    assert energy.interval == {Component.CPU: (940, 1060), Component.DRAM: (320, 480)}
    assert energy.u_own == pytest.approx(50.0)
    assert energy.own_interval == (1300, 1500)


def test_eight_boards_with_one_gain_error_do_not_average_it_away() -> None:
    assert combined_u([(100, "nvml", 0.05, 0.0)] * 8) == pytest.approx(40.0)  # 5 % of 800
    assert combined_u([(100, "", 0.0, 0.05)] * 4) == pytest.approx(10.0)  # 5 x sqrt 4


def test_an_interval_never_goes_below_zero() -> None:
    energy = run_energy(a_run(10), [measured(run_share(100), u_common=0.8)])
    assert energy.interval[Component.CPU] == (0, 260)


def test_another_policy_splits_again_from_the_weights() -> None:
    # reserved gave 50:50; by CPU seconds it is 3:1
    halves = measured(run_share(500, cpu=3.0, reserved=0.5), run_share(500, "r2", cpu=1.0, reserved=0.5), rest(0))
    assert run_energy(a_run(10), [halves]).own == 500
    assert run_energy(a_run(10), [halves], Policy.UTILISATION).own == 750


def test_children_are_summed_apart() -> None:
    energy = run_energy(a_run(10), [measured(run_share(100), run_share(40, "c1"), run_share(2, "c2"))], children=["c1"])
    assert (energy.own, energy.child, energy.total) == (100, {"c1": 40}, 140)


def test_the_worst_method_names_the_component() -> None:
    rows = [measured(run_share(1)), measured(run_share(1), at=10, method=Method.MODELLED)]
    assert run_energy(a_run(), rows).method == {Component.CPU: Method.MODELLED}


def test_coverage_counts_only_what_lies_in_the_run() -> None:
    # 5 of the first 10 s are before the run ends at 15 s: 10 + 5 of 15 s, the second half-observed
    rows = [measured(run_share(1)), measured(run_share(1), at=10, coverage=0.5)]
    assert run_energy(a_run(15), rows).coverage == pytest.approx((10 + 2.5) / 15)


def test_a_device_counts_what_lies_in_the_run() -> None:
    # 0-10 s whole; of 10-20 s the 5 s until the run ends; of 15-25 s, which holds a late share, nothing
    rows = [measured(run_share(300)), measured(run_share(100), rest(100), at=10)]
    late = measured(run_share(1), rest(99), at=15, device="gpu-0", component=Component.GPU)
    energy = run_energy(a_run(15), [*rows, late])
    assert energy.devices == {"package-0": 400, "gpu-0": 0}
    assert energy.conservation.measured == 600


def test_a_device_that_was_away_for_the_whole_run_was_not_observed() -> None:
    away = replace(a_run(), record={UNREAD: {"gpu-1": 20 * SECOND}})
    rows = [measured(run_share(1)), measured(run_share(1), at=10)]
    assert (run_energy(away, rows).coverage, run_energy(away, rows).unread) == (0.0, ("gpu-1",))
    # it came back, and its counter's difference is claimed: coverage is that row's
    back = run_energy(away, [*rows, measured(run_share(1), device="gpu-1", seconds=40, coverage=0.25)])
    assert (back.coverage, back.unread) == (pytest.approx(0.25), ())
    # one that went half way through has rows, and they say it already
    gone = replace(a_run(), record={UNREAD: {"package-0": 10 * SECOND}})
    assert (run_energy(gone, rows[:1]).coverage, run_energy(gone, rows[:1]).unread) == (0.5, ())
    # each machine by its own record
    parts = [a_run(), replace(on_n(a_run(), 0, 8), record={UNREAD: {"gpu-1": 8 * SECOND}})]
    both = run_energy(a_run(), [*rows, there(run_share(1), seconds=8)], parts=parts)
    assert (both.coverage, both.unread) == (0.0, ("gpu-1",))


def test_no_measurement_is_no_coverage_and_no_energy() -> None:
    energy = run_energy(a_run(), [])
    assert (energy.coverage, energy.component, energy.own) == (0.0, {}, 0)


def test_other_boots_and_other_spans_are_passed_over() -> None:
    foreign = [measured(run_share(9, "r2"), boot_id="b2"), measured(run_share(9, "r2"), at=20)]
    assert run_energy(a_run(), foreign).conservation.measured == 0


def test_phase_seconds_count_devices_side_by_side_once() -> None:
    rows = [measured(run_share(1)), measured(run_share(1), device="gpu-0", at=5)]  # 0-10 and 5-15
    assert run_energy(a_run(), rows).phase_seconds == {"train": 15.0}


def test_a_share_of_nothing_takes_no_time() -> None:
    # 0-10 s in train; what had been outside phases there was moved to it by a late mark
    moved = run_share(0, phase="", cpu=0.0, reserved=1e-17)
    assert run_energy(a_run(), [measured(run_share(5), moved)]).phase_seconds == {"train": 10.0}


def test_a_phase_that_waits_for_nothing_still_takes_its_time() -> None:
    rows = [measured(run_share(5)), measured(run_share(0, phase="eval", reserved=0.5, cpu=0.0), at=10)]
    assert run_energy(a_run(), rows).phase_seconds == {"train": 10.0, "eval": 10.0}


def test_outside_phases_is_when_no_process_is_in_one() -> None:
    # a launcher is outside phases all the time, its trainer in train from 5 to 15 s
    rows = [
        measured(run_share(1, phase=""), seconds=5),
        measured(run_share(9), run_share(0, phase="", cpu=0.1), at=5),
        measured(run_share(1, phase=""), at=15, seconds=5),
    ]
    assert run_energy(a_run(), rows).phase_seconds == {"": 10.0, "train": 10.0}


def test_phases_on_two_machines_count_once_where_they_go_side_by_side() -> None:
    # node m trains from 0 to 10 s, node n from 5 to 15 s by UTC; its boot clock is another
    there = measured(run_share(1), at=5, machine_id="n", started_ns=900 * SECOND, ended_ns=910 * SECOND)
    assert run_energy(a_run(), [measured(run_share(1)), there]).phase_seconds == {"train": 15.0}


def test_a_clock_set_back_within_the_run_takes_no_time_away() -> None:
    after = measured(run_share(1), at=10, started_at_us=START_US - 3_600_000_000, ended_at_us=START_US - 3_590_000_000)
    assert run_energy(a_run(), [measured(run_share(1)), after]).phase_seconds == {"train": 20.0}


def on_n(run: Run, start: int, end: int | None) -> Run:
    """The run's part on machine n, whose boot clock is at 900 s when that of m is at 0."""
    ended_us = None if end is None else START_US + end * 1_000_000
    ended_ns = None if end is None else (900 + end) * SECOND
    return replace(
        run,
        machine_id="n",
        boot_id="nb",
        started_at_us=START_US + start * 1_000_000,
        started_ns=(900 + start) * SECOND,
        ended_at_us=ended_us,
        ended_ns=ended_ns,
    )


def there(*shares: Share, at: int = 0, seconds: int = 10, **changes: object) -> Measurement:
    row = measured(*shares, at=at, seconds=seconds, machine_id="n", boot_id="nb", device="n-package-0", **changes)
    return replace(row, started_ns=row.started_ns + 900 * SECOND, ended_ns=row.ended_ns + 900 * SECOND)


def test_every_machine_is_covered_as_far_as_its_own_part_of_the_run_is() -> None:
    # m runs for 20 s, n for 7: both are observed all the time
    here = [measured(run_share(1)), measured(run_share(1), at=10)]
    run = a_run()
    rows = [*here, there(run_share(1), seconds=7)]
    assert run_energy(run, rows, parts=[run, on_n(run, 0, 7)]).coverage == 1.0
    assert run_energy(run, rows).coverage == 1.0, "a machine that does not say is as long as its measurements"


def test_the_least_covered_device_of_all_machines_decides() -> None:
    run = a_run()
    here = [measured(run_share(1)), measured(run_share(1), at=10)]
    parts = [run, on_n(run, 0, 8)]
    assert run_energy(run, [*here, there(run_share(1), seconds=2)], parts=parts).coverage == pytest.approx(2 / 8)
    assert run_energy(run, here, parts=parts).coverage == 0.0, "nothing was seen of n"
    half = there(run_share(1), seconds=8, coverage=0.5)
    assert run_energy(run, [*here, half], parts=parts).coverage == pytest.approx(0.5)


def test_a_running_part_is_covered_up_to_what_is_known() -> None:
    run = replace(a_run(), status=Status.RUNNING, ended_at_us=None, ended_ns=None)
    parts = [run, on_n(run, 0, None)]
    rows = [measured(run_share(1)), there(run_share(1), seconds=4)]
    assert run_energy(run, rows, parts=parts).coverage == 1.0


def test_devices_elsewhere_count_what_lies_in_their_machines_part() -> None:
    run = a_run(10)
    rows = [measured(run_share(100)), there(run_share(50), rest(50), seconds=10)]
    energy = run_energy(run, rows, parts=[run, on_n(run, 0, 5)])
    assert energy.devices == {"package-0": 100, "n-package-0": 50}
    idle = there(rest(30), at=2, seconds=2)
    assert run_energy(run, [*rows, idle], parts=[run, on_n(run, 0, 5)]).conservation.measured == 230


def test_a_run_is_told_from_rows_that_wait() -> None:
    child = replace(a_run(), run_id="c1", labels=Labels(parent_run_id="r1"))
    before = replace(a_run(), status=Status.RUNNING, ended_at_us=None, ended_ns=None)
    rows = [before, measured(run_share(70), run_share(30, "c1")), measured(rest(9), at=10), child, a_run()]
    run, energy = run_in(rows, "r1", may_leave=True)
    assert (run, energy.own, energy.child) == (a_run(), 70, {"c1": 30})
    assert energy.conservation.measured == 109


def test_a_run_whose_first_rows_have_left_is_not_told_by_the_rest() -> None:
    rows = [measured(run_share(5), at=10), a_run()]
    with pytest.raises(JoulebookError, match="rows of run r1 have left already"):
        run_in(rows, "r1", may_leave=True)
    whole = [measured(run_share(5)), measured(run_share(5), at=10)]
    with pytest.raises(JoulebookError, match="have left"):
        run_in([*whole, measured(run_share(5), at=10, device="gpu-0"), a_run()], "r1", may_leave=True)
    with pytest.raises(JoulebookError, match="not in the outbox"):
        run_in(whole, "r1", may_leave=True)


def leaf(*shares: Share, device: str, component: Component = Component.OTHER) -> Measurement:
    return measured(*shares, device=device, component=component, u_common_key=device)


def test_what_a_node_drew_beyond_its_parts_is_summed_and_has_a_name() -> None:
    cpu, beyond = measured(run_share(700)), leaf(run_share(300), device="m/node" + REMAINDER)
    energy = run_energy(a_run(10), [cpu, beyond])
    assert (energy.own, energy.component) == (1000, {Component.CPU: 700, Component.OTHER: 300})
    assert energy.component_names == {Component.CPU: "cpu", Component.OTHER: "rest of the node"}
    told = document(a_run(10), energy)
    assert told["energy_joules"] == {"cpu": 0.7, "dram": None, "gpu": None, "other": 0.3}
    assert told["component_names"]["other"] == "rest of the node"
    assert REMAINDER == SUFFIX, "as the agent writes it"


def test_other_devices_beside_a_remainder_are_not_called_by_its_name() -> None:
    fans, beyond = leaf(run_share(5), device="m/fans"), leaf(run_share(3), device="m/node" + REMAINDER)
    assert run_energy(a_run(10), [fans]).component_names == {Component.OTHER: "other"}
    assert run_energy(a_run(10), [fans, beyond]).component_names == {
        Component.OTHER: "other, with the rest of the node"
    }


def test_a_node_alone_is_a_leaf_and_summed_whole() -> None:
    energy = run_energy(a_run(10), [leaf(run_share(40), device="m/node", component=Component.NODE)])
    assert (energy.own, energy.component_names) == (40, {Component.NODE: "node"})
    assert document(a_run(10), energy)["energy_joules"]["node"] == 0.04


def idle_share(millijoules: int, policy: Policy = Policy.RESERVED) -> Share:
    return Share(ShareKind.IDLE, millijoules, policy)


def test_a_node_is_runs_idle_and_unattributed_under_every_policy() -> None:
    # 1000 mJ, 400 of it idle. Two runs reserve a quarter and a half; of 8 s of use the first made 6, others 2.
    # The 600 dynamic: 450 to r1, 0 to r2, 150 to nobody. Idle: reserved 100, 200 and 100 idle; by use 300, 0, 100 idle;
    # equal 200 and 200; unallocated 400 idle.
    claims = [run_share(0, cpu=6.0, reserved=0.25), run_share(0, "r2", cpu=0.0, reserved=0.5), rest(0, 2.0, 0.25)]
    shares = split(1000, claims, Policy.RESERVED, Component.CPU, 400)
    row = measured(*shares, idle_millijoules=400)
    expected = {
        Policy.RESERVED: (550, 750, 100, 150),
        Policy.UTILISATION: (750, 750, 100, 150),
        Policy.EQUAL: (650, 850, 0, 150),
        Policy.UNALLOCATED: (450, 450, 400, 150),
    }
    for policy, (own, runs, idle, nobody) in expected.items():
        energy = run_energy(a_run(10), [row], policy)
        assert energy.own == own, policy
        assert energy.conservation == Conservation(1000, runs, idle, nobody), policy
        assert conservation_under([row], policy) == energy.conservation
        assert energy.conservation.holds
    assert check_conservation([row]) == Conservation(1000, 750, 100, 150), "as written"


def test_an_altered_share_is_refused() -> None:
    row = measured(run_share(100), rest(5))
    object.__setattr__(row, "energy_millijoules", 104)
    with pytest.raises(LedgerError, match="do not sum to its 104 mJ"):
        check_conservation([row])


def test_document_says_missing_and_not_zero() -> None:
    doc = document(a_run(10), run_energy(a_run(10), [measured(run_share(1500), run_share(500, phase=""))]))
    assert doc["energy_joules"] == {"cpu": 2.0, "dram": None, "gpu": None, "other": None}
    assert doc["phases"] == {"train": {"cpu": 1.5}, OUTSIDE_PHASES: {"cpu": 0.5}}
    assert doc["energy_interval_joules"] == {"cpu": [1.88, 2.12]}  # 3 %, k = 2
    assert doc["conservation"] == {"measured": 2000, "runs": 2000, "idle": 0, "unattributed": 0}
    assert doc["emissions_g"] is None
    assert "joulebook[reports]" in doc["missing"]


def test_iso_utc_keeps_every_microsecond() -> None:
    assert iso_utc(1_780_000_000_123_456) == "2026-05-28T20:26:40.123456Z"


def test_before_calibration_a_run_says_in_words_that_idle_is_not_separated() -> None:
    shares = run_share(600, cpu=6.0, reserved=1.0), rest(400, cpu=4.0)
    before = run_energy(a_run(), [measured(*shares)])
    assert before.notes == (
        "idle is not separated without calibration, so all energy of cpu follows the policy, reserved",
    )
    (unallocated,) = run_energy(a_run(), [measured(*shares)], Policy.UNALLOCATED).notes
    assert unallocated.endswith("all energy of cpu follows use")
    assert run_energy(a_run(), [replace(measured(*shares), idle_millijoules=100)]).notes == ()
    assert run_energy(a_run(), [measured(rest(1000, cpu=4.0))]).notes == ()  # nothing of it is the run's
    imported = replace(measured(run_share(1000), device="gpu-0", component=Component.GPU), source="sha256:1f")
    assert run_energy(a_run(), [imported]).notes == ()  # a file's shares are as the file says
    assert run_energy(a_run(), [measured(*shares), imported]).notes == before.notes
