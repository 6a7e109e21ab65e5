"""Roll-ups: shares merged within a minute or an hour. No millijoule is lost, none changes its run, phase or slot.

Rows merge only within one (machine, device, component, agent, meter, method, uncertainty, source, kind, policy, run,
phase, member), and only where the whole span lies within the minute or hour: one that crosses an edge stays as it is,
so that pricing by any slot of whole minutes gives the same integers from minutes as from what was delivered.
"""

from __future__ import annotations

from typing import Final

from joulebook_collector.lake.layout import Columns

STEP_US: Final = {"minute": 60_000_000, "hour": 3_600_000_000}

_KEY: Final[Columns] = (
    ("machine_id", "varchar"),
    ("device_id", "varchar"),
    ("component", "varchar"),
    ("agent_id", "varchar"),
    ("meter", "varchar"),
    ("method", "varchar"),
    ("u_common", "double"),
    ("u_common_key", "varchar"),
    ("source", "varchar"),
    ("kind", "varchar"),
    ("policy", "varchar"),
    ("run_id", "varchar"),
    ("phase", "varchar"),
    ("member", "varchar null"),
)

ROLLED: Final[Columns] = (
    *_KEY,
    ("started_at_us", "bigint"),
    ("ended_at_us", "bigint"),
    ("millijoules", "bigint"),
    ("indep_squares", "double"),
    ("cpu_seconds", "double"),
    ("sm_seconds", "double"),
    ("shares", "bigint"),
    ("known_from_us", "bigint"),
    ("known_to_us", "bigint"),
)
"""indep_squares: sum of (millijoules x u_indep) squared, in mJ2.  shares: how many were merged."""

ORDER: Final = ("machine_id", "started_at_us", "kind", "run_id", "phase", "member", "device_id", "ended_at_us")


def rollup_sql(rows: str, level: str) -> str:
    """Rows of ROLLED from rows of SEALED.  level: "minute" or "hour"."""
    step = STEP_US[level]
    key = ", ".join(name for name, _ in _KEY)
    crosses = f"ended_at_us > (started_at_us // {step} + 1) * {step}"
    apart = ", ".join(f"case when {crosses} then {name} end" for name in ("txn", "seq", "ordinal"))
    return f"""select {key}, min(started_at_us) as started_at_us, max(ended_at_us) as ended_at_us,
        sum(millijoules)::bigint as millijoules,
        sum((millijoules * u_indep) * (millijoules * u_indep)) as indep_squares,
        sum(cpu_seconds) as cpu_seconds, sum(sm_seconds) as sm_seconds, count(*) as shares,
        min(known_at_us) as known_from_us, max(known_at_us) as known_to_us
    from {rows} where ordinal is not null group by {key}, started_at_us // {step}, {apart}"""  # noqa: S608
