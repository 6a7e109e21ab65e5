"""Jobs of many processes, nodes and starts, through real agents: one run, every joule of it, and none twice."""

import os
import subprocess
import sys

import pytest
from conftest import JOULEBOOK, Simulated, wait_for
from joulebook.lease import read_status
from joulebook.summary import run_energy
from joulebook_collector.ledger import Ledger
from joulebook_collector.take import take_outboxes

RANK = """
import joulebook, sys, time
with joulebook.track(study="s") as run:
    with joulebook.phase("train"):
        time.sleep(float(sys.argv[1]))
"""
SLURM = {
    "SLURM_CLUSTER_NAME": "alps", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2",
    "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NAME": "t", "SLURM_SUBMIT_DIR": "/home/u",
}  # fmt: skip


@pytest.fixture
def rank(tmp_path):
    path = tmp_path / "rank.py"
    path.write_text(RANK)
    return str(path)


@pytest.fixture
def nodes(tmp_path):
    """Two machines of one Slurm job: each with a home, a name and RAPL counters of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JOULEBOOK_", "SLURM"))}
    made = []
    for task, watts in enumerate((100, 60)):
        root = tmp_path / f"node-{task}"
        root.mkdir()
        own = {"JOULEBOOK_HOME": str(root / "home"), "JOULEBOOK_MACHINE_ID": f"node-{task}", "JOULEBOOK_METERS": "rapl"}
        node = Simulated(root, {**kept, **SLURM, **own, "SLURM_PROCID": str(task)})
        node.powercap("--packages", "1", "--curve", f"constant:{watts}")
        made.append(node)
    yield made
    for node in made:
        node.close()


def start_agent(node):
    """An agent that meters before the job begins: how long one needs to start is not what is tested here."""
    agent = node.start("agent", stderr=subprocess.DEVNULL)
    wait_for(lambda: read_status(node.home).get("pid") == agent.pid, what="the agent")
    return agent


def closed(node):
    """The id of the node's one run once its agent has closed it."""

    def ids():
        runs = read_status(node.home).get("runs", {})
        done = [name for name, state in runs.items() if state == "closed"]
        return done if len(done) == len(runs) else None

    (found,) = wait_for(ids, what="the run's end")
    return found


def book_of(tmp_path, *homes):
    """One ledger of all homes."""
    with Ledger.open(tmp_path / "ledger.duckdb") as ledger:
        for home in homes:
            take_outboxes(ledger, home)
        return ledger.runs(), ledger.measurements()


def joules_of(run_id, measurements):
    """The run's joules by machine, from the shares alone."""
    found = {}
    for m in measurements:
        assert sum(share.millijoules for share in m.shares) == m.energy_millijoules
        mine = sum(share.millijoules for share in m.shares if share.run_id == run_id)
        found[m.machine_id] = found.get(m.machine_id, 0) + mine / 1000
    return found


def test_tasks_on_two_nodes_are_one_run_and_the_report_sums_both(nodes, rank, tmp_path):
    for node in nodes:
        start_agent(node)
    tasks = [
        nodes[0].start("run", "--quiet", "--", sys.executable, rank, "3"),
        subprocess.Popen([sys.executable, rank, "4"], env=nodes[1].environ),
    ]
    assert [task.wait(60) for task in tasks] == [0, 0]
    run_ids = {closed(node) for node in nodes}
    assert len(run_ids) == 1
    (run_id,) = run_ids
    assert run_id.startswith("slurm-alps-7.0-")
    spans = [node.runs()[run_id] for node in nodes]
    runs, measurements = book_of(tmp_path, *(node.home for node in nodes))
    assert [run.run_id for run in runs] == [run_id]
    joules = joules_of(run_id, measurements)
    for node, span in zip(nodes, spans, strict=True):
        truth = sum(node.truth(span.started_ns, span.ended_ns).values())
        assert joules[span.machine_id] == pytest.approx(truth, rel=0.05)
    energy = run_energy(runs[0], measurements)
    assert energy.own / 1000 == pytest.approx(sum(joules.values()))
    assert energy.conservation.holds
    ranks = {share.rank for m in measurements for share in m.shares if share.run_id}
    assert ranks >= {0, 1}


