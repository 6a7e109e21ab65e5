"""What every comparison obeys, whatever the numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joulebook_reports.compare import Estimate, Sample, difference, holm, ratio

energies = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=8)


def seeded(values: list[float]) -> list[Sample]:
    return [Sample(seed, value) for seed, value in enumerate(values)]


@given(energies)
def test_an_arm_against_itself_is_one(values: list[float]) -> None:
    found = ratio(seeded(values), seeded(values))
    assert found.point == 1.0
    if found.resolved:
        assert (found.low, found.high) == (1.0, 1.0)


@given(
    st.lists(st.tuples(st.floats(1e-3, 1e6), st.floats(1e-3, 1e6)), min_size=2, max_size=8), st.permutations(range(8))
)
def test_the_names_of_seeds_do_not_matter(pairs: list[tuple[float, float]], names: list[int]) -> None:
    def named(values: list[float]) -> list[Sample]:
        return [Sample(name, value) for name, value in zip(names, values, strict=False)]

    left, right = [a for a, _ in pairs], [b for _, b in pairs]
    assert_close(ratio(seeded(left), seeded(right)), ratio(named(left), named(right)))


@given(energies, energies, st.floats(1e-3, 1e3))
def test_a_common_gain_cancels(baseline: list[float], arm: list[float], gain: float) -> None:
    scaled = ratio(seeded([gain * v for v in baseline]), seeded([gain * v for v in arm]))
    assert_close(ratio(seeded(baseline), seeded(arm)), scaled)


@given(energies, energies)
def test_the_point_lies_in_its_interval_and_turns_over(baseline: list[float], arm: list[float]) -> None:
    there, back = ratio(seeded(baseline), seeded(arm)), ratio(seeded(arm), seeded(baseline))
    assert there.point * back.point == pytest.approx(1.0)
    if there.low is not None and there.high is not None:
        assert there.low <= there.point <= there.high


@given(energies, energies)
def test_a_difference_turns_over(baseline: list[float], arm: list[float]) -> None:
    there, back = difference(seeded(baseline), seeded(arm)), difference(seeded(arm), seeded(baseline))
    assert there.point == pytest.approx(-back.point, abs=1e-6)
    assert there.p == back.p or there.p == pytest.approx(back.p)


@given(st.dictionaries(st.text(min_size=1), st.floats(0, 1), max_size=8))
def test_holm_never_lowers_a_p_and_keeps_their_order(p_values: dict[str, float]) -> None:
    adjusted = holm(p_values)
    assert adjusted.keys() == p_values.keys()
    assert all(p_values[name] <= adjusted[name] <= 1 for name in p_values)
    in_order = [adjusted[name] for name in sorted(p_values, key=lambda name: p_values[name])]
    assert in_order == sorted(in_order)


def assert_close(a: Estimate, b: Estimate) -> None:
    assert a.point == pytest.approx(b.point, rel=1e-6)
    assert (a.low is None) == (b.low is None)
    if a.low is not None and a.low > 1e-200:
        assert a.low == pytest.approx(b.low, rel=1e-3)
