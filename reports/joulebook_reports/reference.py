"""One reference PUE and intensity for all arms of a study: techniques are compared on the same grid (METHODS 4.2)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from joulebook.units import JOULES_PER_KWH
from joulebook_collector.priced import PricedSlot

from joulebook_reports.emissions import remedy
from joulebook_reports.facts import RunFacts
from joulebook_reports.uncertainty import product_u_rel


@dataclass(frozen=True, slots=True)
class Reference:
    """What a joule of IT energy emits on the reference site, or why that is not known.

    pue, g_per_kwh: weighted by energy over the compared runs.  u_rel: relative standard uncertainty of
    their product, which moves all arms alike.
    """

    pue: float | None = None
    g_per_kwh: float | None = None
    series: str | None = None
    sites: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    u_rel: float = 0.0
    missing: str = ""

    def grams(self, it_energy_joules: float) -> float | None:
        """Standardised emissions of IT energy (J), gCO2e: E x PUE_ref x I_ref."""
        if self.pue is None or self.g_per_kwh is None:
            return None
        return it_energy_joules / JOULES_PER_KWH * self.pue * self.g_per_kwh

    def as_json(self) -> dict[str, Any]:
        """The reference as reports give it."""
        return {
            "pue": self.pue,
            "g_per_kwh": self.g_per_kwh,
            "series": self.series,
            "sites": list(self.sites),
            "sources": list(self.sources),
            "labels": list(self.labels),
            "u_rel": self.u_rel,
            "missing": self.missing or None,
        }


def reference_of(runs: Iterable[RunFacts]) -> Reference:
    """The energy-weighted PUE and intensity of the runs' priced slots; never across series."""
    slots = [slot for facts in runs for slot in (*facts.slots, *facts.child_slots)]
    missing = sorted({slot.missing for slot in slots if slot.missing})
    if not slots:
        return Reference(missing="the compared runs have no energy to price")
    if missing:
        return Reference(missing=f"{'; '.join(missing)}; {remedy(slots)}")
    series = {slot.series for slot in slots if slot.series is not None}
    if len(series) != 1:
        labels = ", ".join(sorted(key.label() for key in series))
        return Reference(missing=f"the runs are priced by different series, which are never merged: {labels}")
    return _weighted(slots, next(iter(series)).label())


def _weighted(slots: Sequence[PricedSlot], series: str) -> Reference:
    it_energy = [slot.energy.energy_millijoules / 1000 for slot in slots]
    facility = [slot.facility_energy_joules or 0.0 for slot in slots]
    grams = [slot.emissions_g or 0.0 for slot in slots]
    if not math.fsum(it_energy):
        return Reference(missing="the compared runs have no energy to price")
    return Reference(
        pue=math.fsum(facility) / math.fsum(it_energy),
        g_per_kwh=math.fsum(grams) / math.fsum(facility) * JOULES_PER_KWH,
        series=series,
        sites=tuple(sorted({slot.site_id for slot in slots})),
        sources=tuple(sorted({slot.factor_source for slot in slots})),
        labels=tuple(sorted({slot.label for slot in slots if slot.label})),
        u_rel=product_u_rel(max(slot.u_pue for slot in slots), max(slot.u_g_per_kwh for slot in slots)),
    )
