"""Hardware monitors as the kernel shows them: ACPI power meter, Grace's rails, Jetson's INA3221, amd_energy.

DIR/class/hwmon/hwmonN are links into DIR/devices, as in /sys, so JOULEBOOK_SYS_ROOT=DIR makes the meter read them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from joulebook.clock import boottime_ns
from joulebook.simulate.curve import Curve, parse_curve
from joulebook.simulate.moving import Fault, Moving, MovingFiles, claim, link, write_files
from joulebook.simulate.truth import Source, write_truth

FIRST_HWMON: Final = {"acpi": 10, "grace": 11, "ina3221": 30, "amd_energy": 31}
KINDS: Final = tuple(FIRST_HWMON)
SYSIO_FACTOR: Final = 0.2
DRAM_FACTOR: Final = 0.15
GPU_FACTOR: Final = 3.0
"""What lies beside a Grace CPU rail, as parts of its power: invented."""
INSIDE_FACTORS: Final = {"VDD_CPU_GPU_CV": 0.5, "VDD_SOC": 0.2}
"""Rails inside Jetson's input, as parts of it: invented."""
MILLIVOLTS: Final = 19_000
CORES: Final = 4
COUNTS_PER_JOULE: Final = 1 << 16


class HwmonTree:
    """The tree of one kind. ``files.tick`` moves it; whoever holds it keeps ticking.

    curves: one for each socket; acpi and ina3221 have one device.  interval_ms: over which ACPI meters average.
    """

    def __init__(
        self,
        directory: Path,
        kind: str,
        curves: Sequence[Curve],
        t0_ns: int,
        faults: Sequence[Fault] = (),
        *,
        interval_ms: int = 1000,
    ) -> None:
        claim(directory)
        place = directory / "devices" / "platform" / f"sim-{kind}"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        for old in (directory / "class" / "hwmon").glob("hwmon*"):
            if not old.exists():
                old.unlink()
        made = _Made(directory, place, FIRST_HWMON[kind], t0_ns, interval_ms)
        BUILD[kind](made, curves)
        self.sources = made.sources
        self.files = MovingFiles(made.moving, faults)
        self.files.tick(boottime_ns())
        write_truth(directory, f"hwmon-{kind}", self.sources)

    def close(self) -> None:
        """Close the files; the tree stays, still."""
        self.files.close()


class _Made:
    """A tree in the making."""

    def __init__(self, directory: Path, place: Path, first: int, t0_ns: int, interval_ms: int) -> None:
        self.moving: list[Moving] = []
        self.sources: list[Source] = []
        self.t0_ns, self.interval_ms = t0_ns, interval_ms
        self._directory, self._place, self._next = directory, place, first

    def chip(self, device: str, name: str, files: Mapping[str, str], *, inner: bool = False) -> Path:
        """A hwmon device, linked from its class. inner: its files lie in the parent device. Returns where they lie."""
        parent = self._place / device
        hwmon = parent / "hwmon" / f"hwmon{self._next}"
        self._next += 1
        write_files(hwmon, {"name": name})
        link(hwmon / "device", parent)
        link(self._directory / "class" / "hwmon" / hwmon.name, hwmon)
        at = parent if inner else hwmon
        write_files(at, files)
        return at

    def source(self, device_id: str, curve: Curve, *, overlaps: bool = False) -> Source:
        """A device whose truth is kept."""
        made = Source(device_id, self.t0_ns, (curve,), overlaps)
        self.sources.append(made)
        return made

    def meter(self, n: int, rail: str, source: Source, device: int) -> None:
        """An ACPI power meter that calls itself ``rail``."""
        files = {
            "power1_oem_info": rail, "power1_average_interval": str(self.interval_ms), "power1_is_battery": "0",
            "power1_accuracy": "98.0%",
        }  # fmt: skip
        at = self.chip(f"ACPI000D:{n:02x}", "power_meter", files, inner=True)
        self.moving.append(Moving(at / "power1_average", device, _mean(source, self.interval_ms * 1_000_000)))


def _mean(source: Source, interval_ns: int) -> Callable[[int], bytes]:
    """Mean power of the last whole interval, milliwatts told in uW as ACPI does."""

    def content(at_ns: int) -> bytes:
        ends = at_ns // interval_ns * interval_ns
        begins = max(ends - interval_ns, source.t0_ns)
        if ends <= begins:
            watts = source.watts(at_ns)
        else:
            watts = (source.joules(ends) - source.joules(begins)) / ((ends - begins) / 1e9)
        return b"%d\n" % (round(watts * 1e3) * 1000)

    return content


