"""Carbon intensity factors: what makes one valid, adding them, and finding a zone's series."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from joulebook.errors import BadInput

from joulebook_collector.near import near
from joulebook_collector.priced import Factor, SeriesKey
from joulebook_collector.shipped import year_us

if TYPE_CHECKING:
    from joulebook_collector.ledger import Ledger

WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "kind": ("average", "marginal"),
    "basis": ("direct", "lifecycle"),
    "flow": ("production", "consumption"),
    "accounting": ("location", "market"),
    "gases": ("CO2e", "CO2"),
}
"""The words that tell series of one zone apart, and what each may be."""

STATUSES: Final = ("", "forecast", "estimated")
"""What a value is: as said, foretold, or an estimate of whoever publishes it."""

EDGE_US: Final = 5 * 60 * 1_000_000
"""Periods start and end on five-minute edges, so that pricing slots can follow them."""

DEFAULT_U_REL: Final = 0.1
"""Relative standard uncertainty of an added value that states none: the spread of sources on the same period."""

LIKELY_G_PER_MWH: Final = 3000.0
"""No grid emits this much per kWh (a lignite plant emits about 1,200): such a value is in another unit."""

LIKELY_KG_PER_KWH: Final = 1.5
"""Below this, a zone whose annual mean is above CLEAN_ZONE was probably given in kg per kWh."""

CLEAN_ZONE: Final = 20.0

NO_CLEAN_ZONE: Final = 100.0
"""No series of a zone whose annual mean is above this comes near 0."""

MOST_TIMES_MEAN: Final = 100.0
"""An hour's intensity is no such multiple of its zone's annual mean; 1000 times is g per MWh of a clean grid."""


@dataclass(frozen=True, slots=True)
class NewFactor:
    """An intensity to add: g_per_kwh over [started_at_us, ended_at_us) UTC; see priced.Factor."""

    series: SeriesKey
    started_at_us: int
    ended_at_us: int
    g_per_kwh: float
    source: str
    u_rel: float
    annual: bool = False
    name: str = ""
    note: str = ""
    status: str = ""


def year_period_us(year: int) -> tuple[int, int]:
    """A UTC year as a half-open period in microseconds. Raises BadInput on a year that no factor is of."""
    if not 1990 <= year <= 2100:
        raise BadInput(f"year {year} is not within 1990 to 2100", "give the four digits of the year")
    return year_us(year), year_us(year + 1)


def add_factors(ledger: Ledger, factors: Sequence[NewFactor], origin: str) -> int:
    """Append factors in one transaction; returns how many. Earlier values stay, and are superseded.

    origin: who says so ("cli", "import:<hash>"); a file already taken adds nothing.
    Raises BadInput, storing nothing, when any of them is not valid.
    """
    if origin.startswith("import:") and ledger.query(
        "select 1 from log where action = 'factors' and detail = ?", [origin]
    ):
        return 0
    means = _annual_means(ledger)
    for number, factor in enumerate(factors, start=1):
        where = f"row {number}: " if len(factors) > 1 else ""
        check_factor(factor, _mean_of(factor.series, means), where)
    _check_periods(factors)
    with ledger.transaction("factors", detail=origin) as stamp:
        place = (stamp.txn, stamp.known_at_us)
        ledger.append(
            "factor", [(*place, i, *_values(factor), origin, factor.status) for i, factor in enumerate(factors)]
        )
    return len(factors)


def check_factor(factor: NewFactor, annual_mean: float | None, where: str = "") -> None:
    """Raise BadInput when the factor cannot be right. annual_mean: of its zone, g/kWh, None when unknown."""
    check_series(factor.series, where)
    g = factor.g_per_kwh
    if not (math.isfinite(g) and g >= 0):
        raise BadInput(f"{where}{g} g/kWh is no intensity", "give a finite number, 0 or more")
    if g > LIKELY_G_PER_MWH:
        raise BadInput(
            f"{where}{g:g} g/kWh is more than any grid emits; it looks like g per MWh", "divide it by 1000 first"
        )
    if annual_mean is not None and g > MOST_TIMES_MEAN * max(annual_mean, 1.0):
        raise BadInput(
            f"{where}{g:g} g/kWh for {factor.series.zone}, whose annual mean is {annual_mean:g}, looks like g per MWh",
            "divide it by 1000 first",
        )
    low = 0 < g < LIKELY_KG_PER_KWH and factor.series.accounting == "location"
    if low and annual_mean is not None and annual_mean > CLEAN_ZONE:
        raise BadInput(
            f"{where}{g:g} g/kWh for {factor.series.zone}, whose annual mean is {annual_mean:g}, looks like kg per kWh",
            "multiply it by 1000 first",
        )
    if not factor.started_at_us < factor.ended_at_us:
        raise BadInput(f"{where}the period ends at or before its start", "give an end after the start")
    if factor.started_at_us % EDGE_US or factor.ended_at_us % EDGE_US:
        raise BadInput(f"{where}the period is not on five-minute edges", "round its start and end to 5 minutes")
    if factor.status not in STATUSES or (factor.status and factor.annual):
        raise BadInput(
            f"{where}a value of status {factor.status!r}", "a period's may be forecast or estimated, or none"
        )
    if not factor.source.strip():
        raise BadInput(f"{where}a factor without a source", "say where the value comes from")
    if factor.source.startswith("what-if"):
        raise BadInput(f"{where}a what-if is no price", "fetch or import values of the period itself")
    if not (math.isfinite(factor.u_rel) and 0 <= factor.u_rel <= 2):
        raise BadInput(
            f"{where}relative uncertainty {factor.u_rel} is not within 0 to 2", "give a fraction, 0.1 is 10 %"
        )


def check_series(series: SeriesKey, where: str = "") -> None:
    """Raise BadInput when a word of the series is none of those that exist."""
    if not series.zone.strip():
        raise BadInput(f"{where}a factor without a zone", "name the grid zone")
    for name, allowed in WORDS.items():
        if getattr(series, name) not in allowed:
            raise BadInput(f"{where}{name} is {getattr(series, name)!r}", f"give one of: {', '.join(allowed)}")


def known_series(ledger: Ledger, as_of_us: int | None = None) -> list[SeriesKey]:
    """Every series that has a value at T, sorted."""
    names = ", ".join(field.name for field in fields(SeriesKey))
    rows = ledger.query(
        f"select distinct {names} from factor where known_at_us <= ?",  # noqa: S608
        [ledger.as_of(as_of_us)],
    )
    return sorted(SeriesKey(*row) for row in rows)


def zone_names(ledger: Ledger) -> dict[str, str]:
    """Zone -> its name in words, "" when it has none."""
    return dict(ledger.query("select zone, max(name) from factor group by zone order by zone"))


def find_series(ledger: Ledger, zone: str, chosen: Mapping[str, str | None]) -> SeriesKey:
    """The one series of a zone that has the chosen words. chosen: word -> value, None to leave open.

    Raises BadInput on an unknown zone, naming near ones; when none fits; and when several do,
    naming them and the options that choose.
    """
    everything = known_series(ledger)
    of_zone = [series for series in everything if series.zone == zone]
    if not of_zone:
        raise unknown_zone(ledger, zone)
    return the_only_one(of_zone, chosen, f"zone {zone}")


def fitting_words(series: Sequence[SeriesKey], words: Mapping[str, str | None]) -> list[SeriesKey]:
    """Those that have the given words; a word that is None is left open."""
    return [s for s in series if all(value is None or getattr(s, word) == value for word, value in words.items())]


def the_only_one(among: Sequence[SeriesKey], words: Mapping[str, str | None], owner: str) -> SeriesKey:
    """The one series that has the given words. owner: whose they are, for the error.

    Raises BadInput when none does, and when several do, naming them and the options that choose.
    """
    fitting = fitting_words(among, words)
    if len(fitting) == 1:
        return fitting[0]
    listed = "; ".join(series.label() for series in fitting or among)
    if not fitting:
        raise BadInput(f"{owner} has no such series, and series are never mixed", f"choose among: {listed}")
    apart = [word for word in WORDS if len({getattr(series, word) for series in fitting}) > 1]
    raise BadInput(f"{owner} has several series: {listed}", "choose with " + ", ".join(f"--{word}" for word in apart))


def series_to_add(ledger: Ledger, zone: str, words: Mapping[str, str | None], new_zone: bool) -> SeriesKey:
    """The series that an added value belongs to: the zone's only fitting one, else all words must be given."""
    known = [series for series in known_series(ledger) if series.zone == zone]
    if not known and not new_zone:
        raise unknown_zone(ledger, zone, " (--new-zone accepts it as new)")
    if all(words.get(word) for word in WORDS):
        return SeriesKey(zone, **{word: str(words[word]) for word in WORDS})
    fitting = fitting_words(known, words)
    if len(fitting) == 1:
        return fitting[0]
    lacking = [word for word in WORDS if not words.get(word)]
    raise BadInput(f"which series of zone {zone} is the value of?", "say " + ", ".join(f"--{word}" for word in lacking))


