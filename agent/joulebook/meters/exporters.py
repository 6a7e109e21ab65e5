"""What the known exporters say of a node's devices: samples -> cumulative energy or power of each device. Pure.

Sources: NVIDIA dcgm-exporter (etc/default-counters.csv); Kepler (power_collector.go, and the pages of releases before
0.10 in its issues); Scaphandre (docs_src/references/metrics.md); node_exporter (collector/rapl_linux.go).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from joulebook.meters import LeftOut
from joulebook.meters.samples import Sample
from joulebook.rows import Component, Method

GREATEST: Final = 2.0**53
"""Above it a float of the page no longer tells neighbours apart; DCGM's blank values (2**63 - 16) lie there too."""
MOST_WATTS: Final = 1e5
"""No board draws more; DCGM's blank power (2**47) is more."""
HOST_LABELS: Final = ("Hostname", "node_name", "instance")
"""Labels by which dcgm-exporter, Kepler, Kepler before 0.10 and a Prometheus server name the host."""
NESTED: Final = "lies inside its package: summing both would count it twice"
PLATFORM: Final = "contains the packages; which devices it covers is not told"


@dataclass(frozen=True, slots=True)
class Series:
    """One device as an exporter shows it. Exactly one of the two values is set.

    covers, covers_also: as in meters.Device.  zone: the RAPL zone that it reads, "" where that is not told.
    model: of a GPU.  method: counter, integrated for powers, modelled where the exporter says that it estimates.
    """

    device_id: str
    component: Component
    covers: str
    energy_microjoules: int | None = None
    power_milliwatts: int | None = None
    covers_also: tuple[str, ...] = ()
    zone: str = ""
    model: str = ""
    method: Method = Method.COUNTER


Found = Iterator[Series | LeftOut]


@dataclass(frozen=True, slots=True)
class Exporter:
    """One kind of exporter. names: its samples that are read or told as left out.

    step_seconds: how often it looks at its sensors by default, 0 where it does so when asked.
    wraps: it shows the sensor's own counter, which wraps.
    """

    name: str
    names: tuple[str, ...]
    step_seconds: float
    wraps: bool
    find: Callable[[Sequence[Sample]], Found]


def find_series(samples: Sequence[Sample]) -> tuple[Exporter | None, list[Series], list[LeftOut]]:
    """The exporter that a page is of, its devices and what is left out of it; one series for each device."""
    for exporter in EXPORTERS:
        own = [sample for sample in samples if sample.name in exporter.names]
        if own:
            if several := _hosts(own):
                return exporter, [], [LeftOut(exporter.name, several)]
            found = list(exporter.find(own))
            return (exporter, *_told_apart([one for one in found if isinstance(one, Series)], found))
    return None, [], []


def _hosts(samples: Sequence[Sample]) -> str:
    """Why a page of several hosts is not read, "" where it is of one: whose devices are this node's is not guessed."""
    for label in HOST_LABELS:
        names = sorted({sample.label(label) for sample in samples} - {""})
        if len(names) > 1:
            return f"it shows {len(names)} hosts ({', '.join(names[:3])}): name the exporter of this node alone"
    return ""


def _told_apart(series: Sequence[Series], found: Iterable[Series | LeftOut]) -> tuple[list[Series], list[LeftOut]]:
    """The devices that are shown once, and what is left out: two that look alike cannot be told from one another."""
    shown = Counter(one.device_id for one in series)
    left_out = [one for one in found if isinstance(one, LeftOut)]
    left_out += [LeftOut(name, f"shown {n} times, and not told apart") for name, n in shown.items() if n > 1]
    return [one for one in series if shown[one.device_id] == 1], list(dict.fromkeys(left_out))


def _microjoules(value: float, per_unit: int) -> int | None:
    """A cumulative value in microjoules; None where it cannot be one. 0 is what a source shows that reads nothing."""
    if not 0 < value < GREATEST:
        return None
    fraction, whole = math.modf(value)
    return int(whole) * per_unit + round(fraction * per_unit)


DCGM_ENERGY: Final = "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"
DCGM_POWER: Final = "DCGM_FI_DEV_POWER_USAGE"


