"""A counter's trial against power: what passes, what fails, and what is not known yet."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joulebook.meters.trial import GIVE_UP_NS, LEAST_LOOKS, TRIAL_NS, Trial

STEP_NS = 100_000_000


def verdicts(watts: float, rate: float, looks: int, step_ns: int = STEP_NS) -> Iterator[bool | None]:
    """Looks at a card of constant power whose counter runs at so many times the right rate."""
    trial = Trial()
    for n in range(looks):
        yield trial.look(n * step_ns, int(watts * rate * n * step_ns / 1e3), int(watts * 1e3))


def test_a_right_counter_passes_after_half_a_second_and_five_looks() -> None:
    # 100 W for 0.5 s are 50 J = 50,000,000 uJ by both.
    said = list(verdicts(100, 1.0, 6))
    assert said == [None] * 5 + [True]
    assert TRIAL_NS == 5 * STEP_NS


def test_two_looks_a_second_apart_are_not_enough() -> None:
    said = list(verdicts(100, 1.0, LEAST_LOOKS, step_ns=1_000_000_000))
    assert said == [None] * (LEAST_LOOKS - 1) + [True]


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.5, 3.0, 1000.0])
def test_a_counter_at_the_wrong_rate_fails_for_good_after_ten_seconds(rate: float) -> None:
    said = list(verdicts(100, rate, 2 + GIVE_UP_NS // STEP_NS))
    assert said[-1] is False
    assert set(said[:-1]) == {None}


def test_a_counter_that_restarts_is_tried_from_there() -> None:
    trial = Trial()
    for n in range(5):
        assert trial.look(n * STEP_NS, 10**9 + n * 10**7, 100_000) is None
    said = [trial.look((5 + n) * STEP_NS, n * 10**7, 100_000) for n in range(6)]
    assert said == [None] * 5 + [True]


def test_nothing_is_integrated_across_a_silence() -> None:
    trial = Trial()
    for n in range(5):
        trial.look(n * STEP_NS, n * 10**7, 100_000)
    # A minute asleep at 1 W: the counter has 60 J more, two looks of 100 W would make it 6000 J.
    assert trial.look(60 * 10**9, 4 * 10**7 + 60 * 10**6, 100_000) is None
    assert trial.ratio is None


@given(
    st.floats(1.3, 1e6) | st.floats(0, 0.75),
    st.lists(st.tuples(st.integers(1, 300), st.integers(1, 2_000_000)), min_size=1, max_size=200),
)
def test_no_steady_power_makes_a_wrong_rate_pass(rate: float, looks: list[tuple[int, int]]) -> None:
    trial, at_ns = Trial(), 0
    watts = looks[0][1]
    for wait_ms, _ in looks:
        at_ns += wait_ms * 1_000_000
        assert trial.look(at_ns, int(watts * rate * at_ns / 1e3), watts * 1000) is not True
