"""Meters that were refused are tried again, ever less often, and what opens is taken in by the rules of the start."""

import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from builders import device, line
from conftest import wait_for
from joulebook.adoption import adopt
from joulebook.clock import boottime_ns
from joulebook.folder import MarksFolder
from joulebook.home import Home
from joulebook.marks import MarksReader
from joulebook.marks_file import MarksFile
from joulebook.meters import METERS, Entry, MeterAbsent, MeterUnavailable, Reading, Refused, Roots
from joulebook.meters.polling import REFUSED_PAUSE_SECONDS, NoAnswer
from joulebook.outbox import Outbox
from joulebook.reopening import LONGEST_PAUSE_SECONDS, Reopening
from joulebook.rows import Component, Measurement, Method
from joulebook.sampler import Sampler
from joulebook.settings import Settings

S = 1_000_000_000
ROOTS = Roots(Path("/proc"), Path("/nonexistent"))


class Steady:
    """A meter whose devices' counters rise by 100 W."""

    def __init__(self, name, *devices):
        self.name, self.devices, self.left_out, self.closed = name, list(devices), (), False

    def read(self):
        now = boottime_ns()
        return [Reading(one.device_id, now, energy_microjoules=now // 10) for one in self.devices]

    def busy(self):
        return {}

    def close(self):
        self.closed = True


RETURNED: list = []


def open_late(roots):
    """What the tests' entry of METERS opens: what is in RETURNED, raised if it is an error."""
    found = RETURNED.pop(0)
    if isinstance(found, Exception):
        raise found
    return found


@pytest.fixture
def late(monkeypatch):
    monkeypatch.setitem(METERS, "late", Entry(f"{__name__}:open_late", ""))
    RETURNED.clear()
    return RETURNED


def step_through(reopening, now):
    """One whole attempt at that time, if one is due."""
    reopening.step(now)
    for _ in range(500):
        if reopening._attempt is None or not reopening._attempt.thread.is_alive():
            break
        time.sleep(0.01)
    tried = reopening._attempt is not None
    reopening.step(now)
    return tried


def test_attempts_come_after_thirty_seconds_and_double_up_to_ten_minutes(late):
    late += [MeterAbsent("no driver", "load it")] * 8
    reopening = Reopening([Refused("late", MeterAbsent("no driver", "load it"))], ROOTS, 0)
    tried = [second for second in range(0, 2500, 10) if step_through(reopening, second * S)]
    assert tried == [30, 90, 210, 450, 930, 1530, 2130]
    assert LONGEST_PAUSE_SECONDS == 600
    assert [one.name for one in reopening.refused] == ["late"]


def test_what_opens_is_handed_over_once_and_tried_no_more(late):
    meter = Steady("late", device())
    late += [meter]
    reopening = Reopening([Refused("late", MeterAbsent("no driver", "load it"))], ROOTS, 0)
    assert not step_through(reopening, 29 * S)
    assert step_through(reopening, 30 * S)
    assert (reopening.opened, reopening.refused) == ([meter], [])
    assert not step_through(reopening, 10_000 * S)
    reopening.close()
    assert meter.closed, "it was never taken in"


def test_another_cause_is_told_and_the_same_one_is_not(late, capsys):
    late += [
        MeterAbsent("no driver", "load it"),
        MeterUnavailable("NVML: permission", "see permissions"),
        ValueError("x"),
    ]
    reopening = Reopening([Refused("late", MeterAbsent("no driver", "load it"))], ROOTS, 0)
    step_through(reopening, 30 * S)
    assert capsys.readouterr().err == ""
    step_through(reopening, 90 * S)
    assert "NVML: permission" in capsys.readouterr().err
    step_through(reopening, 210 * S)
    assert "a defect, please report it: ValueError('x')" in capsys.readouterr().err
    assert len(reopening.refused) == 1


def test_who_refused_a_password_is_left_alone_for_long(late):
    late += [NoAnswer("401", "another password", lasting=True)] * 3
    reopening = Reopening([Refused("late", NoAnswer("401", "another password", lasting=True))], ROOTS, 0)
    assert REFUSED_PAUSE_SECONDS == 300
    assert [second for second in range(0, 1400, 10) if step_through(reopening, second * S)] == [300, 900]


@pytest.fixture
def sampler_of(tmp_path):
    outboxes = []

    def make(*meters):
        home = Home(tmp_path / "home").make()
        outboxes.append(Outbox(home.outboxes / "m.sqlite", writer=True))
        roots = Roots(Path("/proc"), tmp_path / "sys")
        sampler = Sampler(
            outboxes[-1], MarksFolder(home, roots.proc, "m", "boot"), list(meters), roots, Settings(), "m", "boot"
        )
        sampler.start()
        return sampler

    yield make
    for outbox in outboxes:
        outbox.close()


def open_run(sampler):
    """A run that began 5 s ago."""
    sampler.book.take("k", line("join", 1, boottime_ns() - 5 * S, run="r"))
    return sampler.book.runs["r"]


def rows_of(sampler):
    now = boottime_ns()
    sampler.read_meters()
    sampler.close_all(now)
    sampler.flush(boottime_ns(), finish_through=boottime_ns())
    return [row for _, row in sampler._final if isinstance(row, Measurement)]


def test_a_meter_that_opens_under_a_run_counts_from_then_on_and_the_run_says_so(sampler_of):
    sampler = sampler_of(Steady("rapl", device(device_id="package-0")))
    state = open_run(sampler)
    began = boottime_ns()
    gpu = Steady("nvml", device(Component.GPU, device_id="GPU-1", covers="gpu:GPU-1", limit_watts=400.0))
    assert adopt(sampler, gpu)
    time.sleep(0.2)
    rows = [row for row in rows_of(sampler) if row.device_id == "GPU-1"]
    assert rows
    assert min(row.started_ns for row in rows) >= began
    seconds = sum(row.ended_ns - row.started_ns for row in rows) / 1e9
    assert sum(row.energy_millijoules for row in rows) == pytest.approx(100_000 * seconds, rel=0.02)
    (note,) = [note for note in state.run.notes if note.startswith("GPU-1: ")]
    assert note.startswith("GPU-1: not read before its meter could be opened: 0 to 20")
    assert note.endswith("J of 5.0 s are missing")
    assert {"package-0", "GPU-1"} <= sampler.devices.keys()


def test_a_run_that_may_use_some_gpus_is_given_those_that_come_late(sampler_of, tmp_path):
    sampler = sampler_of(Steady("rapl", device(device_id="package-0")))
    state = open_run(sampler)
    trainer = subprocess.Popen(["sleep", "60"], env={**os.environ, "CUDA_VISIBLE_DEVICES": "1"})
    try:
        for key, pid in (("k", trainer.pid), ("unseen", 0)):
            sampler.folder.files[key] = MarksFile(key, MarksReader(tmp_path / key), run_id="r", pid=pid, boot_id="boot")
        wait_for(Path(f"/proc/{trainer.pid}/environ").read_bytes, what="the end of its exec")
        state.see_gpus([])  # as its record said when there was no driver
        gpus = [device(Component.GPU, device_id=f"GPU-{n}", covers=f"gpu:GPU-{n}") for n in (0, 1)]
        assert adopt(sampler, Steady("nvml", *gpus))
    finally:
        trainer.kill()
        trainer.wait()
    assert state.run.record["visible_gpus"] == ["GPU-1"]


def test_what_would_read_better_what_is_read_already_waits_for_the_end_of_runs(sampler_of):
    model = Steady("model", device(device_id="model:cpu", method=Method.MODELLED, covers="cpu"))
    sampler = sampler_of(model)
    state = open_run(sampler)
    rapl = Steady("rapl", device(device_id="rapl:package-0", covers="cpu:0"))
    assert not adopt(sampler, rapl)
    assert list(sampler.devices) == ["model:cpu"]
    sampler.book.died("k", boottime_ns(), boottime_ns() // 1000, lost=False)
    assert not state.open
    assert adopt(sampler, rapl)
    assert list(sampler.devices) == ["rapl:package-0"]
    assert model.closed
    assert sampler.meters == [rapl]


def test_one_that_reads_only_what_others_read_better_is_closed(sampler_of):
    sampler = sampler_of(Steady("rapl", device(device_id="rapl:package-0", covers="cpu:0")))
    model = Steady("model", device(device_id="model:cpu", method=Method.MODELLED, covers="cpu"))
    assert adopt(sampler, model)
    assert model.closed
    assert list(sampler.devices) == ["rapl:package-0"]


def test_a_node_s_meter_that_opens_late_is_booked_as_what_is_beyond_its_parts(sampler_of):
    sampler = sampler_of(Steady("rapl", device(device_id="package-0")))
    open_run(sampler)
    node = Steady("redfish", replace(device(Component.NODE, device_id="node"), covers="node"))
    node.read = lambda: [Reading("node", now := boottime_ns(), energy_microjoules=3 * (now // 10))]
    assert adopt(sampler, node)
    assert sampler.devices["package-0"].device.parent == "node"
    for _ in range(3):
        time.sleep(0.1)
        sampler.read_meters()
    rows = rows_of(sampler)
    left = [row for row in rows if row.device_id.endswith("/remainder")]
    watts = sum(row.energy_millijoules for row in left) / sum(row.ended_ns - row.started_ns for row in left) * 1e6
    assert watts == pytest.approx(200, rel=0.05)
    gpu = Steady("nvml", device(Component.GPU, device_id="GPU-1", covers="gpu:GPU-1"))
    assert adopt(sampler, gpu)
    for _ in range(5):
        time.sleep(0.1)
        sampler.read_meters()
    rows = rows_of(sampler)[len(rows) :]
    watts = {
        row.device_id.split("/")[-1]: row.energy_millijoules / (row.ended_ns - row.started_ns) * 1e6 for row in rows
    }
    assert watts["GPU-1"] == pytest.approx(100, rel=0.05)
    assert watts["remainder"] == pytest.approx(100, rel=0.1)


def test_a_second_view_of_the_node_s_supply_is_left_out(sampler_of):
    first = Steady("redfish", device(Component.NODE, device_id="bmc"))
    sampler = sampler_of(first)
    second = Steady("ipmi", device(Component.NODE, device_id="dcmi"))
    assert adopt(sampler, second)
    assert second.closed
    assert list(sampler.devices) == ["bmc"]
