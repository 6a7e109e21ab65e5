"""Recorded readings, played in real time: for tests, demos and machines without hardware.

The file that JOULEBOOK_REPLAY names is CSV with the columns device_id, component, at_seconds and
energy_joules or power_watts; options stand in leading comment lines (docs/reference/meters.md):

    # after: loop
    # method: counter
    device_id,component,at_seconds,energy_joules
"""

from __future__ import annotations

import csv
import math
import os
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from joulebook.clock import boottime_ns
from joulebook.meters import Busy, Device, LeftOut, MeterUnavailable, Reading, Roots
from joulebook.rows import Component, Method

VARIABLE: Final = "JOULEBOOK_REPLAY"
REMEDY: Final = "see docs/reference/meters.md, Replay, for the columns and options"
OPTIONS: Final[Mapping[str, str]] = {"after": "end", "method": "", "u_common": "0.03"}
"""Options and their defaults: after end|loop; method counter|integrated|modelled, by default counter for energies and
integrated for powers; u_common, relative (0.03 is the NVML and RAPL figure of METHODS 1.6)."""


@dataclass(frozen=True, slots=True)
class Track:
    """One device's recording. at_seconds: ascending, from 0.  joules: cumulative at each, from 0."""

    device: Device
    at_seconds: tuple[float, ...]
    joules: tuple[float, ...]
    loops: bool

    def joules_at(self, seconds: float) -> float | None:
        """Joules from the start of the recording, linear between its points; None after an end that does not loop."""
        length = self.at_seconds[-1]
        if seconds > length and not self.loops:
            return None
        rounds, within = divmod(seconds, length)
        i = min(bisect_right(self.at_seconds, within), len(self.at_seconds) - 1)
        (t0, t1), (e0, e1) = self.at_seconds[i - 1 : i + 1], self.joules[i - 1 : i + 1]
        return rounds * self.joules[-1] + e0 + (e1 - e0) * (within - t0) / (t1 - t0)


class Replay:
    """A recording that plays from the moment it was opened."""

    name = "replay"

    def __init__(self, tracks: Sequence[Track]) -> None:
        self._tracks = tracks
        self._opened_ns = boottime_ns()
        self.devices: Sequence[Device] = [track.device for track in tracks]
        self.left_out: Sequence[LeftOut] = ()

    def read(self) -> Sequence[Reading]:
        """Cumulative microjoules of every device whose recording has not ended."""
        readings = []
        for track in self._tracks:
            at_ns = boottime_ns()
            joules = track.joules_at((at_ns - self._opened_ns) / 1e9)
            if joules is not None:
                readings.append(Reading(track.device.device_id, at_ns, math.floor(joules * 1e6)))
        return readings

    def busy(self) -> Mapping[str, Busy]:
        """A recording holds no processes."""
        return {}

    def close(self) -> None:
        """Nothing is held."""


def open_replay(roots: Roots) -> Replay:
    """The recording that JOULEBOOK_REPLAY names; a relative path is under the current directory.

    Raises MeterUnavailable when none is named, or the file cannot be taken.
    """
    named = os.environ.get(VARIABLE)
    if not named:
        raise MeterUnavailable("no recording is named", f"set {VARIABLE} to a CSV file; {REMEDY}")
    try:
        return Replay(read_recording(Path(named).read_text()))
    except OSError as error:
        raise MeterUnavailable(f"{named}: {error.strerror}", f"set {VARIABLE} to a file that you may read") from error
    except (ValueError, KeyError) as error:
        raise MeterUnavailable(f"{named} is no recording: {error}", REMEDY) from error


def read_recording(text: str) -> list[Track]:
    """The tracks of a recording. Raises ValueError or KeyError with what is wrong."""
    lines = text.splitlines()
    options = _options([line for line in lines if line.startswith("#")])
    rows: dict[str, list[dict[str, str]]] = {}
    for row in csv.DictReader(line for line in lines if line.strip() and not line.startswith("#")):
        rows.setdefault(row["device_id"], []).append(row)
    if not rows:
        raise ValueError("it has no rows")
    return [_track(device_id, points, options) for device_id, points in rows.items()]


def _options(comments: Sequence[str]) -> dict[str, str]:
    options = dict(OPTIONS)
    for comment in comments:
        name, colon, value = comment.lstrip("# ").partition(":")
        if colon and name.strip() in options:
            options[name.strip()] = value.strip()
    if options["after"] not in ("end", "loop"):
        raise ValueError(f"option after is {options['after']!r}, not end or loop")
    return options


def _track(device_id: str, rows: Sequence[Mapping[str, str]], options: Mapping[str, str]) -> Track:
    seconds = [_number(row, "at_seconds") for row in rows]
    if len(rows) < 2 or any(b <= a for a, b in pairwise(seconds)):
        raise ValueError(f"{device_id} needs two or more rows with at_seconds ascending")
    counted = bool(rows[0].get("energy_joules"))
    joules = _counted(rows) if counted else _integrated(seconds, rows)
    if any(b < a for a, b in pairwise(joules)):
        raise ValueError(f"the energy of {device_id} falls")
    device = Device(
        device_id=device_id,
        component=Component(rows[0]["component"]),
        method=Method(options["method"] or ("counter" if counted else "integrated")),
        u_common=float(options["u_common"]),
        u_common_key=f"replay:{device_id}",
        note="replayed recording",
    )
    return Track(device, tuple(s - seconds[0] for s in seconds), tuple(joules), loops=options["after"] == "loop")


def _counted(rows: Sequence[Mapping[str, str]]) -> list[float]:
    energies = [_number(row, "energy_joules") for row in rows]
    return [energy - energies[0] for energy in energies]


def _integrated(seconds: Sequence[float], rows: Sequence[Mapping[str, str]]) -> list[float]:
    """Cumulative energy of instantaneous powers by the trapezoid rule (METHODS 1.3)."""
    joules = [0.0]
    points = list(zip(seconds, [_number(row, "power_watts") for row in rows], strict=True))
    for (t0, p0), (t1, p1) in pairwise(points):
        joules.append(joules[-1] + (p0 + p1) / 2 * (t1 - t0))
    return joules


def _number(row: Mapping[str, str], column: str) -> float:
    value = float(row[column])
    if not 0 <= value < math.inf:
        raise ValueError(f"{column} is {value}, not 0 or more")
    return value
