"""AMD GPUs as the kernel's driver shows them in /sys: cards, their hwmon, gpu_metrics and the compute driver.

DIR/class/drm/cardN and DIR/class/hwmon/hwmonN are links into DIR/devices, as in /sys, so JOULEBOOK_SYS_ROOT=DIR
makes the meter read them.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from joulebook.clock import boottime_ns
from joulebook.errors import BadInput
from joulebook.meters.gpu_metrics import ENERGY_AT, WIDE_FROM
from joulebook.simulate.curve import Curve, parse_curve
from joulebook.simulate.moving import Fault, Moving, MovingFiles, claim, link, write_files
from joulebook.simulate.truth import Source, write_truth

COUNTERS: Final = ("none", "hwmon", "amdsmi", *(f"metrics-{form}.{content}" for form, content in ENERGY_AT))
FIRST_HWMON: Final = 40
"""hwmon numbers of the cards, apart from those of ``joulebook simulate hwmon``."""
CHIPS: Final = {"one": "0x74a1", "two": "0x7408"}
"""PCI ids: MI300X, MI250X."""
COMPUTE_UNITS: Final = {"one": 304, "two": 110}
TABLE_BYTES: Final = 264
COUNTS_PER_JOULE: Final = 1 << 16
START_COUNTS: Final = 1 << 31
"""Where counters begin, apart by cards: below the wrap of a 32-bit one."""
STEP_NS: Final = 1_000_000
VRAM_BYTES: Final = 1 << 30
WIDE_LINK, NARROW_LINK = 200_000, 50_000
"""MB/s between the dies of a package, and between packages."""


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process with memory on a card. compute_units: that it occupies, None where the driver does not tell."""

    pid: int
    compute_units: int | None = None


@dataclass(frozen=True, slots=True)
class SimulatedCard:
    """One card, or a package of two dies of which the second measures nothing.

    counter: one of COUNTERS.  rate: how fast its counter runs, 1.0 is right.  wraps_in_s: when it wraps, 32-bit only.
    """

    curve: Curve
    counter: str = "metrics-1.4"
    rate: float = 1.0
    two_dies: bool = False
    name: str = "Simulated MI300X"
    limit_watts: float = 750.0
    wraps_in_s: float | None = None
    processes: tuple[GpuProcess, ...] = ()


LIBRARY: Final = "python"
"""Directory of the simulated amdsmi, for PYTHONPATH."""


def unique_id(card: int) -> str:
    """The serial number of a card."""
    return f"a3d0{card:012x}"


class AmdGpuTree:
    """The tree on disk. ``files.tick`` moves power and counters; whoever holds it keeps ticking."""

    def __init__(
        self, directory: Path, cards: Sequence[SimulatedCard], t0_ns: int, faults: Sequence[Fault] = ()
    ) -> None:
        claim(directory)
        for place in ("class/drm", "class/kfd", "devices/pci0000:c0", "devices/virtual/kfd"):
            shutil.rmtree(directory / place, ignore_errors=True)
        self.sources = [Source(f"amdgpu:{unique_id(n)}", t0_ns, (card.curve,)) for n, card in enumerate(cards)]
        moving: list[Moving] = []
        dies: list[tuple[int, int]] = []
        for n, card in enumerate(cards):
            for second in range(2 if card.two_dies else 1):
                moving += _card(directory, len(dies), n, card, self.sources[n], second=bool(second))
                dies.append((n, second))
        _kfd(directory, cards, dies)
        self.files = MovingFiles(moving, faults)
        self.files.tick(boottime_ns())
        write_truth(directory, "amdgpu", self.sources)
        if any(card.counter == "amdsmi" for card in cards):
            _library(directory, cards, dies)

    def close(self) -> None:
        """Close the files; the tree stays, still."""
        self.files.close()


def _address(die: int) -> tuple[int, str]:
    """The KFD's location id and the PCI address of the n-th die."""
    return (0xC1 + die) << 8, f"0000:{0xC1 + die:02x}:00.0"


