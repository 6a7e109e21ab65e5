"""Who and where: machine, boot, run and rank."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

RUN_ID: Final = "JOULEBOOK_RUN_ID"
"""The variable that carries a run's id to every process of it."""

RANK_VARIABLES: Final = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK")


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


def inherited_run_id(environ: Mapping[str, str] = os.environ) -> str | None:
    """The run that this process was born into: own variable, torchrun unless its id is "none", a Slurm step.

    A Slurm job without a step is a batch script, whose commands are runs of their own.
    """
    if own := environ.get(RUN_ID):
        return own
    elastic = environ.get("TORCHELASTIC_RUN_ID")
    if elastic and elastic != "none":
        return f"torchrun-{elastic}"
    job, step = environ.get("SLURM_JOB_ID"), environ.get("SLURM_STEP_ID")
    if job and step:
        return f"slurm-{job}.{step}"
    return None


def rank(environ: Mapping[str, str] = os.environ) -> int | None:
    """This process's rank in its run, None when nothing says that it has one."""
    for variable in RANK_VARIABLES:
        value = environ.get(variable, "")
        if value.isdigit():
            return int(value)
    return None
