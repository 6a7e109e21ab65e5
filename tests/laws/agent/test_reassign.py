"""A late mark on a calibrated machine: its moves end where an early mark would have, under every policy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joulebook.binding import reassign
from joulebook.rows import Component, Measurement, Method, Policy, Reassignment, Share, ShareKind, Weights
from joulebook.split import resplit, split
from joulebook_collector.moves import with_moves

TICKS = 1000
"""CPU ticks, and thousandths of the device, that are divided: what one gains another loses."""


def written(shares: tuple[Share, ...], total: int, idle: int | None) -> Measurement:
    return Measurement(
        "m", "b", "d", Component.CPU, 0, 10, 0, 10, total, "rapl", Method.COUNTER, 0.0, "", 0.0, 1.0, "agent", shares,
        None if idle is None else min(idle, total),
    )  # fmt: skip


@st.composite
def claims(draw: st.DrawFn) -> list[Share]:
    """Up to three runs, and everybody else, who divide all CPU time and the whole device."""
    runs = draw(st.lists(st.tuples(st.integers(0, TICKS), st.integers(0, TICKS)), max_size=3))
    cpu_left = reserved_left = TICKS
    found = []
    for n, (cpu, reserved) in enumerate(runs):
        cpu, reserved = min(cpu, cpu_left), min(reserved, reserved_left)
        cpu_left, reserved_left = cpu_left - cpu, reserved_left - reserved
        weights = Weights(cpu / 100, 0.0, reserved / TICKS)
        found.append(Share(ShareKind.RUN, 0, Policy.RESERVED, f"run-{n}", weights=weights))
    others = Weights(cpu_left / 100, 0.0, reserved_left / TICKS)
    return [*found, Share(ShareKind.UNATTRIBUTED, 0, Policy.RESERVED, weights=others)]


def sums(shares: tuple[Share, ...]) -> dict[tuple[str, str], int]:
    return {(share.kind, share.run_id): share.millijoules for share in shares if share.millijoules}


@given(st.integers(0, 10**9), claims(), claims(), st.sampled_from(Policy), st.none() | st.integers(0, 10**9))
def test_moves_end_where_early_marks_would_have_under_every_policy(total, early, late, policy, idle) -> None:
    old = split(total, early, policy, Component.CPU, idle)
    new = split(total, late, policy, Component.CPU, idle)
    moves = [Reassignment("i", 1, amount, giver, taker) for amount, giver, taker in reassign(old, new)]
    moved = with_moves(written(old, total, idle), moves)
    assert sums(moved.shares) == sums(new)
    assert moved.note == ""
    for other in Policy:
        found, wanted = (sums(resplit(written(shares, total, idle), other)) for shares in (moved.shares, new))
        for key in found.keys() | wanted.keys():
            assert found.get(key, 0) == pytest.approx(wanted.get(key, 0), abs=1 + 1e-9 * total)


def test_what_came_out_of_idle_takes_its_weights_from_everybody_else() -> None:
    # 1000 mJ, 400 idle; nobody's 5 CPU seconds and whole machine turn out to be a run's 4 and all of it.
    others = [Share(ShareKind.UNATTRIBUTED, 0, Policy.RESERVED, weights=Weights(5.0, 0.0, 1.0))]
    later = [
        Share(ShareKind.RUN, 0, Policy.RESERVED, "a", weights=Weights(4.0, 0.0, 1.0)),
        Share(ShareKind.UNATTRIBUTED, 0, Policy.RESERVED, weights=Weights(1.0, 0.0, 0.0)),
    ]
    old, new = (split(1000, claimed, Policy.RESERVED, Component.CPU, 400) for claimed in (others, later))
    moves = [Reassignment("i", 1, amount, giver, taker) for amount, giver, taker in reassign(old, new)]
    moved = with_moves(written(old, 1000, 400), moves)
    # By use: the run 480 + 320, the others 120 and 80 of the idle part.
    assert sums(resplit(moved, Policy.UTILISATION)) == {("run", "a"): 800, ("unattributed", ""): 120, ("idle", ""): 80}
