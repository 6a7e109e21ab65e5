"""The demo, small, through the real agent, ledger and report: as a stranger would run it."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("torch")
from joulebook.home import Home
from joulebook.lease import lease_is_held
from joulebook_studies.catalogue import DEMO
from joulebook_studies.data import FASHION, find_digits

pytestmark = [
    pytest.mark.study,
    pytest.mark.slow,
    pytest.mark.skipif(not FASHION.is_dir() and find_digits() is None, reason="no image set is installed"),
]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "out"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("JOULEBOOK_")}
    command = [sys.executable, "-m", "joulebook", "demo", "--quick", "--out", str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environ, cwd=folder.parent)
    assert ended.returncode == 0, ended.stderr
    return folder, ended


@pytest.fixture(scope="module")
def report(told):
    return json.loads((told[0] / "report.json").read_text())


def summaries(folder):
    return {path.stem: json.loads(path.read_text()) for path in sorted((folder / "runs").glob("*.json"))}


def test_it_ends_with_the_report_and_how_to_go_on(told):
    folder, ended = told
    page = (folder / "report.html").read_text()
    assert page.startswith("<!DOCTYPE html>") or page.startswith("<!doctype html>")
    assert str(folder / "report.html") in ended.stdout
    assert "joulebook report run last" in ended.stdout
    for arm in DEMO:
        assert arm in ended.stdout
        assert arm in page


def test_every_figure_says_that_the_site_is_an_example(told):
    folder, ended = told
    assert "priced by an example site" in ended.stderr
    assert "example" in ended.stdout
    assert "an example, not where this machine stands" in (folder / "report.html").read_text()


def test_every_run_was_measured_whole_and_conserved(told):
    found = summaries(told[0])
    assert sorted(found) == [f"{arm}-seed0" for arm in sorted(DEMO)]
    for name, summary in found.items():
        kept = summary["conservation"]
        assert summary["status"] == "ok", name
        assert kept["measured"] == kept["runs"] + kept["idle"] + kept["unattributed"]
        assert summary["energy_total_joules"] > 0
        assert {"setup", "eval", "inference"} <= set(summary["phases"])
        assert ("train" in summary["phases"]) == (name != "int8-seed0")


def test_ensembles_are_booked_to_their_members(told):
    found = summaries(told[0])
    for name in ("independent-seed0", "snapshot-seed0"):
        assert set(found[name]["members"]) == {"0", "1"}


def test_int8_has_its_own_cost_and_the_cost_with_what_it_inherits(report):
    runs = {run["arm"]: run for run in report["runs"]}
    assert runs["int8"]["inherits"] == [runs["baseline"]["run_id"]]
    assert runs["int8"]["full_joules"] > runs["int8"]["marginal_joules"] > 0
    for arm in ("baseline", "independent", "snapshot"):
        assert runs[arm]["full_joules"] == runs[arm]["marginal_joules"]


def test_inference_is_compared_per_10_000_images(report):
    assert sorted(run["arm"] for run in report["runs"]) == sorted(DEMO)
    for run in report["runs"]:
        assert run["inference_joules_per_10k"] > 0, run["arm"]


def test_the_report_conserves_and_claims_nothing_from_one_seed(report):
    assert report["conservation_statement"].startswith("PASS")
    assert all("single run, no interval" in arm["verdict"] for arm in report["arms"] if arm["arm"] != "baseline")


def test_no_process_stays_behind(told):
    assert not lease_is_held(Home(told[0] / "home"))
    assert "still runs" not in told[1].stderr
