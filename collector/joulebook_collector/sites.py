"""Sites: where machines stand, with their PUE and grid series. Nothing here is ever guessed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from joulebook.errors import BadInput

from joulebook_collector.factors import find_series
from joulebook_collector.near import near
from joulebook_collector.priced import SeriesKey, Site
from joulebook_collector.shipped import LOCAL_SITE, CloudRegion, cloud_regions

if TYPE_CHECKING:
    from joulebook_collector.ledger import Ledger

U_PUE: Final = 0.05
"""Relative standard uncertainty of an annual PUE used for hours. Source: METHODS 3, 3 to 8 %."""

MOST_PUE: Final = 10.0
"""No facility is near this; 15 is a slip for 1.5."""

_COLUMNS: Final = (
    "site_id, pue, pue_source, u_pue, zone, kind, basis, flow, accounting, gases, known_at_us, note, provider"
)


def add_site(
    ledger: Ledger,
    site_id: str,
    *,
    pue: float | None = None,
    pue_source: str = "",
    u_pue: float | None = None,
    zone: str | None = None,
    words: Mapping[str, str | None] | None = None,
    cloud: str | None = None,
    provider: str | None = None,
    note: str = "",
) -> Site:
    """A site, or a newer version of one: what is not given stays as it was known.

    pue: >= 1, with its source; pue_source and u_pue without it are those of the PUE that is known.
    zone: a grid zone, else the known one; words choose among its series (factors.WORDS).
    cloud: "provider:region" fills zone and PUE from what is published, and says so in the note.
    provider: NAME or NAME:CODE of whom values of the series are fetched from, which decides what series it can
    be; "" is nobody.
    Raises BadInput on a PUE below 1 or without a source, an unknown zone or region, and on what
    would have no effect: words without a zone, a source or an uncertainty without a PUE.
    """
    _check_id(site_id)
    old = {site.site_id: site for site in read_sites(ledger)}.get(site_id)
    region = None if cloud is None else find_region(cloud)
    if region is not None:
        zone = zone or region.grid_zone
        note = note or _region_note(region)
        if pue is None and region.pue is not None:
            if pue_source:
                raise BadInput(f"{cloud} has a published PUE with its own source", "give --pue with your --pue-source")
            pue, pue_source = region.pue, f"{region.pue_source}, {region.pue_year}"
    series = _fetched_series(site_id, old, zone, words or {}, provider) if provider else None
    series = series or _series(ledger, site_id, old, zone, words or {})
    if pue is None and old is not None and old.pue is not None and region is None:
        pue, pue_source = old.pue, pue_source or old.pue_source
        u_pue = old.u_pue if u_pue is None else u_pue
    if pue is not None:
        u_pue = U_PUE if u_pue is None else u_pue
        check_pue(pue, pue_source, u_pue)
    elif pue_source or u_pue is not None:
        raise BadInput(f"site {site_id} has no PUE that --pue-source or --pue-u could be of", "give --pue as well")
    if old is not None and zone is None:
        note = note or old.note
        provider = old.provider if provider is None else provider
    key = (None,) * 6 if series is None else _key(series)
    with ledger.transaction("site", detail=site_id) as stamp:
        row = (stamp.txn, stamp.known_at_us, site_id, pue, pue_source, u_pue or 0.0, *key, note, provider)
        ledger.append("site", [row])
    return Site(site_id, pue, pue_source, u_pue or 0.0, series, stamp.known_at_us, note, provider or "")


def _fetched_series(
    site_id: str, old: Site | None, zone: str | None, words: Mapping[str, str | None], provider: str
) -> SeriesKey:
    """The series that the provider serves of the zone, known to the ledger or not."""
    from joulebook_collector.grid.catalogue import find
    from joulebook_collector.grid.fetch import choose_series

    zone = zone or (old.series.zone if old and old.series else None)
    if zone is None:
        raise BadInput(f"--provider: site {site_id} has no zone to fetch values of", "give --zone as well")
    name, _, code = provider.partition(":")
    found = find(name)
    if not code:
        found.code_of(zone)
    return choose_series(found, zone, words)


def _series(
    ledger: Ledger, site_id: str, old: Site | None, zone: str | None, words: Mapping[str, str | None]
) -> SeriesKey | None:
    """The series of the zone given, else of the known zone when words choose anew, else the known one."""
    known = old.series if old else None
    if zone is not None:
        return find_series(ledger, zone, words)
    chosen = [f"--{word}" for word, value in words.items() if value is not None]
    if not chosen:
        return known
    if known is None:
        raise BadInput(f"{', '.join(chosen)}: site {site_id} has no zone to choose a series of", "give --zone as well")
    return find_series(ledger, known.zone, words)


def check_pue(pue: float, pue_source: str, u_pue: float) -> None:
    """Raise BadInput unless 1 <= pue < 10 and it has a source. Source of the bound: ISO/IEC 30134-2."""
    if not (math.isfinite(pue) and 1 <= pue < MOST_PUE):
        raise BadInput(
            f"a PUE of {pue:g} is not possible", "give facility energy divided by IT energy, 1 or more and below 10"
        )
    if not pue_source.strip():
        raise BadInput(f"a PUE of {pue:g} without a source", "say where it comes from: --pue-source")
    if not (math.isfinite(u_pue) and 0 <= u_pue <= 1):
        raise BadInput(f"relative uncertainty {u_pue} of a PUE is not within 0 to 1", "give a fraction, 0.05 is 5 %")


def assign(ledger: Ledger, machine_id: str, site_id: str, from_us: int | None = None) -> int:
    """Say at which site a machine stands from a moment on; returns that moment (UTC microseconds).

    from_us None: since always, allowed for a machine's first assignment only. It prices the slots that
    start at or after it. Raises BadInput on an unknown site.
    """
    _check_id(machine_id)
    sites = [site.site_id for site in read_sites(ledger)]
    if site_id not in sites:
        meant = near(site_id, sites) or sites
        raise BadInput(f"there is no site {site_id!r}", f"use one of {', '.join(meant)}, or 'joulebook site add'")
    earlier = ledger.query("select 1 from site_assignment where machine_id = ? limit 1", [machine_id])
    if from_us is None and earlier:
        raise BadInput(f"machine {machine_id} is assigned already", "say since when it stands elsewhere: --from TIME")
    begin = from_us or 0
    with ledger.transaction("assign", detail=f"{machine_id} {site_id}") as stamp:
        ledger.append("site_assignment", [(stamp.txn, stamp.known_at_us, machine_id, site_id, begin)])
    return begin


def assignments(ledger: Ledger, as_of_us: int | None = None) -> list[tuple[str, str, int]]:
    """(machine_id, site_id, from_us) known at T, by machine and moment, the newest saying last."""
    rows = ledger.query(
        "select machine_id, site_id, from_us from site_assignment where known_at_us <= ?"
        " order by machine_id, from_us, txn",
        [ledger.as_of(as_of_us)],
    )
    return [(machine, site, begin) for machine, site, begin in rows]


def read_sites(ledger: Ledger, as_of_us: int | None = None) -> list[Site]:
    """The newest version of every site known at T, by id."""
    rows = ledger.query(
        f"select {_COLUMNS} from (select *, row_number() over (partition by site_id order by txn desc) as age"  # noqa: S608
        " from site where known_at_us <= ?) as s where age = 1 order by site_id",
        [ledger.as_of(as_of_us)],
    )
    return [_site(row) for row in rows]


def read_site_of(ledger: Ledger, machine_id: str, at_us: int, as_of_us: int | None = None) -> Site:
    """Where a machine stood at a moment, as known at T; ``local`` when nobody said."""
    as_of = ledger.as_of(as_of_us)
    found = ledger.query(
        "select site_id from site_assignment where machine_id = ? and from_us <= ? and known_at_us <= ?"
        " order by from_us desc, txn desc limit 1",
        [machine_id, at_us, as_of],
    )
    site_id = found[0][0] if found else LOCAL_SITE
    unknown = Site(site_id, None, "", 0.0, None, 0)
    return next((site for site in read_sites(ledger, as_of) if site.site_id == site_id), unknown)


def find_region(cloud: str) -> CloudRegion:
    """The shipped row of "provider:region". Raises BadInput with near matches."""
    known = {f"{row.provider}:{row.region}": row for row in cloud_regions() if row.region != "*"}
    if cloud in known:
        return known[cloud]
    meant = near(cloud, known)
    hint = f"did you mean {', '.join(meant)}?" if meant else "name it as provider:region, for example aws:eu-west-1"
    raise BadInput(f"there is no cloud region {cloud!r}", hint)


def _region_note(region: CloudRegion) -> str:
    parts = [f"{region.provider}:{region.region} ({region.location})"]
    if region.pue is None:
        parts.append("no PUE is published for this region")
    if region.note:
        parts.append(region.note)
    if region.provider_g_per_kwh is not None:
        parts.append(
            f"{region.provider_source} gives {region.provider_g_per_kwh:g} g/kWh for its grid without saying "
            "whether direct or lifecycle: not used"
        )
    return "; ".join(parts)


def _site(row: Sequence[Any]) -> Site:
    site_id, pue, pue_source, u_pue, *key, known_at_us, note, provider = row
    series = None if key[0] is None else SeriesKey(*key)
    return Site(site_id, pue, pue_source, u_pue, series, known_at_us, note, provider or "")


def _key(series: SeriesKey) -> tuple[str, ...]:
    return (series.zone, series.kind, series.basis, series.flow, series.accounting, series.gases)


def _check_id(name: str) -> None:
    if not 0 < len(name.strip()) <= 512:
        raise BadInput("a name is empty or too long", "give 1 to 512 characters")
