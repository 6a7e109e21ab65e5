"""Electricity Maps API v3: hourly average intensity, flow-traced (consumption), lifecycle or direct."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from joulebook_collector.grid import DAY_US, Ask, Provider, ProviderError, Rate, Value
from joulebook_collector.grid.moments import HOUR_US, field, moment_us, number, rows, written
from joulebook_collector.grid.session import Session
from joulebook_collector.priced import SeriesKey

NAME = "electricity-maps"


def fetch(session: Session, ask: Ask) -> Iterator[Value]:
    """Hours of a zone: what is past from /past-range, what is to come from /forecast.

    The period is ``datetime`` and the hour after it; ``updatedAt`` is when it was written, and is nobody's period.
    """
    until = min(ask.ended_at_us, ask.now_us)
    if ask.started_at_us < until:
        span = [("start", written(ask.started_at_us)), ("end", written(until))]
        answer = _ask(session, ask, "/carbon-intensity/past-range", span)
        for row in rows(answer.get("data", answer.get("history")), NAME):
            yield _value(row, ask, "")
    if ask.forecast and ask.ended_at_us > ask.now_us:
        answer = _ask(session, ask, "/carbon-intensity/forecast", [])
        for row in rows(field(answer, "forecast", NAME), NAME):
            yield _value(row, ask, "forecast")


def _ask(session: Session, ask: Ask, path: str, more: list[tuple[str, str]]) -> dict[str, Any]:
    params = [("zone", ask.code), ("emissionFactorType", ask.series.basis), ("temporalGranularity", "hourly"), *more]
    answer = session.json(path, params, headers={"auth-token": session.key})
    if field(answer, "zone", NAME) != ask.code:
        raise ProviderError(f"{NAME}: asked for {ask.code}, it answered for {answer['zone']!r}", "check the zone")
    return dict(answer)


def _value(row: Any, ask: Ask, status: str) -> Value:
    start = moment_us(field(row, "datetime", NAME), NAME)
    basis = row.get("emissionFactorType", ask.series.basis)
    if basis != ask.series.basis:
        raise ProviderError(
            f"{NAME}: asked for {ask.series.basis} factors, it answered with {basis!r}", "ask for the other basis"
        )
    estimated = bool(row.get("isEstimated")) and not status
    note = f"estimated by {row.get('estimationMethod')}" if estimated else ""
    intensity = number(field(row, "carbonIntensity", NAME))
    return Value(start, start + HOUR_US, intensity, status or ("estimated" if estimated else ""), note=note)


PROVIDER = Provider(
    name=NAME,
    title="Electricity Maps",
    series=(SeriesKey("", flow="consumption"), SeriesKey("", basis="direct", flow="consumption")),
    url="https://api.electricitymaps.com/v3",
    url_setting="JOULEBOOK_ELECTRICITY_MAPS_URL",
    key_setting="JOULEBOOK_ELECTRICITY_MAPS_KEY",
    key_file_setting="JOULEBOOK_ELECTRICITY_MAPS_KEY_FILE",
    key_is="the auth-token of an account",
    most_span_us=10 * DAY_US,
    rate=Rate(60, 60),
    fetch=fetch,
    verified="history and latest shapes; the range route and its limit of ten days from public clients only",
    licence="proprietary; do not pass its values on",
    forecasts=True,
)
