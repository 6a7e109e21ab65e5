"""``joulebook factors fetch`` and ``factors providers``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from joulebook.errors import BadInput
from joulebook.home import find_home

from joulebook_collector.options import json_option, series_options

if TYPE_CHECKING:
    from joulebook_collector.grid import Provider
    from joulebook_collector.grid.fetch import Fetched, Plan


@click.command("fetch")
@click.argument("provider_name", metavar="PROVIDER")
@click.option("--zone", required=True, help="Grid zone, as the ledger names it.")
@click.option("--from", "since", required=True, metavar="TIME", help="Start, ISO 8601 with a zone.")
@click.option("--to", "until", required=True, metavar="TIME", help="End, ISO 8601 with a zone.")
@click.option("--code", default="", help="The provider's own code of the zone, where joulebook does not know it.")
@click.option("--forecast", is_flag=True, help="Take forecasts where no actual value is known yet.")
@click.option("--fresh", is_flag=True, help="Take no answer from the cache.")
@click.option("--dry-run", is_flag=True, help="Say what would be asked; ask and store nothing.")
@series_options
@json_option
def factors_fetch(
    provider_name: str,
    zone: str,
    since: str,
    until: str,
    code: str,
    forecast: bool,
    fresh: bool,
    dry_run: bool,
    as_json: bool,
    **words: str | None,
) -> None:
    """Fetch intensities of a zone from a provider into the ledger; what it knows already is not added again.

    Keys come from files or the environment: docs/reference/providers.md.

    \b
    joulebook factors fetch uk-carbon-intensity --zone GB --from 2026-11-01T00:00Z --to 2026-11-08T00:00Z
    joulebook factors fetch entsoe --zone DE --basis lifecycle --from 2026-01-01T00:00Z --to 2026-02-01T00:00Z
    joulebook factors fetch watttime --zone US-CA --code CAISO_NORTH --forecast \\
        --from 2026-11-24T00:00Z --to 2026-11-26T00:00Z
    """
    from joulebook_collector.cli import moment_us, open_ledger, print_json, print_lines
    from joulebook_collector.grid.catalogue import find
    from joulebook_collector.grid.fetch import choose_series, fetch, make_plan, store
    from joulebook_collector.grid.session import open_session

    provider = find(provider_name)
    series = choose_series(provider, zone, words)
    plan = make_plan(provider, series, moment_us(since, "--from"), moment_us(until, "--to"), forecast, code)
    if dry_run:
        said = plan_json(plan)
        print_json(said) if as_json else print_lines(f"{name}: {value}" for name, value in said.items())
        return
    session = open_session(provider, find_home().make().cache / "grid")
    windows = plan.windows()
    with click.progressbar(length=len(windows), label=provider.title, file=sys.stderr, hidden=len(windows) < 2) as bar:
        fetched = fetch(plan, session, fresh=fresh, after_each=lambda: bar.update(1))
    with open_ledger() as ledger:
        added = store(ledger, plan, fetched)
    for reason, count in sorted(fetched.left_out.items()):
        print(f"{count} periods left out: {reason}", file=sys.stderr)
    done = done_json(plan, fetched, len(added), sum(factor.status == "forecast" for factor in added))
    if as_json:
        print_json(done)
    else:
        print(
            f"{plan.series.label()}: {done['values']} values, {done['added']} added "
            f"({done['forecasts_added']} forecasts), {done['known']} known already"
        )


@click.command("providers")
@json_option
def factors_providers(as_json: bool) -> None:
    """Where intensities can be fetched from, and what each serves.

    \b
    joulebook factors providers
    """
    from joulebook_collector.cli import print_json
    from joulebook_collector.grid.catalogue import find, names

    told = [provider_json(find(name)) for name in names()]
    if as_json:
        print_json(told)
        return
    for each in told:
        print(f"{each['name']}: {each['title']}")
        for series in each["series"] or ["whatever stands behind it: say every word of the series"]:
            print(f"  {series}")
        print(
            f"  key: {each['key'] or 'none'}; forecasts: {'yes' if each['forecasts'] else 'no'}; "
            f"licence: {each['licence']}"
        )


@click.command("samples")
@click.option("--zone", help="Tell the hours of this zone's year.")
@click.option("--year", type=int, help="Which year, with --zone.")
@click.option("--basis", type=click.Choice(("lifecycle", "direct")), default="lifecycle", help="Kind of fuel factors.")
@json_option
def factors_samples(zone: str | None, year: int | None, basis: str, as_json: bool) -> None:
    """Shipped sample years of hourly intensity, for what-if only: they never price anything.

    \b
    joulebook factors samples
    joulebook factors samples --zone US-CISO --year 2022 > what-if.csv
    """
    from joulebook_collector.cli import print_json, print_lines
    from joulebook_collector.grid.moments import written
    from joulebook_collector.samples import read_sample, samples
    from joulebook_collector.shipped import year_us

    if (zone is None) != (year is None):
        raise BadInput("one sample is a zone's year", "say --zone and --year, or neither to list them")
    if zone is None or year is None:
        told = samples()
        lines = (f"{s.zone} {s.year}: {s.rows} periods, {s.missing} missing; {s.licence}; {s.source}" for s in told)
        print_json([asdict(sample) for sample in told]) if as_json else print_lines(lines)
        return
    found = read_sample(zone, year, basis)
    starts = [year_us(year) + i * found.step_us for i in range(len(found.g_per_kwh))]
    if as_json:
        hours = [
            {"started_at": written(at), "what_if_g_per_kwh": g} for at, g in zip(starts, found.g_per_kwh, strict=True)
        ]
        print_json({"label": found.label, **asdict(found.sample), "hours": hours})
        return
    print("zone,started_at,ended_at,what_if_g_per_kwh,source")
    for at, g in zip(starts, found.g_per_kwh, strict=True):
        print(f"{zone},{written(at)},{written(at + found.step_us)},{'' if g is None else g},{found.label}")


def plan_json(plan: Plan) -> dict[str, Any]:
    """What a fetch would do, as documented in docs/reference/providers.md."""
    from joulebook_collector.grid.keys import address_of, key_of
    from joulebook_collector.grid.moments import written

    provider = plan.provider
    address = address_of(provider) if provider.online else "a file"
    key_of(provider)
    return {
        "provider": provider.name,
        "address": address,
        "series": plan.series.label(),
        "code": plan.code,
        "from": written(plan.started_at_us),
        "to": written(plan.ended_at_us),
        "forecast": plan.forecast,
        "requests_at_least": len(plan.windows()),
    }


def done_json(plan: Plan, fetched: Fetched, added: int, forecasts: int) -> dict[str, Any]:
    """What a fetch did, as documented in docs/reference/providers.md."""
    return {
        "provider": plan.provider.name,
        "series": plan.series.label(),
        "values": len(fetched.factors),
        "added": added,
        "forecasts_added": forecasts,
        "known": len(fetched.factors) - added,
        "left_out": dict(fetched.left_out),
    }


def provider_json(provider: Provider) -> dict[str, Any]:
    """A provider as documented in docs/reference/providers.md."""
    return {
        "name": provider.name,
        "title": provider.title,
        "series": [series.label().strip() for series in provider.series],
        "key": provider.key_is,
        "key_file_setting": provider.key_file_setting,
        "url": provider.url,
        "url_setting": provider.url_setting,
        "longest_request_days": provider.most_span_us / 86_400e6,
        "requests": provider.rate.requests,
        "per_seconds": provider.rate.per_seconds,
        "forecasts": provider.forecasts,
        "derived": provider.derived,
        "licence": provider.licence,
        "verified": provider.verified,
    }
