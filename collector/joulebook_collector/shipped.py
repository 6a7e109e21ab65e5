"""Facts that come with the package: annual grid intensity by zone, and cloud regions with their PUE.

Data files with source and year per row (data/README.md); nothing here is a guess, and nothing
prices anything before a site names it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from joulebook_collector.priced import SeriesKey

if TYPE_CHECKING:
    from joulebook_collector.ledger import Ledger

ANNUAL_U_REL: Final = 0.3
"""Relative standard uncertainty of an annual mean as the price of an hour, in its own year or a later one.

Source: coefficient of variation of hourly series over a year, 0.22 to 0.48 in the zones examined; it
dwarfs the 0.1 by which sources differ on a year's mean.
"""

LOCAL_SITE: Final = "local"
"""The site of machines that are assigned to none: neither PUE nor zone until someone names them."""

FactorValues = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class AnnualRow:
    """One zone's mean intensity over a year, g/kWh, with the words that tell series apart."""

    series: SeriesKey
    name: str
    year: int
    g_per_kwh: float
    source: str
    note: str


@dataclass(frozen=True, slots=True)
class CloudRegion:
    """What is published of one region: its grid zone, its PUE (None when unpublished) with year and source."""

    provider: str
    region: str
    location: str
    grid_zone: str
    pue: float | None
    pue_year: str
    pue_source: str
    provider_g_per_kwh: float | None
    provider_year: str
    provider_source: str
    note: str


def year_us(year: int) -> int:
    """The first instant of a UTC year, in microseconds."""
    return int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000


@cache
def annual_rows() -> tuple[AnnualRow, ...]:
    """The shipped annual table, in the file's order."""
    return tuple(
        AnnualRow(
            SeriesKey(row["zone"], row["kind"], row["basis"], row["flow"], row["accounting"], row["gases"]),
            row["name"],
            int(row["year"]),
            float(row["g_per_kwh"]),
            row["source"],
            row["note"],
        )
        for row in _rows("grid_intensity_annual.csv")
    )


@cache
def cloud_regions() -> tuple[CloudRegion, ...]:
    """The shipped table of cloud regions, in the file's order."""
    return tuple(_region(row) for row in _rows("cloud_regions.csv"))


def bring_shipped(ledger: Ledger) -> None:
    """Take the shipped annual table into the ledger; another table than the last one adds what changed since.

    Compared with shipped values only: what somebody added is theirs, and pricing prefers it.
    """
    origin = "shipped:" + sha256(_text("grid_intensity_annual.csv").encode()).hexdigest()[:16]
    if ledger.query("select detail from log where action = 'shipped' order by txn desc limit 1") == [(origin,)]:
        return
    held = set(ledger.query(_LAST_SHIPPED))
    rows = [row for row in annual_rows() if (*_key(row.series), year_us(row.year), row.g_per_kwh) not in held]
    first = not held
    with ledger.transaction("shipped", detail=origin) as stamp:
        place = (stamp.txn, stamp.known_at_us)
        ledger.append("factor", [(*place, i, *_annual_values(row), origin, "") for i, row in enumerate(rows)])
        if first:
            ledger.append("site", [(*place, LOCAL_SITE, None, "", 0.0, *[None] * 6, "", None)])


_LAST_SHIPPED: Final = """
select zone, kind, basis, flow, accounting, gases, started_at_us, g_per_kwh from (
    select *, row_number() over (
        partition by zone, kind, basis, flow, accounting, gases, started_at_us order by txn desc, ordinal desc) as age
    from factor where origin like 'shipped:%'
) as f where age = 1
"""


def _annual_values(row: AnnualRow) -> FactorValues:
    span = (year_us(row.year), year_us(row.year + 1))
    return (*_key(row.series), *span, row.g_per_kwh, row.source, ANNUAL_U_REL, True, row.name, row.note)


def _key(series: SeriesKey) -> tuple[str, ...]:
    return (series.zone, series.kind, series.basis, series.flow, series.accounting, series.gases)


def _region(row: dict[str, str]) -> CloudRegion:
    return CloudRegion(
        row["provider"],
        row["region"],
        row["location"],
        row["grid_zone"],
        float(row["pue"]) if row["pue"] else None,
        row["pue_year"],
        row["pue_source"],
        float(row["provider_g_per_kwh"]) if row["provider_g_per_kwh"] else None,
        row["provider_year"],
        row["provider_source"],
        row["note"],
    )


def _rows(name: str) -> Iterator[dict[str, str]]:
    return csv.DictReader(_text(name).splitlines())


def _text(name: str) -> str:
    return (files("joulebook_collector") / "data" / name).read_text(encoding="utf-8")
