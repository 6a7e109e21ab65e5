"""Trainers in pid namespaces of their own, as containers are, metered by a real agent outside or beside."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import JOULEBOOK, wait_for
from joulebook.home import Home
from joulebook.lease import read_status
from joulebook.namespaces import pid_here

INSIDE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
pytestmark = pytest.mark.skipif(
    subprocess.run([*INSIDE, "true"], capture_output=True, check=False).returncode != 0,
    reason="pid namespaces may not be made here",
)

BURN = """
import joulebook, os, sys, time
with joulebook.track(study="s"), joulebook.phase("train"):
    assert os.getpid() < 20, os.getpid()
    while time.process_time() < float(sys.argv[1]):
        pass
    print("burnt", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "burn.py"
    path.write_text(BURN)
    return str(path)


@pytest.fixture
def machine(simulated):
    simulated.powercap("--packages", "1", "--curve", "constant:100")
    simulated.environ |= {"JOULEBOOK_METERS": "rapl", "JOULEBOOK_POLICY": "utilisation"}
    return simulated


def start_agent(bench, *prefix, environ=None, home=None):
    agent = subprocess.Popen([*prefix, *JOULEBOOK, "agent"], env=environ or bench.environ, stderr=subprocess.DEVNULL)
    bench.started.append(agent)
    wait_for(lambda: "pid" in read_status(home or bench.home), what="the agent")
    return agent


def start_inside(bench, script, *words, environ=None):
    command = [*INSIDE, sys.executable, script, *words]
    job = subprocess.Popen(command, env=environ or bench.environ, stdout=subprocess.PIPE, text=True)
    bench.started.append(job)
    return job


def closed(home):
    ended = lambda: set(read_status(home).get("runs", {}).values()) == {"closed"}  # noqa: E731
    wait_for(ended, what="the run's end")


def test_a_process_of_an_inner_namespace_is_found_and_its_cpu_time_counts(machine, script):
    start_agent(machine)
    job = start_inside(machine, script, "2", "0")
    assert job.wait(60) == 0
    closed(machine.home)
    (run,) = machine.runs().values()
    assert (run.status, run.notes) == ("ok", ())
    assert "git_commit" in run.record or "load_1min" in run.record, "its record was taken from the right process"
    shares = [s for m in machine.measurements() if m.component == "cpu" for s in m.shares if s.run_id]
    assert sum(s.weights.cpu_seconds for s in shares) == pytest.approx(2, abs=0.3)


def test_a_process_of_an_inner_namespace_that_is_killed_is_missed(machine, script):
    start_agent(machine)
    job = start_inside(machine, script, "0.1", "60")
    assert job.stdout.readline() == "burnt\n"
    (pid,) = inner_pids(script)
    os.kill(pid, 9)
    closed(machine.home)
    (run,) = machine.runs().values()
    assert run.status == "interrupted"
    assert "killed or lost" in run.reason


def inner_pids(script):
    """Trainers by the numbers that they have here."""
    found = subprocess.run(["pgrep", "-f", f"^{sys.executable} {script}"], capture_output=True, text=True, check=True)
    return [int(word) for word in found.stdout.split()]


def test_an_agent_that_cannot_see_the_trainer_meters_it_while_its_file_is_held(machine, script, tmp_path):
    """A sidecar: the agent is in one pid namespace, the trainer in another; only the marks folder is shared."""
    machine.environ["JOULEBOOK_MARKS"] = str(tmp_path / "shared")
    machine.environ["JOULEBOOK_POLICY"] = "reserved"
    home = Home(machine.home.root, tmp_path / "shared")
    start_agent(machine, *INSIDE, home=home)
    jobs = [start_inside(machine, script, "0.1", seconds) for seconds in ("3", "60")]
    assert jobs[0].wait(60) == 0
    assert jobs[1].stdout.readline() == "burnt\n"
    states = lambda: sorted(read_status(home)["runs"].values())  # noqa: E731
    wait_for(lambda: states() == ["closed", "open"], what="the first run's end")
    jobs[1].kill()
    closed(home)
    runs = {run.status: run for run in machine.runs().values()}
    assert set(runs) == {"ok", "interrupted"}
    assert all("cannot see it" in run.notes[0] for run in runs.values())
    assert machine.energy(runs["ok"]).own > 0


def test_pids_are_told_apart_by_namespace_and_start(machine, script):
    machine.environ["JOULEBOOK_AGENT"] = "off"
    jobs = [start_inside(machine, script, "0", "60") for _ in range(2)]
    assert [job.stdout.readline() for job in jobs] == ["burnt\n"] * 2
    joins = [json.loads(path.read_text().splitlines()[0]) for path in machine.home.marks.glob("*.jsonl")]
    proc = Path("/proc")
    found = {pid_here(proc, join["pid_ns"], join["pid"], join["started_ticks"]) for join in joins}
    assert found == set(inner_pids(script))
    assert len({join["pid"] for join in joins}) == 1, "both call themselves the same"
    for join in joins:
        assert pid_here(proc, join["pid_ns"], join["pid"], None) in found
        assert pid_here(proc, join["pid_ns"], join["pid"] + 100, join["started_ticks"]) is None
        assert pid_here(proc, join["pid_ns"], join["pid"], join["started_ticks"] + 1000) is None
        assert pid_here(proc, 1, join["pid"], join["started_ticks"]) is None
    own = int((proc / "self/stat").read_text().rpartition(")")[2].split()[19])
    assert pid_here(proc, None, os.getpid(), own) == os.getpid()
    assert pid_here(proc, None, os.getpid(), own + 1000) is None, "the number was given to another process since"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_a_trainer_of_another_user_shares_the_daemons_folder(machine, tmp_path):
    as_nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    if subprocess.run([*as_nobody, sys.executable, "-c", "import joulebook"], check=False).returncode != 0:
        pytest.skip("nobody may not read this installation")
    for directory in (tmp_path, *tmp_path.parents):
        if not directory.stat().st_mode & 0o077:  # what pytest made for itself alone
            directory.chmod(0o755)
    machine.environ["JOULEBOOK_MARKS"] = str(tmp_path / "shared")
    home = Home(machine.home.root, tmp_path / "shared")
    start_agent(machine, home=home)
    theirs = machine.environ | {"JOULEBOOK_HOME": "/nowhere/to/write"}
    code = "import joulebook, time\nwith joulebook.track(), joulebook.phase('train'):\n    time.sleep(2)\n"
    assert subprocess.run([*as_nobody, sys.executable, "-c", code], env=theirs, check=False).returncode == 0
    closed(home)
    (run,) = machine.runs().values()
    assert run.status == "ok"
    assert machine.energy(run).phase["train"]


def test_joulebook_run_beside_a_daemon_of_another_home_says_where_the_rows_are(machine, tmp_path):
    machine.environ["JOULEBOOK_MARKS"] = str(tmp_path / "shared")
    home = Home(machine.home.root, tmp_path / "shared")
    start_agent(machine, home=home)
    theirs = machine.environ | {"JOULEBOOK_HOME": str(tmp_path / "theirs")}
    done = subprocess.run(
        [*JOULEBOOK, "run", "--", "sh", "-c", "sleep 1; exit 3"],
        env=theirs,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    closed(home)
    (run,) = machine.runs().values()
    assert (run.status, run.exit_code) == ("failed", 3)
    assert run.run_id in done.stderr
    assert "try:" in done.stderr
