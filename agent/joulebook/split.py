"""Splitting a measurement into shares, exactly, in integer millijoules (METHODS 2).

The agent splits when it writes, a report splits again under another policy from the weights
that the shares kept: both through ``split``, so that the same claims give the same shares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from joulebook.rows import Component, Measurement, Policy, Share, ShareKind, Weights

HOLDS_ABOVE = 1e-9
"""A smaller weight is what moves of weights leave behind in floating point: nobody holds a device by it."""


def largest_remainder(total: int, weights: Sequence[float]) -> list[int]:
    """``total`` divided in proportion to ``weights``, in whole parts that sum to it exactly.

    total: >= 0.  weights: finite, >= 0, not all zero; the order of equal remainders is the order
    given, so callers sort first.  Hamilton's method: floors, then one more to the largest
    fractional parts.  Exact integers inside, so no weight is too large or too small.
    """
    if total < 0 or any(not (math.isfinite(w) and w >= 0) for w in weights):
        raise ValueError(f"cannot divide {total} by weights {list(weights)}")
    exact = _in_proportion(weights)
    whole = sum(exact)
    if not whole:
        raise ValueError("cannot divide by weights that are all zero")
    parts = [total * w // whole for w in exact]
    left = total - sum(parts)
    if left:
        by_remainder = sorted(range(len(parts)), key=lambda i: (-(total * exact[i] % whole), i))
        for i in by_remainder[:left]:
            parts[i] += 1
    return parts


def _in_proportion(weights: Sequence[float]) -> list[int]:
    """Whole numbers in exactly the proportion of the weights: a float's denominator is a power of two."""
    ratios = [w.as_integer_ratio() for w in weights]
    scale = max((d for _, d in ratios), default=1)
    return [n * (scale // d) for n, d in ratios]


def usage(component: Component, weights: Weights) -> float:
    """The use that a claim made of a device: SM seconds of a GPU, CPU seconds of all else."""
    return weights.sm_seconds if component is Component.GPU else weights.cpu_seconds


def split(
    energy_millijoules: int,
    claims: Sequence[Share],
    policy: Policy,
    component: Component,
    idle_millijoules: int | None = None,
) -> tuple[Share, ...]:
    """The claims as shares whose millijoules sum to ``energy_millijoules`` exactly.

    claims: run shares and exactly one unattributed share, which carries the use of everything
    that is no run and the fraction that no run reserved; their millijoules are ignored.
    Before calibration (idle_millijoules None) all energy follows the policy's weights, or use under
    ``unallocated``, which has none.  After it, the dynamic part follows use and the idle part follows
    the policy; idle that nobody claims becomes an idle share.  Energy that no weight claims is unattributed.
    """
    ordered = sorted(claims, key=_order)
    rest = [i for i, claim in enumerate(ordered) if claim.kind is ShareKind.UNATTRIBUTED]
    if len(rest) != 1:
        raise ValueError(f"{len(rest)} unattributed claims, not one")
    if idle_millijoules is None:
        weights = [_use(claim, component) for claim in ordered] if policy is Policy.UNALLOCATED else None
        parts = _divide(energy_millijoules, weights or _policy_weights(ordered, policy, component), rest[0])
        return tuple(_with(c, p, policy) for c, p in zip(ordered, parts, strict=True))
    idle_total = min(idle_millijoules, energy_millijoules)
    dynamic = _divide(energy_millijoules - idle_total, [_use(claim, component) for claim in ordered], rest[0])
    idle = _divide(idle_total, _policy_weights(ordered, policy, component), rest[0])
    unclaimed, idle[rest[0]] = idle[rest[0]], 0
    shares = [_with(c, d + i, policy) for c, d, i in zip(ordered, dynamic, idle, strict=True)]
    return (*shares, Share(ShareKind.IDLE, unclaimed, policy))


def _with(claim: Share, millijoules: int, policy: Policy) -> Share:
    return Share(
        claim.kind, millijoules, policy, claim.run_id, claim.phase, claim.member, claim.rank, claim.weights
    )  # fmt: skip


def resplit(measurement: Measurement, policy: Policy) -> tuple[Share, ...]:
    """The same measurement's shares under another policy, from the weights that they kept.

    Shares already under that policy stay as written (a late mark may have moved millijoules that no
    weight explains), and so do shares that kept no weight at all (an import of shares alone).
    """
    written = measurement.shares
    if all(share.policy is policy for share in written) or all(share.weights == Weights() for share in written):
        return written
    claims = [share for share in written if share.kind is not ShareKind.IDLE]
    return split(measurement.energy_millijoules, claims, policy, measurement.component, measurement.idle_millijoules)


def _use(claim: Share, component: Component) -> float:
    return usage(component, claim.weights)


def _policy_weights(claims: Sequence[Share], policy: Policy, component: Component) -> list[float]:
    """What the policy weighs each claim with; all zero where it gives the energy to no run."""
    match policy:
        case Policy.RESERVED:
            return [claim.weights.reserved_fraction for claim in claims]
        case Policy.UTILISATION:
            return [_use(claim, component) for claim in claims]
        case Policy.EQUAL:
            return _equally(claims, component)
        case Policy.UNALLOCATED:
            return [0.0] * len(claims)


def _equally(claims: Sequence[Share], component: Component) -> list[float]:
    """Every run that holds the device weighs the same; within a run its shares weigh by reservation, else by use."""
    runs: dict[str, list[int]] = {}
    for i, claim in enumerate(claims):
        if claim.run_id and max(claim.weights.reserved_fraction, _use(claim, component)) > HOLDS_ABOVE:
            runs.setdefault(claim.run_id, []).append(i)
    weights = [0.0] * len(claims)
    for own in runs.values():
        within = [claims[i].weights.reserved_fraction for i in own]
        within = within if any(within) else [_use(claims[i], component) for i in own]
        for i, weight in zip(own, within, strict=True):
            weights[i] = weight / sum(within)
    return weights


def _divide(total: int, weights: Sequence[float], rest: int) -> list[int]:
    if any(weights):
        return largest_remainder(total, weights)
    return [total if i == rest else 0 for i in range(len(weights))]


def _order(claim: Share) -> tuple[str, str, str, str, int]:
    rank = -1 if claim.rank is None else claim.rank
    return (claim.kind, claim.run_id, claim.phase, claim.member or "", rank)
