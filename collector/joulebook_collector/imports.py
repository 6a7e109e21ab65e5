"""Import: what others measured or published becomes rows of the book, all of a file or nothing.

A file is its own agent: its rows' identity is the hash of its bytes and their number, so importing it
twice counts once. Imported rows know no boot; their order and overlap are judged in UTC.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from joulebook.counters import difference
from joulebook.errors import BadInput
from joulebook.rows import (
    Batch,
    Body,
    Component,
    Ensemble,
    Labels,
    Mark,
    Measurement,
    Method,
    Policy,
    Row,
    Run,
    Share,
    ShareKind,
    Status,
    Technique,
    Weights,
)

from joulebook_collector.factors import DEFAULT_U_REL, WORDS, NewFactor, add_factors, series_to_add, year_period_us
from joulebook_collector.import_rows import (
    U_ASSUMED,
    CounterRow,
    FactorRow,
    MeasurementRow,
    RunRow,
    micros,
    parse_rows,
    whole_millijoules,
)
from joulebook_collector.ledger import Forked, Ledger, Receipt
from joulebook_collector.parents import refuse_node_beside_parts
from joulebook_collector.shadows import UTC_BOOT
from joulebook_collector.shipped import ANNUAL_U_REL
from joulebook_collector.tables import Cells, file_identity, read_table


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of a file. rows: of the file.  accepted, duplicates: rows of the book.  notes: what was left out."""

    kind: str
    file: str
    rows: int
    accepted: int
    duplicates: int
    notes: tuple[str, ...] = ()


def import_file(
    ledger: Ledger, kind: str, path: Path, defaults: Mapping[str, Any] | None = None, *, new_zone: bool = False
) -> Imported:
    """Take a whole file into the ledger, durably, or refuse all of it.

    kind: measurements, counters, runs or factors.  defaults: for cells that rows leave empty.
    new_zone: factors may be of zones that the ledger does not know.
    Raises BadInput with the row's number, the cause and the remedy; nothing is stored then.
    """
    cells = read_table(path)
    identity = f"import:{file_identity(path)}"
    if kind == "factors":
        new = _factors(ledger, parse_rows(FactorRow, cells, defaults or {}), new_zone)
        added = add_factors(ledger, new, identity)
        return Imported(kind, path.name, len(cells), added, len(new) - added)
    bodies, notes = READERS[kind](cells, defaults or {}, f"import {path.name}")
    _refuse_known_runs(ledger, bodies, identity)
    _refuse_overlaps(bodies)
    if not ledger.query("select 1 from log where agent_id = ? limit 1", [identity]):
        refuse_node_beside_parts(ledger, bodies)
    batch = Batch(identity, kind, tuple(Row(seq, body) for seq, body in enumerate(bodies, start=1)))
    receipt = _ingest(ledger, batch, path.name)
    return Imported(kind, path.name, len(cells), receipt.accepted, receipt.duplicates, tuple(notes))


def _ingest(ledger: Ledger, batch: Batch, name: str) -> Receipt:
    try:
        return ledger.ingest(batch, whole=True)
    except Forked as error:
        raise BadInput(
            f"{name} was imported before with other options, or under another name, and its rows would differ now",
            "import it as it was imported then; what was taken stays as it is",
        ) from error


Bodies = tuple[list[Body], list[str]]


def measurement_bodies(cells: Sequence[Cells], defaults: Mapping[str, Any], source: str) -> Bodies:
    """Measurements, each wholly its run's, or unattributed."""
    rows = parse_rows(MeasurementRow, list(cells), defaults)
    return [_numbered(n, _measurement, row, source) for n, row in enumerate(rows, start=1)], []


def counter_bodies(cells: Sequence[Cells], defaults: Mapping[str, Any], source: str) -> Bodies:
    """Differences of raw counters, device by device; what cannot be known stays a gap, and is told."""
    devices: dict[tuple[str, str, str], list[tuple[int, CounterRow]]] = defaultdict(list)
    for n, row in enumerate(parse_rows(CounterRow, list(cells), defaults), start=1):
        devices[row.machine, row.device, row.meter].append((n, row))
    bodies: list[Body] = []
    notes: list[str] = []
    for _, reads in sorted(devices.items()):
        _counter_device(sorted(reads, key=lambda read: read[1].at), source, bodies, notes)
    if not bodies:
        raise BadInput("no two reads of one device give a difference", "give at least two reads of each device")
    return bodies, notes


