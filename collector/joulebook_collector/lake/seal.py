"""Sealing: the rows of closed hours leave the ledger's file for the lake."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from joulebook_collector import schema
from joulebook_collector.lake.lake import Lake, Prepared, with_deletes
from joulebook_collector.lake.manifest import Part
from joulebook_collector.lake.parts import HOUR_US, write_hour
from joulebook_collector.lake.views import hot_rows

if TYPE_CHECKING:
    import duckdb

GRACE_US: Final = 15 * 60 * 1_000_000
"""An hour stays open for so long after its end, for rows that are on their way."""

PATIENCE_US: Final = 6 * HOUR_US
"""An agent that has delivered nothing for so long keeps no hour open."""

MOST_MEASUREMENTS: Final = 250_000
"""A larger hour becomes several files, by machine: what is sealed at once fits in memory."""

_HOURS: Final = f"select distinct started_at_us // {HOUR_US} as hour from hot_measurement where txn <= ? order by hour"  # noqa: S608
_HEARD: Final = """
select min(ended) from (
    select agent_id, max(ended_at_us) as ended, max(known_at_us) as known from hot_measurement
    where source = 'agent' and txn <= ? group by agent_id
) as heard where known >= ?
"""
_MACHINES: Final = f"""
select machine_id, count(*) from hot_measurement where txn <= ? and started_at_us // {HOUR_US} = ?
group by machine_id order by machine_id
"""  # noqa: S608


def closed_hours(
    db: duckdb.DuckDBPyConnection,
    through_txn: int,
    now_us: int,
    grace_us: int = GRACE_US,
    patience_us: int = PATIENCE_US,
) -> list[int]:
    """Starts (UTC microseconds) of the hours that have hot rows and are closed, oldest first.

    Closed: over for longer than the grace, and every agent that was heard within the patience has delivered beyond it.
    """
    (heard,) = db.execute(_HEARD, [through_txn, now_us - patience_us]).fetchall()[0]
    until = now_us - grace_us if heard is None else min(now_us - grace_us, heard)
    hours = [hour * HOUR_US for (hour,) in db.execute(_HOURS, [through_txn]).fetchall()]
    return [hour for hour in hours if hour + HOUR_US <= until]


def prepare_seal(
    lake: Lake, now_us: int, *, grace_us: int = GRACE_US, patience_us: int = PATIENCE_US
) -> Prepared | None:
    """Write the closed hours' files, None when no hour is closed; ``Lake.commit`` makes them count.

    It reads by a cursor of its own, so a collector may take rows meanwhile: those that come later stay hot.
    """
    with lake.ledger.cursor() as db:
        (through,) = db.execute("select coalesce(max(txn), 0) from log").fetchall()[0]
        hours = closed_hours(db, through, now_us, grace_us, patience_us)
        if not hours:
            return None
        version = lake.next_version()
        new = [part for hour in hours for part in _seal_hour(db, lake, version, hour, through)]
    prepared = lake.write("seal", version, new)
    return with_deletes(prepared, *_deletes(hours, through))


def seal(lake: Lake, now_us: int, *, grace_us: int = GRACE_US, patience_us: int = PATIENCE_US) -> tuple[Part, ...]:
    """Seal the closed hours; the new files. Late rows of an hour become further files of it."""
    prepared = prepare_seal(lake, now_us, grace_us=grace_us, patience_us=patience_us)
    if prepared is None:
        return ()
    lake.commit(prepared)
    return prepared.new


def _seal_hour(db: duckdb.DuckDBPyConnection, lake: Lake, version: int, hour_us: int, through: int) -> Iterator[Part]:
    for first, last in _ranges(db, hour_us, through):
        where = (
            f"m.txn <= {through} and m.started_at_us >= {hour_us} and m.started_at_us < {hour_us + HOUR_US}"
            " and m.machine_id between ? and ?"
        )
        db.execute("create or replace temp table sealing as " + hot_rows(where), [first, last])
        yield from write_hour(db, lake.store, version, hour_us, "sealing")
    db.execute("drop table sealing")


def _ranges(db: duckdb.DuckDBPyConnection, hour_us: int, through: int) -> list[tuple[str, str]]:
    """Machines from ... to, so many together as one file may hold."""
    ranges: list[tuple[str, str]] = []
    held = MOST_MEASUREMENTS
    for machine, count in db.execute(_MACHINES, [through, hour_us // HOUR_US]).fetchall():
        if ranges and held + count <= MOST_MEASUREMENTS:
            ranges[-1], held = (ranges[-1][0], machine), held + count
        else:
            ranges.append((machine, machine))
            held = count
    return ranges


def _deletes(hours: list[int], through: int) -> list[tuple[str, tuple[object, ...]]]:
    sealed = (
        f"select txn, seq from {schema.HOT['measurement']} where txn <= ?"  # noqa: S608
        f" and started_at_us // {HOUR_US} in (select unnest(?::bigint[]))"
    )
    values = (through, [hour // HOUR_US for hour in hours])
    return [
        (f"delete from {schema.STORED[table]} where (txn, seq) in ({sealed})", values)  # noqa: S608
        for table in ("share", "measurement")
    ]
