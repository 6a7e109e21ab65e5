"""Pricing a fleet: hot and sealed shares summed by slot where they are stored, then priced; factors never join per row.

A span within one minute lies within one slot, and is summed as it is. What may touch several slots is cut first,
uniform within its span: imports, spans that cross a minute, and machines that came to another site within a slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from joulebook.errors import LedgerError
from joulebook.units import US_PER_HOUR

from joulebook_collector import schema
from joulebook_collector.lake.compact import LEFT_OUT_STARTS
from joulebook_collector.lake.lake import Lake
from joulebook_collector.lake.layout import flat_sql
from joulebook_collector.lake.manifest import Part
from joulebook_collector.lake.parts import name_of
from joulebook_collector.lake.rollup import STEP_US
from joulebook_collector.lake.views import scan
from joulebook_collector.ledger import Ledger
from joulebook_collector.pricing import PRICE_SQL, moves_of
from joulebook_collector.shipped import ANNUAL_U_REL

Period = tuple[int, int]

MINUTE_US: Final = 60_000_000

CELL: Final = (
    ("run_id", "varchar"),
    ("machine_id", "varchar"),
    ("u_common_key", "varchar"),
    ("u_common", "double"),
    ("slot_started_at_us", "bigint"),
    ("energy_millijoules", "bigint"),
    ("indep_squares", "double"),
)
"""A run's energy on one machine within one slot, by what its uncertainty is common to. indep_squares: sum of
(energy x u_indep) squared, mJ2."""

_KEY: Final = "run_id, machine_id, u_common_key, u_common"

_READ: Final = f"{_KEY}, started_at_us, ended_at_us, millijoules, u_indep"
"""Columns of a share that count here."""

_READ_MERGED: Final = (
    f"{_KEY}, started_at_us, ended_at_us, millijoules,"
    " case when millijoules = 0 then 0.0 else sqrt(indep_squares) / millijoules end as u_indep"
)

_SUMS: Final = (
    "sum(millijoules)::bigint as energy_millijoules,"
    " sum((millijoules * u_indep) * (millijoules * u_indep)) as indep_squares"
)

CELLS_SQL: Final = """
with summed as (
    {within}
), cut as (
    select {key}, u_indep, millijoules, started_at_us, ended_at_us,
        list_sort(list_distinct(list_concat(
            range((started_at_us // {step} + 1) * {step}, ended_at_us, {step}),
            list_filter(moves, lambda x: x > started_at_us and x < ended_at_us)))) as cuts,
        greatest(started_at_us // {step} * {step},
            coalesce(list_max(list_filter(moves, lambda x: x <= started_at_us)), 0)) as slot
    from (
        select r.*, coalesce(v.moves, []) as moves from ({across}) as r
        left join moved as v on v.machine_id = r.machine_id
    ) as spans
), piece as (
    select {key}, u_indep, millijoules as whole, started_at_us, ended_at_us - started_at_us as length,
        unnest(list_prepend(slot, cuts)) as slot, unnest(list_prepend(started_at_us, cuts)) as piece_from,
        unnest(list_append(cuts, ended_at_us)) as piece_to
    from cut
), parted as (
    select {key}, u_indep, slot, (whole::hugeint * (piece_to - started_at_us) // length
        - whole::hugeint * (piece_from - started_at_us) // length)::bigint as millijoules
    from piece
)
select {key}, slot as slot_started_at_us, sum(energy_millijoules)::bigint as energy_millijoules,
    sum(indep_squares) as indep_squares
from (
    select * from summed
    union all
    select {key}, slot, {sums} from parted group by {key}, slot
) as both_ways
where slot >= {from_us} and slot < {to_us} and energy_millijoules > 0
group by {key}, slot
"""
"""Energy by slot. within: sums of spans that lie in one slot; across: spans that may lie in several."""

PLACES_SQL: Final = """
select row_number() over (order by machine_id, slot_started_at_us) as ordinal, machine_id, slot_started_at_us,
    1000::bigint as energy_millijoules
from (select distinct machine_id, slot_started_at_us from fleet_cell) as place
"""
"""A joule at every place and slot: its price is what a joule costs there."""

REPORT_SQL: Final = f"""
with priced as (
    select t.technique, e.slot_started_at_us // $bucket * $bucket as bucket, e.u_common_key, e.u_common,
        p.site_id, p.zone, p.kind, p.basis, p.flow, p.accounting, p.gases, p.u_pue,
        case when p.way = 'annual' and e.slot_started_at_us >= p.ended_at_us or p.factor_zone <> p.zone
            then greatest(p.u_rel, $carried_u) else p.u_rel end as u_grid,
        case when p.pue is null then 'no PUE' when p.zone is null then 'no grid zone'
            when p.emissions_g is null then 'no intensity' else '' end as missing,
        case when p.factor_zone <> p.zone then 'country' when p.way = 'annual' and e.slot_started_at_us >= p.ended_at_us
            then 'earlier year' else coalesce(p.way, '') end as way,
        e.energy_millijoules, e.indep_squares, p.pue, p.emissions_g / 1000 as g_per_millijoule
    from fleet_cell as e
    join slot_energy as j on j.machine_id = e.machine_id and j.slot_started_at_us = e.slot_started_at_us
    join ({PRICE_SQL}) as p on p.ordinal = j.ordinal
    join run_technique as t on t.run_id = e.run_id
), lines as (
    select technique, bucket, missing, kind, basis, flow, accounting, gases,
        sum(energy_millijoules)::bigint as millijoules, sum(energy_millijoules / 1000.0e0 * pue) as facility_joules,
        sum(energy_millijoules * g_per_millijoule) as emissions_g,
        sum(indep_squares * g_per_millijoule * g_per_millijoule) as indep,
        string_agg(distinct way, ', ' order by way) as ways
    from priced group by technique, bucket, missing, kind, basis, flow, accounting, gases
), gain as (
    select technique, bucket, kind, basis, flow, accounting, gases, 'meter ' || u_common_key as common,
        sum(energy_millijoules * u_common * g_per_millijoule) as u
    from priced where missing = '' group by technique, bucket, kind, basis, flow, accounting, gases, u_common_key
    union all
    select technique, bucket, kind, basis, flow, accounting, gases, 'site ' || site_id,
        sum(energy_millijoules * g_per_millijoule * u_pue)
    from priced where missing = '' group by technique, bucket, kind, basis, flow, accounting, gases, site_id
    union all
    select technique, bucket, kind, basis, flow, accounting, gases, 'grid ' || zone,
        sum(energy_millijoules * g_per_millijoule * u_grid)
    from priced where missing = '' group by technique, bucket, kind, basis, flow, accounting, gases, zone
), shared as (
    select technique, bucket, kind, basis, flow, accounting, gases, sum(u * u) as squares
    from gain group by technique, bucket, kind, basis, flow, accounting, gases
)
select l.technique, l.bucket, l.millijoules, l.kind, l.basis, l.flow, l.accounting, l.gases,
    l.facility_joules, l.emissions_g, sqrt(s.squares + l.indep) as u_g, l.ways, l.missing
from lines as l
left join shared as s on l.missing = '' and s.technique = l.technique and s.bucket = l.bucket and s.kind = l.kind
    and s.basis = l.basis and s.flow = l.flow and s.accounting = l.accounting and s.gases = l.gases
order by l.technique, l.bucket, l.missing, l.kind, l.basis, l.flow, l.accounting, l.gases
"""  # noqa: S608
"""Per technique and hour: what the gain of a meter, site or grid is common to adds up first, and is squared then."""


@dataclass(frozen=True, slots=True)
class FleetLine:
    """Energy and emissions of one technique within one hour, on one basis.

    technique: label of the runs' techniques, "" the baseline.  basis: (kind, basis, flow, accounting, gases) of the
    grid series, which are never summed across; None where there is none.  facility_energy_joules, emissions_g: None
    where what they need is missing, and ``missing`` says what.  u_emissions_g: standard uncertainty (k = 1).
    ways: how intensities were come by where they are none of the slot itself ("annual", "earlier year", "forecast").
    """

    technique: str
    started_at_us: int
    energy_millijoules: int
    basis: tuple[str, ...] | None
    facility_energy_joules: float | None
    emissions_g: float | None
    u_emissions_g: float | None
    ways: tuple[str, ...]
    missing: str


def price_fleet(
    ledger: Ledger,
    period: Period,
    *,
    slot_us: int = US_PER_HOUR,
    bucket_us: int = US_PER_HOUR,
    as_of_us: int | None = None,
    rows: bool = False,
) -> list[FleetLine]:
    """What the runs of a period drew and emitted, by technique and hour, as known at T.

    period: half open, UTC microseconds, edges of slots.  slot_us: the pricing slots' length, whole minutes.  bucket_us:
    a multiple of it.  rows: sum what was delivered even where roll-ups hold the same; the integers are equal. Shares
    count under the policy that they were written under.
    Raises LedgerError where the raw files of an hour are retired, and what was asked needs them.
    """
    as_of = ledger.as_of(as_of_us)
    fleet_cells(ledger, period, slot_us, as_of, rows=rows)
    techniques = [(run.run_id, ", ".join(t.label() for t in run.labels.techniques)) for run in ledger.runs(as_of)]
    known = {run_id for run_id, _ in techniques}
    strangers = ledger.query("select distinct run_id from fleet_cell order by run_id")
    techniques += [(run_id, "") for (run_id,) in strangers if run_id not in known]
    ledger.execute(f"create or replace temp table slot_energy as {PLACES_SQL}")
    ledger.table("run_technique", (("run_id", "varchar"), ("technique", "varchar")), techniques)
    lines = ledger.query(REPORT_SQL, {"as_of": as_of, "bucket": bucket_us, "carried_u": ANNUAL_U_REL})
    return [_line(line) for line in lines]


def fleet_cells(ledger: Ledger, period: Period, slot_us: int, as_of_us: int, *, rows: bool = False) -> None:
    """The temporary table ``fleet_cell`` (CELL): runs' energy by slot, its sum the shares' sum exactly."""
    if slot_us <= 0 or slot_us % MINUTE_US:
        raise ValueError(f"slots of {slot_us} us are not whole minutes")
    left_out, changed = ledger.corrections(as_of_us)
    moves = {machine: at for machine, at in moves_of(ledger, as_of_us).items() if any(t % slot_us for t in at)}
    ledger.table("left_out", (("txn", "bigint"), ("seq", "bigint")), sorted(left_out))
    ledger.table("moved", (("machine_id", "varchar"), ("moves", "bigint[]")), sorted(moves.items()))
    ledger.table("changed", _CHANGED, [row for m in changed for row in _rows(m)])
    apart = {t // slot_us * slot_us for times in moves.values() for t in times if t % slot_us}
    apart |= {at for (at,) in ledger.query(LEFT_OUT_STARTS)} if left_out else set()
    wanted = _Wanted(period, slot_us, as_of_us, sorted(apart), "raw" if rows else _level(slot_us))
    sources = _sources(Lake(ledger), wanted)
    sql = CELLS_SQL.format(
        within=" union all ".join(_summed(source.within(), slot_us) for source in sources),
        across=" union all ".join(["select * from changed", *(sql for s in sources for sql in s.across())]),
        key=_KEY,
        sums=_SUMS,
        step=slot_us,
        from_us=period[0],
        to_us=period[1],
    )
    ledger.execute(f"create or replace temp table fleet_cell as {sql}")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """apart: instants (ascending) whose rows are looked at one by one.  level: of the files to read elsewhere."""

    period: Period
    slot_us: int
    as_of_us: int
    apart: Sequence[int]
    level: str

    def meets(self, part: Part) -> bool:
        """Whether some of it counts."""
        inside = part.ended_at_us > self.period[0] and part.started_at_us < self.period[1]
        return inside and part.known_from_us <= self.as_of_us

    def by_row(self, part: Part) -> bool:
        """Whether rows of it must be told apart."""
        return part.known_to_us > self.as_of_us or part.reaches(self.apart, self.slot_us)


@dataclass(frozen=True, slots=True)
class _Source:
    """Rows to be summed.  step_us: what lies within one multiple of it lies in one slot; 0 where every row is known to.

    tests: which rows count.
    """

    rows: str
    columns: str
    step_us: int
    tests: tuple[str, ...] = ()

    def within(self) -> str:
        """Its runs' shares that lie within one slot each."""
        return self._query(f"not ({_ACROSS})")

    def across(self) -> list[str]:
        """Its runs' shares that need not, when there can be any."""
        return [self._query(_ACROSS)] if self.step_us else []

    def _query(self, way: str) -> str:
        ways = [f"({way.format(step=self.step_us)})"] if self.step_us else []
        where = " and ".join(["kind = 'run'", *self.tests, *ways])
        return f"select {self.columns} from ({self.rows}) as shares where {where}"  # noqa: S608


_ACROSS: Final = "ended_at_us > (started_at_us // {step} + 1) * {step} or machine_id in (select machine_id from moved)"
"""A span that need not lie within one slot."""


def _level(slot_us: int) -> str:
    """The coarsest level whose merged spans lie within slots."""
    return max((level for level in STEP_US if slot_us % STEP_US[level] == 0), key=lambda level: STEP_US[level])


def _sources(lake: Lake, wanted: _Wanted) -> list[_Source]:
    """Where each row is read: hot, sealed as delivered, or merged. Every row once."""
    tests = (f"known_at_us <= {wanted.as_of_us}", "(txn, seq) not in (select txn, seq from left_out)")
    sources = [_Source(flat_sql(schema.HOT["measurement"], schema.HOT["share"]), _READ, MINUTE_US, tests)]
    raw = [part for part in lake.manifest.of_level("raw") if wanted.meets(part)]
    merged = [part for part in lake.manifest.merged() if wanted.meets(part)]
    _refuse_retired(lake, wanted, merged)
    rolled = {part.made_from: part for part in lake.manifest.of_level(wanted.level)}
    by_row = [part for part in raw if wanted.by_row(part)]
    chosen = [rolled[part.sha256] for part in raw if not wanted.by_row(part)]
    read = lake.store.readable
    if by_row:
        sources.append(_Source(scan(by_row, read, "*"), _READ, MINUTE_US, tests))
    columns, step = (_READ, MINUTE_US) if wanted.level == "raw" else (_READ_MERGED, STEP_US[wanted.level])
    for parts, own_columns, own_step in ((chosen, columns, step), (merged, _READ_MERGED, MINUTE_US)):
        for some, its_step in ((_crossing(parts, False), 0), (_crossing(parts, True), own_step)):
            if some:
                sources.append(_Source(scan(some, read, "*"), own_columns, its_step))
    return sources


def _crossing(parts: Sequence[Part], crossing: bool) -> list[Part]:
    return [part for part in parts if bool(part.crossing) is crossing]


def _refuse_retired(lake: Lake, wanted: _Wanted, merged: Sequence[Part]) -> None:
    for part in merged:
        if wanted.by_row(part):
            raise LedgerError(
                f"the rows of {name_of(part.hour_us)} are retired: which of them were known then, and count,"
                " cannot be told",
                "ask for another period or a later as-of time",
            )
    if merged and (twice := lake.ledger.query(_RETIRED_TWICE)):
        machine, device = twice[0]
        raise LedgerError(
            f"{device} on {machine} was looked at by several meters; the rows are retired, and it would count twice",
            "ask for another period",
        )


_RETIRED_TWICE: Final = """
with several as (
    select machine_id, device_id from seen_device group by machine_id, device_id
    having count(distinct agent_id) > 1 or count(distinct meter) > 1
), look as (
    select m.machine_id, m.device_id, m.agent_id, m.meter, m.started_at_us, m.ended_at_us from measurement as m
    join several as d on d.machine_id = m.machine_id and d.device_id = m.device_id
    union all
    select m.machine_id, m.device_id, m.agent_id, m.meter, m.started_at_us, m.ended_at_us from sealed_minute as m
    join several as d on d.machine_id = m.machine_id and d.device_id = m.device_id
)
select a.machine_id, a.device_id from sealed_minute as a
join look as b on b.machine_id = a.machine_id and b.device_id = a.device_id
    and (b.agent_id <> a.agent_id or b.meter <> a.meter)
    and b.started_at_us < a.ended_at_us and b.ended_at_us > a.started_at_us
order by a.machine_id, a.device_id limit 1
"""
"""Two looks at one device at one time, one of them merged: law 2 can no longer choose."""

_CHANGED: Final = (
    *CELL[:4],
    ("started_at_us", "bigint"),
    ("ended_at_us", "bigint"),
    ("millijoules", "bigint"),
    ("u_indep", "double"),
)


def _summed(source: str, slot_us: int) -> str:
    slot = f"started_at_us // {slot_us} * {slot_us}"
    return f"select {_KEY}, {slot} as slot, {_SUMS} from ({source}) as s group by {_KEY}, slot"  # noqa: S608


def _rows(m: Any) -> list[tuple[Any, ...]]:
    return [
        (
            *(share.run_id, m.machine_id, m.u_common_key, m.u_common),
            *(m.started_at_us, m.ended_at_us, share.millijoules, m.u_indep),
        )
        for share in m.shares
        if share.kind == "run" and share.millijoules
    ]


def _line(row: Sequence[Any]) -> FleetLine:
    technique, bucket, millijoules, *basis, facility, grams, u_grams, ways, missing = row
    words = tuple(word for word in ways.split(", ") if word)
    key = None if basis[0] is None else tuple(basis)
    return FleetLine(technique, bucket, millijoules, key, facility, grams, u_grams, words, missing)
