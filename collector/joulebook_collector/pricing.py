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

    A value of the slot's own period comes first: as said before estimated before forecast, then what is
    known later. Without one, in this order and labelled: the mean of the same hour of the week in the four
    weeks before (two of them known, u 0.2), of the month (seven days known), the annual mean of the slot's
    year, the mean of its year's values (91 days known), the annual mean of an earlier year, and the same for the
    country of a zone that is part of one, of the same six words but the zone. Means leave forecasts out.
    Of annual means, one that was added beats a shipped one, then what is known later.
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


def mean_g_per_kwh(slots: Sequence[PricedSlot]) -> float | None:
    """Intensity of slots of one PUE together, g/kWh, weighted by their energy; None where any of them has none."""
    known = [slot.g_per_kwh for slot in slots if slot.g_per_kwh is not None]
    if len(known) < len(slots):
        return None
    if len(set(known)) == 1:
        return known[0]
    energy = [slot.energy.energy_millijoules for slot in slots]
    return math.fsum(g * e for g, e in zip(known, energy, strict=True)) / sum(energy)


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
    _, site_id, pue, u_pue, facility, *series, g_per_kwh, u_rel, source, last_source, started, ended, way, zone = row[
        :-4
    ]
    key = None if series[0] is None else SeriesKey(*series)
    other = key is not None and zone not in (None, key.zone)
    carried = way == "annual" and slot.slot_started_at_us >= ended
    label = "" if g_per_kwh is None else _label(way, started, carried, slot.slot_started_at_us)
    if key is not None and other:
        label = "; ".join(filter(None, (f"{zone} used for {key.zone}", label)))
    priced = PricedSlot(
        energy=slot,
        site_id=site_id,
        pue=pue,
        u_pue=u_pue or 0.0,
        facility_energy_joules=facility,
        series=key,
        g_per_kwh=g_per_kwh,
        u_g_per_kwh=max(u_rel or 0.0, ANNUAL_U_REL if carried or other else 0.0),
        factor_source="" if source is None else source if source == last_source else f"{source}; {last_source}",
        emissions_g=row[-4],
        label=label,
        missing=_missing(site_id, pue, key, g_per_kwh, slot.slot_started_at_us),
    )
    factor_us, site_us, assigned_us = (known or 0 for known in row[-3:])
    return KnownPrice(priced, factor_us, site_us, assigned_us)


