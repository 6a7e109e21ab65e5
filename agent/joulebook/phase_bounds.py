"""How much energy a phase can have had at most and at least, from the hard bounds of its rows' edges. Pure.

Within a phase inner edges cancel: what one span may have lost there its neighbour has. So only where a stretch of
rows begins and ends does the slack count, in the part of the row that the phase has.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from joulebook.rows import Measurement, Share


@dataclass(frozen=True, slots=True)
class Bounds:
    """Least and greatest energy, millijoules. Both hold for the counters' own values: a gain error comes on top."""

    least: int
    most: int


def phase_bounds(owned: Sequence[tuple[Measurement, Share]]) -> dict[str, Bounds | None]:
    """Phase -> bounds; None where a row's edge has none: a meter that is no counter, or too few readings around it.

    owned: a run's shares, each with the measurement that it is a part of.
    """
    totals: dict[str, int] = defaultdict(int)
    rows: dict[tuple[str, str, str, str], dict[tuple[int, int], tuple[Measurement, int]]] = defaultdict(dict)
    for m, share in owned:
        totals[share.phase] += share.millijoules
        if share.millijoules:
            spans = rows[share.phase, m.machine_id, m.boot_id, m.device_id]
            _, before = spans.get((m.started_ns, m.ended_ns), (m, 0))
            spans[m.started_ns, m.ended_ns] = (m, before + share.millijoules)
    slack: dict[str, int | None] = dict.fromkeys(totals, 0)
    for (phase, *_), spans in rows.items():
        known, own = slack[phase], _slack([spans[key] for key in sorted(spans)])
        slack[phase] = None if known is None or own is None else known + own
    return {
        phase: None if (s := slack[phase]) is None else Bounds(max(0, total - s), total + s)
        for phase, total in totals.items()
    }


def _slack(rows: Sequence[tuple[Measurement, int]]) -> int | None:
    """Slack of one device's rows of a phase in order of time: at every beginning and end of a stretch."""
    total = 0
    for i, (m, millijoules) in enumerate(rows):
        edges = []
        if i == 0 or rows[i - 1][0].ended_ns != m.started_ns:
            edges.append(m.start_slack_millijoules)
        if i + 1 == len(rows) or rows[i + 1][0].started_ns != m.ended_ns:
            edges.append(m.end_slack_millijoules)
        for edge in edges:
            if edge is None:
                return None
            total += -(-edge * millijoules // max(1, m.energy_millijoules))
    return total
