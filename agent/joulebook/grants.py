"""The one command that lets this process read RAPL, for errors and for doctor."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

SOCKET_UNIT: Final = Path("/etc/systemd/system/joulebook-reader.socket")
SYSTEMD: Final = Path("/run/systemd/system")
"""Where our unit is once installed, and what is there while systemd runs the machine."""


def grant(energy: Path) -> str:
    """Starts the reader, which gives least; where there is no systemd, opens the files to everybody.

    energy: an energy_uj that cannot be read.
    """
    if SOCKET_UNIT.exists():
        return "sudo systemctl enable --now joulebook-reader.socket"
    if SYSTEMD.is_dir():
        from joulebook import reader

        start = f"/usr/bin/python3 -I {reader.__file__} --user {os.getuid()}"
        return f"sudo systemd-run --unit=joulebook-reader --collect -p RuntimeDirectory=joulebook {start}"
    return f"sudo chmod a+r {energy.parent.parent / '*' / 'energy_uj'}"


def admit(socket: Path) -> str:
    """Lets this user ask the reader at that socket."""
    import grp

    by_user = f"start the reader with --user {os.getuid()}"
    try:
        group = grp.getgrgid(socket.stat().st_gid)
    except (KeyError, OSError):
        return by_user
    return by_user if group.gr_gid == 0 else f"sudo usermod --append --groups {group.gr_name} $USER, then log in anew"