def _acpi(made: _Made, curves: Sequence[Curve]) -> None:
    made.meter(0, "", made.source("hwmon:power_meter", curves[0]), 0)


def _grace(made: _Made, curves: Sequence[Curve]) -> None:
    for n, curve in enumerate(curves):
        cpu, sysio = 1.0, SYSIO_FACTOR
        grace = cpu + sysio + DRAM_FACTOR
        rails = {"Module": grace + GPU_FACTOR, "Grace": grace, "CPU": cpu, "SysIO": sysio}
        for m, (rail, factor) in enumerate(rails.items()):
            source = made.source(
                f"hwmon:grace/{rail.lower()}-{n}", curve.scaled(factor), overlaps=rail in ("Module", "Grace")
            )
            made.meter(len(rails) * n + m, f"{rail} Power Socket {n}", source, n)


def _ina3221(made: _Made, curves: Sequence[Curve]) -> None:
    rails = {"VDD_IN": 1.0} | INSIDE_FACTORS
    labels = {f"in{n}_label": label for n, label in enumerate(rails, 1)}
    at = made.chip("1-0040", "ina3221", labels | {"update_interval": "1"})
    for n, (label, factor) in enumerate(rails.items(), 1):
        source = made.source(f"hwmon:ina3221/{label}", curves[0].scaled(factor), overlaps=label != "VDD_IN")
        made.moving.append(Moving(at / f"in{n}_input", 0, lambda _: b"%d\n" % MILLIVOLTS))
        made.moving.append(Moving(at / f"curr{n}_input", 0, _milliamperes(source)))


def _milliamperes(source: Source) -> Callable[[int], bytes]:
    return lambda at_ns: b"%d\n" % round(source.watts(at_ns) * 1e6 / MILLIVOLTS)


def _amd_energy(made: _Made, curves: Sequence[Curve]) -> None:
    cores = [(f"Ecore{n * CORES + m:03d}", n, 0.1) for n in range(len(curves)) for m in range(CORES)]
    sockets = [(f"Esocket{n}", n, 1.0) for n in range(len(curves))]
    at = made.chip("amd_energy.0", "amd_energy", {})
    for number, (label, n, factor) in enumerate([*cores, *sockets], 1):
        write_files(at, {f"energy{number}_label": label})
        core = label.startswith("Ecore")
        device_id = f"hwmon:amd_energy/{label if core else f'socket-{n}'}"
        source = made.source(device_id, curves[n].scaled(factor), overlaps=core)
        made.moving.append(Moving(at / f"energy{number}_input", n, _microjoules(source, number)))


def _microjoules(source: Source, number: int) -> Callable[[int], bytes]:
    """Whole counts of 2**-16 J, as uJ, from a beginning of its own."""
    start = 1_000_000_007 * number
    return lambda at_ns: b"%d\n" % (start + int(source.joules(at_ns) * COUNTS_PER_JOULE) * 15625 // 1024)


BUILD: Final[Mapping[str, Callable[[_Made, Sequence[Curve]], None]]] = {
    "acpi": _acpi,
    "grace": _grace,
    "ina3221": _ina3221,
    "amd_energy": _amd_energy,
}


class Stand:
    """Two Grace sockets for the contract tests of the meter, their power read as instants."""

    environ: Mapping[str, str] = {}

    def __init__(self, root: Path, began_ns: int) -> None:
        curves = [parse_curve("constant:100"), parse_curve("constant:80")]
        self._tree = HwmonTree(root / "sys", "grace", curves, began_ns, interval_ms=50)

    def move(self, now_ns: int) -> None:
        """Move the rails."""
        self._tree.files.tick(now_ns)

    def joules(self, from_ns: int, to_ns: int) -> dict[str, float]:
        """What each rail that counts drew."""
        counted = [source for source in self._tree.sources if not source.overlaps]
        return {source.device_id: source.joules(to_ns) - source.joules(from_ns) for source in counted}

    def close(self) -> None:
        """Close the files."""
        self._tree.close()


def stand(root: Path, began_ns: int) -> Stand:
    """Two Grace sockets under root/sys."""
    return Stand(root, began_ns)
