"""NVIDIA GPUs through NVML: the board's energy counter, or its power where it has none.

The library libnvidia-ml.so.1 comes with the driver and is found by the loader; JOULEBOOK_NVML_LIBRARY
names another file of that soname (docs/decisions/0003-nvidia-ml-py.md).
"""

from __future__ import annotations

import ctypes
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, Final

from joulebook.clock import boottime_ns
from joulebook.meters import Busy, Device, LeftOut, MeterAbsent, MeterUnavailable, Reading, Roots
from joulebook.rows import Component, Method

LIBRARY: Final = "JOULEBOOK_NVML_LIBRARY"

U_GAIN: Final = 0.03
"""Gain of the board's sensor, shared by all GPUs of a model (METHODS 1.6: +-5 %)."""
U_POLLED: Final = 0.03
"""What polling power adds to it under a steady load (METHODS 1.6)."""

COUNTER_STEP_NS: Final = 100_000_000
"""The energy counter moves every 20 to 100 ms (METHODS 1.1); the slowest is assumed."""
INSTANT_STEP_NS: Final = 100_000_000
AVERAGED_STEP_NS: Final = 1_000_000_000
"""Power is an instant value up to GA100, and the mean of the last second on later chips (METHODS 1.1)."""
GA100: Final = (8, 0)
"""Compute capability of GA100, the last chip whose power is an instant value."""

LIMIT_MARGIN: Final = 2.0
"""Boards pass their limit for milliseconds: no counter step above twice the largest limit is believed."""
MOST_WATTS: Final = 3000.0
"""Where a board tells no limit: twice the largest board of 2026."""

POLLED_NOTE: Final = "no energy counter: power polled, loads that vary faster than it are aliased"
MIG_NOTE: Final = "MIG enabled: board energy, not split by slice"


@dataclass(slots=True)
class Board:
    """One GPU: NVML's handle, the device, and the last utilisation sample seen (microseconds UTC)."""

    handle: Any
    device: Device
    seen_us: int = 0


class Nvml:
    """The open boards. An error of one leaves it out of that reading and touches no other."""

    name = "nvml"

    def __init__(self, pynvml: ModuleType, boards: Sequence[Board], left_out: Sequence[LeftOut]) -> None:
        self._nvml = pynvml
        self._boards = boards
        self.devices: Sequence[Device] = [board.device for board in boards]
        self.left_out = left_out

    def read(self) -> Sequence[Reading]:
        """Cumulative microjoules or milliwatts of every board that answers."""
        readings = []
        for board in self._boards:
            try:
                readings.append(self._read(board))
            except self._nvml.NVMLError:
                continue
        return readings

    def _read(self, board: Board) -> Reading:
        counted = board.device.method is Method.COUNTER
        ask = self._nvml.nvmlDeviceGetTotalEnergyConsumption if counted else self._nvml.nvmlDeviceGetPowerUsage
        before = boottime_ns()
        value = ask(board.handle)
        at_ns = (before + boottime_ns()) // 2
        if counted:
            return Reading(board.device.device_id, at_ns, energy_microjoules=value * 1000)
        return Reading(board.device.device_id, at_ns, power_milliwatts=value)

    def busy(self) -> Mapping[str, Busy]:
        """The processes on each board that answers, with their SM utilisation where the driver tells it."""
        busy = {}
        for board in self._boards:
            try:
                busy[board.device.device_id] = Busy(self._processes(board))
            except self._nvml.NVMLError:
                continue
        return busy

    def _processes(self, board: Board) -> dict[int, float | None]:
        pids = {process.pid for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(board.handle)}
        graphics = _ask(self._nvml, self._nvml.nvmlDeviceGetGraphicsRunningProcesses, board.handle) or []
        pids |= {process.pid for process in graphics}
        used = self._utilisation(board)
        if used is None:
            return dict.fromkeys(pids)
        return {pid: used.get(pid, 0.0) for pid in pids | used.keys()}

    def _utilisation(self, board: Board) -> dict[int, float] | None:
        """Mean SM utilisation of each process since the last look, None where the board does not tell."""
        try:
            samples = self._nvml.nvmlDeviceGetProcessUtilization(board.handle, board.seen_us)
        except self._nvml.NVMLError as error:
            # "Not found" is the driver's word for: nothing ran since the last look.
            return {} if error.value == self._nvml.NVML_ERROR_NOT_FOUND else None
        by_pid = defaultdict(list)
        for sample in samples:
            if sample.timeStamp > board.seen_us:
                by_pid[sample.pid].append(min(sample.smUtil, 100) / 100)
        board.seen_us = max([board.seen_us, *(sample.timeStamp for sample in samples)])
        return {pid: sum(values) / len(values) for pid, values in by_pid.items()}

    def close(self) -> None:
        """Close NVML; harmless when the driver has gone already."""
        if self._boards:
            self._boards = []
            try:
                self._nvml.nvmlShutdown()
            except self._nvml.NVMLError:
                return


