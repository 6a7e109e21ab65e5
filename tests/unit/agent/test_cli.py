"""The program: verbs found lazily, errors in two lines, exit statuses."""

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from joulebook.errors import BadInput, JoulebookError, LedgerError
from joulebook.settings import settings_from_environment


def test_help_lists_every_verb(bench):
    done = bench.joulebook("--help")
    assert done.returncode == 0
    for verb in ("run", "agent", "doctor", "simulate", "report", "import", "site", "factors"):
        assert f"\n  {verb} " in done.stdout


def test_an_unknown_verb_is_a_usage_error(bench):
    done = bench.joulebook("nonsense")
    assert done.returncode == 2
    assert "No such command" in done.stderr


def test_an_error_is_one_line_of_cause_and_one_of_remedy(bench):
    bench.environ["JOULEBOOK_SAMPLE_SECONDS"] = "900"
    done = bench.joulebook("agent")
    assert done.returncode == 2
    cause, remedy = done.stderr.splitlines()
    assert cause.startswith("joulebook agent: JOULEBOOK_SAMPLE_SECONDS is '900'")
    assert remedy.startswith("  try: ")
    assert "Traceback" in bench.joulebook("--debug", "agent").stderr


@pytest.mark.parametrize("environ", [{"JOULEBOOK_POLICY": "fair"}, {"JOULEBOOK_GRACE_SECONDS": "-1"}])
def test_settings_that_cannot_be_are_refused(environ):
    with pytest.raises(BadInput):
        settings_from_environment(environ)


def test_statuses_of_errors():
    assert (
        JoulebookError("a", "b").exit_status,
        LedgerError("a", "b").exit_status,
        BadInput("a", "b").exit_status,
    ) == (1, 1, 2)


@pytest.mark.slow
def test_a_bare_install_measures_and_says_what_brings_the_rest(bench, tmp_path):
    """The wheel's own floor in an environment without any extra: joules and no grams."""
    root = Path(__file__).parents[3]
    venv.create(tmp_path / "bare", with_pip=True)
    python = tmp_path / "bare" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", str(root)], check=True)
    out = tmp_path / "run.json"
    run = subprocess.run(
        [python, "-m", "joulebook", "run", "--json", str(out), "--", sys.executable, "-c", "print(1)"],
        env=bench.environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stdout) == (0, "1\n")
    document = json.loads(out.read_text())
    assert document["energy_joules"]["cpu"] is not None
    assert document["emissions_g"] is None
    assert "joulebook[reports]" in document["missing"]
    report = subprocess.run(
        [python, "-m", "joulebook", "report", "run"], env=bench.environ, capture_output=True, text=True, check=False
    )
    assert report.returncode == 1
    assert "pip install 'joulebook[reports]'" in report.stderr
    listed = subprocess.run([python, "-m", "pip", "list", "--format=json"], capture_output=True, text=True, check=True)
    installed = {package["name"].lower() for package in json.loads(listed.stdout)} - {"pip", "setuptools"}
    assert installed == {"joulebook", "click"}
