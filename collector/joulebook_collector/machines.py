"""One run on several machines: each machine's agent writes its own versions of it, and the book tells them as one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from joulebook.rows import Run, Status, to_wire
from joulebook.runs import merged

PER_MACHINE: Final = "machines"
"""Where the record of a run on several machines keeps what they do not share."""
HARDWARE: Final = (
    "cpu_model", "cpus", "memory_bytes", "reserved_cpus", "reserved_bytes", "meters", "gpus", "gpu_drivers",
    "gpu_power_limits_watts",
)  # fmt: skip
"""Fields of a start-of-run record that decide joules: a difference between a run's machines is noted."""
_WORST_LAST: Final = (Status.OK, Status.FAILED, Status.INTERRUPTED, Status.RUNNING)

Record = Mapping[str, Any]


def as_one(versions: Iterable[Run]) -> list[Run]:
    """Runs by start and id, each from its machines' newest versions."""
    by_id: dict[str, list[Run]] = defaultdict(list)
    for version in versions:
        by_id[version.run_id].append(version)
    return sorted(map(one_run, by_id.values()), key=lambda run: (run.started_at_us, run.run_id))


def one_run(parts: Sequence[Run]) -> Run:
    """The run that these are the parts of, one per machine, at least one.

    Machine, boot and boot-time span are those of the machine that started first, UTC is from the first start to the
    last end. It runs while one part does; else the worst part's status is its status: interrupted, failed, ok.
    """
    if len(parts) == 1:
        return parts[0]
    ordered = sorted(parts, key=lambda part: (part.started_at_us, part.machine_id))
    first = ordered[0]
    status = max((part.status for part in ordered), key=_WORST_LAST.index)
    running = status is Status.RUNNING
    labels = first.labels
    for part in ordered[1:]:
        labels = merged(labels, to_wire(part)["labels"])
    return replace(
        first,
        status=status,
        labels=labels,
        ended_at_us=None if running else max(part.ended_at_us or part.started_at_us for part in ordered),
        ended_ns=None if running else first.ended_ns,
        exit_code=None if running else max((p.exit_code for p in ordered if p.exit_code is not None), default=None),
        command=next((part.command for part in ordered if part.command), ()),
        record=one_record({part.machine_id: part.record for part in ordered}),
        reason=_reason(ordered, status),
        notes=tuple(dict.fromkeys([*(note for part in ordered for note in part.notes), _note(ordered)])),
    )


def one_record(records: Mapping[str, Record]) -> dict[str, Any]:
    """What all machines' records say alike, and under ``machines`` by machine what they do not."""
    alike, apart = _divided(records)
    apart = {machine: own for machine, own in sorted(apart.items()) if own}
    return {**alike, PER_MACHINE: apart} if apart else alike


def _divided(records: Mapping[str, Record]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    alike: dict[str, Any] = {}
    apart: dict[str, dict[str, Any]] = {machine: {} for machine in records}
    for name in dict.fromkeys(name for record in records.values() for name in record):
        values = {machine: record[name] for machine, record in records.items() if name in record}
        one = next(iter(values.values()))
        if len(values) == len(records) and all(value == one for value in values.values()):
            alike[name] = one
        elif len(values) == len(records) and all(isinstance(value, Mapping) for value in values.values()):
            within, theirs = _divided(values)
            if within:
                alike[name] = within
            for machine, own in theirs.items():
                if own:
                    apart[machine][name] = own
        else:
            for machine, value in values.items():
                apart[machine][name] = value
    return alike, apart


def _reason(ordered: Sequence[Run], status: Status) -> str:
    """The first reason, of a part that decided the status before any other's, with its machine."""
    told = sorted((part for part in ordered if part.reason), key=lambda part: part.status is not status)
    if not told:
        return ""
    alike = len({part.reason for part in ordered}) == 1
    return told[0].reason if alike else f"{told[0].machine_id}: {told[0].reason}"


def _note(ordered: Sequence[Run]) -> str:
    machines = sorted(part.machine_id for part in ordered)
    differ = [name for name in HARDWARE if len({repr(part.record.get(name)) for part in ordered}) > 1]
    unlike = f", which differ in {', '.join(differ)}" if differ else ""
    return f"ran on {len(machines)} machines ({', '.join(machines)}){unlike}"
