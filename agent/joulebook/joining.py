"""What a process says when it joins a run: who and where it is, twice, so that one damaged line loses no process."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from joulebook.identity import boot_id, machine_id
from joulebook.marks import MAX_LINE, SUFFIX, MarksWriter, members
from joulebook.ranks import place_of

SPARE: Final = 512
"""Bytes of a line that are not the join's own members."""


def marks_name(run_id: str, pid: int, tag: str) -> str:
    """The name of a process's marks file; a run id that is no file name is told by the lines alone."""
    plain = len(run_id) <= 128 and run_id.isascii() and all(c.isalnum() or c in "-_.@=+," for c in run_id)
    first = run_id if plain and not run_id.startswith(".") else f"~{hashlib.sha256(run_id.encode()).hexdigest()[:16]}"
    return f"{first}.{pid}.{tag}{SUFFIX}"


def write_join(
    marks: MarksWriter, run_id: str, role: str, labels: Mapping[str, Any], argv: Sequence[str], note: str = ""
) -> None:
    """Join the run: a line with everything, and a second one with what must not be missing."""
    place = place_of()
    facts = {
        "run": run_id,
        "role": role,
        "pid": os.getpid(),
        "machine": machine_id(),
        "boot": boot_id(),
        "pid_ns": _pid_namespace(),
        "started_ticks": _started_ticks(),
        "cgroup": _cgroup(),
        "rank": place.rank,
        "world_size": place.world_size,
        "nodes": place.nodes,
        "restart": place.restart,
        "note": note or None,
        "labels": dict(labels) or None,
    }
    extra = {
        "cwd": working_directory(),
        "argv": [word[:512] for word in argv[:32]],
        "python": sys.version.split()[0],
    }
    if not _fits(facts):
        facts |= {"labels": None, "note": "its labels were too long for a mark and are left out"}
    marks.write("join", members(facts | extra) if _fits(facts | extra) else members(facts))
    marks.write("join", members({**facts, "again": True}))


def _fits(values: Mapping[str, Any]) -> bool:
    return len(members(values).encode()) <= MAX_LINE - SPARE


def _pid_namespace() -> int | None:
    """Inode of the namespace that the process's pid is a number of."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116
    except OSError:
        return None


def _started_ticks() -> int | None:
    """When the process started, in clock ticks after boot: the same number in every namespace."""
    try:
        with open("/proc/self/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def _cgroup() -> str | None:
    """The control group of the process as it sees it, of version 2, else of version 1's cpuacct or memory."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8", errors="replace") as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return None
    found = {controller: parts[2] for parts in lines if len(parts) == 3 for controller in parts[1].split(",")}
    paths = [found.get(name, "/") for name in ("", "cpuacct", "memory")]
    return next((path for path in paths if path != "/"), "/") if found else None


def working_directory() -> str | None:
    """Where the process works, None when that directory is gone."""
    try:
        return os.getcwd()  # noqa: PTH109  Path.cwd() costs an object on a hot start
    except OSError:
        return None
