"""Quality of predictions, worked by hand."""

import math

import pytest

torch = pytest.importorskip("torch")
from joulebook_studies.quality import calibration_error, disagreement, quality_of  # noqa: E402

pytestmark = pytest.mark.study

TOLD = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]])
TRUE = torch.tensor([0, 1, 1, 1])


def test_accuracy_and_likelihood():
    quality = quality_of(TOLD, TRUE)
    assert quality["accuracy"] == 0.75  # the second is called 0 and is 1
    # -(ln 0.9 + ln 0.4 + ln 0.8 + ln 0.7) / 4
    assert quality["nll"] == pytest.approx(-math.log(0.9 * 0.4 * 0.8 * 0.7) / 4, rel=1e-6)


def test_calibration_error():
    # one bin of confidence (0.5, 1]: mean confidence (0.9 + 0.6 + 0.8 + 0.7) / 4 = 0.75, accuracy 0.75: no gap.
    assert calibration_error(TOLD, TRUE, bins=2) == pytest.approx(0.0, abs=1e-6)
    # two bins of three: (1/3, 2/3] holds 0.6, wrong; (2/3, 1] holds 0.9, 0.8, 0.7, right: (0.6 + 0.1 + 0.2 + 0.3) / 4.
    assert calibration_error(TOLD, TRUE, bins=3) == pytest.approx(0.3, rel=1e-5)


def test_a_certain_error_stays_finite():
    assert math.isfinite(quality_of(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))["nll"])


def test_disagreement_is_the_mean_over_pairs():
    a = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    b = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    # pairs (a, b) and (b, a') differ on 1 image of 2, (a, a') on none: (0.5 + 0.5 + 0) / 3
    assert disagreement([a, b, a]) == pytest.approx(1 / 3)
    assert disagreement([a]) == 0.0
