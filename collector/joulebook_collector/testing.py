"""Small rows for tests of the ledger and of what is built on it: this package's and its users'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from joulebook.rows import (
    Batch,
    Body,
    Component,
    Labels,
    Measurement,
    Method,
    Policy,
    Row,
    Run,
    Share,
    ShareKind,
    Status,
    Weights,
)

SECOND_US = 1_000_000
START_US = 1_764_547_200 * SECOND_US
"""2025-12-01T00:00:00Z: within the last year that the shipped annual table covers for most zones."""


def a_measurement(
    start_s: float = 0.0,
    end_s: float = 10.0,
    energy_millijoules: int = 1000,
    run_id: str = "r1",
    run_millijoules: int | None = None,
    **changes: Any,
) -> Measurement:
    """A GPU's measurement over [start_s, end_s) after START_US: run_millijoules for the run, the rest unattributed."""
    mine = energy_millijoules if run_millijoules is None else run_millijoules
    weights = Weights(sm_seconds=end_s - start_s, cpu_seconds=1.0, reserved_fraction=1.0)
    shares = (
        Share(ShareKind.RUN, mine, Policy.RESERVED, run_id, "train", weights=weights),
        Share(ShareKind.UNATTRIBUTED, energy_millijoules - mine, Policy.RESERVED),
    )
    start_us, end_us = round(start_s * SECOND_US), round(end_s * SECOND_US)
    plain = Measurement(
        machine_id="m1",
        boot_id="b1",
        device_id="GPU-1",
        component=Component.GPU,
        started_at_us=START_US + start_us,
        ended_at_us=START_US + end_us,
        started_ns=start_us * 1000,
        ended_ns=end_us * 1000,
        energy_millijoules=energy_millijoules,
        meter="nvml",
        method=Method.COUNTER,
        u_common=0.03,
        u_common_key="nvml model-x",
        u_indep=0.0,
        coverage=1.0,
        source="agent",
        shares=shares,
    )
    return replace(plain, **changes)


def a_run(run_id: str = "r1", start_s: float = 0.0, end_s: float | None = 10.0, **changes: Any) -> Run:
    """A run of machine m1 over [start_s, end_s) after START_US; end_s None while it runs."""
    start_us = round(start_s * SECOND_US)
    end_us = None if end_s is None else round(end_s * SECOND_US)
    plain = Run(
        run_id=run_id,
        machine_id="m1",
        boot_id="b1",
        status=Status.RUNNING if end_us is None else Status.OK,
        started_at_us=START_US + start_us,
        started_ns=start_us * 1000,
        labels=Labels(),
        ended_at_us=None if end_us is None else START_US + end_us,
        ended_ns=None if end_us is None else end_us * 1000,
    )
    return replace(plain, **changes)


def a_batch(bodies: Sequence[Body], *, first: int = 1, agent_id: str = "agent-1", incarnation: str = "inc-1") -> Batch:
    """The rows as one batch, numbered from ``first``."""
    return Batch(agent_id, incarnation, tuple(Row(seq, body) for seq, body in enumerate(bodies, start=first)))
