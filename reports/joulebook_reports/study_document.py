"""The JSON object of a study: arms against the named baseline (docs/reference/report.md, METHODS 4).

Every other form of a study report is drawn from this object, so they cannot disagree.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from joulebook.errors import BadInput
from joulebook.rows import DIVIDED, Component, Measurement, Method, Policy
from joulebook.summary import conservation_under, iso_utc
from joulebook_collector.conservation import BookCheck

from joulebook_reports.arms import RunRow, inherited_runs, phase_names, run_row, sort_runs
from joulebook_reports.compare import Estimate, Sample, better, difference, holm, mean, not_inferior, ratio, worse
from joulebook_reports.confounding import busy_runs, confounders, why_observational
from joulebook_reports.facts import RunFacts, StudyFacts
from joulebook_reports.quality import Gate, common_split, gate_for
from joulebook_reports.reference import Reference, reference_of
from joulebook_reports.run_document import (
    book_json,
    checked,
    conservation_statement,
    modelled_statement,
    pue_sources,
    restatement_json,
    site_notes,
    totals_json,
    u_rel_of,
)
from joulebook_reports.verdicts import verdict


@dataclass(frozen=True, slots=True)
class Asked:
    """What the reader asked for: names as typed, None where the default is to be taken."""

    baseline: str | None = None
    metric: str = "accuracy"
    direction: str | None = None
    margin: float | None = None


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm: its runs as read and as rows of numbers, in the same order.

    inherited: the runs whose cost they reuse, once for each that does.
    """

    name: str
    facts: tuple[RunFacts, ...]
    rows: tuple[RunRow, ...]
    inherited: tuple[RunFacts, ...] = ()

    def samples(self, quantity: str) -> list[Sample] | None:
        """The runs' values of a field of RunRow; None when some run has none."""
        values = [(row.seed, getattr(row, quantity)) for row in self.rows]
        if not values or any(value is None for _, value in values):
            return None
        return [Sample(seed, float(value)) for seed, value in values]

    def other(self, policy: Policy) -> list[Sample]:
        """The runs' own energy under another policy, joules."""
        return [Sample(row.seed, row.other[policy]) for row in self.rows]


def study_document(study: StudyFacts, asked: Asked, as_of_us: int, book: BookCheck | None = None) -> dict[str, Any]:
    """Arms of the study against its baseline.

    Raises LedgerError when law 1 is broken, BadInput when there is nothing to compare or the
    baseline is not one of the arms.
    """
    measurements = _all_measurements(study)
    checked(measurements)
    conservation = conservation_under(measurements, study.policy)
    by_arm, left_out = sort_runs(study)
    if not by_arm:
        reasons = "; ".join(f"{run.run_id}: {run.reason}" for run in left_out) or "it has no runs"
        raise BadInput(
            f"study {study.name!r} has no run to compare ({reasons})", "label runs with --study and let one end"
        )
    split = common_split((facts.marks for runs in by_arm.values() for facts in runs), asked.metric)
    arms = [_arm(name, runs, study, asked.metric, split) for name, runs in by_arm.items()]
    baseline = _baseline(arms, asked.baseline)
    arms = [baseline, *(arm for arm in arms if arm is not baseline)]
    rows = [row for arm in arms for row in arm.rows]
    values = [row.quality for row in rows if row.quality is not None]
    gate = replace(gate_for(asked.metric, values, asked.direction, asked.margin), split=split)
    compared = [facts for arm in arms for facts in arm.facts]
    reference = reference_of(compared)
    sites = {site_id: site for facts in compared for site_id, site in facts.sites.items()}
    return {
        "study": study.name,
        "as_of": iso_utc(as_of_us),
        "policy": str(study.policy),
        "modelled_statement": _modelled_statement(compared, study.policy),
        "baseline": baseline.name,
        "quality_gate": _gate_json(gate),
        "phases": phase_names(rows),
        "arms": _arms_json(arms, gate, reference),
        "runs": [_row_json(row, reference) for row in rows],
        "left_out": [{"run_id": run.run_id, "arm": run.arm, "reason": run.reason} for run in left_out],
        "reference": reference.as_json(),
        "site_notes": site_notes(sites),
        "pue_sources": pue_sources(sites),
        "busy_runs": busy_runs(compared),
        "notes": _notes(compared),
        "restatements": _restatements(compared),
        "conservation": totals_json(conservation),
        "book": None if book is None else book_json(book),
        "conservation_statement": conservation_statement(conservation, len(measurements)),
    }


