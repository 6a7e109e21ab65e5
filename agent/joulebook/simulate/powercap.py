"""A powercap tree like the kernel's, whose counters follow power curves.

DIR/class/powercap holds symbolic links to DIR/devices/virtual/powercap/..., as in /sys, so
JOULEBOOK_SYS_ROOT=DIR makes the RAPL meter read it.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from joulebook.clock import boottime_ns
from joulebook.errors import BadInput
from joulebook.simulate.curve import Curve, parse_curve
from joulebook.simulate.truth import FILE, Source, write_truth

RANGE_MICROJOULES: Final = 262_143_328_850
"""Range of a 32-bit counter of 2**-14 J, as the kernel shows it on many servers."""
RATE_HZ: Final = 200
PSYS_FACTOR: Final = 1.1
PSYS_WATTS: Final = 20.0
"""The platform draws a tenth more than its packages and DRAM, and 20 W beside them: invented, to be no sum of them."""
DRAM_FACTOR: Final = 0.15
"""DRAM follows its package at 15 % of the power: invented."""
LIMIT_FACTOR: Final = 1.25
"""Power limit of a package, over the highest power of its curve: invented."""


@dataclass(frozen=True, slots=True)
class Domain:
    """One directory of the tree. zone: its name in the class, such as intel-rapl:0:1."""

    zone: str
    name: str
    source: Source
    limit_watts: float = 0.0


def domains(
    curves: Sequence[Curve], t0_ns: int, *, dram: bool = True, psys: bool = False, mmio: bool = False
) -> list[Domain]:
    """The domains of a machine with one package per curve. core lies inside every package at half its power."""
    made = []
    for n, curve in enumerate(curves):
        package = Source(f"rapl:package-{n}", t0_ns, (curve,))
        most = LIMIT_FACTOR * max(curve.numbers[:2] if curve.kind != "constant" else curve.numbers[:1])
        made.append(Domain(f"intel-rapl:{n}", f"package-{n}", package, most))
        core = Source(f"rapl:package-{n}/core", t0_ns, (curve.scaled(0.5),), overlaps=True)
        made.append(Domain(f"intel-rapl:{n}:0", "core", core))
        if dram:
            memory = Source(f"rapl:package-{n}/dram", t0_ns, (curve.scaled(DRAM_FACTOR),))
            made.append(Domain(f"intel-rapl:{n}:1", "dram", memory))
        if mmio:
            again = Source(f"rapl-mmio:package-{n}", t0_ns, (curve,), overlaps=True)
            made.append(Domain(f"intel-rapl-mmio:{n}", f"package-{n}", again, most))
    if psys:
        parts = [c.scaled(PSYS_FACTOR) for d in made if not d.source.overlaps for c in d.source.curves]
        whole = Source("rapl:psys", t0_ns, (*parts, parse_curve(f"constant:{PSYS_WATTS}")), overlaps=True)
        made.append(Domain(f"intel-rapl:{len(curves)}", "psys", whole))
    return made


class PowercapTree:
    """The tree on disk. ``tick`` moves every counter to an instant; whoever holds it keeps ticking."""

    def __init__(
        self,
        directory: Path,
        machine: Sequence[Domain],
        *,
        wraps_after_seconds: float | None = None,
        range_microjoules: int = RANGE_MICROJOULES,
    ) -> None:
        self._range = range_microjoules
        self._counters = []
        if (directory / "class").exists() and not (directory / FILE).exists():
            raise BadInput(f"{directory} holds a tree that was not simulated", "name a new or empty directory")
        for place in (directory / "class" / "powercap", directory / "devices" / "virtual" / "powercap"):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
        for n, domain in enumerate(machine):
            at = _make(directory, domain, range_microjoules)
            fd = os.open(at / "energy_uj", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            self._counters.append((domain.source, fd, self._start(n, domain.source, wraps_after_seconds)))
        self.tick(boottime_ns())
        write_truth(directory, "powercap", [domain.source for domain in machine])

    def tick(self, at_ns: int) -> None:
        """Write every counter as it stands at a CLOCK_BOOTTIME instant."""
        for source, fd, start in self._counters:
            text = b"%d\n" % ((start + int(source.joules(at_ns) * 1e6)) % self._range)
            # Shorter only after a wrap; until the cut, readers see what follows the first newline as stale bytes.
            os.pwrite(fd, text, 0)
            os.ftruncate(fd, len(text))

    def close(self) -> None:
        """Close the files; the tree stays, its counters still."""
        for _, fd, _ in self._counters:
            os.close(fd)
        self._counters = []

    def _start(self, n: int, source: Source, wraps_after_seconds: float | None) -> int:
        """Where a counter begins: somewhere of its own, or so that it wraps that many seconds after t0."""
        if wraps_after_seconds is None:
            # Mirrors are meant to be equal: the same name gives the same start.
            return 1_000_000_007 * (1 + sum(source.device_id.encode().removeprefix(b"rapl-mmio"))) % (self._range // 2)
        until = source.t0_ns + int(wraps_after_seconds * 1e9)
        return (self._range - int(source.joules(until) * 1e6)) % self._range


def keep_ticking(tree: PowercapTree, stop: threading.Event, seconds: float | None = None) -> None:
    """Move the counters at RATE_HZ until told to stop, or for so many seconds."""
    until = None if seconds is None else time.monotonic() + seconds
    while not stop.is_set() and (until is None or time.monotonic() < until):
        tree.tick(boottime_ns())
        stop.wait(1 / RATE_HZ)


def _make(directory: Path, domain: Domain, range_microjoules: int) -> Path:
    """The directory of a domain with its still files, linked from the class."""
    at = directory / "devices" / "virtual" / "powercap" / Path(*_nested(domain.zone))
    at.mkdir(parents=True)
    _write(at, {"name": domain.name, "enabled": "1", "max_energy_range_uj": str(range_microjoules)})
    if domain.limit_watts:
        limit = str(int(domain.limit_watts * 1e6))
        for n, name in enumerate(("long_term", "short_term")):
            _write(at, {f"constraint_{n}_name": name, f"constraint_{n}_power_limit_uw": limit})
            _write(at, {f"constraint_{n}_max_power_uw": limit})
    (directory / "class" / "powercap" / domain.zone).symlink_to(at.absolute())
    return at


def _nested(zone: str) -> Iterator[str]:
    """intel-rapl:0:1 lies at intel-rapl/intel-rapl:0/intel-rapl:0:1, as in the kernel."""
    words = zone.split(":")
    for n in range(len(words)):
        yield ":".join(words[: n + 1])


def _write(directory: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (directory / name).write_text(text + "\n")


class Stand:
    """Two packages with DRAM, for the contract tests of the meter."""

    environ: Mapping[str, str] = {}

    def __init__(self, root: Path, began_ns: int) -> None:
        (root / "sys").mkdir(parents=True, exist_ok=True)
        self._domains = domains([parse_curve("constant:100"), parse_curve("constant:80")], began_ns)
        self._tree = PowercapTree(root / "sys", self._domains)

    def move(self, now_ns: int) -> None:
        """Move the counters."""
        self._tree.tick(now_ns)

    def joules(self, from_ns: int, to_ns: int) -> dict[str, float]:
        """What the leaves drew."""
        sources = [domain.source for domain in self._domains if not domain.source.overlaps]
        return {source.device_id: source.joules(to_ns) - source.joules(from_ns) for source in sources}

    def close(self) -> None:
        """Close the files."""
        self._tree.close()


def stand(root: Path, began_ns: int) -> Stand:
    """A powercap tree under root/sys."""
    return Stand(root, began_ns)
