"""ENTSO-E Transparency Platform: actual generation per type (A75), as intensity by fuel factors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from xml.etree.ElementTree import Element

from joulebook_collector.grid import DAY_US, Ask, Provider, ProviderError, Rate, Value
from joulebook_collector.grid.codes import only
from joulebook_collector.grid.eic import AREAS
from joulebook_collector.grid.mix import DERIVED, STORAGE, mix_values
from joulebook_collector.grid.moments import MINUTE_US, moment_us, number, written
from joulebook_collector.grid.session import Session

NAME = "entsoe"
MINUTES: Final = "%Y%m%d%H%M"
NO_DATA: Final = "999"

FUELS: Final = {
    "B01": "biomass",
    "B02": "coal",
    "B03": "gas",
    "B04": "gas",
    "B05": "coal",
    "B06": "oil",
    "B07": "coal",
    "B08": "coal",
    "B09": "geothermal",
    "B10": STORAGE,
    "B11": "hydro",
    "B12": "hydro",
    "B13": "hydro",
    "B14": "nuclear",
    "B15": "biomass",
    "B16": "solar",
    "B17": "waste",
    "B18": "wind",
    "B19": "wind",
    "B20": "other",
    "B25": STORAGE,
}
"""psrType -> fuel of the factors; shale and peat as coal, other renewable as biomass."""


def fetch(session: Session, ask: Ask) -> list[Value]:
    """Periods of an area, as long as those of its coarsest type: 15 to 60 minutes."""
    params = [
        ("documentType", "A75"),
        ("processType", "A16"),
        ("in_Domain", ask.code),
        ("periodStart", written(ask.started_at_us, MINUTES)),
        ("periodEnd", written(ask.ended_at_us, MINUTES)),
    ]
    root = session.xml("", params, secret_params=[("securityToken", session.key)])
    if _tag(root) == "Acknowledgement_MarketDocument":
        code, text = _text(root, "Reason", "code"), _text(root, "Reason", "text")
        if code == NO_DATA:
            return []
        raise ProviderError(f"{NAME}: {session.client.scrubbed(text)[:200] or code}", "check the area and the range")
    if _tag(root) != "GL_MarketDocument":
        raise ProviderError(f"{NAME}: a document {_tag(root)!r}", "its answers have another shape than documented")
    steps, points = _points(root)
    step, kinds = max(steps, default=0), sorted({kind for _, kind in points})
    periods = []
    for start in sorted({at // step * step for at, _ in points}):
        mix: dict[str, dict[str, float | None]] = {}
        for kind in kinds:
            mix.setdefault(FUELS[kind], {})[kind] = _mean(points, kind, start, step)
        periods.append((start, start + step, mix))
    note = "derived: ENTSO-E generation by type x fuel factors; imports left out"
    return mix_values(periods, ask.series.basis, note, kinds)


def _mean(points: dict[tuple[int, str], tuple[float, int]], kind: str, start: int, step: int) -> float | None:
    """Mean power of a type over [start, start + step), None where any part of it is not told."""
    amounts, at = [], start
    while at < start + step:
        found = points.get((at, kind))
        if found is None:
            return None
        amounts.append(found[0] * found[1])
        at += found[1]
    return sum(amounts) / step if at == start + step else None


def _points(root: Element) -> tuple[set[int], dict[tuple[int, str], tuple[float, int]]]:
    """(start, psrType) -> power and how long it lasts; and all lengths that occur."""
    steps: set[int] = set()
    points: dict[tuple[int, str], tuple[float, int]] = {}
    for series in _children(root, "TimeSeries"):
        if next(_children(series, "outBiddingZone_Domain.mRID"), None) is not None:
            continue  # consumption of storage
        kind, unit = _text(series, "MktPSRType", "psrType"), _text(series, "quantity_Measure_Unit.name")
        if kind not in FUELS or unit != "MAW":
            raise ProviderError(f"{NAME}: generation of type {kind!r} in {unit!r}", "a newer joulebook may know it")
        for period in _children(series, "Period"):
            step, filled = _period(period, _text(series, "curveType") == "A03")
            steps.add(step)
            for start, amount in filled:
                if points.setdefault((start, kind), (amount, step)) != (amount, step):
                    raise ProviderError(f"{NAME}: two amounts of {kind} at {written(start)}", "ask again later")
    return steps, points


def _period(period: Element, repeats: bool) -> tuple[int, list[tuple[int, float]]]:
    """Points of a period. repeats: of curve type A03, which leaves out a point that is as the one before."""
    start = moment_us(_text(period, "timeInterval", "start"), NAME)
    end = moment_us(_text(period, "timeInterval", "end"), NAME)
    resolution = re.fullmatch(r"PT(15|30|60)M", _text(period, "resolution"))
    if resolution is None:
        raise ProviderError(f"{NAME}: a resolution {_text(period, 'resolution')!r}", "a newer joulebook may know it")
    step = int(resolution[1]) * MINUTE_US
    told = {number(_text(point, "position")): number(_text(point, "quantity")) for point in _children(period, "Point")}
    filled, last = [], None
    for i in range((end - start) // step):
        amount = told.get(float(i + 1))
        last = amount if amount is not None or not repeats else last
        if last is not None:
            filled.append((start + i * step, last))
    return step, filled


def _tag(element: Element) -> str:
    return element.tag.rpartition("}")[2]


def _children(element: Element, name: str) -> Iterator[Element]:
    return (child for child in element if _tag(child) == name)


def _text(element: Element, *names: str) -> str:
    """Text of the first such descendant, "" when there is none."""
    found: Element | None = element
    for name in names:
        found = None if found is None else next(_children(found, name), None)
    return (found.text or "").strip() if found is not None else ""


PROVIDER = Provider(
    name=NAME,
    title="ENTSO-E Transparency Platform",
    series=DERIVED,
    url="https://web-api.tp.entsoe.eu/api",
    url_setting="JOULEBOOK_ENTSOE_URL",
    key_setting="JOULEBOOK_ENTSOE_KEY",
    key_file_setting="JOULEBOOK_ENTSOE_KEY_FILE",
    key_is="a securityToken, asked for by e-mail",
    most_span_us=30 * DAY_US,
    rate=Rate(300, 60),
    fetch=fetch,
    verified="route, codes and time-out; the rate limit from general knowledge",
    licence="CC BY 4.0 for most items",
    code_of=only(NAME, AREAS),
    derived=True,
)
