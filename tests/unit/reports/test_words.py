"""Sentences made from a report's object, case by case."""

from __future__ import annotations

import pytest
from joulebook_reports.words import note_lines


@pytest.mark.parametrize(
    ("notes", "lines"),
    [
        (
            [f"old/run-{n} {phase}: method not stated" for n in (1, 2) for phase in ("eval", "train")],
            ["run-1 eval, run-1 train, run-2 eval and 1 more: method not stated"],
        ),
        (["m/cpu: gap", "m/gpu: gap", "m/gpu: too short"], ["cpu, gpu: gap", "gpu: too short"]),
        (["from the paper", "m/cpu: gap"], ["cpu: gap", "from the paper"]),
        (["Table 4: energy", "Table 5: power"], ["Table 4: energy", "Table 5: power"]),
        ([], []),
    ],
)
def test_each_note_stands_once_before_it_the_devices_that_carry_it(notes: list[str], lines: list[str]) -> None:
    assert note_lines({"notes": notes}) == lines


def test_a_text_that_stands_alone_and_on_a_device_loses_neither() -> None:
    assert note_lines({"notes": ["gap", "m/cpu: gap"]}) == ["cpu: gap", "gap"]
