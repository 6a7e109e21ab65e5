"""What a run drew: pure sums over its measurements. A bare install prints this; reports price it.

The book's own arithmetic, shared by ``joulebook run`` and ``joulebook report run`` so that the
two can never disagree.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from joulebook.errors import LedgerError
from joulebook.rows import Component, Measurement, Method, Policy, Run, ShareKind
from joulebook.spans import overlap
from joulebook.split import resplit

COVERAGE_FACTOR = 2.0
"""Intervals are value +- k standard uncertainties, k = 2 (about 95 %)."""

Part = tuple[Component, str, int, float, str, float]


@dataclass(frozen=True, slots=True)
class Conservation:
    """The four totals of law 1 over a run's span, in integer millijoules: measured = runs + idle + unattributed."""

    measured: int
    runs: int
    idle: int
    unattributed: int

    @property
    def holds(self) -> bool:
        """True when nothing was lost or invented."""
        return self.measured == self.runs + self.idle + self.unattributed


@dataclass(frozen=True, slots=True)
class RunEnergy:
    """Energy of one run under one policy, in integer millijoules.

    component, phase, member, rank: where the run's own shares fell; child: energy of child runs, by run id.
    interval: component -> (low, high) at k = 2.  method: the worst method behind each component.
    devices: device -> measured millijoules over the run's span, whoever used it.
    coverage: observed part of the run's span, the least covered device deciding.
    """

    run_id: str
    policy: Policy
    component: dict[Component, int]
    phase: dict[str, dict[Component, int]]
    member: dict[str, int]
    interval: dict[Component, tuple[int, int]]
    method: dict[Component, Method]
    devices: dict[str, int]
    child: dict[str, int]
    coverage: float
    conservation: Conservation
    notes: tuple[str, ...] = ()
    phase_seconds: dict[str, float] = field(default_factory=dict)

    @property
    def own(self) -> int:
        """Millijoules of the run itself, children apart."""
        return sum(self.component.values())

    @property
    def total(self) -> int:
        """Millijoules of the run and its children."""
        return self.own + sum(self.child.values())


def check_conservation(measurements: Iterable[Measurement]) -> Conservation:
    """The totals of law 1. Raises LedgerError on the first measurement whose shares do not exhaust it."""
    measured = 0
    by_kind = dict.fromkeys(ShareKind, 0)
    for m in measurements:
        if sum(share.millijoules for share in m.shares) != m.energy_millijoules:
            raise LedgerError(
                f"the shares of {m.device_id} at {m.started_at_us} us do not sum to its {m.energy_millijoules} mJ",
                "restore the ledger from a backup: a row was altered after it was written",
            )
        measured += m.energy_millijoules
        for share in m.shares:
            by_kind[share.kind] += share.millijoules
    return Conservation(measured, by_kind[ShareKind.RUN], by_kind[ShareKind.IDLE], by_kind[ShareKind.UNATTRIBUTED])


def combined_u(parts: Sequence[tuple[int, str, float, float]]) -> float:
    """Standard uncertainty of a sum of energies, in the energies' unit.

    parts: (energy, u_common_key, u_common, u_indep) each, u relative.  Common parts add linearly
    within a key (eight GPUs with one gain error of 5 % are 5 % together), and in quadrature
    across keys; independent parts in quadrature.  Source: METHODS 1.6, GUM (JCGM 100) 5.1-5.2.
    """
    common: dict[str, float] = defaultdict(float)
    squares = 0.0
    for energy, key, u_common, u_indep in parts:
        common[key] += energy * u_common
        squares += (energy * u_indep) ** 2
    return math.sqrt(sum(u * u for u in common.values()) + squares)


def run_energy(
    run: Run, measurements: Sequence[Measurement], policy: Policy | None = None, children: Sequence[str] = ()
) -> RunEnergy:
    """Sum a run's shares.

    measurements: all those of the run's machines that may overlap its span; others are passed over.
    policy: None keeps the shares as written (and says their policy), else they are split again.
    children: ids of runs nested in this one, summed apart.
    """
    component: dict[Component, int] = defaultdict(int)
    phase: dict[str, dict[Component, int]] = defaultdict(lambda: defaultdict(int))
    member: dict[str, int] = defaultdict(int)
    child: dict[str, int] = defaultdict(int)
    devices: dict[str, int] = defaultdict(int)
    observed: dict[str, float] = defaultdict(float)
    behind: dict[Component, list[tuple[int, str, float, float]]] = defaultdict(list)
    method: dict[Component, Method] = {}
    seconds: dict[str, set[tuple[int, int]]] = defaultdict(set)
    notes: set[str] = set()
    inside: list[Measurement] = []
    ended_ns = run.ended_ns if run.ended_ns is not None else math.inf
    mine = {run.run_id}
    for m in measurements:
        shares = m.shares if policy is None else resplit(m, policy)
        owners = {share.run_id for share in shares}
        same_boot = m.machine_id == run.machine_id and m.boot_id == run.boot_id
        within = same_boot and overlap(m.started_ns, m.ended_ns, run.started_ns, int(min(ended_ns, m.ended_ns)))
        if not within and not owners & (mine | set(children)):
            continue
        inside.append(m)
        devices[m.device_id] += m.energy_millijoules
        observed[m.device_id] += (m.ended_ns - m.started_ns) * m.coverage
        if m.note:
            notes.add(f"{m.device_id}: {m.note}")
        for share in shares:
            if share.run_id in children:
                child[share.run_id] += share.millijoules
            if share.run_id not in mine:
                continue
            component[m.component] += share.millijoules
            phase[share.phase][m.component] += share.millijoules
            seconds[share.phase].add((m.started_ns, m.ended_ns))
            if share.member is not None:
                member[share.member] += share.millijoules
            behind[m.component].append((share.millijoules, m.u_common_key, m.u_common, m.u_indep))
            method[m.component] = max(method.get(m.component, Method.COUNTER), m.method, key=_worse)
    conservation = check_conservation(inside)
    interval = {}
    for name, parts in behind.items():
        u = COVERAGE_FACTOR * combined_u(parts)
        interval[name] = (max(0, round(component[name] - u)), round(component[name] + u))
    span = max(1, (run.ended_ns or max((m.ended_ns for m in inside), default=run.started_ns + 1)) - run.started_ns)
    written = {share.policy for m in inside for share in m.shares}
    return RunEnergy(
        run_id=run.run_id,
        policy=policy or next(iter(written), Policy.RESERVED),
        component=dict(component),
        phase={name: dict(parts) for name, parts in phase.items()},
        member=dict(member),
        interval=interval,
        method=method,
        devices=dict(devices),
        child=dict(child),
        coverage=min(1.0, min(observed.values(), default=0.0) / span),
        conservation=conservation,
        notes=tuple(sorted(notes)),
        phase_seconds={name: sum(b - a for a, b in spans) / 1e9 for name, spans in seconds.items()},
    )


def _worse(method: Method) -> int:
    return list(Method).index(method)
