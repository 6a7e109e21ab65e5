"""Static post-training quantisation to 8-bit integers: scales from calibration images, integer kernels at inference.

It starts from the trained baseline, so its own cost is calibration and conversion; a run names the
baseline it ``inherits``, and a report shows cost with and without it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import joulebook
import torch
from joulebook.errors import JoulebookError
from torch import Tensor, nn

from joulebook_studies.task import Task, load_baseline

CALIBRATION_IMAGES: Final = 1000
ENGINES: Final = ("x86", "onednn", "fbgemm", "qnnpack")
"""Integer engines of torch, best first; the first that this build has is taken."""


def build(task: Task) -> list[nn.Module]:
    """Load the baseline and quantise it, all of it set-up."""
    with joulebook.phase("setup"):
        return [quantise(load_baseline(task), task.train_x[:CALIBRATION_IMAGES])]


def quantise(network: nn.Module, calibration: Tensor) -> nn.Module:
    """The network in 8-bit integers, its batch normalisation folded into the convolutions.

    calibration: training images, standardised; never test images.
    """
    engine = pick_engine()
    torch.backends.quantized.engine = engine
    with upstream_says_deprecated():
        from torch.ao.quantization import get_default_qconfig_mapping
        from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

        observed = prepare_fx(network.eval(), get_default_qconfig_mapping(engine), (calibration[:1],))
        with torch.inference_mode():
            observed(calibration)
        quantised: nn.Module = convert_fx(observed)
    return quantised


def pick_engine() -> str:
    """The best integer engine of this torch build. Raises JoulebookError when it has none."""
    for engine in ENGINES:
        if engine in torch.backends.quantized.supported_engines:
            return engine
    raise JoulebookError("this build of torch has no integer engine", "install the CPU build of torch for this machine")


@contextmanager
def upstream_says_deprecated() -> Iterator[None]:
    """Silence what torch.ao says of its own future (docs/decisions/0014-torch.md), and nothing else."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.ao.quantization is deprecated", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="Please use quant_min and quant_max", category=UserWarning)
        warnings.filterwarnings("ignore", message="torch.quantize_per_tensor, .* are deprecated", category=UserWarning)
        yield
