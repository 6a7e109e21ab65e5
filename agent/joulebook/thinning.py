"""Thinning: adjacent spans of one device become one, so that a full outbox holds a longer time. Pure.

Joules, shares and weights are kept exactly where they are whole numbers and summed where they are not; what
is given up is the resolution in time. Nothing is merged across a change of runs, phases, members or ranks, nor
across a full UTC hour (law 4).
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import Any, Final

from joulebook.rows import Body, Measurement, Share, Weights
from joulebook.units import US_PER_HOUR, US_PER_SECOND

STEPS_US: Final = (60 * US_PER_SECOND, 300 * US_PER_SECOND, US_PER_HOUR)
"""Merged spans lie within one of these steps of UTC: first minutes; then what one slot of a five-minute price
series holds; then hours."""
EDGE_JITTER_US: Final = 1000
"""Two sightings of one instant may differ by this much in UTC, because the clocks' offset is read anew."""

_MERGED = re.compile(r"(\d+) spans merged: the outbox was full")
_SUMMED = {
    "started_at_us", "ended_at_us", "started_ns", "ended_ns",
    "energy_millijoules", "idle_millijoules", "u_indep", "coverage", "shares", "note",
    "start_slack_millijoules", "end_slack_millijoules",
}  # fmt: skip
_ALIKE = [field.name for field in fields(Measurement) if field.name not in _SUMMED]
_SHARE_ALIKE = [field.name for field in fields(Share) if field.name not in ("millijoules", "weights")]


def thin(rows: Sequence[Body], step_us: int) -> list[Body]:
    """The rows with adjacent spans merged; a merged one stands where the last of its group stood.

    rows: in the order of the outbox.  step_us: merged spans lie within one step of UTC; it divides an hour.
    Rows that are no measurements keep their order. Thinning twice is thinning once.
    """
    groups: dict[int, list[Measurement]] = {}
    last_of: dict[Any, int] = {}
    for i, row in enumerate(rows):
        if not isinstance(row, Measurement):
            continue
        device = (row.machine_id, row.boot_id, row.device_id, row.meter)
        last = last_of.get(device)
        mergeable = last is not None and _follows(groups[last][-1], row, step_us)
        groups[i] = groups.pop(last) if last is not None and mergeable else []
        groups[i].append(row)
        last_of[device] = i
    out: list[Body] = []
    for i, row in enumerate(rows):
        if not isinstance(row, Measurement):
            out.append(row)
        elif i in groups:
            out.append(merge(groups[i]))
    return out


def merge(spans: Sequence[Measurement]) -> Measurement:
    """Spans of one device, each beginning where the one before ends and with the same shares, as one.

    Millijoules and seconds are summed; reserved fractions and coverage are averaged over time; the uncertainty
    that they do not share adds up in quadrature, as independent millijoules.
    """
    if len(spans) == 1:
        return spans[0]
    first, last = spans[0], spans[-1]
    energy = sum(span.energy_millijoules for span in spans)
    seconds = [float(span.ended_ns - span.started_ns) for span in spans]
    idle = [span.idle_millijoules for span in spans if span.idle_millijoules is not None]
    return replace(
        first,
        ended_at_us=last.ended_at_us,
        ended_ns=last.ended_ns,
        energy_millijoules=energy,
        idle_millijoules=sum(idle) if idle else None,
        u_indep=_in_quadrature(spans, energy),
        coverage=_average([span.coverage for span in spans], seconds),
        shares=_merged_shares(spans, seconds),
        note=_note(spans),
        end_slack_millijoules=last.end_slack_millijoules,
    )


def merged_count(row: Measurement) -> int:
    """How many spans an agent measured of what this row holds; 1 when it was not merged."""
    found = _MERGED.search(row.note)
    return int(found[1]) if found else 1


def _follows(before: Measurement, after: Measurement, step_us: int) -> bool:
    return (
        before.ended_ns == after.started_ns
        and abs(before.ended_at_us - after.started_at_us) <= EDGE_JITTER_US
        and before.started_at_us // step_us == (after.ended_at_us - 1) // step_us
        and before.started_at_us < after.ended_at_us
        and (before.idle_millijoules is None) == (after.idle_millijoules is None)
        and _alike(before) == _alike(after)
    )


def _alike(row: Measurement) -> Any:
    """What must be equal for rows to merge: every field that is not summed, so that a new one is never mixed."""
    keys = [_share_key(share) for share in row.shares]
    if len(set(keys)) < len(keys):
        return object()  # two shares of one name: which belongs to which cannot be told
    return ([getattr(row, name) for name in _ALIKE], _plain_notes(row), set(keys))


def _share_key(share: Share) -> tuple[Any, ...]:
    return tuple(getattr(share, name) for name in _SHARE_ALIKE)


def _merged_shares(spans: Sequence[Measurement], seconds: Sequence[float]) -> tuple[Share, ...]:
    groups: dict[tuple[Any, ...], list[tuple[Share, float]]] = defaultdict(list)
    for span, length in zip(spans, seconds, strict=True):
        for share in span.shares:
            groups[_share_key(share)].append((share, length))
    return tuple(
        replace(
            group[0][0],
            millijoules=sum(share.millijoules for share, _ in group),
            weights=Weights(
                cpu_seconds=math.fsum(share.weights.cpu_seconds for share, _ in group),
                sm_seconds=math.fsum(share.weights.sm_seconds for share, _ in group),
                reserved_fraction=_average(
                    [share.weights.reserved_fraction for share, _ in group], [length for _, length in group]
                ),
            ),
        )
        for group in groups.values()
    )


def _average(values: Sequence[float], lengths: Sequence[float]) -> float:
    """Weighted by length, and never beyond the values themselves."""
    mean = math.fsum(v * length for v, length in zip(values, lengths, strict=True)) / math.fsum(lengths)
    return min(max(mean, min(values)), max(values))


def _in_quadrature(spans: Sequence[Measurement], energy: int) -> float:
    if not energy:
        return max(span.u_indep for span in spans)
    return math.hypot(*(span.u_indep * span.energy_millijoules for span in spans)) / energy


def _plain_notes(row: Measurement) -> list[str]:
    return [note for note in row.note.split("; ") if note and not _MERGED.fullmatch(note)]


def _note(spans: Iterable[Measurement]) -> str:
    spans = list(spans)
    count = sum(merged_count(span) for span in spans)
    return "; ".join([*_plain_notes(spans[0]), f"{count} spans merged: the outbox was full"])
