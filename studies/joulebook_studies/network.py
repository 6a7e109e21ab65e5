"""The reference network: small enough for two cores, large enough that int8 kernels and ensembles matter.

conv 12 (stride 2) - conv 24 - pool - conv 48 - pool - fully connected 96 - 10, batch normalisation after
each convolution, 55,858 parameters. A stride-2 first stage keeps training near five CPU seconds.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from joulebook_studies.data import CLASSES, SIDE, Pixels


def reference_network(seed: int) -> nn.Module:
    """The network with fresh weights drawn from ``seed``, channels last (29 % less CPU time than contiguous)."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        *_stage(1, 12, stride=2),
        *_stage(12, 24),
        nn.MaxPool2d(2),
        *_stage(24, 48),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(48 * 3 * 3, 96),
        nn.ReLU(),
        nn.Linear(96, CLASSES),
    )
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _stage(inputs: int, outputs: int, stride: int = 1) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def as_tensor(pixels: Pixels, mean: float, deviation: float) -> Tensor:
    """uint8 images (n, 28, 28) as standardised floats (n, 1, 28, 28), channels last."""
    images = torch.from_numpy(pixels.astype("float32")).unsqueeze(1) / 255.0
    return ((images - mean) / deviation).contiguous(memory_format=torch.channels_last)


def parameters_of(network: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def training_flops(network: nn.Module) -> float:
    """Floating point operations of one training step per image, forward and backward, a multiply-add being two.

    Source: torch's FlopCounterMode, which sees matrix products and convolutions only.
    """
    probe = copy.deepcopy(network).train()  # a copy: the count must not move the running means
    with FlopCounterMode(display=False) as counter:
        probe(_blank()).sum().backward()
    return float(counter.get_total_flops()) / len(_blank())


def inference_flops(networks: Sequence[nn.Module]) -> float:
    """Floating point operations of one forward pass of all of ``networks`` per image; blind to integer kernels."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        for network in networks:
            network.eval()
            network(_blank())
    return float(counter.get_total_flops()) / len(_blank())


def _blank() -> Tensor:
    return torch.zeros(2, 1, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
