"""Shares of a GPU by hand: process samples of different times, and what MPS clients may use."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joulebook.meters.nvml_use import active_threads, mean_utilisation

SECOND = 1_000_000


def test_a_process_that_was_busy_throughout_has_its_own_utilisation() -> None:
    assert mean_utilisation([(1, 4 * SECOND, 0.5)], 0, 4 * SECOND) == {1: 0.5}


def test_each_sample_weighs_the_time_that_it_speaks_of() -> None:
    # 1 s at 0.8 and 3 s at 0.4 of 4 s: (0.8 + 1.2) / 4 = 0.5, where a plain mean would say 0.6.
    samples = [(1, 1 * SECOND, 0.8), (1, 4 * SECOND, 0.4)]
    assert mean_utilisation(samples, 0, 4 * SECOND) == {1: pytest.approx(0.5)}


def test_processes_are_sampled_each_at_its_own_time() -> None:
    # A ends at 1 s, B goes on to 4 s: A 0.6 x 1 / 4 = 0.15, B 0.4.
    samples = [(1, 1 * SECOND, 0.6), (2, 4 * SECOND, 0.4)]
    assert mean_utilisation(samples, 0, 4 * SECOND) == {1: pytest.approx(0.15), 2: pytest.approx(0.4)}


def test_processes_that_pass_one_together_are_scaled_only_while_they_do() -> None:
    # 0 to 1 s: 0.9 + 0.9 = 1.8, so 0.5 each; 1 to 2 s: B alone at 0.9. A 0.5 / 2, B (0.5 + 0.9) / 2.
    samples = [(1, 1 * SECOND, 0.9), (2, 2 * SECOND, 0.9)]
    assert mean_utilisation(samples, 0, 2 * SECOND) == {1: pytest.approx(0.25), 2: pytest.approx(0.7)}


def test_what_follows_the_last_sample_was_not_busy() -> None:
    assert mean_utilisation([(1, 1 * SECOND, 1.0)], 0, 4 * SECOND) == {1: pytest.approx(0.25)}


def test_no_sample_is_no_process() -> None:
    assert mean_utilisation([], 0, SECOND) == {}


samples = st.lists(
    st.tuples(st.integers(1, 5), st.integers(1, 10 * SECOND), st.floats(0, 1)), max_size=30, unique_by=lambda s: s[:2]
)


@given(samples, st.integers(0, 5 * SECOND))
def test_the_sum_over_processes_never_passes_one(told: list[tuple[int, int, float]], begin_us: int) -> None:
    later = [sample for sample in told if sample[1] > begin_us]
    end_us = max([begin_us, *(at_us for _, at_us, _ in later)])
    means = mean_utilisation(later, begin_us, end_us)
    assert means.keys() == {pid for pid, _, _ in later}
    assert all(mean >= 0 for mean in means.values())
    assert sum(means.values()) <= 1 + 1e-9


@given(samples)
def test_a_process_alone_that_is_never_too_busy_keeps_its_joules(told: list[tuple[int, int, float]]) -> None:
    """Time times utilisation, summed by hand."""
    own = sorted((at_us, used) for _, at_us, used in told)
    own = [sample for i, sample in enumerate(own) if i == 0 or own[i - 1][0] < sample[0]]
    if not own:
        return
    by_hand = sum(
        (at_us - before) * used for (at_us, used), before in zip(own, [0, *(t for t, _ in own)], strict=False)
    )
    means = mean_utilisation([(7, at_us, used) for at_us, used in own], 0, own[-1][0])
    assert means[7] * own[-1][0] == pytest.approx(by_hand, abs=1e-3)


@pytest.mark.parametrize(
    ("environ", "percent"),
    [
        ([b"PATH=/bin"], 100.0),  # unset: all of them
        ([b"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=25"], 25.0),
        ([b"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=12.5"], 12.5),
        ([b"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE="], None),
        ([b"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=0"], None),
        ([b"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=nan"], None),
        ([b"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=101"], None),
        ([b"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=\xff"], None),
    ],
)
def test_the_threads_of_an_mps_client(environ: list[bytes], percent: float | None) -> None:
    assert active_threads(environ) == percent


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_any_environment_is_read(words: list[bytes]) -> None:
    percent = active_threads([*words, b"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=" + b"".join(words)])
    assert percent is None or 0 < percent <= 100