def unknown_zone(ledger: Ledger, zone: str, more: str = "") -> BadInput:
    """The error for a zone that no factor is of, with near matches by code and by name."""
    names = zone_names(ledger)
    by_name = {name: code for code, name in names.items() if name}
    guesses = near(zone, names) + [f"{by_name[name]} ({name})" for name in near(zone, by_name)]
    hint = f"did you mean {', '.join(guesses)}?" if guesses else "'joulebook factors zones' lists them"
    return BadInput(f"there is no zone {zone!r}", hint + more)


def read_factors(
    ledger: Ledger, as_of_us: int | None = None, *, zone: str | None = None, series: SeriesKey | None = None
) -> list[Factor]:
    """Factors known at T, superseded ones included, by series, period and transaction."""
    names = ", ".join(field.name for field in fields(SeriesKey))
    wanted = series.zone if series else zone
    rows = ledger.query(
        f"select {names}, started_at_us, ended_at_us, g_per_kwh, source, u_rel, annual, known_at_us, txn,"  # noqa: S608
        " coalesce(status, ''), note from factor"
        " where known_at_us <= $as_of and ($zone is null or zone = $zone)"
        f" order by {names}, started_at_us, ended_at_us, txn, ordinal",
        {"as_of": ledger.as_of(as_of_us), "zone": wanted},
    )
    found = [Factor(SeriesKey(*row[:6]), *row[6:]) for row in rows]
    return [factor for factor in found if series is None or factor.series == series]


