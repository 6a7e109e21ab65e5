"""A run on several machines told as one: status, span, labels, notes and record."""

import itertools
from dataclasses import replace

import pytest
from joulebook.rows import Labels, Status, Technique
from joulebook_collector.machines import as_one, one_record, one_run
from joulebook_collector.testing import START_US, a_run


def part(machine, start=0.0, end=10.0, **changes):
    return a_run("r1", start, end, machine_id=machine, boot_id=f"boot-{machine}", **changes)


@pytest.mark.parametrize(
    ("statuses", "whole"),
    [
        (("ok", "ok"), "ok"),
        (("ok", "failed"), "failed"),
        (("failed", "interrupted"), "interrupted"),
        (("interrupted", "running", "ok"), "running"),
    ],
)
def test_a_run_is_as_its_worst_machine_says_in_whatever_order_they_come(statuses, whole):
    parts = [
        part(f"node-{i}", i, None if status == "running" else 10 + i, status=Status(status))
        for i, status in enumerate(statuses)
    ]
    told = {repr(one_run(order)) for order in itertools.permutations(parts)}
    assert len(told) == 1
    run = one_run(parts)
    assert run.status == whole
    assert (run.ended_at_us is None) == (whole == "running")
    assert (run.ended_ns is None) == (whole == "running")


def test_one_machine_is_left_as_it_is():
    alone = part("node-0", record={"cpus": 4}, reason="exit status 1", status=Status.FAILED)
    assert one_run([alone]) == alone


def test_the_span_is_from_the_first_start_to_the_last_end_on_the_clock_of_the_first_machine():
    run = one_run([part("a", 3, 12), part("b", 1, 9)])
    assert (run.machine_id, run.boot_id) == ("b", "boot-b")
    assert (run.started_at_us, run.ended_at_us) == (START_US + 1_000_000, START_US + 12_000_000)
    assert (run.started_ns, run.ended_ns) == (1_000_000_000, 9_000_000_000)


def test_labels_add_up_and_the_first_word_counts():
    said = Labels(study="s", seed=3, techniques=(Technique("int8", {"bits": 8}),))
    run = one_run([part("a", 0, labels=Labels(name="first")), part("b", 1, labels=replace(said, name="second"))])
    assert run.labels == replace(said, name="first")


def test_the_exit_code_is_the_launchers_wherever_it_was_and_the_worst_of_several():
    assert one_run([part("a"), part("b", exit_code=3)]).exit_code == 3
    assert one_run([part("a", exit_code=0), part("b", exit_code=3)]).exit_code == 3
    assert one_run([part("a"), part("b")]).exit_code is None


def test_the_reason_is_that_of_who_decided_with_its_machine():
    ok = part("a", 0, reason="metering began late")
    failed = part("b", 1, status=Status.FAILED, reason="exit status 1")
    assert one_run([ok, failed]).reason == "b: exit status 1"
    assert one_run([part("a"), part("b")]).reason == ""


def test_notes_add_up_and_name_the_machines_and_where_their_hardware_differs():
    left = part("a", notes=("x", "y"), record={"cpus": 4, "gpus": ["H100"], "load_1min": 0.5})
    right = part("b", 1, notes=("y",), record={"cpus": 4, "gpus": ["A100"], "load_1min": 0.7})
    assert one_run([left, right]).notes == ("x", "y", "ran on 2 machines (a, b), which differ in gpus")
    assert one_run([left, replace(right, record=left.record)]).notes[-1] == "ran on 2 machines (a, b)"


def test_no_machines_record_is_lost():
    records = {
        "b": {"cpus": 4, "threads": {"OMP": "2", "MKL": "1"}, "gpus": ["A100"]},
        "a": {"cpus": 4, "threads": {"OMP": "2", "MKL": "8"}, "gpus": ["H100"], "driver": "570"},
    }
    assert one_record(records) == {
        "cpus": 4,
        "threads": {"OMP": "2"},
        "machines": {
            "a": {"threads": {"MKL": "8"}, "gpus": ["H100"], "driver": "570"},
            "b": {"threads": {"MKL": "1"}, "gpus": ["A100"]},
        },
    }
    assert one_record({"a": records["a"], "b": records["a"]}) == records["a"]


def test_runs_come_by_start_and_id():
    others = [a_run("r3", 5), a_run("r2", 5), part("b", 9), part("a", 4)]
    assert [run.run_id for run in as_one(others)] == ["r1", "r2", "r3"]
