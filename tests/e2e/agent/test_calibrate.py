"""Idle power measured on an idle machine, then a run on a busy one: idle apart, exact, and divided by every policy."""

import json
import shlex
import signal
import subprocess
import sys
import time

import pytest
from conftest import wait_for
from joulebook.calibration import calibration_path
from joulebook.clock import boottime_ns
from joulebook.identity import machine_id
from joulebook.rows import Policy, ShareKind

LOW, HIGH, DRAM, BOARD = 30.0, 100.0, 0.15, 50.0
IDLE_SECONDS = 40
"""The simulated package idles at LOW for so long, then draws HIGH."""
CURVE = f"square:{LOW:g},{HIGH:g},2000,0.5,{2000 - IDLE_SECONDS}"
BURN = "import time, joulebook\nwith joulebook.phase('train'):\n  while time.process_time() < 4: pass\n"
STAT = "cpu  {busy} 0 0 90000 0 0 0 0\ncpu0 {busy} 0 0 90000 0 0 0 0\n"


@pytest.fixture
def idle_proc(simulated):
    """A /proc on which nothing works: whatever else the machine that runs the test does is none of ours."""
    proc = simulated.root / "proc"
    (proc / "self").mkdir(parents=True)
    for name in ("cpuinfo", "meminfo", "self/cgroup", "self/mountinfo"):
        with open(f"/proc/{name}") as file:
            (proc / name).write_text(file.read())
    (proc / "stat").write_text(STAT.format(busy=1000))
    return proc


def calibration(simulated, proc, *words, **options) -> subprocess.Popen:
    simulated.environ["JOULEBOOK_PROC_ROOT"] = str(proc)
    started = simulated.start("calibrate", *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    del simulated.environ["JOULEBOOK_PROC_ROOT"]
    return started


def report(simulated, policy: Policy) -> dict:
    done = simulated.joulebook("report", "run", "last", "--json", "--policy", policy)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_idle_is_apart_once_it_is_known_and_every_policy_keeps_every_joule(simulated, idle_proc) -> None:
    began = boottime_ns()
    simulated.powercap("--packages", "1", "--dram", "--curve", CURVE)
    simulated.nvml("--gpus", "1", "--curve", f"constant:{BOARD:g}")
    out, err = calibration(simulated, idle_proc, "--seconds", "24", "--json").communicate(timeout=120)
    assert (boottime_ns() - began) / 1e9 < IDLE_SECONDS, "too slow to calibrate while the simulated machine idled"
    document = json.loads(out)
    watts = {idle["meter"] + ("/dram" if "dram" in idle["device_id"] else ""): idle for idle in document["calibrated"]}
    assert {name: idle["idle_watts"] for name, idle in watts.items()} == {
        "rapl": pytest.approx(LOW, rel=0.01),
        "rapl/dram": pytest.approx(LOW * DRAM, rel=0.01),
        "nvml": pytest.approx(BOARD, rel=0.035),  # ten steps a window, an update known to a quarter of one
    }, err
    assert abs(watts["nvml"]["idle_watts"] / BOARD - 1) < 2.5 * watts["nvml"]["u_relative"] + 0.01
    assert calibration_path(simulated.home, machine_id()).stat().st_mode & 0o777 == 0o600

    time.sleep(max(0.0, IDLE_SECONDS + 1 - (boottime_ns() - began) / 1e9))
    (simulated.root / "burn.py").write_text(BURN)
    done = simulated.joulebook("run", "--quiet", "--", sys.executable, str(simulated.root / "burn.py"))
    assert done.returncode == 0, done.stderr
    rows = simulated.measurements()
    for device, idle in (("package-0", LOW), ("package-0/dram", LOW * DRAM)):
        own = [row for row in rows if row.device_id.endswith(device)]
        seconds = sum(row.ended_ns - row.started_ns for row in own) / 1e9
        assert seconds > 3
        assert sum(row.idle_millijoules for row in own) / 1e3 == pytest.approx(idle * seconds, rel=0.01)
        assert sum(row.energy_millijoules for row in own) / 1e3 == pytest.approx(idle * HIGH / LOW * seconds, rel=0.01)
    for row in rows:
        assert sum(share.millijoules for share in row.shares) == row.energy_millijoules
        assert [share.kind for share in row.shares].count(ShareKind.IDLE) == 1

    reports = {policy: report(simulated, policy) for policy in Policy}
    totals = {policy: found["conservation"] for policy, found in reports.items()}
    for policy, kept in totals.items():
        assert reports[policy]["policy"] == policy
        assert kept["measured"] == kept["runs"] + kept["idle"] + kept["unattributed"]
        assert reports[policy]["conservation_statement"].startswith("PASS")
        assert reports[policy]["energy_total_joules"] == pytest.approx(kept["runs"] / 1e3, abs=0.001)
    # The policy is for the idle part alone: what is measured, and what is nobody's by use, stays.
    assert len({(kept["measured"], kept["unattributed"]) for kept in totals.values()}) == 1
    idle_part = sum(row.idle_millijoules for row in rows if any(share.run_id for share in row.shares))
    assert totals[Policy.UNALLOCATED]["idle"] >= idle_part > 0
    # One run without a limit reserves, and holds, the whole machine.
    assert totals[Policy.RESERVED]["runs"] - totals[Policy.UNALLOCATED]["runs"] == pytest.approx(idle_part, rel=0.02)
    assert totals[Policy.EQUAL]["runs"] == pytest.approx(totals[Policy.RESERVED]["runs"], rel=0.02)
    assert totals[Policy.UNALLOCATED]["runs"] < totals[Policy.UTILISATION]["runs"] < totals[Policy.RESERVED]["runs"]


@pytest.mark.slow
def test_a_node_is_calibrated_as_what_it_draws_beyond_its_parts(simulated, idle_proc) -> None:
    simulated.powercap("--packages", "1", "--dram", "--curve", "constant:60")
    bmc = simulated.start(
        "simulate", "redfish", str(simulated.root / "bmc"), "--curve", "constant:200", stdout=subprocess.PIPE, text=True
    )
    name, _, value = bmc.stdout.readline().removeprefix("export ").strip().partition("=")
    simulated.environ |= {name: shlex.split(value)[0], "JOULEBOOK_REDFISH_POLL_SECONDS": "0.1"}
    out, err = calibration(simulated, idle_proc, "--seconds", "24", "--json").communicate(timeout=120)
    watts = {idle["device_id"].partition("/")[2]: idle["idle_watts"] for idle in json.loads(out)["calibrated"]}
    left = 200 - 60 * (1 + DRAM)
    assert watts["redfish:node/remainder"] == pytest.approx(left, rel=0.02), err
    done = simulated.joulebook("run", "--quiet", "--", "sleep", "6")
    assert done.returncode == 0, done.stderr
    rows = [row for row in simulated.measurements() if row.device_id.endswith("/remainder") and row.energy_millijoules]
    seconds = sum(row.ended_ns - row.started_ns for row in rows) / 1e9
    assert sum(row.idle_millijoules for row in rows) / 1e3 == pytest.approx(left * seconds, rel=0.03)
    totals = [report(simulated, policy)["conservation"] for policy in Policy]
    assert all(kept["measured"] == kept["runs"] + kept["idle"] + kept["unattributed"] for kept in totals)


def test_it_is_refused_while_an_agent_has_the_meters(simulated) -> None:
    simulated.powercap("--packages", "1")
    agent = simulated.start("agent", stderr=subprocess.DEVNULL)
    assert simulated.agent_pid() == agent.pid
    done = simulated.joulebook("calibrate")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"joulebook calibrate: an agent (pid {agent.pid}) meters this machine",
        "  try: stop it, joulebook calibrate, and start it again",
    ]


