"""Meters: what reads a device. A new one is one file, one line in METERS, one row in the docs."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, runtime_checkable

from joulebook.errors import MeterUnavailable
from joulebook.rows import Component, Method

if TYPE_CHECKING:
    from joulebook.history import DeviceHistory

__all__ = [
    "METERS",
    "Askable",
    "Busy",
    "Device",
    "Entry",
    "Follower",
    "LeftOut",
    "Limited",
    "Meter",
    "MeterAbsent",
    "MeterUnavailable",
    "Reading",
    "Refused",
    "Roots",
    "named_meters",
    "open_each",
    "open_meter",
    "open_meters",
    "roots_from_environment",
    "without_overlap",
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
    covers: the physical thing, named alike by whichever meter reads it: "cpu:0" (a package), "dram:0", "cpu" or "dram"
    (all of them), "gpu:<uuid>", "gpu:0000:c1:00.0", "node"; "" for its device_id.  covers_also: its other names.
    partitions: slice id -> fraction of the device's compute, for devices that are divided in hardware (MIG).
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
    covers: str = ""
    covers_also: tuple[str, ...] = ()
    partitions: Mapping[str, float] = field(default_factory=dict)
    parent: str | None = None
    model: str = ""
    driver: str = ""
    limit_watts: float | None = None
    note: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Every name of the physical thing."""
        return (self.covers or self.device_id, *self.covers_also)


@dataclass(frozen=True, slots=True)
class Busy:
    """Who uses a device. pids: pid -> fraction of the whole device that it kept busy over the last sampling
    period (0 to 1), None where the device does not say.  note: what a report must say of it.  sampled: it tells of
    all that used it since it was last asked, else only of those that do now.  u_split: relative standard uncertainty
    of what each of several has, 0 where they can be told apart.
    """

    pids: Mapping[int, float | None]
    note: str = ""
    sampled: bool = False
    u_split: float = 0.0


class Reading(NamedTuple):
    """What a device said at one instant: cumulative microjoules, or milliwatts where there is no counter.

    at_ns: CLOCK_BOOTTIME nanoseconds at which the value was read.  Exactly one of the two values is set.
    restarted: whatever it says, the counter began at 0 again since the reading before.  (A named tuple is made in two
    thirds of a dataclass's time, and a hundred may be made every second.)
    """

    device_id: str
    at_ns: int
    energy_microjoules: int | None = None
    power_milliwatts: int | None = None
    restarted: bool = False


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What a meter found and does not read: what, why, and the remedy ("" where nothing is wrong)."""

    what: str
    why: str
    remedy: str = ""


class Meter(Protocol):
    """A power source. ``read`` may leave a device out when it cannot be read now; it never invents a value.
    ``devices`` is everything that it can read: of two that cover the same thing ``open_meters`` keeps one.
    ``left_out`` is what its opener found and passed over, for ``doctor``.  ``busy`` says who uses which
    device, by device_id; only GPUs know.
    """

    name: str
    devices: Sequence[Device]
    left_out: Sequence[LeftOut]

    def read(self) -> Sequence[Reading]:
        """One reading of every device that answers now."""
        ...

    def busy(self) -> Mapping[str, Busy]:
        """device_id -> the processes that use it."""
        ...

    def close(self) -> None:
        """Give back what the meter holds."""
        ...


@runtime_checkable
class Follower(Protocol):
    """A meter whose devices' energy is worked out from others': it is told of theirs after every look."""

    def follow(self, histories: Iterable[DeviceHistory]) -> None:
        """Take in what the machine's other devices drew."""
        ...

    def read(self) -> Sequence[Reading]:
        """What has become known by it."""
        ...


@runtime_checkable
class Askable(Protocol):
    """A meter that asks a controller or an exporter now and then, in a thread of its own."""

    def ask_now(self, seconds: float) -> bool:
        """Ask before it is time, and wait so long for the answer; whether it came."""
        ...


@runtime_checkable
class Limited(Protocol):
    """A meter that can tell the power limits that its devices run under now."""

    def limits(self) -> Mapping[str, float]:
        """device_id -> watts, of the devices that say."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """One meter. opener, stand: module:function of what opens it and of its simulated counterpart.

    declared_by: the variable without which the machine has no such meter, and nothing is imported to find out.
    """

    opener: str
    stand: str
    declared_by: str = ""


METERS: Final[dict[str, Entry]] = {
    "rapl": Entry("joulebook.meters.rapl:open_rapl", "joulebook.simulate.powercap:stand"),
    "nvml": Entry("joulebook.meters.nvml:open_nvml", "joulebook.simulate.nvml:stand"),
    "amdgpu": Entry("joulebook.meters.amdgpu:open_amdgpu", "joulebook.simulate.amdgpu:stand"),
    "hwmon": Entry("joulebook.meters.hwmon:open_hwmon", "joulebook.simulate.hwmon:stand"),
    "redfish": Entry(
        "joulebook.meters.redfish:open_redfish", "joulebook.simulate.redfish:stand", "JOULEBOOK_REDFISH_URL"
    ),
    "ipmi": Entry("joulebook.meters.ipmi:open_ipmi", "joulebook.simulate.ipmi:stand", "JOULEBOOK_IPMI"),
    "accelerator": Entry("joulebook.meters.accelerator:open_accelerator", "joulebook.simulate.accelerator:stand"),
    "prometheus": Entry(
        "joulebook.meters.prometheus:open_prometheus", "joulebook.simulate.prometheus:stand", "JOULEBOOK_PROMETHEUS_URL"
    ),
    "node": Entry("joulebook.meters.node:open_node", "joulebook.simulate.node:stand", "JOULEBOOK_NODE_MODEL"),
    "model": Entry("joulebook.meters.model:open_model", "joulebook.simulate.machine:stand"),
    "replay": Entry("joulebook.meters.replay:open_replay", "joulebook.simulate.recording:stand", "JOULEBOOK_REPLAY"),
}
"""Name in the settings -> meter, imported only when asked for, in order of trust where all else is equal.

