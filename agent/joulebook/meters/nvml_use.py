"""Who uses an NVIDIA board and how much of it: processes in turn, MPS clients side by side, MIG slices (METHODS 2)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from ctypes import c_uint, c_void_p
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final

from joulebook.clock import utc_us
from joulebook.meters import Busy
from joulebook.meters.nvml_library import INSTANCE_PROFILES, Attributes, Library, NvmlError, Profile, Rates
from joulebook.units import US_PER_SECOND

MPS_COMMAND: Final = "nvidia-cuda-mps"
"""What /proc/PID/comm keeps, 15 characters, of nvidia-cuda-mps-server and nvidia-cuda-mps-control."""
MPS_THREADS: Final = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"
ALL_THREADS: Final = 100.0
"""What an MPS client may use where the variable is not set (NVIDIA, Multi-Process Service)."""
LAG_US: Final = US_PER_SECOND
"""Samples are taken every sixth of a second to every second: as much of the past may still be untold."""
SEVENTHS: Final = 7
"""Slices of every MIG board but A30, taken where the board does not tell its own."""

U_MPS: Final = 0.3
"""Of a client's part, relative: kernels of several clients run at once (METHODS 2)."""
MPS_NOTE: Final = "MPS: clients not separable, u_r 0.3"
MPS_EQUAL_NOTE: Final = "MPS: clients not separable, thread percentages not readable, split equally, u_r 0.3"
NO_ACTIVITY_NOTE: Final = "MPS: activity of the board not told, taken as 1"
MIG_NOTE: Final = "MIG: activity of slices not told, their size stands for it"
SEVENTHS_NOTE: Final = "MIG: slices of the board not told, taken as 7"


@dataclass(frozen=True, slots=True)
class Slice:
    """One MIG slice. fraction: of the board's compute slices, 0 to 1."""

    handle: c_void_p
    uuid: str
    fraction: float


@dataclass(slots=True)
class Programs:
    """What /proc says of the processes on GPUs, kept while they stay there."""

    proc: Path
    _servers: dict[int, bool] = field(default_factory=dict)
    _threads: dict[int, float | None] = field(default_factory=dict)

    def is_mps_server(self, pid: int) -> bool:
        """Whether it is a server or control daemon of MPS, which computes for others."""
        if pid not in self._servers:
            try:
                self._servers[pid] = (self.proc / str(pid) / "comm").read_text().strip() == MPS_COMMAND
            except (OSError, ValueError):
                self._servers[pid] = False
        return self._servers[pid]

    def thread_percent(self, pid: int) -> float | None:
        """The part of a board's threads that an MPS client may use, None where its environment cannot be read."""
        if pid not in self._threads:
            try:
                words = (self.proc / str(pid) / "environ").read_bytes().split(b"\0")
            except OSError:
                words = []
            self._threads[pid] = active_threads(words) if any(words) else None
        return self._threads[pid]

    def keep(self, pids: Collection[int]) -> None:
        """Forget all others: their numbers may come to mean other processes."""
        self._servers = {pid: told for pid, told in self._servers.items() if pid in pids}
        self._threads = {pid: told for pid, told in self._threads.items() if pid in pids}


def active_threads(words: Sequence[bytes]) -> float | None:
    """Thread percentage, over 0 to 100, of a process with that environment, None where it is no such number."""
    prefix = MPS_THREADS.encode() + b"="
    told = next((word[len(prefix) :] for word in words if word.startswith(prefix)), None)
    if told is None:
        return ALL_THREADS
    try:
        percent = float(told)
    except ValueError:
        return None
    return percent if 0 < percent <= ALL_THREADS else None