def _arm(name: str, runs: Sequence[RunFacts], study: StudyFacts, metric: str, split: str) -> Arm:
    inherited = tuple(other for facts in runs for other in inherited_runs(facts, study))
    return Arm(name, tuple(runs), tuple(run_row(facts, study, metric, split) for facts in runs), inherited)


def _baseline(arms: Sequence[Arm], named: str | None) -> Arm:
    wanted = "baseline" if named is None else named
    for arm in arms:
        if arm.name == wanted:
            return arm
    if named is None and len(arms) == 1:
        return arms[0]
    names = ", ".join(arm.name for arm in arms)
    raise BadInput(f"no compared run is of arm {wanted!r}", f"name the baseline with --baseline, one of: {names}")


def _arms_json(arms: Sequence[Arm], gate: Gate, reference: Reference) -> list[dict[str, Any]]:
    baseline = arms[0]
    ratios = {(arm.name, q): _ratio(baseline, arm, q) for arm in arms[1:] for q in CLAIMED}
    adjusted = holm({claim: r.p for claim, r in ratios.items() if r is not None and r.p is not None})
    claims = {claim: Claim(found, adjusted.get(claim)) for claim, found in ratios.items()}
    return [
        {
            **_own_figures(arm, reference),
            **(
                _against(baseline, arm, claims[arm.name, FULL], claims[arm.name, INFERENCE], gate)
                if arm is not baseline
                else _AS_BASELINE
            ),
        }
        for arm in arms
    ]


FULL: Final = "full"
INFERENCE: Final = "inference_per_10k"
CLAIMED: Final = (FULL, INFERENCE)
"""Fields of RunRow that a report makes claims of; Holm's adjustment is over all of them together."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The ratio that a verdict rests on, None where there is none, and its p after Holm over the whole report."""

    found: Estimate | None
    p_holm: float | None

    def as_json(self) -> dict[str, Any] | None:
        """The estimate with what decides the verdict."""
        return _estimate(self.found, self.p_holm)


_AS_BASELINE: Mapping[str, Any] = {
    "verdict": "baseline",
    "energy_ratio": None,
    "marginal_ratio": None,
    "ratios_under_other_policies": {},
    "inference_ratio": None,
    "inference_verdict": None,
    "quality_difference": None,
    "not_inferior": None,
    "observational": False,
    "differs_from_baseline": [],
    "gain_statement": None,
}


def _own_figures(arm: Arm, reference: Reference) -> dict[str, Any]:
    full, marginal = _mean(arm.samples("full")), _mean(arm.samples("marginal"))
    return {
        "arm": arm.name,
        "n": len(arm.rows),
        "seeds": [row.seed for row in arm.rows],
        "run_ids": [row.run_id for row in arm.rows],
        "inherits": sorted({run_id for row in arm.rows for run_id in row.inherited}),
        "full_joules": full,
        "marginal_joules": marginal,
        "phases_joules": _phase_means(arm),
        "full_emissions_g": _priced(full, reference),
        "marginal_emissions_g": _priced(marginal, reference),
        "inference_joules_per_10k": _mean(arm.samples("inference_per_10k")),
        "quality": _plain_mean(arm.samples("quality")),
        "u_rel_measurement": max((u_rel_of(facts) for facts in arm.facts), default=0.0),
        "methods": sorted({str(m) for facts in arm.facts for m in facts.energy.method.values()}),
    }


