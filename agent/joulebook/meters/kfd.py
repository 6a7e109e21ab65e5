"""Who computes on AMD GPUs, from the compute driver's part of /sys (class/kfd/kfd).

topology/nodes/N/{gpu_id,properties} names each GPU and its PCI address; proc/PID/vram_<gpu_id> holds the bytes
that a process has there, proc/PID/stats_<gpu_id>/cu_occupancy the compute units that its waves occupy at the
instant of the read. Source: drivers/gpu/drm/amd/amdkfd/{kfd_topology,kfd_process}.c in Linux. The driver lists
every GPU under every process, so only memory tells that it uses one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from joulebook.meters.sysfs import number_of

XGMI: Final = 11
"""Type of a link between GPUs, and between the dies of one package (kfd_crat.h)."""

INSTANT_NOTE: Final = "who uses it: compute units occupied at an instant, not over time"


@dataclass(frozen=True, slots=True)
class Node:
    """One GPU of the topology, or one partition of it. compute_units: 0 when not told.

    links: node number of a peer -> bandwidth of the XGMI link to it, MB/s.
    """

    number: int
    gpu_id: int
    pci: str
    compute_units: int
    links: Mapping[int, int]


class Kfd:
    """The compute driver's topology, read once, and its processes, read when asked for."""

    def __init__(self, base: Path) -> None:
        self._processes = base / "proc"
        self.nodes = [node for place in _numbered(base / "topology" / "nodes") if (node := _node(place)) is not None]
        self._units: dict[str, int] = defaultdict(int)
        for node in self.nodes:
            self._units[node.pci] += node.compute_units

    def users(self) -> dict[str, dict[int, float | None]]:
        """PCI address -> pid -> fraction of the GPU's compute units that it occupies now.

        None for all users of a GPU where the driver does not say, or where nobody computes at this instant.
        """
        occupied: dict[str, dict[int, float | None]] = defaultdict(dict)
        for process in _numbered(self._processes):
            place, pid = str(process), int(process.name)
            for node in self.nodes:
                if number_of(f"{place}/vram_{node.gpu_id}"):
                    part = self._fraction(place, node)
                    before = occupied[node.pci].get(pid, 0.0)
                    occupied[node.pci][pid] = None if part is None or before is None else before + part
        return {pci: _told(pids) for pci, pids in occupied.items()}

    def _fraction(self, place: str, node: Node) -> float | None:
        units = self._units[node.pci]
        busy = number_of(f"{place}/stats_{node.gpu_id}/cu_occupancy")
        return min(1.0, busy / units) if busy is not None and units else None

    def package_of(self, pci: str) -> str | None:
        """PCI address of the other die of a package: the peer on the widest link, None where no link is the widest.

        The dies of an MI250 share four links, GPUs of different packages one or two.
        """
        by_number = {node.number: node for node in self.nodes}
        own = next((node for node in self.nodes if node.pci == pci), None)
        links = {} if own is None else {n: width for n, width in own.links.items() if n in by_number}
        widest = [n for n, width in links.items() if width == max(links.values())]
        return by_number[widest[0]].pci if len(widest) == 1 else None


def _told(pids: Mapping[int, float | None]) -> dict[int, float | None]:
    known = all(part is not None for part in pids.values()) and any(pids.values())
    return dict(pids) if known else dict.fromkeys(pids)


def _node(place: Path) -> Node | None:
    """The GPU of a node's directory, None for a CPU."""
    gpu_id = number_of(place / "gpu_id")
    properties = _properties(place / "properties")
    if not gpu_id or "location_id" not in properties:
        return None
    at, domain = properties["location_id"] & 0xFFFF, properties.get("domain", 0)
    simds, per_unit = properties.get("simd_count", 0), properties.get("simd_per_cu", 0)
    links = {}
    for link in _numbered(place / "io_links"):
        peer = _properties(link / "properties")
        if peer.get("type") == XGMI and "node_to" in peer and peer.get("max_bandwidth"):
            links[peer["node_to"]] = peer["max_bandwidth"]
    pci = f"{domain & 0xFFFFFFFF:04x}:{at >> 8:02x}:{at >> 3 & 0x1F:02x}.{at & 7}"
    return Node(int(place.name), gpu_id, pci, simds // per_unit if per_unit else 0, links)


def _properties(path: Path) -> dict[str, int]:
    """Names and whole numbers of a properties file, one pair a line; empty where there is none."""
    try:
        lines = path.read_bytes().decode(errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines)
    return {words[0]: int(words[1]) for words in pairs if len(words) == 2 and words[1].isascii() and words[1].isdigit()}


def _numbered(place: Path) -> list[Path]:
    """Entries whose name is a number, in its order."""
    try:
        return sorted((p for p in place.iterdir() if p.name.isascii() and p.name.isdigit()), key=lambda p: int(p.name))
    except OSError:
        return []
