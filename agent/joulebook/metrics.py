"""What the agent exposes: one table of metrics, and their samples from a snapshot.

The table is all that dashboards, rules and documentation know of: import names from here. Base units; counters end in
``_total``; power is the rate of joules. Presented by ``exposition`` (Prometheus) and ``otlp`` (OpenTelemetry).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from pathlib import Path
from typing import Final, NamedTuple

from joulebook.snapshot import LATENESS_BOUNDS_NS, DeviceEnergy, DeviceState, Exemplar, Snapshot
from joulebook.units import NS_PER_SECOND, US_PER_SECOND, joules

STALE_FACTOR: Final = 3
"""A device, or the loop, that has been silent for longer than this many of its intervals is not there."""


class Kind(StrEnum):
    """Types of metric, by their names in the exposition."""

    COUNTER = "counter"
    GAUGE = "gauge"
    SUMMARY = "summary"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table. name: as in Prometheus.  labels: names, in the order of ``Sample.labels``."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """The base unit that the name ends in, "" for plain numbers."""
        last = self.name.removesuffix("_total").rpartition("_")[2]
        return last if last in {"joules", "seconds", "bytes"} else ""


class Distribution(NamedTuple):
    """Number and sum of a summary's values; of a histogram also its buckets, (upper bound, cumulative number)."""

    number: int
    total: float
    buckets: tuple[tuple[float, int], ...] = ()


class Sample(NamedTuple):
    """One series now. created_us: UTC at which a counter stood at 0, None where that is the agent's start."""

    labels: tuple[str, ...]
    value: float | Distribution
    created_us: int | None = None
    exemplar: Exemplar | None = None


class OwnUse(NamedTuple):
    """What the agent's process has used up to now."""

    cpu_seconds: float
    resident_bytes: int


def own_use() -> OwnUse:
    """CPU seconds of all threads since the process began, and resident memory."""
    pages = int(Path("/proc/self/statm").read_bytes().split()[1])
    return OwnUse(time.process_time(), pages * os.sysconf("SC_PAGE_SIZE"))


_DEVICE: Final = ("machine", "device", "component", "method", "meter")

