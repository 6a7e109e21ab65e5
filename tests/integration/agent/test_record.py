"""The start-of-run record: what a comparison must hold fixed."""

import os
import subprocess
import sys
from pathlib import Path

from conftest import wait_for
from joulebook.meters import Roots
from joulebook.meters.nvml import open_nvml
from joulebook.record import start_of_run_record


def test_what_the_kernel_and_the_driver_say(simulated, monkeypatch):
    simulated.nvml("--gpus", "2", "--name", "Simulated H100")
    for name in ("JOULEBOOK_NVML_LIBRARY", "JOULEBOOK_SIM_NVML"):
        monkeypatch.setenv(name, simulated.environ[name])
    meter = open_nvml(Roots())
    environ = {**os.environ, "OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": "1"}
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=environ)
    wait_for(lambda: b"OMP_NUM_THREADS" in Path(f"/proc/{process.pid}/environ").read_bytes())  # it has been executed
    try:
        record = start_of_run_record(Roots(), process.pid, meter.devices)
    finally:
        process.communicate(b"\n")
        meter.close()
    assert record["gpus"] == ["Simulated H100"] * 2
    assert record["gpu_drivers"] == ["999.99 simulated"]
    assert len(record["gpu_power_limits_watts"]) == 2
    assert all(watts > 0 for watts in record["gpu_power_limits_watts"])
    assert record["threads"] == {"OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": "1"}
    assert record["visible_gpus"] == [meter.devices[1].device_id]
    assert record["meters"] == ["gpu: counter"]
    assert record["cpus"] > 0
    assert record["memory_bytes"] > 2**20


def test_a_process_that_is_gone_leaves_its_parts_out():
    done = subprocess.Popen(["true"])
    done.wait()
    record = start_of_run_record(Roots(), done.pid, [])
    assert "threads" not in record
    assert "git_commit" not in record
    assert record["gpus"] == []
