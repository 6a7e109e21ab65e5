"""Binding: device histories and process timelines -> measurements with their shares. Pure.

A span is cut at every change of state, so that a measurement lies within one phase of each
process; changes closer together than LEAST_CUT_NS share a measurement, divided by time.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from joulebook.clock import Offset
from joulebook.history import DeviceHistory, History
from joulebook.meters import Device
from joulebook.rows import Component, Measurement, Method, Policy, Share, ShareKind, Weights
from joulebook.split import split
from joulebook.timeline import State, Timeline, edges
from joulebook.units import MICROJOULES_PER_MILLIJOULE, NS_PER_SECOND

LEAST_CUT_NS = 20_000_000
"""Shortest measurement that marks may cut out."""

RESOLVE_STEPS = 10
"""A phase shorter than this many counter steps, or samples, is labelled too short to resolve."""


@dataclass(frozen=True, slots=True, eq=False)
class Party:
    """One marking process as binding sees it.

    reserved_cpus, reserved_bytes: what its control group limits its run to, None when it is not limited.
    gpus: device ids visible to the run, None for all.
    """

    key: str
    run_id: str
    root_run_id: str
    timeline: Timeline
    cpu: History
    launcher: bool = False
    rank: int | None = None
    reserved_cpus: float | None = None
    reserved_bytes: int | None = None
    gpus: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """What binding needs to know of the machine.

    cpu: cumulative busy CPU nanoseconds of everything.  group_cpu: those of the agent's control group, None
    where it has no limit.  gpu_use: device -> party key ("" for processes of no run)
    -> utilisation 0 to 1, as of the last span edge.
    """

    machine_id: str
    boot_id: str
    cpu: History
    sample_ns: int
    gpu_use: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    policy: Policy = Policy.RESERVED
    group_cpu: History | None = None

    def cpu_of(self, device: Device) -> History:
        """The CPU time that a device's energy stands for: a model's is that of the group that it models."""
        return self.group_cpu if device.method is Method.MODELLED and self.group_cpu is not None else self.cpu


def measure(
    machine: Machine, devices: Sequence[DeviceHistory], parties: Sequence[Party], start: int, end: int, offset: Offset
) -> list[Measurement]:
    """Every device's measurements over [start, end), CLOCK_BOOTTIME ns, in order of device and time."""
    cuts = _cut_points(edges((p.timeline for p in parties), start, end), start, end)
    rows = []
    for device in devices:
        for a, b in pairwise([start, *cuts, end]):
            for known_a, known_b, segment in device.history.known(a, b):
                if offset.utc_us(known_a) == offset.utc_us(known_b):
                    continue  # shorter than the clock of the book can tell
                micro_a, micro_b = segment.at(known_a), segment.at(known_b)
                energy = micro_b // MICROJOULES_PER_MILLIJOULE - micro_a // MICROJOULES_PER_MILLIJOULE
                rows.append(_row(machine, device, parties, known_a, known_b, energy, offset))
    return rows


def _cut_points(changes: Sequence[int], start: int, end: int) -> list[int]:
    cuts: list[int] = []
    last = start
    for t in changes:
        if t - last >= LEAST_CUT_NS and end - t >= LEAST_CUT_NS:
            cuts.append(t)
            last = t
    return cuts


def _row(
    machine: Machine,
    history: DeviceHistory,
    parties: Sequence[Party],
    start: int,
    end: int,
    energy: int,
    offset: Offset,
) -> Measurement:
    device = history.device
    notes = [device.note, *history.notes_in(start, end)]
    coverage = history.observed(start, end)
    if coverage < 1:
        notes.append("claimed across an absence of the agent")
    notes += _too_short(history, machine.sample_ns, parties, start, end)
    u_edge = device.step_ns / ((end - start) * math.sqrt(6)) if device.method is Method.COUNTER else 0.0
    u_steps = history.integration_u(start, end) / max(1, energy * MICROJOULES_PER_MILLIJOULE)
    return Measurement(
        machine_id=machine.machine_id,
        boot_id=machine.boot_id,
        device_id=device.device_id,
        component=device.component,
        started_at_us=offset.utc_us(start),
        ended_at_us=offset.utc_us(end),
        started_ns=start,
        ended_ns=end,
        energy_millijoules=energy,
        meter=history.meter,
        method=device.method,
        u_common=device.u_common,
        u_common_key=device.u_common_key,
        u_indep=math.sqrt(device.u_indep**2 + u_edge**2 + u_steps**2),
        coverage=coverage,
        source="agent",
        shares=split(energy, claims(machine, history, parties, start, end), machine.policy, device.component),
        note="; ".join(note for note in notes if note),
    )  # fmt: skip


