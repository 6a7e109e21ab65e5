"""Design power of boards without a power reading: where it comes from, and what is refused."""

import csv
from importlib.resources import files

import pytest
from joulebook.errors import MeterUnavailable
from joulebook.meters.accelerator import design_power


@pytest.mark.parametrize(
    ("model", "limit", "environ", "power"),
    [
        ("GeForce GTX 1050 Ti", 90.0, {"JOULEBOOK_ACCELERATOR_TDP_WATTS": "60"}, (60.0, "declared")),
        ("GeForce GTX 1050 Ti", 90.0, {}, (90.0, "the board's power limit")),
        ("GeForce GTX 1050 Ti", None, {}, (75.0, "table")),
        ("NVIDIA GeForce GTX 1050 Ti", 0.0, {}, (75.0, "table")),
        ("NVIDIA A100-SXM4-80GB", None, {}, (400.0, "table")),
        ("Tesla T4", None, {}, (70.0, "table")),
        ("GeForce GTX 1050 Ti Max-Q", None, {}, None),  # another model: no guess
        ("", None, {}, None),
        ("NVIDIA", None, {}, None),
    ],
)
def test_the_design_power_is_declared_or_the_limit_or_listed(model, limit, environ, power) -> None:
    assert design_power(model, limit, environ) == power


@pytest.mark.parametrize("text", ["", "0", "-5", "nan", "inf", "1e9", "75 W"])
def test_a_declared_power_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(MeterUnavailable, match="JOULEBOOK_ACCELERATOR_TDP_WATTS"):
        design_power("Tesla T4", None, {"JOULEBOOK_ACCELERATOR_TDP_WATTS": text})


def test_every_row_of_the_table_is_a_model_of_its_own_with_a_source() -> None:
    with (files("joulebook") / "data" / "accelerator_power.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 20
    for row in rows:
        assert design_power(row["model"], None, {}) == (float(row["tdp_w"]), "table")
        assert 10 <= float(row["tdp_w"]) <= 1500
        assert row["source"] in {"datasheet_by_hand", "press"}