def _annual_means(ledger: Ledger) -> dict[SeriesKey, float]:
    names = ", ".join(field.name for field in fields(SeriesKey))
    rows = ledger.query(
        f"select {names}, min(g_per_kwh) from factor where annual and accounting = 'location' group by {names}"  # noqa: S608
    )
    return {SeriesKey(*row[:-1]): row[-1] for row in rows}


def _mean_of(series: SeriesKey, means: Mapping[SeriesKey, float]) -> float | None:
    """Annual mean to judge a value's unit by: of its series, else of the zone's others where that is high.

    A clean grid's direct intensity comes near 0, whatever its lifecycle mean is.
    """
    if series in means:
        return means[series]
    others = [mean for known, mean in means.items() if known.zone == series.zone and mean > NO_CLEAN_ZONE]
    return min(others, default=None)


def _check_periods(factors: Iterable[NewFactor]) -> None:
    ordered = sorted(factors, key=lambda f: (f.series, f.annual, f.started_at_us))
    for a, b in pairwise(ordered):
        if (a.series, a.annual) == (b.series, b.annual) and b.started_at_us < a.ended_at_us:
            raise BadInput(
                f"two values of {a.series.label()} overlap at {_iso(b.started_at_us)}",
                "give one value per period; add a correction by itself afterwards",
            )


def _values(f: NewFactor) -> tuple[object, ...]:
    key = tuple(getattr(f.series, field.name) for field in fields(SeriesKey))
    return (*key, f.started_at_us, f.ended_at_us, f.g_per_kwh, f.source, f.u_rel, f.annual, f.name, f.note)


def _iso(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1e6, tz=UTC).isoformat()
