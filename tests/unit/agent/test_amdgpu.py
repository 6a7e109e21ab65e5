"""AMD GPUs on simulated trees: counters that must prove themselves, dies, chips with a CPU, processes, faults."""

import os
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joulebook.clock import boottime_ns
from joulebook.history import DeviceHistory
from joulebook.meters import Device, MeterAbsent, MeterUnavailable, Reading, Roots, open_meters
from joulebook.meters.amdgpu import AmdGpu, open_amdgpu
from joulebook.meters.amdgpu_card import DISAGREES_NOTE, NO_COUNTER_NOTE, SECOND_DIE, TRIAL_NOTE, WHOLE_NOTE
from joulebook.meters.gpu_metrics import ENERGY_AT, energy_counts, microjoules, revision
from joulebook.meters.kfd import INSTANT_NOTE
from joulebook.rows import Component, Method
from joulebook.simulate.amdgpu import AmdGpuTree, GpuProcess, SimulatedCard, gpu_id
from joulebook.simulate.curve import parse_curve
from joulebook.simulate.moving import Fault
from joulebook.simulate.powercap import PowercapTree, domains

STEP_NS = 100_000_000
CURVE = parse_curve("constant:100")
A, B = "amdgpu:a3d0000000000000", "amdgpu:a3d0000000000001"


class Machine:
    """Simulated cards on a clock that the test moves: what the tree shows goes with it, and so do the readings."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, *cards: SimulatedCard, faults: tuple = ()) -> None:
        self.roots = Roots(root / "proc", root / "sys")
        self.t0_ns = self.now_ns = 1_000_000_000_000
        monkeypatch.setattr("joulebook.meters.amdgpu.boottime_ns", lambda: self.now_ns)
        self.tree = AmdGpuTree(self.roots.sys, cards, self.t0_ns, faults)
        self.move(0)

    @property
    def device(self) -> Path:
        return self.roots.sys / "devices" / "pci0000:c0" / "0000:c1:00.0"

    def move(self, ns: int = STEP_NS) -> None:
        self.now_ns += ns
        self.tree.files.tick(self.now_ns)

    def look(self, meter: AmdGpu, looks: int) -> list[Reading]:
        readings: list[Reading] = []
        for _ in range(looks):
            readings += meter.read()
            self.move()
        return readings


def only(meter: AmdGpu) -> Device:
    (device,) = meter.devices
    return device


BEFORE_ENERGY = {
    (1, 1): "6H 3H H", (1, 2): "6H 3H H", (1, 3): "6H 3H H", (1, 4): "3H H 2H 4H", (1, 5): "3H H 2H 4H 32H",
    (1, 6): "3H H 2H", (1, 7): "3H H 2H Q", (1, 8): "3H H 2H Q",
}  # fmt: skip
"""Temperatures, activities, power, from 1.7 on memory bandwidth: what the kernel's structs hold before the energy."""


def test_the_energy_is_where_the_kernel_puts_it() -> None:
    assert {known: struct.calcsize(f"<HBB {fields}") for known, fields in BEFORE_ENERGY.items()} == ENERGY_AT


@pytest.mark.parametrize("counter", ["hwmon", *(f"metrics-{form}.{content}" for form, content in ENERGY_AT)])
def test_a_counter_takes_over_once_it_agrees_with_power(
    counter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, monkeypatch, SimulatedCard(CURVE, counter=counter))
    meter = open_amdgpu(machine.roots)
    before = only(meter)
    assert (before.method, before.u_common, before.u_indep, before.note) == (Method.INTEGRATED, 0.05, 0.03, TRIAL_NOTE)
    readings = machine.look(meter, 8)
    after = only(meter)
    meter.close()
    assert [reading.power_milliwatts for reading in readings[:6]] == [100_000] * 6
    energies = [reading.energy_microjoules for reading in readings[6:]]
    assert len(energies) == 3
    # 100 W for 100 ms are 10 J; a count is 2**-16 J, 15.3 uJ.
    assert all(b - a == pytest.approx(10_000_000, abs=16) for a, b in pairwise(energies))
    assert (after.method, after.u_common, after.u_indep, after.note) == (Method.COUNTER, 0.05, 0.0, "")
    assert (after.device_id, after.model, after.covers) == (A, "Simulated MI300X", "gpu:0000:c1:00.0")


