"""The demo's own folder, environment, commands and words."""

import os
import sys
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
from joulebook.errors import BadInput, JoulebookError
from joulebook.home import Home
from joulebook.lease import take_lease
from joulebook_studies import demo
from joulebook_studies.catalogue import entry_of
from joulebook_studies.plan import QUICK, Planned
from joulebook_studies.progress import Lines, spoken_left


def test_a_folder_is_made_fresh(tmp_path):
    folder = demo.fresh_folder(tmp_path / "out" / "demo")
    (folder / "home").mkdir()
    (folder / "home" / "ledger.duckdb").touch()
    (folder / "report.html").touch()
    (folder / "mine.txt").write_text("kept")
    assert demo.fresh_folder(folder) == folder
    assert sorted(path.name for path in folder.iterdir()) == [demo.MARKER, "mine.txt", "runs"]


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "home").mkdir()
    with pytest.raises(BadInput, match="not a demo's"):
        demo.fresh_folder(tmp_path)
    assert (tmp_path / "home").is_dir()


def test_children_get_their_own_book_and_no_label_from_around(tmp_path):
    around = {"PATH": "/bin", "JOULEBOOK_RUN_ID": "outer", "JOULEBOOK_SEED": "9", "OMP_NUM_THREADS": "8"}
    inside = demo.child_environment(around, tmp_path)
    assert inside == {
        "PATH": "/bin",
        "JOULEBOOK_HOME": str(tmp_path / "home"),
        "JOULEBOOK_SAMPLE_SECONDS": "0.1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    assert demo.child_environment({"JOULEBOOK_SAMPLE_SECONDS": "1"}, tmp_path)["JOULEBOOK_SAMPLE_SECONDS"] == "1"


def test_a_living_agent_is_seen_and_waited_for_no_longer_than_said(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "AGENT_SECONDS", 0.2)
    home = Home(tmp_path)
    assert demo.agent_ended(home)
    home.make()
    lease = take_lease(home)
    assert lease is not None
    with lease:
        assert not demo.agent_ended(home)
    assert demo.agent_ended(home)


def test_the_example_site_says_that_it_is_one():
    site = tomllib.loads(files("joulebook_studies").joinpath("example_site.toml").read_text())
    assert site["note"].startswith("an example")
    assert site["pue_source"].startswith("example")
    add, assign = demo.site_commands(site, "node-1")
    assert add[3:] == ["site", "add", "example", "--zone", "DE", "--pue", "1.56", *add[10:]]
    assert add[10:] == ["--pue-source", site["pue_source"], "--note", site["note"]]
    assert assign[3:] == ["site", "assign", "node-1", "example"]


def test_a_run_in_a_few_words():
    summary = {"energy_total_joules": 123.4, "method": {"cpu": "counter", "dram": "modelled"}}
    assert demo.told(summary, 17.6) == "18 s, 123 J (counter and modelled)"
    assert demo.told({"energy_total_joules": 0.0, "method": {}}, 1.0) == "1 s, 0 J (not measured)"


def test_a_failed_run_ends_the_demo_with_its_last_words(tmp_path):
    folder = demo.fresh_folder(tmp_path)
    environ = demo.child_environment({**os.environ, "JOULEBOOK_SAMPLE_SECONDS": "soon"}, folder)
    study = demo.Demo(folder, QUICK, "hash", environ, run_ids={("baseline", 0): "never-was"})
    with pytest.raises(JoulebookError, match=r"the run int8, seed 0 failed: .+") as caught:
        demo.run_one(study, Planned(entry_of("int8"), 0))
    assert caught.value.remedy.endswith("int8-seed0.log")


def test_the_farewell_names_the_program_where_the_shell_would_not_find_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    told = demo.farewell(tmp_path)
    assert f"export PATH={Path(sys.executable).parent}:$PATH" in told
    assert f"export JOULEBOOK_HOME={tmp_path / 'home'}" in told
    (tmp_path / "joulebook").touch(mode=0o755)
    assert "export PATH" not in demo.farewell(tmp_path)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, ""),
        (0.4, "about 5 s left"),
        (62.0, "about 60 s left"),
        (89.0, "about 90 s left"),
        (151.0, "about 3 min left"),
    ],
)
def test_time_left_as_one_says_it(seconds, said):
    assert spoken_left(seconds) == said


def test_lines_where_there_is_no_terminal(capsys):
    lines = Lines(12)
    lines.begin(2, "int8, seed 0", 120.0)
    lines.end(2, "int8, seed 0", "18 s, 123 J (modelled)")
    assert capsys.readouterr().err == "[2/12] int8, seed 0: 18 s, 123 J (modelled); about 2 min left\n"
