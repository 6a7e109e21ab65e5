"""Training and prediction, with the marks that tell the book which joules were whose."""

from __future__ import annotations

import time
from collections.abc import Sequence

import joulebook
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from joulebook_studies.network import reference_network, training_flops
from joulebook_studies.schedule import one_cycle
from joulebook_studies.task import Recipe, Task

INFERENCE_BATCH = 500


def train_one(task: Task, member: int, mark: str | None, epochs: int | None = None) -> nn.Module:
    """A network of its own weights, trained by the recipe.

    member: which of the task's seeds it takes.  mark: the member that its training is booked to, None when
    the run has none.  epochs: None takes the recipe's.
    """
    network = reference_network(task.member_seed(member))
    steps = task.steps(task.recipe.epochs if epochs is None else epochs)
    rates = [one_cycle(step, steps, task.recipe.peak) for step in range(steps)]
    order = torch.Generator().manual_seed(task.member_seed(member))
    fit_marked(task, network, optimiser_for(network, task.recipe), rates, order, mark)
    return network


def optimiser_for(network: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """The recipe's optimiser; its learning rate is set at every step."""
    return torch.optim.SGD(
        network.parameters(),
        lr=recipe.peak,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
    )


def fit_marked(
    task: Task,
    network: nn.Module,
    optimiser: torch.optim.SGD,
    rates: Sequence[float],
    order: torch.Generator,
    mark: str | None,
) -> None:
    """One step per rate, inside a phase ``train``; the FLOPs are counted before it, on a copy."""
    flops = training_flops(network)
    with joulebook.phase("train", member=mark):
        samples = fit(network, optimiser, task.train_x, task.train_y, rates, order, task.recipe.batch)
        joulebook.log(samples=samples, flops=samples * flops)


def fit(
    network: nn.Module,
    optimiser: torch.optim.SGD,
    images: Tensor,
    labels: Tensor,
    rates: Sequence[float],
    order: torch.Generator,
    batch: int,
) -> int:
    """Train in place, epoch after epoch in an order drawn from ``order``; returns the images trained on."""
    network.train()
    samples = 0
    picks: list[Tensor] = []
    for rate in rates:
        if not picks:
            picks = _batches(len(images), batch, order)
        pick = picks.pop()
        optimiser.param_groups[0]["lr"] = rate
        loss = cross_entropy(network(images[pick]), labels[pick])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        samples += len(pick)
    return samples


def _batches(images: int, batch: int, order: torch.Generator) -> list[Tensor]:
    shuffled = torch.split(torch.randperm(images, generator=order), batch)
    whole = [pick for pick in shuffled if len(pick) == batch]
    return whole or list(shuffled)


def predict(networks: Sequence[nn.Module], images: Tensor) -> list[Tensor]:
    """Each network's class probabilities, (n, 10) on every image in order."""
    for network in networks:
        network.eval()
    with torch.inference_mode():
        return [
            torch.cat([network(part).softmax(dim=1) for part in torch.split(images, INFERENCE_BATCH)])
            for network in networks
        ]


def answer(members: Sequence[Tensor]) -> Tensor:
    """An ensemble's answer: the mean of its members' probabilities."""
    return torch.stack(list(members)).mean(dim=0)


def infer_for(networks: Sequence[nn.Module], images: Tensor, least: int, seconds: float) -> int:
    """Classify all images, pass after pass, until there were ``least`` of them and ``seconds`` have passed.

    Every network sees every image, as an ensemble in use must.  Returns the images classified, >= least.
    """
    ends = time.monotonic() + seconds
    samples = 0
    while samples < least or time.monotonic() < ends:
        answer(predict(networks, images))
        samples += len(images)
    return samples
