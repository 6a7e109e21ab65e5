"""Jobs side by side: by CPU seconds under utilisation, each GPU once, and the machine conserved."""

import json
import subprocess
import sys

import pytest
from conftest import wait_for

BURN = """
import sys, time, joulebook
with joulebook.phase("train"):
    end = time.monotonic() + float(sys.argv[1])
    duty = float(sys.argv[2])
    while time.monotonic() < end:
        stop = time.monotonic() + 0.01 * duty
        while time.monotonic() < stop:
            pass
        if duty < 1:
            time.sleep(0.01 * (1 - duty))
"""


def cpu_seconds_of_children(marks_rows, run_id):
    """CPU seconds that the marking process itself reports between its first and last mark of the run."""
    own = [mark.cpu_ns for mark in marks_rows if mark.run_id == run_id and mark.kind in ("begin", "end")]
    return (max(own) - min(own)) / 1e9


@pytest.mark.slow
def test_cpu_energy_follows_cpu_seconds_within_two_percent(simulated):
    simulated.powercap("--packages", "1", "--curve", "constant:100")
    simulated.environ["JOULEBOOK_POLICY"] = "utilisation"
    script = simulated.root / "burn.py"
    script.write_text(BURN)
    jobs = []
    for name, duty in (("a", "1"), ("b", "0.5")):
        out = simulated.root / f"{name}.json"
        jobs.append(
            simulated.start("run", "--quiet", "--json", str(out), "--", sys.executable, str(script), "20", duty)
        )
    assert [job.wait(timeout=90) for job in jobs] == [0, 0]
    documents = [json.loads((simulated.root / f"{name}.json").read_text()) for name in ("a", "b")]
    rows = simulated.rows()
    from joulebook.rows import Mark

    marks = [row for row in rows if isinstance(row, Mark)]
    seconds = [cpu_seconds_of_children(marks, d["run_id"]) for d in documents]
    joules = [d["phases"]["train"]["cpu"] for d in documents]
    assert 0.2 < seconds[1] / seconds[0] < 0.9, "the two jobs should differ in CPU seconds"
    assert joules[1] / joules[0] == pytest.approx(seconds[1] / seconds[0], rel=0.02)
    for measurement in simulated.measurements():
        assert sum(share.millijoules for share in measurement.shares) == measurement.energy_millijoules


@pytest.mark.slow
@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "in shells"])
def test_every_cpu_second_of_a_run_is_on_its_shares(simulated, wrapped):
    """From the first instant of a run to its last, whatever shells lie between us and the work."""
    simulated.powercap("--packages", "1", "--curve", "constant:100")
    burn = "import time\nwhile time.process_time() < 5: pass\n"
    (simulated.root / "burn.py").write_text(burn)
    command = [sys.executable, str(simulated.root / "burn.py")]
    if wrapped:
        command = ["sh", "-c", f"sh -c '{' '.join(command)}; true'; sleep 1; true"]
    assert simulated.joulebook("run", "--quiet", "--", *command).returncode == 0
    weights = [
        s.weights.cpu_seconds for m in simulated.measurements() if m.component == "cpu" for s in m.shares if s.run_id
    ]
    assert sum(weights) == pytest.approx(5.05, abs=0.25)


@pytest.mark.slow
def test_two_runs_at_once_share_and_conserve_the_machine(simulated):
    simulated.powercap("--packages", "1", "--dram", "--curve", "constant:100")
    simulated.nvml("--gpus", "1", "--curve", "constant:200")
    first = simulated.start("run", "--quiet", "--json", str(simulated.root / "a.json"), "--", "sleep", "9")
    wait_for(lambda: simulated.statuses(), what="an agent")
    second = simulated.start("run", "--quiet", "--json", str(simulated.root / "b.json"), "--", "sleep", "4")
    assert [first.wait(60), second.wait(60)] == [0, 0]
    a, b = (json.loads((simulated.root / f"{name}.json").read_text()) for name in "ab")
    # Side by side, each reserves half; the longer run has the machine for itself before and after.
    assert b["energy_joules"]["gpu"] == pytest.approx(200 * 4 / 2, rel=0.05)
    assert a["energy_joules"]["gpu"] == pytest.approx(200 * (9 - 4 / 2), rel=0.05)
    for document in (a, b):
        kept = document["conservation"]
        assert kept["measured"] == kept["runs"] + kept["idle"] + kept["unattributed"]


def test_a_run_of_four_processes_counts_each_of_two_gpus_once(simulated):
    simulated.nvml("--gpus", "2", "--curve", "constant:200")
    rank = simulated.root / "rank.py"
    rank.write_text(
        "import joulebook, time\nwith joulebook.track():\n  with joulebook.phase('train'):\n    time.sleep(5)\n"
    )
    launcher = simulated.root / "ranks.py"
    launcher.write_text(
        "import os, subprocess, sys\n"
        f"ranks = [subprocess.Popen([sys.executable, {str(rank)!r}], env={{**os.environ, 'RANK': str(i)}})"
        " for i in range(4)]\n"
        "sys.exit(sum(r.wait() for r in ranks))\n"
    )
    out = simulated.root / "run.json"
    done = simulated.joulebook("run", "--json", str(out), "--", sys.executable, str(launcher))
    assert done.returncode == 0, done.stderr
    document = json.loads(out.read_text())
    run = simulated.runs()[document["run_id"]]
    truth = simulated.truth(run.started_ns, run.ended_ns)
    gpus = {device: joules for device, joules in document["devices"].items() if device.startswith("GPU")}
    assert len(gpus) == 2
    assert document["energy_joules"]["gpu"] == pytest.approx(sum(truth[device] for device in gpus), rel=0.02)
    ranks = {share.rank for m in simulated.measurements() for share in m.shares if share.phase == "train"}
    assert ranks == {0, 1, 2, 3}


def test_a_second_agent_says_that_another_one_meters(simulated):
    simulated.nvml("--gpus", "1")
    first = simulated.start("agent", stderr=subprocess.DEVNULL)
    assert simulated.agent_pid() == first.pid
    done = simulated.joulebook("agent", "--no-standby")
    assert done.returncode == 1
    assert "another agent meters this machine" in done.stderr
    assert "try:" in done.stderr
