"""The JSON object of one run: ``joulebook run --json`` and ``joulebook report run --json`` (docs/reference/report.md).

Every other form of a run report is drawn from this object, so they cannot disagree.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from joulebook.errors import LedgerError
from joulebook.rows import Measurement, Method
from joulebook.split import resplit
from joulebook.summary import Conservation, RunEnergy, check_conservation, document, iso_utc, phase_name
from joulebook.units import US_PER_SECOND, joules
from joulebook_collector.conservation import BookCheck
from joulebook_collector.priced import Site

from joulebook_reports.emissions import Emissions, emissions_of, pricing_table
from joulebook_reports.facts import Restated, RunFacts
from joulebook_reports.power import phase_seconds, phase_spans
from joulebook_reports.uncertainty import ROUGH_ABOVE

MODELLED_FIRST_LINE = "modelled from CPU seconds on a shared machine, no joule was measured"
STATED_FIRST_LINE = "stated or assumed to be modelled; nothing here was metered"


def run_document(facts: RunFacts, as_of_us: int, book: BookCheck | None = None) -> dict[str, Any]:
    """Everything that the ledger knows of the run at as_of_us. Raises LedgerError when law 1 is broken.

    book: the check of the whole book, None where it was not made.
    """
    checked(facts.measurements)
    emissions = emissions_of(facts.slots, u_rel_of(facts))
    return {
        **document(facts.run, facts.energy),
        **_labels(facts),
        **_priced(facts, emissions),
        "phase_seconds": _phase_seconds(facts),
        "as_of": iso_utc(as_of_us),
        "data_quality": data_quality(facts),
        "conservation": totals_json(facts.energy.conservation),
        "conservation_statement": conservation_statement(facts.energy.conservation, len(facts.measurements)),
        "energy_under_other_policies_joules": {
            str(policy): joules(energy.own) for policy, energy in facts.energies.items() if policy != facts.policy
        },
        "restatements": [restatement_json(change) for change in facts.restated],
        "book": None if book is None else book_json(book),
        "modelled_statement": modelled_statement([facts]),
    }


def checked(measurements: Sequence[Measurement]) -> Conservation:
    """The law, checked row by row on what the ledger gave. Raises LedgerError where it does not hold."""
    found = check_conservation(measurements)
    if not found.holds:
        raise LedgerError(
            f"measured {found.measured} mJ is not runs {found.runs} + idle {found.idle}"
            f" + unattributed {found.unattributed} mJ",
            "restore the ledger from a backup: this report would not add up",
        )
    return found


def conservation_statement(found: Conservation, measurements: int) -> str:
    """The sentence on every report; PASS only from the check itself."""
    verdict = "PASS" if found.holds else "FAIL"
    return (
        f"{verdict}: measured {found.measured:,} mJ = runs {found.runs:,} + idle {found.idle:,}"
        f" + unattributed {found.unattributed:,} mJ, over {measurements:,} measurements"
    )


def book_json(book: BookCheck) -> dict[str, Any]:
    """The laws checked on the whole book, row by row against what was written."""
    return {
        "conservation": totals_json(book.conservation),
        "measurements": book.measurements,
        "shadowed": book.shadowed,
        "quarantined": book.quarantined,
        "missing_rows": book.missing_rows,
    }


def data_quality(facts: RunFacts) -> dict[str, Any]:
    """How much of the run's own energy was measured, how much modelled, and how much of its time was seen."""
    own = _own_by_method(facts)
    whole = sum(own.values())
    statement = _quality_words(own, whole, facts.energy)
    return {
        "joules_by_method": {str(method): joules(own.get(method, 0)) for method in Method},
        "meters": sorted({f"{m.meter} ({m.method})" for m in facts.measurements}),
        "coverage": facts.energy.coverage,
        "unread": list(facts.energy.unread),
        "statement": statement,
    }


def modelled_only(facts: RunFacts) -> bool:
    """True when the run has energy and no joule of it was measured."""
    methods = set(facts.energy.method.values())
    return methods == {Method.MODELLED} and not _measured_joules(facts)


def modelled_statement(runs: Sequence[RunFacts]) -> str | None:
    """What to say first where no joule of any of these runs was measured; None where some were.

    Only the agent's own model is known to rest on CPU seconds; an import's method is what its file said.
    """
    if not all(modelled_only(facts) for facts in runs):
        return None
    own = [m for facts in runs for m in facts.measurements if any(s.run_id == facts.run.run_id for s in m.shares)]
    by_agent = all((m.source, m.meter) == ("agent", "model") for m in own)
    return MODELLED_FIRST_LINE if by_agent else STATED_FIRST_LINE


