"""What a run drew: pure sums over its measurements. A bare install prints this; reports price it.

The book's own arithmetic, shared by ``joulebook run`` and ``joulebook report run`` so that the
two can never disagree.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any, Final

from joulebook.errors import JoulebookError, LedgerError
from joulebook.phase_bounds import Bounds, phase_bounds
from joulebook.rows import (
    BY_AGENT,
    NO_PHASE,
    UNREAD,
    Body,
    Component,
    Measurement,
    Method,
    Policy,
    Run,
    Share,
    ShareKind,
)
from joulebook.spans import overlap
from joulebook.split import resplit
from joulebook.units import NS_PER_SECOND, NS_PER_US, joules

COVERAGE_FACTOR = 2.0
"""Intervals are value +- k standard uncertainties, k = 2 (about 95 %)."""

REMAINDER: Final = "/remainder"
"""How the ids of such devices end; ``remainder.SUFFIX``, without its imports."""
REST_OF_NODE: Final = "rest of the node"
"""How documents and tables call what a node drew beyond its metered parts."""

OUTSIDE_PHASES: Final = "outside phases"
"""How documents and tables call the joules of a run that fall in no phase."""

LEAST_WEIGHT: Final = 1e-9
"""What a late mark's subtraction may leave of a weight that has moved away."""

Behind = tuple[int, str, float, float]
"""One energy of a sum: millijoules, u_common_key, u_common, u_indep."""


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
    interval: component -> (low, high) at k = 2.  u_own: standard uncertainty (k = 1) of ``own``,
    in millijoules, all components together.  method: the worst method behind each component.
    devices: device -> measured millijoules within the run's span, whoever used it.  conservation: under the policy,
    over whole measurements, those at the span's ends too.
    coverage: observed part of the run's span on each machine, the least covered device of all deciding.
    unread: devices of which the run's record says that they told nothing, and no measurement tells more.
    component_names: component -> what its devices are, for people.
    phase_bounds: phase -> hard bounds of its energy for where its edges lie, see phase_bounds.
    phase_seconds: phase -> seconds in which some process was in it; outside phases: in which none was in any.
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
    phase_bounds: dict[str, Bounds | None] = field(default_factory=dict)
    u_own: float = 0.0
    component_names: dict[Component, str] = field(default_factory=dict)
    unread: tuple[str, ...] = ()

    @property
    def own(self) -> int:
        """Millijoules of the run itself, children apart."""
        return sum(self.component.values())

    @property
    def total(self) -> int:
        """Millijoules of the run and its children."""
        return self.own + sum(self.child.values())

    @property
    def own_interval(self) -> tuple[int, int]:
        """``own`` at k = 2, in millijoules: common gain errors add across components, others do not."""
        return interval_of(self.own, self.u_own)


def check_conservation(measurements: Iterable[Measurement]) -> Conservation:
    """The totals of law 1. Raises LedgerError on the first measurement whose shares do not exhaust it."""
    return _conservation((m, m.shares) for m in measurements)


def conservation_under(measurements: Iterable[Measurement], policy: Policy) -> Conservation:
    """The totals of law 1 with every measurement split again under the policy: what is idle depends on it."""
    return _conservation((m, resplit(m, policy)) for m in measurements)


def _conservation(divided: Iterable[tuple[Measurement, Sequence[Share]]]) -> Conservation:
    measured = 0
    by_kind = dict.fromkeys(ShareKind, 0)
    for m, shares in divided:
        if sum(share.millijoules for share in shares) != m.energy_millijoules:
            raise LedgerError(
                f"the shares of {m.device_id} at {m.started_at_us} us do not sum to its {m.energy_millijoules} mJ",
                "restore the ledger from a backup: a row was altered after it was written",
            )
        measured += m.energy_millijoules
        for share in shares:
            by_kind[share.kind] += share.millijoules
    return Conservation(measured, by_kind[ShareKind.RUN], by_kind[ShareKind.IDLE], by_kind[ShareKind.UNATTRIBUTED])


def combined_u(parts: Sequence[Behind]) -> float:
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


def interval_of(millijoules: int, u: float) -> tuple[int, int]:
    """(low, high) of an energy at k = 2, never below 0; u: standard uncertainty in millijoules."""
    return max(0, round(millijoules - COVERAGE_FACTOR * u)), round(millijoules + COVERAGE_FACTOR * u)