def test_a_requeued_job_goes_on_with_its_run_though_the_agent_has_ended(nodes, rank):
    node = nodes[0]
    for restart in ("0", "1"):
        agent = start_agent(node)
        environ = {**node.environ, "SLURM_RESTART_COUNT": restart, "SLURM_JOB_START_TIME": restart}
        assert subprocess.run([sys.executable, rank, "2"], env=environ, check=False).returncode == 0
        run_id = closed(node)
        agent.terminate()
        assert agent.wait(30) == 0
    versions = [row for row in node.rows() if type(row).__name__ == "Run" and row.run_id == run_id]
    first, last = versions[0], versions[-1]
    assert (last.started_at_us, last.started_ns) == (first.started_at_us, first.started_ns)
    assert (last.status, len(last.notes)) == ("ok", 2)
    assert last.notes[0].startswith("resumed after ")
    assert last.notes[1] == "started again by its launcher (1)"
    trained = sum(node.energy(last).phase["train"].values()) / 1000
    assert trained == pytest.approx(2 * 2 * 100, rel=0.05), "both parts, and not the pause between them"


def test_joulebook_run_joins_the_run_that_a_person_names_and_nests_in_one_around_it(bench):
    bench.environ |= {"JOULEBOOK_METERS": "model", "JOULEBOOK_RUN_ID": "mine"}
    nested = [*JOULEBOOK, "run", "--quiet", "--", "sleep", "1"]
    assert bench.joulebook("run", "--quiet", "--", *nested).returncode == 0
    runs = bench.runs()
    (child,) = set(runs) - {"mine"}
    assert runs["mine"].labels.parent_run_id == ""
    assert runs[child].labels.parent_run_id == "mine"
    assert {run.status for run in runs.values()} == {"ok"}


def test_a_script_under_joulebook_run_joins_the_named_run_and_its_own_command_nests(bench, rank):
    bench.environ |= {"JOULEBOOK_METERS": "model", "JOULEBOOK_RUN_ID": "mine"}
    assert bench.joulebook("run", "--quiet", "--", sys.executable, rank, "1").returncode == 0
    assert set(bench.runs()) == {"mine"}


ELASTIC = """
import joulebook, os, pathlib, sys, time
with joulebook.track(study="s"):
    with joulebook.phase("train"):
        time.sleep(1.5)
        if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and os.environ["RANK"] == "1":
            os.kill(os.getpid(), 9)
        time.sleep(1.5)
"""
HAS_TORCH = subprocess.run([sys.executable, "-c", "import torch.distributed.run"], capture_output=True, check=False)


@pytest.mark.slow
@pytest.mark.skipif(HAS_TORCH.returncode != 0, reason="torch is not installed")
@pytest.mark.parametrize("wrapped", [False, True], ids=["torchrun alone", "under joulebook run"])
def test_torchrun_restarts_its_ranks_within_one_run(nodes, tmp_path, wrapped):
    node = nodes[0]
    environ = {name: value for name, value in node.environ.items() if not name.startswith("SLURM")}
    script = tmp_path / "elastic.py"
    script.write_text(ELASTIC)
    start_agent(node)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "--max-restarts", "1", str(script)]
    if wrapped:
        command = [*JOULEBOOK, "run", "--quiet", "--", *command]
    done = subprocess.run(command, env={**environ, "OMP_NUM_THREADS": "1"}, capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    run = node.runs()[closed(node)]
    assert run.status == "ok", run.reason
    assert "started again by its launcher (1)" in run.notes
    energy = node.energy(run)
    truth = sum(node.truth(run.started_ns, run.ended_ns).values())
    assert energy.conservation.holds
    assert energy.own / 1000 == pytest.approx(truth, rel=0.05 if wrapped else 0.3)
    ranks = {share.rank for m in node.measurements() for share in m.shares if share.phase == "train"}
    assert ranks == {0, 1}
