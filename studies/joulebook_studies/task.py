"""What every arm is given: the same images as tensors, one recipe, a seed, and a place for checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from joulebook.errors import JoulebookError
from torch import Tensor, nn

from joulebook_studies.data import Images
from joulebook_studies.network import as_tensor, reference_network


@dataclass(frozen=True, slots=True)
class Recipe:
    """SGD with Nesterov momentum under a one-cycle learning rate.

    epochs: of one plain training.  cycle_epochs: of one snapshot cycle.  peak: highest learning rate.
    """

    epochs: int = 4
    cycle_epochs: int = 2
    batch: int = 64
    peak: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4


@dataclass(frozen=True, slots=True)
class Task:
    """One arm's work at one seed. train_x, test_x: standardised floats (n, 1, 28, 28); labels int64 (n,)."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    recipe: Recipe
    seed: int
    members: int
    checkpoints: Path

    def member_seed(self, member: int) -> int:
        """Seed of one member's weights and order of images; member 0 is the baseline of the same seed, exactly."""
        return 1000 * self.seed + member

    def steps(self, epochs: int) -> int:
        """Optimiser steps in that many epochs; the last images of an epoch that fill no batch are left out."""
        return epochs * max(1, len(self.train_x) // self.recipe.batch)


def make_task(images: Images, recipe: Recipe, seed: int, members: int, checkpoints: Path) -> Task:
    """The task as tensors, standardised by the training images' own mean and deviation."""
    mean, deviation = float(images.train_x.mean()) / 255.0, float(images.train_x.std()) / 255.0
    return Task(
        as_tensor(images.train_x, mean, deviation),
        torch.from_numpy(images.train_y.copy()),
        as_tensor(images.test_x, mean, deviation),
        torch.from_numpy(images.test_y.copy()),
        recipe,
        seed,
        members,
        checkpoints,
    )


def save_baseline(task: Task, network: nn.Module) -> Path:
    """Keep the trained baseline, so that arms which start from it need not train it again."""
    task.checkpoints.mkdir(parents=True, exist_ok=True)
    path = _checkpoint(task)
    torch.save(network.state_dict(), path)
    return path


def load_baseline(task: Task) -> nn.Module:
    """The trained baseline of the same seed. Raises JoulebookError when it was not trained yet."""
    path = _checkpoint(task)
    if not path.is_file():
        raise JoulebookError(
            f"no trained baseline of seed {task.seed} in {task.checkpoints}",
            f"run the worker with --arm baseline --seed {task.seed} first",
        )
    network = reference_network(task.seed)
    network.load_state_dict(torch.load(path, weights_only=True))
    return network


def _checkpoint(task: Task) -> Path:
    return task.checkpoints / f"baseline-seed{task.seed}.pt"