def run_energy(
    run: Run,
    measurements: Sequence[Measurement],
    policy: Policy | None = None,
    children: Sequence[str] = (),
    parts: Sequence[Run] = (),
) -> RunEnergy:
    """Sum a run's shares.

    measurements: all those of the run's machines that may overlap its span; others are passed over.
    policy: None keeps the shares as written (and says their policy), else they are split again.
    children: ids of runs nested in this one, summed apart.  parts: the run as each of its machines has it, where
    it was on several.
    """
    wanted = {run.run_id, *children}
    own_parts = {part.machine_id: part for part in parts or (run,)}
    inside = [m for m in measurements if _belongs(m, own_parts, wanted)]
    check_conservation(inside)
    split_again = [(m, m.shares if policy is None else resplit(m, policy)) for m in inside]
    own = [(m, share) for m, shares in split_again for share in shares if share.run_id == run.run_id]
    behind = _behind(own)
    component = _total(own, lambda m, _: m.component)
    said = policy or min((share.policy for m in inside for share in m.shares), default=Policy.RESERVED)
    return RunEnergy(
        run_id=run.run_id,
        policy=said,
        component=component,
        phase=_by_phase(own),
        member=_total([(m, s) for m, s in own if s.member is not None], lambda _, s: str(s.member)),
        interval={name: interval_of(component[name], combined_u(parts)) for name, parts in behind.items()},
        method=_methods(own),
        devices=_measured_by_device(own_parts, inside),
        child=_total([(m, s) for m, ss in split_again for s in ss if s.run_id in children], lambda _, s: s.run_id),
        coverage=_coverage(own_parts, inside),
        conservation=_conservation(split_again),
        notes=(*_idle_not_separated(own, said), *sorted({f"{m.device_id}: {m.note}" for m in inside if m.note})),
        phase_seconds=_phase_seconds(own),
        phase_bounds=phase_bounds(own),
        u_own=combined_u([part for parts in behind.values() for part in parts]),
        component_names=_names(own),
        unread=_unread(own_parts, inside),
    )


def _idle_not_separated(own: Owned, policy: Policy) -> tuple[str, ...]:
    """What every report says of a run's energy that no calibration has divided into idle and dynamic (METHODS 2)."""
    ours = [(m, share) for m, share in own if m.source == BY_AGENT]  # what a file says of a run, nobody divided here
    whole = sorted({str(m.component) for m, share in ours if m.idle_millijoules is None and share.millijoules})
    if not whole:
        return ()
    follows = "use" if policy is Policy.UNALLOCATED else f"the policy, {policy}"
    return (f"idle is not separated without calibration, so all energy of {', '.join(whole)} follows {follows}",)


def run_in(bodies: Iterable[Body], run_id: str, *, may_leave: bool) -> tuple[Run, RunEnergy]:
    """The run and its energy from rows that wait, as this machine knows them.

    may_leave: some may be at a collector already.
    Raises JoulebookError where it is not in them, or no longer whole: rows leave in their order, so a device of which
    no row reaches back to the run's start has lost the first ones.
    """
    rows = list(bodies)
    runs = [body for body in rows if isinstance(body, Run)]
    versions = [body for body in runs if body.run_id == run_id]
    if not versions:
        raise JoulebookError(f"run {run_id} is not in the outbox", "joulebook report run, where its rows went")
    run = versions[-1]
    measurements = [body for body in rows if isinstance(body, Measurement)]
    begun: dict[str, int] = {}
    for m in measurements:
        if m.boot_id == run.boot_id:
            begun[m.device_id] = min(m.started_ns, begun.get(m.device_id, m.started_ns))
    if may_leave and any(start > run.started_ns for start in begun.values()):
        raise JoulebookError(f"rows of run {run_id} have left already", "joulebook report run, where its rows went")
    children = sorted({body.run_id for body in runs if body.labels.parent_run_id == run_id})
    return run, run_energy(run, measurements, children=children)


Owned = Sequence[tuple[Measurement, Share]]
"""Shares with the measurement that each is a part of."""


Parts = Mapping[str, Run]
"""The run as each of its machines has it, by machine."""


def _belongs(m: Measurement, parts: Parts, wanted: set[str]) -> bool:
    """True when a wanted run has a share in it, or it overlaps the run's span on its machine and boot."""
    return any(share.run_id in wanted for share in m.shares) or bool(_shared_ns(m, parts))


def _shared_ns(m: Measurement, parts: Parts) -> int | None:
    """Nanoseconds that a measurement shares with the run's span; None where its clock does not compare with one."""
    part = parts.get(m.machine_id)
    if part is None or part.boot_id != m.boot_id:
        return None
    return overlap(m.started_ns, m.ended_ns, part.started_ns, m.ended_ns if part.ended_ns is None else part.ended_ns)


