"""Laws of counter differences: what is known is exact, and what is not is bounded."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from joulebook.counters import Step, difference

SECOND = 1_000_000_000

ranges = st.integers(min_value=2, max_value=10**12)


@given(ranges, st.data())
def test_a_counter_with_random_gains_and_wraps_is_recovered_exactly(wraps_at: int, data: st.DataObject) -> None:
    """Gains below the range, at reads within the time that the range lasts: the sum is the truth, wraps or not."""
    gains = data.draw(st.lists(st.integers(0, wraps_at - 1), min_size=1, max_size=30))
    true, recovered = data.draw(st.integers(0, wraps_at - 1)), 0
    for gain in gains:
        step = difference(true % wraps_at, (true + gain) % wraps_at, SECOND, wraps_at, most_per_second=wraps_at - 1)
        assert step.step in (Step.ADVANCE, Step.WRAP)
        assert step.counts is not None
        recovered += step.counts
        true += gain
    assert recovered == sum(gains)


@given(ranges, st.integers(1, 10**7), st.data())
def test_bounds_always_hold_the_truth(wraps_at: int, elapsed_ms: int, data: st.DataObject) -> None:
    """Any gain that the device can make, over any time, with a wrap or a reset at any moment of it."""
    elapsed_ns = elapsed_ms * 1_000_000
    most_per_second = data.draw(st.floats(1e-3, 1e9))
    previous = data.draw(st.integers(0, wraps_at - 1))
    gain = data.draw(st.integers(0, int(most_per_second * elapsed_ns / 1e9)))
    if data.draw(st.booleans()):
        current = (previous + gain) % wraps_at
    else:
        before_reset = data.draw(st.integers(0, gain))
        current = (gain - before_reset) % wraps_at
        # A reset that leaves the counter where a wrap or an advance would too cannot be told from it.
        seen = difference(previous, current, elapsed_ns, wraps_at, most_per_second)
        if seen.step in (Step.ADVANCE, Step.WRAP):
            return
        if data.draw(st.booleans()):
            seen = difference(previous, gain - before_reset, elapsed_ns, None, most_per_second, restarted=True)
            assert seen.counts is None
            assert seen.at_least <= gain <= (seen.at_most or 0)
            return
    seen = difference(previous, current, elapsed_ns, wraps_at, most_per_second)
    assert seen.at_least <= gain
    assert seen.at_most is None or gain <= seen.at_most
    assert seen.counts is None or seen.at_least == seen.counts == seen.at_most


@given(ranges, st.data())
def test_a_reset_is_never_taken_for_a_wrap_that_the_time_forbids(wraps_at: int, data: st.DataObject) -> None:
    previous = data.draw(st.integers(1, wraps_at - 1))
    current = data.draw(st.integers(0, previous - 1))
    implied = wraps_at - previous + current
    most = data.draw(st.integers(0, implied - 1))
    seen = difference(previous, current, SECOND, wraps_at, float(most))
    assert seen.step is Step.RESET
    assert seen.counts is None
    assert seen.at_least == current


@given(st.integers(0, 10**15), st.lists(st.integers(0, 10**9), min_size=1, max_size=20))
def test_splitting_a_span_changes_no_total(start: int, gains: list[int]) -> None:
    edges = [start + sum(gains[:n]) for n in range(len(gains) + 1)]
    parts = [difference(a, b, SECOND).counts or 0 for a, b in pairwise(edges)]
    assert sum(parts) == difference(edges[0], edges[-1], SECOND).counts
