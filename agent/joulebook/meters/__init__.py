"""Meters: what reads a device. A new one is one file, one line in METERS, one row in the docs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Final, Protocol

from joulebook.errors import MeterUnavailable
from joulebook.rows import Component, Method

__all__ = [
    "METERS",
    "Device",
    "LeftOut",
    "Meter",
    "MeterAbsent",
    "MeterUnavailable",
    "Reading",
    "Refused",
    "Roots",
    "open_meter",
    "open_meters",
    "roots_from_environment",
]


class MeterAbsent(MeterUnavailable):
    """The machine has no such hardware or driver: nothing is broken and nothing needs mending."""


@dataclass(frozen=True, slots=True)
class Roots:
    """Where the host's /proc and /sys are: settings, so that a container or a test can point elsewhere."""

    proc: Path = Path("/proc")
    sys: Path = Path("/sys")


def roots_from_environment() -> Roots:
    """Roots named by JOULEBOOK_PROC_ROOT and JOULEBOOK_SYS_ROOT, else /proc and /sys."""
    return Roots(
        Path(os.environ.get("JOULEBOOK_PROC_ROOT") or "/proc"), Path(os.environ.get("JOULEBOOK_SYS_ROOT") or "/sys")
    )


@dataclass(frozen=True, slots=True)
class Device:
    """One physical thing that draws power, and how well its meter sees it.

    u_common, u_indep: relative standard uncertainties (k=1), see rows.Measurement.
    step_ns: how often the counter or sensor is updated (> 0).  most_watts: mean power that it cannot
    exceed over a whole step, None when unknown; a difference between two reads may hold up to one
    step's energy more than their distance in time allows, so bound it over elapsed + step_ns.
    wraps_at_microjoules: where its counter returns to zero, None when it never does.
    averaged: power readings are the mean over the last step, not instants.
    parent: device_id of the device that contains this one, None for a leaf that stands alone.
    model, driver, limit_watts: what a comparison must hold fixed; "" and None where the meter does not know.
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
    driver: str = ""
    limit_watts: float | None = None
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


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What a meter found and does not read: what, why, and the remedy ("" where nothing is wrong)."""

    what: str
    why: str
    remedy: str = ""


class Meter(Protocol):
    """A power source. ``read`` may leave a device out when it cannot be read now; it never invents a value.
    ``left_out`` is what its opener found and passed over, for ``doctor``.

    ``busy_pids`` names the processes that use a device and how busy each kept it over the last
    sampling period (0 to 1, None when the device does not say); only GPUs know.
    """

    name: str
    devices: Sequence[Device]
    left_out: Sequence[LeftOut]

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


@dataclass(frozen=True, slots=True)
class Refused:
    """A meter that could not be opened: MeterAbsent where the machine simply has none."""

    name: str
    error: MeterUnavailable


def open_meters(names: Sequence[str] | None, roots: Roots) -> tuple[list[Meter], list[Refused]]:
    """The meters of those names that open, and those that do not with the reason.

    names: None takes JOULEBOOK_METERS ("rapl,nvml"), and where that is not set finds out: the
    recording that JOULEBOOK_REPLAY names, alone, if it is set; else RAPL, NVML, and the model
    for whichever of CPU and DRAM no counter reads.  A model never stands beside a meter of the same
    component, however the names are given, so nothing is counted twice.
    """
    wanted = list(dict.fromkeys(named_meters() if names is None else names))
    opened: list[Meter] = []
    refused: list[Refused] = []
    # The model goes last: it fills in what the others leave unread.
    for name in sorted(wanted, key=lambda name: name == "model"):
        try:
            meter = _open_model(roots, opened) if name == "model" else open_meter(name, roots)
        except MeterUnavailable as error:
            refused.append(Refused(name, error))
        else:
            if meter is not None:
                opened.append(meter)
    return opened, refused


def named_meters() -> list[str]:
    """Names of JOULEBOOK_METERS; else the recording alone, if one is named; else the automatic choice."""
    listed = [name.strip() for name in os.environ.get("JOULEBOOK_METERS", "").split(",") if name.strip()]
    if listed:
        return listed
    return ["replay"] if os.environ.get("JOULEBOOK_REPLAY") else ["rapl", "nvml", "model"]


def _open_model(roots: Roots, opened: Sequence[Meter]) -> Meter | None:
    """The model of the components that no opened meter reads, None when they all are."""
    # Imported here: the model is a meter like any other and is not loaded before it is asked for.
    from joulebook.meters.model import MODELLED, open_model

    read = {device.component for meter in opened for device in meter.devices}
    left = MODELLED - read
    return open_model(roots, left) if left else None
