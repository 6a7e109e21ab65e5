"""The model of CPU and DRAM power, for machines without counters: always labelled modelled (METHODS 1.5).

It covers what the agent's own control group may use, since that is all that it may claim to know.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from joulebook.cgroup import Cgroup, cgroup_of, cpu_seconds
from joulebook.clock import boottime_ns
from joulebook.cpus import ThreadPower, read_cpu, thread_power
from joulebook.errors import BadInput
from joulebook.meters import Busy, Device, LeftOut, MeterUnavailable, Reading, Roots
from joulebook.rows import Component, Method

CURVE: Final = ((0.0, 0.12), (0.1, 0.32), (0.5, 0.75), (1.0, 1.02))
"""Utilisation -> fraction of design power. Source: Teads' fit over SPECpower results, as in the Green Software
Foundation's if manifests (METHODS 1.5)."""

U_CURVE: Final = 0.25
"""Relative standard uncertainty of the curve (METHODS 1.6)."""

DRAM_WATTS_PER_GB: Final = 0.36
U_DRAM: Final = 0.25
"""Mean of the constants in use (0.284 to 0.392 W/GB) and its relative standard uncertainty (METHODS 1.5).
A GB is 2**30 bytes here, as on a memory module."""

BYTES_PER_GB: Final = 1 << 30
STEP_NS: Final = 100_000_000
"""The model moves in steps of at least 100 ms: /proc/stat counts in 10 ms, a shorter step would be mostly rounding."""

MODELLED: Final = frozenset({Component.CPU, Component.DRAM})
"""What this meter can stand in for."""


def power_fraction(utilisation: float) -> float:
    """Fraction of design power at a utilisation (0 to 1; what lies outside is held to the ends)."""
    u = min(max(utilisation, 0.0), 1.0)
    i = min(bisect_right([at for at, _ in CURVE], u), len(CURVE) - 1)
    (u0, p0), (u1, p1) = CURVE[i - 1], CURVE[i]
    return p0 + (p1 - p0) * (u - u0) / (u1 - u0)


class Source(Protocol):
    """Something whose modelled energy grows."""

    device: Device

    def joules(self, at_ns: int) -> float:
        """Cumulative energy at a CLOCK_BOOTTIME instant that never lies before an earlier one."""
        ...


class CpuModel:
    """Energy from the utilisation curve, integrated over the steps between its own looks.

    Each step takes the mean utilisation of the step, from the CPU seconds used in it.
    """

    def __init__(self, power: ThreadPower, cgroup: Cgroup, roots: Roots, at_ns: int) -> None:
        self.device = Device(
            device_id="model:cpu",
            component=Component.CPU,
            method=Method.MODELLED,
            u_common=math.hypot(U_CURVE, power.u_relative),
            u_common_key=f"model:{power.model}",
            step_ns=STEP_NS,
            most_watts=2 * power.watts * cgroup.cpus,
            model=power.model,
            note=power.note,
        )
        self._threads = cgroup.cpus
        self._watts = power.watts * cgroup.cpus
        self._usage = cgroup.usage
        self._stat = roots.proc / "stat"
        self._joules = 0.0
        self._at_ns, self._busy = at_ns, self._busy_seconds()

    def joules(self, at_ns: int) -> float:
        """Cumulative joules, brought forward when at least one step has passed."""
        elapsed = (at_ns - self._at_ns) / 1e9
        if at_ns - self._at_ns >= STEP_NS:
            busy = self._busy_seconds()
            utilisation = (busy - self._busy) / (self._threads * elapsed)
            self._joules += self._watts * power_fraction(utilisation) * elapsed
            self._at_ns, self._busy = at_ns, busy
        return self._joules

    def _busy_seconds(self) -> float:
        return busy_seconds(self._stat.read_text()) if self._usage is None else cpu_seconds(self._usage)


class DramModel:
    """Constant power in proportion to the memory available."""

    def __init__(self, memory_bytes: int, at_ns: int) -> None:
        self._watts = DRAM_WATTS_PER_GB * memory_bytes / BYTES_PER_GB
        self._at_ns = at_ns
        self.device = Device(
            device_id="model:dram",
            component=Component.DRAM,
            method=Method.MODELLED,
            u_common=U_DRAM,
            u_common_key="model:dram",
            most_watts=2 * self._watts,
            model=f"{memory_bytes / BYTES_PER_GB:.1f} GB",
        )

    def joules(self, at_ns: int) -> float:
        """Cumulative joules since the model was opened."""
        return self._watts * (at_ns - self._at_ns) / 1e9


def busy_seconds(stat: str, ticks_per_second: int = os.sysconf("SC_CLK_TCK")) -> float:
    """CPU seconds that all CPUs together worked, from /proc/stat: user, nice, system, irq, softirq.

    Without idle, iowait and steal; guest time is inside user time already.
    """
    words = stat.split("\n", 1)[0].split()
    user, nice, system, _idle, _iowait, irq, softirq = (int(word) for word in words[1:8])
    return (user + nice + system + irq + softirq) / ticks_per_second


class Model:
    """The open models."""

    name = "model"

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self.devices: Sequence[Device] = [source.device for source in sources]
        self.left_out: Sequence[LeftOut] = ()

    def read(self) -> Sequence[Reading]:
        """Cumulative microjoules since opening; a model whose file is gone is left out."""
        readings = []
        for source in self._sources:
            at_ns = boottime_ns()
            try:
                joules = source.joules(at_ns)
            except (OSError, ValueError):
                continue
            readings.append(Reading(source.device.device_id, at_ns, math.floor(joules * 1e6)))
        return readings

    def busy(self) -> Mapping[str, Busy]:
        """Models do not know who uses what."""
        return {}

    def close(self) -> None:
        """Nothing is held."""


def open_model(
    roots: Roots, components: Collection[Component] = MODELLED, environ: Mapping[str, str] = os.environ
) -> Model:
    """The models of those components. Raises MeterUnavailable on a wrong declaration of the CPU, or
    where /proc does not tell what they need.
    """
    try:
        cgroup = cgroup_of("self", roots)
        at_ns = boottime_ns()
        sources: list[Source] = []
        if Component.CPU in components:
            sources.append(CpuModel(thread_power(read_cpu(roots), environ), cgroup, roots, at_ns))
        if Component.DRAM in components:
            sources.append(DramModel(cgroup.memory_bytes, at_ns))
    except BadInput as error:
        raise MeterUnavailable(error.cause, error.remedy) from error
    except (OSError, ValueError) as error:
        named: Path | str = getattr(error, "filename", None) or roots.proc
        raise MeterUnavailable(
            f"the model cannot read {named}: {error}", "mount the host's /proc and name it in JOULEBOOK_PROC_ROOT"
        ) from error
    return Model(sources)