def _against(baseline: Arm, arm: Arm, energy: Claim, inference: Claim, gate: Gate) -> dict[str, Any]:
    quality = _difference(baseline, arm, "quality")
    equal = (
        None if quality is None or gate.margin is None else not_inferior(quality, gate.margin, gate.higher_is_better)
    )
    differs = confounders(baseline.facts, arm.facts)
    observational = why_observational(baseline.facts, arm.facts, differs)
    prefix = f"observational ({observational}): " if observational else ""

    def judged(claim: Claim) -> str:
        return prefix + verdict(
            claim.found,
            claim.p_holm,
            equal,
            "" if claim.found else "an energy is zero",
            _why_unjudged(quality, gate),
            quality is not None and better(quality, gate.higher_is_better),
            quality is not None and worse(quality, gate.higher_is_better),
        )

    inherits = any(row.inherited for row in arm.rows)
    return {
        "verdict": judged(energy) + (", counting what it inherits" if inherits else ""),
        "energy_ratio": energy.as_json(),
        "marginal_ratio": _estimate(_ratio(baseline, arm, "marginal")),
        "ratios_under_other_policies": _other_policies(baseline, arm),
        "inference_ratio": inference.as_json(),
        "inference_verdict": judged(inference) if inference.found else None,
        "quality_difference": _estimate(quality),
        "not_inferior": equal,
        "observational": bool(observational),
        "differs_from_baseline": [
            {"field": c.field, "baseline": c.baseline, "arm": c.arm, "grave": c.grave} for c in differs
        ],
        "gain_statement": _gain_statement(baseline, arm),
    }


def _mean(samples: Sequence[Sample] | None) -> dict[str, Any] | None:
    """Mean and t interval of a quantity that cannot be negative, so neither is its lower end."""
    if samples is None:
        return None
    found = mean([sample.value for sample in samples])
    return _estimate(found if found.low is None else replace(found, low=max(0.0, found.low)))


def _plain_mean(samples: Sequence[Sample] | None) -> dict[str, Any] | None:
    return None if samples is None else _estimate(mean([sample.value for sample in samples]))


def _ratio(baseline: Arm, arm: Arm, quantity: str) -> Estimate | None:
    left, right = baseline.samples(quantity), arm.samples(quantity)
    if left is None or right is None or any(s.value <= 0 for s in (*left, *right)):
        return None
    return ratio(left, right)


def _difference(baseline: Arm, arm: Arm, quantity: str) -> Estimate | None:
    left, right = baseline.samples(quantity), arm.samples(quantity)
    return None if left is None or right is None else difference(left, right)


def _other_policies(baseline: Arm, arm: Arm) -> dict[str, Any]:
    """Own energy's ratio under every policy that the report does not use."""
    policies = baseline.rows[0].other
    found = {}
    for policy in policies:
        left, right = baseline.other(policy), arm.other(policy)
        positive = all(sample.value > 0 for sample in (*left, *right))
        found[str(policy)] = _estimate(ratio(left, right)) if positive else None
    return found


def _phase_means(arm: Arm) -> dict[str, Any]:
    """Mean of each phase over the runs; a run without it spent nothing in it."""
    return {
        phase: _mean([Sample(row.seed, row.phases.get(phase, 0.0)) for row in arm.rows])
        for phase in phase_names(arm.rows)
    }


def _estimate(found: Estimate | None, adjusted_p: float | None = None) -> dict[str, Any] | None:
    if found is None:
        return None
    plain = {"point": found.point, "low": found.low, "high": found.high, "n": found.n}
    if adjusted_p is None:
        return {**plain, "paired": found.paired}
    return {**plain, "paired": found.paired, "p": found.p, "p_holm": adjusted_p, "df": found.df}


def _priced(energy: Mapping[str, Any] | None, reference: Reference) -> dict[str, Any] | None:
    """An energy's mean and run-to-run interval on the reference site; factors' uncertainty is kept apart."""
    if energy is None or reference.grams(1.0) is None:
        return None
    ends = {key: None if energy[key] is None else reference.grams(energy[key]) for key in ("point", "low", "high")}
    return {**ends, "n": energy["n"], "paired": False}


