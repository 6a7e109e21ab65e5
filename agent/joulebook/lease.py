"""Who owns a machine's meters: a lock that the kernel lets go of when its holder dies, and a status to read."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from joulebook.home import Home


def _safe(machine_id: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in machine_id)


def lease_path(home: Home, machine_id: str) -> Path:
    """The lock file of that machine's agent."""
    return home.agents / f"{_safe(machine_id)}.lease"


def status_path(home: Home, machine_id: str) -> Path:
    """Where that machine's agent says what it does."""
    return home.agents / f"{_safe(machine_id)}.json"


def log_path(home: Home, machine_id: str) -> Path:
    """Where an agent that was started for a run writes its messages."""
    return home.agents / f"{_safe(machine_id)}.log"


def outbox_path(home: Home, machine_id: str) -> Path:
    """The outbox of that machine's agents."""
    return home.outboxes / f"{_safe(machine_id)}.sqlite"


class Lease:
    """Held while open."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def close(self) -> None:
        """Let go."""
        os.close(self._fd)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def take_lease(home: Home, machine_id: str) -> Lease | None:
    """The lease of a machine's meters, None when another process has it."""
    fd = os.open(lease_path(home, machine_id), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return Lease(fd)


def lease_is_held(home: Home, machine_id: str) -> bool:
    """True while an agent of that machine lives."""
    lease = take_lease(home, machine_id)
    if lease is None:
        return True
    lease.close()
    return False


def write_status(home: Home, machine_id: str, status: dict[str, Any]) -> None:
    """Replace the status in one step, so that no reader sees half of it."""
    path = status_path(home, machine_id)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(status))
    fresh.replace(path)


def read_status(home: Home, machine_id: str) -> dict[str, Any]:
    """The agent's last status, empty when there is none."""
    try:
        status: dict[str, Any] = json.loads(status_path(home, machine_id).read_text())
    except (OSError, ValueError):
        return {}
    return status
