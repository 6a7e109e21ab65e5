"""A snapshot ensemble: one trajectory with cyclic restarts, a member kept at the end of each cycle.

Member m needs cycles 1 to m; each cycle is booked to the member it ends in, and a report may divide anew.
Source: Huang et al. 2017, Snapshot Ensembles: Train 1, Get M for Free.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from joulebook_studies.network import reference_network
from joulebook_studies.schedule import cosine_restarts
from joulebook_studies.task import Task
from joulebook_studies.train import fit_marked, optimiser_for


def build(task: Task) -> list[nn.Module]:
    """Train once through all cycles. Momentum and order of images run on across restarts."""
    network = reference_network(task.member_seed(0))
    optimiser = optimiser_for(network, task.recipe)
    order = torch.Generator().manual_seed(task.member_seed(0))
    kept = []
    for member, rates in enumerate(cycles_of(task)):
        fit_marked(task, network, optimiser, rates, order, str(member))
        kept.append(copy.deepcopy(network))
    return kept


def cycles_of(task: Task) -> list[list[float]]:
    """The learning rates of each cycle, all of one length."""
    length = task.steps(task.recipe.cycle_epochs)
    steps = length * task.members
    rates = [cosine_restarts(step, steps, task.members, task.recipe.peak) for step in range(steps)]
    return [rates[start : start + length] for start in range(0, steps, length)]
