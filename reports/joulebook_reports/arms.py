"""The runs of a study as arms: one row of plain numbers per run, and why some are left out. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from joulebook.rows import Policy, Status
from joulebook.summary import interval_of, phase_name
from joulebook.units import joules

from joulebook_reports.facts import RunFacts, StudyFacts
from joulebook_reports.quality import final_quality, samples_in

PER_IMAGES = 10_000
"""Inference energy is given per this many samples."""

USING: Final = ("eval", "inference")
"""Phases that use a model; a run that inherits it pays for the making, not for another's use."""


@dataclass(frozen=True, slots=True)
class RunRow:
    """One compared run in joules.

    marginal: own and child runs' energy.  full: marginal and what making the runs it inherits took,
    each counted once.  other: marginal under each other policy.  inference_per_10k: joules of phase
    inference per 10,000 samples, None when it logged no samples.  u_interval: marginal at k = 2.
    """

    run_id: str
    arm: str
    seed: int | None
    marginal: float
    full: float
    u_interval: tuple[float, float]
    phases: Mapping[str, float]
    other: Mapping[Policy, float]
    quality: float | None
    inference_per_10k: float | None
    inherited: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A run of the study that is not compared, and why."""

    run_id: str
    arm: str
    reason: str


def sort_runs(study: StudyFacts) -> tuple[dict[str, list[RunFacts]], list[LeftOut]]:
    """Runs by arm, in order of seed and id, and those left out."""
    arms: dict[str, list[RunFacts]] = {}
    left_out = []
    parents = {facts.run.labels.parent_run_id for facts in study.runs}
    for facts in sorted(study.runs, key=_order):
        reason = _why_not(facts, parents, study)
        if reason:
            left_out.append(LeftOut(facts.run.run_id, facts.run.labels.arm_label(), reason))
        else:
            arms.setdefault(facts.run.labels.arm_label(), []).append(facts)
    return arms, left_out


def run_row(facts: RunFacts, study: StudyFacts, metric: str, split: str) -> RunRow:
    """The run's numbers under the study's policy; its quality is that of metric on split."""
    inherited = inherited_runs(facts, study)
    energy = facts.energy
    marginal = energy.total
    full = marginal + sum(making(other, facts.run.run_id) for other in inherited)
    low, high = interval_of(marginal, energy.u_own / energy.own * marginal if energy.own else 0.0)
    return RunRow(
        run_id=facts.run.run_id,
        arm=facts.run.labels.arm_label(),
        seed=facts.run.labels.seed,
        marginal=joules(marginal),
        full=joules(full),
        u_interval=(joules(low), joules(high)),
        phases=_phases(facts),
        other={p: joules(e.total) for p, e in facts.energies.items() if p is not facts.policy},
        quality=final_quality(facts.marks, metric, split),
        inference_per_10k=_inference_per_10k(facts),
        inherited=tuple(other.run.run_id for other in inherited),
    )


def making(facts: RunFacts, heir: str = "") -> int:
    """Millijoules that made what a run leaves behind, the runs nested in it too: all but phases eval and inference.

    heir: the run that inherits; where it is itself nested in this one, its own energy is not counted here.
    """
    nested = {run_id: energy for run_id, energy in facts.energy.child.items() if run_id != heir}
    used = sum(sum(facts.energy.phase.get(phase, {}).values()) for phase in USING)
    used += sum(facts.child_phases.get(run_id, {}).get(phase, 0) for run_id in nested for phase in USING)
    return facts.energy.own + sum(nested.values()) - used


def inherited_runs(facts: RunFacts, study: StudyFacts) -> list[RunFacts]:
    """The runs whose cost this one reuses, theirs too, each once and never itself.

    Left out are runs whose energy is in another's already: this run's own children, and those of a
    run that it inherits too.
    """
    known = {**study.inherited, **{other.run.run_id: other for other in study.runs}}
    seen = {facts.run.run_id}
    waiting = list(facts.run.labels.inherits)
    found = []
    while waiting:
        run_id = waiting.pop(0)
        if run_id in seen or run_id not in known:
            continue
        seen.add(run_id)
        found.append(known[run_id])
        waiting.extend(known[run_id].run.labels.inherits)
    nested = {run_id for other in (facts, *found) for run_id in other.energy.child}
    return [other for other in found if other.run.run_id not in nested]


def _order(facts: RunFacts) -> tuple[int, int, str]:
    seed = facts.run.labels.seed
    return (0, seed, facts.run.run_id) if seed is not None else (1, 0, facts.run.run_id)


def _why_not(facts: RunFacts, parents: set[str], study: StudyFacts) -> str:
    run = facts.run
    if run.run_id in parents:
        return "it holds other runs of the study, which are compared themselves"
    if run.status is not Status.OK:
        return f"{run.status}: {run.reason}" if run.reason else str(run.status)
    if facts.energy.total <= 0:
        return "no energy was attributed to it under this policy"
    missing = _unknown_inheritance(facts, study)
    return f"it inherits {', '.join(missing)}, which this ledger does not hold" if missing else ""


def _unknown_inheritance(facts: RunFacts, study: StudyFacts) -> list[str]:
    known: set[str] = {*study.inherited, *(other.run.run_id for other in study.runs)}
    family: Iterable[RunFacts] = (facts, *inherited_runs(facts, study))
    return sorted({run_id for other in family for run_id in other.run.labels.inherits} - known)


def _phases(facts: RunFacts) -> dict[str, float]:
    phases = {phase_name(phase): joules(sum(parts.values())) for phase, parts in facts.energy.phase.items()}
    if facts.energy.child:
        phases["child runs"] = joules(sum(facts.energy.child.values()))
    return phases


def _inference_per_10k(facts: RunFacts) -> float | None:
    samples = samples_in(facts.marks, "inference")
    energy = facts.energy.phase.get("inference")
    if not samples or not energy:
        return None
    return joules(sum(energy.values())) / samples * PER_IMAGES


def phase_names(rows: Sequence[RunRow]) -> list[str]:
    """Every phase that some run has, the known ones in their usual order first."""
    from joulebook.rows import PHASES

    named = {phase for row in rows for phase in row.phases}
    return [p for p in PHASES if p in named] + sorted(named - set(PHASES))