def _total(owned: Owned, key: Any) -> dict[Any, int]:
    totals: dict[Any, int] = defaultdict(int)
    for m, share in owned:
        totals[key(m, share)] += share.millijoules
    return dict(totals)


def _by_phase(owned: Owned) -> dict[str, dict[Component, int]]:
    totals: dict[str, dict[Component, int]] = defaultdict(lambda: defaultdict(int))
    for m, share in owned:
        totals[share.phase][m.component] += share.millijoules
    return {phase: dict(parts) for phase, parts in totals.items()}


def _behind(owned: Owned) -> dict[Component, list[Behind]]:
    behind: dict[Component, list[Behind]] = defaultdict(list)
    for m, share in owned:
        behind[m.component].append((share.millijoules, m.u_common_key, m.u_common, m.u_indep))
    return behind


def _methods(owned: Owned) -> dict[Component, Method]:
    worst: dict[Component, Method] = {}
    for m, _ in owned:
        worst[m.component] = max(worst.get(m.component, Method.COUNTER), m.method, key=list(Method).index)
    return worst


def _names(owned: Owned) -> dict[Component, str]:
    """Each component by its own name; other devices that are a node's remainder by theirs."""
    remainders = [m.device_id.endswith(REMAINDER) for m, _ in owned if m.component is Component.OTHER]
    names = {m.component: str(m.component) for m, _ in owned}
    if any(remainders):
        names[Component.OTHER] = REST_OF_NODE if all(remainders) else f"{Component.OTHER}, with the {REST_OF_NODE}"
    return names


def _measured_by_device(parts: Parts, inside: Iterable[Measurement]) -> dict[str, int]:
    devices: dict[str, int] = defaultdict(int)
    for m in inside:
        devices[m.device_id] += _within(parts, m)
    return dict(devices)


def _within(parts: Parts, m: Measurement) -> int:
    """The measurement's millijoules within the run's span, uniform within its own; whole on another boot's clock."""
    shared = _shared_ns(m, parts)
    if shared is None:
        return m.energy_millijoules
    return round(Fraction(m.energy_millijoules * shared, m.ended_ns - m.started_ns))


def _coverage(parts: Parts, inside: Sequence[Measurement]) -> float:
    """Observed part of the run's time, 0 to 1: each device's of its machine's, the least covered device decides.

    0 where a machine has no device.
    """
    by_machine: dict[str, list[Measurement]] = {machine: [] for machine in parts}
    for m in inside:
        by_machine.setdefault(m.machine_id, []).append(m)
    return min(_least_covered(parts, machine, rows) for machine, rows in by_machine.items())


def _unread(parts: Parts, inside: Sequence[Measurement]) -> tuple[str, ...]:
    """Devices that were there, by their machines' records, and of which no measurement is in the run's span."""
    told = {(m.machine_id, m.device_id) for m in inside}
    there = {(machine, device) for machine, part in parts.items() for device in part.record.get(UNREAD, ())}
    return tuple(sorted({device for _, device in there - told}))


def _least_covered(parts: Parts, machine: str, rows: Sequence[Measurement]) -> float:
    part = parts.get(machine)
    observed: dict[str, float] = defaultdict(float)
    if part is not None:  # a device that was away all the time has no row: the record alone knows that it was there
        observed |= dict.fromkeys(part.record.get(UNREAD, ()), 0.0)
    for m in rows:
        shared = _shared_ns(m, parts)
        # Boot clocks do not compare: a span of another boot counts whole.
        observed[m.device_id] += (m.ended_ns - m.started_ns if shared is None else shared) * m.coverage
    return min(1.0, min(observed.values(), default=0.0) / max(1, _extent_ns(part, rows)))


def _extent_ns(part: Run | None, rows: Sequence[Measurement]) -> int:
    """Length of the run on one machine; as long as its measurements where the machine does not say."""
    if part is not None and part.ended_ns is not None:
        return part.ended_ns - part.started_ns
    if part is not None:
        return max((m.ended_ns for m in rows if m.boot_id == part.boot_id), default=part.started_ns) - part.started_ns
    boots: dict[str, list[int]] = defaultdict(list)
    for m in rows:
        boots[m.boot_id] += (m.started_ns, m.ended_ns)
    return sum(max(times) - min(times) for times in boots.values())


