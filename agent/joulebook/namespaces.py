"""Which process here is the one that names itself by a pid of its own namespace (a container's).

A pid is a number of one namespace. A process of an inner one is listed here too, under another number, and
``NSpid`` in its status gives its number in each namespace from here inwards (proc_pid_status(5)). Looked up once,
when a process joins: the start times, the same in all namespaces, leave few to ask.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from joulebook.processes import read_stat

TICKS_APART: Final = 1
"""Start times that may be of one process: clock ticks are rounded."""


def pid_here(proc: Path, namespace: int | None, pid: int, started_ticks: int | None) -> int | None:
    """The process's number under ``proc``, None when it is not to be seen there.

    namespace: inode of the pid namespace that ``pid`` is a number of, None when unknown: then it is taken for ours.
    started_ticks: when it started after boot, in clock ticks, None when unknown.
    """
    if namespace is None or (numbers_are_ours(proc) and namespace == _namespace(proc, "self")):
        stat = read_stat(proc, pid)
        return pid if stat is not None and _may_be(started_ticks, stat.started_ticks) else None
    for name in os.listdir(proc):  # noqa: PTH208
        if not name.isdigit():
            continue
        stat = read_stat(proc, int(name))
        if stat is None or not _may_be(started_ticks, stat.started_ticks) or _numbers(proc, name)[-1:] != [pid]:
            continue
        found = _namespace(proc, name)
        if found == namespace or (found is None and started_ticks is not None):
            return int(name)
    return None


def numbers_are_ours(proc: Path) -> bool:
    """True when the numbers under ``proc`` are those that system calls of this process take."""
    return len(_numbers(proc, "self")) == 1


def _may_be(told: int | None, seen: int) -> bool:
    return told is None or abs(told - seen) <= TICKS_APART


def users_of(proc: Path, pid: int) -> set[int]:
    """Real, effective, saved and file-system user ids of a process; empty when it is gone."""
    try:
        with open(f"{proc}/{pid}/status", "rb") as file:
            line = next((line for line in file if line.startswith(b"Uid:")), b"")
    except OSError:
        return set()
    return {int(word) for word in line.split()[1:] if word.isdigit()}


def _numbers(proc: Path, name: str) -> list[int]:
    """The process's number in each namespace from that of ``proc`` inwards; empty when it is gone."""
    try:
        with open(f"{proc}/{name}/status", "rb") as file:
            line = next((line for line in file if line.startswith(b"NSpid:")), b"")
    except OSError:
        return []
    return [int(word) for word in line.split()[1:] if word.isdigit()]


def _namespace(proc: Path, name: str) -> int | None:
    """Inode of a process's pid namespace; None when it may not be known, as of another user's process."""
    try:
        return os.stat(f"{proc}/{name}/ns/pid").st_ino  # noqa: PTH116
    except OSError:
        return None