def run_bodies(cells: Sequence[Cells], defaults: Mapping[str, Any], source: str) -> Bodies:
    """Runs with their energies, samples and quality; several rows of one run are its phases."""
    grouped: dict[str, list[tuple[int, RunRow]]] = defaultdict(list)
    for n, row in enumerate(parse_rows(RunRow, list(cells), defaults), start=1):
        if micros(row.started_at) >= micros(row.ended_at):
            raise BadInput(f"row {n} ends at or before its start", "give ended_at after started_at")
        grouped[row.run].append((n, row))
    bodies: list[Body] = []
    for rows in grouped.values():
        bodies.append(_run(rows, source))
        bodies += [body for n, row in rows for body in _run_energies(n, row, source)]
        bodies += [_run_mark(n, row) for n, row in rows]
    return bodies, []


READERS: Final[dict[str, Callable[[Sequence[Cells], Mapping[str, Any], str], Bodies]]] = {
    "measurements": measurement_bodies,
    "counters": counter_bodies,
    "runs": run_bodies,
}

KINDS: Final = (*READERS, "factors")


def _measurement(row: MeasurementRow, source: str) -> Measurement:
    return _build(
        machine=row.machine,
        device=row.device,
        component=row.component,
        us=(micros(row.started_at), micros(row.ended_at)),
        energy=whole_millijoules(row.energy_millijoules),
        meter=row.meter,
        method=row.method,
        u=row.u,
        coverage=row.coverage,
        source=source,
        share=(row.run, row.phase, row.member),
        note=row.note,
    )


def _build(
    *,
    machine: str,
    device: str,
    component: Component,
    us: tuple[int, int],
    energy: int,
    meter: str,
    method: Method | None,
    u: float | None,
    coverage: float,
    source: str,
    share: tuple[str, str, str | None],
    note: str,
) -> Measurement:
    """A measurement with one share; what was assumed is in its note, which every report carries on."""
    run_id, phase, member = share
    known = method or Method.MODELLED
    notes = [note, "" if method else "method not stated: taken as modelled"]
    notes.append("" if u is not None else f"uncertainty not stated: {U_ASSUMED[known]:.0%} assumed")
    # Whole to its one claimant under any policy: published joules are attributed already.
    weights = Weights(cpu_seconds=1.0, sm_seconds=1.0, reserved_fraction=1.0)
    shares = [Share(ShareKind.UNATTRIBUTED, energy, Policy.RESERVED, weights=weights)]
    if run_id:
        mine = Share(ShareKind.RUN, energy, Policy.RESERVED, run_id, phase, member, weights=weights)
        shares = [mine, Share(ShareKind.UNATTRIBUTED, 0, Policy.RESERVED)]
    return Measurement(
        machine_id=machine,
        boot_id=UTC_BOOT,
        device_id=device,
        component=component,
        started_at_us=us[0],
        ended_at_us=us[1],
        started_ns=us[0] * 1000,
        ended_ns=us[1] * 1000,
        energy_millijoules=energy,
        meter=meter,
        method=known,
        u_common=U_ASSUMED[known] if u is None else u,
        u_common_key=f"{source} {meter} {component}",
        u_indep=0.0,
        coverage=coverage,
        source=source,
        shares=tuple(shares),
        note="; ".join(filter(None, notes)),
    )


def _numbered(number: int, make: Callable[..., Measurement], *arguments: Any) -> Measurement:
    try:
        return make(*arguments)
    except BadInput as error:
        raise BadInput(f"row {number}: {error.cause}", error.remedy) from error