def _label(way: str, started_at_us: int, carried: bool, slot_us: int) -> str:
    """How a factor was used, "" when it is said of the slot itself (METHODS 3, the ladder of missing intensities)."""
    if way == "annual":
        return f"annual {_year(started_at_us)} {f'used for {_year(slot_us)}' if carried else 'mean'}"
    at = datetime.fromtimestamp(slot_us // 1_000_000, tz=UTC)
    return {
        "": "",
        "forecast": "forecast",
        "estimated": "estimated by its source",
        "same hour": "no value: mean of this hour of the week, 4 weeks before",
        "month": f"no value: mean of {at:%Y-%m}",
        "year": f"no value: mean of {at:%Y}",
    }[way]


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
), looked_at as (
    select zone as of_zone, 0 as step_back, w.* from wanted as w
    union all
    select zone as of_zone, 1 as step_back, split_part(zone, '-', 1), kind, basis, flow, accounting, gases,
        slot_started_at_us
    from wanted where zone like '%-%'
), near_hour as (
    select *, cast(floor(slot_started_at_us / 3.6e9) as bigint) as start_hour from looked_at
    union all
    select *, cast(floor(slot_started_at_us / 3.6e9) as bigint) - 1 as start_hour from looked_at
), candidate as (
    select w.*, f.g_per_kwh, f.u_rel, f.source, f.started_at_us, f.ended_at_us, f.annual, f.status, f.origin,
        f.txn, f.ordinal, f.known_at_us
    from looked_at as w
    join factor as f on f.zone = w.zone and f.kind = w.kind and f.basis = w.basis and f.flow = w.flow
        and f.accounting = w.accounting and f.gases = w.gases and f.known_at_us <= $as_of
        and f.started_at_us <= w.slot_started_at_us
        and (f.annual or f.ended_at_us - f.started_at_us > 3600000000)
        and (f.annual or w.slot_started_at_us < f.ended_at_us)
    union all
    select w.of_zone, w.step_back, w.zone, w.kind, w.basis, w.flow, w.accounting, w.gases, w.slot_started_at_us,
        f.g_per_kwh, f.u_rel, f.source, f.started_at_us, f.ended_at_us, f.annual, f.status, f.origin, f.txn, f.ordinal,
        f.known_at_us
    from near_hour as w
    join factor as f on f.zone = w.zone and f.kind = w.kind and f.basis = w.basis and f.flow = w.flow
        and f.accounting = w.accounting and f.gases = w.gases and f.known_at_us <= $as_of
        and cast(floor(f.started_at_us / 3.6e9) as bigint) = w.start_hour
        and not f.annual and f.ended_at_us - f.started_at_us <= 3600000000
        and f.started_at_us <= w.slot_started_at_us and w.slot_started_at_us < f.ended_at_us
), said as (
    select *, source as last_source, case when annual then 'annual' else coalesce(status, '') end as way,
        case when not annual then 0 when slot_started_at_us < ended_at_us then 3 else 5 end + 10 * step_back as rung,
        known_at_us as factor_known_at_us
    from (
        select *, row_number() over (
            partition by of_zone, zone, kind, basis, flow, accounting, gases, slot_started_at_us
            order by case when annual then 1 else 0 end, case when annual then started_at_us else 0 end desc,
                case coalesce(status, '') when 'forecast' then 2 when 'estimated' then 1 else 0 end,
                case when origin like 'shipped:%' then 1 else 0 end, txn desc, ordinal desc) as choice
        from candidate
    ) as ranked where choice = 1
), lacking as (
    select w.*, cast(floor(w.slot_started_at_us / 3.6e9) as bigint) as hour,
        date '1970-01-01' + cast(floor(w.slot_started_at_us / 8.64e10) as integer) as day
    from wanted as w
    left join said as s on s.rung = 0 and s.zone = w.zone and s.kind = w.kind and s.basis = w.basis
        and s.flow = w.flow and s.accounting = w.accounting and s.gases = w.gases
        and s.slot_started_at_us = w.slot_started_at_us
    where s.zone is null
), period as (
    select *, ended_at_us - started_at_us as long_us, cast(floor(started_at_us / 3.6e9) as bigint) as hour from (
        select f.zone, f.kind, f.basis, f.flow, f.accounting, f.gases, f.started_at_us, f.ended_at_us, f.g_per_kwh,
            f.source, f.known_at_us, f.txn, row_number() over (
                partition by f.zone, f.kind, f.basis, f.flow, f.accounting, f.gases, f.started_at_us, f.ended_at_us
                order by case coalesce(f.status, '') when 'estimated' then 1 else 0 end, f.txn desc, f.ordinal desc
            ) as choice
        from factor as f
        join (select distinct zone, kind, basis, flow, accounting, gases from lacking) as w
            on f.zone = w.zone and f.kind = w.kind and f.basis = w.basis and f.flow = w.flow
            and f.accounting = w.accounting and f.gases = w.gases
        where not f.annual and coalesce(f.status, '') <> 'forecast' and f.known_at_us <= $as_of
    ) as ranked where choice = 1
), hourly as (
    select zone, kind, basis, flow, accounting, gases, hour, sum(g_per_kwh * long_us) / sum(long_us) as g_per_kwh,
        sum(long_us) as long_us, min(source) as source, max(source) as last_source, max(known_at_us) as known_at_us,
        date '1970-01-01' + cast(floor(hour / 24.0e0) as integer) as day
    from (
        select *, first_value(long_us) over (
            partition by zone, kind, basis, flow, accounting, gases, hour order by txn desc, long_us) as newest_us
        from period
    ) as p where long_us = newest_us
    group by zone, kind, basis, flow, accounting, gases, hour
), weeks_before as (
    select *, hour - 168 as that_hour from lacking union all select *, hour - 336 as that_hour from lacking union all
    select *, hour - 504 as that_hour from lacking union all select *, hour - 672 as that_hour from lacking
), same_hour as (
    select l.zone, l.kind, l.basis, l.flow, l.accounting, l.gases, l.slot_started_at_us, avg(h.g_per_kwh) as g_per_kwh,
        min(h.source) as source, max(h.last_source) as last_source, max(h.known_at_us) as known_at_us
    from weeks_before as l
    join hourly as h on h.zone = l.zone and h.kind = l.kind and h.basis = l.basis and h.flow = l.flow
        and h.accounting = l.accounting and h.gases = l.gases and h.hour = l.that_hour and h.long_us <= 3600000000
    group by l.zone, l.kind, l.basis, l.flow, l.accounting, l.gases, l.slot_started_at_us
    having count(*) >= 2
), monthly as (
    select zone, kind, basis, flow, accounting, gases, year(day) as in_year, month(day) as in_month,
        sum(g_per_kwh * long_us) / sum(long_us) as g_per_kwh, min(source) as source, max(last_source) as last_source,
        max(known_at_us) as known_at_us
    from hourly group by zone, kind, basis, flow, accounting, gases, year(day), month(day)
    having sum(long_us) >= 7 * 8.64e10
), yearly as (
    select zone, kind, basis, flow, accounting, gases, year(day) as in_year,
        sum(g_per_kwh * long_us) / sum(long_us) as g_per_kwh, min(source) as source, max(last_source) as last_source,
        max(known_at_us) as known_at_us
    from hourly group by zone, kind, basis, flow, accounting, gases, year(day)
    having sum(long_us) >= 91 * 8.64e10
), ladder as (
    select of_zone, step_back, zone, kind, basis, flow, accounting, gases, slot_started_at_us, g_per_kwh, u_rel,
        source, last_source, started_at_us, ended_at_us, way, rung, factor_known_at_us
    from said
    union all
    select zone, 0, zone, kind, basis, flow, accounting, gases, slot_started_at_us, g_per_kwh, 0.2e0,
        source, last_source, slot_started_at_us, slot_started_at_us, 'same hour', 1, known_at_us
    from same_hour
    union all
    select l.zone, 0, l.zone, l.kind, l.basis, l.flow, l.accounting, l.gases, l.slot_started_at_us, m.g_per_kwh, 0.3e0,
        m.source, m.last_source, l.slot_started_at_us, l.slot_started_at_us, 'month', 2, m.known_at_us
    from lacking as l
    join monthly as m on m.zone = l.zone and m.kind = l.kind and m.basis = l.basis and m.flow = l.flow
        and m.accounting = l.accounting and m.gases = l.gases
        and m.in_year = year(l.day) and m.in_month = month(l.day)
    union all
    select l.zone, 0, l.zone, l.kind, l.basis, l.flow, l.accounting, l.gases, l.slot_started_at_us, y.g_per_kwh, 0.3e0,
        y.source, y.last_source, l.slot_started_at_us, l.slot_started_at_us, 'year', 4, y.known_at_us
    from lacking as l
    join yearly as y on y.zone = l.zone and y.kind = l.kind and y.basis = l.basis and y.flow = l.flow
        and y.accounting = l.accounting and y.gases = l.gases and y.in_year = year(l.day)
), chosen as (
    select * from (
        select *, row_number() over (
            partition by of_zone, kind, basis, flow, accounting, gases, slot_started_at_us order by rung) as step
        from ladder
    ) as ranked where step = 1
)
select e.ordinal, l.site_id, l.pue, l.u_pue,
    e.energy_millijoules / 1000.0e0 * l.pue as facility_energy_joules,
    l.zone, l.kind, l.basis, l.flow, l.accounting, l.gases,
    c.g_per_kwh, c.u_rel, c.source, c.last_source, c.started_at_us, c.ended_at_us, c.way, c.zone as factor_zone,
    e.energy_millijoules / 1000.0e0 * l.pue / 3.6e6 * c.g_per_kwh as emissions_g,
    c.factor_known_at_us, l.site_known_at_us, l.assigned_known_at_us
from slot_energy as e
join located as l on l.machine_id = e.machine_id and l.slot_started_at_us = e.slot_started_at_us
left join chosen as c on c.of_zone = l.zone and c.kind = l.kind and c.basis = l.basis and c.flow = l.flow
    and c.accounting = l.accounting and c.gases = l.gases and c.slot_started_at_us = l.slot_started_at_us
order by e.ordinal
"""
"""The price of every slot: factors join after aggregation, never per row. Plain SQL, for other engines too.

Periods of at most an hour are found by the hour that they start in, the slot's or the one before: a join on equality.
"""