def mean_utilisation(samples: Sequence[tuple[int, int, float]], begin_us: int, end_us: int) -> dict[int, float]:
    """Time-weighted mean utilisation (0 to 1) of each process over (begin, end], summing to at most 1.

    samples: pid, microseconds, utilisation.  NVML dates each process's sample by itself: one holds from the
    process's sample before it (or the beginning) to its own time, and nothing is said of what follows the last.
    Where processes together pass 1 they are scaled down to it, at that instant.
    """
    if not samples:
        return {}
    steps: list[tuple[int, int, int, float]] = []
    until = {pid: begin_us for pid, _, _ in samples}
    together = {begin_us: 0.0}
    for pid, at_us, used in sorted(samples, key=lambda sample: sample[1]):
        if at_us > until[pid]:
            steps.append((pid, until[pid], at_us, used))
            together[until[pid]] = together.get(until[pid], 0.0) + used
            together[at_us] = together.get(at_us, 0.0) - used
            until[pid] = at_us
    # Microseconds since the beginning, each counted as the part of it that its processes' sum leaves to each.
    scaled, level = {begin_us: 0.0}, 0.0
    for a, b in pairwise(sorted(together)):
        level += together[a]
        scaled[b] = scaled[a] + (b - a) / max(1.0, level)
    busy_us = dict.fromkeys(until, 0.0)
    for pid, start, end, used in steps:
        busy_us[pid] += used * (scaled[end] - scaled[start])
    return {pid: busy / max(1, end_us - begin_us) for pid, busy in busy_us.items()}