def _card(directory: Path, die: int, n: int, card: SimulatedCard, source: Source, *, second: bool) -> list[Moving]:
    """The files of one die; those that move are returned. The second die of a package has neither watt nor joule."""
    kind = "two" if card.two_dies else "one"
    device = directory / "devices" / "pci0000:c0" / _address(die)[1]
    chip = {"vendor": "0x1002", "device": CHIPS[kind], "unique_id": unique_id(n) + ("1" if second else "")}
    write_files(device, chip | {"product_name": card.name, "numa_node": "0"})
    write_files(device / "drm" / f"card{die}", {"dev": f"226:{die}"})
    link(directory / "class" / "drm" / f"card{die}", device / "drm" / f"card{die}")
    link(device / "drm" / f"card{die}" / "device", device)
    (directory / "class" / "drm" / f"card{die}-DP-1").mkdir()
    hwmon = device / "hwmon" / f"hwmon{FIRST_HWMON + die}"
    limit = 0 if second else int(card.limit_watts * 1e6)
    write_files(hwmon, {"name": "amdgpu", "power1_cap": str(limit), "power1_cap_max": str(limit)})
    link(directory / "class" / "hwmon" / hwmon.name, hwmon)
    moving = [Moving(hwmon / "power1_average", n, (lambda _: b"0\n") if second else _power(source))]
    if card.counter == "hwmon" and not second:
        moving.append(Moving(hwmon / "energy1_input", n, _energy(source, card, n)))
    elif card.counter.startswith("metrics-"):
        moving.append(Moving(device / "gpu_metrics", n, _metrics(source, card, n, second=second)))
    return moving


def _power(source: Source) -> Callable[[int], bytes]:
    return lambda at_ns: b"%d\n" % round(source.watts(at_ns) * 1e6)


