"""Simulated exporters: pages as dcgm-exporter, Kepler, Scaphandre and node_exporter write them, along power curves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from joulebook.clock import boottime_ns
from joulebook.errors import BadInput
from joulebook.meters.prometheus import POLL, STEP, URL
from joulebook.simulate.curve import Curve, parse_curve
from joulebook.simulate.server import PageServer
from joulebook.simulate.truth import Source, write_truth
from joulebook.units import NS_PER_SECOND

FAULTS: Final = "exporter.faults"
PAGE: Final = "/metrics"
START_JOULES: Final = 12345.678901
"""Where every counter stands when its curve begins: exporters run before anyone reads them."""
DRAM_FACTOR: Final = 0.15
NESTED_FACTOR: Final = 0.5
"""DRAM and core beside and inside a package, as in the simulated powercap tree: invented."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the exporter saw when it last looked. joules: of each device, by the meter's device_id.  watts: likewise."""

    joules: Mapping[str, float]
    watts: Mapping[str, float]
    slices: int


def gpu_uuid(n: int) -> str:
    """The UUID of the n-th simulated GPU, the same as ``joulebook simulate nvml`` gives."""
    return f"GPU-{n:08x}-51a0-4000-8000-000000000000"


def _dcgm(look: Look, *, energy: bool = True) -> Iterator[str]:
    for n, uuid in enumerate(look.joules):
        for part in range(max(1, look.slices)):
            labels = f'gpu="{n}",UUID="{uuid}",pci_bus_id="00000000:{0xC1 + n:02X}:00.0",device="nvidia{n}"'
            labels += ',modelName="Simulated H100"'
            if look.slices:
                labels += f',GPU_I_PROFILE="1g.10gb",GPU_I_ID="{part + 7}"'
            labels += ',Hostname="node-1"'
            if energy:
                yield f"DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{{labels}}} {int(look.joules[uuid] * 1000)}"
            yield f"DCGM_FI_DEV_POWER_USAGE{{{labels}}} {look.watts[uuid]:.3f}"


def _dcgm_power(look: Look) -> Iterator[str]:
    yield from _dcgm(look, energy=False)


def _numbers(look: Look) -> list[str]:
    return [name.rpartition("-")[2] for name in look.joules if ":package-" in name]


def _kepler(look: Look) -> Iterator[str]:
    numbers = _numbers(look)
    for zone in ("package", "dram"):
        for n in numbers:
            path = f"/host/sys/class/powercap/intel-rapl/intel-rapl:{n}" + (
                f"/intel-rapl:{n}:1" if zone == "dram" else ""
            )
            labels = f'node_name="node-1",path="{path}",zone="{zone}"'
            yield f"kepler_node_cpu_joules_total{{{labels}}} {look.joules[f'kepler:{zone}-{n}']!r}"
    for n in numbers:
        joules = look.joules[f"kepler:package-{n}"] * NESTED_FACTOR
        yield f'kepler_node_cpu_joules_total{{node_name="node-1",path="intel-rapl:{n}:0",zone="core"}} {joules!r}'


def _kepler_aggregated(look: Look) -> Iterator[str]:
    for zone in ("package", "dram"):
        labels = f'node_name="node-1",path="aggregated-{zone}",zone="{zone}"'
        yield f"kepler_node_cpu_joules_total{{{labels}}} {look.joules[f'kepler:{zone}']!r}"


def _kepler_old(look: Look) -> Iterator[str]:
    for n in _numbers(look):
        for zone in ("core", "package", "dram"):
            joules = look.joules[f"kepler:{'dram' if zone == 'dram' else 'package'}-{n}"]
            joules *= NESTED_FACTOR if zone == "core" else 1
            for mode, part in (("dynamic", 0.75), ("idle", 0.25)):
                labels = f'instance="node-1",mode="{mode}",package="{n}",source="rapl-sysfs"'
                yield f"kepler_node_{zone}_joules_total{{{labels}}} {joules * part!r}"


def _scaphandre(look: Look) -> Iterator[str]:
    yield f"scaph_host_energy_microjoules {int(sum(look.joules.values()) * 1e6)}"
    for n in _numbers(look):
        package = int(look.joules[f"scaphandre:package-{n}"] * 1e6)
        dram = int(look.joules[f"scaphandre:dram-{n}"] * 1e6)
        yield f'scaph_socket_energy_microjoules{{socket_id="{n}"}} {package}'
        yield f'scaph_domain_energy_microjoules{{domain_id="0",domain_name="core",socket_id="{n}"}} {package // 2}'
        yield f'scaph_domain_energy_microjoules{{domain_name="dram",socket_id="{n}",domain_id="1"}} {dram}'