@pytest.mark.slow
def test_a_run_that_begins_ends_the_calibration_and_is_metered(simulated) -> None:
    simulated.powercap("--packages", "1", "--curve", "constant:30")
    measuring = calibration(simulated, "/proc", "--seconds", "600")
    wait_for(lambda: [*simulated.home.agents.glob("*.lease")], what="the lease")
    time.sleep(1)
    done = simulated.joulebook("run", "--", sys.executable, "-c", "import time; time.sleep(4)")
    assert done.returncode == 0, done.stderr
    _, err = measuring.communicate(timeout=30)
    assert measuring.returncode == 1
    assert "a run has begun: nothing was kept" in err
    assert not calibration_path(simulated.home, machine_id()).exists()
    (run,) = simulated.runs().values()
    assert simulated.energy(run).total > 0


@pytest.mark.slow
def test_a_machine_that_works_has_no_idle_power_unless_forced(simulated, idle_proc) -> None:
    simulated.powercap("--packages", "1", "--curve", "constant:30")
    busy = 1000
    for words, told in (((), "no device was calibrated"), (("--force",), "")):
        measuring = calibration(simulated, idle_proc, "--seconds", "22", *words)
        while measuring.poll() is None:
            busy += 5
            (idle_proc / "next").write_text(STAT.format(busy=busy))
            (idle_proc / "next").replace(idle_proc / "stat")  # no reader sees half of it
            time.sleep(0.05)
        out, err = measuring.communicate()
        assert (measuring.returncode == 0) == (not told), err
        assert told in err
        assert ("CPUs busy above 5%" in out) == bool(told)
    shown = simulated.joulebook("doctor").stdout
    assert "by force on a machine in use" in shown
    done = simulated.joulebook("run", "--quiet", "--", "sleep", "3")
    assert done.returncode == 0, done.stderr
    notes = {row.note for row in simulated.measurements() if row.idle_millijoules is not None}
    assert notes
    assert all("calibrated by force" in note for note in notes)


@pytest.mark.slow
def test_ended_early_it_keeps_nothing_and_lets_go_of_the_meters(simulated, idle_proc) -> None:
    simulated.powercap("--packages", "1", "--curve", "constant:30")
    measuring = calibration(simulated, idle_proc)
    wait_for(lambda: [*simulated.home.agents.glob("*.lease")], what="the lease")
    time.sleep(2)
    measuring.send_signal(signal.SIGINT)
    measuring.communicate(timeout=30)
    assert measuring.returncode == 130
    assert not calibration_path(simulated.home, machine_id()).exists()
    agent = simulated.start("agent", "--no-standby", stderr=subprocess.DEVNULL)
    assert simulated.agent_pid() == agent.pid