def claims(machine: Machine, history: DeviceHistory, parties: Sequence[Party], start: int, end: int) -> list[Share]:
    """What each run and phase may claim of a device over a span; the last claim is everybody else's.

    Weights only: millijoules are zero until ``split``.
    """
    reserved = _reservations(history, parties, start, end)
    use = machine.gpu_use.get(history.device.device_id, {})
    seconds = (end - start) / NS_PER_SECOND
    by_state: dict[tuple[State, int | None], Weights] = defaultdict(Weights)
    claimed_cpu = 0.0
    for party in parties:
        stretches = [s for s in party.timeline.stretches(start, end) if s.state is not None]
        inside = sum(s.end - s.start for s in stretches)
        if not inside:
            continue
        cpu = sum(party.cpu.gained(s.start, s.end) for s in stretches) / NS_PER_SECOND
        claimed_cpu += cpu
        for s in stretches:
            assert s.state is not None
            part = (s.end - s.start) / inside
            own_cpu = party.cpu.gained(s.start, s.end) / NS_PER_SECOND
            whole = part * inside / (end - start)
            key = (s.state, party.rank)
            old = by_state[key]
            by_state[key] = Weights(
                old.cpu_seconds + own_cpu,
                old.sm_seconds + use.get(party.key, 0.0) * seconds * whole,
                old.reserved_fraction + reserved.get(party.key, 0.0) * part,
            )
    shares = [
        Share(ShareKind.RUN, 0, machine.policy, state.run_id, state.phase, state.member, rank, weights)
        for (state, rank), weights in sorted(by_state.items(), key=lambda item: _text(item[0]))
    ]
    others_cpu = max(0.0, machine.cpu_of(history.device).gained(start, end) / NS_PER_SECOND - claimed_cpu)
    left = max(0.0, 1.0 - sum(share.weights.reserved_fraction for share in shares))
    others = Weights(others_cpu, use.get("", 0.0) * seconds, left if left > 1e-9 else 0.0)
    return [*shares, Share(ShareKind.UNATTRIBUTED, 0, machine.policy, weights=others)]


def _reservations(history: DeviceHistory, parties: Sequence[Party], start: int, end: int) -> dict[str, float]:
    """Party -> fraction of the device reserved for it, averaged over the span.

    Runs without a limit divide equally what limited runs leave. A run's fraction is its processes' that are
    in a phase, else all its processes', equally.
    """
    runs: dict[str, dict[Party, float]] = defaultdict(dict)
    for party in parties:
        part = _presence(party, start, end)
        if part and _may_use(party, history.device):
            runs[party.root_run_id][party] = part
    limits = {run: limit for run, members in runs.items() if (limit := _limit(members, history)) is not None}
    over = max(1.0, sum(limits.values()))
    limited = {run: limit / over for run, limit in limits.items()}
    free = len(runs) - len(limited)
    each = (1.0 - sum(limited.values())) / free if free else 0.0
    fractions: dict[str, float] = {}
    for run, members in runs.items():
        whole = limited.get(run, each) * max(members.values())
        chosen = _claimants(members, start, end)
        total = sum(members[party] for party in chosen)
        fractions |= {party.key: whole * members[party] / total for party in chosen}
    return fractions


def _presence(party: Party, start: int, end: int) -> float:
    inside = sum(s.end - s.start for s in party.timeline.stretches(start, end) if s.state is not None)
    return inside / (end - start)


def _may_use(party: Party, device: Device) -> bool:
    return device.component is not Component.GPU or party.gpus is None or device.device_id in party.gpus


def _limit(members: Iterable[Party], history: DeviceHistory) -> float | None:
    """The fraction of a device that a run's control group leaves it, None when that is all of it."""
    if history.capacity is None:
        return None
    memory = history.device.component is Component.DRAM
    limits = [party.reserved_bytes if memory else party.reserved_cpus for party in members]
    least = min((limit for limit in limits if limit is not None), default=None)
    return None if least is None or least >= history.capacity else least / history.capacity


def _claimants(members: Iterable[Party], start: int, end: int) -> list[Party]:
    """Who of a run's processes a reservation is for: those in a phase, else those that are no launcher, else all."""
    every = list(members)
    phased = [p for p in every if any(s.state and s.state.phase for s in p.timeline.stretches(start, end))]
    return phased or [party for party in every if not party.launcher] or every


def _too_short(history: DeviceHistory, sample_ns: int, parties: Sequence[Party], start: int, end: int) -> list[str]:
    step = history.device.step_ns if history.device.method is Method.COUNTER else sample_ns
    short = {
        s.state.phase
        for party in parties
        for s in party.timeline.stretches(start, end)
        if s.state is not None and s.state.phase and s.whole_ns is not None and s.whole_ns < RESOLVE_STEPS * step
    }
    return [f"phase {name!r} too short to resolve" for name in sorted(short)]


def reassign(old: Sequence[Share], new: Sequence[Share]) -> list[tuple[int, Share, Share]]:
    """Moves (millijoules, from, to) that turn the old shares of a measurement into the new ones. Both sum alike.

    The weights of ``to`` are those that move with the millijoules, so that a later split finds them there.
    """
    had = {_key(share): share for share in old}
    wants = {_key(share): share for share in new}
    keys = sorted(had.keys() | wants.keys())
    change = {key: _millijoules(wants.get(key)) - _millijoules(had.get(key)) for key in keys}
    left = {key: -delta for key, delta in change.items() if delta < 0}
    moves = []
    for key, delta in change.items():
        gained = _gained(had.get(key), wants[key]) if delta > 0 else Weights()
        while delta > 0:
            giver = next(iter(left))
            amount = min(delta, left[giver])
            moves.append((amount, had[giver], replace(wants[key], weights=gained)))
            gained = Weights()
            delta -= amount
            left[giver] -= amount
            if not left[giver]:
                del left[giver]
    return moves


def _millijoules(share: Share | None) -> int:
    return 0 if share is None else share.millijoules


def _gained(old: Share | None, new: Share) -> Weights:
    """Weights that a share has now and had not before, none below 0."""
    before = Weights() if old is None else old.weights
    return Weights(
        max(0.0, new.weights.cpu_seconds - before.cpu_seconds),
        max(0.0, new.weights.sm_seconds - before.sm_seconds),
        max(0.0, new.weights.reserved_fraction - before.reserved_fraction),
    )


def _key(share: Share) -> str:
    return repr((share.kind, share.run_id, share.phase, share.member, share.rank))


def _text(key: tuple[State, int | None]) -> tuple[str, str, str, int]:
    state, rank = key
    return (state.run_id, state.phase, state.member or "", -1 if rank is None else rank)
