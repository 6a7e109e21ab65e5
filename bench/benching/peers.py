"""Peers: other tools, each measuring the same simulated node in its own way of sampling continuously.

Their paths are hard-coded, so each gets a mount namespace of its own in which the simulated tree lies over
/sys/class, and no network. That needs root; without it a peer is reported as not run.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from benching.node import Node

SCRIPTS = Path(__file__).parent.parent / "peers"
PEERS = ("codecarbon", "zeus", "carbontracker", "wattameter", "pyJoules")
READY_SECONDS = 60.0


@dataclass
class Peer:
    """One peer at work. process: None when it could not be run, for ``reason``."""

    name: str
    version: str = ""
    process: subprocess.Popen | None = None
    reason: str = ""
    told: Path | None = None

    @property
    def title(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version}".strip()

    def findings(self) -> dict:
        """What it says it measured, once ended: joules by component, and its own span."""
        try:
            return json.loads(self.told.read_text())
        except (AttributeError, OSError, ValueError):
            return {}


def start_peers(node: Node, python: str | None, period_seconds: float, names=PEERS) -> list[Peer]:
    """Every peer, started and ready, or with the reason why not. python: an interpreter that has them."""
    if python is None or not Path(python).exists():
        return [Peer(name, reason="not installed: see bench/peers.txt") for name in names]
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return [
            Peer(name, reason="not run: root is needed to lay the simulated tree over /sys/class") for name in names
        ]
    _complete_tree(node)
    python = str(Path(python).absolute())  # each starts in a folder of its own
    return [_start(node, python, name, period_seconds) for name in names]


def _complete_tree(node: Node) -> None:
    """What a real machine has besides: the control type's directory with its subsystem link, and an nvidia-smi."""
    control = node.sys / "devices" / "virtual" / "powercap" / "intel-rapl"
    for link, target in (
        (node.sys / "class" / "powercap" / "intel-rapl", control),
        (control / "subsystem", node.sys / "class" / "powercap"),
    ):
        if not link.is_symlink():
            link.symlink_to(target)
    command = node.root / "bin" / "nvidia-smi"
    command.parent.mkdir(exist_ok=True)
    command.write_text("#!/bin/sh\nexit 0\n")
    command.chmod(0o755)


def _start(node: Node, python: str, name: str, period_seconds: float) -> Peer:
    peer = Peer(name, _version(python, name), told=node.root / f"peer-{name}.json")
    if not peer.version:
        peer.reason = "could not be installed: see bench/peers.txt"
        return peer
    work = node.root / f"peer-{name}"
    work.mkdir()
    script = [python, str(SCRIPTS / f"with_{name}.py"), str(period_seconds), str(peer.told)]
    lay = 'mount --bind "$0" /sys/class && exec "$@"'
    log = (work / "log").open("w")
    environ = {
        "LD_LIBRARY_PATH": str(node.nvml),
        "HOME": str(work),
        "PATH": f"{node.root}/bin:{os.environ['PATH']}",
        "PYTHONPATH": "",
    }
    process = node.start(
        ["unshare", "-m", "-n", "sh", "-c", lay, str(node.sys / "class"), *script],
        environ,
        cwd=work,
        stdout=subprocess.PIPE,
        stderr=log,
    )
    if _is_ready(process):
        peer.process = process
    else:
        if process.poll() is None:
            process.kill()
        lines = (work / "log").read_text().strip().splitlines()
        peer.reason = f"cannot run on the simulator: {lines[-1][:160] if lines else 'it never became ready'}"
    return peer


def _is_ready(process: subprocess.Popen) -> bool:
    """Whether it said that it measures, before it ended and before READY_SECONDS."""
    deadline = time.monotonic() + READY_SECONDS
    said = b""
    while (left := deadline - time.monotonic()) > 0 and select.select([process.stdout], [], [], left)[0]:
        piece = os.read(process.stdout.fileno(), 4096)
        said += piece
        if b"ready" in said:
            return True
        if not piece:
            break
    return False


def _version(python: str, name: str) -> str:
    """The installed version, empty when there is none."""
    code = f"import importlib.metadata as m; print(m.version({name!r}))"
    environ = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run([python, "-c", code], env=environ, capture_output=True, text=True, check=False)
    return done.stdout.strip()
