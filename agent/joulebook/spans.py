"""Half-open spans and what happens to extensive quantities when they are cut (METHODS 1.3).

Cutting floors the *cumulative* value at each cut, so that parts always sum to the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def overlap(a_start: int, a_end: int, b_start: int, b_end: int) -> int:
    """Length that two half-open spans share, in their own unit; 0 when they do not meet."""
    return max(0, min(a_end, b_end) - max(a_start, b_start))


def cut(total: int, start: int, end: int, cuts: Sequence[int]) -> list[int]:
    """``total`` over [start, end), uniform within, as whole parts between ``cuts``.

    cuts: strictly inside the span, ascending.  Returns len(cuts) + 1 parts that sum to total.
    """
    if end <= start:
        raise ValueError(f"empty span [{start}, {end})")
    edges = [start, *cuts, end]
    if any(b <= a for a, b in pairwise(edges)):
        raise ValueError(f"cuts {list(cuts)} are not ascending inside [{start}, {end})")
    cumulative = [total * (edge - start) // (end - start) for edge in edges]
    return [b - a for a, b in pairwise(cumulative)]


def grid_cuts(start: int, end: int, step: int) -> list[int]:
    """The multiples of ``step`` strictly inside [start, end)."""
    first = start // step + 1
    return [k * step for k in range(first, -(-end // step))]


def resample(parts: Sequence[tuple[int, int, int]], edges: Sequence[int]) -> list[int]:
    """Whole energies of spans, moved onto the bins between ``edges``: overlap-weighted, sum kept.

    parts: (start, end, total) each.  edges: ascending, covering every part.  Returns
    len(edges) - 1 totals whose sum is the parts' sum exactly.
    """
    bins = [0] * (len(edges) - 1)
    for start, end, total in parts:
        if start < edges[0] or end > edges[-1]:
            raise ValueError(f"span [{start}, {end}) lies outside the bins [{edges[0]}, {edges[-1]})")
        inside = [edge for edge in edges if start < edge < end]
        first = next(i for i in range(len(bins)) if edges[i] <= start < edges[i + 1])
        for offset, part in enumerate(cut(total, start, end, inside)):
            bins[first + offset] += part
    return bins
