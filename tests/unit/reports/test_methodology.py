"""The worked example of docs/methodology.md, step by step through the program."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from joulebook.rows import Component, Labels, Measurement, Method, Policy, Run, Share, ShareKind, Status, Weights
from joulebook_reports.example import START_US, priced_example
from joulebook_reports.run_document import run_document
from joulebook_reports.words import headline_emissions

PAGE = (Path(__file__).parents[3] / "docs/methodology.md").read_text()
SECONDS = 60


def test_worked_example() -> None:
    end_us, end_ns = START_US + SECONDS * 10**6, SECONDS * 10**9
    run = Run("r", "m", "b", Status.OK, START_US, 0, Labels(), end_us, end_ns)
    share = Share(ShareKind.RUN, 720_000_000, Policy.RESERVED, "r", "train", weights=Weights(1.0, 0.0, 1.0))
    rest = Share(ShareKind.UNATTRIBUTED, 0, Policy.RESERVED)
    measured = Measurement(
        "m", "b", "package-0", Component.CPU, START_US, end_us, 0, end_ns, 720_000_000, "rapl", Method.COUNTER,
        0.03, "rapl", 0.0, 1.0, "agent", (share, rest),
    )  # fmt: skip
    facts = priced_example(run, [measured])
    slots = [
        replace(
            slot,
            pue=1.25,
            u_pue=0.04,
            g_per_kwh=400.0,
            u_g_per_kwh=0.12,
            facility_energy_joules=slot.energy.energy_millijoules / 1000 * 1.25,
            emissions_g=slot.energy.energy_millijoules / 1000 * 1.25 / 3.6e6 * 400.0,
        )
        for slot in facts.slots
    ]
    doc = run_document(replace(facts, slots=tuple(slots)), START_US)
    assert doc["energy_total_joules"] / 3.6e6 == pytest.approx(0.2)
    assert doc["facility_energy_kwh"] == pytest.approx(0.25)
    assert doc["emissions_g"] == pytest.approx(100.0)
    assert doc["emissions_interval_g"] == pytest.approx([74.0, 126.0])
    assert headline_emissions(doc) == "100 ± 30 g CO2e"
    for figure in ("0.2 kWh", "0.25 kWh", "| 100 g |", "0.13", "[74, 126] g", "100 ± 30 g"):
        assert figure in PAGE, figure