@dataclass(slots=True)
class Users:
    """Who uses one board.

    seen_us: time of the last sample, which NVML is told.  until_us: end of the period last spoken of.
    slices: of the board in all, None where it does not tell.
    """

    library: Library
    programs: Programs
    seen_us: int = 0
    until_us: int = 0
    slice_count: int | None = None

    def start(self, handle: c_void_p) -> None:
        """Pass over what was sampled before now."""
        self.utilisation(handle)

    def whole(self, handle: c_void_p) -> Busy:
        """The processes of an undivided board."""
        pids, is_mps = self._running(handle)
        used, lost = self.utilisation(handle)
        notes = [f"{lost} samples of process utilisation unusable"] if lost else []
        if is_mps:
            activity = self._activity(handle, used)
            if activity is None and pids:
                notes.append(NO_ACTIVITY_NOTE)
            shares, note = self._side_by_side(pids)
            notes.append(note)
            whole = 1.0 if activity is None else activity
            parts = {pid: whole * share for pid, share in shares.items()}
            return Busy(parts, _joined(notes), u_split=U_MPS if note else 0.0)
        if used is None:
            return Busy(dict.fromkeys(pids), _joined(notes))
        return Busy({pid: used.get(pid, 0.0) for pid in pids | used.keys()}, _joined(notes), sampled=True)

    def sliced(self, slices: Sequence[Slice]) -> Busy:
        """The processes of a board divided by MIG: each slice's fraction, shared by those that run in it."""
        busy: dict[int, float] = {}
        u_split = 0.0
        notes = [MIG_NOTE] if self.slice_count is not None else [MIG_NOTE, SEVENTHS_NOTE]
        for part in slices:
            try:
                pids, is_mps = self._running(part.handle)
            except NvmlError:
                continue  # the slice was taken down since it was listed
            shares = {pid: 1 / len(pids) for pid in pids}
            if is_mps:
                shares, note = self._side_by_side(pids)
                notes.append(note)
                u_split = U_MPS if note else u_split
            for pid, share in shares.items():
                busy[pid] = busy.get(pid, 0.0) + part.fraction * share
        return Busy(busy, _joined(notes), u_split=u_split)

    def slices(self, handle: c_void_p) -> list[Slice] | None:
        """The MIG slices of a board now, None where MIG is off. Compute instances are slices of their own."""
        if not self._is_divided(handle):
            return None
        self.slice_count = self.slice_count or self._most_slices(handle)
        found: list[Slice] = []
        try:
            most = self.library.number("nvmlDeviceGetMaxMigDeviceCount", handle)
        except NvmlError:
            return found
        for index in range(most):
            try:
                part = self.library.handle("nvmlDeviceGetMigDeviceHandleByIndex", handle, c_uint(index))
                size = self.library.struct("nvmlDeviceGetAttributes_v2", Attributes, part).compute_slices
                uuid = self.library.text("nvmlDeviceGetUUID", part)
            except NvmlError:
                continue  # no slice at that index
            found.append(Slice(part, uuid, size / (self.slice_count or SEVENTHS)))
        return found

    def _is_divided(self, handle: c_void_p) -> bool:
        try:
            return bool(self.library.pair("nvmlDeviceGetMigMode", handle)[0])
        except NvmlError:
            return False

    def _most_slices(self, handle: c_void_p) -> int | None:
        """Slices of the largest instance that the board can make."""
        most = 0
        for profile in range(INSTANCE_PROFILES):
            try:
                told = self.library.struct("nvmlDeviceGetGpuInstanceProfileInfo", Profile, handle, c_uint(profile))
            except NvmlError:
                continue
            most = max(most, told.slices)
        return most or None

    def utilisation(self, handle: c_void_p) -> tuple[dict[int, float] | None, int]:
        """Mean SM utilisation of each process since the last look, None where it is not told; samples unusable."""
        now_us = utc_us()
        if now_us < self.until_us:
            self.seen_us = self.until_us = 0  # the clock was set back: what was seen lies in the future
        try:
            samples = self.library.samples(handle, self.seen_us)
        except NvmlError:
            return None, 0
        begin_us = self.until_us or now_us
        # Drivers are known to fill their list up with nonsense for processes that are gone.
        sound = [
            (pid, at_us, percent / 100)
            for pid, at_us, percent in samples
            if pid and percent <= 100 and self.seen_us < at_us <= now_us + LAG_US
        ]
        self.seen_us = max([self.seen_us, *(at_us for _, at_us, _ in sound)])
        self.until_us = max(begin_us, self.seen_us, now_us - LAG_US)
        return mean_utilisation(sound, begin_us, self.until_us), len(samples) - len(sound)

    def _running(self, handle: c_void_p) -> tuple[set[int], bool]:
        """Processes that compute for themselves on a board or slice, and whether MPS runs them side by side."""
        pids = set(self.library.processes("nvmlDeviceGetComputeRunningProcesses", handle))
        clients: set[int] = set()
        for name, into in (
            ("nvmlDeviceGetGraphicsRunningProcesses", pids),
            ("nvmlDeviceGetMPSComputeRunningProcesses", clients),
        ):
            try:
                into |= set(self.library.processes(name, handle))
            except NvmlError:
                continue  # not every board or driver knows the question
        servers = {pid for pid in pids | clients if self.programs.is_mps_server(pid)}
        return (pids | clients) - servers, bool(servers or clients)

    def _side_by_side(self, pids: Collection[int]) -> tuple[dict[int, float], str]:
        """MPS clients' shares of what they do together: by the threads that they may use, else equal. A note of it."""
        if len(pids) < 2:
            return dict.fromkeys(pids, 1.0), ""
        percents = {pid: self.programs.thread_percent(pid) for pid in pids}
        known = {pid: percent for pid, percent in percents.items() if percent is not None}
        if len(known) < len(percents):
            return {pid: 1 / len(percents) for pid in percents}, MPS_EQUAL_NOTE
        total = sum(known.values())
        return {pid: percent / total for pid, percent in known.items()}, MPS_NOTE

    def _activity(self, handle: c_void_p, used: Mapping[int, float] | None) -> float | None:
        """How busy a board is as a whole, 0 to 1."""
        if used:
            return min(1.0, sum(used.values()))
        try:
            percent: int = self.library.struct("nvmlDeviceGetUtilizationRates", Rates, handle).gpu
        except NvmlError:
            return None
        return min(percent, 100) / 100


def _joined(notes: Sequence[str]) -> str:
    """Those that say something, each once."""
    return "; ".join(dict.fromkeys(note for note in notes if note))
