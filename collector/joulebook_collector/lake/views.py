"""The book as one: views over rows that are hot and rows that are sealed. A row is in one of the two, never in both.

They are replaced in the transaction that deletes the hot rows which a new manifest holds, so that whatever the moment
of a crash, the views and the hot tables are of one version.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from joulebook_collector import schema
from joulebook_collector.lake.layout import SEALED, empty_rows, flat_sql, measurements_sql, names, shares_sql
from joulebook_collector.lake.manifest import Manifest, Part
from joulebook_collector.lake.rollup import ROLLED

RAW: Final = "sealed_row"
"""Sealed rows as delivered, in the columns of layout.SEALED."""

MINUTES: Final = "sealed_minute"
"""Merged rows of hours whose raw files are retired, in the columns of rollup.ROLLED."""

SEEN: Final = "seen_device"
"""Which agents looked at which devices with which meters, ever."""

_LOOK: Final = "machine_id, device_id, agent_id, meter"


def view_statements(manifest: Manifest, readable: Callable[[str], str]) -> list[str]:
    """The statements that make the views of a version.  readable: a part's path -> where DuckDB can read it."""
    raw, minutes, hours = manifest.of_level("raw"), manifest.merged(), manifest.of_level("hour")
    hot, shares = schema.HOT["measurement"], schema.HOT["share"]
    wanted = (
        (RAW, scan(raw, readable) if raw else empty_rows(SEALED)),
        (MINUTES, scan(minutes, readable, names(ROLLED)) if minutes else empty_rows(ROLLED)),
        ("measurement", _both(schema.TABLES["measurement"], hot, measurements_sql(RAW), raw)),
        ("share", _both(schema.TABLES["share"], shares, shares_sql(RAW), raw)),
        (SEEN, _seen(hot, [scan(hours, readable, _LOOK)] if hours else [])),
    )
    return [f"create or replace view {name} as {sql}" for name, sql in wanted]


def scan(parts: Sequence[Part], readable: Callable[[str], str], columns: str = names(SEALED)) -> str:
    """A query of the rows of these files; at least one."""
    paths = ", ".join("'" + readable(part.path).replace("'", "''") + "'" for part in parts)
    return f"select {columns} from read_parquet([{paths}], hive_partitioning = false)"  # noqa: S608


def hot_rows(where: str = "true") -> str:
    """Rows that are not sealed, in the columns of layout.SEALED.  where: a condition on the measurement, m."""
    return flat_sql(schema.HOT["measurement"], schema.HOT["share"], where)


def _seen(hot: str, sealed: Sequence[str]) -> str:
    return " union ".join([f"select distinct {_LOOK} from {hot}", *sealed])  # noqa: S608


def _both(columns: Sequence[tuple[str, str]], hot: str, sealed: str, raw: Sequence[Part]) -> str:
    own = ", ".join(name for name, _ in columns)
    return f"select {own} from {hot}" + (f" union all select {own} from ({sealed}) as s" if raw else "")  # noqa: S608