ENERGY: Final = Metric(
    "joulebook_energy_joules_total", Kind.COUNTER, "Energy of a device, in measurements that are final.", _DEVICE
)
OBSERVED: Final = Metric(
    "joulebook_observed_seconds_total",
    Kind.COUNTER,
    "Time that the device's final measurements observed; all other time is missing, not zero.",
    _DEVICE,
)
METERED: Final = Metric(
    "joulebook_meter_energy_joules_total",
    Kind.COUNTER,
    "Energy of a device as its meter counts it up to now, before it is split; absent while the device is not read.",
    _DEVICE,
)
SHARES: Final = Metric(
    "joulebook_share_energy_joules_total",
    Kind.COUNTER,
    "The same energy by whose it is: of runs, idle, or unattributed.",
    ("kind", "component"),
)
PHASES: Final = Metric(
    "joulebook_phase_energy_joules_total",
    Kind.COUNTER,
    "Energy of all runs by phase; exemplars name the run.",
    ("phase", "component"),
)
RUNS: Final = Metric(
    "joulebook_run_energy_joules_total",
    Kind.COUNTER,
    "Energy of a run on this machine since the run began; run 'other' is all runs beyond the bound.",
    ("run", "phase", "component"),
)
RUN_INFO: Final = Metric(
    "joulebook_run_info", Kind.GAUGE, "What a run says of itself.", ("run", "name", "project", "study", "arm")
)
OPEN_RUNS: Final = Metric("joulebook_open_runs", Kind.GAUGE, "Runs that have not ended.")
FOLDED_RUNS: Final = Metric("joulebook_folded_runs_total", Kind.COUNTER, "Runs that were counted under 'other'.")
RESIDUAL: Final = Metric(
    "joulebook_conservation_residual_joules",
    Kind.GAUGE,
    "Measured energy minus all its shares; not 0 only if the book is wrong.",
)
OVERSTATED: Final = Metric(
    "joulebook_overstated_energy_joules",
    Kind.GAUGE,
    "What the counters of a view (share, phase, run) show too much since late marks moved it.",
    ("view",),
)
GAPS: Final = Metric(
    "joulebook_gaps_total", Kind.COUNTER, "How often a device's energy was lost track of.", ("device",)
)
METER_UP: Final = Metric("joulebook_meter_up", Kind.GAUGE, "1 if the last reading of the meter succeeded.", ("meter",))
METER_READS: Final = Metric(
    "joulebook_meter_read_seconds",
    Kind.SUMMARY,
    "Readings of a meter and their wall time, failed ones too.",
    ("meter",),
)
METER_FAILURES: Final = Metric(
    "joulebook_meter_read_failures_total", Kind.COUNTER, "Readings of a meter that failed.", ("meter",)
)
SAMPLE_INTERVAL: Final = Metric("joulebook_sample_interval_seconds", Kind.GAUGE, "Nominal time between readings.")
LATENESS: Final = Metric("joulebook_tick_lateness_seconds", Kind.HISTOGRAM, "How late ticks of the sampler were.")
MISSED_TICKS: Final = Metric("joulebook_missed_ticks_total", Kind.COUNTER, "Ticks that were left out.")
CLOCK_STEPS: Final = Metric("joulebook_clock_steps_total", Kind.COUNTER, "How often the wall clock was set.")
OUTBOX_ROWS: Final = Metric("joulebook_outbox_rows", Kind.GAUGE, "Final rows that wait to be taken.")
OUTBOX_SIZE: Final = Metric("joulebook_outbox_bytes", Kind.GAUGE, "Size of the outbox on disk.")
OUTBOX_AGE: Final = Metric(
    "joulebook_outbox_oldest_row_age_seconds", Kind.GAUGE, "Age of the oldest waiting row; absent when none waits."
)
OUTBOX_WRITABLE: Final = Metric("joulebook_outbox_writable", Kind.GAUGE, "1 if the disk took the last rows.")
MERGED_SPANS: Final = Metric(
    "joulebook_outbox_merged_spans_total",
    Kind.COUNTER,
    "Spans that became part of a longer one because the outbox was full.",
)
REFUSED_ROWS: Final = Metric(
    "joulebook_outbox_refused_rows_total", Kind.COUNTER, "Rows that a collector refused; they are kept."
)
FILES_SET_ASIDE: Final = Metric(
    "joulebook_outbox_files_set_aside",
    Kind.GAUGE,
    "Outboxes, and stretches of their rows, that could not be read and were put aside.",
)
SHIPPED_ROWS: Final = Metric("joulebook_shipped_rows_total", Kind.COUNTER, "Rows that the collector has acknowledged.")
SHIPPING_FAILURES: Final = Metric(
    "joulebook_shipping_failures", Kind.GAUGE, "Attempts to ship since the last one that the collector acknowledged."
)
SHIPPING_TIME: Final = Metric(
    "joulebook_shipping_last_success_timestamp_seconds",
    Kind.GAUGE,
    "When the collector last acknowledged rows, UTC; absent before it first did.",
)
LOST_ROWS: Final = Metric("joulebook_lost_rows_total", Kind.COUNTER, "Rows given up because disk and memory were full.")
AGENT_CPU: Final = Metric("joulebook_agent_cpu_seconds_total", Kind.COUNTER, "CPU time of the agent itself.")
AGENT_MEMORY: Final = Metric(
    "joulebook_agent_resident_memory_bytes", Kind.GAUGE, "Resident memory of the agent itself."
)
AGENT_START: Final = Metric("joulebook_agent_start_time_seconds", Kind.GAUGE, "When the agent started, UTC.")
BUILD_INFO: Final = Metric("joulebook_build_info", Kind.GAUGE, "The agent's version.", ("version",))

