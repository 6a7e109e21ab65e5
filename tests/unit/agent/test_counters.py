import pytest
from joulebook.counters import Difference, Step, difference

SECOND = 1_000_000_000


def test_a_counter_that_rose_advanced_by_the_difference() -> None:
    assert difference(100, 350, SECOND) == Difference(Step.ADVANCE, 250, 250, 250)


def test_a_wrap_counts_to_the_range_and_on() -> None:
    # 1000 - 900 to the wrap, then 50: 150 counts, possible at 200 a second.
    assert difference(900, 50, SECOND, wraps_at=1000, most_per_second=200) == Difference(Step.WRAP, 150, 150, 150)


def test_a_fall_that_no_wrap_can_explain_is_a_reset() -> None:
    # A wrap would mean 990 counts in a second in which 200 are possible: the counter began again, and 90 followed.
    assert difference(100, 90, SECOND, wraps_at=1000, most_per_second=200) == Difference(Step.RESET, None, 90, 200)


def test_a_fall_without_a_known_range_is_a_reset() -> None:
    assert difference(100, 90, SECOND) == Difference(Step.RESET, None, 90, None)


def test_a_time_in_which_it_could_go_all_the_way_round_is_a_gap_even_if_it_rose() -> None:
    # 10 s at 200 a second are 2000 counts, twice the range: 100 -> 350 may be 250 or 1250 counts.
    assert difference(100, 350, 10 * SECOND, wraps_at=1000, most_per_second=200) == Difference(
        Step.GAP, None, 250, 2000
    )


def test_a_rise_beyond_what_is_possible_is_a_gap() -> None:
    assert difference(0, 500, SECOND, most_per_second=200) == Difference(Step.GAP, None, 0, 200)


@pytest.mark.parametrize(("previous", "current", "elapsed"), [(-1, 0, 1), (0, -1, 1), (0, 0, 0), (0, 0, -5)])
def test_nonsense_is_refused(previous: int, current: int, elapsed: int) -> None:
    with pytest.raises(ValueError, match="cannot compare"):
        difference(previous, current, elapsed)
