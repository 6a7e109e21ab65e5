"""What a sealed file holds: every share with its measurement's columns beside it, exactly as they were delivered.

Nothing is rounded: what a view reads back is what was sealed. Columns that repeat cost next to nothing once sorted;
how the others are encoded was measured (docs/decisions/0025-lake.md).
"""

from __future__ import annotations

import io
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from joulebook_collector import schema

Columns = tuple[tuple[str, str], ...]

OTHER: Final = "other_millijoules"
"""What the measurement has beyond this share; on its first share (or its only row) alone, null elsewhere."""

PLACE: Final = schema.STAMP
"""txn, known_at_us, agent_id, incarnation, seq: of the row as it was delivered."""

NULLABLE: Final = tuple((name, kind if kind.endswith(" null") else kind + " null") for name, kind in schema.SHARE)
"""Columns of a share; all null in the only row of a measurement that has none."""

SEALED: Final[Columns] = (
    *PLACE,
    *((OTHER, "bigint null") if name == "energy_millijoules" else (name, kind) for name, kind in schema.MEASUREMENT),
    *NULLABLE,
)

ORDER: Final = ("machine_id", "started_at_us", "ordinal", "device_id", "txn", "seq")
"""How rows of a file are sorted: what the devices of a machine share within a span then stands together."""

_ENCODING: Final = {
    **dict.fromkeys(("millijoules", OTHER), "BYTE_STREAM_SPLIT"),
    **dict.fromkeys(("started_at_us", "ended_at_us", "started_ns", "ended_ns", "seq"), "DELTA_BINARY_PACKED"),
    **dict.fromkeys(("txn", "known_at_us", "cpu_seconds", "sm_seconds", "u_indep"), "PLAIN"),
}
"""Columns whose values seldom repeat; all others have a dictionary."""

ZSTD_LEVEL: Final = 15
ROW_GROUP: Final = 262_144


def parquet_bytes(table: pa.Table) -> bytes:
    """The table as a Parquet file; rows are taken in their order. The same table gives the same bytes."""
    encoding = {name: how for name, how in _ENCODING.items() if name in table.column_names}
    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        compression_level=ZSTD_LEVEL,
        row_group_size=ROW_GROUP,
        use_dictionary=[name for name in table.column_names if name not in encoding],
        column_encoding=encoding,
    )
    return sink.getvalue()


def names(columns: Columns, prefix: str = "") -> str:
    """The columns' names for a select."""
    return ", ".join(prefix + name for name, _ in columns)


def empty_rows(columns: Columns) -> str:
    """A query of these columns and no rows."""
    return (
        "select "
        + ", ".join(f"null::{kind.removesuffix(' null')} as {name}" for name, kind in columns)
        + " where false"
    )


def flat_sql(measurement: str, share: str, where: str = "true") -> str:
    """Rows of SEALED from two tables.  where: which measurements, a condition on m."""
    other = (
        f"case when coalesce(s.ordinal, 0) = 0 then m.energy_millijoules - coalesce(s.millijoules, 0) end as {OTHER}"
    )
    own = ", ".join(other if name == "energy_millijoules" else f"m.{name}" for name, _ in schema.MEASUREMENT)
    return (
        f"select {names(PLACE, 'm.')}, {own}, {names(NULLABLE, 's.')} from {measurement} as m"  # noqa: S608
        f" left join {share} as s on s.txn = m.txn and s.seq = m.seq where {where}"
    )


def measurements_sql(rows: str) -> str:
    """Rows of the table ``measurement`` from rows of SEALED."""
    energy = f"coalesce(millijoules, 0) + {OTHER} as energy_millijoules"
    own = ", ".join(energy if name == "energy_millijoules" else name for name, _ in schema.MEASUREMENT)
    return f"select {names(PLACE)}, {own} from {rows} where coalesce(ordinal, 0) = 0"  # noqa: S608


def shares_sql(rows: str) -> str:
    """Rows of the table ``share`` from rows of SEALED."""
    return f"select {names(PLACE)}, {names(schema.SHARE)} from {rows} where ordinal is not null"  # noqa: S608


def ordered(rows: str, order: tuple[str, ...] = ORDER) -> str:
    """The rows in the order of a file, the same whatever their order was."""
    return f"select * from ({rows}) as r order by {', '.join(f'{name} nulls first' for name in order)}"  # noqa: S608


def values_of(table: pa.Table, name: str) -> list[Any]:
    """A column as Python values."""
    values: list[Any] = table.column(name).to_pylist()
    return values
