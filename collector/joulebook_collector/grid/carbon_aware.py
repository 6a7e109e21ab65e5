"""Carbon Aware SDK WebAPI (Green Software Foundation), self-hosted: g/kWh of whatever data source stands behind it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from joulebook_collector.grid import DAY_US, Ask, Provider, ProviderError, Rate, Value
from joulebook_collector.grid.moments import MINUTE_US, field, moment_us, number, rows, step_of, written
from joulebook_collector.grid.session import Session

NAME = "carbon-aware-sdk"


def fetch(session: Session, ask: Ask) -> Iterator[Value]:
    """Periods of a location. The SDK turns a missing value into -1, which is told as none."""
    until = min(ask.ended_at_us, ask.now_us)
    if ask.started_at_us < until:
        span = [("time", written(ask.started_at_us)), ("toTime", written(until))]
        answer = session.json("/emissions/bylocation", [("location", ask.code), *span])
        yield from _emissions(rows(answer, NAME))
    if ask.forecast and ask.ended_at_us > ask.now_us:
        answer = session.json("/emissions/forecasts/current", [("location", ask.code)])
        for forecast in rows(answer, NAME):
            for row in rows(field(forecast, "forecastData", NAME), NAME):
                start = moment_us(field(row, "timestamp", NAME), NAME)
                minutes = number(field(row, "duration", NAME))
                if minutes is None or not 1 <= minutes <= 1440:
                    raise ProviderError(f"{NAME}: a period of {minutes} minutes", "check the SDK's data source")
                yield _value(start, start + round(minutes * MINUTE_US), field(row, "value", NAME), "forecast")


def _emissions(told: list[Any]) -> Iterator[Value]:
    starts = [moment_us(field(row, "time", NAME), NAME) for row in told]
    lasting = [_duration_us(row.get("duration")) for row in told]
    step = step_of(sorted(set(starts)), NAME) if any(each is None for each in lasting) else 0
    for row, start, long_us in zip(told, starts, lasting, strict=True):
        yield _value(start, start + (long_us or step), field(row, "rating", NAME), "")


def _duration_us(text: Any) -> int | None:
    """hh:mm:ss; None where it is not said, or said as nothing."""
    found = re.fullmatch(r"(\d{1,2}):(\d{2}):(\d{2})", text) if isinstance(text, str) else None
    return (int(found[1]) * 3600 + int(found[2]) * 60 + int(found[3])) * 1_000_000 or None if found else None


def _value(start: int, end: int, said: Any, status: str) -> Value:
    rating = number(said)
    return Value(start, end, None if rating == -1 else rating, status)


PROVIDER = Provider(
    name=NAME,
    title="GSF Carbon Aware SDK",
    series=(),
    url="",
    url_setting="JOULEBOOK_CARBON_AWARE_SDK_URL",
    most_span_us=10 * DAY_US,
    rate=Rate(120, 60),
    fetch=fetch,
    verified="yes",
    licence="that of the data source behind it",
    forecasts=True,
)