def u_rel_of(facts: RunFacts) -> float:
    """Relative standard uncertainty of the run's own energy; 0 when it has none."""
    return facts.energy.u_own / facts.energy.own if facts.energy.own else 0.0


def _phase_seconds(facts: RunFacts) -> dict[str, float]:
    """From the marks where there are some: a span that two processes share belongs to both of their phases."""
    run = facts.run
    spans = phase_spans(facts.marks, run.started_at_us, run.ended_at_us, facts.measurements)
    if not spans or run.ended_at_us is None:
        return {phase_name(phase): seconds for phase, seconds in facts.energy.phase_seconds.items()}
    found = phase_seconds(spans, (run.ended_at_us - run.started_at_us) / US_PER_SECOND)
    return {phase: seconds for phase, seconds in found.items() if seconds}


def _labels(facts: RunFacts) -> dict[str, Any]:
    labels = facts.run.labels
    return {
        "name": labels.name,
        "project": labels.project,
        "study": labels.study,
        "arm": labels.arm_label(),
        "seed": labels.seed,
        "machine_id": facts.run.machine_id,
        "machines": list(facts.machines),
        "exit_code": facts.run.exit_code,
        "command": list(facts.run.command),
        "inherits": list(labels.inherits),
    }


def _priced(facts: RunFacts, emissions: Emissions) -> dict[str, Any]:
    family = emissions_of((*facts.slots, *facts.child_slots), u_rel_of(facts))
    pair = emissions.interval_g
    return {
        "facility_energy_kwh": emissions.facility_kwh,
        "emissions_g": emissions.grams,
        "emissions_interval_g": None if pair is None else list(pair),
        "emissions_by_phase_g": dict(emissions.by_phase),
        "emissions_with_children_g": family.grams,
        "missing": emissions.missing or None,
        "pricing": pricing_table(facts.slots),
        "site_notes": site_notes(facts.sites),
        "pue_sources": pue_sources(facts.sites),
        "pricing_notes": _pricing_notes(facts),
    }


def site_notes(sites: Mapping[str, Site]) -> dict[str, str]:
    """What the book says of a site beside its numbers."""
    return {site_id: site.note for site_id, site in sorted(sites.items()) if site.note}


def pue_sources(sites: Mapping[str, Site]) -> dict[str, str]:
    """Where each site's PUE comes from."""
    return {site_id: site.pue_source for site_id, site in sorted(sites.items()) if site.pue is not None}


def _pricing_notes(facts: RunFacts) -> list[str]:
    """Labels and warnings that go with the grams."""
    notes = {slot.label for slot in facts.slots if slot.label}
    priced = [slot for slot in facts.slots if slot.emissions_g is not None]
    if any(max(slot.u_pue, slot.u_g_per_kwh, u_rel_of(facts)) > ROUGH_ABOVE for slot in priced):
        notes.add(
            f"a factor is uncertain by more than {ROUGH_ABOVE:.0%}: the interval of emissions is first order only"
        )
    return sorted(notes)


def totals_json(found: Conservation) -> dict[str, int]:
    """Law 1's totals, integer millijoules."""
    return {
        "measured": found.measured,
        "runs": found.runs,
        "idle": found.idle,
        "unattributed": found.unattributed,
    }


def restatement_json(change: Restated) -> dict[str, Any]:
    """One change since the run was first priced."""
    return {
        "known_at": iso_utc(change.known_at_us),
        "old_g": change.old_g,
        "new_g": change.new_g,
        "delta_g": change.delta_g,
        "slots": change.slots,
        "reason": change.reason,
    }


def _own_by_method(facts: RunFacts) -> dict[Method, int]:
    own: dict[Method, int] = defaultdict(int)
    for m in facts.measurements:
        own[m.method] += sum(s.millijoules for s in resplit(m, facts.policy) if s.run_id == facts.run.run_id)
    return own


def _measured_joules(facts: RunFacts) -> int:
    own = _own_by_method(facts)
    return own.get(Method.COUNTER, 0) + own.get(Method.INTEGRATED, 0)


def _quality_words(own: dict[Method, int], whole: int, energy: RunEnergy) -> str:
    unread = f"; nothing was read of {', '.join(energy.unread)}" if energy.unread else ""
    if not whole:
        return f"no energy was attributed to this run{unread}"
    parts = [f"{own[m] / whole:.1%} {words}" for m, words in _WORDS.items() if own.get(m)]
    return f"{', '.join(parts)}; {energy.coverage:.1%} of the run's time was observed{unread}"


_WORDS = {
    Method.COUNTER: "measured by energy counters",
    Method.INTEGRATED: "measured by integrating power",
    Method.MODELLED: "modelled, not measured",
}
