"""Comparison of arms on hand-worked numbers (METHODS 4.3)."""

from __future__ import annotations

import math

import pytest
from joulebook_reports.compare import Estimate, Sample, better, difference, holm, mean, not_inferior, ratio


def seeded(*values: float) -> list[Sample]:
    return [Sample(seed, value) for seed, value in enumerate(values)]


def unseeded(*values: float) -> list[Sample]:
    return [Sample(None, value) for value in values]


def test_mean_and_its_t_interval() -> None:
    # 10, 12, 14: mean 12, s = 2, se = 2 / sqrt 3 = 1.1547, t(0.975, 2) = 4.30265 -> +- 4.9683
    found = mean([10.0, 12.0, 14.0])
    assert found.point == 12.0
    assert (found.low, found.high) == (pytest.approx(7.0317, abs=1e-4), pytest.approx(16.9683, abs=1e-4))


def test_paired_ratio() -> None:
    # logs of 0.8, 0.8, 0.5: mean = ln(0.32) / 3 = -0.379811, s = 0.271357, se = 0.156668
    # t(0.975, 2) = 4.302653 -> -0.379811 +- 0.674088: ratio 0.68399 [0.34857, 1.34215]
    found = ratio(seeded(10.0, 20.0, 40.0), seeded(8.0, 16.0, 20.0))
    assert found.paired
    assert found.point == pytest.approx(0.32 ** (1 / 3))
    assert found.low == pytest.approx(0.34857, abs=1e-5)
    assert found.high == pytest.approx(1.34215, abs=1e-5)


def test_pairing_does_not_depend_on_the_order_of_runs() -> None:
    backwards = list(reversed(seeded(8.0, 16.0, 20.0)))
    assert ratio(seeded(10.0, 20.0, 40.0), backwards) == ratio(seeded(10.0, 20.0, 40.0), seeded(8.0, 16.0, 20.0))


def test_welch_with_satterthwaite() -> None:
    # a: 1, 2, 3 -> mean 2, v/n = 1/3.  b: 2, 4, 6, 8 -> mean 5, v = 20/3, v/n = 5/3.  difference 3, se = sqrt 2
    # df = (1/3 + 5/3)^2 / ((1/3)^2 / 2 + (5/3)^2 / 3) = 4 / (0.055556 + 0.925926) = 4.07547
    # t = 2.12132, t(0.975, 4.07547) = 2.75637
    found = difference(unseeded(1.0, 2.0, 3.0), unseeded(2.0, 4.0, 6.0, 8.0))
    assert not found.paired
    assert found.point == 3.0
    assert found.df == pytest.approx(4.07547, abs=1e-5)
    assert found.low is not None
    assert (3.0 - found.low) / math.sqrt(2.0) == pytest.approx(2.7564, abs=1e-3)
    assert found.p == pytest.approx(0.0998, abs=1e-3)


def test_one_odd_seed_unpairs_all() -> None:
    odd = [Sample(0, 8.0), Sample(1, 16.0), Sample(7, 20.0)]
    assert not ratio(seeded(10.0, 20.0, 40.0), odd).paired
    twice = [Sample(0, 8.0), Sample(0, 16.0), Sample(1, 20.0)]
    assert not ratio(seeded(10.0, 20.0), twice).paired


def test_one_against_one_has_no_interval() -> None:
    found = ratio(seeded(10.0), seeded(8.0))
    assert (found.point, found.low, found.high, found.p, found.n) == (pytest.approx(0.8), None, None, None, 1)
    assert not found.resolved


def test_zero_energy_has_no_ratio() -> None:
    with pytest.raises(ValueError, match="above 0"):
        ratio(seeded(0.0, 1.0), seeded(1.0, 1.0))


def test_no_spread_at_all() -> None:
    # three copies of one run, and pairs whose ratio is 0.8 to the last digit: no interval, no p
    for baseline, arm in (
        ((10.0,) * 3, (5.0,) * 3),
        ((10.0,) * 3, (10.0,) * 3),
        ((10.0, 20.0, 40.0), (8.0, 16.0, 32.0)),
    ):
        for named in (seeded, unseeded) if baseline[0] == baseline[1] else (seeded,):
            found = ratio(named(*baseline), named(*arm))
            assert (found.low, found.high, found.p, found.df, found.n) == (None, None, None, None, 3)
    assert mean([3.0, 3.0, 3.0]) == Estimate(3.0, None, None, None, None, 3)


def test_pairs_that_are_each_equal_are_no_difference() -> None:
    # an exact technique: 0.86, 0.87, 0.88 in both arms
    assert difference(seeded(0.86, 0.87, 0.88), seeded(0.86, 0.87, 0.88)) == Estimate(0.0, 0.0, 0.0, 1.0, 2.0, 3, True)


def test_holm_textbook() -> None:
    # 4 tests, sorted .005 .01 .03 .04: x4 .02, x3 .03, x2 .06, x1 .04 -> kept rising: .06
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})


def test_holm_stops_at_one() -> None:
    assert holm({"a": 0.7, "b": 0.9}) == {"a": 1.0, "b": 1.0}


def estimate(low: float, high: float) -> Estimate:
    return Estimate((low + high) / 2, low, high, 0.5, 4.0, 3)


def test_non_inferiority_looks_at_the_lower_end() -> None:
    # a loss of up to 0.4 point is within a margin of 0.5; up to 0.6 is not
    assert not_inferior(estimate(-0.4, 0.2), 0.5, higher_is_better=True) is True
    assert not_inferior(estimate(-0.6, 0.2), 0.5, higher_is_better=True) is False
    assert not_inferior(estimate(-0.2, 0.4), 0.5, higher_is_better=False) is True
    assert not_inferior(estimate(-0.2, 0.6), 0.5, higher_is_better=False) is False
    assert not_inferior(Estimate(0.0, None, None, None, None, 1), 0.5, higher_is_better=True) is None


def test_better_needs_the_whole_interval() -> None:
    assert better(estimate(0.1, 0.3), higher_is_better=True)
    assert not better(estimate(-0.1, 0.3), higher_is_better=True)
    assert better(estimate(-0.3, -0.1), higher_is_better=False)
    assert not better(Estimate(1.0, None, None, None, None, 1), higher_is_better=True)
