"""One arm at one seed: set up, train, evaluate, infer, each phase marked. ``python -m joulebook_studies.worker``.

It runs in a process of its own so that a run's joules are those of one arm and nothing else, and it uses
the book as any user would: ``track``, ``phase``, ``log``. torch is imported inside the phase ``setup``, for
loading it costs as much as an epoch.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import joulebook
from joulebook.errors import JoulebookError
from joulebook.settings import settings_from_environment
from joulebook.units import NS_PER_SECOND

from joulebook_studies.catalogue import ENTRIES, Entry, entry_of
from joulebook_studies.plan import Size

if TYPE_CHECKING:
    from torch import nn

    from joulebook_studies.task import Task

INFERENCE_SAMPLES: Final = 10.5
"""Sampling intervals that the inference phase lasts: a report resolves no phase shorter than ten."""
INFERENCE_IMAGES: Final = 100_000
"""Images that every arm classifies, so that whole runs compare equal work."""


def work(entry: Entry, seed: int, size: Size, checkpoints: Path) -> dict[str, float]:
    """Run one arm and return the quality it logged."""
    with joulebook.phase("setup"):
        task = set_up(seed, size, checkpoints)
    networks = entry.build(task)
    with joulebook.phase("eval"):
        quality = evaluate(networks, task)
    infer(networks, task)
    return quality


def set_up(seed: int, size: Size, checkpoints: Path) -> Task:
    """Load torch and the images. One thread: spinning threads would be booked to the technique."""
    import torch

    from joulebook_studies.data import load_images
    from joulebook_studies.network import reference_network, training_flops
    from joulebook_studies.task import Recipe, make_task

    torch.set_num_threads(1)
    training_flops(reference_network(seed))  # its first use loads a second's worth of torch: here, not in a gap
    images = load_images().first(size.train_images, size.test_images)
    recipe = Recipe(epochs=size.epochs, cycle_epochs=size.cycle_epochs)
    return make_task(images, recipe, seed, size.members, checkpoints)


def evaluate(networks: list[nn.Module], task: Task) -> dict[str, Any]:
    """Quality on the test set, logged; ensembles answer by their mean, and tell how far members disagree."""
    from joulebook_studies.quality import disagreement, quality_of
    from joulebook_studies.train import answer, predict

    members = predict(networks, task.test_x)
    quality: dict[str, Any] = quality_of(answer(members), task.test_y)
    if len(members) > 1:
        quality["disagreement"] = disagreement(members)
    joulebook.log(samples=len(task.test_x), split="test", **quality)
    return quality


def infer(networks: list[nn.Module], task: Task) -> None:
    """Classify the test images for long enough to be resolved; FLOPs are logged where they can be counted."""
    from joulebook_studies.network import inference_flops
    from joulebook_studies.train import infer_for

    flops = inference_flops(networks)
    with joulebook.phase("inference"):
        samples = infer_for(networks, task.test_x, INFERENCE_IMAGES, inference_seconds())
        joulebook.log(samples=samples, flops=samples * flops if flops else None)


def inference_seconds() -> float:
    """How long the inference phase must last: ten of the agent's sampling intervals (JOULEBOOK_SAMPLE_SECONDS)."""
    return INFERENCE_SAMPLES * settings_from_environment().sample_ns / NS_PER_SECOND


@click.command(context_settings={"show_default": True})
@click.option("--arm", type=click.Choice([entry.name for entry in ENTRIES]), required=True, help="What to run.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed of weights and order.")
@click.option("--checkpoints", type=click.Path(path_type=Path), default=Path("checkpoints"), help="Trained baselines.")
@click.option("--members", type=click.IntRange(min=2), default=3, help="Members of an ensemble.")
@click.option("--epochs", type=click.IntRange(min=1), default=4, help="Epochs of one training.")
@click.option("--cycle-epochs", type=click.IntRange(min=1), default=2, help="Epochs of one snapshot cycle.")
@click.option("--train-images", type=click.IntRange(min=1), default=8000, help="Images to train on.")
@click.option("--test-images", type=click.IntRange(min=1), default=10000, help="Images to evaluate and infer on.")
def main(
    arm: str,
    seed: int,
    checkpoints: Path,
    members: int,
    epochs: int,
    cycle_epochs: int,
    train_images: int,
    test_images: int,
) -> None:
    """Run one arm of the study at one seed and print its quality as one line of JSON."""
    size = Size(train_images, test_images, epochs, cycle_epochs, members)
    try:
        with joulebook.track(f"{arm} seed {seed}", arm=arm, seed=seed):
            quality = work(entry_of(arm), seed, size, checkpoints)
    except JoulebookError as error:
        click.echo(error.lines("study worker"), err=True)
        sys.exit(error.exit_status)
    click.echo(json.dumps({"arm": arm, "seed": seed} | {name: round(value, 4) for name, value in quality.items()}))


if __name__ == "__main__":
    main()
