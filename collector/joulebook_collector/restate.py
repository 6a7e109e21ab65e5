"""Restatements: what later knowledge changed in emissions that had a price already. Nothing is overwritten."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from joulebook_collector.ledger import Ledger
from joulebook_collector.priced import PricedSlot, SeriesKey, SlotEnergy
from joulebook_collector.pricing import KnownPrice, mean_g_per_kwh, price_known


@dataclass(frozen=True, slots=True)
class Restatement:
    """One change of knowledge and what it did to one run.

    old_site_id, site_id: where the machine stood, as known before and after.  old_*, new_*: series,
    PUE, intensity (g/kWh; of slots that differ in it, the mean by energy), its source and label, before and
    after.  old_g, new_g: emissions of those slots before and after, None where there is no price.
    known_at_us: since when the new value is known.  slots: how many pricing slots' parts it touches, from
    from_us (start of the first) to to_us (start of the last).  delta_g: new minus old emissions in g; None when
    there is no new price, or when old and new are of series that no difference can be taken of (law 6).
    no_delta: why it is None, naming both series; "" when it is not.
    """

    run_id: str
    old_site_id: str
    site_id: str
    old_series: SeriesKey | None
    new_series: SeriesKey | None
    old_pue: float | None
    new_pue: float | None
    old_g_per_kwh: float | None
    new_g_per_kwh: float | None
    old_source: str
    new_source: str
    old_label: str
    new_label: str
    old_g: float | None
    new_g: float | None
    known_at_us: int
    slots: int
    from_us: int
    to_us: int
    delta_g: float | None
    no_delta: str


def restatements(
    ledger: Ledger, slots: Sequence[SlotEnergy], first_known_us: int, as_of_us: int | None = None
) -> list[Restatement]:
    """Where a slot's first price differs from its price at T, by run and by change, in order of time.

    first_known_us: the moment at which the run could first be priced.  A slot that had no price then
    has its first one when a site or factor gave it one; giving it is no restatement.
    """
    as_of = ledger.as_of(as_of_us)
    first = _first_prices(ledger, slots, min(first_known_us, as_of), as_of)
    groups: dict[tuple[object, ...], list[tuple[KnownPrice, KnownPrice]]] = defaultdict(list)
    for old, new in zip(first, price_known(ledger, slots, as_of), strict=True):
        if old.slot.emissions_g is not None and _values(old) != _values(new):
            groups[(new.slot.energy.run_id, *_way(old), *_way(new))].append((old, new))
    found = [_restatement(changes) for changes in groups.values()]
    return sorted(found, key=lambda r: (r.run_id, r.from_us, r.known_at_us, r.site_id))


def _first_prices(ledger: Ledger, slots: Sequence[SlotEnergy], first_us: int, as_of: int) -> list[KnownPrice]:
    first = price_known(ledger, slots, first_us)
    for known_us in _knowledge_times(ledger, first_us, as_of):
        waiting = [i for i, known in enumerate(first) if known.slot.emissions_g is None]
        if not waiting:
            break
        for i, known in zip(waiting, price_known(ledger, [slots[i] for i in waiting], known_us), strict=True):
            first[i] = known
    return first


def _knowledge_times(ledger: Ledger, after_us: int, up_to_us: int) -> list[int]:
    one = "select known_at_us from {} where known_at_us > $after and known_at_us <= $until"
    sql = " union ".join(one.format(table) for table in ("factor", "site", "site_assignment"))
    return [known for (known,) in ledger.query(sql + " order by known_at_us", {"after": after_us, "until": up_to_us})]


def _way(known: KnownPrice) -> tuple[object, ...]:
    """How a slot was priced, its own hour's intensity apart: a day of hours is one change, not twenty-four."""
    slot = known.slot
    return (slot.site_id, slot.series, slot.pue, slot.g_per_kwh is None, slot.factor_source, slot.label)


def _values(known: KnownPrice) -> tuple[object, ...]:
    slot = known.slot
    return (slot.series, slot.pue, slot.g_per_kwh, slot.factor_source, slot.label)


def _restatement(changes: Sequence[tuple[KnownPrice, KnownPrice]]) -> Restatement:
    old, new = changes[0][0].slot, changes[0][1].slot
    starts = [after.slot.energy.slot_started_at_us for _, after in changes]
    no_delta = _no_delta(old, new)
    return Restatement(
        run_id=new.energy.run_id,
        old_site_id=old.site_id,
        site_id=new.site_id,
        old_series=old.series,
        new_series=new.series,
        old_pue=old.pue,
        new_pue=new.pue,
        old_g_per_kwh=mean_g_per_kwh([before.slot for before, _ in changes]),
        new_g_per_kwh=mean_g_per_kwh([after.slot for _, after in changes]),
        old_source=old.factor_source,
        new_source=new.factor_source,
        old_label=old.label,
        new_label=new.label,
        old_g=_sum_g([before.slot for before, _ in changes]),
        new_g=_sum_g([after.slot for _, after in changes]),
        known_at_us=max(_known_since(before, after) for before, after in changes),
        slots=len(changes),
        from_us=min(starts),
        to_us=max(starts),
        delta_g=None if no_delta else sum(_grams(after) - _grams(before) for before, after in changes),
        no_delta=no_delta,
    )


def _no_delta(old: PricedSlot, new: PricedSlot) -> str:
    """Why grams of the two cannot be subtracted, "" when they can: only the zone of their series may differ."""
    if new.emissions_g is None or old.series is None or new.series is None:
        return "no new price"
    if replace(old.series, zone=new.series.zone) != new.series:
        return f"grams of {old.series.label()} and of {new.series.label()} are not comparable"
    return ""


def _sum_g(slots: Sequence[PricedSlot]) -> float | None:
    known = [slot.emissions_g for slot in slots if slot.emissions_g is not None]
    return math.fsum(known) if len(known) == len(slots) else None


def _grams(known: KnownPrice) -> float:
    return known.slot.emissions_g or 0.0


def _known_since(before: KnownPrice, after: KnownPrice) -> int:
    """The newest of the factor's, the site's and the assignment's knowledge, of those that changed."""
    factor = after.factor_known_at_us if after.factor_known_at_us != before.factor_known_at_us else 0
    site = after.site_known_at_us if after.site_known_at_us != before.site_known_at_us else 0
    assigned = after.assigned_known_at_us if after.assigned_known_at_us != before.assigned_known_at_us else 0
    return max(factor, site, assigned)
