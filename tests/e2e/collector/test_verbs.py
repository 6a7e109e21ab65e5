"""The verbs as a user types them: results on stdout, two lines on stderr, stable exit statuses."""

import json
import os
import subprocess
import sys

import pytest

RUNS = """run,machine,started_at,ended_at,study,energy_gpu_joules,quality_accuracy,method,u
b1,n1,2026-03-01T00:00:00Z,2026-03-01T01:00:00Z,pub,3600,0.9,counter,0.03
"""


@pytest.fixture
def joulebook(tmp_path):
    environment = {**os.environ, "JOULEBOOK_HOME": str(tmp_path / "home")}

    def call(*words: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "joulebook", *words]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120)

    return call


def test_a_site_from_its_first_day(joulebook):
    assert joulebook("site", "list").stdout == "local: no PUE; no grid zone\n"
    assert joulebook("site", "add", "local", "--zone", "DE", "--pue", "1.3", "--pue-source", "meter").returncode == 0
    assert joulebook("site", "add", "dublin", "--cloud", "aws:eu-west-1").returncode == 0
    assigned = joulebook("site", "assign", "n1", "dublin", "--from", "2026-01-01T00:00:00Z")
    assert assigned.stdout == "n1 -> dublin 2026-01-01T00:00:00Z\n"
    assert "no measurement of a machine 'n1'" in assigned.stderr
    listed = json.loads(joulebook("site", "list", "--json").stdout)
    assert [site["site_id"] for site in listed["sites"]] == ["dublin", "local"]
    assert listed["sites"][1]["pue"] == 1.3
    assert listed["assignments"] == [{"machine": "n1", "site": "dublin", "from": "2026-01-01T00:00:00Z"}]


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (("site", "add", "x", "--zone", "Germany"), "there is no zone"),
        (("site", "add", "x", "--pue", "0.9", "--pue-source", "meter"), "not possible"),
        (("site", "assign", "n1", "nowhere"), "there is no site"),
        (("site", "assign", "n1", "local", "--from", "yesterday"), "no time with a zone"),
        (("factors", "add", "--zone", "DE", "--year", "2026", "--g-per-kwh", "0.3", "--source", "x"), "kg per kWh"),
        (("factors", "add", "--zone", "DE", "--g-per-kwh", "300", "--source", "x"), "needs a period"),
        (("factors", "list", "--zone", "QQQ"), "there is no zone"),
        (("import", "runs", "missing.csv"), "cannot read"),
        (("import", "counters", "missing.csv", "--study", "x"), "means nothing"),
    ],
)
def test_bad_input_is_one_line_of_cause_one_of_remedy_and_exit_2(joulebook, words, cause):
    done = joulebook(*words)
    assert (done.returncode, done.stdout) == (2, "")
    first, second = done.stderr.splitlines()
    assert first.startswith(f"joulebook {words[0]}: ")
    assert cause in first
    assert second.startswith("  try: ")


def test_factors_are_added_listed_and_imported(joulebook, tmp_path):
    words = ("factors", "add", "--zone", "DE", "--year", "2026", "--g-per-kwh", "310", "--source", "Ember 2027")
    (added,) = json.loads(joulebook(*words, "--json").stdout)
    assert (added["g_per_kwh"], added["annual"], added["basis"]) == (310.0, True, "lifecycle")
    file = tmp_path / "hours.csv"
    file.write_text("zone,started_at,ended_at,g_per_kwh\nDE,2026-03-01T00:00:00Z,2026-03-01T01:00:00Z,250\n")
    done = joulebook("factors", "import", str(file), "--source", "ENTSO-E", "--json")
    assert json.loads(done.stdout)["accepted"] == 1
    listed = json.loads(joulebook("factors", "list", "--zone", "DE", "--json").stdout)
    assert {f["source"] for f in listed} >= {"Ember 2027", "ENTSO-E"}
    assert "SE-SE1" in joulebook("factors", "zones", "sweden").stdout


def test_a_published_run_is_imported_once(joulebook, tmp_path):
    file = tmp_path / "runs.csv"
    file.write_text(RUNS)
    assert joulebook("import", "runs", str(file)).stdout == "runs.csv: 1 rows, 3 taken, 0 known already\n"
    assert joulebook("import", "runs", str(file)).stdout == "runs.csv: 1 rows, 0 taken, 3 known already\n"


def test_two_verbs_at_once_both_work(tmp_path, joulebook):
    environment = {**os.environ, "JOULEBOOK_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "joulebook", "site", "list"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) for _ in range(2)]
    assert [process.communicate(timeout=120)[0] for process in both] == ["local: no PUE; no grid zone\n"] * 2


@pytest.mark.parametrize(
    "verb",
    [("import",), ("site",), ("site", "add"), ("site", "list"), ("site", "assign"), ("factors",), ("factors", "add")],
)
def test_every_verb_has_help(joulebook, verb):
    done = joulebook(*verb, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: ")