def open_nvml(roots: Roots) -> Nvml:
    """Every NVIDIA GPU that answers. roots: not used, NVML finds the driver itself.

    Raises MeterAbsent without library or GPU, MeterUnavailable when no GPU answers.
    """
    pynvml = _load()
    boards, left_out = [], []
    for index in range(_count(pynvml)):
        try:
            boards.append(_board(pynvml, index))
        except pynvml.NVMLError as error:
            left_out.append(LeftOut(f"GPU {index}", str(error), _remedy(pynvml, error)))
    if boards:
        return Nvml(pynvml, boards, left_out)
    pynvml.nvmlShutdown()
    if left_out:
        first = left_out[0]
        raise MeterUnavailable(f"no GPU of {len(left_out)} answers; {first.what}: {first.why}", first.remedy)
    raise MeterAbsent("NVML finds no GPU", "give the container its GPUs (--gpus all), or check nvidia-smi")


def _load() -> ModuleType:
    """nvidia-ml-py, its library loaded and initialised."""
    pynvml = import_module("pynvml")
    named = os.environ.get(LIBRARY)
    try:
        if named:
            # The loader gives a library that is loaded already to whoever asks for the same soname.
            ctypes.CDLL(named)
        pynvml.nvmlInit()
    except OSError as error:
        raise MeterUnavailable(f"{LIBRARY}: {error}", "name a libnvidia-ml.so.1 that can be loaded") from error
    except pynvml.NVMLError as error:
        if error.value in (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED):
            raise MeterAbsent("no NVIDIA driver (NVML: " + str(error) + ")", _remedy(pynvml, error)) from error
        raise MeterUnavailable(f"NVML: {error}", _remedy(pynvml, error)) from error
    return pynvml


def _count(pynvml: ModuleType) -> int:
    try:
        count: int = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError as error:
        pynvml.nvmlShutdown()
        raise MeterUnavailable(f"NVML cannot count the GPUs: {error}", _remedy(pynvml, error)) from error
    return count


def _board(pynvml: ModuleType, index: int) -> Board:
    """The board at that index. Raises NVMLError when it has neither energy nor power to give."""
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    uuid = _text(pynvml.nvmlDeviceGetUUID(handle))
    model = _text(_ask(pynvml, pynvml.nvmlDeviceGetName, handle) or "unknown GPU")
    counted = _has_counter(pynvml, handle)
    averaged = not counted and _is_averaged(pynvml, handle)
    notes = [] if counted else [POLLED_NOTE]
    mig = _ask(pynvml, pynvml.nvmlDeviceGetMigMode, handle)
    if mig and mig[0]:
        notes.append(MIG_NOTE)
    enforced = _ask(pynvml, pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    step_ns = COUNTER_STEP_NS if counted else AVERAGED_STEP_NS if averaged else INSTANT_STEP_NS
    return Board(
        handle,
        Device(
            device_id=uuid,
            component=Component.GPU,
            method=Method.COUNTER if counted else Method.INTEGRATED,
            u_common=U_GAIN,
            u_common_key=f"nvml:{model}",
            u_indep=0.0 if counted else U_POLLED,
            step_ns=step_ns,
            most_watts=_most_watts(pynvml, handle),
            averaged=averaged,
            model=model,
            driver=_text(_ask(pynvml, pynvml.nvmlSystemGetDriverVersion) or ""),
            limit_watts=None if enforced is None else enforced / 1000,
            note="; ".join(notes),
        ),
    )


def _has_counter(pynvml: ModuleType, handle: Any) -> bool:
    """Whether the energy counter answers; if it is not supported, power must."""
    try:
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError as error:
        if error.value not in (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND):
            raise
        pynvml.nvmlDeviceGetPowerUsage(handle)
        return False
    return True


def _is_averaged(pynvml: ModuleType, handle: Any) -> bool:
    capability = _ask(pynvml, pynvml.nvmlDeviceGetCudaComputeCapability, handle)
    return bool(capability) and tuple(capability) > GA100


def _most_watts(pynvml: ModuleType, handle: Any) -> float:
    constraints = _ask(pynvml, pynvml.nvmlDeviceGetPowerManagementLimitConstraints, handle)
    enforced = _ask(pynvml, pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    most = max(constraints[1] if constraints else 0, enforced or 0)
    return LIMIT_MARGIN * most / 1000 if most else MOST_WATTS


def _ask(pynvml: ModuleType, function: Callable[..., Any], *handle: Any) -> Any:
    """The answer to an optional question, to a board or to the whole system; None when there is none."""
    try:
        return function(*handle)
    except pynvml.NVMLError:
        return None


def _remedy(pynvml: ModuleType, error: Any) -> str:
    remedies = {
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "install the NVIDIA driver, or give the container its GPUs (--gpus all)",
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "sudo modprobe nvidia",
        pynvml.NVML_ERROR_NO_PERMISSION: "run as a user that may open /dev/nvidia*",
        pynvml.NVML_ERROR_GPU_IS_LOST: "reset the GPU (sudo nvidia-smi --gpu-reset) or reboot",
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "reboot: driver and library are of different versions",
        pynvml.NVML_ERROR_NOT_SUPPORTED: "the board gives neither energy nor power: leave nvml out of JOULEBOOK_METERS",
    }
    return remedies.get(error.value, "check that nvidia-smi works on this machine")


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
