"""Who owns a machine's meters: locks that the kernel lets go of when their holder dies, and a status to read.

A lease is of one boot of one machine and one folder of marks, whatever the containers on it call the machine.
Its file has two bytes to lock. METERS: its holder reads the meters. RUNS: its holder takes new runs; an agent lets go
of it *before* it looks at the marks for the last time. So whoever writes its join mark first and asks afterwards knows:
while RUNS is held its mark will be seen, and else a new agent is due, who waits for METERS. Asking takes nothing.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

from joulebook.errors import JoulebookError
from joulebook.home import Home
from joulebook.identity import boot_id
from joulebook.locks import is_locked, lock, unlock
from joulebook.marks import open_regular

METERS: Final = 0
RUNS: Final = 1


def safe_name(text: str) -> str:
    """The text as a file name."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in text)


def lease_path(home: Home) -> Path:
    """The lock file of this boot's agent."""
    return home.agents / f"{safe_name(boot_id())}.lease"


def status_path(home: Home) -> Path:
    """Where this boot's agent says what it does."""
    return home.agents / f"{safe_name(boot_id())}.json"


def log_path(home: Home, machine_id: str) -> Path:
    """Where an agent that was started for a run writes its messages."""
    return home.logs / f"{safe_name(machine_id)}.log"


def outbox_path(home: Home, machine_id: str) -> Path:
    """The outbox of that machine's agents."""
    return home.outboxes / f"{safe_name(machine_id)}.sqlite"


class Lease:
    """The meters are its holder's while it is open.

    last_holder: agent_id of the outbox that went with the lease before, "" when nobody is on record.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.last_holder = os.pread(fd, 256, 0).decode(errors="replace").strip()

    def hold_for(self, agent_id: str) -> None:
        """Put on record whose readings follow: a later agent claims counters' differences of its own outbox only."""
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, agent_id.encode(), 0)
        self.last_holder = agent_id

    def take_runs(self) -> None:
        """From now on a join mark written before it was asked is seen by this agent."""
        lock(self._fd, RUNS)

    def refuse_runs(self) -> None:
        """Whoever joins from now on starts another agent."""
        unlock(self._fd, RUNS)

    def close(self) -> None:
        """Let go."""
        os.close(self._fd)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def take_lease(home: Home) -> Lease | None:
    """The lease of this machine's meters, None when another process has it."""
    fd = open_lease(home)
    lease = try_lease(fd)
    if lease is None:
        os.close(fd)
    return lease


def open_lease(home: Home) -> int:
    """A descriptor of the lock file, for who asks again and again."""
    path = lease_path(home)
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise JoulebookError(
            f"cannot open {path}: {error.strerror}", "run the agent as the user who made it, or as root"
        ) from error


def try_lease(fd: int) -> Lease | None:
    """The lease, None when another process has it: then the descriptor stays the caller's."""
    try:
        lock(fd, METERS)
    except BlockingIOError:
        return None
    except OSError as error:
        os.close(fd)
        raise JoulebookError(
            f"the agent's lease cannot be locked: {error.strerror}",
            "place JOULEBOOK_HOME, or JOULEBOOK_MARKS, on a file system with locks",
        ) from error
    return Lease(fd)


def lease_is_held(home: Home, byte: int = METERS) -> bool:
    """True while a process holds that byte of the lease. Nothing is taken, so nobody is kept from taking it."""
    try:
        return is_locked(lease_path(home), byte)
    except FileNotFoundError:
        return False


def holder_of(home: Home) -> str:
    """agent_id of the outbox that goes with the lease, or went last; "" when nobody is on record."""
    try:
        with open_regular(lease_path(home)) as file:
            return file.read(256).decode(errors="replace").strip()
    except OSError:
        return ""


def runs_are_taken(home: Home) -> bool:
    """True while an agent of this machine takes new runs: a join mark written before is seen by it."""
    return lease_is_held(home, RUNS)


def write_status(home: Home, machine_id: str, status: dict[str, Any]) -> None:
    """Replace the status in one step, so that no reader sees half of it."""
    path = status_path(home)
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with fresh.open("x") as file:  # not through a link that somebody else put there
        file.write(json.dumps({"machine": machine_id, **status}))
    fresh.replace(path)


def read_status(home: Home) -> dict[str, Any]:
    """The agent's last status, empty when there is none."""
    return status_in(status_path(home))


def status_in(path: Path) -> dict[str, Any]:
    """What a status file says, nothing where it is none."""
    try:
        with open_regular(path) as file:
            status = json.loads(file.read())
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}


def forget_other_boots(home: Home, machine_id: str) -> None:
    """Remove leases and statuses of this machine's earlier boots: nobody can hold them any more."""
    for path in home.agents.glob("*.json"):
        if path != status_path(home) and status_in(path).get("machine") == machine_id:
            path.with_suffix(".lease").unlink(missing_ok=True)
            path.unlink(missing_ok=True)
