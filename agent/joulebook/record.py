"""The start-of-run record: what a comparison must hold fixed, taken by the agent and never by the trainer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from joulebook.cgroup import cgroup_of
from joulebook.meters import Device, Roots
from joulebook.rows import Component

THREAD_VARIABLES: Final = (
    "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "CUDA_VISIBLE_DEVICES",
)  # fmt: skip
VISIBILITY: Final = {False: ("CUDA_VISIBLE_DEVICES",), True: ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")}
"""Whether a board is AMD's -> variables that limit which of them a process sees; the first that is set counts."""
GIT_SECONDS: Final = 2.0


def start_of_run_record(roots: Roots, pid: int, devices: Sequence[Device]) -> dict[str, Any]:
    """Hardware, limits, load, threads and code of a run's first process, as JSON types; unknown parts left out."""
    environ = _environ(roots.proc, pid)
    limits = cgroup_of(pid, roots)
    gpus = [device for device in devices if device.component is Component.GPU]
    record: dict[str, Any] = {
        "cpu_model": _cpu_model(roots.proc),
        "cpus": limits.cpus,
        "memory_bytes": limits.memory_bytes,
        "reserved_cpus": limits.reserved_cpus,
        "reserved_bytes": limits.reserved_bytes,
        "load_1min": os.getloadavg()[0],
        "threads": {name: environ[name] for name in THREAD_VARIABLES if name in environ},
        "meters": sorted({f"{device.component}: {device.method}" for device in devices}),
        "gpus": [device.model for device in gpus],
        "gpu_drivers": sorted({device.driver for device in gpus if device.driver}),
        "gpu_power_limits_watts": [device.limit_watts for device in gpus if device.limit_watts is not None],
        "visible_gpus": _visible(environ, devices),
        **_git(roots.proc, pid),
    }
    return {key: value for key, value in record.items() if value is not None and value != {}}


def visible_gpus(roots: Roots, pid: int, devices: Sequence[Device]) -> list[str] | None:
    """Ids of those GPUs, or of their slices, that the process may see; None when nothing limits them."""
    return _visible(_environ(roots.proc, pid), devices)


def _environ(proc: Path, pid: int) -> dict[str, str]:
    """A process's environment as it was when it started; empty when it may not be read."""
    try:
        words = (proc / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return {}
    pairs = (word.decode(errors="replace").partition("=") for word in words if word)
    return {name: value for name, _, value in pairs}


def _cpu_model(proc: Path) -> str | None:
    try:
        lines = (proc / "cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def _visible(environ: dict[str, str], devices: Sequence[Device]) -> list[str] | None:
    """Ids of the GPUs, or of their slices, that the process may see; None when nothing limits them.

    Indices count the boards of the variable's vendor. Where one vendor's are limited, all of the other's are visible.
    """
    seen: list[str] = []
    limited = False
    for amd, variables in VISIBILITY.items():
        boards = [
            device.device_id
            for device in devices
            if device.component is Component.GPU and device.u_common_key.startswith("amdgpu:") == amd
        ]
        text = next((environ[name] for name in variables if name in environ), None)
        limited |= text is not None
        words = boards if text is None else text.split(",")
        seen += [gpu for word in words for gpu in _named_by(word.strip(), boards)]
    return list(dict.fromkeys(seen)) if limited else None


def _named_by(word: str, boards: Sequence[str]) -> list[str]:
    """The boards that a word of such a variable names, by index or by how their id begins; slices as they are."""
    if word.startswith("MIG-"):
        return [word]
    if word.isdigit():
        return [boards[int(word)]] if int(word) < len(boards) else []
    return [board for board in boards if word and board.startswith(word)]


def _git(proc: Path, pid: int) -> dict[str, Any]:
    """Commit and dirty flag of the directory that the process works in."""
    import subprocess  # an agent that sees no run does without it

    try:
        cwd = os.readlink(proc / str(pid) / "cwd")  # noqa: PTH115
        commit = _run_git(cwd, "rev-parse", "HEAD")
        return {"git_commit": commit, "git_dirty": bool(_run_git(cwd, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return {}


def _run_git(cwd: str, *words: str) -> str:
    import subprocess

    # Reads only: no hooks, no index refresh, no prompt.
    environ = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    done = subprocess.run(
        ["git", "-C", cwd, *words], capture_output=True, timeout=GIT_SECONDS, check=True, env=environ, text=True
    )
    return done.stdout.strip()
