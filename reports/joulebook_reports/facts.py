"""What a report is made from: plain frozen data that ``gather`` reads and every other module computes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from joulebook.rows import Mark, Measurement, Policy, Run
from joulebook.summary import RunEnergy
from joulebook_collector.priced import PricedSlot, Site


@dataclass(frozen=True, slots=True)
class Restated:
    """One change of a run's emissions since it was first priced.

    known_at_us: when the new price became known.  delta_g: new minus old gCO2e, None where there is
    none or it cannot be compared (the reason says which).  old_g, new_g: both figures, gCO2e; None where
    there is no price, or it is not said.  slots: pricing slots' parts that it touches.
    reason: what changed, in words.
    """

    known_at_us: int
    delta_g: float | None
    slots: int
    reason: str
    old_g: float | None = None
    new_g: float | None = None


@dataclass(frozen=True, slots=True)
class RunFacts:
    """One run as known at one time.

    energies: under each policy, from the same measurements.  slots: priced under ``policy``, the run's
    own; child_slots: those of the runs nested in it.  child_phases: nested run -> phase -> millijoules,
    under ``policy``.  measurements: every one over the run's
    span on its machines, whoever used it.  sites: those that priced it, by id.  parts: the run as each of its
    machines has it, by start; empty where ``run`` says it all.
    """

    run: Run
    policy: Policy
    energies: Mapping[Policy, RunEnergy]
    measurements: tuple[Measurement, ...] = ()
    marks: tuple[Mark, ...] = ()
    children: tuple[Run, ...] = ()
    child_phases: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    slots: tuple[PricedSlot, ...] = ()
    child_slots: tuple[PricedSlot, ...] = ()
    restated: tuple[Restated, ...] = ()
    sites: Mapping[str, Site] = field(default_factory=dict)
    parts: tuple[Run, ...] = ()

    @property
    def energy(self) -> RunEnergy:
        """Under the report's policy."""
        return self.energies[self.policy]

    @property
    def machines(self) -> tuple[str, ...]:
        """Ids of the machines that it was on, sorted."""
        return tuple(sorted({part.machine_id for part in self.parts or (self.run,)}))


@dataclass(frozen=True, slots=True)
class StudyFacts:
    """The runs of one study, and the runs whose cost they reuse, as known at one time."""

    name: str
    policy: Policy
    runs: tuple[RunFacts, ...]
    inherited: Mapping[str, RunFacts]
