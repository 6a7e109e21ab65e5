"""Comparing two arms of a study: log ratios, Student's t, Welch, Holm, non-inferiority (METHODS 4.3).

Pure: values in, frozen results out. Energies are compared as ratios, because run-to-run spread
and gain errors of meters are proportional; qualities as differences, because margins are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

CONFIDENCE: Final = 0.95
MINIMUM_PER_ARM: Final = 3
"""Runs per arm below which no claim is printed (METHODS 4.3)."""

ROUNDING: Final = 1e-12
"""Standard errors below this part of the values (or of 1) are floating point's, not the runs'."""


Claim = TypeVar("Claim")
"""How a caller names what it tests."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A point with its two-sided 95 % interval and p value; interval and p None where there is none.

    There is none for n < 2, and none for values without any spread: runs that agree to the last
    digit are one run told several times.

    df: Student's degrees of freedom, None without an interval.  n: values, or pairs.
    """

    point: float
    low: float | None
    high: float | None
    p: float | None
    df: float | None
    n: int
    paired: bool = False

    @property
    def resolved(self) -> bool:
        """True when there is an interval (the caller says what it must exclude)."""
        return self.low is not None and self.high is not None


@dataclass(frozen=True, slots=True)
class Sample:
    """One run's value of a quantity, and the seed it is paired by."""

    seed: int | None
    value: float


def mean(values: Sequence[float]) -> Estimate:
    """Mean with its t interval; p is that of a mean of zero.  Source: METHODS 4.3."""
    n = len(values)
    point = math.fsum(values) / n
    if n < 2:
        return Estimate(point, None, None, None, None, n)
    return _student(point, math.sqrt(_variance(values, point) / n), float(n - 1), n, _size(values))


def difference(baseline: Sequence[Sample], arm: Sequence[Sample]) -> Estimate:
    """arm - baseline: paired by seed where both have the same distinct seeds, else Welch.

    Pairs that are each equal, while the pairs differ among themselves, are no difference (p = 1).

    Both non-empty.  Welch: df by Satterthwaite (Welch 1947); with one value in either arm there
    is a point and no interval.
    """
    pairs = pair_by_seed(baseline, arm)
    if pairs is not None:
        if len(pairs) > 1 and len({a for a, _ in pairs}) > 1 and all(a == b for a, b in pairs):
            return Estimate(0.0, 0.0, 0.0, 1.0, float(len(pairs) - 1), len(pairs), paired=True)
        found = mean([b - a for a, b in pairs])
        return Estimate(found.point, found.low, found.high, found.p, found.df, found.n, paired=True)
    return _welch([s.value for s in baseline], [s.value for s in arm])


def ratio(baseline: Sequence[Sample], arm: Sequence[Sample]) -> Estimate:
    """arm / baseline as exp of the mean log difference, its interval exponentiated too.

    Values must be > 0 (ValueError).  An arm divided by itself is 1 exactly.
    """
    found = difference(_logs(baseline), _logs(arm))
    low, high = (None if end is None else math.exp(end) for end in (found.low, found.high))
    return Estimate(math.exp(found.point), low, high, found.p, found.df, found.n, found.paired)


def pair_by_seed(baseline: Sequence[Sample], arm: Sequence[Sample]) -> list[tuple[float, float]] | None:
    """(baseline, arm) values of equal seeds, in seed order; None unless both hold the same distinct seeds.

    Pairing on a chosen part of the runs would pick the comparison, so one odd seed unpairs all.
    """
    left, right = _by_seed(baseline), _by_seed(arm)
    if left is None or right is None or left.keys() != right.keys():
        return None
    return [(left[seed], right[seed]) for seed in sorted(left)]


def holm(p_values: Mapping[Claim, float]) -> dict[Claim, float]:
    """p values adjusted for the number of claims tested, by Holm's step-down (Holm 1979)."""
    adjusted: dict[Claim, float] = {}
    reached = 0.0
    ordered = sorted(p_values.items(), key=lambda item: (item[1], str(item[0])))
    for rank, (name, p) in enumerate(ordered):
        reached = max(reached, min(1.0, (len(ordered) - rank) * p))
        adjusted[name] = reached
    return adjusted


def not_inferior(quality_difference: Estimate, margin: float, higher_is_better: bool) -> bool | None:
    """True when the interval excludes a loss of ``margin`` or more; None without an interval.

    quality_difference: arm - baseline in the metric's unit.  margin: >= 0, same unit.
    """
    if quality_difference.low is None or quality_difference.high is None:
        return None
    return quality_difference.low > -margin if higher_is_better else quality_difference.high < margin


def better(quality_difference: Estimate, higher_is_better: bool) -> bool:
    """True when the interval lies wholly on the better side of zero."""
    if quality_difference.low is None or quality_difference.high is None:
        return False
    return quality_difference.low > 0 if higher_is_better else quality_difference.high < 0


def worse(quality_difference: Estimate, higher_is_better: bool) -> bool:
    """True when the interval lies wholly on the worse side of zero, by however little."""
    return better(quality_difference, not higher_is_better)


def _logs(samples: Sequence[Sample]) -> list[Sample]:
    if any(sample.value <= 0 for sample in samples):
        raise ValueError("a ratio needs values above 0")
    return [Sample(sample.seed, math.log(sample.value)) for sample in samples]


def _by_seed(samples: Sequence[Sample]) -> dict[int, float] | None:
    seeds = {sample.seed: sample.value for sample in samples if sample.seed is not None}
    return seeds if len(seeds) == len(samples) else None


def _variance(values: Sequence[float], about: float) -> float:
    return math.fsum((v - about) ** 2 for v in values) / (len(values) - 1)


def _welch(baseline: Sequence[float], arm: Sequence[float]) -> Estimate:
    n = min(len(baseline), len(arm))
    means = [math.fsum(values) / len(values) for values in (baseline, arm)]
    point = means[1] - means[0]
    if n < 2:
        return Estimate(point, None, None, None, None, n)
    squares = [_variance(v, m) / len(v) for v, m in zip((baseline, arm), means, strict=True)]
    whole = sum(squares)
    parts = sum(s * s / (len(v) - 1) for s, v in zip(squares, (baseline, arm), strict=True))
    df = whole * whole / parts if parts else float(len(baseline) + len(arm) - 2)
    return _student(point, math.sqrt(whole), df, n, _size([*baseline, *arm]))


def _size(values: Sequence[float]) -> float:
    return max(1.0, *(abs(value) for value in values))


def _student(point: float, standard_error: float, df: float, n: int, size: float) -> Estimate:
    """size: of the values, against which the standard error is more than rounding or no spread at all."""
    if standard_error <= ROUNDING * size:
        return Estimate(point, None, None, None, None, n)
    from scipy.stats import t  # a second to import: only when there is something to compare

    half = float(t.ppf((1 + CONFIDENCE) / 2, df)) * standard_error
    p = 2 * float(t.sf(abs(point) / standard_error, df))
    return Estimate(point, point - half, point + half, p, df, n)
