"""Keeping a site's series fed: what is missing is fetched, forecasts first, and actual values take their place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from joulebook.errors import BadInput

from joulebook_collector.grid import DAY_US
from joulebook_collector.grid.catalogue import find
from joulebook_collector.grid.fetch import Plan, fetch, make_plan, store
from joulebook_collector.grid.moments import HOUR_US
from joulebook_collector.grid.session import open_session
from joulebook_collector.grid.waits import Waits
from joulebook_collector.priced import Factor, Site

if TYPE_CHECKING:
    from joulebook_collector.ledger import Ledger

LOOK_BACK_US: Final = 28 * DAY_US
"""How far a first refresh reaches, so that the ladder's first rung has its four weeks; and no refresh farther."""

MEND_US: Final = 3 * DAY_US
"""How long a period that has no actual value yet is asked for again, while later ones have theirs."""

AHEAD_US: Final = 48 * HOUR_US


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What a refresh added: actual (and estimated) values, and forecasts; left_out as in Fetched."""

    actual: int
    forecasts: int
    left_out: Mapping[str, int]


def refresh(ledger: Ledger, site: Site, now_us: int, cache: Path, waits: Waits | None = None) -> Refreshed:
    """Fetch what the site's series lacks up to now, and forecasts for two days where its provider foretells.

    Nothing is overwritten: an actual value is added beside its forecast and prices from then on, so reports
    restate. cache: the home's folder for it.  Raises BadInput where the site names no provider, ProviderError
    when it does not answer; what was known stays.
    """
    plan = plan_of(site, ledger.factors(series=site.series), now_us)
    fetched = fetch(plan, open_session(plan.provider, cache / "grid", waits))
    added = store(ledger, plan, fetched)
    forecasts = sum(factor.status == "forecast" for factor in added)
    return Refreshed(len(added) - forecasts, forecasts, fetched.left_out)


def plan_of(site: Site, known: list[Factor], now_us: int) -> Plan:
    """What to ask for.  known: factors of the site's series."""
    if not site.provider or site.series is None:
        raise BadInput(
            f"site {site.site_id} names no grid provider",
            f"joulebook site add {site.site_id} --zone ZONE --provider NAME",
        )
    name, _, code = site.provider.partition(":")
    provider = find(name)
    start = lacking_since(known, now_us)
    end = now_us + AHEAD_US if provider.forecasts else now_us
    return make_plan(provider, site.series, start, end, provider.forecasts, code)


def lacking_since(known: list[Factor], now_us: int) -> int:
    """From when values are asked for: the first moment of the last three days that no actual value holds.

    If none is known since before that, where actual values end; never more than four weeks back.
    """
    oldest = now_us - LOOK_BACK_US
    actual = sorted(
        (f.started_at_us, f.ended_at_us) for f in known if not f.annual and not f.status and f.ended_at_us > oldest
    )
    if not actual:
        return oldest
    last = max(ended for _, ended in actual)
    at = min(now_us - MEND_US, last)
    for started, ended in actual:
        if started > at:
            break
        at = max(at, ended)
    return max(oldest, min(at, now_us))
