"""What a control group's path says: pod, container, Slurm job, step and task, by each runtime's and driver's naming.

Pure: text in, levels out. A path that no pattern knows has no levels, and is nobody's.

Names seen in: kubelet with the cgroupfs and the systemd driver (kubernetes pkg/kubelet/cm), containerd, CRI-O, Docker,
Podman; Slurm's cgroup/v1 and cgroup/v2 plug-ins (slurm.schedmd.com/cgroups.html, cgroup_v2.html).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_UID = r"[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32}"
_CONTAINER = r"[0-9a-f]{64}"

PATTERNS: Final = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        # kubelet: pod<uid> under kubepods (cgroupfs), kubepods-burstable-pod<uid with _>.slice (systemd).
        ("pod", rf"(?:^|-)pod({_UID})(?:$|\.slice(?:$|:))"),
        # podman's pods: machine-libpod_pod_<id>.slice, libpod_pod_<id>.
        ("pod", rf"libpod_pod_({_CONTAINER})(?:$|\.slice$)"),
        # <id>, docker-<id>.scope, cri-containerd-<id>.scope, crio-<id>[.scope], libpod-<id>[.scope],
        # <pod>.slice:cri-containerd:<id>; conmon is podman's and CRI-O's monitor beside the container.
        ("container", rf"^(?!.*(?:conmon|pod_))(?:.*[-:])?({_CONTAINER})(?:\.scope)?$"),
        ("job", r"^job_([0-9]+)$"),
        ("step", r"^step_([0-9]+(?:\+[0-9]+)?|batch|extern|interactive)$"),
        ("task", r"^task_([0-9]+|special)$"),
    )
)


class Level(NamedTuple):
    """One group on the way to a process. kind: pod, container, job, step, task.  path: its own, from the mount."""

    kind: str
    name: str
    path: str


def levels(path: str) -> tuple[Level, ...]:
    """The groups that mean something on a path of /proc/PID/cgroup, outermost first.

    A step or task counts only within a job, so that a directory of that name elsewhere is no step.
    """
    found: list[Level] = []
    at = ""
    for part in path.split("/"):
        if not part:
            continue
        at += f"/{part}"
        for kind, pattern in PATTERNS:
            match = pattern.search(part)
            inside = {level.kind for level in found}
            if match and not (kind == "step" and "job" not in inside) and not (kind == "task" and "step" not in inside):
                found.append(Level(kind, match[1].replace("_", "-") if kind == "pod" else match[1], at))
    return tuple(found)


def innermost(path: str) -> Level | None:
    """The narrowest of them, None where the path means nothing."""
    found = levels(path)
    return found[-1] if found else None
