"""The ledger's tables, and the migrations that bring an older ledger up to them.

Every table is append-only: nothing in this package updates or deletes a row. Columns are plain
(whole numbers, doubles, text), so that the same SQL reads them on another engine.
"""

from __future__ import annotations

from typing import Final

STAMP: Final = (
    ("txn", "bigint"),
    ("known_at_us", "bigint"),
    ("agent_id", "varchar"),
    ("incarnation", "varchar"),
    ("seq", "bigint"),
    ("digest", "varchar"),
)
"""Where a delivered row came from and since when it is known. (txn, seq) names a row of any table."""

MEASUREMENT: Final = (
    ("machine_id", "varchar"),
    ("boot_id", "varchar"),
    ("device_id", "varchar"),
    ("component", "varchar"),
    ("started_at_us", "bigint"),
    ("ended_at_us", "bigint"),
    ("started_ns", "bigint"),
    ("ended_ns", "bigint"),
    ("energy_millijoules", "bigint"),
    ("meter", "varchar"),
    ("method", "varchar"),
    ("u_common", "double"),
    ("u_common_key", "varchar"),
    ("u_indep", "double"),
    ("coverage", "double"),
    ("source", "varchar"),
    ("idle_millijoules", "bigint null"),
    ("note", "varchar"),
    ("start_slack_millijoules", "bigint null"),
    ("end_slack_millijoules", "bigint null"),
)

SHARE: Final = (
    ("ordinal", "bigint"),
    ("kind", "varchar"),
    ("millijoules", "bigint"),
    ("policy", "varchar"),
    ("run_id", "varchar"),
    ("phase", "varchar"),
    ("member", "varchar null"),
    ("rank", "bigint null"),
    ("cpu_seconds", "double"),
    ("sm_seconds", "double"),
    ("reserved_fraction", "double"),
)

RUN: Final = (
    ("run_id", "varchar"),
    ("machine_id", "varchar"),
    ("boot_id", "varchar"),
    ("status", "varchar"),
    ("started_at_us", "bigint"),
    ("started_ns", "bigint"),
    ("labels", "varchar"),
    ("ended_at_us", "bigint null"),
    ("ended_ns", "bigint null"),
    ("exit_code", "bigint null"),
    ("command", "varchar"),
    ("record", "varchar"),
    ("reason", "varchar"),
    ("notes", "varchar"),
    ("source", "varchar"),
    ("study", "varchar"),
    ("parent_run_id", "varchar"),
)

MARK: Final = (
    ("run_id", "varchar"),
    ("machine_id", "varchar"),
    ("boot_id", "varchar"),
    ("pid", "bigint"),
    ("kind", "varchar"),
    ("at_us", "bigint"),
    ("at_ns", "bigint"),
    ("cpu_ns", "bigint"),
    ("n", "bigint"),
    ("phase", "varchar"),
    ("member", "varchar null"),
    ("rank", "bigint null"),
    ("samples", "bigint null"),
    ("flops", "double null"),
    ("step", "bigint null"),
    ("split", "varchar"),
    ("quality", "varchar"),
    ("synced", "boolean"),
)

REASSIGNMENT: Final = (
    ("of_incarnation", "varchar"),
    ("of_seq", "bigint"),
    ("millijoules", "bigint"),
    ("from_share", "varchar"),
    ("to_share", "varchar"),
    ("to_run_id", "varchar"),
)

QUARANTINE: Final = (("kind", "varchar"), ("reason", "varchar"), ("body", "varchar"))

LOG: Final = (
    ("txn", "bigint"),
    ("known_at_us", "bigint"),
    ("action", "varchar"),
    ("agent_id", "varchar"),
    ("incarnation", "varchar"),
    ("first_seq", "bigint"),
    ("high_water", "bigint"),
    ("accepted", "bigint"),
    ("duplicates", "bigint"),
    ("quarantined", "bigint"),
    ("gap_from", "bigint null"),
    ("gap_to", "bigint null"),
    ("detail", "varchar"),
)

_SERIES: Final = tuple((name, "varchar") for name in ("zone", "kind", "basis", "flow", "accounting", "gases"))

FACTOR: Final = (
    ("txn", "bigint"),
    ("known_at_us", "bigint"),
    ("ordinal", "bigint"),
    *_SERIES,
    ("started_at_us", "bigint"),
    ("ended_at_us", "bigint"),
    ("g_per_kwh", "double"),
    ("source", "varchar"),
    ("u_rel", "double"),
    ("annual", "boolean"),
    ("name", "varchar"),
    ("note", "varchar"),
    ("origin", "varchar"),
    ("status", "varchar null"),
)

SITE: Final = (
    ("txn", "bigint"),
    ("known_at_us", "bigint"),
    ("site_id", "varchar"),
    ("pue", "double null"),
    ("pue_source", "varchar"),
    ("u_pue", "double"),
    *((name, "varchar null") for name, _ in _SERIES),
    ("note", "varchar"),
    ("provider", "varchar null"),
)

SITE_ASSIGNMENT: Final = (
    ("txn", "bigint"),
    ("known_at_us", "bigint"),
    ("machine_id", "varchar"),
    ("site_id", "varchar"),
    ("from_us", "bigint"),
)

TABLES: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "log": LOG,
    "measurement": STAMP + MEASUREMENT,
    "share": STAMP[:5] + SHARE,
    "reassignment": STAMP + REASSIGNMENT,
    "run": STAMP + RUN,
    "mark": STAMP + MARK,
    "quarantine": STAMP + QUARANTINE,
    "factor": FACTOR,
    "site": SITE,
    "site_assignment": SITE_ASSIGNMENT,
}

HOT: Final = {"measurement": "hot_measurement", "share": "hot_share"}
"""Where rows are written until they are sealed. They are read by the names of TABLES: views, sealed rows among them."""

DELIVERED: Final = ("measurement", "run", "mark", "reassignment", "quarantine")
"""Tables that hold rows of an agent's stream, each row once, under its digest."""


def _create(name: str, columns: tuple[tuple[str, str], ...]) -> str:
    body = ", ".join(f"{column} {kind if kind.endswith(' null') else kind + ' not null'}" for column, kind in columns)
    return f"create table {name} ({body})"


ADDED: Final = ("start_slack_millijoules", "end_slack_millijoules")
"""Columns of measurement that version 2 added, its last ones."""

_LATER: Final[dict[str, tuple[str, ...]]] = {"measurement": ADDED, "factor": ("status",), "site": ("provider",)}
"""Columns that version 1 did not have, the last ones of their tables."""


def _first(name: str, columns: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return tuple(column for column in columns if column[0] not in _LATER.get(name, ()))


MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    tuple(_create(name, _first(name, columns)) for name, columns in TABLES.items()),
    tuple(f"alter table measurement add column {name} bigint" for name in ADDED),
    tuple(
        statement
        for name, hot in HOT.items()
        for statement in (f"alter table {name} rename to {hot}", f"create view {name} as from {hot}")
    ),
    ("alter table factor add column status varchar", "alter table site add column provider varchar"),
)
"""Statements that lead from schema version i to i + 1. A released entry never changes; a new one is added."""

VERSION: Final = len(MIGRATIONS)
"""The schema that this joulebook writes."""
