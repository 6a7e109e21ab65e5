"""Binding: device histories and process timelines -> measurements with their shares. Pure.

A span is cut at every change of state, so that a measurement lies within one phase of each
process; changes closer together than LEAST_CUT_NS share a measurement, divided by time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from operator import sub

from joulebook.cgroup import Limit
from joulebook.clock import Offset
from joulebook.history import DeviceHistory, History
from joulebook.meters import Device
from joulebook.reservations import reservations
from joulebook.rows import BY_AGENT, DIVIDED, Component, Measurement, Method, Policy, Share, ShareKind, Weights
from joulebook.split import split
from joulebook.timeline import State, Stretch, Timeline, edges
from joulebook.units import MICROJOULES_PER_MILLIJOULE, NS_PER_SECOND

LEAST_CUT_NS = 20_000_000
"""Shortest measurement that marks may cut out."""

RESOLVE_STEPS = 10
"""A phase shorter than this many counter steps, or samples, is labelled too short to resolve."""

ALIASING_NS = 10 * NS_PER_SECOND
"""Polled power of anything shorter is suspect: a load may move in step with the sensor (METHODS 1.1)."""
U_ALIASED = 0.25
"""Relative standard uncertainty of polled power then, one-sided low (METHODS 1.6)."""
ROUGH = 0.1
"""Instant power whose jumps from reading to reading make up more of its energy moves too fast to be polled."""


@dataclass(frozen=True, slots=True, eq=False)
class Party:
    """One marking process as binding sees it.

    cpus, memory: the limits of its control groups, None where it has none; runs in one group share its limit.
    gpus: ids of the devices, or of their slices, that are visible to the run, None for all.
    """

    key: str
    run_id: str
    root_run_id: str
    timeline: Timeline
    cpu: History
    launcher: bool = False
    rank: int | None = None
    cpus: Limit | None = None
    memory: Limit | None = None
    gpus: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """What binding needs to know of the machine.

    cpu: cumulative busy CPU nanoseconds of everything.  group_cpu: those of the agent's control group, None
    where it has no limit.  gpu_use: device -> party key ("" for processes of no run) -> cumulative nanoseconds
    for which it kept the device busy.
    """

    machine_id: str
    boot_id: str
    cpu: History
    sample_ns: int
    gpu_use: Mapping[str, Mapping[str, History]] = field(default_factory=dict)
    policy: Policy = Policy.RESERVED
    group_cpu: History | None = None

    def cpu_of(self, device: Device) -> History:
        """The CPU time that a device's energy stands for: a model's is that of the group that it models."""
        return self.group_cpu if device.method is Method.MODELLED and self.group_cpu is not None else self.cpu


@dataclass(slots=True)
class _Stay:
    """What a party did within a span: its stretches in a run, their total length and each one's CPU seconds."""

    party: Party
    stretches: list[Stretch]
    inside: int
    cpu_seconds: list[float]
    presence: float


@dataclass(slots=True)
class Scene:
    """The machine and who was on it. What all devices of one span have in common is worked out once."""

    machine: Machine
    parties: Sequence[Party]
    _stays: dict[tuple[int, int], list[_Stay]] = field(default_factory=dict)
    _changes: frozenset[int] | None = None
    known_claims: dict[tuple[object, ...], list[Share]] = field(default_factory=dict)

    def cuts(self, start: int, end: int) -> list[int]:
        """Instants strictly within [start, end) at which a measurement must be cut."""
        return _cut_points(edges((p.timeline for p in self.parties), start, end), start, end)

    @property
    def changes(self) -> frozenset[int]:
        """Instants at which some process changed state: there, what a neighbour may have is worth knowing."""
        if self._changes is None:
            self._changes = frozenset(t for party in self.parties for t in party.timeline.times)
        return self._changes

    def stays(self, start: int, end: int) -> list[_Stay]:
        """Who was in a run within [start, end)."""
        found = self._stays.get((start, end))
        if found is None:
            found = self._stays[start, end] = [
                stay for party in self.parties if (stay := _stay(party, start, end)) is not None
            ]
        return found


def _stay(party: Party, start: int, end: int) -> _Stay | None:
    stretches = [s for s in party.timeline.stretches(start, end) if s.state is not None]
    inside = sum(s.end - s.start for s in stretches)
    if not inside:
        return None
    cpu = [party.cpu.gained(s.start, s.end) / NS_PER_SECOND for s in stretches]
    return _Stay(party, stretches, inside, cpu, inside / (end - start))


