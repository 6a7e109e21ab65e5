"""Learning rates as pure functions of the step: one cycle for a plain run, cosine restarts for snapshots."""

from __future__ import annotations

import math


def one_cycle(step: int, steps: int, peak: float) -> float:
    """Learning rate of a single cycle: up from peak / 25 over the first 30 %, then down to almost nothing.

    step: 0 to steps - 1.  Source: Smith and Topin 2018, with cosine arcs and the constants of torch's OneCycleLR.
    """
    turn = 0.3 * steps - 1.0
    lowest, start = peak / 25.0 / 1e4, peak / 25.0
    if step <= turn:
        return _arc(start, peak, step / turn)
    return _arc(peak, lowest, (step - turn) / (steps - 1 - turn))


def cosine_restarts(step: int, steps: int, cycles: int, peak: float) -> float:
    """Learning rate of the M-cycle cosine schedule: each cycle starts again at ``peak`` and anneals towards 0.

    step: 0 to steps - 1.  Source: Huang et al. 2017, Snapshot Ensembles, equation 2.
    """
    length = math.ceil(steps / cycles)
    return peak / 2.0 * (math.cos(math.pi * (step % length) / length) + 1.0)


def _arc(start: float, end: float, done: float) -> float:
    return end + (start - end) / 2.0 * (1.0 + math.cos(math.pi * done))
