"""Which runs in which order, and the command line of each. Pure: no process is started here."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from joulebook_studies.catalogue import Entry


@dataclass(frozen=True, slots=True)
class Size:
    """How large the work is. All counts >= 1."""

    train_images: int = 8000
    test_images: int = 10000
    epochs: int = 4
    cycle_epochs: int = 2
    members: int = 3

    def options(self) -> list[str]:
        """As options of the worker."""
        named = {
            "--train-images": self.train_images,
            "--test-images": self.test_images,
            "--epochs": self.epochs,
            "--cycle-epochs": self.cycle_epochs,
            "--members": self.members,
        }
        return [word for name, value in named.items() for word in (name, str(value))]


QUICK = Size(train_images=640, test_images=500, epochs=1, cycle_epochs=1, members=2)
"""Checks the plumbing in a minute; its accuracies mean nothing."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One run to come."""

    entry: Entry
    seed: int

    def title(self) -> str:
        """For people."""
        return f"{self.entry.name}, seed {self.seed}"


def plan(entries: Sequence[Entry], seeds: int, shuffled_by: int) -> list[Planned]:
    """All arms of seed 0, then all of seed 1, and so on; within a seed in random order.

    Blocks keep the arms of a seed close in time, so that slow drift of the machine falls out of
    differences paired by seed; the shuffle keeps any arm from always running first. An arm that starts
    from another's checkpoint comes after it.
    """
    chance = random.Random(shuffled_by)  # noqa: S311  an order, not a secret
    planned = []
    for seed in range(seeds):
        block = list(entries)
        chance.shuffle(block)
        planned += [Planned(entry, seed) for entry in _parents_first(block)]
    return planned


def _parents_first(block: Sequence[Entry]) -> list[Entry]:
    """The block with each parent moved before its first child, all else in its order."""
    names = {entry.name for entry in block}
    placed: list[Entry] = []
    for entry in block:
        if entry.starts_from in names:
            placed += [parent for parent in block if parent.name == entry.starts_from and parent not in placed]
        if entry not in placed:
            placed.append(entry)
    return placed


def run_options(planned: Planned, study: str, members: int, run_ids: Mapping[tuple[str, int], str]) -> list[str]:
    """The labels of a run as options of ``joulebook run``.

    run_ids: of the runs that are over, by arm and seed; must hold that of the arm it starts from.
    """
    entry = planned.entry
    options = ["--study", study, "--arm", entry.name, "--seed", str(planned.seed)]
    if entry.technique:
        options += ["--technique", entry.technique]
    if entry.ensemble:
        options += ["--ensemble", f"{entry.ensemble}:members={members}"]
    if entry.starts_from:
        options += ["--inherits", run_ids[entry.starts_from, planned.seed]]
    return options


def seconds_left(took: Mapping[str, Sequence[float]], coming: Sequence[str]) -> float | None:
    """Time that the coming arms will take: each as long as its like so far, else as the mean of all. None at first.

    took: arm -> seconds of its finished runs.  coming: arms, one for each run to come.
    """
    known = {arm: sum(seconds) / len(seconds) for arm, seconds in took.items() if seconds}
    if not known:
        return None
    typical = sum(known.values()) / len(known)
    return sum(known.get(arm, typical) for arm in coming)
