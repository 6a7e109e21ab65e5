"""libnvidia-ml.so.1 bound with ctypes: the few functions and structs of NVML that the meters ask for.

Numbers, structs and versioned names are those of nvml.h, whose ABI NVIDIA keeps
(https://docs.nvidia.com/deploy/nvml-api; docs/decisions/0018-own-nvml-binding.md).
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Sequence
from ctypes import Structure, byref, c_char, c_int, c_int64, c_uint, c_ulonglong, c_void_p
from typing import Any, Final, TypeVar, cast

LIBRARY: Final = "JOULEBOOK_NVML_LIBRARY"
SONAME: Final = "libnvidia-ml.so.1"

UNINITIALIZED: Final = 1
INVALID_ARGUMENT: Final = 2
NOT_SUPPORTED: Final = 3
NO_PERMISSION: Final = 4
NOT_FOUND: Final = 6
INSUFFICIENT_SIZE: Final = 7
DRIVER_NOT_LOADED: Final = 9
FUNCTION_NOT_FOUND: Final = 13
GPU_IS_LOST: Final = 15
RESET_REQUIRED: Final = 16
LIB_RM_VERSION_MISMATCH: Final = 18
UNKNOWN: Final = 999
"""nvmlReturn_t."""

POWER_AVERAGE: Final = 185
POWER_INSTANT: Final = 186
"""NVML_FI_DEV_POWER_AVERAGE, the mean of the last second, and NVML_FI_DEV_POWER_INSTANT."""

TEXT_BYTES: Final = 96
"""The longest text that NVML gives (NVML_DEVICE_NAME_V2_BUFFER_SIZE, NVML_DEVICE_UUID_V2_BUFFER_SIZE)."""

INSTANCE_PROFILES: Final = 18
"""NVML_GPU_INSTANCE_PROFILE_COUNT."""


class FieldValue(Structure):
    """nvmlFieldValue_t. value: what power uses of the union, its low 32 bits; the rest is not told."""

    _fields_ = (
        ("field", c_uint), ("scope", c_uint), ("time_us", c_int64), ("latency_us", c_int64),
        ("kind", c_uint), ("code", c_int), ("value", c_uint), ("rest", c_uint),
    )  # fmt: skip


class Pci(Structure):
    """nvmlPciInfo_t."""

    _fields_ = (
        ("bus_id_legacy", c_char * 16), ("domain", c_uint), ("bus", c_uint), ("device", c_uint),
        ("pci_device_id", c_uint), ("pci_subsystem_id", c_uint), ("bus_id", c_char * 32),
    )  # fmt: skip


class Process(Structure):
    """nvmlProcessInfo_v2_t, which version 3 of the functions still uses."""

    _fields_ = (("pid", c_uint), ("memory_bytes", c_ulonglong), ("gpu_instance", c_uint), ("compute_instance", c_uint))


class Sample(Structure):
    """nvmlProcessUtilizationSample_t. time_us: UTC microseconds.  sm and the others: percent."""

    _fields_ = (
        ("pid", c_uint), ("time_us", c_ulonglong), ("sm", c_uint), ("memory", c_uint), ("encoder", c_uint),
        ("decoder", c_uint),
    )  # fmt: skip


class Rates(Structure):
    """nvmlUtilization_t, percent of the last sample period (a sixth of a second to one)."""

    _fields_ = (("gpu", c_uint), ("memory", c_uint))


class Attributes(Structure):
    """nvmlDeviceAttributes_t, of one MIG slice."""

    _fields_ = (
        ("multiprocessors", c_uint), ("copy_engines", c_uint), ("decoders", c_uint), ("encoders", c_uint),
        ("jpegs", c_uint), ("ofas", c_uint), ("gpu_instance_slices", c_uint), ("compute_slices", c_uint),
        ("memory_mib", c_ulonglong),
    )  # fmt: skip


class Profile(Structure):
    """nvmlGpuInstanceProfileInfo_t, a kind of GPU instance that a board can make."""

    _fields_ = (
        ("id", c_uint), ("p2p", c_uint), ("slices", c_uint), ("instances", c_uint), ("multiprocessors", c_uint),
        ("copy_engines", c_uint), ("decoders", c_uint), ("encoders", c_uint), ("jpegs", c_uint), ("ofas", c_uint),
        ("memory_mib", c_ulonglong),
    )  # fmt: skip


S = TypeVar("S", bound=Structure)

ROOM: Final = 16
LONGEST_ASKS: Final = 3
"""Entries that a list has room for at first and beyond what it said, and how often one that grew is asked for."""
MOST_ROOM: Final = 1 << 14
"""Longest list that is believed."""


class NvmlError(Exception):
    """NVML refused. code: its nvmlReturn_t."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Library:
    """A loaded library. Handles are ``c_void_p``; every refusal raises NvmlError.

    All meters of a process share one, since NVML counts who has initialised it and only the last
    to leave closes it; a meter may be opened in a thread of its own beside those that are read.
    generation: counts the times that it was initialised; handles are of one generation.
    """

    def __init__(self, file: str) -> None:
        """file: a path, or a name for the loader to find. Raises OSError where there is none."""
        self._dll = ctypes.CDLL(file)
        self._rooms: dict[tuple[int, type[Structure]], Any] = {}
        self._lock = threading.RLock()
        self._users = 0
        self._initialised = False
        self.generation = 0

    def function(self, name: str) -> Any:
        """The C function of that name, which returns its nvmlReturn_t."""
        try:
            return getattr(self._dll, name)
        except AttributeError:
            raise NvmlError(FUNCTION_NOT_FOUND, f"{name} is not in this driver's library") from None

    def call(self, name: str, *arguments: object) -> None:
        """Call it. arguments: ctypes objects, or whole numbers for C ints."""
        self.check(self.function(name)(*arguments))

    def check(self, code: int) -> None:
        """Raise what that nvmlReturn_t says, unless it says that all is well."""
        if code:
            describe = self.function("nvmlErrorString")
            describe.restype = ctypes.c_char_p
            raise NvmlError(code, describe(code).decode(errors="replace"))

    def enter(self) -> None:
        """One more user; the first initialises it."""
        with self._lock:
            if not self._users:
                self.reopen()
            self._users += 1

    def leave(self) -> None:
        """One user less; the last gives everything back. Harmless when the driver has gone already."""
        with self._lock:
            self._users -= 1
            if not self._users:
                self._shutdown()

    def reopen(self) -> None:
        """Close and initialise: all handles die. GPUs are attached when their handles are asked for."""
        with self._lock:
            self._shutdown()
            self.call("nvmlInit_v2")
            self._initialised = True
            self.generation += 1

    def _shutdown(self) -> None:
        if self._initialised:
            self._initialised = False
            self.function("nvmlShutdown")()

    def text(self, name: str, *handle: c_void_p) -> str:
        """A text that it says of a board, or of the system."""
        buffer = ctypes.create_string_buffer(TEXT_BYTES)
        self.call(name, *handle, buffer, c_uint(TEXT_BYTES))
        return buffer.value.decode(errors="replace")

    def number(self, name: str, *arguments: object) -> int:
        """An unsigned int that it says."""
        value = c_uint()
        self.call(name, *arguments, byref(value))
        return value.value

    def pair(self, name: str, handle: c_void_p) -> tuple[int, int]:
        """Two unsigned ints."""
        first, second = c_uint(), c_uint()
        self.call(name, handle, byref(first), byref(second))
        return first.value, second.value

    def handle(self, name: str, *arguments: object) -> c_void_p:
        """A handle."""
        found = c_void_p()
        self.call(name, *arguments, byref(found))
        return found

    def struct(self, name: str, kind: type[S], *arguments: object) -> S:
        """A struct that it fills."""
        filled = kind()
        self.call(name, *arguments, byref(filled))
        return filled

    def processes(self, name: str, handle: c_void_p) -> Sequence[int]:
        """Pids of a list of processes. name: without its version; drivers before 510 have version 2 of the same."""
        try:
            ask = self.function(f"{name}_v3")
        except NvmlError:
            ask = self.function(f"{name}_v2")
        return [entry.pid for entry in self._listed(Process, lambda room, count: ask(handle, count, room))]

    def samples(self, handle: c_void_p, seen_us: int) -> Sequence[tuple[int, int, int]]:
        """Pid, UTC microseconds and SM percent of process utilisation since ``seen_us``, as the driver gives it."""
        ask = self.function("nvmlDeviceGetProcessUtilization")
        found = self._listed(Sample, lambda room, count: ask(handle, room, count, c_ulonglong(seen_us)))
        return [(sample.pid, sample.time_us, sample.sm) for sample in found]

    def _listed(self, kind: type[S], ask: Callable[[Any, Any], Any]) -> Sequence[S]:
        """A list of unknown length, valid until the next of its kind is asked for. "Not found" is an empty one."""
        own = threading.get_ident(), kind  # two threads that ask at once must not fill one room
        room: Any = self._rooms.get(own) or (kind * ROOM)()
        count, code = c_uint(), INSUFFICIENT_SIZE
        for _ in range(LONGEST_ASKS):
            count.value = len(room)
            code = ask(room, byref(count))
            if code != INSUFFICIENT_SIZE:
                break
            room = (kind * min(max(count.value, len(room)) + ROOM, MOST_ROOM))()
        self._rooms[own] = room
        if code == NOT_FOUND:
            return []
        self.check(code)
        return cast("Sequence[S]", room[: count.value])


_loaded: Final[dict[str, Library]] = {}


def shared_library() -> Library:
    """The library that JOULEBOOK_NVML_LIBRARY names, else what the loader finds. Raises OSError where there is none."""
    file = os.environ.get(LIBRARY) or SONAME
    if file not in _loaded:
        _loaded[file] = Library(file)
    return _loaded[file]
