"""Packed rows are what the wire form says, and damage is told."""

import json
import math

import pytest
from joulebook.errors import BadInput
from joulebook.packing import deflate, inflate, pack, unpack
from joulebook.rows import (
    Component,
    Ensemble,
    Labels,
    Mark,
    Measurement,
    Method,
    Policy,
    Reassignment,
    Run,
    Share,
    ShareKind,
    Status,
    Technique,
    Weights,
    to_wire,
)

SHARE = Share(ShareKind.UNATTRIBUTED, 7, Policy.RESERVED, weights=Weights(1.5, 0.0, 1.0))
LABELS = Labels("a", techniques=(Technique("prune", {"ratio": 0.5}),), ensemble=Ensemble("e", "snapshot", 3))
ROWS = [
    Measurement(
        "m", "b", "d", Component.GPU, 1, 2, 3, 4, 7, "nvml", Method.COUNTER, 0.1, "k", 0.2, 1.0, "agent", (SHARE,)
    ),
    Run("r", "m", "b", Status.OK, 1, 2, LABELS, 3, 4, 0, ("python", "a.py"), {"cpu": {"model": "x"}}, "", ("note",)),
    Mark("r", "m", "b", 1, "log", 1, 2, 3, 4, "train", quality={"accuracy": 0.9}),
    Reassignment("i", 3, 5, SHARE, SHARE),
]  # fmt: skip


def test_rows_are_packed_as_the_wire_form_says():
    assert json.loads(inflate(pack(ROWS))) == json.loads(json.dumps([to_wire(row) for row in ROWS]))
    assert unpack(pack(ROWS)) == ROWS


def test_no_number_is_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        pack([Mark("r", "m", "b", 1, "log", 1, 2, 3, 4, quality={"loss": math.nan})])


def test_only_parts_of_rows_are_packed():
    with pytest.raises(TypeError, match="object is no part of a row"):
        pack([Mark("r", "m", "b", 1, "log", 1, 2, 3, 4, quality={"loss": object()})])


def test_damage_is_told():
    packed = deflate("[]" * 100)
    with pytest.raises(BadInput, match="damaged"):
        unpack(packed[:-1])
    with pytest.raises(BadInput, match="damaged"):
        unpack(packed[:8] + bytes([packed[8] ^ 1]) + packed[9:])
