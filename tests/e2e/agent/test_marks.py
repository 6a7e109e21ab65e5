"""Marks that come late or damaged, through the real agent into the ledger and the report."""

import json
import os
import subprocess
import sys
import time
from itertools import pairwise

import pytest
from conftest import wait_for
from joulebook.clock import boottime_ns, utc_us
from joulebook.identity import boot_id, machine_id
from joulebook.recover import recover
from joulebook.rows import Mark, Reassignment
from joulebook_collector.ledger import Ledger
from joulebook_collector.take import take_outboxes

S = 1_000_000_000


class HandWritten:
    """A marks file of a real process, its lines written by the test, its times chosen."""

    def __init__(self, bench, pid):
        self.path = bench.home.marks / f"hand.{pid}.written.jsonl"
        self.n = 0
        self.write("join", run="hand", role="track", pid=pid, machine=machine_id(bench.environ), boot=boot_id())

    def write(self, kind, at_ns=None, **values):
        self.n += 1
        now = boottime_ns()
        at_ns = now if at_ns is None else at_ns
        line = {"v": 1, "n": self.n, "kind": kind, "at_ns": at_ns, "at_us": utc_us() - (now - at_ns) // 1000}
        self.raw(json.dumps({**line, "cpu_ns": 0, **values}))
        return self.n

    def raw(self, text):
        with self.path.open("a") as file:
            file.write(text + "\n")


@pytest.fixture
def sleeper():
    """A process for marks to be about."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def joules_by_phase(ledger):
    joules = {}
    for m in ledger.measurements():
        assert sum(s.millijoules for s in m.shares) == m.energy_millijoules
        for s in m.shares:
            if s.run_id:
                joules[s.phase] = joules.get(s.phase, 0) + s.millijoules / 1000
    return joules


@pytest.mark.slow
@pytest.mark.parametrize("grace", ["0", "60"], ids=["after the grace", "within the grace"])
def test_a_late_mark_moves_its_joules_to_its_phase(simulated, sleeper, grace, monkeypatch):
    simulated.powercap("--packages", "1", "--curve", "constant:100")
    simulated.environ |= {"JOULEBOOK_GRACE_SECONDS": grace, "JOULEBOOK_METERS": "rapl"}
    simulated.start("agent", stderr=subprocess.DEVNULL)
    simulated.agent_pid()
    marks = HandWritten(simulated, sleeper.pid)
    began = boottime_ns() + S
    time.sleep(10)
    begun = marks.write("begin", at_ns=began, phase="train")
    marks.write("end", at_ns=began + 5 * S, of=begun)
    time.sleep(1)
    marks.write("leave", run="hand", status="ok")
    closed = lambda: any(s["runs"].get("hand") == "closed" for s in simulated.statuses())  # noqa: E731
    wait_for(closed, what="the run's end")
    if grace == "0":
        wait_for(lambda: any(isinstance(row, Reassignment) for row in simulated.rows()), what="a reassignment")
    else:
        assert not any(isinstance(row, Reassignment) for row in simulated.rows())
    with Ledger.open(simulated.root / "ledger.duckdb") as ledger:
        take_outboxes(ledger, simulated.home)
        joules = joules_by_phase(ledger)
        spans = [(m.started_ns, m.ended_ns) for m in ledger.measurements()]
    assert joules["train"] == pytest.approx(500, rel=0.03)
    assert all(a[1] == b[0] for a, b in pairwise(spans)), "spans follow each other without a gap"


def test_a_damaged_marks_file_costs_its_lines_only_and_the_report_fails_after_printing(bench, monkeypatch):
    script = bench.root / "job.py"
    script.write_text(
        "import glob, joulebook, os, time\n"
        "with joulebook.phase('train'):\n"
        "    time.sleep(2)\n"
        "    path = glob.glob(os.environ['JOULEBOOK_HOME'] + '/marks/*.jsonl')\n"
        "    for name in path:\n"
        "        if 'launcher' not in name:\n"
        "            open(name, 'ab').write(b'\\x00 no mark \\xff\\n')\n"
        "with joulebook.phase('eval'):\n"
        "    time.sleep(1)\n"
    )
    assert bench.joulebook("run", "--quiet", "--", sys.executable, str(script)).returncode == 0
    done = bench.joulebook("report", "run", "--json")
    assert done.returncode == 1
    cause, remedy = done.stderr.splitlines()[-2:]
    assert "has unreadable lines" in cause
    assert remedy.startswith("  try: ")
    document = json.loads(done.stdout)
    assert {"train", "eval"} <= document["phases"].keys()
    kept = document["conservation"]
    assert kept["measured"] == kept["runs"] + kept["idle"] + kept["unattributed"]


def test_a_file_whose_first_line_is_damaged_is_named_too(bench, sleeper, monkeypatch):
    monkeypatch.setenv("JOULEBOOK_HOME", bench.environ["JOULEBOOK_HOME"])
    bench.home.make()
    good = HandWritten(bench, sleeper.pid)
    good.write("leave", run="hand", status="ok")
    (bench.home.marks / f"hand.{os.getpid()}.beef.jsonl").write_text("damage\n")
    assert recover(bench.home)
    (run,) = bench.runs().values()
    assert run.status == "ok"
    assert any("beef.jsonl has unreadable lines (1)" in note for note in run.notes)
    assert good.path.exists() is False


def test_all_that_a_job_logged_is_in_the_book_once_its_run_is_closed(bench):
    script = bench.root / "job.py"
    script.write_text(
        "import joulebook\n"
        "for name in ('train', 'eval'):\n"
        "    with joulebook.phase(name):\n"
        "        for step in range(200):\n"
        "            joulebook.log(step=step)\n"
    )
    done = bench.joulebook("run", "--quiet", "--json", str(bench.root / "run.json"), "--", sys.executable, str(script))
    assert done.returncode == 0, done.stderr
    logs = [row for row in bench.rows() if isinstance(row, Mark) and row.kind == "log"]
    assert [(log.phase, log.step) for log in sorted(logs, key=lambda log: log.n)] == [
        (name, step) for name in ("train", "eval") for step in range(200)
    ]
