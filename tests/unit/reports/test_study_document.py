"""A study's object: pairing, inheritance, gates, confounders and what is left out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from joulebook.errors import BadInput
from joulebook.rows import Component, Labels, Method, Policy, Status, Technique
from joulebook.summary import run_energy
from joulebook_collector.machines import one_run
from joulebook_reports.example import START_US, TRAINING, example_run, example_study
from joulebook_reports.facts import RunFacts, StudyFacts
from joulebook_reports.run_document import MODELLED_FIRST_LINE, STATED_FIRST_LINE
from joulebook_reports.study_document import Asked, study_document
from joulebook_reports.words import gate_text


def documented(study: StudyFacts, **asked: Any) -> dict[str, Any]:
    return study_document(study, Asked(**asked), START_US)


def arm_of(doc: dict[str, Any], name: str) -> dict[str, Any]:
    return next(arm for arm in doc["arms"] if arm["arm"] == name)


def study_of(*runs: RunFacts) -> StudyFacts:
    return StudyFacts("s", Policy.RESERVED, runs, {})


def run(seed: int | None, effort: float, *techniques: str, accuracy: float = 0.87, **labels: Any) -> RunFacts:
    named = Labels(study="s", seed=seed, techniques=tuple(Technique(t) for t in techniques), **labels)
    at = START_US + (seed or 0) * 10**9 + len(techniques) * 3 * 10**8
    return example_run(f"{'+'.join(techniques) or 'base'}-{seed}", named, TRAINING, effort, accuracy, at)


def three(effort: float, *techniques: str, **values: Any) -> list[RunFacts]:
    """Runs of three seeds; accuracy spreads by 0.0001 about its mean, the seeds in another order for each technique."""
    accuracy = values.pop("accuracy", 0.87)
    order = (-1, 1, 0) if techniques else (0, -1, 1)
    return [
        run(seed, effort * (1 + seed / 100), *techniques, accuracy=accuracy + order[seed] / 10_000, **values)
        for seed in range(3)
    ]


def test_copies_of_one_run_make_no_claim() -> None:
    copies = [run(seed, effort, *names) for effort, names in ((1.0, ()), (0.8, ("lean",))) for seed in range(3)]
    arm = arm_of(documented(study_of(*copies)), "lean")
    assert arm["verdict"] == "no spread: not independent runs (0.800 x the baseline)"
    assert arm["energy_ratio"]["low"] is None
    assert arm["not_inferior"] is None


def test_paired_ratio_and_verdict() -> None:
    # every pair is 0.8: its spread is that of rounding to millijoules
    doc = documented(study_of(*three(1.0), *three(0.8, "lean")))
    arm = arm_of(doc, "lean")
    assert arm["energy_ratio"]["point"] == pytest.approx(0.8, rel=1e-6)
    assert arm["energy_ratio"]["paired"] is True
    assert arm["verdict"] == "saves 20.0 % [20.0, 20.0] at equal quality"
    assert arm["not_inferior"] is True


def test_a_saving_with_lost_quality_is_not_shown_equal() -> None:
    doc = documented(study_of(*three(1.0), *three(0.8, "lean", accuracy=0.86)))
    assert arm_of(doc, "lean")["verdict"].endswith("but quality not shown equal")
    wider = documented(study_of(*three(1.0), *three(0.8, "lean", accuracy=0.86)), margin=0.02)
    assert arm_of(wider, "lean")["verdict"].endswith("with a loss of quality no worse than the margin")


def test_a_loss_within_the_margin_is_not_called_equal() -> None:
    # accuracy 0.869 +- 0.0001 against 0.87: a loss of 0.001 that every seed shows, margin 0.005
    doc = documented(study_of(*three(1.0), *three(0.8, "lean", accuracy=0.869)))
    arm = arm_of(doc, "lean")
    assert arm["quality_difference"]["high"] < 0
    assert arm["verdict"].endswith("with a loss of quality no worse than the margin")
    assert gate_text(arm, doc) == "no worse than the margin"


def test_training_accuracy_is_not_compared_with_test_accuracy() -> None:
    runs = [*three(1.0), *three(0.8, "lean")]
    odd = replace(runs[5], marks=tuple(replace(m, split="train") if m.quality else m for m in runs[5].marks))
    doc = documented(study_of(*runs[:5], odd))
    arm = arm_of(doc, "lean")
    assert doc["quality_gate"]["split"] == "test"
    assert arm["not_inferior"] is None
    assert arm["quality"] is None
    assert arm["verdict"].endswith("(quality not judged: not every run logged accuracy on split test)")


def test_one_run_each_has_no_interval() -> None:
    doc = documented(study_of(run(0, 1.0), run(0, 0.8, "lean")))
    assert arm_of(doc, "lean")["verdict"] == "single run, no interval (0.800 x the baseline)"
    assert arm_of(doc, "lean")["energy_ratio"]["low"] is None


def test_two_runs_each_make_no_claim() -> None:
    doc = documented(study_of(*three(1.0)[:2], *three(0.8, "lean")[:2]))
    assert arm_of(doc, "lean")["verdict"].startswith("needs 3 per arm for a claim, has 2")


def test_inherited_cost_counts_once_and_both_costs_are_shown() -> None:
    study = example_study()
    rows = {row["run_id"]: row for row in documented(study)["runs"]}
    base, int8 = rows["r-baseline-1"], rows["r-int8-1"]
    made = base["marginal_joules"] - base["phases_joules"]["eval"] - base["phases_joules"]["inference"]
    assert int8["full_joules"] == pytest.approx(int8["marginal_joules"] + made)
    assert base["full_joules"] == base["marginal_joules"]
    arm = arm_of(documented(study), "int8")
    assert arm["marginal_ratio"]["point"] < 0.2
    assert arm["marginal_ratio"]["point"] < arm["energy_ratio"]["point"] < 1
    assert "counting what it inherits" in arm["verdict"]


def test_a_chain_of_inheritance_counts_each_run_once() -> None:
    first = run(0, 1.0)
    second = run(0, 1.0, "b", inherits=(first.run.run_id,))
    third = run(0, 1.0, "b", "c", inherits=(second.run.run_id, first.run.run_id))
    rows = {row["arm"]: row for row in documented(study_of(first, second, third))["runs"]}
    whole = sum(row["marginal_joules"] for row in rows.values())
    used = sum(rows[arm]["phases_joules"].get(p, 0.0) for arm in ("baseline", "b") for p in ("eval", "inference"))
    assert used > 0
    assert rows["b + c"]["full_joules"] == pytest.approx(whole - used)


def holding(parent: RunFacts, child: RunFacts) -> RunFacts:
    """The parent with the child nested in it."""
    both, ids = (*parent.measurements, *child.measurements), [child.run.run_id]
    phases = {phase: sum(parts.values()) for phase, parts in child.energy.phase.items()}
    return replace(
        parent,
        energies={p: run_energy(parent.run, both, p, ids) for p in Policy},
        measurements=both,
        children=(child.run,),
        child_phases={child.run.run_id: phases},
    )


@pytest.mark.parametrize("listed", [("base-0",), ("base-0", "base-1"), ("base-1", "base-0")])
def test_nested_runs_are_inherited_once_and_without_their_use(listed: tuple[str, ...]) -> None:
    child = run(1, 0.5)
    parent = holding(run(0, 1.0), child)
    heir = run(0, 0.2, "b", inherits=listed)
    study = replace(study_of(heir), inherited={"base-0": parent, "base-1": child})
    row = documented(study, baseline="b")["runs"][0]
    made = sum(
        sum(sum(parts.values()) for phase, parts in f.energy.phase.items() if phase in ("setup", "train")) / 1000
        for f in (run(0, 1.0), child)
    )
    assert row["inherits"] == ["base-0"]
    assert row["full_joules"] == pytest.approx(heir.energy.own / 1000 + made)


def test_a_runs_own_child_and_a_parent_that_holds_the_heir_are_not_counted_twice() -> None:
    child = run(1, 0.5)
    heir = holding(run(0, 0.2, "b", inherits=("base-1",)), child)
    row = documented(replace(study_of(heir), inherited={"base-1": child}), baseline="b")["runs"][0]
    assert row["full_joules"] == row["marginal_joules"]
    nested = run(0, 0.2, "b", inherits=("base-0",))
    parent = run(0, 1.0)
    made = sum(sum(parent.energy.phase[phase].values()) for phase in ("setup", "train")) / 1000
    row = documented(replace(study_of(nested), inherited={"base-0": holding(parent, nested)}), baseline="b")["runs"][0]
    assert row["full_joules"] == pytest.approx(nested.energy.own / 1000 + made)


def test_an_inherited_run_that_is_not_known_leaves_the_heir_out() -> None:
    doc = documented(study_of(run(0, 1.0), run(0, 1.0, "b", inherits=("lost",))))
    assert doc["left_out"][0]["reason"] == "it inherits lost, which this ledger does not hold"


def test_failed_and_parent_runs_are_left_out_with_the_reason() -> None:
    parent, child = run(0, 1.0), run(1, 1.0)
    child = replace(child, run=replace(child.run, labels=replace(child.run.labels, parent_run_id=parent.run.run_id)))
    lost = run(2, 1.0)
    lost = replace(lost, run=replace(lost.run, status=Status.INTERRUPTED, reason="the agent was killed"))
    reasons = {r["run_id"]: r["reason"] for r in documented(study_of(parent, child, lost))["left_out"]}
    assert reasons == {
        "base-0": "it holds other runs of the study, which are compared themselves",
        "base-2": "interrupted: the agent was killed",
    }


def test_inference_is_compared_per_ten_thousand() -> None:
    # 3 spans of 50,000 samples in 4656 J: 4656 / 150000 x 10000 = 310.4 J
    arm = arm_of(documented(example_study()), "baseline")
    phase = arm["phases_joules"]["inference"]["point"]
    assert arm["inference_joules_per_10k"]["point"] == pytest.approx(phase / 15)


def test_inference_claims_pass_the_same_guards() -> None:
    runs = [*three(1.0), *three(0.8, "lean", accuracy=0.86)]
    arm = arm_of(documented(study_of(*runs)), "lean")
    assert arm["inference_verdict"] == "saves 20.0 % [20.0, 20.0] but quality not shown equal"
    other = [with_record(facts, cpu_model="Other CPU") for facts in runs[3:]]
    observed = arm_of(documented(study_of(*runs[:3], *other)), "lean")["inference_verdict"]
    assert observed.startswith("observational (cpu_model differ): saves 20.0 %")
    two = documented(study_of(*three(1.0)[:2], *three(0.8, "lean")[:2]))
    assert arm_of(two, "lean")["inference_verdict"].startswith("needs 3 per arm for a claim, has 2")


def test_holm_counts_every_claim_of_the_report() -> None:
    # Two arms, each with a claim on energy and one on inference: the smallest p of four is multiplied by 4.
    arms = documented(example_study())["arms"][1:]
    claims = [arm[name] for arm in arms for name in ("energy_ratio", "inference_ratio")]
    smallest = min(claims, key=lambda claim: claim["p"])
    assert smallest["p_holm"] == pytest.approx(4 * smallest["p"])


def test_emissions_are_on_one_reference() -> None:
    doc = documented(example_study())
    assert doc["reference"]["pue"] == pytest.approx(1.2)
    assert doc["reference"]["g_per_kwh"] == pytest.approx(360)
    for arm in doc["arms"]:
        assert arm["full_emissions_g"]["point"] == pytest.approx(arm["full_joules"]["point"] / 3.6e6 * 1.2 * 360)


def test_two_series_give_no_reference() -> None:
    runs = three(1.0)
    moved = replace(runs[0], slots=tuple(replace(s, series=replace(s.series, zone="FR")) for s in runs[0].slots))
    doc = documented(study_of(moved, *runs[1:]))
    assert "never merged" in doc["reference"]["missing"]
    assert doc["arms"][0]["full_emissions_g"] is None


def with_record(facts: RunFacts, **values: Any) -> RunFacts:
    return replace(facts, run=replace(facts.run, record={**facts.run.record, **values}))


def test_other_hardware_makes_it_observational() -> None:
    other = [with_record(facts, cpu_model="Other CPU") for facts in three(0.8, "lean")]
    arm = arm_of(documented(study_of(*three(1.0), *other)), "lean")
    assert arm["observational"] is True
    assert arm["verdict"].startswith("observational (cpu_model differ): saves 20.0 %")
    assert arm["differs_from_baseline"][0] == {
        "field": "cpu_model",
        "baseline": "Example CPU",
        "arm": "Other CPU",
        "grave": True,
    }


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ({"packages": {"torch": "2.14.0"}}, "packages.torch"),
        ({"gpu_drivers": ["570.1"]}, "gpu_drivers"),
        ({"gpu_power_limits_watts": [300.0]}, "gpu_power_limits_watts"),
        ({"driver": "570.1"}, "driver"),
        ({"power_limit_watts": 300.0}, "power_limit_watts"),
    ],
)
def test_other_packages_drivers_and_power_limits_are_grave(record: dict[str, Any], field: str) -> None:
    other = [with_record(f, **record) for f in three(0.8, "lean")]
    arm = arm_of(documented(study_of(*three(1.0), *other)), "lean")
    assert arm["verdict"].startswith(f"observational ({field} differ): saves 20.0 %")


def test_one_run_that_lacks_a_field_is_not_known_to_share_it() -> None:
    runs = [with_record(f, gpu_drivers=["570.1"]) for f in [*three(1.0), *three(0.8, "lean")]]
    without = {k: v for k, v in runs[3].run.record.items() if k != "gpu_drivers"}
    first = replace(runs[3], run=replace(runs[3].run, record=without))
    arm = arm_of(documented(study_of(*runs[:3], first, *runs[4:])), "lean")
    assert arm["differs_from_baseline"] == [
        {"field": "gpu_drivers", "baseline": "['570.1']", "arm": "['570.1'] | not recorded", "grave": True}
    ]


def unrecorded(facts: RunFacts) -> RunFacts:
    return replace(facts, run=replace(facts.run, record={}))


@pytest.mark.parametrize("which", ["baseline", "arm", "both", "one run"])
def test_unknown_hardware_is_not_equal_hardware(which: str) -> None:
    left, right = three(1.0), three(0.8, "lean")
    if which in ("baseline", "both"):
        left = [unrecorded(facts) for facts in left]
    if which in ("arm", "both"):
        right = [unrecorded(facts) for facts in right]
    if which == "one run":
        right = [unrecorded(right[0]), *right[1:]]
    arm = arm_of(documented(study_of(*left, *right)), "lean")
    assert arm["observational"] is True
    assert arm["verdict"].startswith("observational (hardware not recorded): saves 20.0 %")
    assert arm["inference_verdict"].startswith("observational (hardware not recorded): saves 20.0 %")


def on_two(facts: RunFacts, first: str, **records: dict[str, Any]) -> RunFacts:
    """The run on two machines, of which ``first`` began, with what each adds to the record."""
    named = sorted(records, key=lambda machine: machine != first)
    parts = [
        replace(
            facts.run,
            machine_id=machine,
            started_at_us=facts.run.started_at_us + i,
            record={**facts.run.record, **records[machine]},
        )
        for i, machine in enumerate(named)
    ]
    return replace(facts, run=one_run(parts), parts=tuple(parts))


def test_which_machine_of_several_began_is_no_difference() -> None:
    left = [on_two(f, "gpu-0", **{"gpu-0": {"load_1min": 1.0}, "gpu-1": {"load_1min": 99.0}}) for f in three(1.0)]
    right = [on_two(f, "gpu-1", **{"gpu-0": {"load_1min": 2.0}, "gpu-1": {}}) for f in three(0.8, "lean")]
    doc = documented(study_of(*left, *right))
    assert arm_of(doc, "lean")["differs_from_baseline"] == []
    assert arm_of(doc, "lean")["observational"] is False
    assert doc["busy_runs"] == [f"base-{seed}: load 99.0 on 16 cores at its start" for seed in range(3)]


def test_other_hardware_on_one_machine_of_two_is_grave_and_its_name_is_not() -> None:
    left = [on_two(f, "gpu-0", **{"gpu-0": {}, "gpu-1": {}}) for f in three(1.0)]
    right = [
        on_two(f, "gpu-0", **{"gpu-0": {}, "gpu-1": {"cpu_model": "Other", "python": "3.13"}})
        for f in three(0.8, "lean")
    ]
    arm = arm_of(documented(study_of(*left, *right)), "lean")
    graver = {d["field"]: d["grave"] for d in arm["differs_from_baseline"]}
    assert graver["cpu_model (gpu-1)"] is True
    assert graver["python (gpu-1)"] is False
    assert arm["observational"] is True


def test_a_machine_without_a_record_is_not_known_to_be_like_any_other() -> None:
    left = [on_two(f, "a", a={}, b={}) for f in three(1.0)]
    right = [on_two(f, "a", a={}, b={}) for f in three(0.8, "lean")]
    blank = replace(right[0].parts[1], record={})
    right[0] = replace(right[0], parts=(right[0].parts[0], blank))
    assert "hardware not recorded" in arm_of(documented(study_of(*left, *right)), "lean")["verdict"]


def test_the_commit_and_load_are_not_grave() -> None:
    other = [with_record(f, git_commit="abc", load_1min=30.0) for f in three(0.8, "lean")]
    doc = documented(study_of(*three(1.0), *other))
    arm = arm_of(doc, "lean")
    assert arm["observational"] is False
    assert [d["field"] for d in arm["differs_from_baseline"]] == ["git_commit"]
    assert doc["busy_runs"] == [f"lean-{seed}: load 30.0 on 16 cores at its start" for seed in range(3)]


def test_modelled_studies_say_so_first() -> None:
    runs = [
        example_run(f"r{s}", Labels(study="s", seed=s), start_us=START_US + s * 10**9, method=Method.MODELLED)
        for s in (0, 1)
    ]
    assert documented(study_of(*runs))["modelled_statement"] == MODELLED_FIRST_LINE
    assert documented(study_of(runs[0], run(1, 1.0)))["modelled_statement"] == (
        "part of the energy is modelled, not measured: cpu, dram; all of it is divided under policy reserved"
    )


def test_a_study_with_an_import_says_that_its_joules_were_stated() -> None:
    runs = [
        example_run(f"r{s}", Labels(study="s", seed=s), start_us=START_US + s * 10**9, method=Method.MODELLED)
        for s in (0, 1)
    ]
    read = replace(runs[1], measurements=tuple(replace(m, source="import old.csv") for m in runs[1].measurements))
    assert documented(study_of(runs[0], read))["modelled_statement"] == STATED_FIRST_LINE


def with_rows(runs: list[RunFacts], component: Component, **values: Any) -> list[RunFacts]:
    """The runs with these values on their measurements of the component."""
    return [
        replace(f, measurements=tuple(replace(m, **values) if m.component is component else m for m in f.measurements))
        for f in runs
    ]


@pytest.mark.parametrize(
    "values", [{"source": "import old.csv"}, {"method": Method.MODELLED}, {"u_common_key": "rapl/other"}]
)
def test_cancelling_is_said_only_of_what_the_agent_measured_alike(values: dict[str, Any]) -> None:
    same = study_of(*three(1.0), *three(0.8, "lean"))
    assert "its gain error cancels" in arm_of(documented(same), "lean")["gain_statement"]
    odd = with_rows(three(0.8, "lean"), Component.DRAM, **values)
    said = arm_of(documented(study_of(*three(1.0), *odd)), "lean")["gain_statement"]
    assert said == "gain errors are not known to cancel in the ratio, and no interval holds them"


def test_what_is_inherited_must_share_the_meter_too() -> None:
    made = with_rows([run(9, 1.0, "made")], Component.GPU, u_common_key="nvml/older")[0]
    heirs = three(0.8, "lean", inherits=(made.run.run_id,))
    study = replace(study_of(*three(1.0), *heirs), inherited={made.run.run_id: made})
    assert "not known to cancel" in arm_of(documented(study), "lean")["gain_statement"]


def test_models_on_one_machine_share_their_gain_but_not_their_shape() -> None:
    arms: list[RunFacts] = []
    for runs in (three(1.0), three(0.8, "lean")):
        for component in (Component.CPU, Component.DRAM, Component.GPU):
            runs = with_rows(runs, component, method=Method.MODELLED, meter="model")
        arms += runs
    said = arm_of(documented(study_of(*arms)), "lean")["gain_statement"]
    assert said.startswith("both arms are modelled on the same machine: the model's gain is shared, its shape")


def test_meters_that_differ_do_not_cancel_their_gain() -> None:
    modelled = [
        example_run(
            f"m{s}",
            Labels(study="s", seed=s, arm="m"),
            start_us=START_US + 5 * 10**8 + s * 10**9,
            method=Method.MODELLED,
        )
        for s in range(3)
    ]
    other = arm_of(documented(study_of(*three(1.0), *modelled)), "m")
    assert "not known to cancel" in other["gain_statement"]
    assert other["observational"] is True


def test_the_baseline_must_be_named_when_none_is_called_so() -> None:
    runs = three(1.0, "a") + three(0.9, "b")
    with pytest.raises(BadInput, match="no compared run is of arm 'baseline'") as refused:
        documented(study_of(*runs))
    assert "a, b" in refused.value.remedy
    assert documented(study_of(*runs), baseline="b")["arms"][0]["arm"] == "b"


def test_nothing_to_compare_says_why() -> None:
    failed = run(0, 1.0)
    failed = replace(failed, run=replace(failed.run, status=Status.FAILED, reason="exit code 3"))
    with pytest.raises(BadInput, match="exit code 3"):
        documented(study_of(failed))


def test_measurements_shared_by_runs_are_conserved_once() -> None:
    runs = three(1.0)
    shared = replace(runs[1], measurements=(*runs[1].measurements, *runs[0].measurements))
    assert documented(study_of(runs[0], shared))["conservation"] == documented(study_of(*runs[:2]))["conservation"]
