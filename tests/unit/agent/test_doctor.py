import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from joulebook.doctor import doctor
from joulebook.simulate.curve import parse_curve
from joulebook.simulate.powercap import PowercapTree, domains

CPUINFO = "vendor_id : AuthenticAMD\nmodel name : AMD EPYC\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with RAPL without DRAM, an unknown CPU, and no home yet."""
    files = {"cpuinfo": CPUINFO, "meminfo": "MemTotal: 1048576 kB\n", "stat": "cpu  0 0 0 0 0 0 0\ncpu0 0\n"}
    (tmp_path / "proc").mkdir()
    for name, text in files.items():
        (tmp_path / "proc" / name).write_text(text)
    PowercapTree(tmp_path / "sys", domains([parse_curve("constant:10")], 0, dram=False, psys=True, mmio=True)).close()
    for name in ("JOULEBOOK_METERS", "JOULEBOOK_REPLAY", "JOULEBOOK_CPU_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JOULEBOOK_NVML_LIBRARY", str(tmp_path / "none.so"))
    monkeypatch.setenv("JOULEBOOK_PROC_ROOT", str(tmp_path / "proc"))
    monkeypatch.setenv("JOULEBOOK_SYS_ROOT", str(tmp_path / "sys"))
    monkeypatch.setenv("JOULEBOOK_HOME", str(tmp_path / "home"))
    return tmp_path


def run(*words: str) -> str:
    done = CliRunner().invoke(doctor, words, catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_it_says_what_is_measured_left_out_and_missing(machine: Path) -> None:
    text = run()
    for said in (
        "rapl:package-0",
        "u 8%",
        "model:dram",
        "rapl:psys",
        "left out: intel-rapl package-0/core: lies inside its package",
        "left out: intel-rapl-mmio package-0: duplicate of intel-rapl",
        "nvml: unavailable",
        "unknown CPU",
        "JOULEBOOK_CPU_TDP_WATTS",
        "1 CPUs (no CPU limit), 1.0 GiB (no memory limit)",
        f"home     {machine / 'home'}, made at the first run",
    ):
        assert said in text
    assert not (machine / "home").exists()


def test_json_says_the_same(machine: Path) -> None:
    found = json.loads(run("--json"))
    assert {(d["device_id"], d["method"]) for d in found["measured"]} == {
        ("rapl:package-0", "counter"),
        ("rapl:psys", "counter"),
        ("model:dram", "modelled"),
    }
    assert found["cpu"]["unknown"] is True
    assert found["roots"]["sys"] == str(machine / "sys")
    assert {m["name"]: m["status"] for m in found["meters"]}["rapl"] == "available"
    assert found["inotify"]["works"] in (True, False)


def test_a_wrong_declaration_is_a_finding_and_no_failure(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOULEBOOK_CPU_MODEL", "abacus")
    assert "JOULEBOOK_CPU_MODEL 'abacus' is not in the CPU table" in run()


def test_a_machine_without_anything_is_told_so(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOULEBOOK_SYS_ROOT", str(tmp_path / "empty"))
    monkeypatch.setenv("JOULEBOOK_PROC_ROOT", str(tmp_path / "empty"))
    text = run()
    assert "Measured on this machine\n  nothing" in text
    assert "JOULEBOOK_PROC_ROOT" in text
