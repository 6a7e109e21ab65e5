"""A command measured by a real agent, then reported: the two never disagree."""

from __future__ import annotations

import json
import sys

SCRIPT = """
import time, joulebook
with joulebook.phase("train"):
    end = time.process_time() + 0.8
    while time.process_time() < end:
        sum(range(1000))
with joulebook.phase("inference"):
    end = time.process_time() + 0.4
    while time.process_time() < end:
        sum(range(1000))
    joulebook.log(samples=2000)
joulebook.log(split="test", accuracy=0.9)
"""


def test_a_run_is_reported_as_it_was_summarised(bench, tmp_path) -> None:
    summary_file = tmp_path / "summary.json"
    labels = ["--study", "tiny", "--seed", "1"]
    ran = bench.joulebook("run", "--json", str(summary_file), *labels, "--", sys.executable, "-c", SCRIPT)
    assert ran.returncode == 0, ran.stderr
    summary = json.loads(summary_file.read_text())
    reported = bench.joulebook("report", "run", summary["run_id"], "--json")
    assert reported.returncode == 0, reported.stderr
    doc = json.loads(reported.stdout)
    assert doc["status"] == "ok"
    assert doc["energy_total_joules"] > 0
    assert {"train", "inference"} <= doc["phases"].keys()
    phases = sum(joules for parts in doc["phases"].values() for joules in parts.values())
    assert abs(phases - doc["energy_total_joules"]) < 0.001
    kept = doc["conservation"]
    assert kept["measured"] == kept["runs"] + kept["idle"] + kept["unattributed"]
    assert "joulebook site add" in doc["missing"]

    study = bench.joulebook("report", "study", "tiny", "--json")
    assert study.returncode == 0, study.stderr
    arm = json.loads(study.stdout)["arms"][0]
    assert arm["quality"]["point"] == 0.9
    assert arm["full_joules"]["low"] is None
    assert arm["inference_joules_per_10k"]["point"] > 0


def test_a_report_of_nothing_says_what_to_type(bench) -> None:
    empty = bench.joulebook("report", "run")
    assert empty.returncode == 2
    assert empty.stdout == ""
    assert empty.stderr.splitlines() == [
        "joulebook report: the ledger holds no run",
        "  try: measure one: joulebook run -- COMMAND",
    ]


def test_no_colour_where_stdout_is_no_terminal(bench) -> None:
    done = bench.joulebook("report", "--help")
    assert done.returncode == 0
    assert "\x1b[" not in done.stdout
