"""Pricing: a join of slots of energy with sites and factors as known at T. It knows no hardware.

METHODS 3: C = sum of E_IT x PUE x I over slots; within a factor's period I is a step.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from joulebook.rows import Component, Measurement, Policy, Run, Share
from joulebook.spans import cut, grid_cuts
from joulebook.split import resplit
from joulebook.units import US_PER_HOUR

from joulebook_collector.ledger import Ledger
from joulebook_collector.priced import PricedSlot, SeriesKey, SlotEnergy
from joulebook_collector.shipped import ANNUAL_U_REL

FINEST_SLOT_US: Final = 5 * 60 * 1_000_000
"""No factor's period starts or ends off a five-minute edge, so no slot need be shorter."""


def slot_energies(
    run: Run,
    measurements: Iterable[Measurement],
    policy: Policy | None = None,
    slot_us: int = US_PER_HOUR,
    moved: Mapping[str, Sequence[int]] | None = None,
) -> list[SlotEnergy]:
    """The run's own shares, cut at the edges of pricing slots; their sum is the shares' sum exactly.

    policy: None keeps the shares as written, else they are split again from their weights.
    slot_us: length of a slot, > 0 microseconds; slots start at its multiples in UTC.  moved: machine ->
    when it came to another site (moves_of): a slot starts there too, so that no slot has two sites.
    A span is uniform within.  Sorted by slot, machine, component, phase and member.
    """
    slots: dict[tuple[int, str, Component, str, str | None], int] = defaultdict(int)
    for m in measurements:
        mine = [share for share in shares_under(m, policy) if share.run_id == run.run_id and share.millijoules]
        if not mine:
            continue
        edges = (moved or {}).get(m.machine_id, ())
        cuts = _cuts(m, slot_us, edges)
        starts = [_slot_start(m.started_at_us, slot_us, edges), *cuts]
        for share in mine:
            parts = cut(share.millijoules, m.started_at_us, m.ended_at_us, cuts)
            for start, part in zip(starts, parts, strict=True):
                slots[start, m.machine_id, m.component, share.phase, share.member] += part
    return [
        SlotEnergy(run.run_id, machine, component, phase, member, start, energy)
        for (start, machine, component, phase, member), energy in sorted(slots.items(), key=_slot_order)
        if energy
    ]


def _cuts(m: Measurement, slot_us: int, edges: Sequence[int]) -> list[int]:
    inside = [edge for edge in edges if m.started_at_us < edge < m.ended_at_us]
    return sorted({*grid_cuts(m.started_at_us, m.ended_at_us, slot_us), *inside})


def _slot_start(at_us: int, slot_us: int, edges: Sequence[int]) -> int:
    start = at_us // slot_us * slot_us
    return max((edge for edge in edges if start < edge <= at_us), default=start)


def moves_of(ledger: Ledger, as_of_us: int | None = None) -> dict[str, list[int]]:
    """machine -> instants (UTC microseconds, ascending) from which it stood at a site, as known at T."""
    rows = ledger.query(
        "select distinct machine_id, from_us from site_assignment where known_at_us <= ? order by machine_id, from_us",
        [ledger.as_of(as_of_us)],
    )
    moved: dict[str, list[int]] = defaultdict(list)
    for machine_id, from_us in rows:
        moved[machine_id].append(from_us)
    return dict(moved)


def shares_under(measurement: Measurement, policy: Policy | None) -> Sequence[Share]:
    """The measurement's shares under a policy; as written when it is the one they were written under."""
    if policy is None or all(share.policy is policy for share in measurement.shares):
        return measurement.shares
    return resplit(measurement, policy)


def price(ledger: Ledger, slots: Sequence[SlotEnergy], as_of_us: int | None = None) -> list[PricedSlot]:
    """Each slot with its site, PUE and factor as known at T, in the order given.

    A value of the slot's own period beats an annual mean; for the same period, a value that was added
    beats a shipped one, then what is known later beats what was known earlier; an annual mean prices
    later years until a newer one is known.
    What is missing is None, and says so.
    """
    return [known.slot for known in price_known(ledger, slots, ledger.as_of(as_of_us))]


