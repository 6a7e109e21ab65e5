"""The one command that lets this process read RAPL, for errors and for doctor."""

from __future__ import annotations

import os
from pathlib import Path


def grant(energy: Path) -> str:
    """Starts the reader, which gives least; where there is no systemd, opens the files to everybody.

    energy: an energy_uj that cannot be read.
    """
    if Path("/etc/systemd/system/joulebook-reader.socket").exists():
        return "sudo systemctl enable --now joulebook-reader.socket"
    if Path("/run/systemd/system").is_dir():
        from joulebook import reader

        start = f"/usr/bin/python3 -I {reader.__file__} --user {os.getuid()}"
        return f"sudo systemd-run --unit=joulebook-reader --collect -p RuntimeDirectory=joulebook {start}"
    return f"sudo chmod a+r {energy.parent.parent / '*' / 'energy_uj'}"


def admit(socket: Path) -> str:
    """Lets this user ask the reader at that socket."""
    import grp

    group = socket.stat().st_gid
    try:
        name = grp.getgrgid(group).gr_name
    except KeyError:
        name = ""
    if group == 0 or not name:
        return f"start the reader with --user {os.getuid()}"
    return f"sudo usermod --append --groups {name} $USER, then log in anew"
