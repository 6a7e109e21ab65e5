"""Who and where: machine, boot, a fresh run."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

RUN_ID: Final = "JOULEBOOK_RUN_ID"
"""The variable that carries a run's id to every process of it."""

MAX_ID: Final = 512
"""Longest run id, in characters."""


def machine_id(environ: Mapping[str, str] = os.environ) -> str:
    """JOULEBOOK_MACHINE_ID, else the host's machine-id, else the boot id."""
    if named := environ.get("JOULEBOOK_MACHINE_ID"):
        return named
    for place in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        try:
            found = Path(place).read_text().strip()
        except OSError:
            continue
        if found:
            return found
    return boot_id()


def boot_id(proc: Path = Path("/proc")) -> str:
    """The kernel's random id of this boot."""
    try:
        return (proc / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def new_run_id() -> str:
    """A fresh run id: sorts by time, unique by 32 random bits."""
    return time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + secrets.token_hex(4)