def _counter_device(reads: Sequence[tuple[int, CounterRow]], source: str, bodies: list[Body], notes: list[str]) -> None:
    counted = 0
    for (_, before), (n, after) in pairwise(reads):
        start_us, end_us = micros(before.at), micros(after.at)
        if start_us == end_us:
            raise BadInput(f"row {n}: two reads of {after.device} at the same moment", "give each moment once")
        most = None if after.most_watts is None else after.most_watts * 1e6
        step = difference(
            before.energy_microjoules,
            after.energy_microjoules,
            (end_us - start_us) * 1000,
            after.wraps_at_microjoules,
            most,
        )
        if step.counts is None:
            notes.append(f"row {n}: {step.step} of {after.device}, at least {step.at_least} uJ: left out as a gap")
            continue
        # The cumulative value is floored at the edges, never each difference: no energy leaks away.
        energy = (counted + step.counts) // 1000 - counted // 1000
        counted += step.counts
        bodies.append(_counter_measurement(after, (start_us, end_us), energy, source))


def _counter_measurement(row: CounterRow, us: tuple[int, int], energy: int, source: str) -> Measurement:
    return _build(
        machine=row.machine,
        device=row.device,
        component=row.component,
        us=us,
        energy=energy,
        meter=row.meter,
        method=Method.COUNTER,
        u=row.u,
        coverage=1.0,
        source=source,
        share=(row.run, row.phase, row.member),
        note="",
    )


_OF_RUN: Final = (
    *("machine", "status", "name", "project", "study", "arm", "techniques", "ensemble", "ensemble_method", "members"),
    *("seed", "parent", "inherits", "data_hash"),
)


def _run(rows: Sequence[tuple[int, RunRow]], source: str) -> Run:
    number, first = rows[0]
    for n, row in rows[1:]:
        differing = [name for name in _OF_RUN if getattr(row, name) != getattr(first, name)]
        if differing:
            raise BadInput(
                f"row {n}: {differing[0]} of run {row.run} differs from row {number}", "say the same in all its rows"
            )
    started_us = min(micros(row.started_at) for _, row in rows)
    ended_us = max(micros(row.ended_at) for _, row in rows)
    return Run(
        run_id=first.run,
        machine_id=first.machine,
        boot_id=UTC_BOOT,
        status=Status(first.status),
        started_at_us=started_us,
        started_ns=started_us * 1000,
        labels=_labels(number, first, rows),
        ended_at_us=ended_us,
        ended_ns=ended_us * 1000,
        notes=tuple(dict.fromkeys(filter(None, (row.source or row.note for _, row in rows)))),
        source=source,
    )


def _labels(number: int, row: RunRow, rows: Sequence[tuple[int, RunRow]]) -> Labels:
    ensemble = Ensemble(row.ensemble or row.run, row.ensemble_method, row.members) if row.ensemble_method else None
    members = {each.member for _, each in rows}
    return Labels(
        name=row.name,
        project=row.project,
        study=row.study,
        arm=row.arm,
        techniques=parse_techniques(row.techniques, number),
        ensemble=ensemble,
        member=members.pop() if len(members) == 1 else None,
        seed=row.seed,
        parent_run_id=row.parent,
        inherits=tuple(part.strip() for part in row.inherits.split(";") if part.strip()),
        data_hash=row.data_hash,
    )


_TECHNIQUE: Final = re.compile(r"([^()=;]+?)\s*(?:\(([^()]*)\))?")


def parse_techniques(text: str, number: int) -> tuple[Technique, ...]:
    """Techniques from a cell: a JSON list of {name, parameters}, or ``name(key=value, ...); name``."""
    if text.lstrip().startswith("["):
        try:
            return tuple(Technique(**_technique(item)) for item in json.loads(text))
        except (ValueError, TypeError) as error:
            raise BadInput(f"row {number}, techniques: {error}", "give a list of {name, parameters}") from error
    return tuple(_spelled_technique(part.strip(), number) for part in text.split(";") if part.strip())


def _technique(item: Any) -> dict[str, Any]:
    return {"name": item} if isinstance(item, str) else dict(item)


