"""Starting an agent beside a job: its own session, no descriptor of the job's, nobody's child."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

from joulebook.home import Home
from joulebook.identity import INSIDE, RUN_ID, machine_id
from joulebook.lease import log_path, read_status, runs_are_taken

RESTART_SECONDS = 3.0
"""Time that a started agent is given to take the lease before another is started."""
IDLE_SECONDS = 8
"""An agent that was started for a run ends this long after the last run's end."""


def agent_command(until_idle_seconds: float | None, standby: bool | None, *, debug: bool = False) -> list[str]:
    """What starts an agent: not by the program ``joulebook``, whose command line would stay in its memory."""
    words = [] if until_idle_seconds is None else ["--until-idle", str(until_idle_seconds)]
    if standby is not None:
        words.append("--standby" if standby else "--no-standby")
    if debug:
        words.append("--debug")
    return [sys.executable, "-m", "joulebook.serve", *words]


def start_agent(home: Home) -> None:
    """Start an agent that ends by itself. The shell in between leaves at once, so that it becomes init's child."""
    log = log_path(home, machine_id())
    command = agent_command(IDLE_SECONDS, None)
    # Not in the run that it is started from: what it uses itself is nobody's.
    environ = {name: value for name, value in os.environ.items() if name not in (RUN_ID, INSIDE)}
    environ["JOULEBOOK_HOME"] = str(home.root)
    if home.shared is not None:
        environ["JOULEBOOK_MARKS"] = str(home.shared)
    with subprocess.Popen(
        ["/bin/sh", "-c", 'exec 2>>"$0"; "$@" &', str(log), *command],
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
    """Start an agent when none takes new runs; a failure leaves the job as it was and its energy unmeasured (law 7).

    The caller has written its join mark before it asks: an agent that is about to end sees it, or another is started.
    """
    try:
        if not runs_are_taken(home):
            start_agent(home)
    except OSError:
        return


def wait_for_run(home: Home, run_id: str, state: str, seconds: float) -> dict[str, Any] | None:
    """The agent's status once it says that the run is in ``state`` ("open", "closed"). None after ``seconds``.

    An agent is started as often as none lives: to meter the run, or to finish what a dead one left.
    """
    deadline = time.monotonic() + seconds
    try_again_at = 0.0
    while (now := time.monotonic()) < deadline:
        status = read_status(home)
        if status.get("runs", {}).get(run_id) == state:
            return status
        if now > try_again_at and not runs_are_taken(home):
            start_agent(home)
            try_again_at = now + RESTART_SECONDS
        time.sleep(0.02)
    return None