METRICS: Final[tuple[Metric, ...]] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""The table, in order of exposition."""


def families(snapshot: Snapshot, own: OwnUse, now_ns: int, now_us: int) -> Iterator[tuple[Metric, Sequence[Sample]]]:
    """Every metric of the table with its series now; now_ns: CLOCK_BOOTTIME, now_us: UTC.

    A metric without series yields none: what is not known is absent, never 0.
    """
    for metric in METRICS:
        yield metric, _SAMPLES[metric.name](_Now(snapshot, own, now_ns, now_us))


def is_fresh(read_ns: int | None, interval_ns: int, now_ns: int) -> bool:
    """True if something that happens every ``interval_ns`` (at least every second) is not long overdue."""
    return read_ns is not None and now_ns - read_ns <= STALE_FACTOR * max(interval_ns, NS_PER_SECOND)


class _Now(NamedTuple):
    snapshot: Snapshot
    own: OwnUse
    at_ns: int
    at_us: int


def _one(value: float) -> list[Sample]:
    return [Sample((), value)]


def _device(now: _Now, device: DeviceEnergy | DeviceState) -> tuple[str, ...]:
    return (now.snapshot.machine_id, device.device_id, device.component, device.method, device.meter)


def _energy(now: _Now) -> list[Sample]:
    return [Sample(_device(now, d), joules(d.millijoules), d.created_us) for d in now.snapshot.energies.devices]


def _observed(now: _Now) -> list[Sample]:
    devices = now.snapshot.energies.devices
    return [Sample(_device(now, d), d.observed_ns / NS_PER_SECOND, d.created_us) for d in devices]


def _metered(now: _Now) -> list[Sample]:
    sample_ns = now.snapshot.sample_ns
    return [
        Sample(_device(now, d), d.metered_microjoules / 1e6)
        for d in now.snapshot.devices
        if is_fresh(d.read_ns, max(sample_ns, d.step_ns), now.at_ns)
    ]


def _shares(now: _Now) -> list[Sample]:
    return [Sample((s.kind, s.component), joules(s.millijoules), s.created_us) for s in now.snapshot.energies.shares]


def _phases(now: _Now) -> list[Sample]:
    return [
        Sample((part.phase, part.component), joules(part.millijoules), part.created_us, part.exemplar)
        for part in now.snapshot.energies.phases
    ]


def _runs(now: _Now) -> list[Sample]:
    return [
        Sample((run.run_id, phase, component), joules(millijoules), run.created_us)
        for run in now.snapshot.energies.runs
        for phase, component, millijoules in run.parts
    ]


def _run_info(now: _Now) -> list[Sample]:
    return [Sample((r.run_id, r.name, r.project, r.study, r.arm), 1) for r in now.snapshot.energies.runs]


def _lateness(now: _Now) -> list[Sample]:
    ticks = now.snapshot.ticks
    bounds = [*(ns / NS_PER_SECOND for ns in LATENESS_BOUNDS_NS), float("inf")]
    buckets = tuple(zip(bounds, accumulate(ticks.late), strict=True))
    return [Sample((), Distribution(buckets[-1][1], ticks.late_ns / NS_PER_SECOND, buckets))]


def _shipped(now: _Now) -> list[Sample]:
    return [] if now.snapshot.shipping is None else _one(now.snapshot.shipping.rows)


def _shipping_failures(now: _Now) -> list[Sample]:
    return [] if now.snapshot.shipping is None else _one(now.snapshot.shipping.failures)


def _shipping_time(now: _Now) -> list[Sample]:
    shipping = now.snapshot.shipping
    if shipping is None or shipping.acknowledged_us is None:
        return []
    return _one(shipping.acknowledged_us / US_PER_SECOND)


def _outbox_age(now: _Now) -> list[Sample]:
    oldest_us = now.snapshot.outbox.oldest_us
    return [] if oldest_us is None else _one(max(0, now.at_us - oldest_us) / US_PER_SECOND)


_SAMPLES: Final[dict[str, Callable[[_Now], Sequence[Sample]]]] = {
    ENERGY.name: _energy,
    OBSERVED.name: _observed,
    METERED.name: _metered,
    SHARES.name: _shares,
    PHASES.name: _phases,
    RUNS.name: _runs,
    RUN_INFO.name: _run_info,
    OPEN_RUNS.name: lambda now: _one(now.snapshot.open_runs),
    FOLDED_RUNS.name: lambda now: _one(now.snapshot.energies.folded_runs),
    RESIDUAL.name: lambda now: _one(now.snapshot.energies.residual_millijoules / 1000),
    OVERSTATED.name: lambda now: [Sample((v,), joules(mj)) for v, mj in now.snapshot.energies.overstated],
    GAPS.name: lambda now: [Sample((d.device_id,), d.gaps) for d in now.snapshot.devices],
    METER_UP.name: lambda now: [Sample((m.name,), m.up) for m in now.snapshot.meters],
    METER_READS.name: lambda now: [
        Sample((m.name,), Distribution(m.reads, m.read_ns / NS_PER_SECOND)) for m in now.snapshot.meters
    ],
    METER_FAILURES.name: lambda now: [Sample((m.name,), m.failures) for m in now.snapshot.meters],
    SAMPLE_INTERVAL.name: lambda now: _one(now.snapshot.sample_ns / NS_PER_SECOND),
    LATENESS.name: _lateness,
    MISSED_TICKS.name: lambda now: _one(now.snapshot.ticks.missed),
    CLOCK_STEPS.name: lambda now: _one(now.snapshot.clock_steps),
    OUTBOX_ROWS.name: lambda now: _one(now.snapshot.outbox.rows),
    OUTBOX_SIZE.name: lambda now: _one(now.snapshot.outbox.bytes),
    OUTBOX_AGE.name: _outbox_age,
    OUTBOX_WRITABLE.name: lambda now: _one(now.snapshot.outbox.writable),
    MERGED_SPANS.name: lambda now: _one(now.snapshot.outbox.merged_spans),
    REFUSED_ROWS.name: lambda now: _one(now.snapshot.outbox.refused_rows),
    FILES_SET_ASIDE.name: lambda now: _one(now.snapshot.outbox.files_set_aside),
    SHIPPED_ROWS.name: _shipped,
    SHIPPING_FAILURES.name: _shipping_failures,
    SHIPPING_TIME.name: _shipping_time,
    LOST_ROWS.name: lambda now: _one(now.snapshot.outbox.lost_rows),
    AGENT_CPU.name: lambda now: _one(now.own.cpu_seconds),
    AGENT_MEMORY.name: lambda now: _one(now.own.resident_bytes),
    AGENT_START.name: lambda now: _one(now.snapshot.started_us / US_PER_SECOND),
    BUILD_INFO.name: lambda now: [Sample((now.snapshot.agent_version,), 1)],
}
