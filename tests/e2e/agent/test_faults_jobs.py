"""Many runs, many processes and broken marks under one real agent (docs/faults.md)."""

import json
import os
import subprocess
import sys

import pytest
from conftest import wait_for
from faults import assert_true, assert_unbroken, by_device, lawful_rows, tell_cost
from joulebook.rows import Mark

pytestmark = pytest.mark.slow
soak = pytest.mark.soak

TRACKER = """
import joulebook, sys, time
for i in range(int(sys.argv[1])):
    with joulebook.track(f"{sys.argv[2]}-{i}"), joulebook.phase("train"):
        time.sleep(0.02)
"""


@pytest.mark.parametrize(
    ("processes", "tracks"), [(6, 10), pytest.param(100, 10, marks=[soak, pytest.mark.timeout(900)])]
)
def test_runs_begun_and_ended_by_the_dozen_leave_nothing_behind(simulated, processes, tracks):
    simulated.powercap("--packages", "1", "--dram", "--curve", "square:50,150,3")
    simulated.environ |= {"JOULEBOOK_METERS": "rapl", "JOULEBOOK_GRACE_SECONDS": "0"}
    script = simulated.root / "tracker.py"
    script.write_text(TRACKER)
    agent = simulated.start("agent", stderr=subprocess.PIPE, text=True)
    assert simulated.agent_pid() == agent.pid
    descriptors = lambda: len(os.listdir(f"/proc/{agent.pid}/fd"))  # noqa: E731, PTH208
    before = descriptors()
    for at in range(0, processes, 3):
        jobs = [
            subprocess.Popen([sys.executable, str(script), str(tracks), f"p{n}"], env=simulated.environ)
            for n in range(at, min(at + 3, processes))
        ]
        assert [job.wait(60) for job in jobs] == [0] * len(jobs)
    # The last three's CPU times are looked at once more, at the next span's edge.
    wait_for(lambda: descriptors() <= before + 3, 40, "the processes' handles to be given back")
    rows = lawful_rows(simulated)
    assert not list(simulated.home.marks.glob("*.jsonl"))
    assert agent.wait(10) == 0
    assert agent.stderr.read() == ""
    runs = simulated.runs()
    assert len(runs) == processes * tracks
    assert {run.status for run in runs.values()} == {"ok"}
    assert all(run.ended_ns > run.started_ns for run in runs.values())
    ended = [mark for mark in rows if isinstance(mark, Mark) and mark.kind == "end"]
    assert len(ended) == processes * tracks
    assert_true(simulated, rows, rel=0.02)  # of a second or two: milliseconds at either end
    for device in ("rapl:package-0", "rapl:package-0/dram"):
        assert_unbroken(rows, device)
    ours = sum(share.millijoules for m in simulated.measurements() for share in m.shares if share.run_id)
    whole = sum(m.energy_millijoules for m in simulated.measurements())
    assert 0 < ours < whole


SPAWNER = """
import os, resource, sys, time, joulebook
with joulebook.phase("train"):
    for _ in range(int(sys.argv[1])):
        pid = os.fork()
        if not pid:
            end = time.process_time() + 0.003
            while time.process_time() < end:
                pass
            os._exit(0)
        os.waitpid(pid, 0)
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(sum(u.ru_utime + u.ru_stime for u in used))
"""


@pytest.mark.parametrize("count", [300, pytest.param(5000, marks=[soak, pytest.mark.timeout(900)])])
def test_processes_that_live_for_milliseconds_are_their_runs(simulated, count):
    """None of them is ever seen by a look at the process list; all of their CPU time is on the run's shares."""
    simulated.powercap("--packages", "1", "--curve", "constant:100")
    simulated.environ |= {"JOULEBOOK_METERS": "rapl", "JOULEBOOK_POLICY": "utilisation"}
    script = simulated.root / "spawner.py"
    script.write_text(SPAWNER)
    out = simulated.root / "run.json"
    words = [sys.executable, str(script), str(count)]
    done = simulated.joulebook("run", "--json", str(out), "--", *words, timeout=600)
    assert done.returncode == 0, done.stderr
    document = json.loads(out.read_text())
    rows = lawful_rows(simulated)
    assert_true(simulated, rows, rel=0.02)
    tell_cost(simulated, document, simulated.runs()[document["run_id"]])
    used = float(done.stdout)
    claimed = sum(
        share.weights.cpu_seconds
        for mine in by_device(rows).values()
        for row in mine
        for share in row.shares
        if share.run_id == document["run_id"]
    )
    print(f"{claimed:.3f} CPU seconds on its shares, {used:.3f} used")
    # The interpreter's own start, before it joined its run, is the launcher's: it is in the run too.
    assert claimed == pytest.approx(used, rel=0.05, abs=0.15)


WRITER = """
import glob, joulebook, os, sys, time
damage = sys.argv[1]
with joulebook.phase("train"):
    time.sleep(3)
    (path,) = [p for p in glob.glob(os.environ["JOULEBOOK_HOME"] + "/marks/*.jsonl") if f".{os.getpid()}." in p]
    if damage == "cut":
        os.truncate(path, os.path.getsize(path) // 3)
    elif damage == "emptied":
        os.truncate(path, 0)
    elif damage == "removed":
        os.unlink(path)
    else:
        with open(path, "ab") as file:
            file.write(os.urandom(5000))
with joulebook.phase("eval"):
    time.sleep(3)
print("done")
sys.exit(3)
"""


@pytest.mark.parametrize("damage", ["cut", "emptied", "removed", "garbage"])
def test_a_marks_file_that_breaks_costs_its_marks_only(simulated, damage):
    simulated.powercap("--packages", "1", "--dram", "--curve", "constant:100")
    simulated.environ |= {"JOULEBOOK_METERS": "rapl"}
    script = simulated.root / "writer.py"
    script.write_text(WRITER)
    out = simulated.root / "run.json"
    done = simulated.joulebook("run", "--json", str(out), "--", sys.executable, str(script), damage)
    assert (done.returncode, done.stdout) == (3, "done\n"), done.stderr
    document = json.loads(out.read_text())
    rows = lawful_rows(simulated)
    assert_true(simulated, rows, rel=0.01)
    run = simulated.runs()[document["run_id"]]
    tell_cost(simulated, document, run)
    true = sum(simulated.truth(run.started_ns, run.ended_ns).values())
    assert document["energy_total_joules"] == pytest.approx(true, rel=0.02)
    assert run.exit_code == 3
    assert run.status == "failed"
    assert "train" in document["phases"]
    told = [note for note in document["notes"] if "unreadable lines" in note or "marks file" in note]
    assert told, document["notes"]
