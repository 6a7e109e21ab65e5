"""Intensity from a generation mix: the mean of the fuels' emission factors, weighted by what each generated.

Production-based: imports, exports and what storage gives back are left out. Always labelled as derived.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Final

from joulebook_collector.grid import Value
from joulebook_collector.priced import SeriesKey

STORAGE: Final = "storage"
"""Gives back what was generated before: no fuel."""

U_MIX: Final = 0.25
"""Relative standard uncertainty of a fuel's factor: the range of IPCC AR5 WG3 Annex III, common to all periods."""

MOST_NEGATIVE: Final = 0.02
"""Plants that stand still draw a little, which counts as 0; where that is more of the whole, the mix is not one."""

DERIVED: Final = (SeriesKey("", basis="lifecycle"), SeriesKey("", basis="direct"))
"""What a mix gives: average, production, location, CO2e, by either kind of factor."""


@cache
def fuel_factors(basis: str) -> dict[str, float]:
    """Fuel -> gCO2e/kWh, lifecycle or direct: data/emission_factors_fuel.csv, with a source per row."""
    text = (files("joulebook_collector") / "data" / "emission_factors_fuel.csv").read_text(encoding="utf-8")
    return {row["fuel"]: float(row[f"{basis}_g_per_kwh"]) for row in csv.DictReader(text.splitlines())}


def mix_intensity(generation: Mapping[str, float], basis: str) -> float:
    """g/kWh of generation by fuel, in any unit of energy or power that all share.

    Raises ValueError with the reason where it is no mix: nothing generated, not finite, or much below zero.
    """
    taken = {fuel: amount for fuel, amount in generation.items() if fuel != STORAGE}
    if not all(math.isfinite(amount) for amount in taken.values()):
        raise ValueError("an amount is not a number")
    whole = math.fsum(max(0.0, amount) for amount in taken.values())
    if whole <= 0:
        raise ValueError("nothing was generated")
    if -math.fsum(min(0.0, amount) for amount in taken.values()) > MOST_NEGATIVE * whole:
        raise ValueError("more than 2 % of it is negative")
    factors = fuel_factors(basis)
    return math.fsum(max(0.0, amount) * factors[fuel] for fuel, amount in taken.items()) / whole


def mix_values(
    periods: Iterable[tuple[int, int, Mapping[str, Mapping[str, float | None]]]],
    basis: str,
    note: str,
    types: Collection[str] = (),
) -> list[Value]:
    """Values of periods (start and end in UTC microseconds), each with what every type generated, by fuel.

    A type that generated in some period and is not told of in another leaves that one without a value: a mix
    without its coal is no cleaner.  types: those that are known to generate though no period is told of them whole.
    note: how it was made.
    """
    told = list(periods)
    seen = {
        (fuel, kind)
        for _, _, mix in told
        for fuel, kinds in mix.items()
        for kind, amount in kinds.items()
        if (amount is not None or kind in types) and fuel != STORAGE
    }
    return [_value(start, end, mix, seen, basis, note) for start, end, mix in told]


def _value(
    start: int,
    end: int,
    mix: Mapping[str, Mapping[str, float | None]],
    seen: set[tuple[str, str]],
    basis: str,
    note: str,
) -> Value:
    silent = sorted(kind for fuel, kind in seen if mix.get(fuel, {}).get(kind) is None)
    if silent:
        return Value(start, end, None, note=f"no generation is told of {', '.join(silent)}")
    sums = {fuel: math.fsum(a for a in kinds.values() if a is not None) for fuel, kinds in mix.items()}
    try:
        return Value(start, end, mix_intensity(sums, basis), u_rel=U_MIX, note=note)
    except ValueError as error:
        return Value(start, end, None, note=str(error))
