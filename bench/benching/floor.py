"""The floors: a process that only wakes once a period, or that also reads the node's counters and keeps nothing.

python floor.py PERIOD_SECONDS [POWERCAP_CLASS NVML_LIBRARY]
"""

import ctypes
import os
import sys
import time
from pathlib import Path


def counters(powercap: Path, library: str) -> tuple[list[int], list[ctypes.c_void_p], ctypes.CDLL]:
    """Open files of packages and DRAM; handles of every GPU."""
    zones = sorted(powercap.glob("intel-rapl:*"))
    wanted = [zone for zone in zones if (zone / "name").read_text().startswith(("package", "dram"))]
    nvml = ctypes.CDLL(library)
    nvml.nvmlInit_v2()
    count = ctypes.c_uint()
    nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
    handles = []
    for index in range(count.value):
        handle = ctypes.c_void_p()
        nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle))
        handles.append(handle)
    return [os.open(zone / "energy_uj", os.O_RDONLY) for zone in wanted], handles, nvml


def main() -> None:
    period = float(sys.argv[1])
    fds, handles, nvml = counters(Path(sys.argv[2]), sys.argv[3]) if len(sys.argv) > 2 else ([], [], None)
    value = ctypes.c_ulonglong()
    to = ctypes.byref(value)
    while True:
        for fd in fds:
            os.pread(fd, 32, 0)
        for handle in handles:
            nvml.nvmlDeviceGetTotalEnergyConsumption(handle, to)
        time.sleep(period)


if __name__ == "__main__":
    main()