def measure(
    scene: Scene, devices: Sequence[DeviceHistory], start: int, end: int, offset: Offset, cuts: Sequence[int] = ()
) -> list[Measurement]:
    """Every device's measurements over [start, end), CLOCK_BOOTTIME ns, in order of device and time.

    cuts: further instants strictly inside, ascending, that no measurement may cross.
    """
    points = sorted({*scene.cuts(start, end), *cuts}) if cuts else scene.cuts(start, end)
    rows = []
    for device in devices:
        for a, b in pairwise([start, *points, end]):
            for known_a, known_b, segment in device.history.known(a, b):
                if offset.utc_us(known_a) == offset.utc_us(known_b):
                    continue  # shorter than the clock of the book can tell
                micro_a, micro_b = segment.at(known_a), segment.at(known_b)
                energy = micro_b // MICROJOULES_PER_MILLIJOULE - micro_a // MICROJOULES_PER_MILLIJOULE
                rows.append(_row(scene, device, known_a, known_b, energy, offset))
    return rows


def _cut_points(changes: Sequence[int], start: int, end: int) -> list[int]:
    cuts: list[int] = []
    last = start
    for t in changes:
        if t - last >= LEAST_CUT_NS and end - t >= LEAST_CUT_NS:
            cuts.append(t)
            last = t
    return cuts


def _row(scene: Scene, history: DeviceHistory, start: int, end: int, energy: int, offset: Offset) -> Measurement:
    machine, device = scene.machine, history.device
    unread = history.unread_in(start, end)
    notes = [device.note, *history.notes_in(start, end), *(note for _, _, note in unread)]
    notes += _too_short(history, scene, start, end)
    microjoules, scale = max(1, energy * MICROJOULES_PER_MILLIJOULE), 1.0
    if history.whole is not None and energy:
        scale = max(1.0, history.whole.history.gained(start, end) / microjoules)
    u_edge = device.step_ns / ((end - start) * math.sqrt(6)) if device.method is Method.COUNTER else 0.0
    u_steps = history.integration_u(start, end) / (microjoules * scale)
    u_indep = math.sqrt(device.u_indep**2 + u_edge**2 + u_steps**2)
    if suspicion := _aliasing(history, scene, start, end, energy):
        notes.append(f"aliasing-suspect: {suspicion}")
        u_indep = max(u_indep, U_ALIASED)
    idle = history.idle_millijoules(start, end)
    claimed = claims(scene, history, start, end)
    u_common, u_common_key = device.u_common * scale, device.u_common_key
    if (u_split := history.split_u(start, end)) and _is_divided(claimed):
        # It does not even out over spans, and no other device has it.
        u_common, u_common_key = math.hypot(u_common, u_split), f"{DIVIDED}{device.device_id}"
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
        u_common=u_common,
        u_common_key=u_common_key,
        u_indep=u_indep * scale,
        coverage=1.0 - sum(b - a for a, b, _ in unread) / (end - start),
        source=BY_AGENT,
        shares=split(energy, claimed, machine.policy, device.component, idle),
        idle_millijoules=None if idle is None else min(idle, energy),
        note="; ".join(dict.fromkeys(note for note in notes if note)),
        start_slack_millijoules=history.slack_millijoules(start) if start in scene.changes else None,
        end_slack_millijoules=history.slack_millijoules(end) if end in scene.changes else None,
    )


def claims(scene: Scene, history: DeviceHistory, start: int, end: int) -> list[Share]:
    """What each run and phase may claim of a device over a span; the last claim is everybody else's.

    Weights only: millijoules are zero until ``split``. Devices of which the machine and its limits say the same are
    claimed alike, and that is worked out once.
    """
    alike = _alike(scene, history, start, end)
    if alike is None:
        return _claims(scene, history, start, end)
    found = scene.known_claims.get(alike)
    if found is None:
        found = scene.known_claims[alike] = _claims(scene, history, start, end)
    return found