def _dcgm(samples: Sequence[Sample]) -> Found:
    """GPUs. Under MIG, and where pods share one, a board's figure is repeated: it counts once, by UUID."""
    boards: dict[str, dict[str, Sample]] = {}
    for sample in samples:
        uuid = sample.label("UUID") or sample.label("uuid")
        if not re.fullmatch(r"GPU-[0-9A-Za-z-]{1,60}", uuid):
            yield LeftOut(f"dcgm-exporter {uuid[:64] or 'a GPU'}", "its UUID is not that of a board")
            continue
        kept = boards.setdefault(uuid, {}).get(sample.name)
        if not 0 < sample.value < GREATEST:
            continue
        # The repeats are read one after the other: of a counter the greatest is the newest.
        if kept is None or (sample.name == DCGM_ENERGY and sample.value > kept.value):
            boards[uuid][sample.name] = sample
    for uuid, board in boards.items():
        energy = _microjoules(board[DCGM_ENERGY].value, 1000) if DCGM_ENERGY in board else None
        watts = board[DCGM_POWER].value if DCGM_POWER in board else 0.0
        power = round(watts * 1000) if 0 < watts < MOST_WATTS else None
        if energy is None and power is None:
            yield LeftOut(f"dcgm-exporter {uuid}", "it shows neither energy nor power")
            continue
        sample = next(iter(board.values()))
        address = pci_address(sample.label("pci_bus_id"))
        yield Series(
            uuid,
            Component.GPU,
            f"gpu:{uuid}",
            energy_microjoules=energy,
            power_milliwatts=power if energy is None else None,
            covers_also=(f"gpu:{address}",) if address else (),
            model=sample.label("modelName"),
            method=Method.COUNTER if energy is not None else Method.INTEGRATED,
        )


def pci_address(text: str) -> str:
    """A PCI address as the kernel writes it, 0000:c1:00.0; "" for what is none. NVIDIA writes eight digits first."""
    found = re.fullmatch(r"([0-9a-fA-F]{4,8}):([0-9a-fA-F]{2}):([0-9a-fA-F]{2})\.([0-7])", text)
    return f"{int(found[1], 16):04x}:{found[2]}:{found[3]}.{found[4]}".lower() if found else ""


KEPLER: Final = "kepler_node_cpu_joules_total"


def _kepler(samples: Sequence[Sample]) -> Found:
    """CPU zones, each socket's or all of them together ("aggregated-package")."""
    numbers = _package_numbers((s.label("path"), "") for s in samples if s.label("zone") == "package")
    for sample in samples:
        zone, path = sample.label("zone"), sample.label("path")
        component = {"package": Component.CPU, "dram": Component.DRAM}.get(zone)
        if component is None:
            why = PLATFORM if zone == "psys" else NESTED if zone else "it does not say which zone it counts"
            yield LeftOut(f"kepler {zone or sample.name}", why)
        elif (energy := _microjoules(sample.value, 1_000_000)) is None:
            yield LeftOut(f"kepler {zone}", f"it counts {sample.value}")
        else:
            yield _rapl("kepler", component, path, numbers.get(_top(path), ""), energy, "aggregated" in path)


KEPLER_PACKAGE: Final = "kepler_node_package_joules_total"
KEPLER_DRAM: Final = "kepler_node_dram_joules_total"
KEPLER_OTHERS: Final = {
    "kepler_node_core_joules_total": NESTED,
    "kepler_node_uncore_joules_total": NESTED,
    "kepler_node_platform_joules_total": PLATFORM,
}


def _old_kepler(samples: Sequence[Sample]) -> Found:
    """Releases before 0.10: idle and dynamic parts, which add up, by package; a source but RAPL is an estimate."""
    sums: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        if sample.name in KEPLER_OTHERS:
            yield LeftOut(f"kepler {sample.name}", KEPLER_OTHERS[sample.name])
        else:
            sums.setdefault((sample.name, sample.label("package")), []).append(sample)
    for (name, package), parts in sums.items():
        component = Component.CPU if name == KEPLER_PACKAGE else Component.DRAM
        energy = _microjoules(math.fsum(part.value for part in parts), 1_000_000)
        if energy is None or any(part.value < 0 for part in parts):
            yield LeftOut(f"kepler {name}", f"it counts {[part.value for part in parts]}")
            continue
        measured = all("rapl" in part.label("source") for part in parts)
        series = _rapl("kepler", component, "", package, energy, whole=not package.isdigit())
        yield series if measured else _estimated(series)


def _estimated(series: Series) -> Series:
    return Series(
        f"{series.device_id} estimate", series.component, series.covers, series.energy_microjoules,
        method=Method.MODELLED,
    )  # fmt: skip


SCAPH_SOCKET: Final = "scaph_socket_energy_microjoules"
SCAPH_DOMAIN: Final = "scaph_domain_energy_microjoules"
SCAPH_HOST: Final = "scaph_host_energy_microjoules"


