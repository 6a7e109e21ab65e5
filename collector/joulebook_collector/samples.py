"""Shipped sample years of hourly intensity: for what-if only, never a price.

They are read from the package and never enter a ledger: a value of one year says nothing of another year's hours.
"""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from importlib.resources import files
from itertools import pairwise
from typing import Final

from joulebook.errors import BadInput, JoulebookError

from joulebook_collector.near import near
from joulebook_collector.priced import SeriesKey
from joulebook_collector.shipped import year_us

WHAT_IF: Final = "what-if: "
"""How the source of a sample begins; no factor is taken whose source does."""

MINUTE_US: Final = 60_000_000


@dataclass(frozen=True, slots=True)
class Sample:
    """One shipped file: a zone's year, how it was made, from whom, under which licence."""

    file: str
    zone: str
    year: int
    step_minutes: int
    rows: int
    missing: int
    sha256: str
    licence: str
    method: str
    source: str


@dataclass(frozen=True, slots=True)
class SampleYear:
    """A year of a zone. g_per_kwh: by period from its first instant in UTC, None where the source has a gap.

    step_us: length of a period.
    """

    sample: Sample
    series: SeriesKey
    step_us: int
    g_per_kwh: tuple[float | None, ...]

    @property
    def label(self) -> str:
        """What goes with every figure that is made from it."""
        return f"{WHAT_IF}{self.series.label()} as it was in {self.sample.year}"

    def at(self, at_us: int) -> float | None:
        """Intensity of the period that holds a moment of the sample's own year, g/kWh; None where it has a gap.

        Raises BadInput on a moment of any other year: that year's hours were others.
        """
        index = (at_us - year_us(self.sample.year)) // self.step_us
        if not 0 <= index < len(self.g_per_kwh):
            asked = datetime.fromtimestamp(at_us // 1_000_000, tz=UTC).year
            raise BadInput(
                f"the sample year {self.sample.year} of {self.sample.zone} is no price of {asked}",
                "fetch or import values of that year: joulebook factors fetch",
            )
        return self.g_per_kwh[index]


@cache
def samples() -> tuple[Sample, ...]:
    """Every shipped sample year, by zone."""
    text = (files("joulebook_collector") / "data" / "grid_intensity_hourly" / "index.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return tuple(
        Sample(
            row["file"],
            row["zone"],
            int(row["year"]),
            int(row["step_minutes"]),
            int(row["rows"]),
            int(row["missing"]),
            row["sha256"],
            row["licence"],
            row["method"],
            row["source"],
        )
        for row in sorted(rows, key=lambda row: (row["zone"], row["year"]))
    )


def read_sample(zone: str, year: int, basis: str) -> SampleYear:
    """A sample year, checked against its hash.  basis: lifecycle or direct.

    Raises BadInput where none is shipped, JoulebookError where the file is not the one that was shipped.
    """
    found = [sample for sample in samples() if (sample.zone, sample.year) == (zone, year)]
    if not found:
        shipped = {f"{sample.zone} {sample.year}": sample for sample in samples()}
        meant = near(f"{zone} {year}", shipped) or list(shipped)
        raise BadInput(f"no sample year {year} of {zone} is shipped", f"use one of {', '.join(meant)}")
    (sample,) = found
    packed = (files("joulebook_collector") / "data" / "grid_intensity_hourly" / sample.file).read_bytes()
    return SampleYear(
        sample, SeriesKey(zone, basis=basis), sample.step_minutes * MINUTE_US, parsed(sample, packed, basis)
    )


def parsed(sample: Sample, packed: bytes, basis: str) -> tuple[float | None, ...]:
    """The values of a sample's file. Raises JoulebookError where it is another file, or not a whole even year."""
    if sha256(packed).hexdigest() != sample.sha256:
        raise JoulebookError(f"{sample.file} is not the file that was shipped", "install joulebook again")
    rows = list(csv.DictReader(gzip.decompress(packed).decode().splitlines()))
    starts = [datetime.fromisoformat(row["timestamp_utc"]).replace(tzinfo=UTC) for row in rows]
    even = all((after - before).total_seconds() == sample.step_minutes * 60 for before, after in pairwise(starts))
    if not even or starts[0] != datetime(sample.year, 1, 1, tzinfo=UTC) or starts[-1].year != sample.year:
        raise JoulebookError(f"{sample.file} is not one whole year", "install joulebook again")
    values = [row[f"gco2e_per_kwh_{basis}"] for row in rows]
    return tuple(float(value) if value else None for value in values)
