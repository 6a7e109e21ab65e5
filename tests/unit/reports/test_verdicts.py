"""The words, case by case."""

from __future__ import annotations

import pytest
from joulebook_reports.compare import Estimate
from joulebook_reports.verdicts import verdict


def ratio(point: float, low: float | None, high: float | None, n: int = 3) -> Estimate:
    return Estimate(point, low, high, 0.01, 2.0, n)


@pytest.mark.parametrize(
    ("found", "p", "equal", "words"),
    [
        (ratio(0.8, 0.75, 0.85), 0.01, True, "saves 20.0 % [15.0, 25.0] at equal quality"),
        (ratio(0.8, 0.75, 0.85), 0.01, False, "saves 20.0 % [15.0, 25.0] but quality not shown equal"),
        (ratio(0.8, 0.75, 0.85), 0.01, None, "saves 20.0 % [15.0, 25.0] (quality not judged: no quality was logged)"),
        (ratio(1.3, 1.2, 1.4), 0.01, True, "costs 30.0 % more [20.0, 40.0] at equal quality"),
        (ratio(0.97, 0.9, 1.05), 0.4, True, "no difference resolved: -10.0 to +5.0 % (interval includes 0)"),
        (ratio(0.9, 0.85, 0.99), 0.08, True, "no difference resolved after Holm (p = 0.080): -15.0 to -1.0 %"),
        (ratio(0.8, None, None, 1), None, None, "single run, no interval (0.800 x the baseline)"),
        (
            ratio(0.8, 0.5, 0.9, 2),
            0.01,
            True,
            "needs 3 per arm for a claim, has 2: 0.800 x the baseline [0.500, 0.900]",
        ),
        (ratio(0.8, None, None, 3), None, True, "no spread: not independent runs (0.800 x the baseline)"),
        (None, None, None, "not identifiable: nothing to compare"),
    ],
)
def test_words(found: Estimate | None, p: float | None, equal: bool | None, words: str) -> None:
    assert verdict(found, p, equal) == words


def test_reasons_are_given() -> None:
    assert verdict(None, None, None, "an energy is zero") == "not identifiable: an energy is zero"
    assert verdict(ratio(0.8, 0.7, 0.9), 0.01, True, better=True).endswith("at better quality")
    small_loss = verdict(ratio(0.8, 0.7, 0.9), 0.01, True, worse=True)
    assert small_loss == "saves 20.0 % [10.0, 30.0] with a loss of quality no worse than the margin"
    assert verdict(ratio(0.8, 0.7, 0.9), 0.01, False, worse=True).endswith("but quality not shown equal")
