"""Uncertainty of products and the digits that may be printed (METHODS 4.8; GUM, JCGM 100)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Final

from joulebook.summary import COVERAGE_FACTOR

ROUGH_ABOVE: Final = 0.15
"""Relative u above which the first-order product rule is itself approximate (METHODS 4.8)."""


def product_u_rel(*u_rel: float) -> float:
    """Relative standard uncertainty of a product of independent factors, each u relative and >= 0.

    First order: u_r(C)^2 = u_r(E)^2 + u_r(PUE)^2 + u_r(I)^2.  Source: GUM 5.1.6.
    """
    return math.sqrt(sum(u * u for u in u_rel))


def common_u(parts: Iterable[tuple[Hashable, float]]) -> float:
    """Standard uncertainty of a sum whose parts share factors: (key of the factor, u) each.

    Parts with the same key move together and add; different keys add in quadrature.
    """
    by_key: dict[Hashable, float] = defaultdict(float)
    for key, u in parts:
        by_key[key] += u
    return math.sqrt(sum(u * u for u in by_key.values()))


def interval(value: float, u: float) -> tuple[float, float]:
    """(low, high) at k = 2 of a quantity that cannot be negative; u: standard uncertainty, >= 0."""
    return max(0.0, value - COVERAGE_FACTOR * u), value + COVERAGE_FACTOR * u


def decimals(u: float) -> int:
    """Decimal places at which a value of uncertainty ``u`` may be printed; negative left of the point.

    u: > 0.  One significant digit of u, two when its leading digit is 1.
    """
    exponent = math.floor(math.log10(u))
    leading = int(u / 10.0**exponent + 1e-9)
    return -exponent + (1 if leading == 1 else 0)


def rounded(value: float, places: int) -> str:
    """``value`` at that decimal place, in plain digits; negative places give whole tens, hundreds, ..."""
    return f"{round(value, places):.{max(0, places)}f}"


@dataclass(frozen=True, slots=True)
class Scale:
    """A unit for people: value in the base unit divided by ``factor``."""

    unit: str
    factor: float


JOULES: Final = (Scale("J", 1.0), Scale("kJ", 1e3), Scale("MJ", 1e6), Scale("GJ", 1e9))
GRAMS: Final = (Scale("µg", 1e-6), Scale("mg", 1e-3), Scale("g", 1.0), Scale("kg", 1e3), Scale("t", 1e6))
WATT_HOURS: Final = (Scale("mWh", 1e-3), Scale("Wh", 1.0), Scale("kWh", 1e3), Scale("MWh", 1e6))
WATTS: Final = (Scale("mW", 1e-3), Scale("W", 1.0), Scale("kW", 1e3))


def scale_for(largest: float, scales: tuple[Scale, ...]) -> Scale:
    """The largest unit in which ``largest`` is at least 1; the smallest when none is."""
    fitting = [scale for scale in scales if abs(largest) >= scale.factor]
    return fitting[-1] if fitting else scales[0]


def figure(value: float, expanded_u: float, scale: Scale) -> str:
    """``12.3 ± 0.4 kJ``: value and expanded uncertainty (k = 2) at the digits the latter allows.

    Without uncertainty three significant digits are shown, and no ``±``: it is not known to be exact.
    """
    shown, u = value / scale.factor, expanded_u / scale.factor
    if u <= 0 or not math.isfinite(u):
        return f"{significant(shown)} {scale.unit}"
    places = decimals(u)
    return f"{rounded(shown, places)} ± {rounded(u, places)} {scale.unit}"


def at_digits_of(value: float, expanded_u: float, scale: Scale) -> str:
    """``value`` at the digits that an expanded uncertainty allows, which is not its own and so not shown."""
    return f"{figure(value, expanded_u, scale).partition(' ')[0]} {scale.unit}"


def significant(value: float, digits: int = 3) -> str:
    """``value`` to that many significant digits, without an exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:.0f}"
    return rounded(value, digits - 1 - math.floor(math.log10(abs(value))))


def energy_text(energy_joules: float, pair: tuple[float, float] | list[float] | None = None) -> str:
    """Joules for people, with ± half the interval's width where one is given."""
    half = 0.0 if pair is None else max(pair[1] - energy_joules, energy_joules - pair[0])
    return figure(energy_joules, half, scale_for(energy_joules, JOULES))


def emissions_text(emissions_g: float, pair: tuple[float, float] | list[float] | None = None) -> str:
    """Grams CO2e for people, with ± half the interval's width where one is given."""
    half = 0.0 if pair is None else max(pair[1] - emissions_g, emissions_g - pair[0])
    return figure(emissions_g, half, scale_for(emissions_g, GRAMS))
