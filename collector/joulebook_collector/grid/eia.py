"""US EIA-930 (Open Data API v2): hourly generation by fuel of balancing areas, as intensity by fuel factors."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Final

from joulebook.errors import BadInput

from joulebook_collector.grid import DAY_US, Ask, Provider, ProviderError, Rate, Value
from joulebook_collector.grid.mix import DERIVED, STORAGE, mix_values
from joulebook_collector.grid.moments import HOUR_US, field, moment_us, number, rows, written
from joulebook_collector.grid.session import Session

NAME = "eia"
ROUTE: Final = "/electricity/rto/fuel-type-data/data/"
PAGE_ROWS: Final = 5000
HOURS: Final = "%Y-%m-%dT%H"

FUELS: Final = {
    "COL": "coal",
    "NG": "gas",
    "NUC": "nuclear",
    "OIL": "oil",
    "WAT": "hydro",
    "SUN": "solar",
    "SNB": "solar",
    "WND": "wind",
    "WNB": "wind",
    "GEO": "geothermal",
    "OTH": "biomass",
    "UNK": "other",
    "PS": STORAGE,
    "BAT": STORAGE,
    "OES": STORAGE,
    "UES": STORAGE,
}
"""EIA-930 fuel type -> fuel of the factors; OTH (biomass, waste, geothermal and the like) is taken as biomass."""


def fetch(session: Session, ask: Ask) -> list[Value]:
    """Hours of a balancing area. A period's label is its end, in UTC; pages are followed to their total."""
    hours: dict[int, dict[str, dict[str, float | None]]] = defaultdict(dict)
    for row in _rows(session, ask):
        if row.get("value-units", "megawatthours") != "megawatthours":
            raise ProviderError(f"{NAME}: generation in {row['value-units']!r}", "a newer joulebook may know it")
        if field(row, "respondent", NAME) != ask.code:
            raise ProviderError(
                f"{NAME}: asked for {ask.code}, it answered for {row['respondent']!r}", "check the zone"
            )
        fuel = field(row, "fueltype", NAME)
        if fuel not in FUELS:
            raise ProviderError(f"{NAME}: a fuel type {fuel!r} that nothing knows", "a newer joulebook may know it")
        end = moment_us(f"{field(row, 'period', NAME)}:00+00:00", NAME)
        amounts = hours[end].setdefault(FUELS[fuel], {})
        amount = number(field(row, "value", NAME))
        if amounts.get(fuel, amount) != amount:
            raise ProviderError(f"{NAME}: two amounts of {fuel} for {row['period']}", "ask again later")
        amounts[fuel] = amount
    periods = [(end - HOUR_US, end, hours[end]) for end in sorted(hours)]
    return mix_values(
        periods,
        ask.series.basis,
        "derived: EIA-930 generation by fuel x fuel factors; OTH as biomass, imports left out",
    )


def _rows(session: Session, ask: Ask) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        params = [
            ("frequency", "hourly"),
            ("data[0]", "value"),
            ("facets[respondent][]", ask.code),
            ("start", written(ask.started_at_us + HOUR_US, HOURS)),
            ("end", written(ask.ended_at_us, HOURS)),
            ("sort[0][column]", "period"),
            ("sort[0][direction]", "asc"),
            ("sort[1][column]", "fueltype"),
            ("sort[1][direction]", "asc"),
            ("offset", str(len(found))),
            ("length", str(PAGE_ROWS)),
        ]
        response = field(session.json(ROUTE, params, secret_params=[("api_key", session.key)]), "response", NAME)
        page = rows(field(response, "data", NAME), NAME)
        found += page
        total = number(field(response, "total", NAME))
        if total is None or total != total or len(found) > total:
            raise ProviderError(f"{NAME}: {len(found)} rows of {response['total']}", "ask again later")
        if len(found) == total:
            return found
        if not page:
            raise ProviderError(f"{NAME}: pages end after {len(found)} of {total:.0f} rows", "ask again later")


def code_of(zone: str) -> str:
    """Zones are named US- and the balancing area: US-CISO. States are no balancing areas."""
    country, dash, area = zone.partition("-")
    if country != "US" or not dash or len(area) < 3:
        raise BadInput(
            f"{NAME} has no zone {zone!r}", "name a balancing area, such as US-CISO, US-ERCO or US-PJM, or --code"
        )
    return area


PROVIDER = Provider(
    name=NAME,
    title="US EIA-930 (Open Data API)",
    series=DERIVED,
    url="https://api.eia.gov/v2",
    url_setting="JOULEBOOK_EIA_URL",
    key_setting="JOULEBOOK_EIA_KEY",
    key_file_setting="JOULEBOOK_EIA_KEY_FILE",
    key_is="a free api_key",
    most_span_us=90 * DAY_US,
    rate=Rate(60, 60),
    fetch=fetch,
    verified="route, facets and paging",
    licence="public domain",
    code_of=code_of,
    derived=True,
)
