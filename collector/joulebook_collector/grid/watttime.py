"""WattTime v3: marginal operating emissions (co2_moer) every five minutes. Consequential, never an inventory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from joulebook_collector.grid import DAY_US, Ask, Provider, ProviderError, Rate, Value
from joulebook_collector.grid.moments import field, moment_us, number, rows, written
from joulebook_collector.grid.session import Session
from joulebook_collector.priced import SeriesKey

NAME = "watttime"
G_PER_KWH_OF_LB_PER_MWH: Final = 0.45359237
"""A pound is 453.59237 g exactly (international pound), a megawatt hour 1000 kWh."""
TOKEN_SECONDS: Final = 25 * 60
"""A token lives for 30 minutes; a new one is fetched before."""


def fetch(session: Session, ask: Ask) -> Iterator[Value]:
    """Marginal intensity of a region: past values, and the forecast made now for what is to come."""
    until = min(ask.ended_at_us, ask.now_us)
    if ask.started_at_us < until:
        span = [("start", written(ask.started_at_us)), ("end", written(until))]
        yield from _values(_ask(session, ask, "/v3/historical", span), ask, "")
    if ask.forecast and ask.ended_at_us > ask.now_us:
        yield from _values(_ask(session, ask, "/v3/forecast", [("horizon_hours", "48")]), ask, "forecast")


def _ask(session: Session, ask: Ask, path: str, more: list[tuple[str, str]]) -> Any:
    params = [("region", ask.code), ("signal_type", "co2_moer"), *more]
    return session.json(path, params, headers={"Authorization": f"Bearer {_token(session)}"})


def _token(session: Session) -> str:
    token, since = session.memory.get("token", ("", 0.0))
    now = session.waits.now()
    if not token or now - since > TOKEN_SECONDS:
        token = field(session.login("/login", session.key), "token", NAME)
        if not isinstance(token, str) or not token.isprintable() or not token:
            raise ProviderError(f"{NAME}: /login gave no token", "check USER:PASSWORD in the key file")
        session.keep_secret(token)
        session.memory["token"] = (token, now)
    return str(token)


def _values(answer: Any, ask: Ask, status: str) -> Iterator[Value]:
    meta = field(answer, "meta", NAME)
    units, region = field(meta, "units", NAME), field(meta, "region", NAME)
    if units != "lbs_co2_per_mwh":
        raise ProviderError(
            f"{NAME}: its values are in {units!r}, not in lbs_co2_per_mwh", "a newer joulebook may know it"
        )
    if region != ask.code:
        raise ProviderError(f"{NAME}: asked for {ask.code}, it answered for {region!r}", "check the region")
    step = number(field(meta, "data_point_period_seconds", NAME))
    if step is None or not 60 <= step <= 86_400:
        raise ProviderError(f"{NAME}: periods of {step} seconds", "its answers have another shape than documented")
    for row in rows(field(answer, "data", NAME), NAME):
        start = moment_us(field(row, "point_time", NAME), NAME)
        pounds = number(field(row, "value", NAME))
        grams = None if pounds is None else pounds * G_PER_KWH_OF_LB_PER_MWH
        model = row.get("version") or (meta.get("model") or {}).get("date")
        yield Value(start, start + round(step * 1e6), grams, status, note=f"model {model}" if model else "")


PROVIDER = Provider(
    name=NAME,
    title="WattTime",
    series=(SeriesKey("", kind="marginal", basis="direct", gases="CO2"),),
    url="https://api.watttime.org",
    url_setting="JOULEBOOK_WATTTIME_URL",
    key_setting="JOULEBOOK_WATTTIME_KEY",
    key_file_setting="JOULEBOOK_WATTTIME_KEY_FILE",
    key_is="USER:PASSWORD of an account",
    most_span_us=31 * DAY_US,
    rate=Rate(3000, 300),
    fetch=fetch,
    verified="fields of both routes; warnings from general knowledge",
    licence="proprietary; no redistribution of its values",
    forecasts=True,
)