def _node_exporter(look: Look) -> Iterator[str]:
    yield 'node_cpu_seconds_total{cpu="0",mode="idle"} 3.7e+06'
    for n in _numbers(look):
        package, dram = look.joules[f"node_exporter:package-{n}"], look.joules[f"node_exporter:dram-{n}"]
        base = f"/sys/class/powercap/intel-rapl:{n}"
        yield f'node_rapl_core_joules_total{{index="{n}",path="{base}:0"}} {package * NESTED_FACTOR:.6f}'
        yield f'node_rapl_dram_joules_total{{index="{n}",path="{base}:1"}} {dram:.6f}'
        yield f'node_rapl_package_joules_total{{index="{n}",path="{base}"}} {package:.6f}'
        again = base.replace("intel-rapl", "intel-rapl-mmio")
        yield f'node_rapl_package_joules_total{{index="{n}",path="{again}"}} {package:.6f}'


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of page. prefix: of its device ids, "" for GPUs.  each: whether packages are told apart."""

    write: Callable[[Look], Iterator[str]]
    prefix: str = ""
    each: bool = True
    step_seconds: float = 0.0


KINDS: Final[Mapping[str, Kind]] = {
    "dcgm": Kind(_dcgm, step_seconds=30.0),
    "dcgm-power": Kind(_dcgm_power, step_seconds=30.0),
    "kepler": Kind(_kepler, "kepler", step_seconds=5.0),
    "kepler-aggregated": Kind(_kepler_aggregated, "kepler", each=False, step_seconds=5.0),
    "kepler-old": Kind(_kepler_old, "kepler", step_seconds=3.0),
    "scaphandre": Kind(_scaphandre, "scaphandre", step_seconds=2.0),
    "node_exporter": Kind(_node_exporter, "node_exporter"),
}


def sources_of(kind: str, curves: Sequence[Curve], t0_ns: int) -> list[Source]:
    """The devices of a page, by the meter's ids: a GPU, or a package with DRAM, for each curve."""
    known = KINDS[kind]
    if not known.prefix:
        return [Source(gpu_uuid(n), t0_ns, (curve,)) for n, curve in enumerate(curves)]
    drams = [curve.scaled(DRAM_FACTOR) for curve in curves]
    if not known.each:
        return [
            Source(f"{known.prefix}:package", t0_ns, tuple(curves)),
            Source(f"{known.prefix}:dram", t0_ns, tuple(drams)),
        ]
    return [
        Source(f"{known.prefix}:{zone}-{n}", t0_ns, (curve,))
        for zone, of_zone in (("package", curves), ("dram", drams))
        for n, curve in enumerate(of_zone)
    ]


class Exporter:
    """The exporter. step_seconds: how often it looks, None for its kind's own.  slices: of each GPU (MIG)."""

    def __init__(
        self, directory: Path, kind: str, curves: Sequence[Curve], *, step_seconds: float | None = None,
        slices: int = 0, port: int = 0, t0_ns: int | None = None,
    ) -> None:  # fmt: skip
        if kind not in KINDS:
            raise BadInput(f"there is no exporter {kind!r}", f"name one of: {', '.join(KINDS)}")
        began_ns = boottime_ns() if t0_ns is None else t0_ns
        self.sources = sources_of(kind, curves, began_ns)
        self._kind, self._slices, self._began_ns = KINDS[kind], slices, began_ns
        step = self._kind.step_seconds if step_seconds is None else step_seconds
        self._step_ns = round(step * NS_PER_SECOND)
        write_truth(directory, "exporter", self.sources)
        self.server = PageServer(self._respond, directory / FAULTS, port=port)
        self.url = f"{self.server.url}{PAGE}"

    def page(self, at_ns: int) -> str:
        """The page as it stands at an instant."""
        if self._step_ns:
            at_ns -= (at_ns - self._began_ns) % self._step_ns
        joules = {source.device_id: START_JOULES + source.joules(at_ns) for source in self.sources}
        watts = {source.device_id: source.watts(at_ns) for source in self.sources}
        lines = list(self._kind.write(Look(joules, watts, self._slices)))
        return "\n".join(["# HELP joulebook_simulated a page", *lines]) + "\n"

    def _respond(self, path: str, faults: Mapping[str, str]) -> tuple[str, str] | None:
        if path != PAGE:
            return None
        return "text/plain; version=0.0.4", self.page(boottime_ns())

    def close(self) -> None:
        """Stop serving."""
        self.server.close()


class Stand:
    """A page of dcgm-exporter with two GPUs in MIG slices, which looks ten times a second."""

    def __init__(self, root: Path, began_ns: int) -> None:
        curves = [parse_curve("constant:100"), parse_curve("constant:80")]
        self._exporter = Exporter(root, "dcgm", curves, step_seconds=0.1, slices=7, t0_ns=began_ns)
        self.environ: Mapping[str, str] = {URL: self._exporter.url, POLL: "0.1", STEP: "0.1"}

    def move(self, now_ns: int) -> None:
        """It computes when asked."""

    def joules(self, from_ns: int, to_ns: int) -> dict[str, float]:
        """What the GPUs drew."""
        sources = self._exporter.sources
        return {source.device_id: source.joules(to_ns) - source.joules(from_ns) for source in sources}

    def close(self) -> None:
        """Stop serving."""
        self._exporter.close()


def stand(root: Path, began_ns: int) -> Stand:
    """An exporter on loopback."""
    return Stand(root, began_ns)
