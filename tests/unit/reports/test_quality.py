"""Quality and samples from marks."""

from __future__ import annotations

import pytest
from joulebook.errors import BadInput
from joulebook.rows import Mark
from joulebook_reports.quality import common_split, final_quality, gate_for, samples_in


def log(at: int, **values: object) -> Mark:
    return Mark("r", "m", "b", 1, "log", at, at, 0, at, **values)  # type: ignore[arg-type]


def test_the_last_value_counts() -> None:
    marks = [log(2, quality={"accuracy": 0.9}), log(1, quality={"accuracy": 0.8})]
    assert final_quality(marks, "accuracy", "") == 0.9


def test_one_split_for_all_runs() -> None:
    train, val, test = (log(1, quality={"accuracy": 0.9}, split=split) for split in ("train", "val", "test"))
    assert common_split([[train, test], [train], [train]], "accuracy") == "test"
    assert common_split([[train, val], [val], [train], [val]], "accuracy") == "val"
    assert common_split([[log(1, quality={"accuracy": 0.9})]], "accuracy") == ""
    assert common_split([[test]], "loss") == ""
    assert final_quality([train], "accuracy", "test") is None


def test_the_split_decides_and_the_whole_comes_before_a_member() -> None:
    marks = [
        log(1, quality={"accuracy": 0.7}, split="test"),
        log(2, quality={"accuracy": 0.6}, split="test", member="2"),
        log(3, quality={"accuracy": 0.9}, split="val"),
    ]
    assert final_quality(marks, "accuracy", "test") == 0.7
    assert final_quality(marks, "accuracy", "val") == 0.9


def test_no_value_is_none() -> None:
    assert final_quality([log(1, quality={"loss": 0.1})], "accuracy", "") is None


def test_ranks_sum_and_members_share() -> None:
    # two ranks of 100 each; three members that each saw the same 100 samples
    assert samples_in([log(1, phase="inference", samples=100, rank=r) for r in (0, 1)], "inference") == 200
    assert samples_in([log(m, phase="inference", samples=100, member=str(m)) for m in range(3)], "inference") == 100
    assert samples_in([log(1, phase="train", samples=5)], "inference") == 0


def test_default_margin_is_half_a_point_in_the_metrics_own_unit() -> None:
    assert gate_for("accuracy", [0.87, 0.88]).margin == pytest.approx(0.005)
    assert gate_for("accuracy", [87.0, 88.0]).margin == 0.5


def test_other_metrics_need_a_margin_before_they_are_judged() -> None:
    assert gate_for("loss", [0.3]).margin is None
    gate = gate_for("loss", [0.3], margin=0.01)
    assert (gate.higher_is_better, gate.margin) == (False, 0.01)


def test_an_unknown_direction_is_asked_for() -> None:
    with pytest.raises(BadInput, match="not known whether more vibes"):
        gate_for("vibes", [1.0])
    assert gate_for("vibes", [1.0], "lower").higher_is_better is False


@pytest.mark.parametrize("margin", [-1.0, float("nan"), float("inf")])
def test_a_margin_is_finite_and_not_below_zero(margin: float) -> None:
    with pytest.raises(BadInput, match="not a finite number of 0 or more"):
        gate_for("accuracy", [0.9], margin=margin)
