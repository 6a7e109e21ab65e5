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
    "share": STAMP + SHARE,
    "reassignment": STAMP + REASSIGNMENT,
    "run": STAMP + RUN,
    "mark": STAMP + MARK,
    "quarantine": STAMP + QUARANTINE,
    "factor": FACTOR,
    "site": SITE,
    "site_assignment": SITE_ASSIGNMENT,
}

HOT: Final = {"measurement": "hot_measurement", "share": "hot_share"}
"""Views of rows that are not sealed. Readers take the names of TABLES: sealed rows are among them."""

STORED: Final = {"measurement": "measurement_row", "share": "share_row"}
"""Where the rows of HOT are written: text that repeats is a number there, of a row in one of NAMES."""

STREAM: Final = (("agent_id", "varchar"), ("incarnation", "varchar"))
LOOK: Final = tuple(
    column
    for column in MEASUREMENT
    if column[0] in ("machine_id", "boot_id", "device_id", "component", "meter", "method", "u_common_key", "source")
)
OWNER: Final = tuple(column for column in SHARE if column[0] in ("kind", "policy", "run_id", "phase", "member", "rank"))

NAMES: Final = {"stream": STREAM, "look": LOOK, "owner": OWNER}
"""Text of rows that repeats, each under a number: whose stream, who looks at which device, whose share."""

MEASUREMENT_ROW: Final = (
    ("txn", "bigint"),
    ("known_at_us", "bigint"),
    ("stream", "integer"),
    ("seq", "bigint"),
    ("look", "integer"),
    *(column for column in MEASUREMENT if column not in LOOK),
)

SHARE_ROW: Final = (
    ("txn", "bigint"),
    ("known_at_us", "bigint"),
    ("stream", "integer"),
    ("seq", "bigint"),
    ("owner", "integer"),
    *(column for column in SHARE if column not in OWNER),
)

CHAIN: Final = (("txn", "bigint"), ("digest", "blob"), ("tags", "blob"))
"""Of every transaction in the log: see chain.py."""

DELIVERED: Final = ("measurement", "run", "mark", "reassignment", "quarantine")
"""Tables that hold rows of an agent's stream, each row once."""


def _create(name: str, columns: tuple[tuple[str, str], ...]) -> str:
    body = ", ".join(f"{column} {kind if kind.endswith(' null') else kind + ' not null'}" for column, kind in columns)
    return f"create table {name} ({body})"


ADDED: Final = ("start_slack_millijoules", "end_slack_millijoules")
"""Columns of measurement that version 2 added, its last ones."""

_LATER: Final[dict[str, tuple[str, ...]]] = {"measurement": ADDED, "factor": ("status",), "site": ("provider",)}
"""Columns that version 1 did not have, the last ones of their tables."""

_FIRST_STAMP: Final = (*STAMP, ("digest", "varchar"))
"""Until version 5 each row had a fingerprint of its own."""


def _first(name: str, columns: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """A table as version 1 made it."""
    kept = tuple(column for column in columns if column[0] not in _LATER.get(name, ()))
    return _FIRST_STAMP + kept[len(STAMP) :] if name in DELIVERED else kept


def _view(hot: str, columns: tuple[tuple[str, str], ...], apart: tuple[tuple[str, str], ...], name: str) -> str:
    """A view of stored rows in the columns of TABLES. apart: those that are in the table of NAMES of that name."""
    told = ", ".join(f"{'n' if column in apart else 'r'}.{column[0]}" for column in columns)
    return (
        f"create view hot_{hot} as select r.txn, r.known_at_us, s.agent_id, s.incarnation, r.seq, {told}"  # noqa: S608
        f" from {STORED[hot]} as r join stream as s on s.stream = r.stream join {name} as n on n.{name} = r.{name}"
    )


def _numbered(name: str, columns: tuple[tuple[str, str], ...], table: str) -> str:
    """Fill a table of NAMES with what another table names, in order of first mention."""
    own = ", ".join(column for column, _ in columns)
    return (
        f"insert into {name} select row_number() over (order by first_txn, first_seq, {own}), {own}"  # noqa: S608
        f" from (select {own}, min(txn) as first_txn, min(seq) as first_seq from {table} group by {own}) as named"
    )


def _move(name: str, columns: tuple[tuple[str, str], ...], old: str, refers: str) -> str:
    """Bring the rows of an old table into its successor. refers: the table of NAMES beside stream."""
    told = ", ".join(
        f"{'s' if column == 'stream' else 'n' if column == refers else 'o'}.{column}" for column, _ in columns
    )
    alike = " and ".join(f"n.{column} is not distinct from o.{column}" for column, _ in NAMES[refers])
    return (
        f"insert into {name} select {told} from {old} as o"  # noqa: S608
        " join stream as s on s.agent_id = o.agent_id and s.incarnation = o.incarnation"
        f" join {refers} as n on {alike} order by o.txn, o.seq{', o.ordinal' if name == 'share_row' else ''}"
    )


_APART: Final = (
    *(f"drop view {name}" for name in HOT),
    *(f"alter table {hot} rename to old_{name}" for name, hot in HOT.items()),
    *(_create(name, ((name, "integer"), *columns)) for name, columns in NAMES.items()),
    _create("measurement_row", MEASUREMENT_ROW),
    _create("share_row", SHARE_ROW),
    _create("chain", CHAIN),
    _numbered("stream", STREAM, "old_measurement"),
    _numbered("look", LOOK, "old_measurement"),
    _numbered("owner", OWNER, "old_share"),
    _move("measurement_row", MEASUREMENT_ROW, "old_measurement", "look"),
    _move("share_row", SHARE_ROW, "old_share", "owner"),
    *(f"drop table old_{name}" for name in HOT),
    *(f"alter table {name} drop column digest" for name in DELIVERED if name not in HOT),
    _view("measurement", MEASUREMENT, LOOK, "look"),
    _view("share", SHARE, OWNER, "owner"),
    *(f"create view {name} as from {hot}" for name, hot in HOT.items()),
)

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    tuple(_create(name, _first(name, columns)) for name, columns in TABLES.items()),
    tuple(f"alter table measurement add column {name} bigint" for name in ADDED),
    tuple(
        statement
        for name, hot in HOT.items()
        for statement in (f"alter table {name} rename to {hot}", f"create view {name} as from {hot}")
    ),
    ("alter table factor add column status varchar", "alter table site add column provider varchar"),
    _APART,
)
"""Statements that lead from schema version i to i + 1. A released entry never changes; a new one is added."""

CHAINED: Final = MIGRATIONS.index(_APART) + 1
"""The version since which there is a chain, in place of fingerprints."""

VERSION: Final = len(MIGRATIONS)
"""The schema that this joulebook writes."""
