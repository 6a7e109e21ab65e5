"""The NVML meter on a real shared library, built here: these tests never skip."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from joulebook.counters import Step, difference
from joulebook.errors import JoulebookError
from joulebook.meters import MeterAbsent, MeterUnavailable, Reading, Roots
from joulebook.meters.nvml import MIG_NOTE, PART_TIME_NOTE, Nvml, open_nvml
from joulebook.rows import Method
from joulebook.simulate import truth
from joulebook.simulate.curve import parse_curve
from joulebook.simulate.nvml import Gpu, GpuProcess, build_library, compiler, environment, write_gpus

STEADY = parse_curve("constant:200")
BEGAN_SECONDS = 10


def pids(meter):
    """device -> pid -> utilisation."""
    return {device: busy.pids for device, busy in meter.busy().items()}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_library(tmp_path_factory.mktemp("nvml")).parent


class Board:
    """Simulated GPUs whose curves began ten seconds ago."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.t0_ns = now_ns() - BEGAN_SECONDS * 1_000_000_000

    def write(self, *gpus: Gpu, **options: object) -> None:
        write_gpus(self.directory, gpus, self.t0_ns, **options)  # type: ignore[arg-type]

    def open(self) -> Nvml:
        return open_nvml(Roots())


@pytest.fixture
def board(tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    for variable, value in (environment(library) | {"JOULEBOOK_SIM_NVML": str(tmp_path / "nvml.conf")}).items():
        monkeypatch.setenv(variable, value)
    return Board(tmp_path)


def now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def by_id(meter: Nvml) -> dict[str, Reading]:
    return {reading.device_id: reading for reading in meter.read()}


@pytest.mark.parametrize(
    "curve", ["constant:200", "square:60,300,0.4", "square:60,300,0.7,0.2,0.3", "sine:200,100,0.6,0.1"]
)
def test_the_counter_gives_the_true_joules_to_its_step(board: Board, curve: str) -> None:
    """Curves in C and in Python are the same."""
    board.write(Gpu("GPU-a", parse_curve(curve)), step_ms=1)
    meter = board.open()
    a = by_id(meter)["GPU-a"]
    time.sleep(1)
    b = by_id(meter)["GPU-a"]
    meter.close()
    assert a.energy_microjoules is not None
    assert b.energy_microjoules is not None
    true = truth(board.directory, a.at_ns, b.at_ns)["GPU-a"]
    # One step of 1 ms at 300 W at either end, and 1 mJ of rounding; a read may take a moment on a busy machine.
    assert (b.energy_microjoules - a.energy_microjoules) / 1e6 == pytest.approx(true, abs=2 * 0.3 + 0.3)


def test_the_counter_moves_at_multiples_of_its_step_only(board: Board) -> None:
    board.write(Gpu("GPU-a", STEADY), step_ms=500)
    meter = board.open()
    energy = by_id(meter)["GPU-a"].energy_microjoules
    meter.close()
    # 200 W x 0.5 s = 100 J a step, from 10 s on.
    assert energy is not None
    assert energy % 100_000_000 == 0
    assert energy >= 2_000_000_000


def test_devices_are_boards_known_by_uuid(board: Board) -> None:
    board.write(Gpu("GPU-a", STEADY, name="Simulated A100", limit_watts=400))
    meter = board.open()
    device = meter.devices[0]
    meter.close()
    assert (device.device_id, device.method, device.model) == ("GPU-a", Method.COUNTER, "Simulated A100")
    assert (device.u_common, device.u_common_key, device.u_indep) == (0.03, "nvml:Simulated A100", 0.0)
    assert device.most_watts == 800.0


def test_without_a_counter_power_is_read_and_labelled(board: Board) -> None:
    board.write(Gpu("GPU-a", STEADY, energy_counter=False, architecture="ga100"))
    meter = board.open()
    device, reading = meter.devices[0], by_id(meter)["GPU-a"]
    meter.close()
    assert (device.method, device.u_common, device.u_indep) == (Method.INTEGRATED, 0.03, 0.03)
    assert (reading.energy_microjoules, reading.power_milliwatts) == (None, 200_000)
    assert "no energy counter" in device.note


@pytest.mark.parametrize(
    ("architecture", "averaged"),
    [("volta", False), ("turing", False), ("ga100", False), ("ampere", True), ("ada", True), ("hopper", True)],
)
def test_power_is_a_mean_of_one_second_from_ampere_on_except_ga100(
    board: Board, architecture: str, averaged: bool
) -> None:
    # Square of 0.2 s at 0 and 400 W: any whole second holds 200 W, any instant 0 or 400 W.
    gpu = Gpu("GPU-a", parse_curve("square:0,400,0.2"), energy_counter=False, architecture=architecture)
    board.write(gpu, step_ms=0)
    meter = board.open()
    device, power = meter.devices[0], by_id(meter)["GPU-a"].power_milliwatts
    meter.close()
    assert device.averaged is averaged
    assert device.step_ns == (1_000_000_000 if averaged else 100_000_000)
    assert power in ((200_000,) if averaged else (0, 400_000))


@pytest.mark.parametrize(("architecture", "averaged"), [("volta", False), ("ga100", False), ("hopper", True)])
def test_drivers_without_power_fields_are_asked_for_power_as_such(
    board: Board, architecture: str, averaged: bool
) -> None:
    """What it means is told by the chip then."""
    gpu = Gpu(
        "GPU-a", parse_curve("square:0,400,0.2"), energy_counter=False, power_fields=False, architecture=architecture
    )
    board.write(gpu, step_ms=0)
    meter = board.open()
    device, power = meter.devices[0], by_id(meter)["GPU-a"].power_milliwatts
    meter.close()
    assert device.averaged is averaged
    assert power in ((200_000,) if averaged else (0, 400_000))


def test_a_power_field_that_is_refused_within_an_answer_is_no_reading(board: Board) -> None:
    """nvmlDeviceGetFieldValues succeeds as a whole and says of each field whether it did."""
    board.write(Gpu("GPU-a", STEADY, energy_counter=False), Gpu("GPU-b", STEADY))
    meter = board.open()
    board.write(Gpu("GPU-a", STEADY, energy_counter=False, power=False), Gpu("GPU-b", STEADY))
    assert set(by_id(meter)) == {"GPU-b"}
    meter.close()


@pytest.mark.parametrize(
    ("architecture", "counted", "part_time"),
    [("ga100", False, True), ("hopper", False, True), ("ampere", False, False), ("hopper", True, False)],
)
def test_polled_power_of_a_part_time_sensor_says_so(
    board: Board, architecture: str, counted: bool, part_time: bool
) -> None:
    board.write(Gpu("GPU-a", STEADY, energy_counter=counted, architecture=architecture))
    meter = board.open()
    note = meter.devices[0].note
    meter.close()
    assert (PART_TIME_NOTE in note) is part_time


def test_a_board_is_known_by_its_uuid_and_its_address(board: Board) -> None:
    board.write(Gpu("GPU-a", STEADY))
    meter = board.open()
    assert meter.devices[0].names == ("gpu:GPU-a", "gpu:0000:10:00.0")
    meter.close()


@pytest.mark.parametrize("error", ["lost", "permission", "unsupported", "999"])
def test_a_gpu_that_fails_while_running_is_left_out_and_harms_no_other(board: Board, error: str) -> None:
    board.write(Gpu("GPU-a", STEADY), Gpu("GPU-b", STEADY))
    meter = board.open()
    assert set(by_id(meter)) == {"GPU-a", "GPU-b"}
    board.write(Gpu("GPU-a", STEADY, error=error), Gpu("GPU-b", STEADY))
    assert set(by_id(meter)) == {"GPU-b"}
    assert set(meter.busy()) == {"GPU-b"}
    board.write(Gpu("GPU-a", STEADY), Gpu("GPU-b", STEADY))
    assert set(by_id(meter)) == {"GPU-b"}  # it is asked again a second later
    time.sleep(1)
    assert set(by_id(meter)) == {"GPU-a", "GPU-b"}
    meter.close()


def test_a_gpu_that_is_lost_at_the_start_is_told_by_the_meter(board: Board) -> None:
    board.write(Gpu("GPU-a", STEADY, error="lost"), Gpu("GPU-b", STEADY))
    meter = board.open()
    assert [device.device_id for device in meter.devices] == ["GPU-b"]
    assert [(left.what, left.why) for left in meter.left_out] == [("GPU 0", "GPU is lost")]
    assert "reset" in meter.left_out[0].remedy
    meter.close()


def test_no_gpu_that_answers_is_unavailable_and_none_at_all_is_absent(board: Board) -> None:
    board.write(Gpu("GPU-a", STEADY, error="permission"))
    with pytest.raises(MeterUnavailable, match="Insufficient Permissions") as caught:
        board.open()
    assert not isinstance(caught.value, MeterAbsent)
    board.write()
    with pytest.raises(MeterAbsent, match="no GPU"):
        board.open()


def test_a_counter_that_is_refused_is_not_taken_for_one_that_is_missing(board: Board) -> None:
    board.write(Gpu("GPU-a", STEADY), errors=["nvmlDeviceGetTotalEnergyConsumption permission"])
    with pytest.raises(MeterUnavailable, match="Insufficient Permissions"):
        board.open()


def test_a_driver_reload_is_a_reset_and_not_a_wrap(board: Board) -> None:
    board.write(Gpu("GPU-a", STEADY))
    meter = board.open()
    a = by_id(meter)["GPU-a"]
    board.write(Gpu("GPU-a", STEADY), reload_ns=now_ns())
    b = by_id(meter)["GPU-a"]
    device = meter.devices[0]
    meter.close()
    assert a.energy_microjoules is not None
    assert b.energy_microjoules is not None
    step = difference(a.energy_microjoules, b.energy_microjoules, b.at_ns - a.at_ns, device.wraps_at_microjoules)
    assert step.step is Step.RESET


def test_processes_are_named_with_their_utilisation(board: Board) -> None:
    busy, idle = GpuProcess(101, 1 << 30, 75), GpuProcess(102, 1 << 20, 0)
    board.write(Gpu("GPU-a", STEADY, processes=(busy, idle)), Gpu("GPU-b", STEADY))
    meter = board.open()
    assert pids(meter) == {"GPU-a": {101: 0.75, 102: 0.0}, "GPU-b": {}}
    time.sleep(0.01)
    assert meter.busy()["GPU-a"].pids == {101: 0.75, 102: 0.0}
    meter.close()


def test_where_utilisation_is_not_told_it_is_none_and_not_zero(board: Board) -> None:
    board.write(Gpu("GPU-a", STEADY, processes=(GpuProcess(101),)))
    meter = board.open()
    assert pids(meter) == {"GPU-a": {101: None}}
    meter.close()


def test_mig_counts_the_board_once_and_says_so(board: Board) -> None:
    board.write(Gpu("GPU-a", STEADY, architecture="ga100", mig=True, processes=(GpuProcess(101, 1, 50),)))
    meter = board.open()
    assert [device.device_id for device in meter.devices] == ["GPU-a"]
    assert meter.devices[0].note == MIG_NOTE
    assert pids(meter) == {"GPU-a": {}}  # no slice, so nothing can run
    meter.close()


def test_the_library_is_found_by_the_loader_too(board: Board, library: Path) -> None:
    board.write(Gpu("GPU-a", STEADY))
    environ = {k: v for k, v in os.environ.items() if k != "JOULEBOOK_NVML_LIBRARY"}
    environ |= {"LD_LIBRARY_PATH": str(library)}
    code = "from joulebook.meters import *; m = open_meter('nvml', Roots()); print(*[d.device_id for d in m.devices])"
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["GPU-a"]


def test_a_named_library_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOULEBOOK_NVML_LIBRARY", str(tmp_path / "libnvidia-ml.so.1"))
    with pytest.raises(MeterUnavailable, match="JOULEBOOK_NVML_LIBRARY"):
        open_nvml(Roots())


def test_a_compiler_that_fails_is_named_with_its_last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho no headers here >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(JoulebookError, match="no headers here"):
        build_library(tmp_path / "sim")
    assert not (tmp_path / "sim" / "libnvidia-ml.so.1").exists()


def test_the_ziglang_wheel_stands_in_for_a_missing_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "ziglang").mkdir()
    (tmp_path / "ziglang" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert compiler() == [sys.executable, "-m", "ziglang", "cc"]