def _counted(source: Source, card: SimulatedCard, n: int) -> Callable[[int], int]:
    """Counts of 2**-16 J, in whole steps of the firmware's clock."""
    narrow = card.counter.startswith("metrics-") and _revision(card)[1] < WIDE_FROM and not card.two_dies
    start = START_COUNTS + n * COUNTS_PER_JOULE * 1000
    if card.wraps_in_s is not None:
        until = source.t0_ns + int(card.wraps_in_s * 1e9)
        start = (1 << 32) - int(source.joules(until) * COUNTS_PER_JOULE)
    most = 1 << (32 if narrow else 64)
    return lambda at_ns: (start + int(source.joules(at_ns // STEP_NS * STEP_NS) * card.rate * COUNTS_PER_JOULE)) % most


def _energy(source: Source, card: SimulatedCard, n: int) -> Callable[[int], bytes]:
    counted = _counted(source, card, n)
    return lambda at_ns: b"%d\n" % (counted(at_ns) * 15625 // 1024)


def _metrics(source: Source, card: SimulatedCard, n: int, *, second: bool) -> Callable[[int], bytes]:
    """The table of that revision: all ones, which stands for "not filled", but for header and energy."""
    known, counted = _revision(card), _counted(source, card, n)
    blank = struct.pack("<HBB", TABLE_BYTES, *known) + b"\xff" * (TABLE_BYTES - 4)
    at = ENERGY_AT[known]
    return lambda at_ns: blank[:at] + struct.pack("<Q", 0 if second else counted(at_ns)) + blank[at + 8 :]


def _revision(card: SimulatedCard) -> tuple[int, int]:
    form, _, content = card.counter.removeprefix("metrics-").partition(".")
    return int(form), int(content)


def _kfd(directory: Path, cards: Sequence[SimulatedCard], dies: Sequence[tuple[int, int]]) -> None:
    """The compute driver's topology, a CPU and every die, and its processes."""
    base = directory / "devices" / "virtual" / "kfd" / "kfd"
    write_files(base / "topology" / "nodes" / "0", {"gpu_id": "0", "properties": "cpu_cores_count 8\nsimd_count 0"})
    for die, (n, _) in enumerate(dies):
        kind = "two" if cards[n].two_dies else "one"
        node = base / "topology" / "nodes" / str(die + 1)
        properties = {
            "simd_count": 4 * COMPUTE_UNITS[kind],
            "simd_per_cu": 4,
            "location_id": _address(die)[0],
            "domain": 0,
        }
        write_files(node, {"gpu_id": str(gpu_id(die)), "properties": _lines(properties)})
        for other, (m, _) in enumerate(dies):
            if other != die:
                width = WIDE_LINK if m == n else NARROW_LINK
                peer = {"type": 11, "node_from": die + 1, "node_to": other + 1, "max_bandwidth": width}
                write_files(node / "io_links" / str(other), {"properties": _lines(peer)})
    (base / "proc").mkdir()
    for n, card in enumerate(cards):
        # As the driver does, every GPU is listed under every process.
        for process in card.processes:
            for die, (m, _) in enumerate(dies):
                place = base / "proc" / str(process.pid)
                held = place / f"vram_{gpu_id(die)}"
                if m == n or not held.exists():
                    write_files(place, {held.name: str(VRAM_BYTES if m == n else 0)})
                if process.compute_units is not None and (m == n or not held.exists()):
                    units = process.compute_units if m == n else 0
                    write_files(place / f"stats_{gpu_id(die)}", {"cu_occupancy": str(units)})
    link(directory / "class" / "kfd" / "kfd", base)


def _library(directory: Path, cards: Sequence[SimulatedCard], dies: Sequence[tuple[int, int]]) -> None:
    """A module amdsmi that answers from the curves; the simulated cards that it counts for are written into it."""
    counted = {
        _address(die)[1]: (unique_id(n), cards[n].rate)
        for die, (n, second) in enumerate(dies)
        if cards[n].counter == "amdsmi" and not second
    }
    text = f"from joulebook.simulate.amd_smi import *\n\nset_up({str(directory.absolute())!r}, {counted!r})\n"
    write_files(directory / LIBRARY, {"amdsmi.py": text.rstrip()})


def gpu_id(die: int) -> int:
    """The compute driver's number of a die."""
    return 20_000 + 37 * die


def _lines(properties: Mapping[str, int]) -> str:
    return "\n".join(f"{name} {value}" for name, value in properties.items())


def sound_counter(text: str) -> str:
    """One of COUNTERS. Raises BadInput."""
    if text not in COUNTERS:
        raise BadInput(f"{text!r} is no counter of an AMD GPU", f"give one of {', '.join(COUNTERS)}")
    return text


def parse_process(text: str, cards: int) -> tuple[int, GpuProcess]:
    """Card index and process of "CARD:PID[:COMPUTE_UNITS]". Raises BadInput."""
    try:
        index, pid, *told = (int(word) for word in text.split(":"))
    except ValueError:
        index, pid, told = -1, 0, []
    if not (0 <= index < cards and pid > 0 and len(told) < 2 and all(units >= 0 for units in told)):
        raise BadInput(f"{text!r} is no process on one of {cards} cards", "give CARD:PID or CARD:PID:COMPUTE_UNITS")
    return index, GpuProcess(pid, told[0] if told else None)


class Stand:
    """Two cards for the contract tests of the meter: one with a counter in gpu_metrics, one with none."""

    environ: Mapping[str, str] = {}

    def __init__(self, root: Path, began_ns: int) -> None:
        cards = [
            SimulatedCard(parse_curve("constant:100"), processes=(GpuProcess(1, 152),)),
            SimulatedCard(parse_curve("constant:90"), counter="none"),
        ]
        self._tree = AmdGpuTree(root / "sys", cards, began_ns)

    def move(self, now_ns: int) -> None:
        """Move power and counters."""
        self._tree.files.tick(now_ns)

    def joules(self, from_ns: int, to_ns: int) -> dict[str, float]:
        """What each card drew."""
        return {source.device_id: source.joules(to_ns) - source.joules(from_ns) for source in self._tree.sources}

    def close(self) -> None:
        """Close the files."""
        self._tree.close()


def stand(root: Path, began_ns: int) -> Stand:
    """Two AMD GPUs under root/sys."""
    return Stand(root, began_ns)
