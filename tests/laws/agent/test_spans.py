"""Law 4 at its source: cutting and moving energies changes no total."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joulebook.spans import cut, grid_cuts, overlap, resample

totals = st.integers(0, 10**15)


@st.composite
def cut_spans(draw: st.DrawFn) -> tuple[int, int, list[int]]:
    edges = sorted(draw(st.sets(st.integers(-(10**12), 10**12), min_size=2, max_size=12)))
    return edges[0], edges[-1], edges[1:-1]


@given(totals, cut_spans())
def test_parts_sum_to_the_whole(total: int, span: tuple[int, int, list[int]]) -> None:
    start, end, cuts = span
    parts = cut(total, start, end, cuts)
    assert sum(parts) == total
    assert len(parts) == len(cuts) + 1
    assert min(parts) >= 0


@given(totals, cut_spans())
def test_cutting_more_finely_keeps_the_coarser_cuts(total: int, span: tuple[int, int, list[int]]) -> None:
    start, end, cuts = span
    coarse = cuts[::2]
    fine, wanted = cut(total, start, end, cuts), cut(total, start, end, coarse)
    edges = [start, *cuts]
    merged = [0] * (len(coarse) + 1)
    for edge, part in zip(edges, fine, strict=True):
        merged[sum(c <= edge for c in coarse)] += part
    assert merged == wanted


def test_hand_worked_cut() -> None:
    # 10 over [0, 3) cut at 1 and 2: cumulative floors 0, 3, 6, 10
    assert cut(10, 0, 3, [1, 2]) == [3, 3, 4]


@pytest.mark.parametrize("cuts", [[0], [3], [2, 1], [1, 1]])
def test_cuts_must_lie_inside_in_order(cuts: list[int]) -> None:
    with pytest.raises(ValueError, match="not ascending inside"):
        cut(10, 0, 3, cuts)


def test_an_empty_span_holds_nothing_to_cut() -> None:
    with pytest.raises(ValueError, match="empty span"):
        cut(10, 3, 3, [])


@given(st.integers(-(10**9), 10**9), st.integers(1, 10**4), st.integers(1, 10**3))
def test_grid_cuts_are_the_multiples_inside(start: int, length: int, step: int) -> None:
    assert grid_cuts(start, start + length, step) == [t for t in range(start + 1, start + length) if t % step == 0]


parts_strategy = st.lists(
    st.tuples(st.integers(0, 999), st.integers(1, 300), totals).map(lambda t: (t[0], min(1000, t[0] + t[1]), t[2]))
)


@given(parts_strategy, st.sets(st.integers(1, 999), max_size=8))
def test_resampling_keeps_the_sum(parts: list[tuple[int, int, int]], inner: set[int]) -> None:
    assert sum(resample(parts, [0, *sorted(inner), 1000])) == sum(total for _, _, total in parts)


def test_resampling_weighs_by_overlap() -> None:
    # 90 over [5, 14): 5 of its 9 units lie in [0, 10), 4 in [10, 20)
    assert resample([(5, 14, 90)], [0, 10, 20]) == [50, 40]


def test_resampling_refuses_what_lies_outside() -> None:
    with pytest.raises(ValueError, match="outside the bins"):
        resample([(5, 25, 90)], [0, 10, 20])


@given(*[st.integers(-100, 100)] * 4)
def test_overlap_is_what_two_spans_share(a: int, b: int, c: int, d: int) -> None:
    shared = set(range(a, b)) & set(range(c, d))
    assert overlap(a, b, c, d) == len(shared) == overlap(c, d, a, b)
