"""What pricing takes and gives: series, factors, sites and priced slots. Frozen data only."""

from __future__ import annotations

from dataclasses import dataclass

from joulebook.rows import Component


@dataclass(frozen=True, slots=True, order=True)
class SeriesKey:
    """What makes two intensity values comparable; values of different keys are never merged (law 6).

    zone: grid zone ("DE", "US-CA").  kind: average|marginal.  basis: direct|lifecycle.
    flow: production|consumption.  accounting: location|market.  gases: CO2|CO2e.
    """

    zone: str
    kind: str = "average"
    basis: str = "lifecycle"
    flow: str = "production"
    accounting: str = "location"
    gases: str = "CO2e"

    def label(self) -> str:
        """For tables and reports: every word that tells series apart."""
        return f"{self.zone} {self.kind} {self.basis} {self.flow} {self.accounting} {self.gases}"


@dataclass(frozen=True, slots=True)
class Factor:
    """An intensity over the half-open period that it is valid for, as known since known_at_us.

    g_per_kwh: >= 0.  u_rel: relative standard uncertainty.  annual: an annual mean, which
    also prices later periods until a newer value is known (labelled so).  status: "forecast",
    "estimated" (by whoever publishes it), "" for a value that is said as it is.
    """

    series: SeriesKey
    started_at_us: int
    ended_at_us: int
    g_per_kwh: float
    source: str
    u_rel: float
    annual: bool
    known_at_us: int
    txn: int
    status: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Site:
    """Where machines stand. pue: >= 1 or None when unknown; series None when no zone was named.

    provider: whom the values of its series are fetched from, "" when nobody.
    """

    site_id: str
    pue: float | None
    pue_source: str
    u_pue: float
    series: SeriesKey | None
    known_at_us: int
    note: str = ""
    provider: str = ""


@dataclass(frozen=True, slots=True)
class SlotEnergy:
    """IT energy of one part of a run within one pricing slot, integer millijoules: what pricing takes."""

    run_id: str
    machine_id: str
    component: Component
    phase: str
    member: str | None
    slot_started_at_us: int
    energy_millijoules: int


@dataclass(frozen=True, slots=True)
class PricedSlot:
    """A slot's energy with PUE and intensity joined to it, or why they could not be.

    facility_energy_joules: IT energy x PUE.  emissions_g: facility kWh x g_per_kwh.  Both None
    where the value they need is missing; missing says what and why, "" when nothing is.
    label: how the factor was used ("annual 2024 used for 2026", "forecast"), "" when it is the slot's own.
    """

    energy: SlotEnergy
    site_id: str
    pue: float | None
    u_pue: float
    facility_energy_joules: float | None
    series: SeriesKey | None
    g_per_kwh: float | None
    u_g_per_kwh: float
    factor_source: str
    emissions_g: float | None
    label: str
    missing: str
