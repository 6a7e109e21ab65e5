"""What part of a resource each run may call its own, from the groups that limit them. Pure.

A group's limit is that of everything in it: runs that share one share its amount equally, and a group within another
takes its part out of the outer one's. Where limits promise more than there is, each gets proportionally less; what
limited groups leave is divided equally among the runs beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from joulebook.cgroup import Limit


@dataclass(slots=True)
class _Node:
    amount: float
    runs: list[str] = field(default_factory=list)
    within: list[_Node] = field(default_factory=list)

    def divide(self, available: float, into: dict[str, float]) -> None:
        promised = sum(node.amount for node in self.within)
        scale = min(1.0, available / promised) if promised else 0.0
        for node in self.within:
            node.divide(node.amount * scale, into)
        left = max(0.0, available - promised * scale)
        for run in self.runs:
            into[run] = left / len(self.runs)


def reservations(limits: Mapping[str, Limit | None], capacity: float) -> dict[str, float]:
    """Run -> fraction of the resource that is reserved for it; together at most 1.

    limits: run -> its tightest limit, None where it has none.  capacity: the whole resource, in the limits' unit (> 0).
    A limit of the whole or more is none.
    """
    root = _Node(capacity)
    nodes: dict[str, _Node] = {}
    limited = {limit.group: limit.amount for limit in limits.values() if limit is not None}
    for group in sorted(limited):  # outer ones before those within them
        outer = max((known for known in nodes if group.startswith(f"{known}/")), key=len, default=None)
        around = root if outer is None else nodes[outer]
        if around is root and limited[group] >= capacity:
            nodes[group] = root
            continue
        nodes[group] = _Node(limited[group])
        around.within.append(nodes[group])
    for run, limit in limits.items():
        (root if limit is None else nodes[limit.group]).runs.append(run)
    found: dict[str, float] = {}
    root.divide(capacity, found)
    return {run: amount / capacity for run, amount in found.items()}
