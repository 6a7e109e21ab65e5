"""Simulated NVIDIA GPUs: builds libnvidia-ml.so.1 from nvml.c and writes what it should show."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from math import inf
from pathlib import Path
from typing import Final

from joulebook.errors import BadInput, JoulebookError
from joulebook.meters.nvml_library import LIBRARY
from joulebook.simulate.curve import Curve, parse_curve
from joulebook.simulate.truth import Source, write_truth

C_SOURCE: Final = Path(__file__).with_name("nvml.c")
SONAME: Final = "libnvidia-ml.so.1"
CONFIG: Final = "nvml.conf"
VARIABLE: Final = "JOULEBOOK_SIM_NVML"
BUILD_TIMEOUT_SECONDS: Final = 300
ARCHITECTURES: Final = ("pascal", "volta", "turing", "ga100", "ampere", "ada", "hopper", "blackwell")


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process on a GPU.

    sm_percent: None when the driver does not tell utilisation.  slice_index: the MIG slice that it runs in, None
    for the whole board.  mps_client: it is in the list of MPS clients only.
    """

    pid: int
    memory_bytes: int = 0
    sm_percent: int | None = None
    slice_index: int | None = None
    mps_client: bool = False


@dataclass(frozen=True, slots=True)
class GpuSlice:
    """A MIG slice. compute_slices: its size, 1 to 7."""

    uuid: str
    compute_slices: int


@dataclass(frozen=True, slots=True)
class Gpu:
    """One simulated GPU. error: "" or lost, unsupported, permission, for every question to it.

    energy_counter, power, power_fields: what it can be asked.  utilisation_percent: of the board, None for the part of
    its limit that it draws.  most_slices: compute slices under MIG.  virtual: a virtual machine's part of a board.
    lost: CLOCK_BOOTTIME ns of when it is gone and when it is back (0 for never).
    """

    uuid: str
    curve: Curve
    name: str = "Simulated H100"
    architecture: str = "hopper"
    energy_counter: bool = True
    power: bool = True
    power_fields: bool = True
    limit_watts: float = 700.0
    utilisation_percent: int | None = None
    mig: bool = False
    slices: tuple[GpuSlice, ...] = ()
    most_slices: int = 7
    virtual: bool = False
    error: str = ""
    lost: tuple[tuple[int, int], ...] = ()
    processes: tuple[GpuProcess, ...] = ()

    def lines(self, index: int) -> Iterator[str]:
        """Its lines in the configuration."""
        for key, value in self._values():
            yield f"gpu {index} {key} {value}"

    def _values(self) -> Iterator[tuple[str, object]]:
        yield "uuid", self.uuid
        yield "name", self.name
        yield "architecture", self.architecture
        yield "curve", self.curve
        yield "energy", _switch(self.energy_counter)
        yield "power", _switch(self.power)
        yield "fields", _switch(self.power_fields)
        yield "limit_watts", self.limit_watts
        if self.utilisation_percent is not None:
            yield "utilisation", self.utilisation_percent
        yield "mig", _switch(self.mig)
        yield "slices", self.most_slices
        for part in self.slices:
            yield "slice", f"{part.uuid} {part.compute_slices}"
        yield "virtual", _switch(self.virtual)
        if self.error:
            yield "error", self.error
        for gone_ns, back_ns in self.lost:
            yield "lost", f"{gone_ns} {back_ns}"
        for process in self.processes:
            numbers = (
                process.pid,
                process.memory_bytes,
                -1 if process.sm_percent is None else process.sm_percent,
                -1 if process.slice_index is None else process.slice_index,
            )
            yield "client" if process.mps_client else "process", " ".join(map(str, numbers))


def _switch(on: bool) -> str:
    return "on" if on else "off"


def write_gpus(
    directory: Path,
    gpus: Sequence[Gpu],
    t0_ns: int,
    *,
    step_ms: float = 100.0,
    reload_ns: int | None = None,
    down_ns: tuple[int, int] | None = None,
    sample_ms: int = 0,
    nonsense: int = 0,
    errors: Sequence[str] = (),
    driver: str = "",
) -> Path:
    """Write the configuration, at once, and the truth. Returns the configuration's path.

    t0_ns: CLOCK_BOOTTIME at which the curves begin.  step_ms: sensors move at its multiples.  reload_ns:
    when the driver is loaded again, and counters restart at 0.  down_ns: from when to when there is no driver; it must
    be initialised anew then, and counters restart at 0 at the end.  sample_ms: process utilisation is sampled at its
    multiples, each process at its own phase; 0 for whenever it is asked.  nonsense: bad samples beside the good ones.
    errors: "FUNCTION CODE [GPU]".  driver: its version, one word; "" for one that says that it is simulated.
    """
    for gpu in gpus:
        if gpu.architecture not in ARCHITECTURES:
            raise BadInput(f"{gpu.architecture!r} is no architecture", f"give one of {', '.join(ARCHITECTURES)}")
    lines = [f"t0_ns {t0_ns}", f"step_ms {step_ms}"]
    if reload_ns is not None:
        lines.append(f"reload_ns {reload_ns}")
    if down_ns is not None:
        lines.append(f"down_ns {down_ns[0]} {down_ns[1]}")
    lines += [f"sample_ms {sample_ms}", f"nonsense {nonsense}"]
    lines += [f"driver {driver}"] if driver else []
    lines += [f"error {error}" for error in errors]
    lines += [line for index, gpu in enumerate(gpus) for line in gpu.lines(index)]
    path = directory / CONFIG
    new = path.with_suffix(".new")
    new.write_text("\n".join(lines) + "\n")
    new.replace(path)
    write_truth(directory, "nvml", [Source(gpu.uuid, t0_ns, (gpu.curve,)) for gpu in gpus])
    return path


