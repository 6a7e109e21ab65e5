"""The one module that reads the ledger: everything a report needs, as plain frozen data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from joulebook.errors import BadInput
from joulebook.home import Home, find_home
from joulebook.recover import recover
from joulebook.rows import Measurement, Method, Policy, Run
from joulebook.settings import settings_from_environment
from joulebook.summary import run_energy
from joulebook_collector.conservation import BookCheck, verify
from joulebook_collector.ledger import Ledger
from joulebook_collector.priced import PricedSlot, Site
from joulebook_collector.pricing import moves_of, price, slot_energies, slot_step_us
from joulebook_collector.restate import Restatement, restatements
from joulebook_collector.sites import read_sites
from joulebook_collector.take import take_outboxes, to_stderr

from joulebook_reports.facts import Restated, RunFacts, StudyFacts

LAST = "last"


@contextmanager
def open_book(home: Home | None = None, *, say: Callable[[str], None] = to_stderr) -> Iterator[Ledger]:
    """The home's ledger with everything that waited taken in: dead agents' leavings first, then the outboxes.

    say: takes a line for each outbox that is not this ledger's to take.
    """
    place = (home or find_home()).make()
    recover(place)
    with Ledger.open(place.ledger) as ledger:
        take_outboxes(ledger, place, collector_url=settings_from_environment().collector_url, say=say)
        yield ledger


def as_of_from(text: str | None, ledger: Ledger) -> int:
    """The report's time in UTC microseconds: as typed (ISO 8601 with its offset), else the last transaction."""
    if text is None:
        return ledger.latest_known_us()
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"--as-of {text!r} is no time", "give ISO 8601, such as 2026-11-24T12:00:00Z") from None
    if at.tzinfo is None:
        raise BadInput(f"--as-of {text!r} names no time zone", f"add Z for UTC: {text}Z")
    since = at.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def find_run(ledger: Ledger, asked: str, as_of_us: int) -> Run:
    """The run of that id or of an unambiguous beginning of it; ``last`` is the last one that started on its own."""
    runs = ledger.runs(as_of_us)
    if not runs:
        raise BadInput("the ledger holds no run", "measure one: joulebook run -- COMMAND")
    if asked == LAST:
        own = [run for run in runs if not run.labels.parent_run_id] or runs
        return max(own, key=lambda run: (run.started_at_us, run.run_id))
    exact = [run for run in runs if run.run_id == asked]
    found = exact or [run for run in runs if run.run_id.startswith(asked)]
    if len(found) != 1:
        ids = ", ".join(run.run_id for run in (found or runs)[-5:])
        many = f"{len(found)} runs begin with {asked!r}" if found else f"no run {asked!r} is known"
        raise BadInput(many, f"name one of: {ids}")
    return found[0]


def check_book(ledger: Ledger, as_of_us: int) -> BookCheck:
    """Every row against what was written, and law 1 over all. Raises LedgerError on the first that differs."""
    return verify(ledger, as_of_us)


def gather_run(ledger: Ledger, run: Run, as_of_us: int, policy: Policy | None = None) -> RunFacts:
    """Everything known of the run at as_of_us.  policy: None is the one that its shares were written under."""
    children = ledger.children(run.run_id, as_of_us)
    parts = ledger.parts(run.run_id, as_of_us)
    measurements = ledger.measurements(as_of_us, overlapping=[*parts, *children])
    chosen = policy or _written_policy(run, measurements)
    ids = [child.run_id for child in children]
    step = slot_step_us(ledger, [run, *children], as_of_us)
    slots = _priced(ledger, run, measurements, chosen, step, as_of_us)
    return RunFacts(
        run=run,
        policy=chosen,
        energies={p: run_energy(run, measurements, p, ids, parts) for p in Policy},
        measurements=tuple(measurements),
        marks=tuple(ledger.marks([run.run_id], as_of_us)),
        children=tuple(children),
        child_phases={child.run_id: _phase_totals(child, measurements, chosen) for child in children},
        slots=tuple(slots),
        child_slots=tuple(s for c in children for s in _priced(ledger, c, measurements, chosen, step, as_of_us)),
        restated=_restated(ledger, run, slots, as_of_us),
        sites=_sites(ledger, slots, as_of_us),
        parts=tuple(parts),
    )


def _phase_totals(run: Run, measurements: Sequence[Measurement], policy: Policy) -> dict[str, int]:
    return {phase: sum(parts.values()) for phase, parts in run_energy(run, measurements, policy).phase.items()}


