"""What else differed between the arms of a study (METHODS 4.2): a thin check over start-of-run records."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from joulebook.rows import Component, Run
from joulebook_collector.machines import PER_MACHINE

from joulebook_reports.facts import RunFacts

HARDWARE: Final = re.compile(r"cpu|gpu|driver|power|thread|cores|cgroup|quota|memory|reserved|governor|meter")
"""Fields that decide joules whatever the technique: a difference makes the comparison observational."""

PACKAGES: Final = "packages."
"""Versions of the framework and its companions: they choose the kernels that run (METHODS 4.2)."""

NOT_RECORDED: Final = "not recorded"

BETWEEN_RUNS: Final = re.compile(
    r"(^|[._])(load|time|date|uptime|pid|host|hostname|free|available|boot|cwd|temperature|unread)"
)
"""Fields that differ between any two runs and say nothing by differing."""


@dataclass(frozen=True, slots=True)
class Confounder:
    """A field whose values differ between an arm and the baseline.

    grave: it decides joules by itself, so the comparison is observational.
    """

    field: str
    baseline: str
    arm: str
    grave: bool


def confounders(baseline: Sequence[RunFacts], arm: Sequence[RunFacts]) -> list[Confounder]:
    """Every watched field that differs, graver ones first."""
    left, right = (_fields(runs) for runs in (baseline, arm))
    found = [
        Confounder(name, _words(left.get(name)), _words(right.get(name)), _is_grave(name))
        for name in sorted(left.keys() | right.keys())
        if left.get(name) != right.get(name)
    ]
    return sorted(found, key=lambda c: (not c.grave, c.field))


def why_observational(baseline: Sequence[RunFacts], arm: Sequence[RunFacts], differs: Sequence[Confounder]) -> str:
    """Why the comparison is no experiment, in words; "" when nothing that decides joules is known to differ.

    differs: from ``confounders``.  A run without a start-of-run record is not known to be like any other.
    """
    recorded = all(part.record for facts in (*baseline, *arm) for part in facts.parts or (facts.run,))
    graves = [c.field for c in differs if c.grave and (recorded or NOT_RECORDED not in f"{c.baseline} {c.arm}")]
    more = f" and {len(graves) - 3} more" if len(graves) > 3 else ""
    differ = f"{', '.join(graves[:3])}{more} differ" if graves else ""
    return "; ".join(filter(None, ("" if recorded else "hardware not recorded", differ)))


def busy_runs(runs: Iterable[RunFacts]) -> list[str]:
    """Runs that started on a machine with more to do than it has cores, in words."""
    return [words for facts in runs for part in facts.parts or (facts.run,) if (words := _busy(part))]


def _fields(runs: Sequence[RunFacts]) -> dict[str, set[str]]:
    """Every field's values over the runs; a run that lacks one that another has is not known to share it."""
    watched = [_watched(facts) for facts in runs]
    names = {name for fields in watched for name in fields}
    return {name: {fields.get(name, NOT_RECORDED) for fields in watched} for name in names}


def _watched(facts: RunFacts) -> dict[str, str]:
    fields = {
        name: str(value)
        for name, value in _recorded(facts.run.record).items()
        if name.startswith(PACKAGES) or not BETWEEN_RUNS.search(_plain(name).lower())
    }
    fields["machine"] = ", ".join(facts.machines)
    for component in Component:
        meters = sorted({f"{m.meter} ({m.method})" for m in facts.measurements if m.component is component})
        if meters:
            fields[f"meter of {component}"] = ", ".join(meters)
    if facts.run.labels.data_hash:
        fields["data hash"] = facts.run.labels.data_hash
    return fields


def _recorded(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record's fields; what a run's machines do not share as ``name (machine)``."""
    fields = flat({name: value for name, value in record.items() if name != PER_MACHINE})
    for machine, own in record.get(PER_MACHINE, {}).items():
        fields |= {f"{name} ({machine})": value for name, value in flat(own).items()}
    return fields


def _plain(name: str) -> str:
    """A field's name without its machine, whose own name says nothing."""
    return name.partition(" (")[0]


def flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested record as ``outer.inner`` names; lists stay values."""
    fields: dict[str, Any] = {}
    for key, value in record.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            fields.update(flat(value, f"{name}."))
        else:
            fields[name] = value
    return fields


def _is_grave(name: str) -> bool:
    named = name in {"machine", "data hash"} or name.startswith(("meter of", PACKAGES))
    return named or bool(HARDWARE.search(_plain(name).lower()))


def _words(values: set[str] | None) -> str:
    return " | ".join(sorted(map(_brief, values))) if values else NOT_RECORDED


def _brief(value: str) -> str:
    """Commits and hashes by their first characters, as people read them."""
    return value[:10] if re.fullmatch(r"[0-9a-f]{40,}", value) else value


def _busy(run: Run) -> str:
    record = {name.rsplit(".", 1)[-1]: value for name, value in flat(run.record).items()}
    load, cores = _number(record, _LOAD), _number(record, _CORES)
    if load is None or cores is None or load <= cores:
        return ""
    return f"{run.run_id}: load {load:.1f} on {cores:g} cores at its start"


_LOAD: Final = ("load_1min", "load")
_CORES: Final = ("cpus", "cores")


def _number(record: Mapping[str, Any], names: Sequence[str]) -> float | None:
    for name in names:
        value = record.get(name)
        if isinstance(value, list | tuple) and value:
            value = value[0]
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return None
