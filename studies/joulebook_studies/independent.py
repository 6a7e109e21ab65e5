"""An independent ensemble: every member trained in full from its own weights, answers averaged."""

from __future__ import annotations

from torch import nn

from joulebook_studies.task import Task
from joulebook_studies.train import train_one


def build(task: Task) -> list[nn.Module]:
    """Train the members one after another, each booked to itself."""
    return [train_one(task, member, mark=str(member)) for member in range(task.members)]
