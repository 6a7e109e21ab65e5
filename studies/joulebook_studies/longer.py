"""The control of the ensembles: one network given as many epochs as all independent members together.

An ensemble that a longer single run beats has gained nothing by being an ensemble.
"""

from __future__ import annotations

from torch import nn

from joulebook_studies.task import Task
from joulebook_studies.train import train_one


def build(task: Task) -> list[nn.Module]:
    """Train one network for members x epochs, under one long cycle."""
    return [train_one(task, member=0, mark=None, epochs=task.members * task.recipe.epochs)]
