"""The baseline: one network trained by the recipe, in 32-bit floats. Everything else is compared with it."""

from __future__ import annotations

from torch import nn

from joulebook_studies.task import Task, save_baseline
from joulebook_studies.train import train_one


def build(task: Task) -> list[nn.Module]:
    """Train it, and keep it for the arms that start from it."""
    network = train_one(task, member=0, mark=None)
    save_baseline(task, network)
    return [network]
