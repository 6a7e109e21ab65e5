"""Great Britain's Carbon Intensity API (NESO): half-hourly forecast and actual, direct emissions with imports."""

from __future__ import annotations

from collections.abc import Iterator

from joulebook_collector.grid import DAY_US, Ask, Provider, Rate, Value
from joulebook_collector.grid.codes import only
from joulebook_collector.grid.moments import field, moment_us, number, rows, written
from joulebook_collector.grid.session import Session
from joulebook_collector.priced import SeriesKey

NAME = "uk-carbon-intensity"
MINUTES = "%Y-%m-%dT%H:%MZ"


def fetch(session: Session, ask: Ask) -> Iterator[Value]:
    """Half hours of Great Britain. ``actual`` is null until it is settled: then the forecast, if it is wanted."""
    answer = session.json(f"/intensity/{written(ask.started_at_us, MINUTES)}/{written(ask.ended_at_us, MINUTES)}")
    for row in rows(field(answer, "data", NAME), NAME):
        said = field(row, "intensity", NAME)
        period = (moment_us(field(row, "from", NAME), NAME), moment_us(field(row, "to", NAME), NAME))
        actual, forecast = number(field(said, "actual", NAME)), number(field(said, "forecast", NAME))
        if actual is None and ask.forecast and forecast is not None:
            yield Value(*period, forecast, "forecast")
        else:
            yield Value(*period, actual)


PROVIDER = Provider(
    name=NAME,
    title="Carbon Intensity API of Great Britain (NESO)",
    series=(SeriesKey("", basis="direct", flow="consumption", gases="CO2"),),
    url="https://api.carbonintensity.org.uk",
    url_setting="JOULEBOOK_UK_CARBON_INTENSITY_URL",
    most_span_us=13 * DAY_US,
    rate=Rate(60, 60),
    fetch=fetch,
    verified="yes",
    licence="CC BY 4.0",
    code_of=only(NAME, {"GB": "GB"}),
    forecasts=True,
)
