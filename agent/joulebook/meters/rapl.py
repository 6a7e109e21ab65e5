"""RAPL through the kernel's powercap tree: CPU packages and DRAM, as energy counters.

Only the admissible set is read, all package-* and all dram-* (METHODS 1.2): psys contains the
packages, core and uncore lie inside them, and intel-rapl-mmio shows the same packages again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from joulebook.clock import boottime_ns
from joulebook.cpus import Cpu, read_cpu
from joulebook.meters import Busy, Device, LeftOut, MeterAbsent, MeterUnavailable, Reading, Roots
from joulebook.rows import Component, Method

U_PACKAGE: Final = 0.03
"""Relative standard uncertainty of Intel package counters from Haswell-EP on (METHODS 1.6)."""
U_PACKAGE_AMD: Final = 0.08
"""AMD's package counter is a model inside the chip (METHODS 1.6)."""
U_DRAM_SERVER: Final = 0.10
U_DRAM_CLIENT: Final = 0.20
"""DRAM counters of server and of client parts (METHODS 1.6)."""

STEP_NS: Final = 1_000_000
"""RAPL counters are updated about every millisecond."""
LIMIT_MARGIN: Final = 2.0
"""A package may pass its longest limit for milliseconds: no reading above twice the largest limit is believed."""
MOST_WATTS: Final = {Component.CPU: 1500.0, Component.DRAM: 500.0}
"""Where the tree gives no limits: far above any socket of 2026 (500-700 W) and the DRAM beside it."""

MIRROR_READS: Final = 5
MIRROR_PAUSE_SECONDS: Final = 0.002

GRANT: Final = "sudo chmod -R a+r /sys/class/powercap/*/energy_uj, or run the agent with CAP_DAC_READ_SEARCH"


@dataclass(frozen=True, slots=True)
class Zone:
    """One domain of the powercap tree. path: names from the package down, such as package-0/dram."""

    directory: Path
    control: str
    path: str
    name: str

    @property
    def energy(self) -> Path:
        """The counter's file."""
        return self.directory / "energy_uj"


def find_zones(roots: Roots) -> list[Zone]:
    """Every RAPL zone under the powercap tree, MSR zones before their mmio duplicates."""
    base = roots.sys / "class" / "powercap"
    entries = sorted(p for p in base.glob("intel-rapl*:*") if (p / "name").is_file())
    names = {entry.name: (entry / "name").read_text().strip() for entry in entries}
    zones = []
    for entry in entries:
        control, *numbers = entry.name.split(":")
        ids = [":".join([control, *numbers[: depth + 1]]) for depth in range(len(numbers))]
        path = "/".join(names.get(zone_id, zone_id) for zone_id in ids)
        zones.append(Zone(entry, control, path, names[entry.name]))
    return sorted(zones, key=lambda zone: (zone.control != "intel-rapl", zone.path))


def component_of(zone: Zone) -> Component | None:
    """What an admissible zone measures, None for psys, core, uncore and all that lies within a package."""
    if zone.name.startswith("package-"):
        return Component.CPU
    return Component.DRAM if zone.name.startswith("dram") else None


def admissible(zones: Sequence[Zone]) -> tuple[list[Zone], list[LeftOut]]:
    """The zones that may be summed, and those left out with the reason. zones: as ``find_zones`` orders them."""
    kept: dict[str, Zone] = {}
    left_out = []
    for zone in zones:
        if component_of(zone) is None:
            left_out.append(LeftOut(f"{zone.control} {zone.path}", _overlap(zone)))
        elif zone.path in kept:
            left_out.append(LeftOut(f"{zone.control} {zone.path}", f"duplicate of {kept[zone.path].control}"))
        else:
            kept[zone.path] = zone
    return list(kept.values()), left_out


def _overlap(zone: Zone) -> str:
    if zone.name.startswith("psys"):
        return "contains the packages: summing both would count them twice"
    return "lies inside its package: summing both would count it twice"


