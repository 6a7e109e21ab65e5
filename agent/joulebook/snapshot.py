"""What the agent knows of itself at one instant, for whoever presents it: Prometheus, OTLP, health.

Immutable. The loop publishes one at most once per tick and after each flush; readers in other threads take the newest
reference and hold nothing up. Energies are cumulative integers, so a reader that misses some loses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from joulebook.rows import Component, Method, ShareKind


@dataclass(frozen=True, slots=True)
class Exemplar:
    """The run behind the newest addition to a counter. millijoules: that addition.  at_us: UTC end of its span."""

    run_id: str
    millijoules: int
    at_us: int


@dataclass(frozen=True, slots=True)
class DeviceEnergy:
    """The sum of a device's final measurements since ``created_us``.

    observed_ns: their observed time, that is duration times coverage: the rest of the time is missing, not zero.
    """

    device_id: str
    component: Component
    method: Method
    meter: str
    millijoules: int
    observed_ns: int
    created_us: int


@dataclass(frozen=True, slots=True)
class ShareEnergy:
    """The sum of the shares of one kind in the final measurements of one component."""

    kind: ShareKind
    component: Component
    millijoules: int
    created_us: int


@dataclass(frozen=True, slots=True)
class PhaseEnergy:
    """The sum of all runs' shares in one phase; exemplar: None before the first."""

    phase: str
    component: Component
    millijoules: int
    created_us: int
    exemplar: Exemplar | None = None


@dataclass(frozen=True, slots=True)
class RunEnergy:
    """One run's shares by phase and component. parts: (phase, component, millijoules), "" outside every phase.

    run_id: "other" for all runs beyond the bound.  name, project, study, arm: what the run says of itself.
    """

    run_id: str
    created_us: int
    parts: tuple[tuple[str, Component, int], ...]
    name: str = ""
    project: str = ""
    study: str = ""
    arm: str = ""


@dataclass(frozen=True, slots=True)
class Energies:
    """Everything that ``Totals`` has added up.

    folded_runs: runs that were counted under "other", since the start.  residual_millijoules: measurements
    minus their shares, 0 unless the book is wrong.  overstated: by view (share, phase, run) the millijoules that
    counters show too much: late marks moved them, and a counter cannot go back; it shrinks as what gave them up grows.
    """

    devices: tuple[DeviceEnergy, ...] = ()
    shares: tuple[ShareEnergy, ...] = ()
    phases: tuple[PhaseEnergy, ...] = ()
    runs: tuple[RunEnergy, ...] = ()
    folded_runs: int = 0
    residual_millijoules: int = 0
    overstated: tuple[tuple[str, int], ...] = ()


class DeviceState(NamedTuple):
    """A device as its meter counts it now, shares not yet known. (Named tuples are made at a third of the cost.)

    metered_microjoules: cumulative since the agent's start.  read_ns: CLOCK_BOOTTIME of its newest reading, None before
    the first.  step_ns: how often it has a new one.  gaps: how often its energy was lost track of (resets, silences).
    """

    device_id: str
    component: Component
    method: Method
    meter: str
    metered_microjoules: int
    read_ns: int | None
    step_ns: int = 1_000_000
    gaps: int = 0


class MeterState(NamedTuple):
    """How reading a meter went. reads: tries, failed ones too.  read_ns: their wall time, summed.

    up: the last try succeeded.  A meter that could not be opened has ``up`` False and no reads.
    """

    name: str
    reads: int = 0
    failures: int = 0
    read_ns: int = 0
    up: bool = True


@dataclass(frozen=True, slots=True)
class OutboxState:
    """What waits to be taken. rows: final ones.  bytes: on disk.  oldest_us: UTC end of the oldest, None without any.

    lost_rows: given up since the start because disk and memory were full.  merged_spans, refused_rows: spans that
    became part of a longer one because the outbox was full, and rows that a collector refused, ever.
    files_set_aside: outboxes, and stretches of their rows, that could not be read and were put
    aside.  writable: the last write was taken.
    """

    rows: int = 0
    bytes: int = 0
    oldest_us: int | None = None
    lost_rows: int = 0
    merged_spans: int = 0
    refused_rows: int = 0
    files_set_aside: int = 0
    writable: bool = True


class ShippingState(NamedTuple):
    """How rows go to a collector. rows: acknowledged since the start.  failures: attempts since the last one that was.

    acknowledged_us: UTC of that one, None before the first.
    """

    rows: int = 0
    failures: int = 0
    acknowledged_us: int | None = None


LATENESS_BOUNDS_NS = (1_000_000, 5_000_000, 20_000_000, 100_000_000, 500_000_000, 2_000_000_000)
"""Upper bounds of the buckets of a tick's lateness; a last bucket has none."""


@dataclass(frozen=True, slots=True)
class Ticks:
    """How punctual the loop is. done: ticks.  missed: those left out because one before them was late by an interval.

    late: ticks by lateness, not cumulative, one per bound of LATENESS_BOUNDS_NS and one beyond.  late_ns: their sum.
    """

    done: int = 0
    missed: int = 0
    late: tuple[int, ...] = (0,) * (len(LATENESS_BOUNDS_NS) + 1)
    late_ns: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One instant of an agent.

    version: counts the snapshots, from 1; a reader that has shown one to the outside says so with it.
    at_ns: CLOCK_BOOTTIME of the last turn of the loop.  sample_ns: nominal time between readings.
    started_us: UTC at which the agent's counts began.  shipping: None where no collector is set.
    clock_steps: how often UTC was set.  open_runs: not ended.
    """

    version: int
    at_ns: int
    sample_ns: int
    machine_id: str
    agent_version: str
    started_us: int
    energies: Energies = field(default_factory=Energies)
    devices: tuple[DeviceState, ...] = ()
    meters: tuple[MeterState, ...] = ()
    outbox: OutboxState = field(default_factory=OutboxState)
    shipping: ShippingState | None = None
    ticks: Ticks = field(default_factory=Ticks)
    clock_steps: int = 0
    open_runs: int = 0
