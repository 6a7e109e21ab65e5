"""Pages and plots: nothing but what they were given, the same bytes each time, names escaped."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from joulebook.rows import Labels
from joulebook_collector.priced import PricedSlot
from joulebook_reports import plots
from joulebook_reports.example import START_US, example_run, example_study
from joulebook_reports.page import run_page, study_page
from joulebook_reports.power import Traces, power_traces
from joulebook_reports.run_document import run_document
from joulebook_reports.study_document import Asked, study_document


def test_names_are_text_and_not_markup() -> None:
    evil = "<script>alert(1)</script>"
    facts = example_run(labels=Labels(name=evil, study="example", arm=evil, seed=0))
    page = run_page(run_document(facts, START_US), power_traces(facts))
    study = study_page(study_document(replace(example_study(), name=evil, runs=(facts,)), Asked(), START_US))
    for text in (page, study):
        assert "<script" not in text
        assert "&lt;script&gt;alert(1)" in text


def test_the_same_numbers_give_the_same_bytes() -> None:
    facts = example_run()
    doc = run_document(facts, START_US)
    assert run_page(doc, power_traces(facts)) == run_page(doc, power_traces(facts))
    study = study_document(example_study(), Asked(), START_US)
    assert study_page(study) == study_page(study)


def test_plots_name_their_units() -> None:
    facts = example_run()
    study = study_document(example_study(), Asked(), START_US)
    assert "energy (kJ)" in plots.energy_by_phase(run_document(facts, START_US))
    power = plots.power_over_time(power_traces(facts))
    assert "power (W)" in power
    assert "(s)" in power
    assert "g CO2e on the reference site" in plots.quality_against_cost(study)
    assert "inference energy per 10,000 samples (J)" in plots.inference_per_arm(study)
    assert "energy of a run (kJ)" in plots.energy_per_arm(study)


def test_unpriced_studies_plot_energy() -> None:
    runs = tuple(
        replace(f, slots=tuple(replace(s, emissions_g=None, missing="m") for s in f.slots))
        for f in example_study().runs
    )
    study = study_document(replace(example_study(), runs=runs), Asked(), START_US)
    assert "energy of a run, with what it inherits (kJ)" in plots.quality_against_cost(study)
    assert "Emissions not priced: m; type: joulebook site add" in study_page(study)


def test_plots_name_the_gases_of_the_series() -> None:
    def of_co2(slot: PricedSlot) -> PricedSlot:
        assert slot.series is not None
        return replace(slot, series=replace(slot.series, gases="CO2"))

    runs = tuple(replace(f, slots=tuple(of_co2(s) for s in f.slots)) for f in example_study().runs)
    drawn = plots.quality_against_cost(study_document(replace(example_study(), runs=runs), Asked(), START_US))
    assert "g CO2 on the reference site" in drawn


ODD_NAMES = (
    "costs $5 or $6_",
    "量子化とプルーニングを組み合わせた長い名前の腕",
    "a technique with " + "many words " * 8,
    "x" * 90,
)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_of_an_arm_is_drawn_whole(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    runs = tuple(replace(f, run=replace(f.run, labels=replace(f.run.labels, arm=name))) for f in example_study().runs)
    doc = study_document(replace(example_study(), runs=runs), Asked(), START_US)
    drawn = plots.energy_per_arm(doc)
    plots.quality_against_cost(doc)
    plots.inference_per_arm(doc)
    said = "".join(re.findall(r">([^<\n]+)</text>", drawn))
    for word in name.split():
        assert word in said or len(word) > plots.LONGEST_LABEL
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ODD_NAMES)
def test_the_left_margin_holds_the_longest_line(name: str) -> None:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    lines = plots._broken(name).split("\n")
    assert "".join(lines).replace(" ", "") == name.replace(" ", "")
    columns = max(plots._columns(line) for line in lines)
    assert columns <= plots.LONGEST_LABEL
    if name.isascii():
        widths = [TextPath((0, 0), line, size=9, prop=FontProperties(family="DejaVu Sans")) for line in lines if line]
        widest = max(path.get_extents().width for path in widths) / 72
        assert widest <= columns * plots.COLUMN_INCHES + 0.05


def test_nothing_to_draw_draws_nothing() -> None:
    assert plots.power_over_time(Traces({}, [])) == ""
    assert plots.energy_by_phase({"phases": {}}) == ""


@pytest.mark.parametrize("kind", ["run", "study"])
def test_pages_are_whole_and_fetch_nothing(kind: str) -> None:
    facts = example_run()
    study = study_document(example_study(), Asked(), START_US)
    page = study_page(study) if kind == "study" else run_page(run_document(facts, START_US), power_traces(facts))
    assert page.startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")
    for fetched in ("<script", "<link", "<img", "@import", "url(http", "src="):
        assert fetched not in page
    assert "Priced at an example site, not a real place" in page
    assert "Conservation PASS" in page