def _row_json(row: RunRow, reference: Reference) -> dict[str, Any]:
    return {
        "run_id": row.run_id,
        "arm": row.arm,
        "seed": row.seed,
        "marginal_joules": row.marginal,
        "marginal_interval_joules": list(row.u_interval),
        "full_joules": row.full,
        "full_emissions_g": reference.grams(row.full),
        "phases_joules": dict(row.phases),
        "other_policies_joules": {str(policy): value for policy, value in row.other.items()},
        "quality": row.quality,
        "inference_joules_per_10k": row.inference_per_10k,
        "inherits": list(row.inherited),
    }


def _gate_json(gate: Gate) -> dict[str, Any]:
    return {
        "metric": gate.metric,
        "split": gate.split,
        "direction": "higher" if gate.higher_is_better else "lower",
        "margin": gate.margin,
        "statement": gate.said,
    }


def _modelled_statement(compared: Sequence[RunFacts], policy: Policy) -> str | None:
    nothing_measured = modelled_statement(compared)
    if nothing_measured:
        return nothing_measured
    parts = sorted({str(c) for facts in compared for c, m in facts.energy.method.items() if m is Method.MODELLED})
    said = (
        f"part of the energy is modelled, not measured: {', '.join(parts)}; all of it is divided under policy {policy}"
    )
    return said if parts else None


def _why_unjudged(quality: Estimate | None, gate: Gate) -> str:
    if quality is None:
        return f"not every run logged {gate.metric}" + (f" on split {gate.split}" if gate.split else "")
    if gate.margin is None:
        return "no margin was named"
    return "no spread: not independent runs" if quality.n > 1 else "too few runs for an interval"


def _gain_statement(baseline: Arm, arm: Arm) -> str:
    """Whether the meters' common gain error cancels in the ratio (METHODS 1.6), said only on evidence.

    Evidence is rows that the agent wrote, with one key per component, the same on both sides.
    """
    left, right = _behind(baseline), _behind(arm)
    keys = _gain_keys(left)
    shared = keys == _gain_keys(right) and all(len(of_component) == 1 for of_component in keys.values())
    methods = {m.method for m in (*left, *right)}
    if not (shared and all(m.source == "agent" for m in (*left, *right))):
        return NOT_KNOWN_TO_CANCEL
    if methods == {Method.MODELLED} and len({m.machine_id for m in left}) == 1:
        return (
            "both arms are modelled on the same machine: the model's gain is shared, its shape (power against load)"
            " is not, and no interval holds that error"
        )
    if Method.MODELLED in methods or any(m.u_common_key.startswith(DIVIDED) for m in left):
        return NOT_KNOWN_TO_CANCEL
    return "both arms share one meter and device model per component: its gain error cancels in that component's ratio"


NOT_KNOWN_TO_CANCEL: Final = "gain errors are not known to cancel in the ratio, and no interval holds them"


def _behind(arm: Arm) -> list[Measurement]:
    """The measurements of which the arm's runs, their children or the runs they inherit have a share."""
    return [
        m
        for facts in (*arm.facts, *arm.inherited)
        for m in facts.measurements
        if any(share.run_id in {facts.run.run_id, *facts.energy.child} for share in m.shares)
    ]


def _gain_keys(measurements: Sequence[Measurement]) -> dict[Component, set[tuple[str, str]]]:
    keys: dict[Component, set[tuple[str, str]]] = defaultdict(set)
    for m in measurements:
        keys[m.component].add((m.machine_id, m.u_common_key))
    return keys


def _all_measurements(study: StudyFacts) -> list[Measurement]:
    """Each measurement once, however many of the study's runs it overlaps."""
    found = {
        (m.machine_id, m.boot_id, m.device_id, m.meter, m.started_ns, m.started_at_us): m
        for facts in (*study.runs, *study.inherited.values())
        for m in facts.measurements
    }
    return list(found.values())


def _notes(compared: Sequence[RunFacts]) -> list[str]:
    return sorted({note for facts in compared for note in (*facts.run.notes, *facts.energy.notes)})


def _restatements(compared: Sequence[RunFacts]) -> list[dict[str, Any]]:
    return [{"run_id": facts.run.run_id, **restatement_json(change)} for facts in compared for change in facts.restated]