An opener probes once and raises MeterUnavailable.
"""

PLATFORM: Final = frozenset({Component.CPU, Component.DRAM})
OUTERMOST: Final = ("redfish", "ipmi", "prometheus", "hwmon", "rapl", "node")
"""Of several meters of the node's supply the first of these counts: the wall before the board."""


def open_meter(name: str, roots: Roots) -> Meter:
    """The meter of that name. Raises MeterUnavailable with the reason and the remedy."""
    entry = METERS.get(name)
    if entry is None:
        raise MeterUnavailable(f"there is no meter {name!r}", f"name some of: {', '.join(sorted(METERS))}")
    if entry.declared_by and not os.environ.get(entry.declared_by):
        raise MeterAbsent(f"{name} is not declared", f"set {entry.declared_by}, see docs/reference/meters.md")
    module, opener = entry.opener.split(":")
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
    recording that JOULEBOOK_REPLAY names, alone, if it is set; else every meter of METERS.  However they are
    named, no physical thing is counted twice: see ``without_overlap``, and the model stands in only for a
    component that nothing else reads.
    """
    opened, refused = open_each(named_meters() if names is None else names, roots)
    return without_overlap(opened), refused


def open_each(names: Sequence[str], roots: Roots) -> tuple[list[Meter], list[Refused]]:
    """``open_meters`` before what overlaps is left out."""
    wanted = list(dict.fromkeys(names))
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
    """Names of JOULEBOOK_METERS; else the recording alone, if one is named; else all that this machine may have."""
    listed = [name.strip() for name in os.environ.get("JOULEBOOK_METERS", "").split(",") if name.strip()]
    if listed:
        return listed
    if os.environ.get("JOULEBOOK_REPLAY"):
        return ["replay"]
    return [name for name, entry in METERS.items() if not entry.declared_by or os.environ.get(entry.declared_by)]


def without_overlap(meters: Sequence[Meter]) -> list[Meter]:
    """The meters, each with the devices that count, and told of those that do not; one that has none left is closed.

    Of devices that cover the same thing the best counts (law 2: counter, integrated, modelled; then least
    uncertain; then order of METERS); "cpu" covers every "cpu:0".  Of several supplies of the node the
    outermost counts, and it is the parent of all other devices.
    """
    order = list(METERS)
    ranked = sorted(
        ((meter, device) for meter in meters for device in meter.devices),
        key=lambda pair: _trust(pair[1], order.index(pair[0].name) if pair[0].name in order else len(order)),
    )
    taken: dict[str, str] = {}
    kept: dict[int, dict[str, Device]] = {id(meter): {} for meter in meters}
    lost: dict[int, list[LeftOut]] = {id(meter): [] for meter in meters}
    node = _node_of(ranked)
    for meter, device in ranked:
        other = next((taken[name] for name in _covering(device, taken)), None)
        if device.component is Component.NODE and node is not None and device is not node[1]:
            other = "another meter of the node's supply"
        if other is not None:
            lost[id(meter)].append(LeftOut(device.device_id, f"the same as {other}, which counts"))
            continue
        taken |= dict.fromkeys(device.names, f"{meter.name} {device.device_id}")
        parent = device.parent or _parent(device, node)
        kept[id(meter)][device.device_id] = replace(device, parent=parent) if parent != device.parent else device
    return [meter for meter in meters if _keep(meter, kept[id(meter)], lost[id(meter)])]


def _trust(device: Device, order: int) -> tuple[int, float, int]:
    return list(Method).index(device.method), math.hypot(device.u_common, device.u_indep), order


def _node_of(ranked: Sequence[tuple[Meter, Device]]) -> tuple[str, Device] | None:
    nodes = [(meter.name, device) for meter, device in ranked if device.component is Component.NODE]
    outer = [name for name in OUTERMOST if any(name == meter for meter, _ in nodes)]
    return next((pair for pair in nodes if not outer or pair[0] == outer[0]), None)


def _parent(device: Device, node: tuple[str, Device] | None) -> str | None:
    """The node that contains a device. The platform's own counter (psys) knows its packages and memory alone."""
    if node is None or device is node[1] or (node[0] == "rapl" and device.component not in PLATFORM):
        return None
    return node[1].device_id


def _covering(device: Device, taken: Mapping[str, str]) -> list[str]:
    """Names among ``taken`` that are this device, a whole that it is part of, or a part of it."""
    component = device.component.value
    return [
        name
        for name in taken
        if name in device.names
        or (name == component and any(own.startswith(f"{component}:") for own in device.names))
        or (component in device.names and name.startswith(f"{component}:"))
    ]


def _keep(meter: Meter, devices: Mapping[str, Device], lost: Sequence[LeftOut]) -> bool:
    """Leave the meter the devices that count, in its own order; close it when that is none."""
    meter.left_out = [*meter.left_out, *lost]
    if meter.devices and not devices:
        meter.close()
        return False
    meter.devices = [devices[device.device_id] for device in meter.devices if device.device_id in devices]
    return True


def _open_model(roots: Roots, opened: Sequence[Meter]) -> Meter | None:
    """The model of the components that no opened meter reads, None when they all are."""
    # Imported here: the model is a meter like any other and is not loaded before it is asked for.
    from joulebook.meters.model import MODELLED, open_model

    devices = [device for meter in opened for device in meter.devices]
    read = {device.component.value for device in devices}
    read |= {name.partition(":")[0] for device in devices for name in device.names}
    left = {component for component in MODELLED if component.value not in read}
    return open_model(roots, left) if left else None
