"""What every meter promises, held over all of METERS on simulated parts."""

import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from joulebook.meters import METERS, Device, MeterUnavailable, Reading, Roots, open_meter, open_meters
from joulebook.simulate.curve import parse_curve
from joulebook.simulate.nvml import Gpu, build_library, environment, write_gpus
from joulebook.simulate.powercap import PowercapTree, domains

BOOTTIME = time.CLOCK_BOOTTIME
STAT = "cpu  {busy} 0 0 0 0 0 0 0\ncpu0 {busy} 0 0 0 0 0 0 0\n"
RECORDING = "device_id,component,at_seconds,energy_joules\nnode,node,0,0\nnode,node,3600,360000\n"


def now_ns() -> int:
    return time.clock_gettime_ns(BOOTTIME)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_library(tmp_path_factory.mktemp("nvml")).parent


class Simulated:
    """A machine whose parts every meter finds."""

    def __init__(self, root: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.roots = Roots(root / "proc", root / "sys")
        (root / "proc" / "self").mkdir(parents=True)
        (root / "proc" / "cpuinfo").write_text("vendor_id : GenuineIntel\nmodel name : Intel Xeon Gold 6230\n")
        (root / "proc" / "meminfo").write_text("MemTotal: 1048576 kB\n")
        self.busy = 0
        began = now_ns() - 5_000_000_000
        curve = parse_curve("constant:100")
        (root / "sys").mkdir()
        self.tree = PowercapTree(root / "sys", domains([curve], began))
        write_gpus(root, [Gpu("GPU-a", curve), Gpu("GPU-b", curve, energy_counter=False)], began)
        recording = root / "recording.csv"
        recording.write_text(RECORDING)
        for variable, value in (environment(library) | {"JOULEBOOK_SIM_NVML": str(root / "nvml.conf")}).items():
            monkeypatch.setenv(variable, value)
        monkeypatch.setenv("JOULEBOOK_REPLAY", str(recording))
        self.move()

    def move(self) -> None:
        """Let every part work for a moment."""
        self.busy += 3
        (self.roots.proc / "stat").write_text(STAT.format(busy=self.busy))
        time.sleep(0.11)
        self.tree.tick(now_ns())


@pytest.fixture
def machine(tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulated]:
    simulated = Simulated(tmp_path, library, monkeypatch)
    yield simulated
    simulated.tree.close()


@pytest.fixture(params=sorted(METERS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_readings_name_the_devices_and_hold_one_value_each(name: str, machine: Simulated) -> None:
    meter = open_meter(name, machine.roots)
    readings = meter.read()
    assert meter.name == name
    assert [reading.device_id for reading in readings] == [device.device_id for device in meter.devices]
    for reading in readings:
        assert (reading.energy_microjoules is None) != (reading.power_milliwatts is None)
    meter.close()


def test_time_and_energy_only_rise(name: str, machine: Simulated) -> None:
    meter = open_meter(name, machine.roots)
    looks: list[list[Reading]] = []
    for _ in range(3):
        machine.move()
        looks.append(list(meter.read()))
    meter.close()
    for earlier, later in pairwise(looks):
        for a, b in zip(earlier, later, strict=True):
            assert a.at_ns < b.at_ns
            if a.energy_microjoules is not None and b.energy_microjoules is not None:
                assert isinstance(b.energy_microjoules, int)
                assert a.energy_microjoules < b.energy_microjoules


def test_readings_are_of_the_time_they_say(name: str, machine: Simulated) -> None:
    meter = open_meter(name, machine.roots)
    before = now_ns()
    readings = meter.read()
    after = now_ns()
    meter.close()
    assert all(before <= reading.at_ns <= after for reading in readings)


def test_device_ids_are_unique_and_the_same_at_every_opening(name: str, machine: Simulated) -> None:
    def ids() -> list[str]:
        meter = open_meter(name, machine.roots)
        found = [device.device_id for device in meter.devices]
        meter.close()
        return found

    first = ids()
    assert first == ids()
    assert len(first) == len(set(first)) > 0


def sound(device: Device) -> bool:
    bounded = device.most_watts is None or device.most_watts > 0
    return device.u_common > 0 and bool(device.u_common_key) and device.step_ns > 0 and bounded


def test_devices_say_how_well_they_are_seen(name: str, machine: Simulated) -> None:
    meter = open_meter(name, machine.roots)
    assert all(sound(device) for device in meter.devices)
    meter.close()


def test_closing_twice_is_harmless(name: str, machine: Simulated) -> None:
    meter = open_meter(name, machine.roots)
    meter.close()
    meter.close()


def test_a_machine_without_the_part_is_refused_with_cause_and_remedy(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: Path
) -> None:
    for variable, value in environment(library).items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("JOULEBOOK_SIM_NVML", str(tmp_path / "none"))
    monkeypatch.delenv("JOULEBOOK_REPLAY", raising=False)
    with pytest.raises(MeterUnavailable) as caught:
        open_meter(name, Roots(tmp_path / "proc", tmp_path / "sys"))
    for line in (caught.value.cause, caught.value.remedy):
        assert line.strip()
        assert "\n" not in line


def test_every_meter_has_its_row_in_the_docs(name: str) -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "meters.md").read_text()
    assert f"| `{name}` |" in page


def test_an_unknown_name_is_refused(machine: Simulated) -> None:
    with pytest.raises(MeterUnavailable, match="no meter 'raple'"):
        open_meter("raple", machine.roots)


def components(names: list[str] | None, machine: Simulated) -> dict[str, list[str]]:
    meters, _ = open_meters(names, machine.roots)
    found = {meter.name: [device.component.value for device in meter.devices] for meter in meters}
    for meter in meters:
        meter.close()
    return found


def test_the_automatic_choice_leaves_the_model_out_where_counters_read_all(
    machine: Simulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JOULEBOOK_REPLAY")
    assert components(None, machine) == {"rapl": ["cpu", "dram"], "nvml": ["gpu", "gpu"]}


def test_the_model_fills_in_dram_where_rapl_has_none(
    machine: Simulated, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("JOULEBOOK_REPLAY")
    (machine.roots.sys / "class" / "powercap" / "intel-rapl:0:1").unlink()
    assert components(None, machine) == {"rapl": ["cpu"], "nvml": ["gpu", "gpu"], "model": ["dram"]}


def test_a_named_recording_stands_alone(machine: Simulated) -> None:
    assert components(None, machine) == {"replay": ["node"]}


def test_a_model_named_beside_counters_never_counts_what_they_count(
    machine: Simulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOULEBOOK_METERS", "model, rapl")
    assert components(None, machine) == {"rapl": ["cpu", "dram"]}


def test_every_refusal_is_returned(machine: Simulated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOULEBOOK_REPLAY")
    (machine.roots.sys / "class" / "powercap" / "intel-rapl:0" / "energy_uj").unlink()
    meters, refused = open_meters(None, machine.roots)
    assert [meter.name for meter in meters] == ["nvml", "model"]
    assert [(r.name, "energy_uj" in r.error.cause) for r in refused] == [("rapl", True)]
    for meter in meters:
        meter.close()
