"""The collector's verbs: import, site, factors. They open JOULEBOOK_HOME's ledger; durable before they exit."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from joulebook.errors import BadInput
from joulebook.home import find_home
from joulebook.rows import Method

from joulebook_collector.grid.cli import factors_fetch, factors_providers, factors_samples
from joulebook_collector.options import json_option, series_options

if TYPE_CHECKING:
    from joulebook_collector.ledger import Ledger
    from joulebook_collector.priced import Factor, Site

METHODS = [str(method) for method in Method]


@click.command("import")
@click.argument("kind", type=click.Choice(["measurements", "counters", "runs", "factors"]))
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--machine", help="Machine of rows that name none.")
@click.option(
    "--method", type=click.Choice(["counter", "integrated", "modelled"]), help="Method of rows that say none."
)
@click.option("--u", type=float, help="Relative standard uncertainty (0.05 is 5 %) of rows that say none.")
@click.option("--study", help="Study of runs that name none.")
@click.option("--source", help="Source of factors that name none.")
@click.option("--new-zone", is_flag=True, help="Accept factors of zones that the ledger does not know.")
@json_option
def import_(kind: str, file: Path, as_json: bool, new_zone: bool, **defaults: Any) -> None:
    """Take what others measured or published into the ledger: all of FILE, or nothing.

    FILE is CSV, JSON lines (.jsonl) or Parquet. Units are in the column names: energy_joules,
    energy_kwh, power_watts, g_per_kwh. Times are ISO 8601 with a zone. Importing a file twice
    counts once. docs/reference/import.md names every column.

    \b
    joulebook import runs published.csv --machine cluster-a
    joulebook import measurements pdu.parquet --method integrated --u 0.01
    joulebook import counters rapl.jsonl --machine node-3
    joulebook import factors entsoe-2026-03.csv
    """
    from joulebook_collector.import_rows import columns_of
    from joulebook_collector.imports import import_file

    for name, value in defaults.items():
        if value is not None and name not in columns_of(kind):
            raise BadInput(f"--{name} means nothing for {kind}", "leave it out")
    with open_ledger() as ledger:
        done = import_file(ledger, kind, file, defaults, new_zone=new_zone)
    for note in done.notes:
        print(note, file=sys.stderr)
    if as_json:
        print_json(asdict(done))
    else:
        print(f"{done.file}: {done.rows} rows, {done.accepted} taken, {done.duplicates} known already")


@click.group()
def site() -> None:
    """Where machines stand: PUE and grid zone.

    Machines that are assigned to no site belong to the site `local`, which has neither until you say.
    """


@site.command("add")
@click.argument("site_id", metavar="SITE")
@click.option("--pue", type=float, help="Facility energy / IT energy, 1 or more.")
@click.option("--pue-source", default="", help="Where the PUE comes from (with --pue).")
@click.option("--pue-u", "u_pue", type=float, help="Relative standard uncertainty of the PUE; 0.05 when not given.")
@click.option("--zone", help="Grid zone; 'joulebook factors zones' lists them.")
@click.option("--cloud", metavar="PROVIDER:REGION", help="Fill zone and PUE from what is published of a cloud region.")
@click.option("--provider", metavar="NAME[:CODE]", help="Whom values of the zone are fetched from; '' for nobody.")
@click.option("--note", default="", help="Shown with the site.")
@series_options
@json_option
def site_add(site_id: str, as_json: bool, **given: Any) -> None:
    """Add a site, or a newer version of one; what is not given stays.

    \b
    joulebook site add local --zone DE --pue 1.3 --pue-source "facility meter 2025"
    joulebook site add dublin --cloud aws:eu-west-1
    joulebook site add lab --zone US-CA
    joulebook site add london --zone GB --provider uk-carbon-intensity
    """
    from joulebook_collector.sites import add_site

    words = {word: given.pop(word) for word in ("kind", "basis", "flow", "accounting", "gases")}
    with open_ledger() as ledger:
        added = add_site(ledger, site_id, words=words, **given)
    print_json(site_json(added)) if as_json else print(site_line(added))


@site.command("list")
@json_option
def site_list(as_json: bool) -> None:
    """Sites and the machines assigned to them.

    \b
    joulebook site list
    joulebook site list --json
    """
    from joulebook_collector.sites import assignments

    with open_ledger() as ledger:
        sites, assigned = ledger.sites(), assignments(ledger)
    if as_json:
        machines = [{"machine": m, "site": s, "from": iso(begin) if begin else None} for m, s, begin in assigned]
        print_json({"sites": [site_json(each) for each in sites], "assignments": machines})
        return
    for each in sites:
        print(site_line(each))
    for machine, site_id, begin in assigned:
        print(f"  {machine} -> {site_id} {'from ' + iso(begin) if begin else 'since always'}")


@site.command("assign")
@click.argument("machine")
@click.argument("site_id", metavar="SITE")
@click.option("--from", "since", metavar="TIME", help="ISO 8601 with a zone; since always when not given.")
@json_option
def site_assign(machine: str, site_id: str, since: str | None, as_json: bool) -> None:
    """Say at which SITE a MACHINE stands, from a moment on.

    \b
    joulebook site assign node-3 dublin
    joulebook site assign node-3 frankfurt --from 2026-11-01T00:00:00Z
    """
    from joulebook_collector.sites import assign

    with open_ledger() as ledger:
        begin = assign(ledger, machine, site_id, None if since is None else moment_us(since, "--from"))
        seen = ledger.query("select 1 from measurement where machine_id = ? limit 1", [machine])
    if not seen:
        print(f"note: the ledger has no measurement of a machine {machine!r} yet", file=sys.stderr)
    said = {"machine": machine, "site": site_id, "from": iso(begin) if begin else None}
    print_json(said) if as_json else print(f"{machine} -> {site_id} {said['from'] or 'since always'}")


@click.group()
def factors() -> None:
    """Carbon intensity of grids: what is known, from which source, since when."""


@factors.command("add")
@click.option("--zone", required=True, help="Grid zone.")
@click.option("--g-per-kwh", type=float, required=True, help="gCO2e (or gCO2) per kWh.")
@click.option("--source", required=True, help="Where the value comes from.")
@click.option("--year", type=int, help="The year that the value is the mean of.")
@click.option("--from", "since", metavar="TIME", help="Start of its period, ISO 8601 with a zone.")
@click.option("--to", "until", metavar="TIME", help="End of its period.")
@click.option("--u", type=float, help="Relative standard uncertainty; 0.3 for a year and 0.1 else when not given.")
@click.option("--new-zone", is_flag=True, help="Accept a zone that the ledger does not know.")
@click.option("--note", default="", help="Kept with the value.")
@series_options
@json_option
def factors_add(as_json: bool, **given: Any) -> None:
    """Add a value, or a correction of one: earlier ones stay known to have been known.

    The words of the series (--kind, --basis, --flow, --accounting, --gases) may be left out where the zone
    has only one series that fits.

    \b
    joulebook factors add --zone DE --year 2026 --g-per-kwh 310 --source "Ember 2027"
    joulebook factors add --zone DE --from 2026-11-24T10:00Z --to 2026-11-24T11:00Z --g-per-kwh 280 --source SMARD
    joulebook factors add --zone my-contract --new-zone --year 2026 --g-per-kwh 12 --source "contract 4711" \\
        --kind average --basis lifecycle --flow production --accounting market --gases CO2e
    """
    from joulebook_collector.factors import add_factors

    with open_ledger() as ledger:
        new = _new_factor(ledger, given)
        add_factors(ledger, [new], "cli")
        added = [f for f in ledger.factors(series=new.series) if f.known_at_us == ledger.latest_known_us()]
    print_json([factor_json(f) for f in added]) if as_json else print_lines(factor_line(f) for f in added)


@factors.command("list")
@click.option("--zone", help="Only this zone.")
@json_option
def factors_list(zone: str | None, as_json: bool) -> None:
    """Every value that the ledger knows, superseded ones included.

    \b
    joulebook factors list --zone DE
    """
    from joulebook_collector.factors import unknown_zone

    with open_ledger() as ledger:
        found = ledger.factors(zone=zone)
        if zone and not found:
            raise unknown_zone(ledger, zone)
    print_json([factor_json(f) for f in found]) if as_json else print_lines(factor_line(f) for f in found)


@factors.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--source", help="Source of rows that name none.")
@click.option("--new-zone", is_flag=True, help="Accept zones that the ledger does not know.")
@json_option
@click.pass_context
def factors_import(ctx: click.Context, file: Path, source: str | None, new_zone: bool, as_json: bool) -> None:
    """The same as `joulebook import factors FILE`.

    \b
    joulebook factors import entsoe-2026-03.csv --source ENTSO-E
    """
    ctx.invoke(import_, kind="factors", file=file, source=source, new_zone=new_zone, as_json=as_json)


@factors.command("zones")
@click.argument("words", nargs=-1)
@json_option
def factors_zones(words: Sequence[str], as_json: bool) -> None:
    """Zones and their series; WORDS narrow by code or name.

    \b
    joulebook factors zones
    joulebook factors zones sweden
    """
    from joulebook_collector.factors import known_series, zone_names

    with open_ledger() as ledger:
        names, series = zone_names(ledger), known_series(ledger)
    wanted = [s for s in series if all(w.casefold() in f"{s.zone} {names[s.zone]}".casefold() for w in words)]
    if as_json:
        print_json([{**asdict(s), "name": names[s.zone]} for s in wanted])
    else:
        print_lines(f"{s.label():60} {names[s.zone]}".rstrip() for s in wanted)


factors.add_command(factors_fetch)
factors.add_command(factors_providers)
factors.add_command(factors_samples)


def open_ledger() -> Ledger:
    """The ledger of JOULEBOOK_HOME, the home made when absent."""
    from joulebook_collector.ledger import Ledger

    return Ledger.open(find_home().make().ledger)


def moment_us(text: str, option: str) -> int:
    """ISO 8601 text with a zone as UTC microseconds. Raises BadInput on anything else."""
    from joulebook_collector.import_rows import micros

    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise BadInput(f"{option} {text!r} is no time with a zone", "write it as 2026-11-01T00:00:00Z")
    return micros(at)


def iso(at_us: int) -> str:
    """UTC microseconds as ISO 8601."""
    text = datetime.fromtimestamp(at_us // 1_000_000, tz=UTC).replace(microsecond=at_us % 1_000_000).isoformat()
    return text.replace("+00:00", "Z")


def site_json(site: Site) -> dict[str, Any]:
    """A site as documented in docs/reference/site.md."""
    values = asdict(site)
    known_at = iso(values.pop("known_at_us"))
    return {**values, "known_at": known_at}


def factor_json(factor: Factor) -> dict[str, Any]:
    """A factor as documented in docs/reference/factors.md."""
    return {
        **asdict(factor.series),
        "started_at": iso(factor.started_at_us),
        "ended_at": iso(factor.ended_at_us),
        "g_per_kwh": factor.g_per_kwh,
        "u_rel": factor.u_rel,
        "annual": factor.annual,
        "status": factor.status,
        "source": factor.source,
        "note": factor.note,
        "known_at": iso(factor.known_at_us),
        "txn": factor.txn,
    }


def site_line(site: Site) -> str:
    """A site in one line."""
    pue = f"PUE {site.pue:g} ({site.pue_source})" if site.pue is not None else "no PUE"
    zone = site.series.label() if site.series else "no grid zone"
    zone += f", fetched from {site.provider}" if site.provider else ""
    return f"{site.site_id}: {pue}; {zone}" + (f"; {site.note}" if site.note else "")


def factor_line(factor: Factor) -> str:
    """A factor in one line."""
    period = (
        iso(factor.started_at_us)[:4] if factor.annual else f"{iso(factor.started_at_us)}/{iso(factor.ended_at_us)}"
    )
    return (
        f"{factor.series.label()}  {period}  {factor.g_per_kwh:g} g/kWh  u {factor.u_rel:.0%}  "
        f"{factor.source}{factor.status and f' ({factor.status})'}  known {iso(factor.known_at_us)}"
    )


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def print_lines(lines: Iterable[str]) -> None:
    """Lines on stdout."""
    for line in lines:
        print(line)


def _new_factor(ledger: Ledger, given: dict[str, Any]) -> Any:
    from joulebook_collector.factors import DEFAULT_U_REL, WORDS, NewFactor, series_to_add, year_period_us
    from joulebook_collector.shipped import ANNUAL_U_REL

    year, since, until = given["year"], given["since"], given["until"]
    if (year is None) == (since is None) or (since is None) != (until is None):
        raise BadInput("a factor needs a period", "give --year, or --from and --to")
    if year is not None:
        started_us, ended_us = year_period_us(year)
    else:
        started_us, ended_us = moment_us(since, "--from"), moment_us(until, "--to")
    series = series_to_add(ledger, given["zone"], {word: given[word] for word in WORDS}, given["new_zone"])
    u_rel = given["u"] if given["u"] is not None else (ANNUAL_U_REL if year is not None else DEFAULT_U_REL)
    return NewFactor(
        series, started_us, ended_us, given["g_per_kwh"], given["source"], u_rel, year is not None, note=given["note"]
    )