def test_no_joule_is_lost_or_double_where_the_counter_takes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, monkeypatch, SimulatedCard(CURVE))
    meter = open_amdgpu(machine.roots)
    history = DeviceHistory(only(meter), "amdgpu", STEP_NS)
    for reading in machine.look(meter, 100):
        history.add(reading)
    assert only(meter).method is Method.COUNTER
    meter.close()
    ((start, end, segment),) = history.history.known(0, machine.now_ns)
    assert not history.notes
    # 100 looks are 99 waits of 100 ms at 100 W.
    assert (segment.at(end) - segment.at(start)) / 1e6 == pytest.approx(990, abs=0.001)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Machine], None]]:
    """Makes a machine's simulated amdsmi the one that is imported."""

    def use(machine: Machine) -> None:
        monkeypatch.syspath_prepend(str(machine.roots.sys / "python"))
        monkeypatch.setattr("joulebook.simulate.amd_smi.boottime_ns", lambda: machine.now_ns)

    yield use
    sys.modules.pop("amdsmi", None)


class TestAmdSmi:
    def test_its_count_times_its_resolution_takes_over(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: Callable[[Machine], None]
    ) -> None:
        machine = Machine(tmp_path, monkeypatch, SimulatedCard(CURVE, counter="amdsmi"))
        library(machine)
        meter = open_amdgpu(machine.roots)
        energies = [r.energy_microjoules for r in machine.look(meter, 20) if r.energy_microjoules is not None]
        device = only(meter)
        meter.close()
        assert device.method is Method.COUNTER
        # 10 J a look, in counts of 15.3 uJ.
        assert [b - a for a, b in pairwise(energies)] == [pytest.approx(10_000_000, abs=16)] * (len(energies) - 1)
        assert len(energies) == 15

    def test_it_is_not_loaded_where_the_driver_shows_a_counter(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: Callable[[Machine], None]
    ) -> None:
        cards = [SimulatedCard(CURVE), SimulatedCard(CURVE, counter="amdsmi")]
        machine = Machine(tmp_path, monkeypatch, *cards)
        library(machine)
        shutil.rmtree(machine.device.parent / "0000:c2:00.0")
        (machine.roots.sys / "class" / "drm" / "card1").unlink()
        meter = open_amdgpu(machine.roots)
        meter.close()
        assert "amdsmi" not in sys.modules

    @pytest.mark.parametrize(
        ("module", "why"),
        [
            ("raise SystemExit('no libamd_smi.so')", "cannot be loaded: no libamd_smi.so"),
            ("raise OSError('libamd_smi.so: cannot open')", "cannot be loaded: libamd_smi.so"),
            (
                "class AmdSmiException(Exception): pass\ndef amdsmi_init(): raise AmdSmiException('no driver')\n"
                "def amdsmi_shut_down(): raise AmdSmiException('not open')",
                "does not answer: no driver",
            ),
            ("", "is not installed"),
        ],
    )
    def test_without_it_power_counts_and_doctor_says_why(
        self, module: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: Callable[[Machine], None]
    ) -> None:
        machine = Machine(tmp_path, monkeypatch, SimulatedCard(CURVE, counter="amdsmi"))
        (machine.roots.sys / "python" / "amdsmi.py").write_text(module)
        if module:
            library(machine)
        else:
            monkeypatch.setattr("joulebook.meters.amd_smi.find_spec", lambda name: None)
        meter = open_amdgpu(machine.roots)
        assert {r.power_milliwatts for r in machine.look(meter, 20)} == {100_000}
        meter.close()
        (left,) = meter.left_out
        assert why in left.why

    @pytest.mark.parametrize(
        "told", ["{'energy_accumulator': 'N/A', 'counter_resolution': 15.3}", "{}", "None or {1: 2}"]
    )
    def test_what_is_no_count_is_no_counter(
        self, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: Callable[[Machine], None]
    ) -> None:
        machine = Machine(tmp_path, monkeypatch, SimulatedCard(CURVE, counter="amdsmi"))
        path = machine.roots.sys / "python" / "amdsmi.py"
        path.write_text(path.read_text() + f"\ndef amdsmi_get_energy_count(handle): return {told}\n")
        library(machine)
        meter = open_amdgpu(machine.roots)
        meter.close()
        assert only(meter).note == NO_COUNTER_NOTE

    def test_the_library_is_given_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: Callable[[Machine], None]
    ) -> None:
        machine = Machine(tmp_path, monkeypatch, SimulatedCard(CURVE, counter="amdsmi"))
        library(machine)
        meter = open_amdgpu(machine.roots)
        assert sys.modules["amdsmi"].amdsmi_get_processor_handles() == ["0000:c1:00.0"]
        meter.close()
        assert sys.modules["amdsmi"].amdsmi_get_processor_handles() == []


