"""Real faults under a real run, one at a time (docs/faults.md).

Totals are conserved, gaps are told with bounds, nothing is double, the job is untouched.

Short here; as long as they are named in the table by ``make soak``.
"""

import os
import re
import shutil
import signal
import time

import pytest
from faults import assert_true, assert_unbroken, lawful_rows, start_job, tell_cost
from joulebook.clock import boottime_ns
from joulebook.rows import Measurement

pytestmark = pytest.mark.slow
soak = pytest.mark.soak


def bounds(note):
    """The joules that a note says are missing, at least and at most."""
    least, most = re.search(r"(\d+) to (\d+) J", note).groups()
    return int(least), int(most)


def assert_kept(document):
    kept = document["conservation"]
    assert kept["measured"] == kept["runs"] + kept["idle"] + kept["unattributed"]


@pytest.mark.parametrize("seconds", [8, pytest.param(60, marks=soak)])
def test_an_agent_that_is_stopped_claims_counters_and_says_that_it_looked_away(simulated, seconds):
    simulated.powercap("--packages", "1", "--dram", "--curve", "square:50,150,3")
    simulated.nvml("--gpus", "1", "--curve", "square:100,400,3")
    job = start_job(simulated, seconds + 8)
    agent = simulated.agent_pid()
    time.sleep(3)
    os.kill(agent, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(agent, signal.SIGCONT)
    document, run = job.end(simulated)
    rows = lawful_rows(simulated)
    tell_cost(simulated, document, run)
    assert_true(simulated, rows)
    assert_kept(document)
    hidden = (1 - document["coverage"]) * (run.ended_ns - run.started_ns) / 1e9
    assert seconds - 1 <= hidden <= seconds + 2.5
    claimed = [note for note in document["notes"] if "without a reading" in note]
    assert len(claimed) == 3, "each device says so"
    for device in ("rapl:package-0", "rapl:package-0/dram", "GPU-"):
        assert any(device in note for note in claimed)


@pytest.mark.parametrize("seconds", [8, pytest.param(60, marks=soak)])
def test_an_agent_that_is_stopped_makes_up_no_power_that_it_did_not_read(simulated, seconds):
    simulated.nvml("--gpus", "1", "--curve", "constant:200", "--no-energy-counter")
    simulated.environ["JOULEBOOK_METERS"] = "nvml"
    job = start_job(simulated, seconds + 8)
    agent = simulated.agent_pid()
    time.sleep(3)
    os.kill(agent, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(agent, signal.SIGCONT)
    document, run = job.end(simulated)
    rows = lawful_rows(simulated)
    tell_cost(simulated, document, run)
    assert_true(simulated, rows, rel=0.02)
    assert_kept(document)
    (note,) = [note for note in document["notes"] if "power was not read" in note]
    (true,) = simulated.truth(run.started_ns, run.ended_ns).values()
    (measured,) = document["devices"].values()
    least, most = bounds(note)
    assert least <= true - measured <= most
    assert true - measured == pytest.approx(200 * seconds, abs=200 * 2.5)
    assert document["coverage"] < 1


def test_a_gpu_that_is_lost_is_claimed_when_it_returns_and_bounded_when_it_does_not(simulated):
    simulated.nvml("--gpus", "3", "--curve", "constant:200", "--lose", "1:6:11", "--lose", "2:8")
    lost_at = boottime_ns() + 8 * 10**9
    simulated.environ["JOULEBOOK_METERS"] = "nvml"
    document, run = start_job(simulated, 20).end(simulated)
    rows = lawful_rows(simulated)
    tell_cost(simulated, document, run)
    assert_kept(document)
    whole, back, gone = sorted(document["devices"])
    assert_true(simulated, rows, but=(gone,))
    assert_unbroken(rows, whole)
    assert_unbroken(rows, back)
    (note,) = [note for note in document["notes"] if "without a reading" in note]
    assert note.startswith(back)
    (note,) = [note for note in document["notes"] if "not read up to its end" in note]
    assert note.startswith(gone)
    least, most = bounds(note)
    true = simulated.truth(run.started_ns, run.ended_ns)[gone]
    assert least <= true - document["devices"][gone] <= most
    assert document["coverage"] == pytest.approx((lost_at - run.started_ns) / (run.ended_ns - run.started_ns), abs=0.1)


def test_a_gpu_that_is_away_for_the_whole_run_is_not_passed_over(simulated):
    simulated.nvml("--gpus", "2", "--curve", "constant:200", "--lose", "1:4")
    simulated.environ["JOULEBOOK_METERS"] = "nvml"
    simulated.start("agent")
    simulated.agent_pid()
    time.sleep(6)
    document, run = start_job(simulated, 4).end(simulated)
    lawful_rows(simulated)
    tell_cost(simulated, document, run)
    (note,) = [note for note in document["notes"] if "not read up to its end" in note]
    least, most = bounds(note)
    drawn = simulated.truth(run.started_ns, run.ended_ns)
    assert any(least <= joules <= most for device, joules in drawn.items() if note.startswith(device))
    assert document["coverage"] == 0.0
    assert document["energy_joules"]["gpu"] == pytest.approx(drawn[next(iter(document["devices"]))], rel=0.03)


def test_a_driver_that_is_loaded_after_the_agent_began_counts_from_then_on(simulated):
    simulated.powercap("--packages", "1", "--curve", "constant:100")
    simulated.nvml("--gpus", "1", "--curve", "constant:200", "--down", "0:15")
    simulated.environ["JOULEBOOK_METERS"] = "rapl,nvml"
    document, run = start_job(simulated, 40).end(simulated)
    rows = lawful_rows(simulated)
    tell_cost(simulated, document, run)
    assert_kept(document)
    assert document["energy_joules"]["cpu"] == pytest.approx(100 * (run.ended_ns - run.started_ns) / 1e9, rel=0.02)
    mine = [row for row in rows if isinstance(row, Measurement) and row.device_id.startswith("GPU-")]
    known_ns = max(row.ended_ns for row in mine) - min(row.started_ns for row in mine)
    assert 5e9 < known_ns < 15e9
    assert sum(row.energy_millijoules for row in mine) == pytest.approx(200_000 * known_ns / 1e9, rel=0.02)
    (note,) = [note for note in document["notes"] if "not read before its meter could be opened" in note]
    least, most = bounds(note)
    missing = simulated.truth(run.started_ns, min(row.started_ns for row in mine))[mine[0].device_id]
    assert least <= missing <= most
    within_ns = run.ended_ns - min(row.started_ns for row in mine)  # the agent goes on after the run
    assert document["coverage"] == pytest.approx(within_ns / (run.ended_ns - run.started_ns), abs=0.02)


def test_a_counter_that_goes_back_to_zero_is_a_gap_that_holds_the_truth(simulated):
    simulated.nvml("--gpus", "1", "--curve", "constant:300", "--reload-after", "8")
    simulated.environ["JOULEBOOK_METERS"] = "nvml"
    document, run = start_job(simulated, 12).end(simulated)
    rows = lawful_rows(simulated)
    tell_cost(simulated, document, run)
    assert_true(simulated, rows)
    assert_kept(document)
    (note,) = [note for note in document["notes"] if "counter reset" in note]
    least, most = bounds(note)
    (true,) = simulated.truth(run.started_ns, run.ended_ns).values()
    (measured,) = document["devices"].values()
    assert least <= true - measured <= most
    assert true - measured < 300 * 2.5
    assert document["coverage"] < 1


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root has rights to give up")
def test_a_permission_that_is_lost_costs_that_zone_and_no_other(simulated):
    """The zone's module is loaded anew, and its counter is root's again: the agent has not the right to read it."""
    umask = os.umask(0o777)
    try:
        simulated.powercap("--packages", "2", "--curve", "constant:100", "--away", "intel-rapl:1=6,7")
    finally:
        os.umask(umask)
    tree = simulated.root / "sys"
    for path in (tree, *tree.rglob("*")):
        path.chmod(0o755)
    simulated.environ["JOULEBOOK_METERS"] = "rapl"
    document, run = start_job(simulated, 14, "setpriv", "--bounding-set=-all", "--inh-caps=-all").end(simulated)
    rows = lawful_rows(simulated)
    tell_cost(simulated, document, run)
    assert_kept(document)
    assert_true(simulated, rows)
    assert_unbroken(rows, "rapl:package-0")
    (note,) = [note for note in document["notes"] if "not read up to its end" in note]
    assert "rapl:package-1: " in note
    least, most = bounds(note)
    true = simulated.truth(run.started_ns, run.ended_ns)["rapl:package-1"]
    (measured,) = [joules for device, joules in document["devices"].items() if device.endswith("package-1")]
    assert least <= true - measured <= most
    assert document["coverage"] < 0.7


def test_an_agent_that_is_killed_says_of_polled_power_what_nobody_read(simulated):
    simulated.nvml("--gpus", "1", "--curve", "constant:200", "--no-energy-counter")
    simulated.environ["JOULEBOOK_METERS"] = "nvml"
    job = start_job(simulated, 14)
    time.sleep(5)
    os.kill(simulated.agent_pid(), signal.SIGKILL)
    document, run = job.end(simulated)
    rows = lawful_rows(simulated)
    tell_cost(simulated, document, run)
    assert_true(simulated, rows, rel=0.02)
    assert (run.status, run.exit_code) == ("interrupted", 3)
    (note,) = [note for note in document["notes"] if "no agent read it" in note]
    least, most = bounds(note)
    (true,) = simulated.truth(run.started_ns, run.ended_ns).values()
    (measured,) = document["devices"].values()
    assert least <= true - measured <= most
    assert document["coverage"] < 1


def test_an_agent_that_never_wakes_keeps_no_job_from_its_end(simulated):
    simulated.powercap("--packages", "1", "--curve", "constant:100")
    simulated.environ["JOULEBOOK_METERS"] = "rapl"
    job = start_job(simulated, 6)
    agent = simulated.agent_pid()
    os.kill(agent, signal.SIGSTOP)
    printed, told = job.process.communicate(timeout=60)
    assert (job.process.returncode, printed) == (3, "begun\ndone\n")
    assert told, "that nothing can be summed yet is said"
    print(told)
    os.kill(agent, signal.SIGCONT)
    rows = lawful_rows(simulated)
    assert_true(simulated, rows, rel=0.01)
    (run,) = simulated.runs().values()
    assert (run.status, run.exit_code) == ("failed", 3)
    true = sum(simulated.truth(run.started_ns, run.ended_ns).values())
    assert simulated.energy(run).own / 1000 == pytest.approx(true, rel=0.02), "all of it is in the book all the same"
