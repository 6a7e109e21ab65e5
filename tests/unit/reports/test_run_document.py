"""The object of one run, by hand: one measurement, one slot, one price."""

from __future__ import annotations

from dataclasses import replace

import pytest
from joulebook.errors import LedgerError
from joulebook.rows import Method, Policy
from joulebook.summary import run_energy
from joulebook_reports.example import START_US, example_run, priced_example
from joulebook_reports.facts import Restated, RunFacts
from joulebook_reports.run_document import MODELLED_FIRST_LINE, conservation_statement, data_quality, run_document


@pytest.fixture
def facts() -> RunFacts:
    return example_run()


def test_emissions_are_energy_times_pue_times_intensity(facts: RunFacts) -> None:
    doc = run_document(facts, START_US)
    kwh = doc["energy_total_joules"] / 3.6e6
    assert doc["facility_energy_kwh"] == pytest.approx(kwh * 1.2)
    assert doc["emissions_g"] == pytest.approx(kwh * 1.2 * 360)
    assert sum(doc["emissions_by_phase_g"].values()) == pytest.approx(doc["emissions_g"])
    assert doc["missing"] is None


def test_interval_of_emissions_by_the_product_rule(facts: RunFacts) -> None:
    # energy u from the run itself, PUE 5 %, intensity 10 %
    doc = run_document(facts, START_US)
    u_energy = facts.energy.u_own / facts.energy.own
    u = doc["emissions_g"] * (u_energy**2 + 0.05**2 + 0.10**2) ** 0.5
    assert doc["emissions_interval_g"] == pytest.approx([doc["emissions_g"] - 2 * u, doc["emissions_g"] + 2 * u])


def test_one_unpriced_slot_makes_the_whole_missing_and_says_how_much(facts: RunFacts) -> None:
    first = replace(facts.slots[0], emissions_g=None, g_per_kwh=None, missing="no value of DE is known")
    doc = run_document(replace(facts, slots=(first, *facts.slots[1:])), START_US)
    assert doc["emissions_g"] is None
    assert doc["facility_energy_kwh"] is not None
    assert doc["emissions_by_phase_g"] == {}
    joules = first.energy.energy_millijoules / 1000
    assert f"no value of DE is known ({joules:.3f} J of" in doc["missing"]
    assert "joulebook site add example-site --zone ZONE" in doc["missing"]


def test_bases_are_never_summed(facts: RunFacts) -> None:
    first = facts.slots[0]
    assert first.series is not None
    other = replace(first, series=replace(first.series, basis="direct"))
    doc = run_document(replace(facts, slots=(other, *facts.slots[1:])), START_US)
    assert doc["emissions_g"] is None
    assert "never summed" in doc["missing"]
    assert doc["emissions_by_phase_g"] == {}
    assert {row["series"].split()[2] for row in doc["pricing"]} == {"direct", "lifecycle"}


def test_zones_of_one_basis_are_summed(facts: RunFacts) -> None:
    first = facts.slots[0]
    assert first.series is not None
    other = replace(first, series=replace(first.series, zone="FR"))
    doc = run_document(replace(facts, slots=(other, *facts.slots[1:])), START_US)
    assert doc["emissions_g"] == pytest.approx(run_document(facts, START_US)["emissions_g"])


def test_conservation_is_checked_and_said(facts: RunFacts) -> None:
    doc = run_document(facts, START_US)
    kept = doc["conservation"]
    assert kept["measured"] == kept["runs"] + kept["idle"] + kept["unattributed"]
    assert kept["measured"] == sum(m.energy_millijoules for m in facts.measurements)
    assert doc["conservation_statement"].startswith(f"PASS: measured {kept['measured']:,} mJ")


def test_a_device_that_was_away_all_the_time_is_named_in_the_data_quality_statement(facts: RunFacts) -> None:
    assert "nothing was read" not in data_quality(facts)["statement"]
    energies = {p: replace(e, coverage=0.0, unread=("GPU-1",)) for p, e in facts.energies.items()}
    quality = data_quality(replace(facts, energies=energies))
    assert quality["unread"] == ["GPU-1"]
    assert quality["statement"].endswith("0.0% of the run's time was observed; nothing was read of GPU-1")


def test_a_broken_law_is_refused_and_never_passes(facts: RunFacts) -> None:
    object.__setattr__(facts.measurements[3], "energy_millijoules", 1)
    with pytest.raises(LedgerError, match="do not sum"):
        run_document(facts, START_US)
    broken = replace(facts.energy.conservation, idle=1)
    assert conservation_statement(broken, 1).startswith("FAIL")


def test_a_modelled_run_says_so_first() -> None:
    doc = run_document(example_run(method=Method.MODELLED), START_US)
    assert doc["modelled_statement"] == MODELLED_FIRST_LINE
    assert doc["data_quality"]["statement"].startswith("100.0% modelled, not measured")
    assert run_document(example_run(), START_US)["modelled_statement"] is None


def test_an_import_without_a_method_is_not_said_to_come_from_cpu_seconds() -> None:
    facts = example_run(method=Method.MODELLED)
    read = tuple(replace(m, source="import old.csv", meter="paper") for m in facts.measurements)
    doc = run_document(replace(facts, measurements=(*facts.measurements[:1], *read[1:])), START_US)
    assert doc["modelled_statement"] == "stated or assumed to be modelled; nothing here was metered"


def test_child_runs_are_told_apart_and_priced_together(facts: RunFacts) -> None:
    child = example_run("child", start_us=START_US)
    both = (*facts.measurements, *child.measurements)
    energies = {p: run_energy(facts.run, both, p, ["child"]) for p in Policy}
    doc = run_document(replace(facts, energies=energies, children=(child.run,), child_slots=child.slots), START_US)
    assert doc["children"] == {"child": pytest.approx(child.energy.own / 1000)}
    assert doc["energy_with_children_joules"] == pytest.approx(doc["energy_total_joules"] * 2)
    assert doc["emissions_with_children_g"] == pytest.approx(doc["emissions_g"] * 2)


def test_the_other_policy_stands_beside(facts: RunFacts) -> None:
    # reserved 0.95 of 1, used 9 of 10
    doc = run_document(facts, START_US)
    measured = doc["conservation"]["measured"] / 1000
    assert doc["energy_total_joules"] == pytest.approx(0.95 * measured, abs=0.1)
    assert doc["energy_under_other_policies_joules"]["utilisation"] == pytest.approx(0.9 * measured, abs=0.1)


def test_restatements_are_carried(facts: RunFacts) -> None:
    doc = run_document(replace(facts, restated=(Restated(START_US, -0.5, 3, "site a: was b, now c"),)), START_US)
    assert doc["restatements"][0]["delta_g"] == -0.5
    assert doc["restatements"][0]["known_at"].startswith("2026-11-24T06:00:00")


def test_an_uncertain_factor_is_said_to_be_rough(facts: RunFacts) -> None:
    rough = tuple(replace(slot, u_g_per_kwh=0.3) for slot in facts.slots)
    assert any(
        "first order only" in note for note in run_document(replace(facts, slots=rough), START_US)["pricing_notes"]
    )


def test_a_run_without_energy_is_not_zero_grams(facts: RunFacts) -> None:
    doc = run_document(priced_example(facts.run, ()), START_US)
    assert doc["emissions_g"] is None
    assert doc["energy_joules"] == {"cpu": None, "dram": None, "gpu": None, "other": None}
    assert doc["missing"] == "the run has no energy to price"
