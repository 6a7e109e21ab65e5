"""One AMD GPU: which of its files tell power and energy, and what it is.

device/hwmon/hwmonN/power1_average or power1_input (uW), power1_cap, energy1_input (uJ) where there is one;
device/gpu_metrics with the firmware's energy accumulator; device/unique_id, product_name. Source: Linux,
Documentation/gpu/amdgpu/thermal.rst and Documentation/hwmon/sysfs-interface.rst. Only the first die of a two-die
package measures, and it measures both (Linux 076f55a45e9e, "Only primary die supports power data").
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from joulebook.identity import machine_id
from joulebook.meters import Device
from joulebook.meters.amd_smi import AmdSmi
from joulebook.meters.gpu_metrics import (
    APU_FORMATS,
    LONGEST,
    WRAP_COUNTS,
    energy_counts,
    is_wide,
    microjoules,
    revision,
)
from joulebook.meters.sysfs import Attribute, number_of, text_of
from joulebook.meters.trial import Trial
from joulebook.rows import Component, Method

VENDOR: Final = "0x1002"
TWO_DIES: Final = ("0x7408", "0x740c")
"""MI250X and MI250: two dies in a package, each a GPU of its own to the driver."""
MI300A: Final = "0x74a0"
"""A GPU with CPU cores in its package, whose power is that of both."""

U_GAIN: Final = 0.05
"""Of a counter that has agreed with power, shared by all GPUs of a model (METHODS 1.6)."""
U_POLLED: Final = 0.03
"""What polling power adds to it under a steady load, as for NVIDIA (METHODS 1.6)."""
COUNTER_STEP_NS: Final = 10_000_000
"""The firmware counts every millisecond; the driver keeps its table for a timer tick, of 10 ms at most."""
POWER_STEP_NS: Final = 100_000_000
"""Power is taken for an instant: the driver calls it an average and does not say over what."""
LIMIT_MARGIN: Final = 2.0
"""Boards pass their limit for milliseconds: no counter step above twice the largest limit is believed."""
MOST_WATTS: Final = 3000.0
"""Where a board tells no limit: twice the largest board of 2026."""

POLLED: Final = "power polled, loads that vary faster than it are aliased"
NO_COUNTER_NOTE: Final = f"no energy counter: {POLLED}"
TRIAL_NOTE: Final = "energy counter not validated yet: power polled until it agrees"
DISAGREES_NOTE: Final = f"energy counter disagrees with power: {POLLED}"
WHOLE_NOTE: Final = "power of the whole chip, CPU and GPU"
SECOND_DIE: Final = "second die of a package: the first die's power is that of both"


class Counter(Protocol):
    """Something that counts a card's energy."""

    def microjoules(self) -> int:
        """Cumulative. Raises OSError or ValueError."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


class EnergyFile:
    """The counter of the hwmon interface."""

    def __init__(self, attribute: Attribute) -> None:
        self._attribute = attribute

    def microjoules(self) -> int:
        """Cumulative. Raises OSError or ValueError."""
        return self._attribute.number()

    def close(self) -> None:
        """Close the file."""
        self._attribute.close()


class MetricsFile:
    """The counter within gpu_metrics."""

    def __init__(self, attribute: Attribute) -> None:
        self._attribute = attribute

    def microjoules(self) -> int:
        """Cumulative. Raises OSError or ValueError."""
        counts = energy_counts(self._attribute.read())
        if counts is None:
            raise ValueError("gpu_metrics holds no energy")
        return microjoules(counts)

    def close(self) -> None:
        """Close the file."""
        self._attribute.close()


@dataclass(slots=True)
class Card:
    """One GPU. trial: of its counter, None once that is decided.  counter: None without, or when it failed its trial.

    counted, polled: the device as it is once the counter has agreed, or has failed.
    dies: PCI addresses of what it measures, none where that is not known.  two_dies: it is a package's first die.
    """

    device_id: str
    pci: str
    most_watts: float
    power: Attribute
    counter: Counter | None = None
    counted: Device | None = None
    polled: Device | None = None
    trial: Trial | None = None
    dies: tuple[str, ...] = ()
    two_dies: bool = False

    def close(self) -> None:
        """Close its files."""
        self.power.close()
        if self.counter is not None:
            self.counter.close()


def address(place: Path) -> str:
    """PCI address of the device at that directory, in lower case."""
    return place.name.lower()


class NotRead(Exception):
    """A card that is found and not read."""

    def __init__(self, why: str, remedy: str = "") -> None:
        super().__init__(why)
        self.why, self.remedy = why, remedy


def open_card(place: Path, driver: str, smi: AmdSmi) -> tuple[Card, Device]:
    """The card at that PCI device. smi: asked for a counter where the driver shows none.  Raises NotRead.

    The graphics of a processor (APU) tell the package's power: as with RAPL's package that is the CPU's.  A GPU's id
    goes beyond its machine: without one of its own it takes the machine's, which stands before all others anyway.
    """
    pci, chip = address(place), text_of(place / "device")
    limits = [number_of(path) or 0 for path in place.glob("hwmon/hwmon*/power1_cap*")]
    cap = next((number_of(path) for path in place.glob("hwmon/hwmon*/power1_cap")), None)
    most_watts = LIMIT_MARGIN * max(limits) / 1e6 if any(limits) else MOST_WATTS
    power = _power_file(place, chip)
    unique = text_of(place / "unique_id").lower()
    known = bool(re.fullmatch(r"[0-9a-f]+", unique)) and bool(int(unique, 16))
    apu = _is_apu(place)
    gpu_names = (f"gpu:{pci}", *((f"gpu:{unique}",) if known else ()))
    cpu_name = (f"cpu:{number_of(place / 'numa_node') or 0}",)
    names = (*cpu_name, *gpu_names) if apu else (*gpu_names, *(cpu_name if chip == MI300A else ()))
    model = text_of(place / "product_name") or f"AMD GPU {VENDOR[2:]}:{chip.removeprefix('0x') or 'unknown'}"
    counter = _counter(place, chip) or _smi_counter(smi, pci)
    whole = WHOLE_NOTE if apu or chip == MI300A else ""
    device = Device(
        device_id=f"amdgpu:{unique if known else pci if apu else f'{machine_id()}/{pci}'}",
        component=Component.CPU if apu else Component.GPU,
        method=Method.INTEGRATED,
        u_common=U_GAIN,
        u_common_key=f"amdgpu:{model}",
        u_indep=U_POLLED,
        step_ns=POWER_STEP_NS,
        most_watts=most_watts,
        covers=names[0],
        covers_also=names[1:],
        model=model,
        driver=driver,
        limit_watts=cap / 1e6 if cap else None,
        note=notes(NO_COUNTER_NOTE if counter is None else TRIAL_NOTE, whole),
    )
    card = Card(device.device_id, pci, most_watts, power, dies=() if apu else (pci,), two_dies=chip in TWO_DIES)
    card.polled = replace(device, note=notes(DISAGREES_NOTE, whole))
    if counter is not None:
        card.counter, wraps_at = counter
        card.trial = Trial()
        card.counted = replace(
            device, method=Method.COUNTER, u_indep=0.0, step_ns=COUNTER_STEP_NS, wraps_at_microjoules=wraps_at,
            note=whole,
        )  # fmt: skip
    return card, device


def notes(*parts: str) -> str:
    """Those that say something, as one label."""
    return "; ".join(part for part in parts if part)


def _power_file(place: Path, chip: str) -> Attribute:
    """The file of the card's power. Raises NotRead where it has none, or may not be read.

    A card that sleeps gives an error or 0 W; it is read when it wakes.
    """
    for pattern in ("hwmon/hwmon*/power1_average", "hwmon/hwmon*/power1_input"):
        attribute = Attribute(place, pattern)
        try:
            path = attribute.find()
        except FileNotFoundError:
            continue
        try:
            zero = attribute.number() == 0
        except ValueError:
            zero = False
        except OSError as error:
            if error.errno == errno.EACCES:
                raise NotRead(f"{path}: permission denied", f"sudo chmod a+r {path}") from error
            zero = error.errno in (errno.EOPNOTSUPP, errno.EINVAL)
        if zero and chip in TWO_DIES:
            raise NotRead(SECOND_DIE)
        return attribute
    if chip in TWO_DIES:
        raise NotRead(SECOND_DIE)
    raise NotRead("the driver gives no power reading for it")


def _counter(place: Path, chip: str) -> tuple[Counter, int | None] | None:
    """The card's energy counter and where it wraps (uJ), None without one that can be read."""
    energy = Attribute(place, "hwmon/hwmon*/energy1_input")
    try:
        energy.number()
    except (OSError, ValueError):
        energy.close()
    else:
        return EnergyFile(energy), None
    table = Attribute(place, "gpu_metrics", LONGEST)
    try:
        held = table.read()
    except OSError:
        return None
    counts, known = energy_counts(held), revision(held)
    if counts is None or known is None:
        table.close()
        return None
    wide = is_wide(known, counts) or chip in TWO_DIES
    return MetricsFile(table), None if wide else microjoules(WRAP_COUNTS)


def _smi_counter(smi: AmdSmi, pci: str) -> tuple[Counter, int | None] | None:
    """The library's counter. Where it wraps is not told: a wrap is taken for a reset, and labelled."""
    counter = smi.counter(pci)
    return None if counter is None else (counter, None)


def _is_apu(place: Path) -> bool:
    try:
        with (place / "gpu_metrics").open("rb") as file:
            known = revision(file.read(LONGEST))
    except OSError:
        return False
    return known is not None and known[0] in APU_FORMATS
