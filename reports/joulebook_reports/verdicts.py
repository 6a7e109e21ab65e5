"""What may be said of an arm, in words that cannot flatter (METHODS 0.4, 4.3). Pure."""

from __future__ import annotations

from joulebook_reports.compare import MINIMUM_PER_ARM, Estimate

ALPHA = 0.05


def percent_change(ratio: Estimate) -> str:
    """``saves 23.1 % [20.0, 26.2]`` or ``costs ...``: the interval first in what it excludes, then the point."""
    change = (ratio.point - 1) * 100
    if ratio.low is None or ratio.high is None:
        return f"{'saves' if change < 0 else 'costs'} {abs(change):.1f} %"
    low, high = (ratio.low - 1) * 100, (ratio.high - 1) * 100
    if change < 0:
        return f"saves {-change:.1f} % [{-high:.1f}, {-low:.1f}]"
    return f"costs {change:.1f} % more [{low:.1f}, {high:.1f}]"


def verdict(
    ratio: Estimate | None,
    adjusted_p: float | None,
    equal_quality: bool | None,
    not_identifiable: str = "",
    quality_note: str = "",
    better: bool = False,
    worse: bool = False,
) -> str:
    """One sentence on one arm against the baseline.

    ratio: of full energy.  adjusted_p: after Holm.  equal_quality: the gate's answer, None when it could
    not be asked (quality_note says why).  better, worse: quality's interval lies wholly on that side.
    not_identifiable: why no ratio exists.
    """
    if not_identifiable or ratio is None:
        return f"not identifiable: {not_identifiable or 'nothing to compare'}"
    if not ratio.resolved and ratio.n > 1:
        return f"no spread: not independent runs ({ratio.point:.3f} x the baseline)"
    if not ratio.resolved:
        return f"single run, no interval ({ratio.point:.3f} x the baseline)"
    if ratio.n < MINIMUM_PER_ARM:
        return f"needs {MINIMUM_PER_ARM} per arm for a claim, has {ratio.n}: {_interval_of(ratio)}"
    unresolved = _unresolved(ratio, adjusted_p)
    if unresolved:
        return unresolved
    return f"{percent_change(ratio)} {_quality_words(equal_quality, quality_note, better, worse)}"


def _interval_of(ratio: Estimate) -> str:
    return f"{ratio.point:.3f} x the baseline [{ratio.low:.3f}, {ratio.high:.3f}]"


def _unresolved(ratio: Estimate, adjusted_p: float | None) -> str:
    low, high = (((end or 1.0) - 1) * 100 for end in (ratio.low, ratio.high))
    if low <= 0 <= high:
        return f"no difference resolved: {low:+.1f} to {high:+.1f} % (interval includes 0)"
    if adjusted_p is not None and adjusted_p >= ALPHA:
        return f"no difference resolved after Holm (p = {adjusted_p:.3f}): {low:+.1f} to {high:+.1f} %"
    return ""


def _quality_words(equal_quality: bool | None, note: str, better: bool, worse: bool) -> str:
    if equal_quality is None:
        return f"(quality not judged: {note or 'no quality was logged'})"
    if better:
        return "at better quality"
    if not equal_quality:
        return "but quality not shown equal"
    return "with a loss of quality no worse than the margin" if worse else "at equal quality"
