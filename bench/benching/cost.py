"""CPU time and memory of processes, as the kernel counts them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

_CPUCLOCK_SCHED = 2
"""A process's CPU clock is clock number (~pid << 3) | 2 (clock_getcpuclockid): nanoseconds, ended threads included."""


def cpu_ns(pid: int) -> int:
    """CPU nanoseconds of a process so far, all its threads, those that ended too. Raises OSError once it is gone."""
    return time.clock_gettime_ns((~pid << 3) | _CPUCLOCK_SCHED)


def waited_ns(pid: int) -> int:
    """CPU nanoseconds of children that a process has waited for, in whole ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """A process and all that live below it."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(word) for word in task.read_text().split()]
    return found


def tree_cpu_ns(pid: int) -> int:
    """CPU nanoseconds of a process and all below it, those that ended and were waited for in whole ticks."""
    return sum(_or_zero(cpu_ns, p) for p in descendants(pid)) + waited_ns(pid)


def _or_zero(ask, pid: int) -> int:
    """A child may end between being listed and being asked: its time is then its parent's waited time."""
    try:
        return ask(pid)
    except (OSError, ProcessLookupError):
        return 0


def resident_mib(pids: Iterable[int]) -> float:
    """Resident memory now, MiB, each process's summed: pages that they share count once for each."""
    pages = sum(_or_zero(lambda p: int(Path(f"/proc/{p}/statm").read_text().split()[1]), pid) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
