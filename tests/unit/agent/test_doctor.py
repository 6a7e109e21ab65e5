import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from joulebook.doctor import doctor
from joulebook.meters import METERS
from joulebook.simulate.curve import parse_curve
from joulebook.simulate.powercap import PowercapTree, domains
from joulebook.simulate.prometheus import Exporter
from joulebook.simulate.redfish import FAULTS, Bmc
from joulebook.simulate.truth import Source

CPUINFO = "vendor_id : AuthenticAMD\nmodel name : AMD EPYC\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with RAPL without DRAM, an unknown CPU, and no home yet."""
    files = {"cpuinfo": CPUINFO, "meminfo": "MemTotal: 1048576 kB\n", "stat": "cpu  0 0 0 0 0 0 0\ncpu0 0\n"}
    (tmp_path / "proc").mkdir()
    for name, text in files.items():
        (tmp_path / "proc" / name).write_text(text)
    PowercapTree(tmp_path / "sys", domains([parse_curve("constant:10")], 0, dram=False, psys=True, mmio=True)).close()
    declared = [entry.declared_by for entry in METERS.values() if entry.declared_by]
    for name in ("JOULEBOOK_METERS", "JOULEBOOK_CPU_MODEL", *declared):
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


def test_what_overlaps_is_told_with_what_counts_in_its_place(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = Exporter(machine, "node_exporter", [parse_curve("constant:10")])
    monkeypatch.setenv("JOULEBOOK_PROMETHEUS_URL", exporter.url)
    meters = {meter["name"]: meter for meter in json.loads(run("--json"))["meters"]}
    exporter.close()
    told = {left["what"]: left["why"] for left in meters["prometheus"]["left_out"]}
    assert told["node_exporter:package-0"] == "the same as rapl rapl:package-0, which counts"
    assert "node_exporter:dram-0" not in told
    assert meters["prometheus"]["used"]


def test_a_meter_of_which_nothing_counts_is_told_why(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = Exporter(machine, "kepler-aggregated", [parse_curve("constant:10")])
    monkeypatch.setenv("JOULEBOOK_PROMETHEUS_URL", exporter.url)
    monkeypatch.setenv("JOULEBOOK_METERS", "rapl")
    assert "prometheus: available, not used\n  left out: prometheus: the settings name others" in run()
    PowercapTree(machine / "sys", domains([parse_curve("constant:10")], 0, dram=True)).close()
    monkeypatch.setenv("JOULEBOOK_METERS", "rapl,prometheus,model")
    text = run()
    exporter.close()
    assert "  left out: kepler:package: the same as rapl rapl:package-0, which counts" in text
    assert "model: available, not used\n  left out: model: others read all that it models" in text


def test_a_slow_controller_is_waited_for(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bmc = Bmc(machine, Source("redfish:node", 0, (parse_curve("constant:10"),)), view="power")
    monkeypatch.setenv("JOULEBOOK_REDFISH_URL", bmc.url)
    (machine / FAULTS).write_text("delay_seconds 0.5\nvalue null\n")
    text = run()
    assert "left out: redfish: not read now: " in text
    assert "gives no power (missing, null or 0)" in text
    (machine / FAULTS).write_text("delay_seconds 0.5\n")
    assert "left out: redfish" not in run()
    bmc.close()


def test_a_wrong_declaration_is_a_finding_and_no_failure(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOULEBOOK_CPU_MODEL", "abacus")
    assert "JOULEBOOK_CPU_MODEL 'abacus' is not in the CPU table" in run()


def test_a_machine_without_anything_is_told_so(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOULEBOOK_SYS_ROOT", str(tmp_path / "empty"))
    monkeypatch.setenv("JOULEBOOK_PROC_ROOT", str(tmp_path / "empty"))
    text = run()
    assert "Measured on this machine\n  nothing" in text
    assert "JOULEBOOK_PROC_ROOT" in text
