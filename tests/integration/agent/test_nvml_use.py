"""Who uses a simulated GPU: processes in turn, MPS clients that are real processes, MIG slices."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from joulebook.clock import boottime_ns
from joulebook.meters import Busy, Roots, nvml_use
from joulebook.meters.nvml import MIG_NOTE, Nvml, open_nvml
from joulebook.meters.nvml_use import MPS_EQUAL_NOTE, MPS_NOTE, SEVENTHS_NOTE
from joulebook.simulate.curve import parse_curve
from joulebook.simulate.nvml import (
    C_SOURCE,
    Gpu,
    GpuProcess,
    GpuSlice,
    build_library,
    compiler,
    environment,
    write_gpus,
)

STEADY = parse_curve("constant:200")
SECOND = 1_000_000_000
NO_PID = 4_000_000
"""Above what the kernel gives out here: no such process."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_library(tmp_path_factory.mktemp("nvml")).parent


class Bench:
    """GPUs that can be changed under an open meter, and real processes that use them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.began = boottime_ns() - 10 * SECOND
        self.running: list[subprocess.Popen[bytes]] = []

    def write(self, *gpus: Gpu, **options: object) -> None:
        write_gpus(self.directory, gpus, self.began, **options)  # type: ignore[arg-type]

    def open(self, *gpus: Gpu, **options: object) -> Nvml:
        self.write(*gpus, **options)
        return open_nvml(Roots())

    def start(self, command: str = "sleep", **environ: str) -> int:
        process = subprocess.Popen([command, "60"], env={"PATH": "/usr/bin:/bin", **environ})
        self.running.append(process)
        deadline = time.monotonic() + 10
        while not Path(f"/proc/{process.pid}/comm").read_text().startswith(Path(command).name[:15]):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        return process.pid

    def start_mps_server(self) -> int:
        server = self.directory / "nvidia-cuda-mps-server"
        shutil.copy(shutil.which("sleep") or "", server)
        return self.start(str(server))


@pytest.fixture
def bench(tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    for variable, value in (environment(library) | {"JOULEBOOK_SIM_NVML": str(tmp_path / "nvml.conf")}).items():
        monkeypatch.setenv(variable, value)
    made = Bench(tmp_path)
    yield made
    for process in made.running:
        process.kill()
        process.wait()


def use_of(meter: Nvml, name: str = "GPU-a") -> Busy:
    return meter.busy()[name]


# -- processes in turn -------------------------------------------------------------------------------------------------


def test_samples_of_different_times_are_weighed_by_them(bench: Bench) -> None:
    processes = (GpuProcess(101, 1, 60), GpuProcess(102, 1, 20))
    meter = bench.open(Gpu("GPU-a", STEADY, processes=processes), sample_ms=200)
    time.sleep(1.5)
    told = use_of(meter)
    meter.close()
    # Each process's last sample lies up to 0.2 s before the other's: what follows it counts as not busy.
    assert told.pids[101] == pytest.approx(0.6, rel=0.25)
    assert told.pids[102] == pytest.approx(0.2, rel=0.25)
    assert told.note == ""


def test_processes_that_pass_one_together_are_scaled_to_it(bench: Bench) -> None:
    processes = tuple(GpuProcess(pid, 1, 90) for pid in (101, 102, 103))
    meter = bench.open(Gpu("GPU-a", STEADY, processes=processes))
    time.sleep(0.05)
    told = use_of(meter)
    meter.close()
    assert told.pids == {pid: pytest.approx(1 / 3) for pid in (101, 102, 103)}


def test_nonsense_that_drivers_give_is_left_out_and_counted(bench: Bench) -> None:
    meter = bench.open(Gpu("GPU-a", STEADY, processes=(GpuProcess(101, 1, 50),)), nonsense=99)
    time.sleep(0.05)
    told = use_of(meter)
    meter.close()
    assert told.pids == {101: pytest.approx(0.5)}
    assert told.note == "99 samples of process utilisation unusable"


def test_a_clock_set_back_starts_anew_and_does_not_silence_the_samples(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = bench.open(Gpu("GPU-a", STEADY, processes=(GpuProcess(101, 1, 50),)))
    now_us = nvml_use.utc_us()
    meter._boards[0].users.seen_us = meter._boards[0].users.until_us = now_us + 3_600_000_000
    use_of(meter)  # what came before is not to be told from what comes after
    time.sleep(0.05)
    assert use_of(meter).pids == {101: pytest.approx(0.5)}
    meter.close()


def test_a_list_longer_than_expected_is_read_whole(bench: Bench) -> None:
    processes = tuple(GpuProcess(pid, 1, 1) for pid in range(101, 201))
    meter = bench.open(Gpu("GPU-a", STEADY, processes=processes[:3]))
    assert len(use_of(meter).pids) == 3
    bench.write(Gpu("GPU-a", STEADY, processes=processes))
    time.sleep(0.05)
    assert use_of(meter).pids == {pid: pytest.approx(0.01) for pid in range(101, 201)}
    meter.close()


def test_a_list_that_never_stops_growing_is_given_up(bench: Bench) -> None:
    endless = ["nvmlDeviceGetComputeRunningProcesses_v3 7"]  # NVML_ERROR_INSUFFICIENT_SIZE
    meter = bench.open(Gpu("GPU-a", STEADY), errors=endless)
    assert meter.busy() == {}
    assert [reading.device_id for reading in meter.read()] == ["GPU-a"]
    meter.close()


def test_a_driver_that_lists_processes_in_the_older_way_is_asked_in_it(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "old.so"
    lists = [f"nvmlDeviceGet{kind}RunningProcesses" for kind in ("Compute", "Graphics", "MPSCompute")]
    renamed = [f"-D{name}_v3={name}_v2" for name in lists]
    command = [*compiler(), "-shared", "-fPIC", "-std=gnu11", *renamed, "-o", str(old), str(C_SOURCE), "-lm"]
    subprocess.run(command, check=True)
    monkeypatch.setenv("JOULEBOOK_NVML_LIBRARY", str(old))
    meter = bench.open(Gpu("GPU-a", STEADY, processes=(GpuProcess(101, 1, 50),)))
    time.sleep(0.05)
    assert use_of(meter).pids == {101: pytest.approx(0.5)}
    meter.close()


# -- MPS ---------------------------------------------------------------------------------------------------------------


def test_mps_clients_share_by_the_threads_that_they_may_use(bench: Bench) -> None:
    small = bench.start(CUDA_MPS_ACTIVE_THREAD_PERCENTAGE="20")
    large = bench.start(CUDA_MPS_ACTIVE_THREAD_PERCENTAGE="60")
    server = bench.start_mps_server()
    processes = (
        GpuProcess(server, 1, 80),
        GpuProcess(small, 1, None, mps_client=True),
        GpuProcess(large, 1, None, mps_client=True),
    )
    meter = bench.open(Gpu("GPU-a", STEADY, processes=processes))
    time.sleep(0.05)
    told = use_of(meter)
    meter.close()
    # The server's samples are the board's: 0.8 of it, a quarter and three quarters; the server computes for others.
    assert told.pids == {small: pytest.approx(0.2), large: pytest.approx(0.6)}
    assert (told.note, told.u_split) == (MPS_NOTE, 0.3)


def test_a_client_without_the_variable_may_use_all_threads(bench: Bench) -> None:
    half, free = bench.start(CUDA_MPS_ACTIVE_THREAD_PERCENTAGE="50"), bench.start()
    processes = tuple(GpuProcess(pid, 1, None, mps_client=True) for pid in (half, free))
    meter = bench.open(Gpu("GPU-a", STEADY, utilisation_percent=90, processes=processes))
    told = use_of(meter)
    meter.close()
    # No process samples: the board's own utilisation, one third and two thirds.
    assert told.pids == {half: pytest.approx(0.3), free: pytest.approx(0.6)}


def test_clients_whose_environment_cannot_be_read_share_equally_and_it_is_said(bench: Bench) -> None:
    known = bench.start(CUDA_MPS_ACTIVE_THREAD_PERCENTAGE="20")
    processes = tuple(GpuProcess(pid, 1, None, mps_client=True) for pid in (known, NO_PID))
    meter = bench.open(Gpu("GPU-a", STEADY, utilisation_percent=100, processes=processes))
    told = use_of(meter)
    meter.close()
    assert told.pids == {known: 0.5, NO_PID: 0.5}
    assert told.note == MPS_EQUAL_NOTE


def test_a_client_alone_has_all_that_the_board_does_and_nothing_to_say(bench: Bench) -> None:
    client = bench.start(CUDA_MPS_ACTIVE_THREAD_PERCENTAGE="20")
    meter = bench.open(
        Gpu("GPU-a", STEADY, utilisation_percent=40, processes=(GpuProcess(client, 1, None, mps_client=True),))
    )
    assert use_of(meter) == Busy({client: 0.4}, "")
    meter.close()


def test_an_mps_server_without_clients_leaves_the_board_to_nobody(bench: Bench) -> None:
    server = bench.start_mps_server()
    meter = bench.open(Gpu("GPU-a", STEADY, processes=(GpuProcess(server, 1, None),)))
    assert use_of(meter).pids == {}
    meter.close()


def test_a_client_that_ended_is_forgotten(bench: Bench) -> None:
    first = bench.start(CUDA_MPS_ACTIVE_THREAD_PERCENTAGE="20")
    second = bench.start(CUDA_MPS_ACTIVE_THREAD_PERCENTAGE="40")
    clients = [GpuProcess(pid, 1, None, mps_client=True) for pid in (first, second)]
    meter = bench.open(Gpu("GPU-a", STEADY, processes=tuple(clients)))
    use_of(meter)
    bench.write(Gpu("GPU-a", STEADY, processes=(clients[1],)))
    use_of(meter)
    assert meter._programs._threads == {second: 40.0}
    meter.close()


# -- MIG ---------------------------------------------------------------------------------------------------------------

SLICES = (GpuSlice("MIG-three", 3), GpuSlice("MIG-two", 2), GpuSlice("MIG-one", 1))


def divided(*processes: GpuProcess, slices: tuple[GpuSlice, ...] = SLICES, **options: object) -> Gpu:
    return Gpu("GPU-a", STEADY, mig=True, slices=slices, processes=processes, **options)  # type: ignore[arg-type]


def test_slices_are_sevenths_of_one_board_that_is_counted_once(bench: Bench) -> None:
    meter = bench.open(divided(), Gpu("GPU-b", STEADY))
    assert [device.device_id for device in meter.devices] == ["GPU-a", "GPU-b"]
    assert [reading.device_id for reading in meter.read()] == ["GPU-a", "GPU-b"]
    device = meter.devices[0]
    meter.close()
    assert device.partitions == {"MIG-three": 3 / 7, "MIG-two": 2 / 7, "MIG-one": 1 / 7}
    assert device.note == MIG_NOTE
    assert meter.devices[1].partitions == {}


def test_processes_have_the_size_of_their_slice_and_free_slices_weigh_nothing(bench: Bench) -> None:
    processes = (GpuProcess(101, slice_index=0), GpuProcess(102, slice_index=2), GpuProcess(103, slice_index=2))
    meter = bench.open(divided(*processes))
    told = use_of(meter)
    meter.close()
    # The 2g slice is free: 2/7 and the seventh slice that nobody made are nobody's.
    assert told.pids == {101: pytest.approx(3 / 7), 102: pytest.approx(1 / 14), 103: pytest.approx(1 / 14)}
    assert told.note == nvml_use.MIG_NOTE


def test_a_process_in_two_slices_has_both(bench: Bench) -> None:
    meter = bench.open(divided(GpuProcess(101, slice_index=0), GpuProcess(101, slice_index=1)))
    assert use_of(meter).pids == {101: pytest.approx(5 / 7)}
    meter.close()


def test_mps_within_a_slice_divides_the_slice(bench: Bench) -> None:
    small = bench.start(CUDA_MPS_ACTIVE_THREAD_PERCENTAGE="25")
    large = bench.start(CUDA_MPS_ACTIVE_THREAD_PERCENTAGE="75")
    clients = tuple(GpuProcess(pid, slice_index=0, mps_client=True) for pid in (small, large))
    meter = bench.open(divided(*clients, GpuProcess(101, slice_index=1)))
    told = use_of(meter)
    meter.close()
    assert told.pids == {small: pytest.approx(0.75 / 7), large: pytest.approx(2.25 / 7), 101: pytest.approx(2 / 7)}
    assert told.note == f"{nvml_use.MIG_NOTE}; {MPS_NOTE}"


def test_a_board_of_four_slices_is_divided_by_four(bench: Bench) -> None:
    meter = bench.open(divided(slices=(GpuSlice("MIG-a", 1), GpuSlice("MIG-b", 2)), most_slices=4))
    assert meter.devices[0].partitions == {"MIG-a": 0.25, "MIG-b": 0.5}
    meter.close()


def test_a_board_that_does_not_tell_its_slices_is_taken_to_have_seven_and_it_is_said(bench: Bench) -> None:
    meter = bench.open(
        divided(GpuProcess(101, slice_index=1)), errors=["nvmlDeviceGetGpuInstanceProfileInfo permission"]
    )
    told = use_of(meter)
    meter.close()
    assert told.pids == {101: pytest.approx(2 / 7)}
    assert SEVENTHS_NOTE in told.note


def test_slices_come_and_go_while_the_agent_runs(bench: Bench) -> None:
    whole = Gpu("GPU-a", STEADY, processes=(GpuProcess(101, 1, 50),))
    meter = bench.open(whole)
    device = meter.devices[0]
    assert device.partitions == {}
    bench.write(divided(GpuProcess(102, slice_index=1)))
    assert use_of(meter).pids == {102: pytest.approx(2 / 7)}
    assert device.partitions == {"MIG-three": 3 / 7, "MIG-two": 2 / 7, "MIG-one": 1 / 7}
    bench.write(whole)
    time.sleep(0.05)
    use_of(meter)
    assert device.partitions == {}
    meter.close()


def test_slices_that_cannot_be_listed_do_not_cost_the_boards_energy(bench: Bench) -> None:
    meter = bench.open(divided(GpuProcess(101, slice_index=0)), errors=["nvmlDeviceGetMaxMigDeviceCount permission"])
    assert [reading.device_id for reading in meter.read()] == ["GPU-a"]
    assert use_of(meter).pids == {}
    meter.close()
