"""NVIDIA GPUs through NVML: the board's energy counter, or its power where it has none.

The library libnvidia-ml.so.1 comes with the driver and is found by the loader; JOULEBOOK_NVML_LIBRARY
names another (docs/decisions/0018-own-nvml-binding.md).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from ctypes import byref, c_int, c_uint, c_ulonglong, c_void_p
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Any, Final

from joulebook.clock import boottime_ns
from joulebook.meters import Busy, Device, LeftOut, MeterAbsent, MeterUnavailable, Reading, Roots
from joulebook.meters.nvml_library import (
    DRIVER_NOT_LOADED,
    FUNCTION_NOT_FOUND,
    GPU_IS_LOST,
    INVALID_ARGUMENT,
    LIB_RM_VERSION_MISMATCH,
    LIBRARY,
    NO_PERMISSION,
    NOT_FOUND,
    NOT_SUPPORTED,
    POWER_AVERAGE,
    POWER_INSTANT,
    RESET_REQUIRED,
    UNINITIALIZED,
    FieldValue,
    Library,
    NvmlError,
    Pci,
    Rates,
    shared_library,
)
from joulebook.meters.nvml_use import Programs, Users
from joulebook.rows import Component, Method
from joulebook.units import NS_PER_SECOND

U_GAIN: Final = 0.03
"""Gain of the board's sensor, shared by all GPUs of a model (METHODS 1.6: +-5 %)."""
U_POLLED: Final = 0.03
"""What polling power adds to it under a steady load (METHODS 1.6)."""

COUNTER_STEP_NS: Final = 100_000_000
"""The energy counter moves every 20 to 100 ms (METHODS 1.1); the slowest is assumed."""
INSTANT_STEP_NS: Final = 100_000_000
AVERAGED_STEP_NS: Final = NS_PER_SECOND
"""Power is an instant value up to GA100, and the mean of the last second on later chips (METHODS 1.1)."""
GA100: Final = (8, 0)
"""Compute capability of GA100, the last chip whose power is an instant value."""
PART_TIME: Final = (GA100, (9, 0))
"""GA100 and GH100 (A100, H100, GH200), whose sensor sees 25 % of the time or less (METHODS 1.1)."""

LIMIT_MARGIN: Final = 2.0
"""Boards pass their limit for milliseconds: no counter step above twice the largest limit is believed."""
MOST_WATTS: Final = 3000.0
"""Where a board tells no limit: twice the largest board of 2026."""

POLLED_NOTE: Final = "no energy counter: power polled, loads that vary faster than it are aliased"
PART_TIME_NOTE: Final = "sensor sees a part of the time only: a load that repeats about every 100 ms may be misread"
MIG_NOTE: Final = "MIG: energy of the board, counted once"

DRIVER_VERSION: Final = "nvmlSystemGetDriverVersion"
LIBRARY_DEAD: Final = frozenset({UNINITIALIZED, DRIVER_NOT_LOADED})
DEAD: Final = LIBRARY_DEAD | {INVALID_ARGUMENT, NOT_FOUND, GPU_IS_LOST, RESET_REQUIRED}
"""What says that NVML, or a handle of it, will not answer again."""
TICK_JITTER_NS: Final = 100_000_000
"""Looks are planned this much early: ticks fall on whole seconds, and a late one must not put a look off by another."""
FIRST_RETRY_NS: Final = NS_PER_SECOND
LONGEST_RETRY_NS: Final = 30 * NS_PER_SECOND
"""Time to the first attempt to get a lost board back, doubled after each that fails, up to the longest."""


class Source(Enum):
    """What a board is asked for, best first."""

    ENERGY = "nvmlDeviceGetTotalEnergyConsumption"
    AVERAGE = "field 185"
    INSTANT = "field 186"
    POWER = "nvmlDeviceGetPowerUsage"
    UTILISATION = "nvmlDeviceGetUtilizationRates"


MEASURED: Final = (Source.ENERGY, Source.AVERAGE, Source.INSTANT, Source.POWER)
"""What this meter asks for; utilisation is for the accelerator model."""
FIELDS: Final = {Source.AVERAGE: POWER_AVERAGE, Source.INSTANT: POWER_INSTANT}


class Proportion(Rates):
    """Utilisation that is read as power: the board's design power times it."""

    milliwatts_per_percent = 0.0

    @property
    def value(self) -> int:
        """Milliwatts."""
        percent: int = self.gpu
        return round(min(percent, 100) * self.milliwatts_per_percent)


