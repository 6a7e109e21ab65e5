"""What every fault test asserts, whatever the fault: the laws that can be seen from outside an agent."""

import json
import os
import signal
import subprocess
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import JOULEBOOK, is_alive, wait_for
from joulebook.rows import Measurement, Run

JOB = "echo begun; sleep %g; echo done; exit 3"
"""A job with bytes and an exit status of its own, which no fault may change."""


@dataclass
class Job:
    """A ``joulebook run`` of JOB that was begun: its process, and where its summary goes."""

    process: subprocess.Popen
    out: Path

    def end(self, simulated, seconds=120):
        """Its end, untouched (law 7); the summary's document and the run."""
        printed, complaints = self.process.communicate(timeout=seconds)
        assert (self.process.returncode, printed) == (3, "begun\ndone\n"), complaints
        assert self.out.exists(), complaints
        document = json.loads(self.out.read_text())
        return document, simulated.runs()[document["run_id"]]


def start_job(simulated, seconds, *before):
    """JOB of so many seconds under ``joulebook run``, once it is metered. before: words to start the command with."""
    out = simulated.root / "run.json"
    words = [*before, *JOULEBOOK, "run", "--json", str(out), "--", "sh", "-c", JOB % seconds]
    process = subprocess.Popen(words, env=simulated.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    simulated.started.append(process)
    wait_for(lambda: any("open" in status["runs"].values() for status in simulated.statuses()), what="the run")
    return Job(process, out)


def agents_of(simulated):
    """Pids of the living agents of this home."""
    home = f"JOULEBOOK_HOME={simulated.home.root}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words, environ = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        except OSError:
            continue
        if b"joulebook.serve" in words and home in environ.split(b"\0"):
            found.append(int(process.name))
    return found


def end_agents(simulated):
    """Stop what meters, and see that nothing of it is left. An agent of a run would end so by itself."""
    for pid in agents_of(simulated):
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda pid=pid: not is_alive(pid), 30, "the agent's end")
    assert agents_of(simulated) == []


def by_device(rows):
    """The measurements of each device in order of time."""
    devices = {}
    for row in rows:
        if isinstance(row, Measurement):
            devices.setdefault((row.machine_id, row.boot_id, row.device_id), []).append(row)
    return {key[2]: sorted(mine, key=lambda row: row.started_ns) for key, mine in devices.items()}


def assert_nothing_double(rows):
    """Law 1 on every measurement; no two of a device overlap on the boot's clock; none of it negative."""
    found = by_device(rows)
    assert found, "nothing was measured"
    for device_id, mine in found.items():
        for row in mine:
            assert sum(share.millijoules for share in row.shares) == row.energy_millijoules >= 0
            assert all(share.millijoules >= 0 for share in row.shares)
            assert 0.0 <= row.coverage <= 1.0
        for before, after in pairwise(mine):
            assert before.ended_ns <= after.started_ns, f"a joule of {device_id} is counted twice"


def assert_true(simulated, rows, *, rel=0.005, but=()):
    """What was booked of each device is what it truly drew over the same spans. but: ids of devices that are not so.

    A board's counter moves every 100 ms: what it drew in one such step may lie on either side of the rows' outer edges.
    """
    for device_id, mine in by_device(rows).items():
        name = device_id.partition("/")[2] or device_id  # a board has a name of its own, other devices the machine's
        if name in but:
            continue
        true = sum(simulated.truth(row.started_ns, row.ended_ns)[name] for row in mine)
        seconds = sum(row.ended_ns - row.started_ns for row in mine) / 1e9
        step = 0.1 * true / seconds if "/" not in device_id else 0.0
        booked = sum(row.energy_millijoules for row in mine) / 1000
        assert booked == pytest.approx(true, rel=rel, abs=step), device_id


def tell_cost(simulated, document, run):
    """Print what the fault cost the run: joules booked beside joules drawn, device by device (shown by ``-rP``)."""
    drawn = simulated.truth(run.started_ns, run.ended_ns)
    for device_id, joules in document["devices"].items():
        true = drawn[device_id.partition("/")[2] or device_id]
        print(f"{device_id}: {joules:.1f} J booked of {true:.1f} J drawn ({100 * (joules / true - 1):+.2f} %)")
    seconds = (run.ended_ns - run.started_ns) / 1e9
    print(f"coverage {document['coverage']:.3f} of {seconds:.1f} s")
    for note in document["notes"]:
        print(f"note: {note}")


def assert_unbroken(rows, device_id):
    """One row of the device begins where the one before ends, to the microsecond that the book's UTC can tell."""
    (mine,) = [mine for name, mine in by_device(rows).items() if name.endswith(device_id)]
    gaps = [
        (b.started_ns - a.ended_ns, a.ended_ns, b.note) for a, b in pairwise(mine) if b.started_ns - a.ended_ns >= 1000
    ]
    assert not gaps, f"gaps (ns, where, what the later row says): {gaps}"


def lawful_rows(simulated):
    """Every row of the book at the end of a test, agents stopped and the laws seen to hold."""
    end_agents(simulated)
    rows = simulated.rows()
    assert_nothing_double(rows)
    newest = {row.run_id: row for row in rows if isinstance(row, Run)}
    assert all(run.status != "running" for run in newest.values())
    return rows
