"""``joulebook report`` alone is about the last run; what was killed is in it."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

from conftest import is_alive, wait_for


def test_without_more_words_it_shows_the_last_run(bench):
    assert bench.joulebook("run", "--quiet", "--name", "first", "--", "true").returncode == 0
    assert bench.joulebook("run", "--quiet", "--name", "second", "--", "true").returncode == 0
    agent = bench.agent_pid()
    wait_for(lambda: not is_alive(agent), seconds=60, what="the agent's end: its last rows come then")
    done = bench.joulebook("report")
    assert done.returncode == 0, done.stderr
    assert done.stdout == bench.joulebook("report", "run", "last").stdout
    last = json.loads(bench.joulebook("report", "run", "--json").stdout)
    assert last["run_id"] in done.stdout
    assert "PASS" in done.stdout


def test_a_run_whose_everything_was_killed_is_reported_interrupted(simulated):
    simulated.powercap("--packages", "1", "--dram", "--curve", "constant:100")
    launcher = simulated.start("run", "--quiet", "--", "sleep", "60", stderr=subprocess.DEVNULL)
    agent = simulated.agent_pid()
    time.sleep(7)
    (child,) = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    for pid in (agent, launcher.pid, int(child)):
        os.kill(pid, signal.SIGKILL)
    launcher.wait()
    done = simulated.joulebook("report", "run", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["status"] == "interrupted"
    kept = document["conservation"]
    assert kept["measured"] == kept["runs"] + kept["idle"] + kept["unattributed"] > 100_000
