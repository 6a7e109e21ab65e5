"""Outboxes of other machines in a shared home: a SQLite file must not be open on two machines at once.

Its write-ahead log is kept in step through memory that only one machine's processes share (sqlite.org/wal.html). Who
takes the lease of a machine's agent keeps every agent of it away meanwhile, and so has the file alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from joulebook.home import Home
from joulebook.identity import boot_id, machine_id
from joulebook.lease import METERS, safe_name, status_in
from joulebook.locks import lock


class Busy(Exception):
    """Why a machine's outbox is left alone, and what to do."""


def held_still(home: Home, outbox: Path, stack: ExitStack) -> None:
    """Return when that outbox may be opened here; what keeps its agent away meanwhile is held by ``stack``.

    Raises Busy while its agent runs on another machine, or when nobody can tell.
    """
    here = safe_name(boot_id())
    boots = set(_boots_of(home, outbox.stem))
    # Processes of this kernel share memory with us. Another may still have the name: machines are cloned with theirs.
    for boot in sorted(boots - {here}):
        _take_lease(home.agents / f"{boot}.lease", outbox.stem, stack)
    known = boots or outbox.stem == safe_name(machine_id())
    if not known and outbox.with_name(f"{outbox.name}-shm").exists():
        raise Busy(
            f"the outbox of {outbox.stem} is left alone: it may be open on that machine;"
            f" report there, or remove {outbox.name}-shm once no agent runs"
        )


def _boots_of(home: Home, machine: str) -> Iterator[str]:
    """Boots under which agents of that machine said what they do."""
    for path in home.agents.glob("*.json"):
        told = status_in(path).get("machine")
        if isinstance(told, str) and safe_name(told) == machine:
            yield path.stem


def _take_lease(path: Path, machine: str, stack: ExitStack) -> None:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        stack.callback(os.close, fd)
        lock(fd, METERS)
    except BlockingIOError:
        raise Busy(
            f"the outbox of {machine} is left alone: its agent runs there;"
            f" report again when it has ended, or on {machine}"
        ) from None
    except OSError as error:
        raise Busy(
            f"the outbox of {machine} is left alone: whether its agent runs cannot be asked ({error.strerror});"
            f" report on {machine}"
        ) from None