Spans = set[tuple[int, int]]


def _phase_seconds(owned: Owned) -> dict[str, float]:
    """By phase the length of the union of its spans: devices, ranks and machines side by side count once."""
    spans: dict[str, Spans] = defaultdict(set)
    offsets: dict[tuple[str, str], int] = {}
    for m, share in owned:
        # One offset for each clock: UTC may be set within a run, and must not stretch it.
        offset = offsets.setdefault((m.machine_id, m.boot_id), m.started_at_us * NS_PER_US - m.started_ns)
        if claims_some(share):
            spans[share.phase].add((m.started_ns + offset, m.ended_ns + offset))
    lengths = {phase: _union(held) for phase, held in spans.items()}
    if NO_PHASE in spans:
        named = set().union(*(held for phase, held in spans.items() if phase != NO_PHASE))
        lengths[NO_PHASE] = _union(named | spans[NO_PHASE]) - _union(named)
    return {phase: length / NS_PER_SECOND for phase, length in lengths.items() if length}


def claims_some(share: Share) -> bool:
    """False for a share without joules and weights: it claims nothing, and no time either."""
    weights = share.weights
    most = max(weights.cpu_seconds, weights.sm_seconds, weights.reserved_fraction)
    return share.millijoules > 0 or most > LEAST_WEIGHT


def _union(spans: Iterable[tuple[int, int]]) -> int:
    length, reached = 0, -(2**63)
    for start, end in sorted(spans):
        length += max(0, end - max(start, reached))
        reached = max(reached, end)
    return length


COMPONENT_KEYS: Final = (Component.CPU, Component.DRAM, Component.GPU, Component.OTHER)
"""Components that every document names; null where no meter saw one: missing is not zero."""


def document(run: Run, energy: RunEnergy) -> dict[str, Any]:
    """The energy part of the JSON object of ``joulebook run --json`` (docs/reference/report.md).

    Joules as floats, conservation in integer millijoules, times ISO 8601 in UTC. The priced
    fields are null, and ``missing`` says what prices them.
    """
    named = [*COMPONENT_KEYS, *sorted(set(energy.component) - set(COMPONENT_KEYS))]
    return {
        "run_id": run.run_id,
        "status": str(run.status),
        "reason": run.reason,
        "started_at": iso_utc(run.started_at_us),
        "ended_at": None if run.ended_at_us is None else iso_utc(run.ended_at_us),
        "policy": str(energy.policy),
        "energy_joules": {str(c): joules(energy.component[c]) if c in energy.component else None for c in named},
        "energy_interval_joules": {str(c): _joules_pair(pair) for c, pair in energy.interval.items()},
        "energy_total_joules": joules(energy.own),
        "energy_total_interval_joules": _joules_pair(energy.own_interval),
        "children": {run_id: joules(mj) for run_id, mj in energy.child.items()},
        "energy_with_children_joules": joules(energy.total),
        "method": {str(c): str(method) for c, method in energy.method.items()},
        "component_names": {str(c): name for c, name in energy.component_names.items()},
        "phases": {phase_name(p): _joules_by(parts) for p, parts in energy.phase.items()},
        "phase_bounds_joules": {
            phase_name(p): None if b is None else _joules_pair((b.least, b.most))
            for p, b in energy.phase_bounds.items()
        },
        "phase_seconds": {phase_name(p): seconds for p, seconds in energy.phase_seconds.items()},
        "members": _joules_by(energy.member),
        "devices": _joules_by(energy.devices),
        "coverage": energy.coverage,
        "notes": sorted({*run.notes, *energy.notes}),
        "facility_energy_kwh": None,
        "emissions_g": None,
        "missing": "emissions are not priced here; pip install 'joulebook[reports]'",
        "conservation": {
            "measured": energy.conservation.measured,
            "runs": energy.conservation.runs,
            "idle": energy.conservation.idle,
            "unattributed": energy.conservation.unattributed,
        },
    }


def phase_name(phase: str) -> str:
    """The phase as people read it: the empty one has a name too."""
    return OUTSIDE_PHASES if phase == NO_PHASE else phase


def iso_utc(at_us: int) -> str:
    """UTC microseconds as ISO 8601, to the microsecond, without going through floats."""
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at_us)
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _joules_by(millijoules: Mapping[Any, int]) -> dict[str, float]:
    return {str(key): joules(value) for key, value in millijoules.items()}


def _joules_pair(millijoules: tuple[int, int]) -> list[float]:
    return [joules(end) for end in millijoules]
