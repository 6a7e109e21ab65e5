"""What a process may use: CPU and memory limits of its control groups, versions 1 and 2.

Limits nest, and the tightest ancestor counts. Everything is read under ``Roots``, for any pid,
so that the agent can ask for another process's reservation. A limit that cannot be read
(another namespace's group, a process that ended) is no limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from joulebook.meters import Roots

UNLIMITED_BYTES: Final = 1 << 60
"""Version 1 writes "no limit" as the largest page-aligned signed 64-bit number; nothing real comes near."""

Pid = int | str
"""A process id, or "self"."""


@dataclass(frozen=True, slots=True)
class Cgroup:
    """What one process's control groups leave it.

    cpus, memory_bytes: available to it (> 0), the machine's own where there is no limit.
    reserved_cpus, reserved_bytes: the limit itself, None when unlimited.
    usage: the file that counts the CPU time of the group that sets the tightest CPU limit, None when it has
    none or there is no limit.
    """

    cpus: float
    memory_bytes: int
    reserved_cpus: float | None = None
    reserved_bytes: int | None = None
    usage: Path | None = None


def cgroup_of(pid: Pid, roots: Roots) -> Cgroup:
    """The control group of a process, beside what the machine has."""
    reserved_cpus, reserved_bytes = cpus_of(pid, roots), memory_of(pid, roots)
    return Cgroup(
        cpus=machine_cpus(roots) if reserved_cpus is None else reserved_cpus,
        memory_bytes=machine_memory(roots) if reserved_bytes is None else reserved_bytes,
        reserved_cpus=reserved_cpus,
        reserved_bytes=reserved_bytes,
        usage=None if reserved_cpus is None else usage_file(pid, roots, _tightest(pid, roots)[1]),
    )


def cpus_of(pid: Pid, roots: Roots) -> float | None:
    """CPUs reserved for a process: the least of its cpuset and its quotas, None when unlimited."""
    least, _ = _tightest(pid, roots)
    return least if least < machine_cpus(roots) else None


def memory_of(pid: Pid, roots: Roots) -> int | None:
    """Bytes of memory reserved for a process: its tightest limit, None when unlimited."""
    machine = machine_memory(roots)
    directories = [directory for directory, _ in _directories("memory", pid, roots)]
    limits = [_whole(d / name) for d in directories for name in ("memory.max", "memory.limit_in_bytes")]
    least = min((limit for limit in limits if limit is not None), default=machine)
    return least if least < min(machine, UNLIMITED_BYTES) else None


def usage_file(pid: Pid, roots: Roots, group: str | None = None) -> Path | None:
    """The file that counts the CPU time of the process's own group, or of its ancestor ``group``."""
    for controller, name in (("cpu", "cpu.stat"), ("cpuacct", "cpuacct.usage")):
        found = list(_directories(controller, pid, roots))
        ordered = [d for d, path in found if path == group] + [d for d, _ in found]
        usage = next((d / name for d in ordered if _cpu_seconds(d / name) is not None), None)
        if usage is not None:
            return usage
    return None


def cpu_seconds(usage: Path) -> float:
    """CPU seconds that a group has used since it was made. Raises OSError when the group is gone."""
    seconds = _cpu_seconds(usage)
    if seconds is None:
        raise FileNotFoundError(2, "no CPU time in it", str(usage))
    return seconds


def machine_cpus(roots: Roots) -> int:
    """Hardware threads that are online."""
    lines = (roots.proc / "stat").read_text().splitlines()
    return sum(1 for line in lines if line.startswith("cpu") and not line.startswith("cpu "))


def machine_memory(roots: Roots) -> int:
    """Bytes of memory that the kernel manages."""
    for line in (roots.proc / "meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    raise FileNotFoundError(2, "no MemTotal in it", str(roots.proc / "meminfo"))


def cpu_list_size(text: str) -> int:
    """How many CPUs a kernel list such as "0-3,8" names."""
    size = 0
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        size += int(last or first) - int(first) + 1
    return size


def _tightest(pid: Pid, roots: Roots) -> tuple[float, str | None]:
    """The least CPU limit of a process and the path of the group that sets it; infinite without limits."""
    limits = [*_quotas(pid, roots), *_cpusets(pid, roots)]
    return min(limits, key=lambda limit: limit[0], default=(math.inf, None))


def _quotas(pid: Pid, roots: Roots) -> Iterator[tuple[float, str]]:
    """CPUs that each group from the process's own upwards may use, with its path."""
    for directory, path in _directories("cpu", pid, roots):
        words = (_text(directory / "cpu.max") or "").split()
        if not words:
            words = [
                _text(directory / "cpu.cfs_quota_us") or "-1",
                _text(directory / "cpu.cfs_period_us") or "100000",
            ]
        if words[0].isdigit() and int(words[0]) > 0:
            yield int(words[0]) / (int(words[1]) if len(words) > 1 else 100_000), path


def _cpusets(pid: Pid, roots: Roots) -> Iterator[tuple[float, str]]:
    """Sizes of the CPU sets from the process's own group upwards, with the group's path."""
    for directory, path in _directories("cpuset", pid, roots):
        for name in ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"):
            text = _text(directory / name)
            if text:
                yield float(cpu_list_size(text)), path
                break


def _directories(controller: str, pid: Pid, roots: Roots) -> Iterator[tuple[Path, str]]:
    """The group of that controller that the process is in, then its ancestors up to the mount, with their paths."""
    for mount, path in _memberships(controller, pid, roots):
        below = Path(path.lstrip("/"))
        # Inside a container the path may be the host's, while the mount starts at the container's own group.
        directory = mount / below if (mount / below).is_dir() else mount
        while True:
            yield directory, str(directory.relative_to(mount))
            if directory == mount:
                break
            directory = directory.parent


def _memberships(controller: str, pid: Pid, roots: Roots) -> Iterator[tuple[Path, str]]:
    """Mount point and path of the version 1 group of that controller, and of the version 2 group."""
    base = roots.sys / "fs" / "cgroup"
    for line in (_text(roots.proc / str(pid) / "cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            mount = next((m for m in (base / controller, base / controllers) if m.is_dir()), None)
        elif controllers == "":
            mount = next((m for m in (base, base / "unified") if (m / "cgroup.controllers").exists()), None)
        else:
            continue
        if mount is not None:
            yield mount, path


def _cpu_seconds(path: Path) -> float | None:
    text = _text(path)
    if text is None:
        return None
    if text.strip().isdigit():
        return int(text) / 1e9
    usage = next((line.split()[1] for line in text.splitlines() if line.startswith("usage_usec ")), None)
    return None if usage is None else int(usage) / 1e6


def _whole(path: Path) -> int | None:
    text = (_text(path) or "").strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None
