"""Law 2: a physical device is counted once, however many meters and agents look at it.

Decided by content and never by arrival: counter before integrated before modelled, then the
smaller uncertainty, then agent_id. What loses is kept in the book, and never summed.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from joulebook.rows import Method

UTC_BOOT: Final = "utc"
"""boot_id of imported rows, which know no boot: their overlaps are judged in UTC."""

_RANK: Final = {str(method): rank for rank, method in enumerate(Method)}

RowName = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Look:
    """One meter's look at a device: what law 2 decides by.

    name: (txn, seq) of the measurement.  device: (machine_id, device_id).  us, ns: its half-open span.
    """

    name: RowName
    device: tuple[str, str]
    boot_id: str
    us: tuple[int, int]
    ns: tuple[int, int]
    method: str
    u_common: float
    u_indep: float
    agent_id: str
    meter: str

    def rank(self) -> tuple[int, float, str, str, str, int]:
        """The order in which looks are preferred, best first; total within a device's non-overlapping looks."""
        u = math.hypot(self.u_common, self.u_indep)
        return (_RANK[self.method], u, self.agent_id, self.meter, self.boot_id, self.ns[0])


@dataclass(slots=True)
class Covered:
    """Spans already taken, merged: a set that answers whether a span meets it."""

    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    def meets(self, start: int, end: int) -> bool:
        """True when the half-open span shares any length with the set."""
        after = bisect_right(self.ends, start)
        return after < len(self.starts) and self.starts[after] < end

    def add(self, start: int, end: int) -> None:
        """Take the span into the set."""
        first, last = bisect_left(self.ends, start), bisect_right(self.starts, end)
        if first < last:
            start, end = min(start, self.starts[first]), max(end, self.ends[last - 1])
        self.starts[first:last] = [start]
        self.ends[first:last] = [end]


def shadowed(looks: Iterable[Look]) -> set[RowName]:
    """Names of the looks that lose: each overlaps a better one of the same device that counts."""
    by_device: dict[tuple[str, str], list[Look]] = defaultdict(list)
    for look in looks:
        by_device[look.device].append(look)
    return {name for group in by_device.values() for name in _losers(group)}


def _losers(looks: list[Look]) -> Iterable[RowName]:
    by_boot: dict[str, Covered] = defaultdict(Covered)
    metered, imported = Covered(), Covered()
    for look in sorted(looks, key=Look.rank):
        in_utc = look.boot_id == UTC_BOOT
        boot = by_boot[look.boot_id]
        # Two boots cannot overlap, whatever their clocks say; an import is compared with all of them by UTC.
        if boot.meets(*look.ns) or imported.meets(*look.us) or (in_utc and metered.meets(*look.us)):
            yield look.name
            continue
        boot.add(*look.ns)
        (imported if in_utc else metered).add(*look.us)
