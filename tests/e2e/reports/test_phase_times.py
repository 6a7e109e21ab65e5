"""How long a phase lasted, where a process of it was killed and another went on."""

import json
import subprocess
import sys
import time

import pytest
from conftest import wait_for
from joulebook.lease import read_status

TRAINER = """
import joulebook, sys, time
with joulebook.track("job"), joulebook.phase("train"):
    print("in train", flush=True)
    time.sleep(float(sys.argv[1]))
"""


@pytest.mark.slow
def test_the_time_of_a_killed_process_and_of_the_next_add_up(simulated):
    simulated.powercap("--packages", "1", "--curve", "constant:100")
    simulated.environ["JOULEBOOK_RUN_ID"] = "job"
    agent = simulated.start("agent", stderr=subprocess.DEVNULL)
    wait_for(lambda: read_status(simulated.home).get("pid") == agent.pid, what="the agent")
    command = [sys.executable, "-c", TRAINER]
    killed = subprocess.Popen([*command, "60"], env=simulated.environ, stdout=subprocess.PIPE)
    killed.stdout.readline()
    time.sleep(3)
    killed.kill()
    killed.wait()
    killed.stdout.close()
    time.sleep(2)
    assert (
        subprocess.run([*command, "4"], env=simulated.environ, stdout=subprocess.DEVNULL, check=False).returncode == 0
    )
    wait_for(lambda: read_status(simulated.home).get("runs", {}).get("job") == "closed", what="the run's end")
    agent.terminate()
    assert agent.wait(30) == 0
    report = simulated.joulebook("report", "run", "job", "--json")
    assert report.returncode == 0, report.stderr
    told = json.loads(report.stdout)
    assert 6.9 < told["phase_seconds"]["train"] < 8.3, "3 s and 4 s, the death seen within a sample of 1 s"
    assert told["phases"]["train"]["cpu"] == pytest.approx(told["phase_seconds"]["train"] * 100, rel=0.05)
