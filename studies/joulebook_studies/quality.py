"""How good predictions are, on images never trained on: accuracy, likelihood, calibration, disagreement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

BINS: Final = 15
"""Confidence bins of the calibration error (Guo et al. 2017 use 15)."""


def quality_of(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """The quality of predictions, as it is logged.

    probabilities: (n, classes), rows sum to 1.  labels: (n,).  accuracy: 0 to 1, higher is better.
    nll: mean negative log likelihood in nats, lower is better.  ece: expected calibration error, 0 to 1, lower.
    """
    return {
        "accuracy": float((probabilities.argmax(dim=1) == labels).float().mean()),
        "nll": negative_log_likelihood(probabilities, labels),
        "ece": calibration_error(probabilities, labels),
    }


def negative_log_likelihood(probabilities: Tensor, labels: Tensor) -> float:
    """Mean of -ln p(true class), in nats; p is kept above 1e-12 so that one certain error stays finite."""
    told = probabilities.gather(1, labels.unsqueeze(1)).clamp_min(1e-12)
    return float(-told.log().mean())


def calibration_error(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """Mean gap of confidence and accuracy over equal-width confidence bins, weighted by their size (0 to 1).

    Source: Guo et al. 2017, equation 3.
    """
    confidence, predicted = probabilities.max(dim=1)
    right = (predicted == labels).float()
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.zeros(bins).index_add_(0, place, confidence - right)
    return float(gaps.abs().sum() / len(labels))


def disagreement(members: Sequence[Tensor]) -> float:
    """Part of the images on which two members predict different classes, averaged over all pairs (0 to 1)."""
    predicted = [member.argmax(dim=1) for member in members]
    pairs = [(a, b) for i, a in enumerate(predicted) for b in predicted[:i]]
    return sum(float((a != b).float().mean()) for a, b in pairs) / len(pairs) if pairs else 0.0
