"""A second agent beside the first: it stands by, takes over from the dead, and no run falls between two agents."""

import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import JOULEBOOK, is_alive, wait_for
from joulebook.clock import boottime_ns
from joulebook.home import Home
from joulebook.lease import lease_is_held, read_status, runs_are_taken, take_lease

TRAINER = """
import joulebook, time
with joulebook.track("t"), joulebook.phase("train"):
    time.sleep(%g)
"""


def trainer(bench, seconds):
    return subprocess.Popen([sys.executable, "-c", TRAINER % seconds], env=bench.environ)


def owned_by(bench, pid):
    return lambda: read_status(bench.home).get("pid") == pid and runs_are_taken(bench.home)


def test_a_second_agent_takes_over_from_a_killed_one_and_no_joule_is_lost(simulated):
    simulated.powercap("--packages", "1", "--curve", "constant:100")
    simulated.environ["JOULEBOOK_METERS"] = "rapl"
    first = simulated.start("agent", stderr=subprocess.DEVNULL)
    wait_for(owned_by(simulated, first.pid), what="the owner")
    second = simulated.start("agent", stderr=subprocess.PIPE, text=True)
    assert f"pid {first.pid} of" in second.stderr.readline()
    job = trainer(simulated, 13)
    # Once a span was flushed there is something to take over from.
    wait_for(lambda: simulated.home.outboxes.glob("*") and open_rows(simulated), what="the first flush")
    os.kill(first.pid, signal.SIGKILL)
    killed_ns = boottime_ns()
    assert "metering" in second.stderr.readline()
    assert (boottime_ns() - killed_ns) / 1e9 < 2
    wait_for(owned_by(simulated, second.pid), what="the successor")
    assert job.wait(60) == 0
    closed = lambda: set(read_status(simulated.home)["runs"].values()) == {"closed"}  # noqa: E731
    wait_for(closed, what="the run's end")
    (run,) = simulated.runs().values()
    energy = simulated.energy(run)
    truth = simulated.truth(run.started_ns, run.ended_ns)
    assert energy.conservation.holds
    assert energy.own / 1000 == pytest.approx(sum(truth.values()), rel=0.01)
    second.send_signal(signal.SIGTERM)
    assert second.wait(30) == 0
    assert not lease_is_held(simulated.home)


def open_rows(simulated):
    from joulebook.outbox import Outbox

    for path in simulated.home.outboxes.glob("*.sqlite"):
        outbox = Outbox(path, writer=False)
        try:
            return outbox.open_rows()
        finally:
            outbox.close()
    return {}


def test_an_agent_that_stands_by_can_be_stopped(bench):
    bench.environ["JOULEBOOK_METERS"] = "model"
    first = bench.start("agent", stderr=subprocess.DEVNULL)
    wait_for(owned_by(bench, first.pid), what="the owner")
    second = bench.start("agent", stderr=subprocess.PIPE, text=True)
    assert "standing by" in second.stderr.readline()
    second.terminate()
    assert second.wait(10) == 0
    assert owned_by(bench, first.pid)()


def test_a_run_that_begins_while_the_last_agent_is_ending_is_metered(bench):
    bench.environ["JOULEBOOK_METERS"] = "model"
    bench.home.make()
    with take_lease(bench.home):  # an agent that takes no more runs and is flushing
        job = trainer(bench, 3)
        wait_for(lambda: list(bench.home.marks.glob("*.jsonl")), what="the join mark")
        time.sleep(1)
        assert not runs_are_taken(bench.home)
    wait_for(lambda: runs_are_taken(bench.home), what="the successor")
    assert job.wait(30) == 0
    pid = bench.agent_pid()
    wait_for(lambda: not is_alive(pid), seconds=25, what="the agent's end")
    (run,) = bench.runs().values()
    assert (run.status, bench.energy(run).own > 0) == ("ok", True)


def test_many_processes_that_begin_at_once_leave_one_agent(bench):
    bench.environ["JOULEBOOK_METERS"] = "model"
    jobs = [trainer(bench, 2) for _ in range(6)]
    assert [job.wait(60) for job in jobs] == [0] * 6
    pids = {int(path.name) for path in Path("/proc").glob("[0-9]*") if is_agent_of(bench, path)}
    assert pids == {bench.agent_pid()}
    wait_for(lambda: set(read_status(bench.home)["runs"].values()) == {"closed"}, what="the runs' end")
    assert {run.status for run in bench.runs().values()} == {"ok"}
    assert len(bench.runs()) == 6


