"""Learning rates, worked by hand."""

import math

import pytest
from joulebook_studies.schedule import cosine_restarts, one_cycle


def test_one_cycle_rises_to_its_peak_and_falls_to_almost_nothing():
    # 11 steps, peak 0.1: starts at 0.1 / 25; the turn is at step 0.3 x 11 - 1 = 2.3; ends at 0.1 / 25 / 1e4.
    rates = [one_cycle(step, 11, 0.1) for step in range(11)]
    assert rates[0] == pytest.approx(0.004)
    assert rates[10] == pytest.approx(4e-7)
    assert max(rates) == rates[3]  # the first step after the turn
    # step 1, rising arc: 0.1 + (0.004 - 0.1) / 2 x (1 + cos(pi / 2.3)) = 0.04223
    assert rates[1] == pytest.approx(0.1 - 0.048 * (1 + math.cos(math.pi / 2.3)))
    assert rates[3:] == sorted(rates[3:], reverse=True)


@pytest.mark.study
def test_one_cycle_is_torchs_own():
    torch = pytest.importorskip("torch")
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=0.1, total_steps=50, cycle_momentum=False)
    for step in range(50):
        assert one_cycle(step, 50, 0.1) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        optimiser.step()
        if step < 49:
            theirs.step()


def test_cosine_restarts_at_each_cycle():
    # 12 steps, 3 cycles of 4: 0.1/2 (cos(pi k/4) + 1) for k = 0..3, three times over.
    rates = [cosine_restarts(step, 12, 3, 0.1) for step in range(12)]
    cycle = [0.1, 0.05 * (math.sqrt(0.5) + 1), 0.05, 0.05 * (1 - math.sqrt(0.5))]
    assert rates == pytest.approx(cycle * 3)
