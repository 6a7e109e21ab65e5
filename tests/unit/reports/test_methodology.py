"""The worked example of docs/methodology.md, step by step through the program: a real ledger, site and factor."""

from __future__ import annotations

from pathlib import Path

import pytest
from joulebook.home import Home
from joulebook.outbox import Outbox
from joulebook.rows import Component, Labels, Measurement, Method, Policy, Run, Share, ShareKind, Status, Weights
from joulebook_collector.factors import NewFactor, add_factors
from joulebook_collector.priced import SeriesKey
from joulebook_collector.sites import add_site, assign
from joulebook_reports import gather
from joulebook_reports.example import START_US
from joulebook_reports.run_document import run_document
from joulebook_reports.words import headline_emissions

PAGE = (Path(__file__).parents[3] / "docs/methodology.md").read_text()
SECONDS = 60
HOUR_US = 3_600_000_000


def test_worked_example(tmp_path: Path) -> None:
    end_us, end_ns = START_US + SECONDS * 10**6, SECONDS * 10**9
    run = Run("r", "m", "b", Status.OK, START_US, 0, Labels(), end_us, end_ns)
    share = Share(ShareKind.RUN, 720_000_000, Policy.RESERVED, "r", "train", weights=Weights(1.0, 0.0, 1.0))
    rest = Share(ShareKind.UNATTRIBUTED, 0, Policy.RESERVED)
    measured = Measurement(
        "m", "b", "package-0", Component.CPU, START_US, end_us, 0, end_ns, 720_000_000, "rapl", Method.COUNTER,
        0.03, "rapl", 0.0, 1.0, "agent", (share, rest),
    )  # fmt: skip
    home = Home(tmp_path).make()
    outbox = Outbox(home.outboxes / "m.sqlite", writer=True)
    outbox.write(final=[measured, run])
    outbox.close()
    series = SeriesKey("XX")
    with gather.open_book(home) as ledger:
        # The hour in which the run fell; its neighbours are dearer, and must not be asked.
        hours = [(START_US + n * HOUR_US, 400.0 if n == 0 else 900.0) for n in (-1, 0, 1)]
        add_factors(ledger, [NewFactor(series, at, at + HOUR_US, g, "test table", 0.12) for at, g in hours], "hourly")
        add_site(ledger, "here", pue=1.25, pue_source="nameplate", u_pue=0.04, zone="XX")
        assign(ledger, "m", "here")
        as_of_us = ledger.latest_known_us()
        doc = run_document(gather.gather_run(ledger, run, as_of_us), as_of_us)
    assert doc["energy_total_joules"] / 3.6e6 == pytest.approx(0.2)
    assert doc["facility_energy_kwh"] == pytest.approx(0.25)
    assert doc["emissions_g"] == pytest.approx(100.0)
    assert doc["emissions_interval_g"] == pytest.approx([74.0, 126.0])
    assert headline_emissions(doc) == "100 ± 30 g CO2e"
    for figure in ("0.2 kWh", "0.25 kWh", "| 100 g |", "0.13", "[74, 126] g", "100 ± 30 g"):
        assert figure in PAGE, figure