@dataclass(frozen=True, slots=True)
class KnownPrice:
    """A priced slot, and since when (UTC microseconds) what is behind it is known; 0 where there is none.

    assigned_known_at_us: of the assignment that put its machine at its site.
    """

    slot: PricedSlot
    factor_known_at_us: int
    site_known_at_us: int
    assigned_known_at_us: int


def price_known(ledger: Ledger, slots: Sequence[SlotEnergy], as_of_us: int) -> list[KnownPrice]:
    """``price`` with the knowledge behind each price."""
    rows = [(i, s.machine_id, s.slot_started_at_us, s.energy_millijoules) for i, s in enumerate(slots)]
    ledger.table("slot_energy", _SLOT_ENERGY, rows)
    priced = ledger.query(PRICE_SQL, {"as_of": as_of_us})
    return [_known(slot, row) for slot, row in zip(slots, priced, strict=True)]


def slot_step_us(ledger: Ledger, runs: Sequence[Run], as_of_us: int | None = None) -> int:
    """Length of pricing slots, 5 to 60 minutes in microseconds: factor edges within the runs' spans are slot edges."""
    as_of = ledger.as_of(as_of_us)
    step = US_PER_HOUR
    for run in runs:
        ended = as_of if run.ended_at_us is None else run.ended_at_us
        edges = ledger.query(
            "select started_at_us, ended_at_us from factor where not annual and known_at_us <= ?"
            " and started_at_us <= ? and ended_at_us >= ?",
            [as_of, ended, run.started_at_us],
        )
        step = math.gcd(step, *(edge for period in edges for edge in period))
    return max(step, FINEST_SLOT_US)


def _slot_order(item: tuple[tuple[int, str, Component, str, str | None], int]) -> tuple[int, str, str, str, bool, str]:
    (start, machine, component, phase, member), _ = item
    return (start, machine, component, phase, member is not None, member or "")


def _known(slot: SlotEnergy, row: Sequence[Any]) -> KnownPrice:
    _, site_id, pue, u_pue, facility, *series, g_per_kwh, u_rel, source, started, ended, annual, emissions = row[:-3]
    key = None if series[0] is None else SeriesKey(*series)
    label = _label(annual, started, ended, slot.slot_started_at_us) if g_per_kwh is not None else ""
    carried = bool(annual) and ended is not None and slot.slot_started_at_us >= ended
    priced = PricedSlot(
        energy=slot,
        site_id=site_id,
        pue=pue,
        u_pue=u_pue or 0.0,
        facility_energy_joules=facility,
        series=key,
        g_per_kwh=g_per_kwh,
        u_g_per_kwh=max(u_rel or 0.0, ANNUAL_U_REL if carried else 0.0),
        factor_source=source or "",
        emissions_g=emissions,
        label=label,
        missing=_missing(site_id, pue, key, g_per_kwh, slot.slot_started_at_us),
    )
    factor_us, site_us, assigned_us = (known or 0 for known in row[-3:])
    return KnownPrice(priced, factor_us, site_us, assigned_us)


def _label(annual: bool, started_at_us: int, ended_at_us: int, slot_us: int) -> str:
    if not annual:
        return ""
    year = _year(started_at_us)
    return f"annual {year} used for {_year(slot_us)}" if slot_us >= ended_at_us else f"annual {year} mean"


def _missing(site_id: str, pue: float | None, series: SeriesKey | None, g_per_kwh: float | None, slot_us: int) -> str:
    lacks = []
    if pue is None:
        lacks.append(f"site {site_id} has no PUE")
    if series is None:
        lacks.append(f"site {site_id} has no grid zone")
    elif g_per_kwh is None:
        lacks.append(f"no value of {series.label()} is known for {_year(slot_us)} or an earlier year")
    return "; ".join(lacks)


