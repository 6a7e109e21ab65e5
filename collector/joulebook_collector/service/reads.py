"""What may be read: runs and their energy, the book's quality, quarantine. A token sees its own projects' runs."""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Final

import msgspec
from joulebook.errors import BadInput
from joulebook.rows import Run, to_wire

from joulebook_collector.ledger import Ledger
from joulebook_collector.pricing import moves_of, price, slot_energies, slot_step_us
from joulebook_collector.service.access import Token
from joulebook_collector.service.answers import Problem

PAGE: Final = 100
LARGEST_PAGE: Final = 1000


class RunLine(msgspec.Struct):
    """One run, shortly. Instants in UTC microseconds; ended_at_us null while it runs."""

    run_id: str
    project: str
    study: str
    arm: str
    status: str
    machine_id: str
    started_at_us: int
    ended_at_us: int | None


class RunPage(msgspec.Struct):
    """Runs, newest first. next: for ``after`` of the next page, null on the last. as_of_us: what was known then."""

    as_of_us: int
    runs: list[RunLine]
    next: str | None


class RunAnswer(msgspec.Struct):
    """One run as the wire has it (docs/reference/rows.md)."""

    as_of_us: int
    run: dict[str, Any]


class EnergyLine(msgspec.Struct):
    """The energy of one pricing slot, machine, component, phase and member, and its price.

    energy_millijoules: of the devices. pue, facility_energy_joules, g_per_kwh, emissions_g: null where unknown, and
    ``missing`` says why.  label: how the factor came to be, "" where it is of the slot's own period.
    """

    started_at_us: int
    machine_id: str
    component: str
    phase: str
    member: str | None
    energy_millijoules: int
    site_id: str
    pue: float | None
    facility_energy_joules: float | None
    series: str
    g_per_kwh: float | None
    factor_source: str
    emissions_g: float | None
    label: str
    missing: str


class EnergyAnswer(msgspec.Struct):
    """A run's own energy and emissions by slot; children's are theirs. slot_us: length of a slot, microseconds.

    emissions_g: of the lines that could be priced, by series: they are never added to one another.
    unpriced_millijoules: of the others.
    """

    as_of_us: int
    run_id: str
    slot_us: int
    energy_millijoules: int
    emissions_g: dict[str, float]
    unpriced_millijoules: int
    lines: list[EnergyLine]


class Quality(msgspec.Struct):
    """How whole the book is. Counts of rows; energies in millijoules.

    unaccounted_millijoules: measurements minus their shares: 0, or the book was altered.  coverage: mean over the
    measured time, null when nothing was measured.  quarantined: refused rows that were
    not taken later.  gaps: places that never came though later ones did.
    """

    as_of_us: int
    measurements: int
    energy_millijoules: int
    unaccounted_millijoules: int
    coverage: float | None
    runs: int
    quarantined: int
    gaps: int
    missing_rows: int
    by_method: dict[str, int]


def as_of(ledger: Ledger, asked_us: int | None) -> int:
    """The as-of time of a query. Raises Problem on one that has not passed."""
    try:
        return ledger.as_of(asked_us)
    except BadInput as error:
        raise Problem(400, "as_of", error.cause) from None


def own_runs(token: Token, runs: list[Run]) -> list[Run]:
    """The runs that the token may see: the one place that decides."""
    return [run for run in runs if token.may_read(run.labels.project)]


def _own_run(ledger: Ledger, token: Token, run_id: str, as_of_us: int) -> Run:
    """That run; one that is not seen is not told from one that is not there."""
    found = ledger.run(run_id, as_of_us)
    if found is None or not own_runs(token, [found]):
        raise Problem(404, "unknown", "no such run")
    return found


def run_page(token: Token, limit: int, after: str, study: str, as_of_us: int | None) -> Callable[[Ledger], RunPage]:
    """A page of runs."""

    def query(ledger: Ledger) -> RunPage:
        known = as_of(ledger, as_of_us)
        at, last = _place(after)
        lines: list[RunLine] = []
        while True:
            ids = ledger.query(_PAGE, {"as_of": known, "study": study, "at": at, "last": last, "limit": limit + 1})
            for run_id, started in ids:
                at, last = started, run_id
                run = ledger.run(run_id, known)
                if run is None or not own_runs(token, [run]):
                    continue
                if len(lines) == limit:
                    return RunPage(known, lines, _token_of(lines[-1]))
                lines.append(_line(run, started))
            if len(ids) <= limit:
                return RunPage(known, lines, None)

    return query


