"""The arms of the study: what each trades away, who described it, which phases it pays for, and where it is built.

A new technique is one file with a ``build`` and one entry here; docs/reference/demo.md shows the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Final

from joulebook.errors import BadInput

if TYPE_CHECKING:
    from torch import nn

    from joulebook_studies.task import Task

BASELINE: Final = "baseline"


@dataclass(frozen=True, slots=True)
class Entry:
    """One arm.

    trades: the class of the technique.  phases: those that cost something, in order.  compared_with: the arm
    it is judged against.  starts_from: the arm whose checkpoint of the same seed it loads and whose cost it
    inherits, "" for none.  technique, ensemble: the labels of its runs.  module: the file with its ``build``.
    """

    name: str
    summary: str
    trades: str
    reference: str
    phases: tuple[str, ...]
    compared_with: str
    module: str
    api: str
    starts_from: str = ""
    technique: str = ""
    ensemble: str = ""

    def build(self, task: Task) -> list[nn.Module]:
        """Train or derive the arm's networks, the phases marked: one network, or one per member."""
        maker: Callable[[Task], list[nn.Module]] = import_module(f"joulebook_studies.{self.module}").build
        return maker(task)


ENTRIES: Final = (
    Entry(
        name=BASELINE,
        summary="one network, 32-bit floats",
        trades="nothing",
        reference="Smith and Topin 2018 (one-cycle learning rate)",
        phases=("setup", "train", "eval", "inference"),
        compared_with=BASELINE,
        module="baseline",
        api="torch.optim.SGD",
    ),
    Entry(
        name="int8",
        summary="the trained baseline in 8-bit integers",
        trades="accuracy for time: quantization",
        reference="Jacob et al. 2018 (integer-only inference)",
        phases=("setup", "eval", "inference"),
        compared_with=BASELINE,
        module="int8",
        api="torch.ao.quantization.quantize_fx",
        starts_from=BASELINE,
        technique="int8-static",
    ),
    Entry(
        name="independent",
        summary="an ensemble of networks, each trained in full",
        trades="time for accuracy: ensembles",
        reference="Lakshminarayanan et al. 2017 (deep ensembles)",
        phases=("setup", "train", "eval", "inference"),
        compared_with=BASELINE,
        module="independent",
        api="one training per member",
        ensemble="independent",
    ),
    Entry(
        name="snapshot",
        summary="an ensemble from one training with cyclic restarts",
        trades="time for accuracy: ensembles",
        reference="Huang et al. 2017 (Snapshot Ensembles)",
        phases=("setup", "train", "eval", "inference"),
        compared_with=BASELINE,
        module="snapshot",
        api="cosine restarts, one member per cycle",
        ensemble="snapshot",
    ),
    Entry(
        name="longer",
        summary="one network given the independent members' whole training budget",
        trades="the ensembles' control",
        reference="equal-budget control",
        phases=("setup", "train", "eval", "inference"),
        compared_with=BASELINE,
        module="longer",
        api="torch.optim.SGD",
        technique="longer-training",
    ),
)

DEMO: Final = (BASELINE, "int8", "independent", "snapshot")
"""The arms that ``joulebook demo`` runs unless told otherwise."""


def entry_of(name: str) -> Entry:
    """The arm of that name. Raises BadInput with the names there are."""
    for entry in ENTRIES:
        if entry.name == name:
            return entry
    raise BadInput(f"there is no arm {name!r}", f"name one of: {', '.join(entry.name for entry in ENTRIES)}")
