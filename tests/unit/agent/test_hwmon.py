"""Hardware monitors on simulated trees: which rails count, what they say of themselves, and what befalls them."""

import os
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joulebook.clock import boottime_ns
from joulebook.history import DeviceHistory
from joulebook.meters import LeftOut, MeterAbsent, MeterUnavailable, Roots, open_meters
from joulebook.meters.hwmon import Hwmon, open_hwmon
from joulebook.meters.hwmon_kinds import MODULE_NOTE, POLLED_NOTE
from joulebook.rows import Component, Method
from joulebook.simulate.curve import parse_curve
from joulebook.simulate.hwmon import KINDS, HwmonTree
from joulebook.simulate.moving import Fault
from joulebook.simulate.powercap import PowercapTree, domains

T0_NS = 1_000_000_000_000
CURVES = [parse_curve("constant:100"), parse_curve("constant:80")]


class Machine:
    """Simulated chips on a clock that the test moves: what the tree shows goes with it, and so do the readings."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, *kinds: str, curves=CURVES, **more) -> None:
        self.roots = Roots(root / "proc", root / "sys")
        self.roots.proc.mkdir(exist_ok=True)
        (self.roots.proc / "cpuinfo").write_text("vendor_id : AuthenticAMD\nmodel name : AMD EPYC 7742\n")
        self.now_ns = T0_NS
        monkeypatch.setattr("joulebook.meters.hwmon_chips.boottime_ns", lambda: self.now_ns)
        self.trees = [HwmonTree(self.roots.sys, kind, curves, T0_NS, **more) for kind in kinds]
        self.move(0)

    def move(self, ns: int = 100_000_000) -> None:
        self.now_ns += ns
        for tree in self.trees:
            tree.files.tick(self.now_ns)

    def named(self, attribute: str, holding: str = "") -> Path:
        """The file of that name that holds that text."""
        paths = [p for p in (self.roots.sys / "devices").rglob(attribute) if holding in p.read_text()]
        return sorted(paths)[0]


def values(meter: Hwmon) -> dict[str, int | None]:
    return {r.device_id: r.energy_microjoules or r.power_milliwatts for r in meter.read()}


class TestAcpi:
    def test_a_single_meter_is_the_nodes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        machine = Machine(tmp_path, monkeypatch, "acpi")
        meter = open_hwmon(machine.roots)
        assert values(meter) == {"hwmon:power_meter": 100_000}
        (device,) = meter.devices
        meter.close()
        assert (device.component, device.covers, device.method) == (Component.NODE, "node", Method.INTEGRATED)
        assert (device.averaged, device.step_ns, device.u_common, device.u_indep) == (True, 1_000_000_000, 0.03, 0)

    @pytest.mark.parametrize(
        # 10 % off at most is 0.10 / sqrt 3 = 5.8 %; 2 % is less than what any such meter has.
        ("stated", "u"),
        [("90.0%", 0.0577), ("98.0%", 0.03), ("", 0.03), ("?", 0.03), ("0%", 0.03), ("140%", 0.03)],
    )
    def test_a_lower_stated_accuracy_widens_the_uncertainty(
        self, stated: str, u: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        machine = Machine(tmp_path, monkeypatch, "acpi")
        machine.named("power1_accuracy").write_text(stated + "\n")
        meter = open_hwmon(machine.roots)
        assert meter.devices[0].u_common == pytest.approx(u, abs=1e-4)
        meter.close()

    def test_several_unnamed_meters_are_not_guessed_at(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        machine = Machine(tmp_path, monkeypatch, "acpi", "amd_energy")
        shutil.copytree(
            machine.roots.sys / "devices/platform/sim-acpi/ACPI000D:00",
            machine.roots.sys / "devices/platform/sim-acpi/ACPI000D:01", symlinks=True,
        )  # fmt: skip
        again = machine.roots.sys / "devices/platform/sim-acpi/ACPI000D:01/hwmon/hwmon10"
        (machine.roots.sys / "class/hwmon/hwmon19").symlink_to(again)
        meter = open_hwmon(machine.roots)
        meter.close()
        assert [device.component for device in meter.devices] == [Component.CPU, Component.CPU]
        assert [left.why for left in meter.left_out if left.what.startswith("power_meter")] == [
            "what it measures is not told, so it may be part of the others"
        ] * 2

    def test_a_battery_is_no_supply(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        machine = Machine(tmp_path, monkeypatch, "acpi")
        machine.named("power1_is_battery").write_text("1\n")
        with pytest.raises(MeterAbsent, match="battery"):
            open_hwmon(machine.roots)

    def test_means_give_the_true_joules(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        machine = Machine(tmp_path, monkeypatch, "acpi", curves=[parse_curve("sine:400,100,7")])
        meter = open_hwmon(machine.roots)
        history = DeviceHistory(meter.devices[0], "hwmon", 1_000_000_000)
        for _ in range(301):
            for reading in meter.read():
                history.add(reading)
            machine.move(1_000_000_000)
        meter.close()
        ((start, end, segment),) = history.history.known(0, machine.now_ns)
        # A mean told at its end belongs to the second before, so step by step nothing is lost.
        true = machine.trees[0].sources[0].joules(end) - machine.trees[0].sources[0].joules(start)
        assert (segment.at(end) - segment.at(start)) / 1e6 == pytest.approx(true, rel=1e-4)


class TestGrace:
    def test_cpu_and_sysio_count_and_what_contains_them_does_not(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        machine = Machine(tmp_path, monkeypatch, "grace", interval_ms=50)
        meter = open_hwmon(machine.roots)
        assert values(meter) == {
            "hwmon:grace/cpu-0": 100_000,
            "hwmon:grace/sysio-0": 20_000,
            "hwmon:grace/cpu-1": 80_000,
            "hwmon:grace/sysio-1": 16_000,
        }
        components = [(device.component, device.covers) for device in meter.devices]
        meter.close()
        assert components[:2] == [(Component.CPU, "cpu:0"), (Component.OTHER, "sysio:0")]
        assert [left.what for left in meter.left_out] == [
            f"power_meter {rail} Power Socket {n}" for n in range(2) for rail in ("Module", "Grace")
        ]
        assert all("twice" in left.why for left in meter.left_out)

    def test_a_mean_of_less_than_a_second_is_an_instant(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        machine = Machine(tmp_path, monkeypatch, "grace", interval_ms=50)
        meter = open_hwmon(machine.roots)
        device = meter.devices[0]
        meter.close()
        assert (device.averaged, device.step_ns, device.u_indep) == (False, 50_000_000, 0.03)
        assert device.note == POLLED_NOTE

    def test_a_socket_that_does_not_answer_stands_for_no_other(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        machine = Machine(tmp_path, monkeypatch, "grace", "amd_energy", faults=(Fault("zero", 1, 0),))
        machine.trees[1].files.tick(machine.now_ns)
        meter = open_hwmon(machine.roots)
        meter.close()
        assert {device.device_id.partition("/")[0] for device in meter.devices} == {"hwmon:amd_energy"}
        assert meter.left_out[0].what == "hwmon:grace/cpu-1"
        assert meter.left_out[0].why.startswith("does not measure")

    def test_rails_that_a_machine_tells_twice_count_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        machine = Machine(tmp_path, monkeypatch, "grace")
        machine.named("power1_oem_info", "CPU Power Socket 1").write_text("CPU Power Socket 0\n")
        meter = open_hwmon(machine.roots)
        ids = [device.device_id for device in meter.devices]
        meter.close()
        assert ids == ["hwmon:grace/cpu-0", "hwmon:grace/sysio-0", "hwmon:grace/sysio-1"]
        assert LeftOut("hwmon:grace/cpu-0", "told twice: the first counts") in meter.left_out


class TestIna3221:
    def test_the_input_rail_is_volts_times_amperes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        machine = Machine(tmp_path, monkeypatch, "ina3221")
        meter = open_hwmon(machine.roots)
        # 100 W at 19,000 mV are 5263 mA: 19,000 x 5263 uW = 99.997 W.
        assert values(meter) == {"hwmon:ina3221/VDD_IN": 99_997}
        (device,) = meter.devices
        meter.close()
        assert (device.component, device.covers, device.averaged) == (Component.NODE, "node", False)
        assert MODULE_NOTE in device.note
        assert meter.left_out == [
            LeftOut("ina3221 VDD_CPU_GPU_CV", "lies inside VDD_IN"),
            LeftOut("ina3221 VDD_SOC", "lies inside VDD_IN"),
        ]

    def test_without_an_input_rail_nothing_is_summed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        machine = Machine(tmp_path, monkeypatch, "ina3221")
        machine.named("in1_label").write_text("VDD_GPU_SOC\n")
        with pytest.raises(MeterAbsent, match="VDD_GPU_SOC: no rail feeds the whole module"):
            open_hwmon(machine.roots)

    def test_a_chip_without_labels_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        machine = Machine(tmp_path, monkeypatch, "ina3221")
        for n in (1, 2, 3):
            machine.named(f"in{n}_label").unlink()
        with pytest.raises(MeterAbsent, match="no labels"):
            open_hwmon(machine.roots)

    def test_a_channel_that_is_off_is_no_rail(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        machine = Machine(tmp_path, monkeypatch, "ina3221")
        (machine.named("in1_label").parent / "in2_enable").write_text("0\n")
        meter = open_hwmon(machine.roots)
        meter.close()
        assert [left.what for left in meter.left_out] == ["ina3221 VDD_SOC"]


class TestAmdEnergy:
    def test_sockets_count_and_cores_do_not(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        machine = Machine(tmp_path, monkeypatch, "amd_energy")
        meter = open_hwmon(machine.roots)
        before = values(meter)
        machine.move(1_000_000_000)
        after = values(meter)
        gained = {device_id: (after[device_id] or 0) - (before[device_id] or 0) for device_id in after}
        # One second at 100 W and 80 W, in whole counts of 15.3 uJ.
        assert gained == {
            "hwmon:amd_energy/socket-0": pytest.approx(100_000_000, abs=16),
            "hwmon:amd_energy/socket-1": pytest.approx(80_000_000, abs=16),
        }
        device = meter.devices[0]
        meter.close()
        assert (device.method, device.u_common, device.covers) == (Method.COUNTER, 0.08, "cpu:0")
        assert device.u_common_key == "hwmon:amd_energy:AMD EPYC 7742"
        assert meter.left_out == [LeftOut("amd_energy, 8 core counters", "lie inside their sockets")]

    def test_beside_rapl_each_package_counts_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        machine = Machine(tmp_path, monkeypatch, "amd_energy")
        tree = PowercapTree(machine.roots.sys, domains(CURVES, boottime_ns(), dram=False))
        meters, _ = open_meters(["hwmon", "rapl"], machine.roots)
        counted = {meter.name: [device.covers for device in meter.devices] for meter in meters}
        for meter in meters:
            meter.close()
        tree.close()
        assert counted == {"rapl": ["cpu:0", "cpu:1"]}

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
    def test_without_permission_the_one_command_that_mends_it_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        machine = Machine(tmp_path, monkeypatch, "amd_energy", faults=(Fault("denied", 0, 0), Fault("denied", 1, 0)))
        with pytest.raises(MeterUnavailable) as caught:
            open_hwmon(machine.roots)
        assert "permission denied" in caught.value.cause
        assert caught.value.remedy.startswith("sudo chmod a+r ")
        assert caught.value.remedy.count("energy") == 2 + caught.value.remedy.count("amd_energy")


class TestFaults:
    @pytest.mark.parametrize("kind", ["gone", "negative", "ones", "zero", "garbage"])
    def test_a_rail_that_fails_is_left_out_harms_no_other_and_comes_back(
        self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fault = Fault(kind, 0, T0_NS + 1_000_000_000, T0_NS + 2_000_000_000)
        machine = Machine(tmp_path, monkeypatch, "grace", faults=(fault,))
        meter = open_hwmon(machine.roots)
        looks = []
        for _ in range(30):
            looks.append({device_id[-1] for device_id in values(meter)})
            machine.move()
        meter.close()
        assert looks == [{"0", "1"}] * 10 + [{"1"}] * 10 + [{"0", "1"}] * 10

    def test_a_chip_that_returns_under_another_number_is_read_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        machine = Machine(tmp_path, monkeypatch, "amd_energy")
        meter = open_hwmon(machine.roots)
        before = values(meter)
        hwmon = machine.named("energy1_label").parent
        for path in hwmon.glob("energy*_input"):
            path.write_text("")
        assert values(meter) == {}
        shutil.move(hwmon, hwmon.with_name("hwmon77"))
        HwmonTree(machine.roots.sys, "acpi", CURVES, T0_NS).close()
        for path in hwmon.with_name("hwmon77").glob("energy*_input"):
            path.write_text("123\n")
        assert values(meter) == dict.fromkeys(before, 123)
        meter.close()

    def test_an_instant_of_nothing_is_a_gap_and_no_zero(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fault = Fault("zero", 0, T0_NS + 2_000_000_000, T0_NS + 12_000_000_000)
        machine = Machine(tmp_path, monkeypatch, "grace", faults=(fault,), interval_ms=50)
        meter = open_hwmon(machine.roots)
        history = DeviceHistory(meter.devices[0], "hwmon", 1_000_000_000)
        for _ in range(200):
            for reading in meter.read():
                if reading.device_id == meter.devices[0].device_id:
                    history.add(reading)
            machine.move()
        meter.close()
        parts = history.history.known(0, machine.now_ns)
        assert len(parts) == 2
        for start, end, segment in parts:
            assert (segment.at(end) - segment.at(start)) / 1e6 == pytest.approx(100 * (end - start) / 1e9, rel=1e-6)
        assert parts[1][0] - parts[0][1] > 10_000_000_000


def test_a_machine_without_chips_has_none(tmp_path: Path) -> None:
    with pytest.raises(MeterAbsent, match="no power meter"):
        open_hwmon(Roots(tmp_path / "proc", tmp_path / "sys"))


def test_other_chips_are_none_of_ours(tmp_path: Path) -> None:
    other = tmp_path / "sys" / "class" / "hwmon" / "hwmon0"
    other.mkdir(parents=True)
    (other / "name").write_text("amdgpu\n")
    (other / "power1_average").write_text("100000000\n")
    with pytest.raises(MeterAbsent):
        open_hwmon(Roots(tmp_path / "proc", tmp_path / "sys"))


def test_no_physical_thing_is_named_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path, monkeypatch, *KINDS)
    meters, _ = open_meters(["hwmon"], machine.roots)
    (meter,) = meters
    names = [device.covers for device in meter.devices]
    node = [device.device_id for device in meter.devices if device.component is Component.NODE]
    parents = {device.parent for device in meter.devices if device.component is not Component.NODE}
    meter.close()
    assert len(names) == len(set(names))
    assert parents == set(node)
    assert len(node) == 1


@pytest.fixture(scope="module", params=KINDS)
def fuzzed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Roots:
    root = tmp_path_factory.mktemp("fuzzed")
    HwmonTree(root / "sys", request.param, CURVES, boottime_ns() - 10**9).close()
    return Roots(root / "proc", root / "sys")


def refusal(roots: Roots) -> str:
    """Why the meter cannot be opened, "" where it can."""
    try:
        open_hwmon(roots).close()
    except MeterUnavailable as error:
        return error.cause
    return ""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.data())
def test_any_bytes_in_any_file_crash_nothing_and_make_no_number(fuzzed: Roots, data: st.DataObject) -> None:
    files = sorted(path for path in (fuzzed.sys / "devices").rglob("*") if path.is_file() and not path.is_symlink())
    path = data.draw(st.sampled_from(files))
    held = data.draw(st.binary(max_size=300) | st.integers(-10, 2**70).map(lambda n: b"%d\n" % n))
    kept = path.read_bytes()
    try:
        meter = open_hwmon(fuzzed)
        path.write_bytes(held)
        for reading in [*meter.read(), *meter.read()]:
            assert reading.energy_microjoules is not None or 0 < (reading.power_milliwatts or 0) <= 50_000_000
        meter.close()
        assert "\n" not in refusal(fuzzed)
    finally:
        path.write_bytes(kept)


def test_looks_are_of_the_time_they_say(tmp_path: Path) -> None:
    HwmonTree(tmp_path / "sys", "acpi", CURVES, boottime_ns() - 10**9).close()
    meter = open_hwmon(Roots(tmp_path / "proc", tmp_path / "sys"))
    times = [reading.at_ns for _ in range(3) for reading in meter.read()]
    meter.close()
    assert all(a < b <= boottime_ns() for a, b in pairwise(times))
