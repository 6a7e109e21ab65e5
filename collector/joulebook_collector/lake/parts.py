"""Writing the files of an hour: its rows as delivered, and the same merged by minute and by hour."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from joulebook.errors import LedgerError

from joulebook_collector.lake import rollup
from joulebook_collector.lake.layout import ordered, parquet_bytes
from joulebook_collector.lake.manifest import LEVELS, Part, hash_of

if TYPE_CHECKING:
    import duckdb

    from joulebook_collector.lake.store import Store

HOUR_US: Final = 3_600_000_000

_FACTS: Final = """
select count(*), count(*) filter (where coalesce(ordinal, 0) = 0),
    coalesce(sum(coalesce(millijoules, 0) + other_millijoules) filter (where coalesce(ordinal, 0) = 0), 0)::hugeint,
    coalesce(sum(millijoules), 0)::hugeint, min(started_at_us), max(ended_at_us), min(known_at_us), max(known_at_us),
    count(*) filter (where ended_at_us > (started_at_us // 60000000 + 1) * 60000000)
from {rows}
"""


def write_hour(db: duckdb.DuckDBPyConnection, store: Store, version: int, hour_us: int, rows: str) -> tuple[Part, ...]:
    """Write the rows (a table of SEALED, all starting in the hour) and their roll-ups: durable, named by nothing yet.

    Raises LedgerError when their shares do not sum to their measurements: such rows stay where they can be looked into.
    """
    facts = db.execute(_FACTS.format(rows=rows)).fetchall()[0]
    _, _, measured, shared, *_ = facts
    _check_sums(db, rows, hour_us)
    whole = _put(db, store, version, hour_us, "raw", ordered(f"select * from {rows}"), facts)  # noqa: S608
    merged = []
    for level in LEVELS[1:]:
        sql = ordered(rollup.rollup_sql(rows, level), rollup.ORDER)
        merged.append(_put(db, store, version, hour_us, level, sql, facts, whole.sha256))
    for part in merged:
        if part.share_millijoules != shared:
            raise AssertionError(
                f"the {part.level}s of {name_of(hour_us)} hold {part.share_millijoules} of {measured} mJ"
            )
    return (whole, *merged)


def _check_sums(db: duckdb.DuckDBPyConnection, rows: str, hour_us: int) -> None:
    broken = db.execute(
        f"""select txn, seq from {rows} group by txn, seq
        having count(*) filter (where coalesce(ordinal, 0) = 0) <> 1
            or coalesce(sum(millijoules) filter (where ordinal > 0), 0) <> sum(other_millijoules)
        order by txn, seq limit 1"""  # noqa: S608
    ).fetchall()
    if broken:
        txn, seq = broken[0]
        raise LedgerError(
            f"the shares of measurement {seq} of transaction {txn} do not sum to it: {name_of(hour_us)} is not sealed",
            "restore the ledger from a backup: a row was altered after it was written",
        )


def _put(
    db: duckdb.DuckDBPyConnection,
    store: Store,
    version: int,
    hour_us: int,
    level: str,
    sql: str,
    facts: Any,
    made_from: str = "",
) -> Part:
    table = db.sql(sql).to_arrow_table()
    content = parquet_bytes(table)
    digest = hash_of(content)
    path = f"{folder_of(level, hour_us)}/part-{version:08d}-{digest[:8]}.parquet"
    store.put(path, content)
    _, measurements, measured, shared, *times = facts
    if level != "raw":
        shared = sum(table.column("millijoules").to_pylist())
    counts = (table.num_rows, measurements, int(measured), int(shared))
    return Part(path, level, hour_us, digest, made_from or digest, len(content), *counts, *times)


def folder_of(level: str, hour_us: int) -> str:
    """Where files of an hour lie: Hive partitions, ``raw/day=2026-01-31/hour=07``."""
    at = datetime.fromtimestamp(hour_us // 1_000_000, tz=UTC)
    return f"{level}/day={at:%Y-%m-%d}/hour={at:%H}"


def name_of(hour_us: int) -> str:
    """An hour for people."""
    return f"{datetime.fromtimestamp(hour_us // 1_000_000, tz=UTC):%Y-%m-%dT%H}"
