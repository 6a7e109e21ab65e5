"""Energy-Charts (Fraunhofer ISE): public power generation by type, as intensity by the shipped fuel factors.

Its own co2eq is not used: whether it is direct or lifecycle is not said in what we could read.
"""

from __future__ import annotations

from typing import Final

from joulebook_collector.grid import DAY_US, Ask, Provider, ProviderError, Rate, Value
from joulebook_collector.grid.mix import DERIVED, STORAGE, mix_values
from joulebook_collector.grid.moments import MINUTE_US, field, number, rows, step_of, written
from joulebook_collector.grid.session import Session

NAME = "energy-charts"

TYPES: Final = {
    "biomass": "biomass",
    "fossil brown coal / lignite": "coal",
    "fossil hard coal": "coal",
    "fossil coal-derived gas": "gas",
    "fossil gas": "gas",
    "fossil oil": "oil",
    "fossil oil shale": "coal",
    "fossil peat": "coal",
    "geothermal": "geothermal",
    "hydro run-of-river": "hydro",
    "hydro water reservoir": "hydro",
    "hydro pumped storage": STORAGE,
    "hydro pumped storage consumption": STORAGE,
    "battery storage": STORAGE,
    "battery storage (power)": STORAGE,
    "battery consumption": STORAGE,
    "battery discharging": STORAGE,
    "battery charging": STORAGE,
    "marine": "hydro",
    "nuclear": "nuclear",
    "other renewables": "biomass",
    "others": "other",
    "solar": "solar",
    "waste": "waste",
    "wind offshore": "wind",
    "wind onshore": "wind",
}
"""Production type in lower case -> fuel of the factors."""

NO_PRODUCTION: Final = (
    "load",
    "load (incl. self-consumption)",
    "residual load",
    "renewable share of generation",
    "renewable share of load",
    "cross border electricity trading",
)
LONGEST_STEP_US: Final = 60 * MINUTE_US


def fetch(session: Session, ask: Ask) -> list[Value]:
    """Periods of a country. Load, shares and trade are left out by name; a name that nothing knows is refused."""
    span = [
        ("start", written(ask.started_at_us, "%Y-%m-%dT%H:%MZ")),
        ("end", written(ask.ended_at_us, "%Y-%m-%dT%H:%MZ")),
    ]
    answer = session.json("/public_power", [("country", ask.code), *span])
    seconds = rows(field(answer, "unix_seconds", NAME), NAME)
    if not seconds:
        return []
    if not all(isinstance(at, int) and not isinstance(at, bool) for at in seconds):
        raise ProviderError(
            f"{NAME}: times that are no whole seconds", "its answers have another shape than documented"
        )
    starts = [at * 1_000_000 for at in seconds]
    step = step_of(starts, NAME)
    if step > LONGEST_STEP_US:
        raise ProviderError(f"{NAME}: its periods seem longer than an hour", "ask for a longer range")
    by_type: dict[str, list[float | None]] = {}
    for row in rows(field(answer, "production_types", NAME), NAME):
        kind = str(field(row, "name", NAME)).strip().lower()
        if kind in NO_PRODUCTION:
            continue
        if kind not in TYPES:
            raise ProviderError(
                f"{NAME}: a production type {kind!r} that nothing knows", "a newer joulebook may know it"
            )
        by_type[kind] = [number(each) for each in rows(field(row, "data", NAME), NAME)]
        if len(by_type[kind]) != len(starts):
            raise ProviderError(f"{NAME}: {kind} has another number of values than times", "ask again later")
    periods = []
    for i, start in enumerate(starts):
        mix: dict[str, dict[str, float | None]] = {}
        for kind, amounts in by_type.items():
            mix.setdefault(TYPES[kind], {})[kind] = amounts[i]
        periods.append((start, start + step, mix))
    return mix_values(periods, ask.series.basis, "derived: public generation by type x fuel factors; imports left out")


def code_of(zone: str) -> str:
    """Countries are named in small letters."""
    return zone.lower()


PROVIDER = Provider(
    name=NAME,
    title="Energy-Charts (Fraunhofer ISE)",
    series=DERIVED,
    url="https://api.energy-charts.info",
    url_setting="JOULEBOOK_ENERGY_CHARTS_URL",
    most_span_us=14 * DAY_US,
    rate=Rate(30, 60),
    fetch=fetch,
    verified="generation shape from secondary notes; the co2eq route is not used",
    licence="mostly CC BY 4.0; each answer names its own where it differs",
    code_of=code_of,
    derived=True,
)