def build_library(directory: Path) -> Path:
    """The simulated libnvidia-ml.so.1 in that directory, compiled if it is not newer than its source.

    Raises JoulebookError where there is no C compiler or it fails.
    """
    library = directory / SONAME
    if library.exists() and library.stat().st_mtime_ns > C_SOURCE.stat().st_mtime_ns:
        return library
    directory.mkdir(parents=True, exist_ok=True)
    new = directory / f"{SONAME}.new"
    command = [*compiler(), "-shared", "-fPIC", "-O1", "-std=gnu11", f"-Wl,-soname,{SONAME}"]
    command += ["-o", str(new), str(C_SOURCE), "-lm"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=BUILD_TIMEOUT_SECONDS)
    except subprocess.CalledProcessError as error:
        raise JoulebookError(
            f"{command[0]} cannot build {SONAME}: {error.stderr.strip().splitlines()[-1:]}",
            "install a working C compiler and its headers, or: pip install ziglang",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise JoulebookError(
            f"{command[0]} took over {BUILD_TIMEOUT_SECONDS} s to build {SONAME}", "try again on a less busy machine"
        ) from error
    new.replace(library)
    return library


def compiler() -> list[str]:
    """The command of a C compiler: cc, gcc or clang, else the ziglang wheel. Raises JoulebookError without one."""
    for name in ("cc", "gcc", "clang"):
        if found := shutil.which(name):
            return [found]
    if find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc"]
    raise JoulebookError("no C compiler for the GPU simulator", "pip install ziglang, or apt-get install gcc libc6-dev")


def parse_process(text: str, gpus: int) -> tuple[int, GpuProcess]:
    """GPU index and process of "GPU:PID[:SM_PERCENT]". Raises BadInput."""
    try:
        index, pid, *told = (int(word) for word in text.split(":"))
    except ValueError:
        index, pid, told = -1, 0, []
    if not (0 <= index < gpus and pid > 0 and len(told) < 2 and all(0 <= sm <= 100 for sm in told)):
        raise BadInput(f"{text!r} is no process on one of {gpus} GPUs", "give GPU:PID or GPU:PID:SM_PERCENT")
    return index, GpuProcess(pid, 0, told[0] if told else None)


def parse_client(text: str, gpus: int) -> tuple[int, GpuProcess]:
    """GPU index and MPS client of "GPU:PID". Raises BadInput."""
    index, process = parse_process(text, gpus)
    return index, replace(process, mps_client=True)


def parse_slice(text: str, gpus: int) -> tuple[int, int, tuple[int, ...]]:
    """GPU index, compute slices and pids of "GPU:SIZE[:PID,...]". Raises BadInput."""
    try:
        index, size, *pids = text.split(":")
        told = int(index), int(size), tuple(int(pid) for pid in ",".join(pids).split(",") if pid)
        if told[0] not in range(gpus) or told[1] not in range(1, 8) or len(pids) > 1 or not all(p > 0 for p in told[2]):
            raise ValueError(text)
    except ValueError:
        raise BadInput(f"{text!r} is no slice of one of {gpus} GPUs", "give GPU:SIZE[:PID,...], SIZE 1 to 7") from None
    return told


def parse_loss(text: str, gpus: int, t0_ns: int) -> tuple[int, tuple[int, int]]:
    """GPU index and when it is lost, of "GPU:FROM_S[:TO_S]", seconds since t0. Raises BadInput."""
    index, _, window = text.partition(":")
    if not (index.isdigit() and int(index) in range(gpus)):
        raise BadInput(f"{text!r} names none of {gpus} GPUs", "give GPU:FROM_S[:TO_S]")
    return int(index), parse_window(window, t0_ns)


def parse_window(text: str, t0_ns: int) -> tuple[int, int]:
    """From when to when (0 for ever), of "FROM_S[:TO_S]", seconds since t0. Raises BadInput."""
    try:
        begins, *ends = (float(word) for word in text.split(":"))
        if len(ends) > 1 or not 0 <= begins < (ends or [inf])[0]:
            raise ValueError(text)
        return t0_ns + int(begins * 1e9), t0_ns + int(ends[0] * 1e9) if ends else 0
    except (ValueError, OverflowError):
        raise BadInput(f"{text!r} is no time", "give FROM_S[:TO_S], seconds from now") from None


def environment(directory: Path) -> Mapping[str, str]:
    """The variables under which the NVML meter sees the simulated GPUs."""
    at = directory.absolute()
    return {VARIABLE: str(at / CONFIG), LIBRARY: str(at / SONAME)}


class Stand:
    """Two boards, one without an energy counter, for the contract tests of the meter."""

    def __init__(self, root: Path, began_ns: int) -> None:
        directory = root / "nvml"
        directory.mkdir(parents=True, exist_ok=True)
        build_library(directory)
        counted = Gpu("GPU-a", parse_curve("constant:100"))
        polled = Gpu("GPU-b", parse_curve("constant:80"), energy_counter=False)
        write_gpus(directory, [counted, polled], began_ns)
        self._watts = {"GPU-a": 100.0, "GPU-b": 80.0}
        self.environ: Mapping[str, str] = environment(directory)

    def move(self, now_ns: int) -> None:
        """The library computes when asked."""

    def joules(self, from_ns: int, to_ns: int) -> dict[str, float]:
        """Power times time."""
        return {name: watts * (to_ns - from_ns) / 1e9 for name, watts in self._watts.items()}

    def close(self) -> None:
        """Nothing runs."""


def stand(root: Path, began_ns: int) -> Stand:
    """The library and its configuration under root/nvml."""
    return Stand(root, began_ns)
