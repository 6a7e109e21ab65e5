"""A small made-up book, priced by hand: for tests, for docs, and for whoever draws a report of their own.

No ledger and no hardware: a server of one CPU package, its DRAM and one GPU, a study of three
arms with three seeds, and the example site that prices them. Every number is invented.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from joulebook.rows import (
    Component,
    Ensemble,
    Labels,
    Mark,
    Measurement,
    Method,
    Policy,
    Run,
    Share,
    ShareKind,
    Status,
    Technique,
    Weights,
)
from joulebook.summary import run_energy
from joulebook_collector.priced import PricedSlot, SeriesKey, Site, SlotEnergy
from joulebook_collector.pricing import slot_energies

from joulebook_reports.facts import RunFacts, StudyFacts

START_US: Final = 1_795_500_000_000_000
"""2026-11-24T06:00:00Z."""

SPAN_SECONDS: Final = 10
SITE: Final = "example-site"
SERIES: Final = SeriesKey("DE")
PUE, U_PUE = 1.2, 0.05
G_PER_KWH, U_G_PER_KWH = 360.0, 0.1

Plan = Sequence[tuple[str, int]]
"""Phases of a run with their length in spans."""

DEVICES: Final = (
    ("package-0", Component.CPU, "rapl", Method.COUNTER, 0.03, 46_000),
    ("package-0/dram", Component.DRAM, "rapl", Method.COUNTER, 0.10, 4_200),
    ("GPU-0", Component.GPU, "nvml", Method.COUNTER, 0.03, 182_000),
)
"""device, component, meter, method, u_common, milliwatts while training."""

LOAD: Final = {"setup": 0.35, "train": 1.0, "finetune": 0.9, "eval": 0.6, "inference": 0.7}
TRAINING: Final = (("setup", 1), ("train", 9), ("eval", 1), ("inference", 3))


def example_run(
    run_id: str = "r-baseline-0",
    labels: Labels | None = None,
    plan: Plan = TRAINING,
    effort: float = 1.0,
    accuracy: float = 0.871,
    start_us: int = START_US,
    method: Method = Method.COUNTER,
) -> RunFacts:
    """One run with its measurements, marks and prices.  effort: factor on the power of every device."""
    seconds = SPAN_SECONDS * sum(spans for _, spans in plan)
    run = Run(
        run_id=run_id,
        machine_id="server-1",
        boot_id="boot-1",
        status=Status.OK,
        started_at_us=start_us,
        started_ns=_ns(start_us),
        labels=labels or Labels(name="example", study="example", seed=0),
        ended_at_us=start_us + seconds * 1_000_000,
        ended_ns=_ns(start_us) + seconds * 1_000_000_000,
        exit_code=0,
        command=("python", "train.py"),
        record={"cpu_model": "Example CPU", "cpus": 16, "load_1min": 3.1, "packages": {"torch": "2.13.0"}},
    )
    measurements = tuple(_measurements(run, plan, effort, method))
    return priced_example(run, measurements, tuple(_marks(run, plan, accuracy)))


def priced_example(run: Run, measurements: Sequence[Measurement], marks: Sequence[Mark] = ()) -> RunFacts:
    """Facts of a run priced at the example site."""
    slots = tuple(_priced(slot) for slot in slot_energies(run, measurements, Policy.RESERVED))
    return RunFacts(
        run=run,
        policy=Policy.RESERVED,
        energies={policy: run_energy(run, measurements, policy) for policy in Policy},
        measurements=tuple(measurements),
        marks=tuple(marks),
        slots=slots,
        sites={
            SITE: Site(SITE, PUE, "invented for this example", U_PUE, SERIES, START_US, "example, not a real place")
        },
    )


def example_study() -> StudyFacts:
    """Baseline, int8 that inherits the baseline's training, and a snapshot ensemble; three seeds each."""
    runs = []
    for seed in range(3):
        at = START_US + seed * 3_600_000_000
        wobble = (1.0, 1.015, 0.99)[seed]
        quality = (0.0, 0.002, -0.001)[seed]
        labels = Labels(name="example", study="example", seed=seed)
        base = f"r-baseline-{seed}"
        runs.append(example_run(base, labels, TRAINING, wobble, 0.871 + quality, at))
        int8 = replace(labels, techniques=(Technique("int8"),), inherits=(base,))
        short = (("setup", 1), ("inference", 2))
        runs.append(
            example_run(
                f"r-int8-{seed}",
                int8,
                short,
                0.8 * wobble * (1 + (seed - 1) / 200),
                0.8705 + quality + (seed - 1) / 2000,
                at + 600_000_000,
            )
        )
        ensemble = replace(labels, ensemble=Ensemble(f"snapshot-{seed}", "snapshot", 3))
        longer = (("setup", 1), ("train", 9), ("eval", 2), ("inference", 8))
        runs.append(
            example_run(
                f"r-snap-{seed}", ensemble, longer, wobble * (1 + seed / 100), 0.88 + quality * 0.7, at + 1_200_000_000
            )
        )
    failed = example_run(
        "r-baseline-9", Labels(study="example", seed=9), (("setup", 1),), 1.0, 0.0, START_US - 600_000_000
    )
    runs.append(replace(failed, run=replace(failed.run, status=Status.FAILED, reason="exit code 1", exit_code=1)))
    return StudyFacts("example", Policy.RESERVED, tuple(runs), {})


