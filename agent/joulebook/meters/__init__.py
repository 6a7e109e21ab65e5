"""Meters: what reads a device. A new one is one file, one line in METERS, one row in the docs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Final, Protocol

from joulebook.errors import MeterUnavailable
from joulebook.rows import Component, Method

__all__ = ["METERS", "Device", "Meter", "MeterUnavailable", "Reading", "Roots", "open_meter"]


@dataclass(frozen=True, slots=True)
class Roots:
    """Where the host's /proc and /sys are: settings, so that a container or a test can point elsewhere."""

    proc: Path = Path("/proc")
    sys: Path = Path("/sys")


@dataclass(frozen=True, slots=True)
class Device:
    """One physical thing that draws power, and how well its meter sees it.

    u_common, u_indep: relative standard uncertainties (k=1), see rows.Measurement.
    step_ns: how often the counter or sensor is updated (> 0).  most_watts: power that it cannot
    exceed, None when unknown.  wraps_at_microjoules: where its counter returns to zero, None
    when it never does.  averaged: power readings are the mean over the last step, not instants.
    parent: device_id of the device that contains this one, None for a leaf that stands alone.
    note: a label for every report ("unknown CPU").
    """

    device_id: str
    component: Component
    method: Method
    u_common: float
    u_common_key: str
    u_indep: float = 0.0
    step_ns: int = 1_000_000
    most_watts: float | None = None
    wraps_at_microjoules: int | None = None
    averaged: bool = False
    parent: str | None = None
    model: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a device said at one instant: cumulative microjoules, or milliwatts where there is no counter.

    at_ns: CLOCK_BOOTTIME nanoseconds at which the value was read.  Exactly one of the two is set.
    """

    device_id: str
    at_ns: int
    energy_microjoules: int | None = None
    power_milliwatts: int | None = None


class Meter(Protocol):
    """A power source. ``read`` may leave a device out when it cannot be read now; it never invents a value.

    ``busy_pids`` names the processes that use a device and how busy each kept it over the last
    sampling period (0 to 1, None when the device does not say); only GPUs know.
    """

    name: str
    devices: Sequence[Device]

    def read(self) -> Sequence[Reading]:
        """One reading of every device that answers now."""
        ...

    def busy_pids(self) -> dict[str, dict[int, float | None]]:
        """device_id -> pid -> utilisation."""
        ...

    def close(self) -> None:
        """Give back what the meter holds."""
        ...


Opener = Callable[[Roots], Meter]

METERS: Final[dict[str, str]] = {
    "rapl": "joulebook.meters.rapl:open_rapl",
    "nvml": "joulebook.meters.nvml:open_nvml",
    "model": "joulebook.meters.model:open_model",
    "replay": "joulebook.meters.replay:open_replay",
}
"""Name in the settings -> opener, imported only when asked for. An opener probes once and raises MeterUnavailable."""


def open_meter(name: str, roots: Roots) -> Meter:
    """The meter of that name. Raises MeterUnavailable with the reason and the remedy."""
    try:
        module, opener = METERS[name].split(":")
    except KeyError:
        raise MeterUnavailable(f"there is no meter {name!r}", f"name some of: {', '.join(sorted(METERS))}") from None
    meter: Meter = getattr(import_module(module), opener)(roots)
    return meter
