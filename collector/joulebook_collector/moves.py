"""Late marks: reassignments applied to a final measurement's shares, which themselves never change."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from joulebook.rows import Measurement, Reassignment, Share, Weights

Key = tuple[str, str, str, str | None, int | None]


def with_moves(measurement: Measurement, moves: Iterable[Reassignment]) -> Measurement:
    """The measurement after its moves, in their order; its total is what it was.

    A move takes millijoules, and the weights that its to_share names, from the share that from_share
    names. One that asks for more than is there is left out, and the measurement's note says so.
    """
    shares: dict[Key, Share] = {}
    for share in measurement.shares:
        _add(shares, share, share.millijoules, share.weights)
    left_out = 0
    for move in moves:
        source = shares.get(_key(move.from_share))
        if source is None or source.millijoules < move.millijoules:
            left_out += move.millijoules
            continue
        weights = move.to_share.weights
        shares[_key(source)] = replace(
            source, millijoules=source.millijoules - move.millijoules, weights=_less(source.weights, weights)
        )
        _add(shares, move.to_share, move.millijoules, weights)
    note = measurement.note
    if left_out:
        note = "; ".join(filter(None, (note, f"a late mark asked for {left_out} mJ that nobody held: left out")))
    return replace(measurement, shares=tuple(shares.values()), note=note)


def _add(shares: dict[Key, Share], like: Share, millijoules: int, weights: Weights) -> None:
    held = shares.get(_key(like), replace(like, millijoules=0, weights=Weights()))
    shares[_key(like)] = replace(held, millijoules=held.millijoules + millijoules, weights=_more(held.weights, weights))


def _key(share: Share) -> Key:
    return (share.kind, share.run_id, share.phase, share.member, share.rank)


def _more(a: Weights, b: Weights) -> Weights:
    return Weights(
        a.cpu_seconds + b.cpu_seconds, a.sm_seconds + b.sm_seconds, a.reserved_fraction + b.reserved_fraction
    )


def _less(a: Weights, b: Weights) -> Weights:
    return Weights(
        max(0.0, a.cpu_seconds - b.cpu_seconds),
        max(0.0, a.sm_seconds - b.sm_seconds),
        max(0.0, a.reserved_fraction - b.reserved_fraction),
    )
