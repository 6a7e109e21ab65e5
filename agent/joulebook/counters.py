"""Differences of energy counters: advance, wrap, reset and gap told apart (METHODS 1.3)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Step(StrEnum):
    """What happened between two reads of a counter."""

    ADVANCE = "advance"
    WRAP = "wrap"
    RESET = "reset"
    GAP = "gap"


@dataclass(frozen=True, slots=True)
class Difference:
    """Counts between two reads, or the bounds of what cannot be known.

    counts: known counts for advance and wrap, None for reset and gap.
    at_least, at_most: hard bounds in counts; equal to counts where that is known,
    at_most None where nothing bounds it.
    """

    step: Step
    counts: int | None
    at_least: int
    at_most: int | None


def difference(
    previous: int,
    current: int,
    elapsed_ns: int,
    wraps_at: int | None = None,
    most_per_second: float | None = None,
    *,
    restarted: bool = False,
) -> Difference:
    """What a counter gained between two reads within one boot.

    previous, current: counts, >= 0.  elapsed_ns: time between the reads, > 0.  wraps_at: counts at
    which the counter returns to zero, None when it never does.  most_per_second: counts per second
    that the device cannot exceed, None when unknown.
    restarted: it began at 0 again between the reads, if what it shows can have been drawn since.
    A counter that fell is a wrap only if it has a known range and the implied gain is possible
    in the time; else it was reset, and at least ``current`` was counted since.  A counter that
    could have gone all the way round is a gap, even if it rose.
    """
    if previous < 0 or current < 0 or elapsed_ns <= 0:
        raise ValueError(f"cannot compare counts {previous} and {current} after {elapsed_ns} ns")
    most = None if most_per_second is None else int(most_per_second * elapsed_ns / 1e9)
    if wraps_at is not None and most is not None and most >= wraps_at:
        return Difference(Step.GAP, None, max(0, current - previous), most)
    if restarted and (most is None or current <= most):
        return Difference(Step.RESET, None, current - previous if current >= previous else current, most)
    if current >= previous:
        gained = current - previous
        if most is not None and gained > most:
            return Difference(Step.GAP, None, 0, most)
        return Difference(Step.ADVANCE, gained, gained, gained)
    if wraps_at is not None and previous <= wraps_at:
        gained = wraps_at - previous + current
        if most is None or gained <= most:
            return Difference(Step.WRAP, gained, gained, gained)
    return Difference(Step.RESET, None, current, most)
