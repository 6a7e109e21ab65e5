"""The RAPL zones of the kernel's powercap tree, and which of them may be summed (METHODS 1.2).

Admissible is all package-* and all dram below them; psys contains them, core and uncore lie inside them,
intel-rapl-mmio shows the same packages again, and dies may repeat their socket's counter.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from joulebook.meters import LeftOut, Roots
from joulebook.rows import Component

PACKAGE: Final = re.compile(r"package-(\d{1,4})(?:-die-(\d{1,4}))?")
PLATFORM: Final = "psys"
READER_SOCKET: Final = "/run/joulebook/rapl.sock"
MOST_COUNT: Final = 2**63 - 1
"""Larger numbers are no energy count: the ledger holds signed 64 bits."""


@dataclass(frozen=True, slots=True)
class Zone:
    """One domain of the tree. path: names from the package down, such as package-0/dram.

    range_microjoules: where its counter returns to zero, None when the tree does not say.
    directory: where its files are, None when only the reader can see it.
    """

    zone_id: str
    path: str
    name: str
    range_microjoules: int | None = None
    directory: Path | None = None

    @property
    def control(self) -> str:
        """intel-rapl or intel-rapl-mmio."""
        return self.zone_id.partition(":")[0]

    @property
    def component(self) -> Component | None:
        """What it measures, None for what lies within a package and for names that no kernel gives."""
        if PACKAGE.fullmatch(self.path):
            return Component.CPU
        package, _, rest = self.path.partition("/")
        if rest == "dram" and PACKAGE.fullmatch(package):
            return Component.DRAM
        return Component.NODE if self.path == PLATFORM else None


def find_zones(roots: Roots) -> list[Zone]:
    """Every RAPL zone under the tree, in the order of ``arranged``."""
    base = roots.sys / "class" / "powercap"
    found = {entry.name: entry for entry in base.glob("intel-rapl*:*")}
    names = {zone_id: text(entry / "name") for zone_id, entry in found.items()}
    return arranged(names, {zone_id: number(entry / "max_energy_range_uj") for zone_id, entry in found.items()}, found)


def arranged(
    names: Mapping[str, str], ranges: Mapping[str, int | None], directories: Mapping[str, Path] | None = None
) -> list[Zone]:
    """Zones from their ids (intel-rapl:0:1), names and ranges; those of the MSR before their mmio duplicates."""
    zones = []
    for zone_id, name in names.items():
        control, *numbers = zone_id.split(":")
        ids = [":".join([control, *numbers[: depth + 1]]) for depth in range(len(numbers))]
        path = "/".join(names.get(one, one) for one in ids)
        zones.append(Zone(zone_id, path, name, ranges.get(zone_id), (directories or {}).get(zone_id)))
    return sorted(zones, key=lambda zone: (zone.control != "intel-rapl", zone.path, zone.zone_id))


def admissible(zones: Sequence[Zone]) -> tuple[list[Zone], list[LeftOut]]:
    """The zones that may be read, psys last, and those left out with the reason. zones: as ``arranged``.

    psys is no part of the sum: it is the parent of the others.
    """
    kept: dict[str, Zone] = {}
    left_out = []
    for zone in zones:
        what = f"{zone.control} {shown(zone.path)}"
        if zone.component is None:
            left_out.append(LeftOut(what, _why_not(zone)))
        elif zone.path in kept:
            left_out.append(LeftOut(what, f"duplicate of {kept[zone.path].control}"))
        else:
            kept[zone.path] = zone
    return sorted(kept.values(), key=lambda zone: zone.component is Component.NODE), left_out


def _why_not(zone: Zone) -> str:
    if zone.name.startswith(PLATFORM):
        return "a further platform counter: whether it repeats the first is not known"
    if zone.name in ("core", "uncore") or PACKAGE.match(zone.path):
        return "lies inside its package: summing both would count it twice"
    return "no domain that this version knows"


def mirrors(counts: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """Which counters repeat another's: id -> the one it repeats. counts: id -> its counts at the same looks.

    Mirrored means equal absolute counts at most looks while they move: an update may fall between
    two reads of one look.  Equal increments prove nothing, since two idle sockets look alike.
    """
    found: dict[str, str] = {}
    for one, series in counts.items():
        others = [other for other in counts if other not in found]
        for other in others[: others.index(one)] if len(set(series)) > 1 else ():
            if 2 * sum(x == y for x, y in zip(counts[other], series, strict=True)) > len(series):
                found[one] = other
                break
    return found


def covers(zone: Zone, zones: Sequence[Zone]) -> str:
    """The physical thing, named as every meter names it: cpu:0, dram:0, node; cpu:0-die-1 for one of several dies."""
    if zone.component is Component.NODE:
        return "node"
    package = zone.path.partition("/")[0]
    match = PACKAGE.fullmatch(package)
    assert match is not None
    same = {other.path.partition("/")[0] for other in zones if other.path.startswith(f"package-{match[1]}-die-")}
    component = "cpu" if zone.component is Component.CPU else "dram"
    return f"{component}:{match[1]}" if len(same) < 2 else f"{component}:{match[1]}-die-{match[2]}"


def count(content: bytes, most: int) -> int:
    """The number of a counter's file: digits to the first newline, at most ``most``. Raises ValueError.

    Without its newline the number may be cut short, and a count cut short is a wrong one.
    """
    digits, newline, _ = content.partition(b"\n")
    if not newline or not digits.isdigit():
        raise ValueError(f"{content[:20]!r}")
    value = int(digits)
    if value > most:
        raise ValueError(f"{value} is above the counter's range of {most}")
    return value


def socket_path() -> str:
    """Where the privileged reader listens: JOULEBOOK_RAPL_SOCKET, else its default."""
    return os.environ.get("JOULEBOOK_RAPL_SOCKET") or READER_SOCKET


def text(path: Path) -> str:
    """A short text of the tree, "" when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(64).strip().decode("ascii", "replace")
    except OSError:
        return ""


def number(path: Path) -> int | None:
    """A whole number above 0 in a file of the tree, None when there is none."""
    digits = text(path)
    value = int(digits) if digits.isascii() and digits.isdigit() else 0
    return value if 0 < value <= MOST_COUNT else None


def shown(name: str) -> str:
    """A name from the tree, made safe for one line of a report."""
    return "".join(c if c.isprintable() else "?" for c in name)[:80]
