"""A powercap tree like the kernel's, whose counters follow power curves.

DIR/class/powercap holds symbolic links to DIR/devices/virtual/powercap/..., as in /sys, so
JOULEBOOK_SYS_ROOT=DIR makes the RAPL meter read it.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from joulebook.clock import boottime_ns
from joulebook.errors import BadInput
from joulebook.simulate.curve import Curve, parse_curve
from joulebook.simulate.moving import claim
from joulebook.simulate.truth import Source, write_truth

RANGE_MICROJOULES: Final = 262_143_328_850
"""Range of a 32-bit counter of 2**-14 J, as the kernel shows it on many servers."""
PSYS_FACTOR: Final = 1.1
PSYS_WATTS: Final = 20.0
"""The platform draws a tenth more than its packages and DRAM, and 20 W beside them: invented, to be no sum of them."""
DRAM_FACTOR: Final = 0.15
"""DRAM follows its package at 15 % of the power: invented."""
LIMIT_FACTOR: Final = 1.25
"""Power limit of a package, over the highest power of its curve: invented."""


@dataclass(frozen=True, slots=True)
class Domain:
    """One directory of the tree. zone: its name in the class, such as intel-rapl:0:1.

    away_ns: the span of CLOCK_BOOTTIME over which the zone is not there, as while its module is loaded anew; its
    counter goes on meanwhile.
    """

    zone: str
    name: str
    source: Source
    limit_watts: float = 0.0
    away_ns: tuple[int, int] | None = None


def domains(
    curves: Sequence[Curve],
    t0_ns: int,
    *,
    dram: bool = True,
    psys: bool = False,
    psys_factor: float = PSYS_FACTOR,
    mmio: bool = False,
    dies: bool = False,
) -> list[Domain]:
    """The domains of a machine with one package per curve. core lies inside every package at half its power.

    psys_factor: the platform's power over that of packages and DRAM, PSYS_WATTS apart; well below 1 it contradicts
    them.  dies: every package as two dies that both show its whole counter.
    """
    made = []
    for n, curve in enumerate(curves):
        name = f"package-{n}-die-0" if dies else f"package-{n}"
        package = Source(f"rapl:{name}", t0_ns, (curve,))
        most = LIMIT_FACTOR * max(curve.numbers[:2] if curve.kind != "constant" else curve.numbers[:1])
        made.append(Domain(f"intel-rapl:{n}", name, package, most))
        core = Source(f"rapl:{name}/core", t0_ns, (curve.scaled(0.5),), overlaps=True)
        made.append(Domain(f"intel-rapl:{n}:0", "core", core))
        if dram:
            memory = Source(f"rapl:{name}/dram", t0_ns, (curve.scaled(DRAM_FACTOR),))
            made.append(Domain(f"intel-rapl:{n}:1", "dram", memory))
        if mmio:
            again = Source(f"rapl-mmio:{name}", t0_ns, (curve,), overlaps=True)
            made.append(Domain(f"intel-rapl-mmio:{n}", name, again, most))
        if dies:
            other = Source(f"rapl:package-{n}-die-1", t0_ns, (curve,), overlaps=True)
            made.append(Domain(f"intel-rapl:{len(curves) + n}", f"package-{n}-die-1", other, most))
    if psys:
        parts = [c.scaled(psys_factor) for d in made if not d.source.overlaps for c in d.source.curves]
        whole = Source("rapl:psys", t0_ns, (*parts, parse_curve(f"constant:{PSYS_WATTS}")), overlaps=True)
        made.append(Domain(f"intel-rapl:{len(curves) * (2 if dies else 1)}", "psys", whole))
    return made


class Zone:
    """One domain on disk: its directory, there or away, and its open counter."""

    def __init__(self, directory: Path, domain: Domain, range_microjoules: int, start: int) -> None:
        self._directory = directory
        self._domain = domain
        self._range = range_microjoules
        self._start = start
        self._fd: int | None = None

    def tick(self, at_ns: int) -> None:
        """Show the counter as it stands at a CLOCK_BOOTTIME instant, or let the zone be away."""
        away = self._domain.away_ns
        if away is not None and away[0] <= at_ns < away[1]:
            self._vanish()
            return
        if self._fd is None:
            at = _make(self._directory, self._domain, self._range)
            self._fd = os.open(at / "energy_uj", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        text = b"%d\n" % ((self._start + int(self._domain.source.joules(at_ns) * 1e6)) % self._range)
        # Shorter only after a wrap; until the cut, readers see what follows the first newline as stale bytes.
        os.pwrite(self._fd, text, 0)
        os.ftruncate(self._fd, len(text))

    def close(self) -> None:
        """Close the file; it stays, its counter still."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _vanish(self) -> None:
        """Empty the counter for whoever holds it open, as a read of a gone zone fails, and take the zone away."""
        if self._fd is None:
            return
        os.ftruncate(self._fd, 0)
        self.close()
        (self._directory / "class" / "powercap" / self._domain.zone).unlink()
        for file in _place(self._directory, self._domain.zone).iterdir():
            if file.is_file():
                file.unlink()


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
        claim(directory)
        for place in (directory / "class" / "powercap", directory / "devices" / "virtual" / "powercap"):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
        self._zones = [
            Zone(directory, domain, range_microjoules, self._start(domain.source, wraps_after_seconds))
            for domain in machine
        ]
        self.tick(boottime_ns())
        write_truth(directory, "powercap", [domain.source for domain in machine])

    def tick(self, at_ns: int) -> None:
        """Show every counter as it stands at a CLOCK_BOOTTIME instant."""
        for zone in self._zones:
            zone.tick(at_ns)

    def close(self) -> None:
        """Close the files; the tree stays, its counters still."""
        for zone in self._zones:
            zone.close()
        self._zones = []

    def _start(self, source: Source, wraps_after_seconds: float | None) -> int:
        """Where a counter begins: somewhere of its own, or so that it wraps that many seconds after t0."""
        if wraps_after_seconds is None:
            # Mirrors are meant to be equal: the same name gives the same start.
            name = source.device_id.removeprefix("rapl-mmio").removeprefix("rapl").replace("-die-1", "-die-0")
            return 1_000_000_007 * (1 + sum(name.encode())) % (self._range // 2)
        until = source.t0_ns + int(wraps_after_seconds * 1e9)
        return (self._range - int(source.joules(until) * 1e6)) % self._range


def parse_away(text: str) -> tuple[str, float, float]:
    """ZONE=FROM,TO. Raises BadInput."""
    zone, _, span = text.partition("=")
    try:
        start, end = (float(word) for word in span.split(","))
    except ValueError:
        start, end = 0.0, -1.0
    if not 0 <= start < end < math.inf:
        raise BadInput(f"--away {text!r} names no span", "give ZONE=FROM,TO in seconds, such as intel-rapl:1=10,15")
    return zone, start, end


def taken_away(machine: Sequence[Domain], t0_ns: int, spans: Sequence[tuple[str, float, float]]) -> list[Domain]:
    """The machine with zones that are away for a while. spans: (zone, from, to), in seconds after t0_ns.

    Raises BadInput on a zone that the machine does not have.
    """
    away = {zone: (t0_ns + int(start * 1e9), t0_ns + int(end * 1e9)) for zone, start, end in spans}
    unknown = sorted(away.keys() - {domain.zone for domain in machine})
    if unknown:
        raise BadInput(f"there is no zone {unknown[0]}", f"name one of {', '.join(d.zone for d in machine)}")
    return [replace(domain, away_ns=away.get(domain.zone)) for domain in machine]


def _make(directory: Path, domain: Domain, range_microjoules: int) -> Path:
    """The directory of a domain with its still files, linked from the class."""
    at = _place(directory, domain.zone)
    at.mkdir(parents=True, exist_ok=True)
    _write(at, {"name": domain.name, "enabled": "1", "max_energy_range_uj": str(range_microjoules)})
    if domain.limit_watts:
        limit = str(int(domain.limit_watts * 1e6))
        for n, name in enumerate(("long_term", "short_term")):
            _write(at, {f"constraint_{n}_name": name, f"constraint_{n}_power_limit_uw": limit})
            _write(at, {f"constraint_{n}_max_power_uw": limit})
    (directory / "class" / "powercap" / domain.zone).symlink_to(at.absolute())
    return at


def _place(directory: Path, zone: str) -> Path:
    return directory / "devices" / "virtual" / "powercap" / Path(*_nested(zone))


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