def is_agent_of(bench, process):
    """True for an agent process of that home, whoever started it."""
    try:
        home = f"JOULEBOOK_HOME={bench.home.root}".encode()
        environ = (process / "environ").read_bytes().split(b"\0")
        return b"joulebook.serve" in (process / "cmdline").read_bytes() and home in environ
    except OSError:
        return False


def test_a_sidecar_with_a_home_of_its_own_stands_by_for_the_daemon(simulated):
    simulated.powercap("--packages", "1", "--curve", "constant:100")
    simulated.environ["JOULEBOOK_METERS"] = "rapl"
    simulated.environ["JOULEBOOK_MARKS"] = str(simulated.root / "shared")
    own = {"JOULEBOOK_HOME": str(simulated.root / "sidecar"), "JOULEBOOK_MACHINE_ID": "in-a-container"}
    sidecar_environ = simulated.environ | own
    homes = [Home(simulated.root / name, simulated.root / "shared") for name in ("home", "sidecar")]
    daemon = simulated.start("agent", stderr=subprocess.DEVNULL)
    wait_for(lambda: read_status(homes[0]).get("pid") == daemon.pid, what="the daemon")
    sidecar = subprocess.Popen([*JOULEBOOK, "agent"], env=sidecar_environ, stderr=subprocess.PIPE, text=True)
    simulated.started.append(sidecar)
    assert f"pid {daemon.pid} of" in sidecar.stderr.readline()
    job = subprocess.Popen([sys.executable, "-c", TRAINER % 3], env=sidecar_environ)
    assert job.wait(30) == 0
    closed = lambda: "closed" in read_status(homes[1])["runs"].values()  # noqa: E731
    wait_for(closed, what="the run's end, told to the sidecar's container")
    (run,) = simulated.runs().values()
    truth = simulated.truth(run.started_ns, run.ended_ns)
    assert simulated.energy(run).own / 1000 == pytest.approx(sum(truth.values()), rel=0.05)
    assert not list((simulated.root / "sidecar/outbox").glob("*")), "the sidecar meters nothing while the daemon lives"
    daemon.kill()
    assert "metering" in sidecar.stderr.readline()
    wait_for(lambda: read_status(homes[0]).get("pid") == sidecar.pid, what="the sidecar's status")
    sidecar.terminate()
    assert sidecar.wait(30) == 0


def test_counters_that_another_home_read_meanwhile_are_not_claimed_again(simulated):
    """Daemon, sidecar, daemon: the last one's measurements do not overlap the second's."""
    simulated.powercap("--packages", "1", "--curve", "constant:100")
    simulated.environ["JOULEBOOK_METERS"] = "rapl"
    simulated.environ["JOULEBOOK_MARKS"] = str(simulated.root / "shared")
    spans = []
    for home in ("home", "sidecar", "home"):
        environ = {**simulated.environ, "JOULEBOOK_HOME": str(simulated.root / home)}
        agent = subprocess.Popen([*JOULEBOOK, "agent"], env=environ, stderr=subprocess.DEVNULL)
        simulated.started.append(agent)
        shared = Home(simulated.root / home, simulated.root / "shared")
        wait_for(lambda shared=shared, agent=agent: read_status(shared).get("pid") == agent.pid, what="the agent")
        time.sleep(2)
        agent.terminate()
        assert agent.wait(30) == 0
        before = len(spans)
        spans += [s for s in spans_of(shared) if s not in spans]
        assert len(spans) > before
    spans.sort()
    assert all(a[1] <= b[0] for a, b in pairwise(spans)), spans


def spans_of(home):
    from joulebook.outbox import Outbox
    from joulebook.rows import Measurement

    (path,) = home.outboxes.glob("*.sqlite")
    outbox = Outbox(path, writer=False)
    bodies = [row.body for batch in outbox.batches() for row in batch.rows]
    outbox.close()
    return [(m.started_ns, m.ended_ns) for m in bodies if isinstance(m, Measurement)]


def test_an_agent_is_not_in_the_run_that_it_is_started_from(bench):
    bench.environ |= {"JOULEBOOK_METERS": "model", "JOULEBOOK_RUN_ID": "around", "JOULEBOOK_INSIDE": "around"}
    assert trainer(bench, 0.5).wait(30) == 0
    environ = Path(f"/proc/{bench.agent_pid()}/environ").read_bytes()
    assert b"JOULEBOOK_HOME=" in environ
    assert b"around" not in environ
