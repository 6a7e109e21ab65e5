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
from typing import TYPE_CHECKING, Final, NamedTuple

from joulebook.meters import Roots
from joulebook.units import NS_PER_US

if TYPE_CHECKING:
    from joulebook.groups import Level

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


class Group(NamedTuple):
    """A group that is a container, pod, or part of a Slurm job. usage: the file that counts its CPU time."""

    level: Level
    directory: Path
    usage: Path


class Limit(NamedTuple):
    """How much of a resource a group may use, and which group that is.

    group: its directory: two processes with the same one share the limit, and one whose directory lies within
    another's shares the outer one's too.  amount: CPUs, or bytes of memory (> 0).
    """

    group: str
    amount: float


def cpu_limit(pid: Pid, roots: Roots) -> Limit | None:
    """The tightest CPU limit of a process, set or quota, None when it may use all of the machine's."""
    found = min([*_quotas(pid, roots), *_cpusets(pid, roots)], key=lambda limit: limit[0], default=None)
    return None if found is None or found[0] >= machine_cpus(roots) else Limit(str(found[2]), found[0])


def memory_limit(pid: Pid, roots: Roots) -> Limit | None:
    """The tightest memory limit of a process, None when it may use all of the machine's."""
    found = [
        (limit, directory)
        for directory, _ in _directories("memory", pid, roots)
        for name in ("memory.max", "memory.limit_in_bytes")
        if (limit := _whole(directory / name))  # 0 is what a group has that is being emptied, and no share of anything
    ]
    least = min(found, key=lambda limit: limit[0], default=None)
    if least is None or least[0] >= min(machine_memory(roots), UNLIMITED_BYTES):
        return None
    return Limit(str(least[1]), float(least[0]))


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
    limit = cpu_limit(pid, roots)
    return None if limit is None else limit.amount


def memory_of(pid: Pid, roots: Roots) -> int | None:
    """Bytes of memory reserved for a process: its tightest limit, None when unlimited."""
    limit = memory_limit(pid, roots)
    return None if limit is None else int(limit.amount)


def usage_file(pid: Pid, roots: Roots, group: str | None = None) -> Path | None:
    """The file that counts the CPU time of the process's own group, or of its ancestor ``group``."""
    for controller, name in (("cpu", "cpu.stat"), ("cpuacct", "cpuacct.usage")):
        found = list(_directories(controller, pid, roots))
        ordered = [d for d, path in found if path == group] + [d for d, _ in found]
        usage = next((d / name for d in ordered if _usage_ns(d / name) is not None), None)
        if usage is not None:
            return usage
    return None


def own_group(pid: Pid, roots: Roots) -> Group | None:
    """The narrowest container, pod, Slurm task, step or job that a process is in and whose CPU time is counted."""
    from joulebook.groups import levels

    for controller, name in (("", "cpu.stat"), ("cpuacct", "cpuacct.usage")):
        for mount, path in _memberships(controller, pid, roots):
            for level in reversed(levels(path)):
                directory = mount / level.path.lstrip("/")
                if _usage_ns(directory / name) is not None:
                    return Group(level, directory, directory / name)
    return None


def members_of(directory: Path) -> set[int]:
    """Processes of a group and of the groups within it, by their numbers here; empty when it is gone."""
    found: set[int] = set()
    for file in (directory, *(path for path in directory.rglob("*") if path.is_dir())):
        found |= {int(word) for word in (_text(file / "cgroup.procs") or "").split()}
    return found


def group_usage_ns(usage: Path) -> int:
    """CPU nanoseconds that a group and all within it have used since it was made, ended processes included.

    usage: its ``cpu.stat`` (version 2, in steps of 1000 ns) or ``cpuacct.usage``.  Raises OSError when it is gone.
    """
    used = _usage_ns(usage)
    if used is None:
        raise FileNotFoundError(2, "no CPU time in it", str(usage))
    return used


def cpu_seconds(usage: Path) -> float:
    """CPU seconds that a group has used since it was made. Raises OSError when the group is gone."""
    return group_usage_ns(usage) / 1e9


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


def _list_size(text: str) -> int:
    """CPUs of a list, 0 for what is none."""
    try:
        return max(0, cpu_list_size(text))
    except ValueError:
        return 0


def _tightest(pid: Pid, roots: Roots) -> tuple[float, str | None]:
    """The least CPU limit of a process and the path of the group that sets it; infinite without limits."""
    limits = [*_quotas(pid, roots), *_cpusets(pid, roots)]
    least = min(limits, key=lambda limit: limit[0], default=None)
    return (math.inf, None) if least is None else least[:2]


def _quotas(pid: Pid, roots: Roots) -> Iterator[tuple[float, str, Path]]:
    """CPUs that each group from the process's own upwards may use, with its path and directory."""
    for directory, path in _directories("cpu", pid, roots):
        words = (_text(directory / "cpu.max") or "").split()
        quota, period = [*words, "", ""][:2]
        if not words:
            quota, period = _text(directory / "cpu.cfs_quota_us") or "", _text(directory / "cpu.cfs_period_us") or ""
        if _number(quota) and _number(period or "100000"):
            yield int(quota) / int(period or "100000"), path, directory


def _cpusets(pid: Pid, roots: Roots) -> Iterator[tuple[float, str, Path]]:
    """Sizes of the CPU sets from the process's own group upwards, with the group's path and directory."""
    for directory, path in _directories("cpuset", pid, roots):
        for name in ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"):
            text = _text(directory / name)
            if text and (size := _list_size(text)):
                yield float(size), path, directory
                break


def _directories(controller: str, pid: Pid, roots: Roots) -> Iterator[tuple[Path, str]]:
    """The group of that controller that the process is in, then its ancestors up to the mount, with their paths."""
    for mount, path in _memberships(controller, pid, roots):
        below = Path(path.lstrip("/"))
        if ".." in below.parts:
            continue  # a group outside of our view of the tree
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
        _, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if not colon or "\0" in path:
            continue
        if controller in controllers.split(","):
            mount = next((m for m in (base / controller, base / controllers) if m.is_dir()), None)
        elif controllers == "":
            mount = next((m for m in (base, base / "unified") if (m / "cgroup.controllers").exists()), None)
        else:
            continue
        if mount is not None:
            yield mount, path


def _usage_ns(path: Path) -> int | None:
    text = _text(path)
    if text is None:
        return None
    if (whole := _number(text)) is not None:
        return whole
    usage = next((line.partition(" ")[2] for line in text.splitlines() if line.startswith("usage_usec ")), "")
    used = _number(usage)
    return None if used is None else used * NS_PER_US


def _whole(path: Path) -> int | None:
    return _number(_text(path) or "")


def _number(text: str) -> int | None:
    """A whole number as the kernel writes one, None for anything else."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None
