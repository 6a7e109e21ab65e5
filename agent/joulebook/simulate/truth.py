"""What the simulated devices truly drew: truth.json, and the joules over a span."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from joulebook.errors import BadInput
from joulebook.simulate.curve import Curve, parse_curve

FILE: Final = "truth.json"


@dataclass(frozen=True, slots=True)
class Source:
    """One simulated device: the sum of its curves, from t0_ns (CLOCK_BOOTTIME) on.

    overlaps: it contains or repeats other devices (psys), so its joules are never added to theirs.
    """

    device_id: str
    t0_ns: int
    curves: tuple[Curve, ...]
    overlaps: bool = False

    def joules(self, at_ns: int) -> float:
        """Energy from t0 to an instant, in J; 0 before t0."""
        seconds = max(0, at_ns - self.t0_ns) / 1e9
        return sum(curve.joules(seconds) for curve in self.curves)

    def watts(self, at_ns: int) -> float:
        """Power at an instant, in W."""
        return sum(curve.watts(max(0, at_ns - self.t0_ns) / 1e9) for curve in self.curves)


def write_truth(directory: Path, kind: str, sources: Sequence[Source]) -> None:
    """Record the sources of one kind of sensor (powercap, nvml) beside those of the other."""
    path = directory / FILE
    kinds = json.loads(path.read_text()) if path.exists() else {}
    kinds[kind] = [
        {"device_id": s.device_id, "t0_ns": s.t0_ns, "curves": [str(c) for c in s.curves], "overlaps": s.overlaps}
        for s in sources
    ]
    path.write_text(json.dumps(kinds, indent=1) + "\n")


def read_truth(directory: Path) -> list[Source]:
    """Every simulated device of a directory. Raises BadInput where nothing is simulated."""
    try:
        kinds: Mapping[str, list[dict[str, object]]] = json.loads((directory / FILE).read_text())
        return [_source(entry) for entries in kinds.values() for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{directory / FILE} cannot be read: {error}", "name a directory that joulebook simulate made"
        ) from error


def truth(directory: Path | str, from_ns: int, to_ns: int, *, overlapping: bool = False) -> dict[str, float]:
    """device_id -> joules drawn over [from_ns, to_ns), CLOCK_BOOTTIME ns, with the ids that the meters report.

    overlapping: the devices that contain or repeat others (psys) instead.  Raises BadInput.
    """
    if to_ns < from_ns:
        raise BadInput(f"the span ends at {to_ns} ns, before its start at {from_ns} ns", "give to after from")
    sources = [source for source in read_truth(Path(directory)) if source.overlaps == overlapping]
    return {source.device_id: source.joules(to_ns) - source.joules(from_ns) for source in sources}


def _source(entry: Mapping[str, object]) -> Source:
    curves = entry["curves"]
    if not isinstance(curves, list):
        raise TypeError("curves is no list")
    return Source(
        str(entry["device_id"]),
        int(str(entry["t0_ns"])),
        tuple(parse_curve(str(curve)) for curve in curves),
        bool(entry["overlaps"]),
    )
