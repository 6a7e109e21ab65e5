"""Merging spans by hand, and what is refused."""

import math
from dataclasses import fields, replace

import pytest
from joulebook.rows import Component, Measurement, Method, Policy, Share, ShareKind, Weights
from joulebook.thinning import merge, merged_count, thin

S = 1_000_000_000
MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US


def span(start_s, end_s, millijoules=1000, **changes):
    """[start_s, end_s) after a whole hour: a fifth of it a run's, the rest nobody's."""
    mine = millijoules // 5
    plain = Measurement(
        "m", "b", "d", Component.CPU, 10**5 * HOUR_US + start_s * 10**6, 10**5 * HOUR_US + end_s * 10**6,
        start_s * S, end_s * S, millijoules, "rapl", Method.COUNTER, 0.03, "rapl", 0.01, 1.0, "agent",
        (
            Share(ShareKind.RUN, mine, Policy.RESERVED, "r", "train", weights=Weights(1.0, 2.0, 0.5)),
            Share(ShareKind.UNATTRIBUTED, millijoules - mine, Policy.RESERVED, weights=Weights(0.25, 0.0, 0.5)),
        ),
    )  # fmt: skip
    return replace(plain, **changes)


def test_two_spans_become_one():
    a = span(0, 4, 1000, idle_millijoules=100, coverage=1.0)
    b = span(4, 16, 3000, idle_millijoules=50, coverage=0.5)
    (one,) = thin([a, b], MINUTE_US)
    assert (one.started_ns, one.ended_ns, one.ended_at_us) == (0, 16 * S, b.ended_at_us)
    assert (one.energy_millijoules, one.idle_millijoules) == (4000, 150)
    assert [share.millijoules for share in one.shares] == [800, 3200]
    assert one.coverage == pytest.approx((4 * 1.0 + 12 * 0.5) / 16)
    # 1 % of 1000 mJ and 1 % of 3000 mJ, independent: sqrt(10^2 + 30^2) = 31.6 mJ of 4000 mJ
    assert one.u_indep == pytest.approx(math.sqrt(10**2 + 30**2) / 4000)
    assert one.note == "2 spans merged: the outbox was full"


def test_seconds_are_summed_and_reservations_averaged_over_time():
    a, b = span(0, 4), span(4, 16)
    b = replace(b, shares=(replace(b.shares[0], weights=Weights(3.0, 4.0, 0.9)), b.shares[1]))
    (one,) = thin([a, b], MINUTE_US)
    assert one.shares[0].weights.cpu_seconds == 4.0
    assert one.shares[0].weights.sm_seconds == 6.0
    assert one.shares[0].weights.reserved_fraction == pytest.approx((4 * 0.5 + 12 * 0.9) / 16)


def test_merging_merged_spans_counts_all_of_them_and_keeps_other_notes():
    rows = [span(4 * i, 4 * i + 4, note="phase 'x' too short to resolve") for i in range(4)]
    (one,) = thin([*thin(rows[:3], MINUTE_US), rows[3]], MINUTE_US)
    assert merged_count(one) == 4
    assert one.note == "phase 'x' too short to resolve; 4 spans merged: the outbox was full"
    assert merged_count(rows[0]) == 1


def test_energy_of_nothing_has_the_larger_uncertainty():
    assert merge([span(0, 4, 0, u_indep=0.1), span(4, 8, 0, u_indep=0.3)]).u_indep == 0.3


def other_share(row, **changes):
    return replace(row, shares=(replace(row.shares[0], **changes), row.shares[1]))


@pytest.mark.parametrize(
    "after",
    [
        span(5, 9),
        span(4, 8, boot_id="another"),
        span(4, 8, device_id="another"),
        span(4, 8, meter="another"),
        span(4, 8, method=Method.MODELLED),
        span(4, 8, u_common=0.04),
        span(4, 8, u_common_key="another"),
        span(4, 8, source="import"),
        span(4, 8, note="claimed across an absence of the agent"),
        span(4, 8, idle_millijoules=0),
        span(4, 8, started_at_us=10**5 * HOUR_US + 6 * 10**6, ended_at_us=10**5 * HOUR_US + 10 * 10**6),
        span(4, 8, shares=(Share(ShareKind.UNATTRIBUTED, 1000, Policy.RESERVED),)),
        other_share(span(4, 8), run_id="another"),
        other_share(span(4, 8), phase="eval"),
        other_share(span(4, 8), member="m1"),
        other_share(span(4, 8), rank=1),
        other_share(span(4, 8), policy=Policy.UTILISATION),
    ],
)
def test_what_differs_in_anything_else_stays_apart(after):
    rows = [span(0, 4), after]
    assert thin(rows, HOUR_US) == rows


def test_spans_of_two_minutes_stay_apart_until_five_minutes_are_merged():
    rows = [span(56, 60), span(60, 64)]
    assert thin(rows, MINUTE_US) == rows
    assert len(thin(rows, 5 * MINUTE_US)) == 1


def test_an_hour_is_never_crossed():
    rows = [span(3596, 3600), span(3600, 3604)]
    assert thin(rows, HOUR_US) == rows
    crossing = [span(3590, 3601), span(3601, 3604)]
    assert thin(crossing, HOUR_US) == crossing


def test_a_jitter_of_the_clocks_offset_is_no_gap():
    late = span(4, 8, started_at_us=10**5 * HOUR_US + 4 * 10**6 + 3)
    assert len(thin([span(0, 4), late], MINUTE_US)) == 1


def test_two_shares_of_one_name_cannot_be_told_apart():
    twin = span(0, 4).shares[0]
    rows = [
        span(4 * i, 4 * i + 4, shares=(twin, twin, Share(ShareKind.UNATTRIBUTED, 600, Policy.RESERVED)))
        for i in range(2)
    ]
    assert thin(rows, HOUR_US) == rows


def test_thinning_knows_every_weight_there_is():
    # A weight that merging does not know would be lost in silence.
    assert {field.name for field in fields(Weights)} == {"cpu_seconds", "sm_seconds", "reserved_fraction"}
