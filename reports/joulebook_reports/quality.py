"""A run's quality and samples, read from its log marks."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from joulebook.errors import BadInput
from joulebook.rows import Mark

HIGHER: Final = frozenset({"accuracy", "acc", "top1", "top5", "f1", "auc", "bleu", "map", "r2"})
LOWER: Final = frozenset({"loss", "nll", "error", "perplexity", "mse", "mae", "rmse", "ece", "wer"})
POINTS: Final = frozenset({"accuracy", "acc", "top1", "top5"})
"""Metrics for which a point means a hundredth of the whole."""

DEFAULT_MARGIN_POINTS: Final = 0.5
"""Non-inferiority margin of METHODS 4.3, in percentage points."""


@dataclass(frozen=True, slots=True)
class Gate:
    """How quality is judged: the metric, its direction, and the loss that still counts as equal.

    margin: finite, >= 0, in the metric's own unit; None when nobody named one, and then nothing is judged.
    said: where direction and margin come from, for the report.  split: on which the metric was
    logged, "" where the runs named none.
    """

    metric: str
    higher_is_better: bool
    margin: float | None
    said: str
    split: str = ""


def gate_for(metric: str, values: Sequence[float], direction: str | None = None, margin: float | None = None) -> Gate:
    """The gate for that metric. Raises BadInput where its direction is neither named nor known."""
    name = metric.lower()
    if direction is None and name not in HIGHER | LOWER:
        raise BadInput(f"it is not known whether more {metric} is better", "add --direction higher or lower")
    if margin is not None and not 0 <= margin < math.inf:
        raise BadInput(
            f"margin {margin} is not a finite number of 0 or more",
            f"give the loss of {metric} that still counts as equal",
        )
    higher = name in HIGHER if direction is None else direction == "higher"
    better = "higher" if higher else "lower"
    if margin is not None:
        return Gate(metric, higher, margin, f"{better} is better; margin {margin:g} {metric} as asked")
    if name not in POINTS:
        return Gate(
            metric, higher, None, f"{better} is better; no margin was named (--margin), so equality is not judged"
        )
    as_fraction = all(0 <= value <= 1 for value in values)
    default = DEFAULT_MARGIN_POINTS / 100 if as_fraction else DEFAULT_MARGIN_POINTS
    return Gate(
        metric, higher, default, f"{better} is better; margin {default:g} ({DEFAULT_MARGIN_POINTS} point, the default)"
    )


def common_split(runs: Iterable[Iterable[Mark]], metric: str) -> str:
    """The one split on which all these runs are judged: "test" if any logged the metric on it, else the most used.

    runs: the marks of each.  "" is the split of values that named none.
    """
    used = Counter(split for marks in runs for split in {mark.split for mark in marks if metric in mark.quality})
    return max(used, key=lambda split: (split == "test", used[split], split), default="")


def final_quality(marks: Iterable[Mark], metric: str, split: str) -> float | None:
    """The run's last logged value of the metric on that split, None when it logged none.

    Values of the whole run come before a member's: an ensemble's accuracy is not its last member's.
    """
    found = [mark for mark in marks if metric in mark.quality and mark.split == split]
    if not found:
        return None
    best = max(found, key=lambda m: (m.member is None, m.at_us, m.n))
    return float(best.quality[metric])


def samples_in(marks: Iterable[Mark], phase: str) -> int:
    """Samples that the run served in a phase: summed over marks and ranks, 0 when it logged none.

    Members of an ensemble each see every sample, so the member that saw most decides; samples
    logged for the whole run (no member) count first.
    """
    by_member: dict[str | None, int] = defaultdict(int)
    for mark in marks:
        if mark.phase == phase and mark.samples:
            by_member[mark.member] += mark.samples
    if None in by_member:
        return by_member[None]
    return max(by_member.values(), default=0)
