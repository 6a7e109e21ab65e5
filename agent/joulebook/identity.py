"""Who and where: machine, boot, a fresh run."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Final

RUN_ID: Final = "JOULEBOOK_RUN_ID"
"""The variable that carries a run's id to every process of it."""

INSIDE: Final = "JOULEBOOK_INSIDE"
"""The run that a track or ``joulebook run`` around this process set; a run id that somebody else set is not in it."""

MAX_ID: Final = 512
"""Longest run id, in characters."""


def machine_id(environ: Mapping[str, str] = os.environ) -> str:
    """JOULEBOOK_MACHINE_ID, else the host's machine-id, else the boot id."""
    if named := environ.get("JOULEBOOK_MACHINE_ID"):
        return named
    for place in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        try:
            found = _text(place)
        except OSError:
            continue
        if found:
            return found
    return boot_id()


def boot_id() -> str:
    """The kernel's random id of this boot: the same in all of a machine's containers."""
    return _text("/proc/sys/kernel/random/boot_id")


def _text(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read().strip()


def new_run_id() -> str:
    """A fresh run id: sorts by time, unique by 32 random bits."""
    return time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + os.urandom(4).hex()
