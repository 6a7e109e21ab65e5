"""Law 1 at its source: a split is exact, whatever the weights."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joulebook.rows import Component, Measurement, Method, Policy, Share, ShareKind, Weights
from joulebook.split import largest_remainder, resplit, split

millijoules = st.integers(0, 10**15)
weight = st.floats(0, 1e18, allow_nan=False, allow_subnormal=True)


@given(millijoules, st.lists(weight, min_size=1, max_size=20).filter(any))
def test_parts_are_whole_and_sum_to_the_total(total: int, weights: list[float]) -> None:
    parts = largest_remainder(total, weights)
    assert sum(parts) == total
    assert all(part >= 0 for part in parts)


@given(millijoules, st.lists(st.integers(0, 1000), min_size=1, max_size=20).filter(any))
def test_no_part_is_a_millijoule_off_its_quota(total: int, weights: list[int]) -> None:
    quotas = [total * w / sum(weights) for w in weights]
    for part, w in zip(largest_remainder(total, weights), weights, strict=True):
        assert abs(part * sum(weights) - total * w) < sum(weights), quotas


@given(millijoules, st.lists(st.integers(0, 1000), min_size=1, max_size=10).filter(any), st.integers(1, 64))
def test_only_the_proportion_of_weights_matters(total: int, weights: list[int], factor: int) -> None:
    assert largest_remainder(total, weights) == largest_remainder(total, [w * factor for w in weights])


def test_hand_worked_remainders() -> None:
    # 100 by 1:1:1 -> floors 33 each, one left to the first; 10 by 0.6:0.35:0.05 -> 6, 3.5, 0.5: the tie goes first
    assert largest_remainder(100, [1, 1, 1]) == [34, 33, 33]
    assert largest_remainder(10, [12, 7, 1]) == [6, 4, 0]
    assert largest_remainder(7, [0, 1]) == [0, 7]


@pytest.mark.parametrize("weights", [[0.0, 0.0], [-1.0, 2.0], [float("nan")], [float("inf")]])
def test_weights_that_say_nothing_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="cannot divide"):
        largest_remainder(5, weights)


def claims_of(weights: list[tuple[float, float]]) -> list[Share]:
    runs = [
        Share(ShareKind.RUN, 0, Policy.RESERVED, f"r{i}", weights=Weights(cpu, 0.0, reserved))
        for i, (cpu, reserved) in enumerate(weights)
    ]
    return [*runs, Share(ShareKind.UNATTRIBUTED, 0, Policy.RESERVED, weights=Weights(0.25, 0.0, 0.1))]


claims = st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1)), max_size=6).map(claims_of)


@given(millijoules, claims, st.sampled_from(Policy), st.none() | millijoules)
def test_shares_exhaust_the_measurement(total: int, claims: list[Share], policy: Policy, idle: int | None) -> None:
    shares = split(total, claims, policy, Component.CPU, idle)
    assert sum(share.millijoules for share in shares) == total
    assert sum(share.kind is ShareKind.UNATTRIBUTED for share in shares) == 1
    assert {share.policy for share in shares} == {policy}


@given(millijoules, claims, st.sampled_from(Policy), st.randoms(use_true_random=False))
def test_the_order_of_claims_changes_nothing(total: int, claims: list[Share], policy: Policy, random: Random) -> None:
    shuffled = list(claims)
    random.shuffle(shuffled)
    assert split(total, claims, policy, Component.CPU) == split(total, shuffled, policy, Component.CPU)


def test_calibrated_idle_follows_the_policy_and_use_follows_use() -> None:
    # 1000 mJ, 400 idle. Use 3:1 of 600 -> 450, 150. Reserved 0.5:0.25, 0.25 free: idle 200, 100, and 100 idle to nobody
    runs = [
        Share(ShareKind.RUN, 0, Policy.RESERVED, "a", weights=Weights(3.0, 0.0, 0.5)),
        Share(ShareKind.RUN, 0, Policy.RESERVED, "b", weights=Weights(1.0, 0.0, 0.25)),
        Share(ShareKind.UNATTRIBUTED, 0, Policy.RESERVED, weights=Weights(0.0, 0.0, 0.25)),
    ]
    shares = split(1000, runs, Policy.RESERVED, Component.CPU, idle_millijoules=400)
    assert [(s.kind, s.run_id, s.millijoules) for s in shares] == [
        (ShareKind.RUN, "a", 650),
        (ShareKind.RUN, "b", 250),
        (ShareKind.UNATTRIBUTED, "", 0),
        (ShareKind.IDLE, "", 100),
    ]


def test_energy_that_no_weight_claims_is_unattributed() -> None:
    shares = split(77, [Share(ShareKind.UNATTRIBUTED, 0, Policy.RESERVED)], Policy.UTILISATION, Component.GPU)
    assert [(s.kind, s.millijoules) for s in shares] == [(ShareKind.UNATTRIBUTED, 77)]


def measurement_of(shares: tuple[Share, ...]) -> Measurement:
    total = sum(share.millijoules for share in shares)
    return Measurement(
        "m", "b", "d", Component.CPU, 0, 10, 0, 10, total, "rapl", Method.COUNTER, 0.0, "", 0.0, 1.0, "agent", shares
    )


@given(millijoules, claims)
def test_a_report_splits_again_as_the_agent_would_have(total: int, claims: list[Share]) -> None:
    written = measurement_of(split(total, claims, Policy.RESERVED, Component.CPU))
    assert resplit(written, Policy.UTILISATION) == split(total, claims, Policy.UTILISATION, Component.CPU)


def test_shares_already_under_the_policy_stay_as_a_late_mark_left_them() -> None:
    moved = measurement_of(
        (
            Share(ShareKind.RUN, 90, Policy.RESERVED, "a", weights=Weights(0.0, 0.0, 0.5)),
            Share(ShareKind.UNATTRIBUTED, 10, Policy.RESERVED, weights=Weights(1.0, 0.0, 0.5)),
        )
    )
    assert resplit(moved, Policy.RESERVED) == moved.shares
    assert [s.millijoules for s in resplit(moved, Policy.UTILISATION)] == [0, 100]


def test_shares_without_weights_cannot_be_split_again() -> None:
    imported = measurement_of((Share(ShareKind.RUN, 90, Policy.RESERVED, "a"),))
    assert resplit(imported, Policy.UTILISATION) == imported.shares