def _alike(scene: Scene, history: DeviceHistory, start: int, end: int) -> tuple[object, ...] | None:
    """What decides a device's claims; None where they are its own: a GPU that somebody uses, or that has slices."""
    device, seen_by = history.device, None
    if device.component is Component.GPU:
        if device.partitions or scene.machine.gpu_use.get(device.device_id):
            return None
        seen_by = tuple(stay.party.key for stay in scene.stays(start, end) if _may_use(stay.party, device))
    return (device.component, device.method, history.capacity, start, end, seen_by)


def _is_divided(claimed: Sequence[Share]) -> bool:
    """Whether more than one run, or a run and others, used a GPU."""
    return len({share.run_id for share in claimed if share.weights.sm_seconds > 0}) > 1


def _claims(scene: Scene, history: DeviceHistory, start: int, end: int) -> list[Share]:
    machine, stays = scene.machine, scene.stays(start, end)
    reserved = _reservations(history, stays)
    use = machine.gpu_use.get(history.device.device_id, {})
    by_state: dict[tuple[State, int | None], list[float]] = {}
    claimed_cpu = 0.0
    for stay in stays:
        party = stay.party
        used, held = use.get(party.key), reserved.get(party.key, 0.0)
        for s, cpu_seconds in zip(stay.stretches, stay.cpu_seconds, strict=True):
            assert s.state is not None
            sums = by_state.setdefault((s.state, party.rank), [0.0, 0.0, 0.0])
            sums[0] += cpu_seconds
            sums[1] += used.gained(s.start, s.end) / NS_PER_SECOND if used is not None else 0.0
            sums[2] += held * (s.end - s.start) / stay.inside
            claimed_cpu += cpu_seconds
    shares = [
        Share(ShareKind.RUN, 0, machine.policy, state.run_id, state.phase, state.member, rank, Weights(*sums))
        for (state, rank), sums in sorted(by_state.items(), key=lambda item: _text(item[0]))
    ]
    others_cpu = max(0.0, machine.cpu_of(history.device).gained(start, end) / NS_PER_SECOND - claimed_cpu)
    others_sm = use[""].gained(start, end) / NS_PER_SECOND if "" in use else 0.0
    left = max(0.0, 1.0 - sum(share.weights.reserved_fraction for share in shares))
    others = Weights(others_cpu, others_sm, left if left > 1e-9 else 0.0)
    return [*shares, Share(ShareKind.UNATTRIBUTED, 0, machine.policy, weights=others)]


def _reservations(history: DeviceHistory, stays: Sequence[_Stay]) -> dict[str, float]:
    """Party -> fraction of the device reserved for it, averaged over the span.

    Runs without a limit divide equally what limited runs leave; runs within one limited control group, or that
    see the same slices of a device, divide its limit. A run's fraction is its processes' that are in a phase,
    else all its processes', equally.
    """
    runs: dict[str, list[_Stay]] = {}
    for stay in stays:
        if _may_use(stay.party, history.device):
            runs.setdefault(stay.party.root_run_id, []).append(stay)
    reserved = reservations({run: _limit(members, history) for run, members in runs.items()}, 1.0)
    fractions: dict[str, float] = {}
    for run, members in runs.items():
        whole = reserved[run] * max(stay.presence for stay in members)
        chosen = _claimants(members)
        total = sum(stay.presence for stay in chosen)
        for stay in chosen:
            fractions[stay.party.key] = whole * stay.presence / total
    return fractions


def _may_use(party: Party, device: Device) -> bool:
    if device.component is not Component.GPU or party.gpus is None:
        return True
    return device.device_id in party.gpus or any(part in party.gpus for part in device.partitions)


def _limit(members: Sequence[_Stay], history: DeviceHistory) -> Limit | None:
    """The group that limits a run, and the fraction of a device that it leaves it; None where nothing limits it."""
    device = history.device
    if device.partitions:
        return _slices(members, device)
    if history.capacity is None:
        return None
    memory = device.component is Component.DRAM
    limits = [limit for stay in members if (limit := stay.party.memory if memory else stay.party.cpus) is not None]
    least = min(limits, key=lambda limit: (limit.amount, limit.group), default=None)
    return None if least is None else Limit(least.group, least.amount / history.capacity)


def _slices(members: Sequence[_Stay], device: Device) -> Limit:
    """The slices that a run sees, and the fraction of the device that they are together; all when it sees the board."""
    seen = {
        part
        for stay in members
        for part in device.partitions
        if stay.party.gpus is None or device.device_id in stay.party.gpus or part in stay.party.gpus
    }
    return Limit(" ".join(sorted(seen)), sum(device.partitions[part] for part in seen))


