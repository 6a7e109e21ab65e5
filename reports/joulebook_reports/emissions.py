"""Emissions of priced slots: sums per basis, their uncertainty, and what is missing (METHODS 3, 4.8)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from joulebook.summary import phase_name
from joulebook.units import JOULES_PER_KWH, joules, kwh
from joulebook_collector.priced import PricedSlot, SeriesKey
from joulebook_collector.pricing import mean_g_per_kwh
from joulebook_collector.shipped import LOCAL_SITE

from joulebook_reports.uncertainty import common_u, interval, product_u_rel

NOTHING_TO_PRICE = "the run has no energy to price"


@dataclass(frozen=True, slots=True)
class Emissions:
    """Emissions of some slots, or why there are none.

    grams, facility_kwh: None unless every slot could be priced and all share one basis.  u_grams:
    standard uncertainty (k = 1).  by_phase: phase -> grams, empty where ``grams`` is None.
    """

    grams: float | None
    u_grams: float
    facility_kwh: float | None
    by_phase: Mapping[str, float]
    missing: str

    @property
    def interval_g(self) -> tuple[float, float] | None:
        """gCO2e at k = 2."""
        return None if self.grams is None else interval(self.grams, self.u_grams)


def emissions_of(slots: Sequence[PricedSlot], energy_u_rel: float) -> Emissions:
    """Sum the slots.  energy_u_rel: relative standard uncertainty of their energy together."""
    missing = _missing(slots)
    facility = [slot.facility_energy_joules for slot in slots]
    known = [joule for joule in facility if joule is not None]
    whole_facility = kwh(math.fsum(known)) if slots and len(known) == len(slots) else None
    if missing:
        return Emissions(None, 0.0, whole_facility, {}, missing)
    grams = math.fsum(slot.emissions_g or 0.0 for slot in slots)
    return Emissions(grams, _u_grams(slots, grams, energy_u_rel), whole_facility, _by_phase(slots), "")


def remedy(slots: Sequence[PricedSlot]) -> str:
    """What to type so that the unpriced slots get a price."""
    first = min((s for s in slots if s.missing), key=lambda s: (s.site_id, s.energy.machine_id))
    if first.site_id != LOCAL_SITE:
        return f"type: joulebook site add {first.site_id}{_flags(first)}"
    machines = sorted({s.energy.machine_id for s in slots if s.missing and s.site_id == LOCAL_SITE})
    assigned = "".join(f"; joulebook site assign {machine} NAME" for machine in machines)
    return f"type: joulebook site add NAME{_flags(first)}{assigned}"


def _flags(slot: PricedSlot) -> str:
    pue = " --pue PUE --pue-source SOURCE" if slot.pue is None else ""
    return (" --zone ZONE" if slot.series is None or slot.g_per_kwh is None else "") + pue


def basis(series: SeriesKey) -> tuple[str, ...]:
    """What must agree before grams may be summed; zones may differ (law 6)."""
    return (series.kind, series.basis, series.flow, series.accounting, series.gases)


def pricing_table(slots: Sequence[PricedSlot]) -> list[dict[str, Any]]:
    """One row per way in which joules were priced, energy kept apart before and after PUE."""
    groups: dict[tuple[Any, ...], list[PricedSlot]] = defaultdict(list)
    for slot in slots:
        groups[_way(slot)].append(slot)
    return [_pricing_row(groups[way]) for way in sorted(groups, key=str)]


def _missing(slots: Sequence[PricedSlot]) -> str:
    if not slots:
        return NOTHING_TO_PRICE
    reasons = sorted({slot.missing for slot in slots if slot.missing})
    if reasons:
        unpriced = sum(slot.energy.energy_millijoules for slot in slots if slot.missing)
        whole = sum(slot.energy.energy_millijoules for slot in slots)
        part = "" if unpriced == whole else f" ({joules(unpriced):.3f} J of {joules(whole):.3f} J)"
        return f"{'; '.join(reasons)}{part}; {remedy(slots)}"
    bases = {basis(slot.series) for slot in slots if slot.series is not None}
    if len(bases) > 1:
        return "slots are priced on different bases, which are never summed; see pricing"
    return ""


def _u_grams(slots: Sequence[PricedSlot], grams: float, energy_u_rel: float) -> float:
    """Each factor's gain is common to the slots that it priced; the three kinds of factor are independent."""
    if grams == 0:
        return 0.0
    pue: list[tuple[Hashable, float]] = [(s.site_id, (s.emissions_g or 0.0) * s.u_pue) for s in slots]
    grid: list[tuple[Hashable, float]] = [(s.series, (s.emissions_g or 0.0) * s.u_g_per_kwh) for s in slots]
    return grams * product_u_rel(energy_u_rel, common_u(pue) / grams, common_u(grid) / grams)


def _by_phase(slots: Sequence[PricedSlot]) -> dict[str, float]:
    totals: dict[str, float] = defaultdict(float)
    for slot in slots:
        totals[phase_name(slot.energy.phase)] += slot.emissions_g or 0.0
    return dict(totals)


def _way(slot: PricedSlot) -> tuple[Any, ...]:
    has_none = slot.g_per_kwh is None
    u = (slot.u_pue, slot.u_g_per_kwh)
    return (slot.site_id, slot.pue, slot.series, has_none, slot.factor_source, slot.label, slot.missing, *u)


def _pricing_row(slots: Sequence[PricedSlot]) -> dict[str, Any]:
    first = slots[0]
    known = [s.g_per_kwh for s in slots if s.g_per_kwh is not None]
    it_joules = joules(sum(slot.energy.energy_millijoules for slot in slots))
    facility = [s.facility_energy_joules for s in slots if s.facility_energy_joules is not None]
    grams = [s.emissions_g for s in slots if s.emissions_g is not None]
    return {
        "site": first.site_id,
        "pue": first.pue,
        "u_pue": first.u_pue,
        "series": None if first.series is None else first.series.label(),
        "g_per_kwh": mean_g_per_kwh(slots),
        "g_per_kwh_range": [min(known), max(known)] if known else None,
        "u_g_per_kwh": first.u_g_per_kwh,
        "factor_source": first.factor_source,
        "label": first.label,
        "missing": first.missing or None,
        "it_energy_kwh": it_joules / JOULES_PER_KWH,
        "facility_energy_kwh": kwh(math.fsum(facility)) if len(facility) == len(slots) else None,
        "emissions_g": math.fsum(grams) if len(grams) == len(slots) else None,
    }