def _ns(at_us: int) -> int:
    return (at_us - START_US) * 1000 + 10**15


def _measurements(run: Run, plan: Plan, effort: float, method: Method) -> list[Measurement]:
    found = []
    phases = [phase for phase, spans in plan for _ in range(spans)]
    for i, phase in enumerate(phases):
        for device, component, meter, how, u_common, milliwatts in DEVICES:
            if method is Method.MODELLED and component is Component.GPU:
                continue
            ripple = 1 + 0.03 * ((i * 7 + len(device)) % 5 - 2)
            energy = round(milliwatts * SPAN_SECONDS * LOAD[phase] * effort * ripple)
            found.append(_measurement(run, i, device, component, meter, how, u_common, energy, phase, method))
    return found


def _measurement(
    run: Run,
    at: int,
    device: str,
    component: Component,
    meter: str,
    how: Method,
    u_common: float,
    energy: int,
    phase: str,
    method: Method,
) -> Measurement:
    modelled = method is Method.MODELLED
    other = energy // 20
    start_us = run.started_at_us + at * SPAN_SECONDS * 1_000_000
    length = SPAN_SECONDS * 1_000_000_000
    shares = (
        Share(ShareKind.RUN, energy - other, Policy.RESERVED, run.run_id, phase, weights=Weights(9.0, 9.0, 0.95)),
        Share(ShareKind.UNATTRIBUTED, other, Policy.RESERVED, weights=Weights(1.0, 1.0, 0.05)),
    )
    return Measurement(
        machine_id=run.machine_id,
        boot_id=run.boot_id,
        device_id=device,
        component=component,
        started_at_us=start_us,
        ended_at_us=start_us + SPAN_SECONDS * 1_000_000,
        started_ns=_ns(start_us),
        ended_ns=_ns(start_us) + length,
        energy_millijoules=energy,
        meter="model" if modelled else meter,
        method=method if modelled else how,
        u_common=0.25 if modelled else u_common,
        u_common_key="model" if modelled else f"{meter}/{component}",
        u_indep=0.0,
        coverage=1.0,
        source="agent",
        shares=shares,
    )


def _marks(run: Run, plan: Plan, accuracy: float) -> list[Mark]:
    marks: list[Mark] = []
    at = 0
    for phase, spans in plan:
        marks.append(_mark(run, "begin", at, len(marks), phase))
        at += spans * SPAN_SECONDS
        if phase == "inference":
            marks.append(replace(_mark(run, "log", at, len(marks), phase), samples=spans * 50_000))
        marks.append(_mark(run, "end", at, len(marks), phase))
    last = _mark(run, "log", at, len(marks), "")
    return [*marks, replace(last, split="test", quality={"accuracy": accuracy})]


def _mark(run: Run, kind: str, seconds: int, n: int, phase: str) -> Mark:
    at_us = run.started_at_us + seconds * 1_000_000
    return Mark(run.run_id, run.machine_id, run.boot_id, 100, kind, at_us, _ns(at_us), 0, n, phase)


def _priced(slot: SlotEnergy) -> PricedSlot:
    facility = slot.energy_millijoules / 1000 * PUE
    return PricedSlot(
        energy=slot,
        site_id=SITE,
        pue=PUE,
        u_pue=U_PUE,
        facility_energy_joules=facility,
        series=SERIES,
        g_per_kwh=G_PER_KWH,
        u_g_per_kwh=U_G_PER_KWH,
        factor_source="invented for this example",
        emissions_g=facility / 3.6e6 * G_PER_KWH,
        label="annual 2025 used for 2026",
        missing="",
    )