class Rapl:
    """The open counters. Descriptors stay open, so that a read is one system call per zone."""

    name = "rapl"

    def __init__(self, zones: Sequence[Zone], devices: Sequence[Device], left_out: Sequence[LeftOut]) -> None:
        self.devices = devices
        self.left_out = left_out
        self._files = _open_all(zones)
        self._pairs = [(device.device_id, fd) for device, fd in zip(devices, self._files, strict=True)]

    def read(self) -> Sequence[Reading]:
        """Cumulative microjoules of every zone that answers."""
        readings = []
        for device_id, fd in self._pairs:
            before = boottime_ns()
            try:
                energy = read_count(fd)
            except (OSError, ValueError):
                continue
            after = boottime_ns()
            readings.append(Reading(device_id, (before + after) // 2, energy))
        return readings

    def busy(self) -> Mapping[str, Busy]:
        """Packages do not know who uses them."""
        return {}

    def close(self) -> None:
        """Close the counters' files."""
        for fd in self._files:
            os.close(fd)
        self._files, self._pairs = [], []


def read_count(fd: int) -> int:
    """The number in a counter's file, up to the first newline. Raises OSError or ValueError."""
    return int(os.pread(fd, 64, 0).split(b"\n", 1)[0])


def open_rapl(roots: Roots) -> Rapl:
    """The admissible counters of this machine.

    Raises MeterAbsent when there are none, MeterUnavailable when any of them cannot be read: the sum over
    some packages would pass for the machine's.
    """
    try:
        zones, left_out = admissible(find_zones(roots))
    except OSError as error:
        raise MeterUnavailable(f"{error.filename}: {error.strerror}", GRANT) from error
    if not zones:
        raise MeterAbsent(
            f"no RAPL zone under {roots.sys / 'class' / 'powercap'}",
            "modprobe intel_rapl_msr on bare metal; virtual machines and most containers have none",
        )
    for zone in zones:
        _check_readable(zone)
    zones, mirrors = drop_mirrors(zones)
    cpu = read_cpu(roots)
    return Rapl(zones, [_device(zone, cpu) for zone in zones], [*left_out, *mirrors])


def _check_readable(zone: Zone) -> None:
    try:
        fd = os.open(zone.energy, os.O_RDONLY)
    except OSError as error:
        remedy = GRANT.replace("/sys/class/powercap/*", str(zone.directory.parent / "*"))
        raise MeterUnavailable(f"{zone.energy}: {(error.strerror or 'unreadable').lower()}", remedy) from error
    try:
        read_count(fd)
    except (OSError, ValueError) as error:
        raise MeterUnavailable(
            f"{zone.energy} holds no energy count: {error}", "update the kernel, or set JOULEBOOK_METERS without rapl"
        ) from error
    finally:
        os.close(fd)


def drop_mirrors(zones: Sequence[Zone]) -> tuple[list[Zone], list[LeftOut]]:
    """Zones without those that repeat another's counter (dies that mirror their socket, METHODS 1.2).

    Mirrored means equal absolute counts at most looks while they move: an update may fall between
    two reads of one look.  Equal increments prove nothing, since two idle sockets look alike.
    """
    if len(zones) < 2:
        return list(zones), []
    looks = []
    for _ in range(MIRROR_READS):
        looks.append([int(zone.energy.read_bytes().split(b"\n", 1)[0]) for zone in zones])
        time.sleep(MIRROR_PAUSE_SECONDS)
    series = list(zip(*looks, strict=True))
    kept: list[int] = []
    left_out = []
    for i, counts in enumerate(series):
        twin = next((k for k in kept if len(set(counts)) > 1 and _mostly_equal(series[k], counts)), None)
        if twin is None:
            kept.append(i)
        else:
            left_out.append(LeftOut(zones[i].path, f"mirrors the counter of {zones[twin].path}"))
    return [zones[i] for i in kept], left_out


def _mostly_equal(a: Sequence[int], b: Sequence[int]) -> bool:
    return 2 * sum(x == y for x, y in zip(a, b, strict=True)) > len(a)


def _device(zone: Zone, cpu: Cpu) -> Device:
    component = component_of(zone) or Component.OTHER
    if component is Component.DRAM:
        u, key = (U_DRAM_SERVER if cpu.is_server else U_DRAM_CLIENT), "rapl-dram"
    else:
        u, key = (U_PACKAGE_AMD if cpu.vendor == "AMD" else U_PACKAGE), "rapl"
    return Device(
        device_id=f"rapl:{zone.path}",
        component=component,
        method=Method.COUNTER,
        u_common=u,
        u_common_key=f"{key}:{cpu.model}",
        step_ns=STEP_NS,
        most_watts=_most_watts(zone, component),
        wraps_at_microjoules=_number(zone.directory / "max_energy_range_uj"),
        model=cpu.model,
    )


def _most_watts(zone: Zone, component: Component) -> float:
    files = [*zone.directory.glob("constraint_*_max_power_uw"), *zone.directory.glob("constraint_*_power_limit_uw")]
    limits = [limit for limit in map(_number, files) if limit]
    return LIMIT_MARGIN * max(limits) / 1e6 if limits else MOST_WATTS[component]


def _number(path: Path) -> int | None:
    """A whole number in a file of the tree, None when the file is absent, unreadable or says 0."""
    try:
        return int(path.read_text()) or None
    except (OSError, ValueError):
        return None


def _open_all(zones: Sequence[Zone]) -> list[int]:
    files: list[int] = []
    try:
        for zone in zones:
            files.append(os.open(zone.energy, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        for fd in files:
            os.close(fd)
        raise MeterUnavailable(f"{error.filename}: {error.strerror}", GRANT) from error
    return files