@pytest.mark.parametrize("rate", [0.0, 0.3, 3.0])
def test_a_counter_at_the_wrong_rate_is_never_used_and_told(
    rate: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, monkeypatch, SimulatedCard(CURVE, rate=rate))
    meter = open_amdgpu(machine.roots)
    readings = machine.look(meter, 150)
    device = only(meter)
    meter.close()
    assert {reading.power_milliwatts for reading in readings} == {100_000}
    assert (device.method, device.note) == (Method.INTEGRATED, DISAGREES_NOTE)
    (told,) = meter.left_out
    assert told.what == f"{A} energy counter"
    assert f"{rate:.3g} times" in told.why


def test_a_card_without_a_counter_is_polled_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path, monkeypatch, SimulatedCard(CURVE, counter="none"))
    meter = open_amdgpu(machine.roots)
    assert {reading.power_milliwatts for reading in machine.look(meter, 20)} == {100_000}
    assert only(meter).note == NO_COUNTER_NOTE
    meter.close()


def test_what_a_parent_was_given_stays_when_the_counter_takes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, monkeypatch, SimulatedCard(CURVE))
    meter = open_amdgpu(machine.roots)
    meter.devices = [replace(only(meter), parent="redfish:node")]
    machine.look(meter, 8)
    assert (only(meter).method, only(meter).parent) == (Method.COUNTER, "redfish:node")
    meter.close()


def test_a_narrow_counter_wraps_and_a_wide_one_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [SimulatedCard(CURVE, counter="metrics-1.3", wraps_in_s=2.05), SimulatedCard(CURVE, counter="metrics-1.6")]
    machine = Machine(tmp_path, monkeypatch, *cards)
    meter = open_amdgpu(machine.roots)
    history = None
    for _ in range(60):
        for reading in meter.read():
            narrow = next(device for device in meter.devices if device.device_id == A)
            if reading.device_id == A and narrow.method is Method.COUNTER:
                history = history or DeviceHistory(narrow, "amdgpu", STEP_NS)
                history.add(reading)
        machine.move()
    narrow, wide = meter.devices
    meter.close()
    # 2**32 counts of 2**-16 J are 65,536 J.
    assert (narrow.wraps_at_microjoules, wide.wraps_at_microjoules) == (65_536_000_000, None)
    assert history is not None
    assert [note for _, note in history.notes] == ["counter wrapped"]
    # It counts from the sixth of the sixty looks on: 54 waits of 100 ms at 100 W.
    ((start, end, segment),) = history.history.known(0, machine.now_ns)
    assert (segment.at(end) - segment.at(start)) / 1e6 == pytest.approx(540, abs=0.001)