def _year(at_us: int) -> int:
    return datetime.fromtimestamp(at_us // 1_000_000, tz=UTC).year


_SLOT_ENERGY: Final = (
    ("ordinal", "bigint"),
    ("machine_id", "varchar"),
    ("slot_started_at_us", "bigint"),
    ("energy_millijoules", "bigint"),
)

PRICE_SQL: Final = """
with place as (
    select distinct machine_id, slot_started_at_us from slot_energy
), assigned as (
    select machine_id, slot_started_at_us, site_id, known_at_us from (
        select p.machine_id, p.slot_started_at_us, a.site_id, a.known_at_us, row_number() over (
            partition by p.machine_id, p.slot_started_at_us order by a.from_us desc, a.txn desc) as choice
        from place as p
        join site_assignment as a on a.machine_id = p.machine_id
            and a.from_us <= p.slot_started_at_us and a.known_at_us <= $as_of
    ) as ranked where choice = 1
), known_site as (
    select * from (
        select s.*, row_number() over (partition by s.site_id order by s.txn desc) as choice
        from site as s where s.known_at_us <= $as_of
    ) as ranked where choice = 1
), located as (
    select p.machine_id, p.slot_started_at_us, coalesce(a.site_id, 'local') as site_id, s.pue, s.u_pue,
        s.zone, s.kind, s.basis, s.flow, s.accounting, s.gases, s.known_at_us as site_known_at_us,
        a.known_at_us as assigned_known_at_us
    from place as p
    left join assigned as a on a.machine_id = p.machine_id and a.slot_started_at_us = p.slot_started_at_us
    left join known_site as s on s.site_id = coalesce(a.site_id, 'local')
), wanted as (
    select distinct zone, kind, basis, flow, accounting, gases, slot_started_at_us
    from located where zone is not null
), chosen as (
    select * from (
        select w.zone, w.kind, w.basis, w.flow, w.accounting, w.gases, w.slot_started_at_us,
            f.g_per_kwh, f.u_rel, f.source, f.started_at_us, f.ended_at_us, f.annual,
            f.known_at_us as factor_known_at_us, row_number() over (
                partition by w.zone, w.kind, w.basis, w.flow, w.accounting, w.gases, w.slot_started_at_us
                order by case when f.annual then 1 else 0 end,
                    case when f.annual then f.started_at_us else 0 end desc,
                    case when f.origin like 'shipped:%' then 1 else 0 end, f.txn desc, f.ordinal desc) as choice
        from wanted as w
        join factor as f on f.zone = w.zone and f.kind = w.kind and f.basis = w.basis and f.flow = w.flow
            and f.accounting = w.accounting and f.gases = w.gases
            and f.started_at_us <= w.slot_started_at_us
            and (f.annual or w.slot_started_at_us < f.ended_at_us)
            and f.known_at_us <= $as_of
    ) as ranked where choice = 1
)
select e.ordinal, l.site_id, l.pue, l.u_pue,
    e.energy_millijoules / 1000.0e0 * l.pue as facility_energy_joules,
    l.zone, l.kind, l.basis, l.flow, l.accounting, l.gases,
    c.g_per_kwh, c.u_rel, c.source, c.started_at_us, c.ended_at_us, c.annual,
    e.energy_millijoules / 1000.0e0 * l.pue / 3.6e6 * c.g_per_kwh as emissions_g,
    c.factor_known_at_us, l.site_known_at_us, l.assigned_known_at_us
from slot_energy as e
join located as l on l.machine_id = e.machine_id and l.slot_started_at_us = e.slot_started_at_us
left join chosen as c on c.zone = l.zone and c.kind = l.kind and c.basis = l.basis and c.flow = l.flow
    and c.accounting = l.accounting and c.gases = l.gases and c.slot_started_at_us = l.slot_started_at_us
order by e.ordinal
"""
"""The price of every slot: factors join after aggregation, never per row. Plain SQL, for other engines too."""
