"""Chips of /sys/class/hwmon, and the rails that they measure.

Source: Linux, Documentation/hwmon/sysfs-interface.rst. The attributes of older drivers lie in hwmonN/device. Readings
are milliwatts, or cumulative microjoules.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from joulebook.clock import boottime_ns
from joulebook.meters import Device, LeftOut, Reading
from joulebook.meters.sysfs import Attribute, milliwatts, text_of
from joulebook.rows import Method

PROBES: Final = ("power1_average", "in1_label", "energy1_label")
"""Files of which every chip of a known kind has one."""


@dataclass(frozen=True, slots=True)
class Chip:
    """One hwmon device. directory, prefix: where its attributes are, see sysfs.Attribute.  place: the same now."""

    name: str
    place: Path
    directory: Path
    prefix: str

    def attribute(self, name: str) -> Attribute:
        """One of its files."""
        return Attribute(self.directory, f"{self.prefix}/{name}")

    def text(self, name: str) -> str:
        """A file's first line, "" without one."""
        return text_of(self.place / name)


@dataclass(frozen=True, slots=True)
class Rail:
    """Something that a chip measures. factors: files whose product is uW (mV x mA too), or uJ of a counter."""

    device: Device
    factors: tuple[Attribute, ...]

    def read(self) -> Reading:
        """Its reading now. Raises OSError or ValueError."""
        before = boottime_ns()
        value = math.prod(factor.number() for factor in self.factors)
        at_ns = (before + boottime_ns()) // 2
        if self.device.method is Method.COUNTER:
            return Reading(self.device.device_id, at_ns, energy_microjoules=value)
        power = milliwatts(value, self.device.most_watts or math.inf)
        return Reading(self.device.device_id, at_ns, power_milliwatts=power)

    def close(self) -> None:
        """Close its files."""
        for factor in self.factors:
            factor.close()


@dataclass(slots=True)
class Found:
    """What the chips of one kind measure."""

    rails: list[Rail] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)


def chips(base: Path, known: Collection[str]) -> list[Chip]:
    """The hwmon devices of those names, in the order of their numbers. base: /sys/class/hwmon."""
    found = []
    for entry in sorted(base.glob("hwmon*"), key=lambda entry: (len(entry.name), entry.name)):
        name = text_of(entry / "name") or text_of(entry / "device" / "name")
        if name not in known:
            continue
        inner = "/device" if not any((entry / probe).exists() for probe in PROBES) else ""
        real = entry.resolve()
        # Within its own device a reloaded driver may have another number; within the class that would be another chip.
        alone = real.parent != base.resolve()
        prefix = ("hwmon*" if alone else entry.name) + inner
        found.append(Chip(name, Path(f"{entry}{inner}"), real.parent if alone else base, prefix))
    return found
