"""``joulebook calibrate`` before it measures: what it refuses, and with which remedy."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from joulebook.calibrate import calibrate
from joulebook.calibration import Calibration, calibration_path, save
from joulebook.errors import JoulebookError
from joulebook.home import Home
from joulebook.identity import machine_id
from joulebook.lease import lease_is_held, take_lease
from joulebook.simulate.curve import parse_curve
from joulebook.simulate.powercap import PowercapTree, domains

STAT = "cpu  100 0 0 900 0 0 0 0\ncpu0 100 0 0 900 0 0 0 0\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home on a machine with one package, which draws nothing more."""
    (tmp_path / "proc").mkdir()
    for name, text in {"cpuinfo": "model name : X\n", "meminfo": "MemTotal: 1048576 kB\n", "stat": STAT}.items():
        (tmp_path / "proc" / name).write_text(text)
    PowercapTree(tmp_path / "sys", domains([parse_curve("constant:10")], 0)).close()
    for name in ("JOULEBOOK_METERS", "JOULEBOOK_REPLAY", "JOULEBOOK_MARKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JOULEBOOK_NVML_LIBRARY", str(tmp_path / "none.so"))
    monkeypatch.setenv("JOULEBOOK_PROC_ROOT", str(tmp_path / "proc"))
    monkeypatch.setenv("JOULEBOOK_SYS_ROOT", str(tmp_path / "sys"))
    monkeypatch.setenv("JOULEBOOK_HOME", str(tmp_path / "home"))
    return Home(tmp_path / "home").make()


def refused(*words: str) -> JoulebookError:
    done = CliRunner().invoke(calibrate, words)
    assert isinstance(done.exception, JoulebookError), done.output
    return done.exception


def test_another_holder_of_the_meters_is_told(home: Home) -> None:
    lease = take_lease(home)
    assert lease is not None
    with lease:
        assert refused().cause == "another process meters this machine"


def test_a_damaged_calibration_is_not_overwritten_unseen(home: Home) -> None:
    path = save(home, Calibration(machine_id(), ""))
    path.write_text("{")
    assert refused().remedy == f"rm {path}, then joulebook calibrate"
    assert path.read_text() == "{"


@pytest.mark.parametrize("stat", ["", "cpu 1 2\n", "cpu  1 0 0 1 0 0 0 0\n"])
def test_a_machine_whose_cpus_are_not_seen_is_not_taken_for_idle(home: Home, tmp_path: Path, stat: str) -> None:
    (tmp_path / "proc" / "stat").write_text(stat)
    error = refused()
    assert "does not say what the CPUs do" in error.cause
    assert "JOULEBOOK_PROC_ROOT" in error.remedy
    assert not lease_is_held(home)


def test_too_short_a_time_is_refused(home: Home) -> None:
    assert CliRunner().invoke(calibrate, ["--seconds", "21"]).exit_code == 2


@pytest.mark.slow
def test_counters_that_stand_still_are_no_idle_power(home: Home) -> None:
    done = CliRunner().invoke(calibrate, ["--seconds", "22", "--json"])
    assert isinstance(done.exception, JoulebookError)
    assert done.exception.cause == "no device was calibrated"
    document = json.loads(done.stdout)
    assert document["calibrated"] == []
    why = {left["what"].rpartition("/")[2]: left["why"] for left in document["left_out"]}
    assert why["rapl:package-0"] == why["dram"] == "it read no energy in idle windows: a meter that does not count"
    assert not calibration_path(home, machine_id()).exists()