def test_of_two_dies_the_first_is_read_and_has_the_processes_of_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(
        tmp_path, monkeypatch, *(SimulatedCard(CURVE, counter="metrics-1.3", two_dies=True) for _ in range(2))
    )
    on_second = machine.roots.sys / "class" / "kfd" / "kfd" / "proc" / "77"
    on_second.mkdir()
    (on_second / f"vram_{gpu_id(0)}").write_text("0\n")
    (on_second / f"vram_{gpu_id(1)}").write_text("4096\n")
    (on_second / f"stats_{gpu_id(1)}").mkdir()
    (on_second / f"stats_{gpu_id(1)}" / "cu_occupancy").write_text("55\n")
    meter = open_amdgpu(machine.roots)
    busy = meter.busy()
    meter.close()
    assert [device.device_id for device in meter.devices] == [A, B]
    assert [(left.what, left.why) for left in meter.left_out] == [
        ("AMD GPU 0000:c2:00.0", SECOND_DIE),
        ("AMD GPU 0000:c4:00.0", SECOND_DIE),
    ]
    # 55 of a die's 110 compute units are a quarter of the package.
    assert dict(busy[A].pids) == {77: 0.25}
    assert dict(busy[B].pids) == {}


def test_dies_that_cannot_be_joined_leave_their_packages_without_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, monkeypatch, *(SimulatedCard(CURVE, two_dies=True) for _ in range(2)))
    for links in (machine.roots.sys / "devices" / "virtual" / "kfd").glob("kfd/topology/nodes/*/io_links"):
        shutil.rmtree(links)
    meter = open_amdgpu(machine.roots)
    assert meter.busy() == {}
    meter.close()


@pytest.mark.parametrize("rapl", [False, True])
def test_graphics_of_a_processor_are_its_package_and_count_once(
    rapl: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, monkeypatch, SimulatedCard(CURVE, counter="none"))
    (machine.device / "unique_id").unlink()
    (machine.device / "gpu_metrics").write_bytes(struct.pack("<HBB", 120, 2, 3) + bytes(116))
    if rapl:
        PowercapTree(machine.roots.sys, domains([CURVE], boottime_ns(), dram=False)).close()
    meters, _ = open_meters(["rapl", "amdgpu", "model"], Roots(Path("/proc"), machine.roots.sys))
    counted = {device.device_id: device for meter in meters for device in meter.devices}
    for meter in meters:
        meter.close()
    # Neither RAPL nor the model counts the package a second time.
    own = "rapl:package-0" if rapl else "amdgpu:0000:c1:00.0"
    assert counted.keys() == {own, "model:dram"}
    assert (counted[own].component, counted[own].covers) == (Component.CPU, "cpu:0")
    assert rapl or WHOLE_NOTE in counted[own].note


def test_a_gpu_with_cpu_cores_covers_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path, monkeypatch, SimulatedCard(CURVE))
    (machine.device / "device").write_text("0x74a0\n")
    (machine.device / "numa_node").write_text("2\n")
    meter = open_amdgpu(machine.roots)
    device = only(meter)
    meter.close()
    assert device.component is Component.GPU
    assert device.names == ("gpu:0000:c1:00.0", "gpu:a3d0000000000000", "cpu:2")
    assert WHOLE_NOTE in device.note


def test_a_card_without_a_serial_number_is_named_by_its_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOULEBOOK_MACHINE_ID", "node7")
    machine = Machine(tmp_path, monkeypatch, SimulatedCard(CURVE))
    (machine.device / "unique_id").unlink()
    (machine.device / "product_name").unlink()
    meter = open_amdgpu(machine.roots)
    device = only(meter)
    meter.close()
    assert (device.device_id, device.model) == ("amdgpu:node7/0000:c1:00.0", "AMD GPU 1002:74a1")


