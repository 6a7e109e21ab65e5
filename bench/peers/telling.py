"""How a peer's script says that it is ready, waits to be ended, and tells what it measured (in the peers' venv)."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

_CONSTANTS = {
    "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=80 << 30, free=79 << 30, used=1 << 30),
    "nvmlDeviceGetTemperature": 40,
    "nvmlDeviceGetTemperatureV": 40,
    "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=50, memory=10),
    "nvmlDeviceGetComputeMode": 0,
}
"""What the simulated driver does not answer and some peers ask for: answered here, so at less than its cost."""


def fill_in_driver() -> list[str]:
    """Answer what the simulated library has no function for. Returns the names."""
    import pynvml

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    filled = []
    for name, constant in _CONSTANTS.items():
        arguments = (handle, 0) if "Temperature" in name else (handle,)
        try:
            getattr(pynvml, name)(*arguments)
        except (pynvml.NVMLError, TypeError):
            setattr(pynvml, name, lambda *_, constant=constant, **__: constant)
            filled.append(name)
    return filled


def period_seconds() -> float:
    """The sampling period that was asked for."""
    return float(sys.argv[1])


class Ended(Exception):
    """Somebody wants the results."""


def on_end(*_) -> None:
    raise Ended


def ready() -> int:
    """Say that measuring has begun. Returns CLOCK_BOOTTIME ns."""
    signal.signal(signal.SIGTERM, on_end)
    print("ready", flush=True)
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def wait() -> None:
    """Until ended, for peers that sample by themselves."""
    try:
        while True:
            time.sleep(3600)
    except Ended:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def every_period(sample) -> None:
    """Call ``sample`` once a period until ended, for peers that leave the loop to the user."""
    period = period_seconds()
    due = time.monotonic() + period
    try:
        while True:
            time.sleep(max(0.0, due - time.monotonic()))
            due += period
            sample()
    except Ended:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def tell(from_ns: int, to_ns: int, joules: dict[str, float], note: str = "") -> None:
    """Write what was measured, joules by component (gpu, cpu, dram), and end at once."""
    told = {"from_ns": from_ns, "to_ns": to_ns, "joules": joules, "note": note}
    Path(sys.argv[2]).write_text(json.dumps(told))
    os._exit(0)


def now_ns() -> int:
    """CLOCK_BOOTTIME ns."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