def _written_policy(run: Run, measurements: Sequence[Measurement]) -> Policy:
    """What the agent that wrote the run's shares was set to; reserved where nothing was written."""
    written = (share.policy for m in measurements for share in m.shares if share.run_id == run.run_id)
    return min(written, default=Policy.RESERVED)


def gather_study(ledger: Ledger, name: str, as_of_us: int, policy: Policy | None = None) -> StudyFacts:
    """Every run of the study and every run whose cost they reuse.

    policy: None is utilisation when every joule behind the runs is modelled, else reserved. On a
    shared machine a model sees only who used it; but by use a measured GPU that waits costs nobody
    anything, so one measured joule keeps the study on reservation.
    """
    runs = ledger.runs(as_of_us, study=name)
    if not runs:
        known = sorted({run.labels.study for run in ledger.runs(as_of_us) if run.labels.study})
        raise BadInput(f"no run is labelled with study {name!r}", f"studies known: {', '.join(known) or 'none'}")
    inherited = _inherited(ledger, runs, as_of_us)
    chosen = policy or _study_policy(ledger, [*runs, *inherited], as_of_us)
    return StudyFacts(
        name=name,
        policy=chosen,
        runs=tuple(gather_run(ledger, run, as_of_us, chosen) for run in runs),
        inherited={run.run_id: gather_run(ledger, run, as_of_us, chosen) for run in inherited},
    )


def _priced(
    ledger: Ledger, run: Run, measurements: Sequence[Measurement], policy: Policy, step_us: int, as_of_us: int
) -> list[PricedSlot]:
    slots = slot_energies(run, measurements, policy, step_us, moves_of(ledger, as_of_us))
    return price(ledger, slots, as_of_us)


def _study_policy(ledger: Ledger, runs: Sequence[Run], as_of_us: int) -> Policy:
    ids = {run.run_id for run in runs}
    ids |= {child.run_id for run in runs for child in ledger.children(run.run_id, as_of_us)}
    measurements = ledger.measurements(as_of_us, run_ids=sorted(ids))
    methods = {m.method for m in measurements if m.energy_millijoules}
    return Policy.UTILISATION if methods == {Method.MODELLED} else Policy.RESERVED


def _inherited(ledger: Ledger, runs: Sequence[Run], as_of_us: int) -> list[Run]:
    """Runs outside the study whose cost its runs reuse, and theirs; unknown ids are left to the report to name."""
    seen = {run.run_id for run in runs}
    waiting = [run_id for run in runs for run_id in run.labels.inherits]
    found = []
    while waiting:
        run_id = waiting.pop(0)
        if run_id in seen:
            continue
        seen.add(run_id)
        run = ledger.run(run_id, as_of_us)
        if run is not None:
            found.append(run)
            waiting.extend(run.labels.inherits)
    return found


def _sites(ledger: Ledger, slots: Sequence[PricedSlot], as_of_us: int) -> dict[str, Site]:
    used = {slot.site_id for slot in slots}
    return {site.site_id: site for site in read_sites(ledger, as_of_us) if site.site_id in used}


def _restated(ledger: Ledger, run: Run, slots: Sequence[PricedSlot], as_of_us: int) -> tuple[Restated, ...]:
    """What later knowledge changed since the ledger knew that the run had ended; nothing while it runs."""
    first_known_us = ledger.finished_at_us(run.run_id, as_of_us)
    if first_known_us is None:
        return ()
    found = restatements(ledger, [slot.energy for slot in slots], first_known_us, as_of_us)
    return tuple(Restated(r.known_at_us, r.delta_g, r.slots, _change_in_words(r), r.old_g, r.new_g) for r in found)


def _change_in_words(change: Restatement) -> str:
    old = _price_in_words(change.old_pue, change.old_g_per_kwh, change.old_source, change.old_label)
    new = _price_in_words(change.new_pue, change.new_g_per_kwh, change.new_source, change.new_label)
    moved = f"site {change.site_id}: " if change.site_id != change.old_site_id else ""
    why = f"; {change.no_delta}" if change.no_delta else ""
    return f"site {change.old_site_id}: {old}, now {moved}{new}{why}"


def _price_in_words(pue: float | None, g_per_kwh: float | None, source: str, label: str) -> str:
    intensity = "no intensity" if g_per_kwh is None else f"{g_per_kwh:g} g/kWh"
    named = ", ".join(filter(None, (source, label)))
    return f"PUE {'unknown' if pue is None else f'{pue:g}'} and {intensity}" + (f" ({named})" if named else "")
