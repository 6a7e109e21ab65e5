"""``kill -9`` of trainer, agent or both: what was flushed is in the book, the rest is known to be missing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import wait_for
from joulebook.clock import boottime_ns
from joulebook.recover import recover

TRAINER = """
import joulebook, time
with joulebook.phase("train"):
    time.sleep(%d)
"""
FLUSHED_SECONDS = 5.0


def start(simulated, seconds):
    """A tracked trainer under ``run`` on a machine of constant power, metered for a few spans."""
    simulated.powercap("--packages", "1", "--dram", "--curve", "constant:100")
    launcher = simulated.start(
        "run", "--quiet", "--", sys.executable, "-c", TRAINER % seconds, stderr=subprocess.DEVNULL
    )
    agent = simulated.agent_pid()
    trainer = wait_for(lambda: children_of(launcher.pid), what="the trainer")[0]
    wait_for(lambda: open_rows(simulated), what="the first flush")
    return launcher, agent, trainer


def children_of(pid):
    """Children of a process that are trainers, from what the kernel lists."""
    pids = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [child for child in pids if b"joulebook.phase" in Path(f"/proc/{child}/cmdline").read_bytes()]


def open_rows(simulated):
    from joulebook.outbox import Outbox

    for path in simulated.home.outboxes.glob("*.sqlite"):
        outbox = Outbox(path, writer=False)
        try:
            if rows := outbox.open_rows():
                return rows
        finally:
            outbox.close()
    return {}


def recovered(simulated, monkeypatch):
    """The one run after a report's recovery, with its energy."""
    for name in ("JOULEBOOK_HOME", "JOULEBOOK_SYS_ROOT"):
        monkeypatch.setenv(name, simulated.environ[name])
    recover(simulated.home)
    (run,) = simulated.runs().values()
    return run, simulated.energy(run)


def test_trainer_killed(simulated, monkeypatch):
    launcher, _, trainer = start(simulated, 60)
    os.kill(trainer, signal.SIGKILL)
    assert launcher.wait(30) == -signal.SIGKILL
    run, energy = recovered(simulated, monkeypatch)
    assert run.status == "interrupted"
    assert energy.conservation.holds
    assert energy.coverage > 0.99
    truth = simulated.truth(run.started_ns, run.ended_ns)
    assert energy.own / 1000 == pytest.approx(sum(truth.values()), rel=0.02)


def test_agent_killed_is_replaced_and_the_counters_difference_claimed(simulated, monkeypatch):
    launcher, agent, _ = start(simulated, 14)
    os.kill(agent, signal.SIGKILL)
    assert launcher.wait(60) == 0
    run, energy = recovered(simulated, monkeypatch)
    assert (run.status, run.exit_code) == ("interrupted", 0)
    assert "agent was gone" in run.reason
    assert energy.conservation.holds
    assert energy.coverage < 0.999, "the absence is labelled"
    assert any("claimed across an absence" in note for note in energy.notes)
    truth = simulated.truth(run.started_ns, run.ended_ns)
    assert energy.own / 1000 == pytest.approx(sum(truth.values()), rel=0.01), "no joule of the absence is lost"


def test_everything_killed_keeps_all_but_the_last_seconds(simulated, monkeypatch):
    launcher, agent, trainer = start(simulated, 60)
    killed_at = boottime_ns()
    for pid in (agent, launcher.pid, trainer):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not os.path.exists(f"/proc/{trainer}"), what="the trainer's end")  # noqa: PTH110
    run, energy = recovered(simulated, monkeypatch)
    assert run.status == "interrupted"
    assert energy.conservation.holds
    measured_until = max(m.ended_ns for m in simulated.measurements())
    assert killed_at - measured_until < FLUSHED_SECONDS * 1e9
    truth = simulated.truth(run.started_ns, measured_until)
    # A joule: the first flush may hold a tenth of a second, and a counter's edges are milliseconds.
    assert energy.own / 1000 == pytest.approx(sum(truth.values()), rel=0.02, abs=1.0)


def test_a_report_while_the_agent_lives_takes_nothing_from_it(simulated, monkeypatch):
    launcher, agent, _ = start(simulated, 6)
    for name in ("JOULEBOOK_HOME", "JOULEBOOK_SYS_ROOT"):
        monkeypatch.setenv(name, simulated.environ[name])
    assert recover(simulated.home) is False
    assert launcher.wait(60) == 0
    run, energy = recovered(simulated, monkeypatch)
    assert run.status == "ok"
    assert energy.coverage > 0.99
    assert simulated.agent_pid() == agent