def _scaphandre(samples: Sequence[Sample]) -> Found:
    """Sockets and the memory of each; in old releases as gauges, that count none the less."""
    for sample in samples:
        socket, domain = sample.label("socket_id"), sample.label("domain_name")
        energy = _microjoules(sample.value, 1)
        if sample.name == SCAPH_HOST:
            yield LeftOut("scaphandre host", "the sum of its sockets and memory, or the platform: not one device")
        elif not socket.isdigit() or energy is None:
            yield LeftOut(f"scaphandre {domain or 'socket'} {socket}", f"it counts {sample.value}")
        elif sample.name == SCAPH_SOCKET:
            yield _rapl("scaphandre", Component.CPU, f"intel-rapl:{socket}", socket, energy)
        elif domain.startswith("dram"):
            zone = f"intel-rapl:{socket}:{sample.label('domain_id')}"
            yield _rapl("scaphandre", Component.DRAM, zone, socket, energy)
        else:
            yield LeftOut(f"scaphandre {domain} {socket}", NESTED)


NODE_PACKAGE: Final = "node_rapl_package_joules_total"
NODE_DRAM: Final = "node_rapl_dram_joules_total"
NODE_OTHERS: Final = {
    "node_rapl_core_joules_total": NESTED,
    "node_rapl_uncore_joules_total": NESTED,
    "node_rapl_psys_joules_total": PLATFORM,
}


def _node_exporter(samples: Sequence[Sample]) -> Found:
    """RAPL zones by path (old releases: by index only); a package's index is its number."""
    packages = [s for s in samples if s.name == NODE_PACKAGE]
    numbers = _package_numbers((s.label("path"), s.label("index")) for s in packages)
    for sample in samples:
        path, index = sample.label("path"), sample.label("index")
        energy = _microjoules(sample.value, 1_000_000)
        if sample.name in NODE_OTHERS:
            yield LeftOut(f"node_exporter {sample.name}", NODE_OTHERS[sample.name])
        elif "mmio" in path:
            yield LeftOut(f"node_exporter {path}", "duplicate of intel-rapl")
        elif energy is None or not index.isdigit():
            yield LeftOut(f"node_exporter {sample.name} {index}", f"it counts {sample.value}")
        else:
            component = Component.CPU if sample.name == NODE_PACKAGE else Component.DRAM
            yield _rapl("node_exporter", component, path, numbers.get(_top(path), index) or index, energy)


def _package_numbers(found: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Top zone of a path (intel-rapl:1) -> number of the package: its index where that is told, else the zone's own."""
    return {top: index or top.rpartition(":")[2] for path, index in found if (top := _top(path))}


def _top(path: str) -> str:
    """intel-rapl:1 of /sys/class/powercap/intel-rapl:1:0."""
    found = re.search(r"intel-rapl(?:-msr)?:\d+", path)
    return found[0] if found else ""


def _rapl(
    exporter: str, component: Component, path: str, package: str, energy_microjoules: int, whole: bool = False
) -> Series:
    """A package or the DRAM beside it; whole: of all packages together."""
    kind = component.value
    named = "package" if component is Component.CPU else "dram"
    number = package if not whole and package.isdigit() else ""
    return Series(
        device_id=f"{exporter}:{named}-{number}" if number else f"{exporter}:{named}",
        component=component,
        covers=f"{kind}:{int(number)}" if number else kind,
        energy_microjoules=energy_microjoules,
        zone=path.rpartition("/")[2] if number else "",
    )


EXPORTERS: Final = (
    Exporter("dcgm-exporter", (DCGM_ENERGY, DCGM_POWER), 30.0, wraps=False, find=_dcgm),
    Exporter("kepler", (KEPLER,), 5.0, wraps=False, find=_kepler),
    Exporter("kepler", (KEPLER_PACKAGE, KEPLER_DRAM, *KEPLER_OTHERS), 3.0, wraps=False, find=_old_kepler),
    Exporter("scaphandre", (SCAPH_SOCKET, SCAPH_DOMAIN, SCAPH_HOST), 2.0, wraps=True, find=_scaphandre),
    Exporter("node_exporter", (NODE_PACKAGE, NODE_DRAM, *NODE_OTHERS), 0.0, wraps=True, find=_node_exporter),
)
"""In the order in which a page is tried. Steps: dcgm-exporter --collect-interval 30000; Kepler monitor.interval 5s,
before 0.10 SAMPLE_PERIOD_SEC 3; Scaphandre reads again when its look is older than 2 s; node_exporter when asked."""

WANTED: Final[Mapping[str, None]] = dict.fromkeys(name for exporter in EXPORTERS for name in exporter.names)
"""Every name that is read from a page."""
