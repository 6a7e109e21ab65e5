"""Which rails of a chip may be counted, and which overlap them.

ACPI power meters and NVIDIA Grace (power1_average in uW over power1_average_interval in ms, power1_oem_info),
INA3221 on Jetson (in1_input in mV x curr1_input in mA, in1_label), amd_energy (energy1_input in uJ, energy1_label).
Source: Linux, Documentation/hwmon/{acpi_power_meter,ina3221,amd_energy}.rst; the rails of Grace as its firmware names
them (edk2-nvidia, SSDT power meters: CPU and SysIO are rails of their own).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from joulebook.cpus import read_cpu
from joulebook.meters import Device, LeftOut, Roots
from joulebook.meters.hwmon_chips import Chip, Found, Rail
from joulebook.meters.sysfs import number_of, text_of
from joulebook.rows import Component, Method
from joulebook.units import NS_PER_SECOND

U_NODE: Final = 0.03
"""A node's own power meter, as for a BMC (METHODS 1.6); wider where it states a lower accuracy."""
U_GRACE: Final = 0.05
"""Grace's rails: no figure is published; that of the boards' sensors is taken (METHODS 1.6, AMD GPU counter)."""
U_INA3221: Final = 0.03
"""The module's sensor: no figure is published; that of NVIDIA's boards is taken (METHODS 1.6)."""
U_AMD_ENERGY: Final = 0.08
"""AMD's package counter is a model inside the chip (METHODS 1.6)."""
U_POLLED: Final = 0.03
"""What polling instants adds under a steady load, as for GPUs (METHODS 1.6)."""

MOST_WATTS: Final = {Component.CPU: 1500.0, Component.OTHER: 1500.0, Component.NODE: 50_000.0}
"""Above any socket and any node of 2026."""
MEAN_NS: Final = NS_PER_SECOND
"""A mean over less than the time between two reads says nothing of the rest: it is an instant."""
INSTANT_NS: Final = 100_000_000
COUNTER_STEP_NS: Final = 1_000_000
"""amd_energy's registers are updated every millisecond."""

POLLED_NOTE: Final = "power polled, loads that vary faster than it are aliased"
MODULE_NOTE: Final = "input of the module: the carrier board and its supply are not in it"

GRACE_RAIL: Final = re.compile(r"(Module|Grace|CPU|SysIO) Power Socket (\d+)", re.IGNORECASE)
INPUT_RAILS: Final = ("VDD_IN", "POM_5V_IN")
"""Jetson's names for the rail that feeds the whole module."""
SOCKET: Final = re.compile(r"Esocket(\d+)")
INA3221_CHANNELS: Final = (1, 2, 3)


def power_meters(found: Sequence[Chip], roots: Roots) -> Found:
    """ACPI power meters: Grace's rails by what they call themselves, else the node's if there is just one."""
    result = Found()
    unnamed: list[Chip] = []
    for chip in found:
        named = GRACE_RAIL.fullmatch(chip.text("power1_oem_info"))
        if chip.text("power1_is_battery") == "1":
            result.left_out.append(LeftOut(_what(chip), "measures a battery"))
        elif named is None:
            unnamed.append(chip)
        else:
            _grace(chip, named[1].lower(), int(named[2]), result)
    if len(unnamed) == 1 and not result.rails:
        result.rails.append(_node(unnamed[0]))
    else:
        why = "what it measures is not told, so it may be part of the others"
        result.left_out += [LeftOut(_what(chip), why) for chip in unnamed]
    return result


def _what(chip: Chip) -> str:
    told = chip.text("power1_oem_info") or chip.text("power1_model_number") or chip.directory.parent.name
    return f"{chip.name} {told}"


def _grace(chip: Chip, rail: str, socket: int, result: Found) -> None:
    """CPU and SysIO rails lie beside each other; Grace contains both and the memory, Module the GPU too."""
    if rail in ("module", "grace"):
        inside = "the CPU and SysIO rails" + (" and the GPU" if rail == "module" else "")
        result.left_out.append(LeftOut(_what(chip), f"contains {inside}: summing both would count them twice"))
        return
    cpu = rail == "cpu"
    device = _polled(
        chip,
        f"hwmon:grace/{rail}-{socket}",
        Component.CPU if cpu else Component.OTHER,
        U_GRACE,
        "NVIDIA Grace",
        f"cpu:{socket}" if cpu else f"sysio:{socket}",
    )
    result.rails.append(Rail(device, (chip.attribute("power1_average"),)))


