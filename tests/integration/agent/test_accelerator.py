"""Boards without a power reading, on the simulated library and a simulated /sys: what is modelled and what is not."""

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joulebook.clock import boottime_ns
from joulebook.meters import MeterAbsent, MeterUnavailable, Roots, open_meters
from joulebook.meters.accelerator import Accelerator, open_accelerator
from joulebook.meters.nvml import open_nvml
from joulebook.rows import Method
from joulebook.simulate.accelerator import AcceleratorTree, SilentCard, silent_gpu
from joulebook.simulate.curve import parse_curve
from joulebook.simulate.nvml import Gpu, GpuProcess, build_library, environment, write_gpus

HALF = parse_curve("constant:100")
SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_library(tmp_path_factory.mktemp("nvml")).parent


class Bench:
    """A machine with simulated GPUs and cards."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.roots = Roots(sys=root / "sys")
        self.began = boottime_ns() - 10 * SECOND

    def gpus(self, *gpus: Gpu, **options: object) -> None:
        write_gpus(self.root, gpus, self.began, **options)  # type: ignore[arg-type]

    def cards(self, *cards: SilentCard) -> AcceleratorTree:
        return AcceleratorTree(self.root / "sys", cards, self.began)

    def open(self) -> Accelerator:
        return open_accelerator(self.roots)


@pytest.fixture
def bench(tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    for variable, value in (environment(library) | {"JOULEBOOK_SIM_NVML": str(tmp_path / "nvml.conf")}).items():
        monkeypatch.setenv(variable, value)
    monkeypatch.delenv("JOULEBOOK_ACCELERATOR_TDP_WATTS", raising=False)
    return Bench(tmp_path)


def test_a_gpu_without_power_is_its_limit_times_its_utilisation_and_labelled(bench: Bench) -> None:
    bench.gpus(silent_gpu("GPU-a", HALF, 200), Gpu("GPU-b", HALF))
    meter = bench.open()
    (device,) = meter.devices
    (reading,) = meter.read()
    meter.close()
    assert (device.device_id, device.method, device.u_common) == ("GPU-a", Method.MODELLED, 0.4)
    assert device.note == "modelled: design power 200 W (the board's power limit) x utilisation"
    assert device.averaged
    assert device.names == ("gpu:GPU-a", "gpu:0000:10:00.0")
    # 100 W of 200 W: 50 %.
    assert (reading.device_id, reading.power_milliwatts, reading.energy_microjoules) == ("GPU-a", 100_000, None)


def test_a_utilisation_beyond_all_of_it_is_all_of_it(bench: Bench) -> None:
    bench.gpus(Gpu("GPU-a", HALF, energy_counter=False, power=False, limit_watts=200, utilisation_percent=130))
    meter = bench.open()
    assert [reading.power_milliwatts for reading in meter.read()] == [200_000]
    meter.close()


def test_the_nvml_meter_leaves_it_to_the_model_and_nothing_is_counted_twice(bench: Bench) -> None:
    bench.gpus(silent_gpu("GPU-a", HALF, 200), Gpu("GPU-b", HALF))
    nvml, accelerator = open_nvml(bench.roots), bench.open()
    assert [device.device_id for device in nvml.devices] == ["GPU-b"]
    assert [device.device_id for device in accelerator.devices] == ["GPU-a"]
    assert [(left.what, left.why) for left in nvml.left_out] == [
        ("GPU 0", "tells neither energy nor power: see meter accelerator")
    ]
    nvml.close()
    accelerator.close()


def test_only_silent_gpus_leave_no_nvml_meter_and_nothing_to_mend(bench: Bench) -> None:
    bench.gpus(silent_gpu("GPU-a", HALF, 200))
    meters, refused = open_meters(["nvml", "accelerator"], bench.roots)
    assert [(meter.name, [device.device_id for device in meter.devices]) for meter in meters] == [
        ("accelerator", ["GPU-a"])
    ]
    assert [(one.name, type(one.error)) for one in refused] == [("nvml", MeterAbsent)]
    for meter in meters:
        meter.close()


def test_a_sensor_that_says_unknown_error_is_none(bench: Bench) -> None:
    """As of a GTX 1050 Ti, whose power nvidia-smi shows as ERR!, beside a limit that it does tell."""
    unknown = [f"{name} 999" for name in ("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetFieldValues")]
    bench.gpus(Gpu("GPU-a", HALF, limit_watts=200), errors=[*unknown, "nvmlDeviceGetPowerUsage 999"])
    meter = bench.open()
    assert [reading.power_milliwatts for reading in meter.read()] == [100_000]
    meter.close()


@pytest.mark.parametrize("error", ["permission", "lost"])
def test_a_gpu_that_refuses_is_not_modelled(bench: Bench, error: str) -> None:
    bench.gpus(Gpu("GPU-a", HALF, error=error))
    with pytest.raises(MeterAbsent):
        bench.open()


def test_a_virtual_gpu_is_left_out_since_others_use_its_board(bench: Bench) -> None:
    bench.gpus(
        silent_gpu("GPU-a", HALF, 200),
        Gpu("GPU-b", HALF, energy_counter=False, power=False, limit_watts=200, virtual=True),
    )
    meter = bench.open()
    assert [device.device_id for device in meter.devices] == ["GPU-a"]
    assert [(left.what, left.remedy) for left in meter.left_out] == [("GPU 1", "")]
    assert "virtual" in meter.left_out[0].why
    meter.close()


def test_without_any_design_power_the_remedy_is_to_declare_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = Gpu(
        "GPU-a", HALF, energy_counter=False, power=False, limit_watts=0, utilisation_percent=50, name="Simulated GT 1"
    )
    bench.gpus(unknown)
    with pytest.raises(MeterUnavailable, match=r"GPU 0 \(Simulated GT 1\)") as caught:
        bench.open()
    assert "JOULEBOOK_ACCELERATOR_TDP_WATTS" in caught.value.remedy
    monkeypatch.setenv("JOULEBOOK_ACCELERATOR_TDP_WATTS", "30")
    meter = bench.open()
    assert [reading.power_milliwatts for reading in meter.read()] == [15_000]
    assert meter.devices[0].note == "modelled: design power 30 W (declared) x utilisation"
    assert meter.devices[0].limit_watts is None
    meter.close()
    monkeypatch.setenv("JOULEBOOK_ACCELERATOR_TDP_WATTS", "a lot")
    with pytest.raises(MeterUnavailable, match="a lot"):
        bench.open()


def test_processes_share_a_modelled_gpu_as_any_other(bench: Bench) -> None:
    processes = (GpuProcess(101, 1, 30), GpuProcess(102, 1, 10))
    bench.gpus(Gpu("GPU-a", HALF, energy_counter=False, power=False, limit_watts=200, processes=processes))
    meter = bench.open()
    time.sleep(0.05)
    assert meter.busy()["GPU-a"].pids == {101: pytest.approx(0.3), 102: pytest.approx(0.1)}
    assert meter.limits() == {"GPU-a": 200.0}
    meter.close()


def test_a_modelled_gpu_that_is_lost_comes_back(bench: Bench) -> None:
    now = boottime_ns()
    gone = (now + SECOND // 4, now + SECOND // 2)
    bench.gpus(Gpu("GPU-a", HALF, energy_counter=False, power=False, limit_watts=200, lost=(gone,)))
    meter = bench.open()
    assert len(meter.read()) == 1
    time.sleep(0.3)
    assert meter.read() == []
    time.sleep(1.1)
    assert [reading.power_milliwatts for reading in meter.read()] == [100_000]
    meter.close()


# -- cards in /sys -----------------------------------------------------------------------------------------------------


def test_a_card_without_a_sensor_is_modelled_by_the_table(bench: Bench) -> None:
    tree = bench.cards(SilentCard(parse_curve("constant:90")))
    meter = bench.open()
    (device,) = meter.devices
    (reading,) = meter.read()
    meter.close()
    tree.close()
    assert device.device_id == "accelerator:0000:e1:00.0"
    assert device.names == ("gpu:0000:e1:00.0",)
    assert (device.model, device.method) == ("Instinct MI25", Method.MODELLED)
    # 90 W of 300 W: 30 %.
    assert reading.power_milliwatts == 90_000


def test_graphics_inside_a_cpu_are_left_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOULEBOOK_ACCELERATOR_TDP_WATTS", "65")
    tree = bench.cards(SilentCard(HALF, "Radeon 780M", 65, inside_cpu=True), SilentCard(HALF))
    meter = bench.open()
    assert [device.device_id for device in meter.devices] == ["accelerator:0000:e2:00.0"]
    assert [(left.what, left.why) for left in meter.left_out] == [
        ("card60", "lies inside a CPU, which is read already")
    ]
    meter.close()
    tree.close()


def test_a_card_that_may_be_part_of_another_is_left_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOULEBOOK_ACCELERATOR_TDP_WATTS", "65")
    bench.cards(SilentCard(HALF, "Radeon"), SilentCard(HALF, "Instinct MI250X")).close()
    devices = bench.root / "sys" / "devices" / "pci0000:e0"
    (devices / "0000:e1:00.0" / "gpu_metrics").unlink()
    (devices / "0000:e2:00.0" / "device").write_text("0x7408\n")
    with pytest.raises(MeterAbsent):
        bench.open()


def test_a_card_with_a_sensor_belongs_to_its_own_meter(bench: Bench) -> None:
    bench.cards(SilentCard(HALF)).close()
    hwmon = bench.root / "sys" / "devices" / "pci0000:e0" / "0000:e1:00.0" / "hwmon" / "hwmon3"
    hwmon.mkdir(parents=True)
    (hwmon / "power1_average").write_text("100000000\n")
    with pytest.raises(MeterAbsent):
        bench.open()


def test_a_machine_without_any_is_absent(bench: Bench) -> None:
    with pytest.raises(MeterAbsent):
        bench.open()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    held=st.binary(max_size=40) | st.integers(-5, 300).map(lambda percent: b"%d\n" % percent),
    table=st.binary(max_size=120) | st.just(b"\x10\x00\x01\x00" + bytes(12)),
    name=st.binary(max_size=40),
)
def test_any_bytes_in_the_files_are_read_or_left_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, held: bytes, table: bytes, name: bytes
) -> None:
    monkeypatch.setenv("JOULEBOOK_ACCELERATOR_TDP_WATTS", "300")
    bench.cards(SilentCard(HALF), SilentCard(HALF)).close()
    place = bench.root / "sys" / "devices" / "pci0000:e0" / "0000:e1:00.0"
    for file, content in (("gpu_busy_percent", held), ("gpu_metrics", table), ("product_name", name)):
        (place / file).write_bytes(content)
    meter = bench.open()
    readings = {reading.device_id: reading for reading in meter.read()}
    meter.close()
    assert readings["accelerator:0000:e2:00.0"].power_milliwatts == 99_000  # 100 W of 300 W: 33 %
    odd = readings.get("accelerator:0000:e1:00.0")
    if odd is not None:
        assert odd.power_milliwatts == 3000 * int(held.split(b"\n")[0])
        assert 0 <= odd.power_milliwatts <= 300_000