def test_two_cards_of_one_serial_number_are_not_taken_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path, monkeypatch, SimulatedCard(CURVE), SimulatedCard(CURVE))
    (machine.device.parent / "0000:c2:00.0" / "unique_id").write_text("a3d0000000000000\n")
    meter = open_amdgpu(machine.roots)
    meter.close()
    assert [device.device_id for device in meter.devices] == [A]
    assert [left.what for left in meter.left_out] == ["AMD GPU 0000:c2:00.0"]


def test_limits_and_bound_are_the_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path, monkeypatch, SimulatedCard(CURVE, limit_watts=750))
    meter = open_amdgpu(machine.roots)
    device = only(meter)
    meter.close()
    assert (device.limit_watts, device.most_watts, device.component) == (750, 1500, Component.GPU)


class TestProcesses:
    def test_occupancy_is_a_fraction_of_the_card(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        cards = [SimulatedCard(CURVE, processes=(GpuProcess(10, 152), GpuProcess(11, 38))), SimulatedCard(CURVE)]
        machine = Machine(tmp_path, monkeypatch, *cards)
        meter = open_amdgpu(machine.roots)
        busy = meter.busy()
        meter.close()
        # Of 304 compute units; every process is listed under both cards and has memory on one.
        assert dict(busy[A].pids) == {10: 0.5, 11: 0.125}
        assert busy[A].note == INSTANT_NOTE
        assert dict(busy[B].pids) == {}

    @pytest.mark.parametrize("units", [(0, 0), (None, 12)])
    def test_users_are_named_where_the_driver_does_not_tell_them_apart(
        self, units: tuple[int | None, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        processes = tuple(GpuProcess(10 + n, told) for n, told in enumerate(units))
        machine = Machine(tmp_path, monkeypatch, SimulatedCard(CURVE, processes=processes))
        meter = open_amdgpu(machine.roots)
        busy = meter.busy()
        meter.close()
        assert dict(busy[A].pids) == {10: None, 11: None}
        assert busy[A].note == ""

    def test_without_the_compute_driver_nobody_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        machine = Machine(tmp_path, monkeypatch, SimulatedCard(CURVE, processes=(GpuProcess(10, 1),)))
        shutil.rmtree(machine.roots.sys / "devices" / "virtual" / "kfd")
        meter = open_amdgpu(machine.roots)
        assert dict(meter.busy()[A].pids) == {}
        meter.close()


class TestFaults:
    @pytest.mark.parametrize("kind", ["gone", "negative", "ones", "zero", "garbage"])
    def test_a_card_that_fails_is_left_out_harms_no_other_and_comes_back(
        self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        machine = Machine(
            tmp_path, monkeypatch, SimulatedCard(CURVE, counter="none"), SimulatedCard(CURVE),
            faults=(Fault(kind, 0, 1_001_000_000_000, 1_002_000_000_000),),
        )  # fmt: skip
        meter = open_amdgpu(machine.roots)
        looks = [{reading.device_id for reading in machine.look(meter, 1)} for _ in range(30)]
        meter.close()
        assert looks == [{A, B}] * 10 + [{B}] * 10 + [{A, B}] * 10

    @pytest.mark.parametrize("kind", ["gone", "garbage"])
    def test_a_counter_that_goes_and_comes_loses_no_joule(
        self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        machine = Machine(
            tmp_path, monkeypatch, SimulatedCard(CURVE), faults=(Fault(kind, 0, 1_002_000_000_000, 1_004_000_000_000),)
        )
        meter = open_amdgpu(machine.roots)
        readings = [r for r in machine.look(meter, 60) if r.energy_microjoules is not None]
        meter.close()
        assert max(b.at_ns - a.at_ns for a, b in pairwise(readings)) > 2_000_000_000
        assert all(reading.energy_microjoules is not None for reading in readings)
        first, last = readings[0], readings[-1]
        assert first.energy_microjoules is not None
        assert last.energy_microjoules is not None
        seconds = (last.at_ns - first.at_ns) / 1e9
        assert (last.energy_microjoules - first.energy_microjoules) / 1e6 == pytest.approx(100 * seconds, rel=1e-3)

    def test_a_card_asleep_at_the_start_is_read_when_it_wakes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        machine = Machine(
            tmp_path, monkeypatch, SimulatedCard(CURVE, counter="none"),
            faults=(Fault("zero", 0, 0, 1_001_000_000_000),),
        )  # fmt: skip
        meter = open_amdgpu(machine.roots)
        looks = [len(machine.look(meter, 1)) for _ in range(20)]
        meter.close()
        assert looks == [0] * 10 + [1] * 10

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
    def test_without_permission_the_command_that_mends_it_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        machine = Machine(tmp_path, monkeypatch, SimulatedCard(CURVE), faults=(Fault("denied", 0, 0),))
        with pytest.raises(MeterUnavailable) as caught:
            open_amdgpu(machine.roots)
        assert "permission denied" in caught.value.cause
        assert caught.value.remedy.startswith("sudo chmod a+r ")

    def test_a_card_that_measures_nothing_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        machine = Machine(tmp_path, monkeypatch, SimulatedCard(CURVE))
        (machine.device / "hwmon" / "hwmon40" / "power1_average").unlink()
        with pytest.raises(MeterUnavailable, match="no power reading"):
            open_amdgpu(machine.roots)

    def test_a_machine_without_cards_has_none(self, tmp_path: Path) -> None:
        with pytest.raises(MeterAbsent, match="no AMD GPU"):
            open_amdgpu(Roots(tmp_path / "proc", tmp_path / "sys"))

    def test_a_card_of_another_maker_is_not_ours(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        machine = Machine(tmp_path, monkeypatch, SimulatedCard(CURVE))
        (machine.device / "vendor").write_text("0x10de\n")
        with pytest.raises(MeterAbsent):
            open_amdgpu(machine.roots)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Roots:
    root = tmp_path_factory.mktemp("fuzzed")
    cards = [SimulatedCard(CURVE, processes=(GpuProcess(10, 1),)), SimulatedCard(CURVE, counter="hwmon")]
    AmdGpuTree(root / "sys", cards, boottime_ns() - 10**9).close()
    return Roots(root / "proc", root / "sys")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_any_bytes_in_any_file_crash_nothing_and_make_no_number(fuzzed: Roots, data: st.DataObject) -> None:
    files = sorted(path for path in (fuzzed.sys / "devices").rglob("*") if path.is_file() and not path.is_symlink())
    path = data.draw(st.sampled_from(files))
    held = data.draw(st.binary(max_size=300) | st.integers(-10, 2**70).map(lambda n: b"%d\n" % n))
    kept = path.read_bytes()
    path.write_bytes(held)
    try:
        meter = open_amdgpu(fuzzed)
        for reading in [*meter.read(), *meter.read()]:
            # Every power of the tree is 100 W, and nothing above twice the limit of 750 W passes.
            assert reading.power_milliwatts is not None
            assert 0 < reading.power_milliwatts <= 3_000_000
        for busy in meter.busy().values():
            assert all(part is None or 0 <= part <= 1 for part in busy.pids.values())
        meter.close()
    finally:
        path.write_bytes(kept)


@given(st.binary(max_size=300))
def test_any_table_gives_counts_or_nothing(table: bytes) -> None:
    counts = energy_counts(table)
    assert counts is None or (revision(table) in ENERGY_AT and 0 <= counts < 2**64 - 1)


def test_a_count_is_two_to_the_minus_sixteen_joules() -> None:
    # 65,536 counts are one joule; one count is 15.26 uJ, floored.
    assert (microjoules(65_536), microjoules(1), microjoules(0)) == (1_000_000, 15, 0)