def _node(chip: Chip) -> Rail:
    model = chip.text("power1_model_number") or chip.text("power1_oem_info")
    device = _polled(
        chip, "hwmon:power_meter", Component.NODE, _stated(chip.text("power1_accuracy")), model or "ACPI meter", "node"
    )
    return Rail(device, (chip.attribute("power1_average"),))


def _stated(accuracy: str) -> float:
    """The node's uncertainty: the stated error ("98.5%" is +-1.5 %, rectangular) where that is wider."""
    try:
        error = 1 - float(accuracy.rstrip("%")) / 100
    except ValueError:
        return U_NODE
    return max(U_NODE, error / math.sqrt(3)) if 0 <= error < 1 else U_NODE


def _polled(chip: Chip, device_id: str, component: Component, u: float, model: str, covers: str) -> Device:
    """A device of an ACPI meter, which averages over an interval that it tells."""
    told_ms = number_of(chip.place / "power1_average_interval")
    step_ns = told_ms * 1_000_000 if told_ms else MEAN_NS
    averaged = step_ns >= MEAN_NS
    return Device(
        device_id=device_id,
        component=component,
        method=Method.INTEGRATED,
        u_common=u,
        u_common_key=f"hwmon:{model}",
        u_indep=0.0 if averaged else U_POLLED,
        step_ns=step_ns,
        most_watts=MOST_WATTS[component],
        averaged=averaged,
        covers=covers,
        model=model,
        note="" if averaged else POLLED_NOTE,
    )


def ina3221(found: Sequence[Chip], roots: Roots) -> Found:
    """Jetson's power monitors: the rail that feeds the module, which contains all others."""
    channels = [
        (chip, n, label)
        for chip in found
        for n in INA3221_CHANNELS
        if (label := chip.text(f"in{n}_label")) and chip.text(f"in{n}_enable") != "0"
    ]
    unlabelled = [chip for chip in found if not any(chip is labelled for labelled, _, _ in channels)]
    result = Found(left_out=[LeftOut(_what(chip), "its channels have no labels") for chip in unlabelled])
    whole = next((label for _, _, label in channels if label in INPUT_RAILS), None)
    for chip, n, label in channels:
        if whole is None:
            result.left_out.append(LeftOut(f"ina3221 {label}", "no rail feeds the whole module, and rails nest"))
        elif label != whole:
            result.left_out.append(LeftOut(f"ina3221 {label}", f"lies inside {whole}"))
        else:
            told_ms = number_of(chip.place / "update_interval") or 0
            device = Device(
                device_id=f"hwmon:ina3221/{label}",
                component=Component.NODE,
                method=Method.INTEGRATED,
                u_common=U_INA3221,
                u_common_key="hwmon:ina3221",
                u_indep=U_POLLED,
                step_ns=max(told_ms * 1_000_000, INSTANT_NS),
                most_watts=MOST_WATTS[Component.NODE],
                covers="node",
                model="INA3221",
                note=f"{MODULE_NOTE}; {POLLED_NOTE}",
            )
            volts, amperes = chip.attribute(f"in{n}_input"), chip.attribute(f"curr{n}_input")
            result.rails.append(Rail(device, (volts, amperes)))
    return result


def amd_energy(found: Sequence[Chip], roots: Roots) -> Found:
    """AMD's counters as a hardware monitor: sockets; their cores lie inside them."""
    result = Found()
    model = read_cpu(roots).model if found else ""
    for chip in found:
        cores = 0
        for path in sorted(chip.place.glob("energy*_label"), key=lambda path: (len(path.name), path.name)):
            label = text_of(path)
            named = SOCKET.fullmatch(label)
            if named is None:
                cores += 1
                continue
            device = Device(
                device_id=f"hwmon:{chip.name}/socket-{int(named[1])}",
                component=Component.CPU,
                method=Method.COUNTER,
                u_common=U_AMD_ENERGY,
                u_common_key=f"hwmon:amd_energy:{model}",
                step_ns=COUNTER_STEP_NS,
                most_watts=MOST_WATTS[Component.CPU],
                covers=f"cpu:{int(named[1])}",
                model=model,
            )
            result.rails.append(Rail(device, (chip.attribute(path.name.replace("_label", "_input")),)))
        if cores:
            result.left_out.append(LeftOut(f"{chip.name}, {cores} core counters", "lie inside their sockets"))
    return result


KINDS: Final[Mapping[tuple[str, ...], Callable[[Sequence[Chip], Roots], Found]]] = {
    ("power_meter",): power_meters,
    ("ina3221",): ina3221,
    ("amd_energy", "zenergy"): amd_energy,
}
"""Names of chips -> what finds their rails."""