def _spelled_technique(text: str, number: int) -> Technique:
    found = _TECHNIQUE.fullmatch(text)
    pairs = [pair.partition("=") for pair in (found[2] or "").split(",") if pair.strip()] if found else []
    if found is None or not all(mark and key.strip() for key, mark, _ in pairs):
        raise BadInput(f"row {number}, techniques: cannot read {text!r}", "write name(key=value, ...); name")
    return Technique(found[1], {key.strip(): value.strip() for key, _, value in pairs})


def _run_energies(number: int, row: RunRow, source: str) -> Iterable[Measurement]:
    for component, amount in sorted(row.energy.items()):
        yield _numbered(number, _run_measurement, row, component, amount, source)


def _run_measurement(row: RunRow, component: Component, amount: Decimal, source: str) -> Measurement:
    # The joules are the run's own part already, so the device is that part, and parallel runs do not overlap.
    part = " ".join(filter(None, (component, "of", row.run, row.phase, row.member and f"member {row.member}")))
    return _build(
        machine=row.machine,
        device=part,
        component=component,
        us=(micros(row.started_at), micros(row.ended_at)),
        energy=whole_millijoules(amount),
        meter="import",
        method=row.method,
        u=row.u,
        coverage=row.coverage,
        source=source,
        share=(row.run, row.phase, row.member),
        note=row.note,
    )


def _run_mark(number: int, row: RunRow) -> Mark:
    at_us = micros(row.ended_at)
    return Mark(
        run_id=row.run,
        machine_id=row.machine,
        boot_id=UTC_BOOT,
        pid=0,
        kind="log",
        at_us=at_us,
        at_ns=at_us * 1000,
        cpu_ns=0,
        n=number,
        phase=row.phase,
        member=row.member,
        samples=row.samples,
        flops=row.flops,
        split=row.split,
        quality=row.quality,
    )


def _factors(ledger: Ledger, rows: Sequence[FactorRow], new_zone: bool) -> list[NewFactor]:
    return [_factor(ledger, n, row, new_zone) for n, row in enumerate(rows, start=1)]


def _factor(ledger: Ledger, number: int, row: FactorRow, new_zone: bool) -> NewFactor:
    try:
        series = series_to_add(ledger, row.zone, {word: getattr(row, word) for word in WORDS}, new_zone)
        started_us, ended_us = _period(row)
    except BadInput as error:
        raise BadInput(f"row {number}: {error.cause}", error.remedy) from error
    annual = row.year is not None
    u_rel = row.u if row.u is not None else (ANNUAL_U_REL if annual else DEFAULT_U_REL)
    value = (float(row.g_per_kwh), row.source, u_rel, annual, row.name, row.note, row.status)
    return NewFactor(series, started_us, ended_us, *value)


def _period(row: FactorRow) -> tuple[int, int]:
    if row.year is not None and row.started_at is None and row.ended_at is None:
        return year_period_us(row.year)
    if row.year is None and row.started_at is not None and row.ended_at is not None:
        return micros(row.started_at), micros(row.ended_at)
    raise BadInput("a factor needs a period", "give year, or started_at and ended_at")


def _refuse_known_runs(ledger: Ledger, bodies: Iterable[Body], identity: str) -> None:
    runs = [body.run_id for body in bodies if isinstance(body, Run)]
    if not runs:
        return
    known = ledger.query(
        "select run_id, source from run where run_id in (select unnest(?::varchar[])) and agent_id <> ? limit 1",
        [runs, identity],
    )
    if known:
        run_id, source = known[0]
        raise BadInput(f"run {run_id} is in the ledger already, from {source}", "give the imported run another id")


def _refuse_overlaps(bodies: Iterable[Body]) -> None:
    spans: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
    for body in bodies:
        if isinstance(body, Measurement):
            spans[body.machine_id, body.device_id, body.meter].append((body.started_at_us, body.ended_at_us))
    for (machine, device, meter), taken in spans.items():
        for (_, end), (start, _) in pairwise(sorted(taken)):
            if start < end:
                raise BadInput(
                    f"two measurements of {device} on {machine} by {meter} overlap at {start} us",
                    "give each device's spans once, without overlap",
                )