@dataclass(slots=True)
class Board:
    """One GPU. ask: fills ``answer`` and returns its nvmlReturn_t.  code: why the board is lost, 0 while it is not.

    partitions: those of the device, kept up to date as slices come and go.  design_watts: for utilisation.
    restarted: the driver was loaded anew since the board was last read, so that its counter began at 0.
    """

    device_id: str
    counted: bool
    handle: c_void_p
    device: Device
    source: Source
    ask: Callable[[], int]
    answer: Any
    users: Users
    partitions: dict[str, float]
    design_watts: float = 0.0
    code: int = 0
    restarted: bool = False


class Nvml:
    """The open boards. An error of one leaves it out of that reading and touches no other."""

    name: str = "nvml"

    def __init__(
        self, library: Library, boards: Sequence[Board], left_out: Sequence[LeftOut], programs: Programs
    ) -> None:
        self._library = library
        self._boards = list(boards)
        self._programs = programs
        self._retry_ns = 0
        self._pause_ns = FIRST_RETRY_NS
        self._any_lost = False
        self._generation = library.generation
        self._open = True
        self.devices: Sequence[Device] = [board.device for board in boards]
        self.left_out = left_out

    def read(self) -> Sequence[Reading]:
        """Cumulative microjoules or milliwatts of every board that answers.

        A lost board is looked for again at most once in a call, and ever less often: see ``_find_lost``.
        """
        readings = []
        before = boottime_ns()
        if self._generation != self._library.generation or (self._any_lost and before >= self._retry_ns):
            self._find_lost()
            before = boottime_ns()
        for board in self._boards:
            if board.code:
                continue
            code = board.ask()
            after = boottime_ns()
            if code:
                self._lose(board, code, after)
            elif board.counted:
                at_ns, microjoules = (before + after) // 2, board.answer.value * 1000
                readings.append(Reading(board.device_id, at_ns, microjoules, None, board.restarted))
                board.restarted = False
            else:
                readings.append(Reading(board.device_id, (before + after) // 2, None, board.answer.value))
            before = after
        return readings

    def _lose(self, board: Board, code: int, now_ns: int) -> None:
        """Leave a board out until it is found again: a driver in trouble may take long over every question."""
        board.code, self._any_lost = code, True
        # One that goes is looked for soon, however long another has been away.
        self._pause_ns, self._retry_ns = FIRST_RETRY_NS, now_ns + FIRST_RETRY_NS - TICK_JITTER_NS

    def _find_lost(self) -> None:
        """One attempt to get lost boards back, by UUID.

        NVML is closed and opened again only when it is dead itself, or every board is: closing it lets go of
        all, and one that nobody else holds may then restart its counter, or may not be had again (a container
        whose devices were taken away).
        """
        lost = [board for board in self._boards if board.code]
        codes = {board.code for board in self._boards}
        reloaded = bool(codes & LIBRARY_DEAD) or self._generation != self._library.generation
        try:
            if self._generation == self._library.generation and (codes & LIBRARY_DEAD or codes <= DEAD):
                self._library.reopen()
            if self._generation != self._library.generation:
                lost, self._generation = self._boards, self._library.generation
                for board in lost if reloaded else ():
                    board.restarted = True
            for board in lost:
                self._find(board)
            if reloaded:
                self._renew_driver()
        except NvmlError:
            for board in self._boards:  # no driver yet: lost until the next attempt
                board.code = UNINITIALIZED
        found = any(not board.code for board in lost)
        self._any_lost = any(board.code for board in self._boards)
        self._pause_ns = FIRST_RETRY_NS if found else min(2 * self._pause_ns, LONGEST_RETRY_NS)
        self._retry_ns = boottime_ns() + self._pause_ns - TICK_JITTER_NS

    def _renew_driver(self) -> None:
        """A driver that was loaded anew may be another: a comparison must hold it fixed."""
        driver = optional_text(self._library, DRIVER_VERSION)
        if driver and any(device.driver != driver for device in self.devices):
            self.devices = [replace(device, driver=driver) for device in self.devices]

    def _find(self, board: Board) -> None:
        try:
            handle = self._library.handle("nvmlDeviceGetHandleByUUID", board.device_id.encode())
            board.ask, board.answer = _bind(self._library, handle, board.source, board.design_watts)
            self._library.check(board.ask())
        except NvmlError as error:
            board.code = error.code
            return
        board.handle, board.code = handle, 0

    def busy(self) -> Mapping[str, Busy]:
        """The processes on each board that answers, with the part of it that they use as far as the driver tells it."""
        busy = {}
        for board in self._boards:
            if board.code:
                continue
            try:
                busy[board.device_id] = self._users_of(board)
            except NvmlError:
                continue
        self._programs.keep({pid for told in busy.values() for pid in told.pids})
        return busy

    def _users_of(self, board: Board) -> Busy:
        slices = board.users.slices(board.handle)
        board.partitions.clear()
        if slices is None:
            return board.users.whole(board.handle)
        board.partitions.update({part.uuid: part.fraction for part in slices})
        return board.users.sliced(slices)

    def limits(self) -> Mapping[str, float]:
        """The power limit that each board that answers enforces now, W: what a comparison must hold fixed."""
        found = {}
        for board in self._boards:
            if not board.code and (limit := limit_watts(self._library, board.handle)) is not None:
                found[board.device_id] = limit
        return found

    def close(self) -> None:
        """Close NVML; harmless when the driver has gone already."""
        self._boards = []
        if self._open:
            self._open = False
            self._library.leave()


def open_nvml(roots: Roots) -> Nvml:
    """Every NVIDIA GPU that answers. roots: /proc, for what MPS clients may use; NVML finds the driver itself.

    Raises MeterAbsent without library, GPU or any GPU that tells its power, MeterUnavailable when none answers.
    """
    library = load_nvml()
    programs = Programs(roots.proc)
    boards, left_out, silent = [], [], 0
    for index in range(count_gpus(library)):
        try:
            handle = library.handle("nvmlDeviceGetHandleByIndex_v2", c_uint(index))
            source = best_source(library, handle)
            if source is None:
                silent += 1
                left_out.append(LeftOut(f"GPU {index}", "tells neither energy nor power: see meter accelerator"))
            else:
                boards.append(make_board(library, handle, source, programs))
        except NvmlError as error:
            left_out.append(LeftOut(f"GPU {index}", str(error), remedy(error)))
    if boards:
        return Nvml(library, boards, left_out, programs)
    library.leave()
    if silent:
        raise MeterAbsent("no GPU tells its energy or power", "the accelerator meter models them from utilisation")
    if left_out:
        first = left_out[0]
        raise MeterUnavailable(f"no GPU of {len(left_out)} answers; {first.what}: {first.why}", first.remedy)
    raise MeterAbsent("NVML finds no GPU", "give the container its GPUs (--gpus all), or check nvidia-smi")


def load_nvml() -> Library:
    """The library, entered. Raises MeterAbsent where the machine has no driver, MeterUnavailable where it fails."""
    named = os.environ.get(LIBRARY)
    try:
        loaded = shared_library()
        loaded.enter()
    except OSError as error:
        if named:
            raise MeterUnavailable(f"{LIBRARY}: {error}", "name a libnvidia-ml.so.1 that can be loaded") from error
        raise MeterAbsent(
            "no NVIDIA driver (NVML: shared library not found)",
            "install the NVIDIA driver, or give the container its GPUs (--gpus all)",
        ) from error
    except NvmlError as error:
        if error.code == DRIVER_NOT_LOADED:
            raise MeterAbsent(f"no NVIDIA driver (NVML: {error})", remedy(error)) from error
        raise MeterUnavailable(f"NVML: {error}", remedy(error)) from error
    return loaded


def count_gpus(library: Library) -> int:
    """How many GPUs there are; the library is left when it cannot tell. Raises MeterUnavailable."""
    try:
        return library.number("nvmlDeviceGetCount_v2")
    except NvmlError as error:
        library.leave()
        raise MeterUnavailable(f"NVML cannot count the GPUs: {error}", remedy(error)) from error


def best_source(library: Library, handle: c_void_p) -> Source | None:
    """The best measured source that answers, None where the board has none. Raises NvmlError on any other refusal."""
    for source in MEASURED:
        try:
            ask, _ = _bind(library, handle, source)
            library.check(ask())
        except NvmlError as error:
            # Drivers older than a field call it an invalid argument.
            if error.code not in (NOT_SUPPORTED, FUNCTION_NOT_FOUND, INVALID_ARGUMENT):
                raise
        else:
            return source
    return None


def _bind(
    library: Library, handle: c_void_p, source: Source, design_watts: float = 0.0
) -> tuple[Callable[[], int], Any]:
    """A question that is ready to be asked, and where its answer will stand (``.value``, mJ or mW)."""
    if source in FIELDS:
        field = FieldValue(field=FIELDS[source])
        get = partial(library.function("nvmlDeviceGetFieldValues"), handle, c_int(1), byref(field))
        return lambda: get() or field.code, field
    answer: Any = c_ulonglong() if source is Source.ENERGY else c_uint()
    if source is Source.UTILISATION:
        answer = Proportion()
        answer.milliwatts_per_percent = design_watts * 10
    return partial(library.function(source.value), handle, byref(answer)), answer


def make_board(
    library: Library, handle: c_void_p, source: Source, programs: Programs, design_watts: float = 0.0
) -> Board:
    """The board behind that handle. Raises NvmlError when it does not say who it is."""
    uuid = library.text("nvmlDeviceGetUUID", handle)
    model = optional_text(library, "nvmlDeviceGetName", handle) or "unknown GPU"
    counted = source is Source.ENERGY
    chip = _capability(library, handle)
    averaged = source in (Source.AVERAGE, Source.UTILISATION) or (source is Source.POWER and chip > GA100)
    users = Users(library, programs)
    slices = users.slices(handle)
    partitions = {part.uuid: part.fraction for part in slices or ()}
    if slices is None:
        users.start(handle)
    notes = [] if counted else [POLLED_NOTE]
    notes += [PART_TIME_NOTE] if not counted and chip in PART_TIME else []
    notes += [MIG_NOTE] if slices is not None else []
    step_ns = COUNTER_STEP_NS if counted else AVERAGED_STEP_NS if averaged else INSTANT_STEP_NS
    address = pci_address(library, handle)
    device = Device(
        device_id=uuid,
        component=Component.GPU,
        method=Method.COUNTER if counted else Method.INTEGRATED,
        u_common=U_GAIN,
        u_common_key=f"nvml:{model}",
        u_indep=0.0 if counted else U_POLLED,
        step_ns=step_ns,
        most_watts=_most_watts(library, handle),
        averaged=averaged,
        covers=f"gpu:{uuid}",
        covers_also=(f"gpu:{address}",) if address else (),
        partitions=partitions,
        model=model,
        driver=optional_text(library, DRIVER_VERSION),
        limit_watts=limit_watts(library, handle),
        note="; ".join(notes),
    )
    ask, answer = _bind(library, handle, source, design_watts)
    return Board(uuid, counted, handle, device, source, ask, answer, users, partitions, design_watts)


def pci_address(library: Library, handle: c_void_p) -> str:
    """As in /sys/bus/pci/devices, "" where the board does not tell."""
    try:
        pci = library.struct("nvmlDeviceGetPciInfo_v3", Pci, handle)
    except NvmlError:
        return ""
    return f"{pci.domain:04x}:{pci.bus:02x}:{pci.device:02x}.0"


def _capability(library: Library, handle: c_void_p) -> tuple[int, int]:
    """Compute capability, (0, 0) where the board does not tell."""
    try:
        return library.pair("nvmlDeviceGetCudaComputeCapability", handle)
    except NvmlError:
        return (0, 0)


def limit_watts(library: Library, handle: c_void_p) -> float | None:
    """The power limit that a board enforces, W, None where it does not tell."""
    try:
        return library.number("nvmlDeviceGetEnforcedPowerLimit", handle) / 1000
    except NvmlError:
        return None


def _most_watts(library: Library, handle: c_void_p) -> float:
    try:
        largest = library.pair("nvmlDeviceGetPowerManagementLimitConstraints", handle)[1] / 1000
    except NvmlError:
        largest = 0.0
    most = max(largest, limit_watts(library, handle) or 0.0)
    return LIMIT_MARGIN * most if most else MOST_WATTS


def optional_text(library: Library, name: str, *handle: c_void_p) -> str:
    """A text, "" where there is none."""
    try:
        return library.text(name, *handle)
    except NvmlError:
        return ""


def remedy(error: NvmlError) -> str:
    """What to do about a refusal."""
    remedies = {
        DRIVER_NOT_LOADED: "sudo modprobe nvidia",
        NO_PERMISSION: "run as a user that may open /dev/nvidia*",
        GPU_IS_LOST: "reset the GPU (sudo nvidia-smi --gpu-reset) or reboot",
        RESET_REQUIRED: "reset the GPU (sudo nvidia-smi --gpu-reset) or reboot",
        LIB_RM_VERSION_MISMATCH: "reboot: driver and library are of different versions",
    }
    return remedies.get(error.code, "check that nvidia-smi works on this machine")
