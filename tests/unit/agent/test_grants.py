"""The one command that lets a process read RAPL."""

import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from joulebook import grants, reader

ENERGY = Path("/sys/class/powercap/intel-rapl:0/energy_uj")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with neither systemd nor units."""
    monkeypatch.setattr(grants, "SOCKET_UNIT", tmp_path / "joulebook-reader.socket")
    monkeypatch.setattr(grants, "SYSTEMD", tmp_path / "systemd")
    return tmp_path


def test_without_systemd_the_files_are_opened(host: Path) -> None:
    assert grants.grant(ENERGY) == "sudo chmod a+r /sys/class/powercap/*/energy_uj"


def test_with_systemd_the_reader_is_started_for_this_user(host: Path) -> None:
    (host / "systemd").mkdir()
    command = shlex.split(grants.grant(ENERGY))
    assert command[:2] == ["sudo", "systemd-run"]
    python = command.index("/usr/bin/python3")
    assert command[python + 1 :] == ["-I", reader.__file__, "--user", str(os.getuid())]
    told = subprocess.run(
        [sys.executable, *command[python + 1 : -2], "--help"], capture_output=True, text=True, check=True
    )
    assert "--user" in told.stdout


def test_units_that_are_there_are_enabled(host: Path) -> None:
    (host / "systemd").mkdir()
    (host / "joulebook-reader.socket").touch()
    assert grants.grant(ENERGY) == "sudo systemctl enable --now joulebook-reader.socket"


def test_who_is_refused_joins_the_sockets_group_or_is_named(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "rapl.sock"))
    if os.geteuid() == 0:
        os.chown(tmp_path / "rapl.sock", -1, 1)
        assert grants.admit(tmp_path / "rapl.sock") == "sudo usermod --append --groups daemon $USER, then log in anew"
        os.chown(tmp_path / "rapl.sock", -1, 0)
        assert grants.admit(tmp_path / "rapl.sock") == f"start the reader with --user {os.getuid()}"
    assert grants.admit(tmp_path / "gone") == f"start the reader with --user {os.getuid()}"