def _claimants(members: Sequence[_Stay]) -> list[_Stay]:
    """Who of a run's processes a reservation is for: those in a phase, else those that are no launcher, else all."""
    phased = [stay for stay in members if any(s.state and s.state.phase for s in stay.stretches)]
    return phased or [stay for stay in members if not stay.party.launcher] or list(members)


def _phases(scene: Scene, start: int, end: int) -> Iterable[tuple[str, int]]:
    """The phases that touch a span and have ended, with the length of each."""
    for stay in scene.stays(start, end):
        for s in stay.stretches:
            if s.state is not None and s.state.phase and s.whole_ns is not None:
                yield s.state.phase, s.whole_ns


def _too_short(history: DeviceHistory, scene: Scene, start: int, end: int) -> list[str]:
    counted = history.device.method is Method.COUNTER
    step = history.device.step_ns if counted else scene.machine.sample_ns
    short = {name for name, whole_ns in _phases(scene, start, end) if whole_ns < RESOLVE_STEPS * step}
    return [f"phase {name!r} too short to resolve" for name in sorted(short)]


def _aliasing(history: DeviceHistory, scene: Scene, start: int, end: int, energy: int) -> str:
    """Why a board's polled power is suspect over a span, "" where it is not."""
    device = history.device
    if device.method is not Method.INTEGRATED or device.component is not Component.GPU:
        return ""
    if any(whole_ns < ALIASING_NS for _, whole_ns in _phases(scene, start, end)):
        return "polled power of less than 10 s, likely low"
    if not device.averaged and history.jumped(start, end) > ROUGH * energy * MICROJOULES_PER_MILLIJOULE:
        return "the load moves as fast as its power is polled"
    return ""


def reassign(old: Sequence[Share], new: Sequence[Share]) -> list[tuple[int, Share, Share]]:
    """Moves (millijoules, from, to) that turn the old shares of a measurement into the new ones. Both sum alike.

    The weights of ``to`` are those that go from the one to the other, so that a later split finds them there. Weights
    may go another way than millijoules, as where an idle share, which holds none, gives: then a move of 0 mJ has them.
    """
    had = {_key(share): share for share in old}
    wants = {_key(share): share for share in new}
    keys = sorted(had.keys() | wants.keys())
    before, after = ([_quantities(shares.get(key)) for key in keys] for shares in (had, wants))
    flows: dict[tuple[str, str], list[float]] = {}
    for n, (held, wanted) in enumerate(zip(zip(*before, strict=True), zip(*after, strict=True), strict=True)):
        least = min(had, key=lambda key: held[keys.index(key)])
        for giver, taker, amount in _flows(dict(zip(keys, map(sub, wanted, held), strict=True)), least):
            flows.setdefault((giver, taker), [0, 0.0, 0.0, 0.0])[n] += amount
    return [
        (int(millijoules), had[giver], replace(wants[taker], weights=Weights(*weights)))
        for (giver, taker), (millijoules, *weights) in flows.items()
    ]


def _quantities(share: Share | None) -> tuple[float, float, float, float]:
    """What a share holds: millijoules, CPU seconds, SM seconds, reserved fraction."""
    if share is None:
        return 0, 0.0, 0.0, 0.0
    weights = share.weights
    return share.millijoules, weights.cpu_seconds, weights.sm_seconds, weights.reserved_fraction


def _flows(change: Mapping[str, float], otherwise: str) -> Iterable[tuple[str, str, float]]:
    """(giver, taker, amount) that make the change; what is gained and nobody lost comes from ``otherwise``."""
    left = {key: -delta for key, delta in change.items() if delta < 0}
    for taker, gained in change.items():
        while gained > 0:
            giver = next(iter(left), otherwise)
            amount = min(gained, left.get(giver, gained))
            if giver != taker:
                yield giver, taker, amount
            gained -= amount
            if giver in left:
                left[giver] -= amount
                if left[giver] <= 0:
                    del left[giver]


def _key(share: Share) -> str:
    return repr((share.kind, share.run_id, share.phase, share.member, share.rank))


def _text(key: tuple[State, int | None]) -> tuple[str, str, str, int]:
    state, rank = key
    return (state.run_id, state.phase, state.member or "", -1 if rank is None else rank)