def run_answer(token: Token, run_id: str, as_of_us: int | None) -> Callable[[Ledger], RunAnswer]:
    """One run."""

    def query(ledger: Ledger) -> RunAnswer:
        known = as_of(ledger, as_of_us)
        return RunAnswer(known, to_wire(_own_run(ledger, token, run_id, known)))

    return query


def energy_answer(token: Token, run_id: str, as_of_us: int | None) -> Callable[[Ledger], EnergyAnswer]:
    """What a run drew and emitted, slot by slot."""

    def query(ledger: Ledger) -> EnergyAnswer:
        known = as_of(ledger, as_of_us)
        run = _own_run(ledger, token, run_id, known)
        step = slot_step_us(ledger, [run], known)
        measured = ledger.measurements(known, run_ids=[run_id])
        slots = slot_energies(run, measured, slot_us=step, moved=moves_of(ledger, known))
        lines = [_energy_line(slot) for slot in price(ledger, slots, known)]
        emitted: dict[str, float] = defaultdict(float)
        for line in lines:
            if line.emissions_g is not None:
                emitted[line.series] += line.emissions_g
        return EnergyAnswer(
            known,
            run_id,
            step,
            sum(line.energy_millijoules for line in lines),
            dict(emitted),
            sum(line.energy_millijoules for line in lines if line.emissions_g is None),
            lines,
        )

    return query


def quality(as_of_us: int | None) -> Callable[[Ledger], Quality]:
    """How whole the book is."""

    def query(ledger: Ledger) -> Quality:
        known = as_of(ledger, as_of_us)
        at = {"as_of": known}
        ((count, energy, seen, whole),) = ledger.query(_TOTALS, at)
        ((shares,),) = ledger.query(
            "select coalesce(sum(millijoules), 0)::bigint from share where known_at_us <= $as_of", at
        )
        ((runs,),) = ledger.query("select count(distinct run_id) from run where known_at_us <= $as_of", at)
        methods = ledger.query(
            "select method, sum(energy_millijoules)::bigint from measurement where known_at_us <= $as_of"
            " group by method order by method",
            at,
        )
        ((refused,),) = ledger.query("select count(*) from quarantine where known_at_us <= $as_of", at)
        ((replayed,),) = ledger.query("select count(*) from log where action = 'replay' and known_at_us <= $as_of", at)
        gaps = ledger.gaps(known)
        missing = sum(last - first + 1 for *_, first, last in gaps)
        coverage = seen / whole if whole else None
        return Quality(
            known, count, energy, energy - shares, coverage, runs, refused - replayed, len(gaps), missing, dict(methods)
        )

    return query


def _energy_line(slot: Any) -> EnergyLine:
    e = slot.energy
    return EnergyLine(
        *(e.slot_started_at_us, e.machine_id, e.component, e.phase, e.member, e.energy_millijoules, slot.site_id),
        *(slot.pue, slot.facility_energy_joules, slot.series.label() if slot.series else "", slot.g_per_kwh),
        *(slot.factor_source, slot.emissions_g, slot.label, slot.missing),
    )


def _line(run: Run, started_at_us: int) -> RunLine:
    labels = run.labels
    return RunLine(
        *(run.run_id, labels.project, labels.study, labels.arm_label(), run.status, run.machine_id),
        *(started_at_us, run.ended_at_us),
    )


def _token_of(line: RunLine) -> str:
    return base64.urlsafe_b64encode(json.dumps([line.started_at_us, line.run_id]).encode()).decode()


def _place(after: str) -> tuple[int, str]:
    """Start and id of the run that a page begins behind."""
    if not after:
        return 2**62, ""
    try:
        at, last = json.loads(base64.urlsafe_b64decode(after))
        if type(at) is int and abs(at) < 2**63 and isinstance(last, str) and last.isprintable():
            return at, last
    except (ValueError, TypeError):
        pass
    raise Problem(400, "after", "give the 'next' of the page before")


_PAGE: Final = """
select run_id, started from (
    select run_id, min(started_at_us) as started from run where known_at_us <= $as_of
        and ($study = '' or study = $study) group by run_id
) as first where started < $at or (started = $at and run_id > $last)
order by started desc, run_id limit $limit
"""

_TOTALS: Final = """
select count(*), coalesce(sum(energy_millijoules), 0)::bigint,
    sum(coverage * (ended_ns - started_ns)), sum((ended_ns - started_ns)::double)
from measurement where known_at_us <= $as_of
"""
