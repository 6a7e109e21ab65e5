"""Starting an agent beside a job: its own session, no descriptor of the job's, nobody's child."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

from joulebook.home import Home
from joulebook.identity import machine_id
from joulebook.lease import lease_is_held, log_path, read_status

IDLE_SECONDS = 8
"""An agent that was started for a run ends this long after the last run's end."""


def start_agent(home: Home) -> None:
    """Start an agent that ends by itself. The shell in between leaves at once, so that it becomes init's child."""
    log = log_path(home, machine_id())
    command = [sys.executable, "-m", "joulebook", "agent", "--until-idle", str(IDLE_SECONDS)]
    environ = {**os.environ, "JOULEBOOK_HOME": str(home.root)}
    with subprocess.Popen(
        ["/bin/sh", "-c", 'exec 2>>"$0"; shift 0; "$@" &', str(log), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=environ,
        start_new_session=True,
        close_fds=True,
    ) as shell:
        shell.wait()


def start_agent_quietly(home: Home) -> None:
    """Start an agent when none runs; a failure leaves the job as it was and its energy unmeasured (law 7)."""
    try:
        if not lease_is_held(home, machine_id()):
            start_agent(home)
    except OSError:
        return


def wait_until_metered(home: Home, run_id: str, seconds: float) -> dict[str, Any] | None:
    """The agent's status once it meters the run; an agent is started as often as none lives. None after ``seconds``."""
    deadline = time.monotonic() + seconds
    started = 0.0
    while time.monotonic() < deadline:
        status = read_status(home, machine_id())
        if status.get("runs", {}).get(run_id) == "open" and lease_is_held(home, machine_id()):
            return status
        if time.monotonic() > started + 3.0 and not lease_is_held(home, machine_id()):
            start_agent(home)
            started = time.monotonic()
        time.sleep(0.02)
    return None


def wait_until_closed(home: Home, run_id: str, seconds: float) -> bool:
    """True once the agent has written the run's last row. A dead agent is replaced, to finish what it left."""
    deadline = time.monotonic() + seconds
    started = 0.0
    while time.monotonic() < deadline:
        if read_status(home, machine_id()).get("runs", {}).get(run_id) == "closed":
            return True
        if time.monotonic() > started + 3.0 and not lease_is_held(home, machine_id()):
            start_agent(home)
            started = time.monotonic()
        time.sleep(0.02)
    return False
