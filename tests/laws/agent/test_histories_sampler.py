"""Laws of the sampler with its outbox: through lost readings, dead agents and refused writes, a counter is booked once.

The sampler and the outbox are the real ones, on a clock that the test moves; the meter is made up.
"""

import json
import tempfile
from itertools import pairwise
from pathlib import Path

import joulebook.loop
import joulebook.sampler
import pytest
from builders import line
from faults import assert_nothing_double, by_device
from hypothesis import given, settings
from hypothesis import strategies as st
from joulebook.clock import Offset
from joulebook.folder import MarksFolder
from joulebook.home import Home
from joulebook.meters import Device, Reading, Roots
from joulebook.outbox import Outbox
from joulebook.rows import Component, Measurement, Method, Reassignment, Run
from joulebook.sampler import TOO_LATE, Sampler
from joulebook.settings import Settings

MS = 1_000_000
S = 1000 * MS
BEGAN = 3600 * S
WRAPS = 2**36
WATTS = {"cpu": 40, "gpu": 300, "polled": 120}
DEVICES = (
    Device("cpu", Component.CPU, Method.COUNTER, 0.03, "c", wraps_at_microjoules=WRAPS, most_watts=80.0),
    Device("gpu", Component.GPU, Method.COUNTER, 0.03, "g", step_ns=100 * MS, most_watts=900.0),
    Device("polled", Component.GPU, Method.INTEGRATED, 0.03, "p", step_ns=S, limit_watts=200.0, averaged=True),
)


class Machine:
    """Three devices of constant power, read at the test's own time. away: those that do not answer now."""

    name, left_out, devices = "made-up", (), DEVICES

    def __init__(self):
        self.now_ns = BEGAN
        self.away = frozenset()
        self.fails = self.restarted = False

    def counted(self, device_id, t):
        step = {device.device_id: device.step_ns for device in DEVICES}[device_id]
        return WATTS[device_id] * ((t - BEGAN) // step * step) // 1000

    def read(self):
        if self.fails:
            raise OSError("no answer")
        t = self.now_ns
        readings = [
            Reading("cpu", t, (WRAPS - 10**8 + self.counted("cpu", t)) % WRAPS),
            Reading("gpu", t, 10**9 + self.counted("gpu", t)),
            Reading("polled", t, None, WATTS["polled"] * 1000),
        ]
        if self.restarted:
            readings = [Reading(device.device_id, t, 5, None, restarted=True) for device in self.devices]
        return [reading for reading in readings if reading.device_id not in self.away]

    def busy(self):
        return {}

    def close(self):
        """Nothing is held."""


class Agent:
    """One life of an agent on that machine."""

    def __init__(self, home, machine):
        self.full = False
        self.outbox = Outbox(home.outboxes / "m.sqlite", writer=True)
        folder = MarksFolder(home, Path("/proc"), "m", "b")
        self.sampler = Sampler(self.outbox, folder, [machine], Roots(), Settings(grace_ns=5 * S), "m", "b")
        self.sampler.start()

    def tick(self, now):
        self.sampler.read_meters()
        if self.sampler.close_spans(now):
            self.sampler.read_logs()
            assert self.sampler.flush(now) is not self.full

    def refuse(self, *, on):
        """The disk takes nothing from now on, or does again."""
        self.full = on
        self.outbox._db.execute(f"pragma query_only = {int(on)}")

    def end(self, now):
        """As the loop ends it."""
        self.refuse(on=False)
        self.sampler.read_meters()
        self.sampler.close_spans(now, force=True)
        self.sampler.close_all(now)
        assert self.sampler.flush(now, finish_through=now)
        self.outbox.close()


waits = st.one_of(st.just(1000), st.integers(20, 3000), st.integers(3000, 25_000))
events = st.lists(
    st.tuples(
        waits,
        st.sampled_from(
            ["", "", "", "", "die", "end", "fail", "cpu", "gpu", "polled", "cpu gpu", "back", "back", "full", "free"]
        ),
    ),
    min_size=5,
    max_size=60,
)


@pytest.fixture
def clocked(monkeypatch, tmp_path):
    """An agent on a machine whose clock the test moves; the machine has counters only."""
    machine = Machine()
    machine.devices = DEVICES[:2]
    machine.away = frozenset(["polled"])
    monkeypatch.setattr(joulebook.sampler, "boottime_ns", lambda: machine.now_ns)
    monkeypatch.setattr(joulebook.sampler, "clock_offset", lambda: Offset(1_790_000_000 * S))
    agent = Agent(Home(tmp_path / "home").make(), machine)
    yield agent, machine
    agent.outbox.close()


def looks(agent, machine, count):
    """Ten looks a second."""
    for _ in range(count):
        machine.now_ns += 100 * MS
        agent.sampler.read_meters()


def test_what_was_read_before_a_run_ended_is_not_thinned_because_it_has_ended(clocked):
    agent, machine = clocked
    sampler = agent.sampler
    sampler.book.take("k", line("join", 1, machine.now_ns, run="r", role="track"))
    looks(agent, machine, 20)
    sampler.book.take("k", line("leave", 2, machine.now_ns, run="r", status="ok"))
    sampler._note_ends({"r"})
    agent.tick(machine.now_ns)
    times = sampler.devices["cpu"].history.segments[-1].times
    assert len(times) >= 20


def test_a_reading_that_tells_of_a_restart_is_never_passed_over(clocked):
    agent, machine = clocked
    looks(agent, machine, 4)
    machine.restarted = True
    looks(agent, machine, 1)
    agent.sampler.digest()
    assert [history.breaks for history in agent.sampler.devices.values()] == [1, 1]


def tell(agent, run_id, began, ended):
    """The marks of a process that is gone, as they are found now."""
    said = [
        {"kind": "join", "at_ns": began, "run": run_id, "role": "track", "pid": 0, "machine": "m", "boot": "b"},
        {"kind": "leave", "at_ns": ended, "run": run_id, "status": "ok"},
    ]
    whole = [{"v": 1, "n": n, "at_us": s["at_ns"] // 1000, "cpu_ns": 1, **s} for n, s in enumerate(said, 1)]
    path = agent.sampler.folder.home.marks / f"{run_id}.0.beef.jsonl"
    path.write_text("".join(json.dumps(values) + "\n" for values in whole))
    agent.sampler.read_marks()


def rows_of(agent, kind):
    return [row for row in agent.outbox.bodies() if isinstance(row, kind)]


def test_a_run_that_began_and_ended_before_it_was_looked_at_is_closed_at_once(clocked):
    agent, machine = clocked
    began = machine.now_ns
    looks(agent, machine, 20)
    tell(agent, "r", began + S, machine.now_ns)
    machine.now_ns += S
    agent.tick(machine.now_ns)
    agent.tick(machine.now_ns + 5 * S)
    assert [run.status for run in rows_of(agent, Run)] == ["ok"]
    assert {share.run_id for row in agent.outbox.open_rows().values() for share in row.shares} >= {"r"}


def test_a_mark_that_comes_after_a_process_was_let_go_of_takes_nothing_from_it(clocked):
    agent, machine = clocked
    sampler, began = agent.sampler, machine.now_ns
    looks(agent, machine, 100)
    tell(agent, "first", began, machine.now_ns)
    for _ in range(120):
        machine.now_ns += S
        agent.tick(machine.now_ns)
    sampler.tidy(machine.now_ns)
    assert sampler.folder.files == {}, "its marks are durable and its grace is over"
    booked = sum(s.millijoules for row in rows_of(agent, Measurement) for s in row.shares if s.run_id == "first")
    assert booked == pytest.approx(10_000 * (WATTS["cpu"] + WATTS["gpu"]), rel=0.02)
    tell(agent, "second", began + 5 * S, machine.now_ns)
    for _ in range(120):
        machine.now_ns += S
        agent.tick(machine.now_ns)
    moves = rows_of(agent, Reassignment)
    assert {move.from_share.run_id for move in moves} == {""}
    assert sum(move.millijoules for move in moves) > 0
    assert TOO_LATE in rows_of(agent, Run)[-1].notes


@settings(max_examples=40)
@given(events)
def test_through_lost_readings_and_dead_agents_a_counter_is_booked_once(happens):
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as place:
        machine, home = Machine(), Home(Path(place) / "home").make()
        patch.setattr(joulebook.sampler, "boottime_ns", lambda: machine.now_ns)
        patch.setattr(joulebook.sampler, "clock_offset", lambda: Offset(1_790_000_000 * S))
        agent = Agent(home, machine)
        for wait_ms, event in happens:
            machine.now_ns += wait_ms * MS
            machine.fails = event == "fail"
            if event == "back":
                machine.away = frozenset()
            elif event in ("cpu", "gpu", "polled", "cpu gpu"):
                machine.away = frozenset(event.split())
            if event in ("full", "free"):
                agent.refuse(on=event == "full")
            if event in ("die", "end"):
                if event == "end":
                    agent.end(machine.now_ns)
                else:
                    agent.outbox.close()
                machine.now_ns += wait_ms * MS
                agent = Agent(home, machine)
            agent.tick(machine.now_ns)
        machine.fails, machine.away = False, frozenset()
        machine.now_ns += 200 * MS
        agent.end(machine.now_ns)
        outbox = Outbox(home.outboxes / "m.sqlite", writer=False)
        rows = [row for row in outbox.bodies() if isinstance(row, Measurement)]
        outbox.close()
    assert_nothing_double(rows)
    for device_id, mine in by_device(rows).items():
        name = device_id.rpartition("/")[2]
        booked = sum(row.energy_millijoules for row in mine)
        seconds = sum(row.ended_ns - row.started_ns for row in mine) / 1e9
        assert booked == pytest.approx(1000 * WATTS[name] * seconds, abs=2 * len(mine) + WATTS[name] * 200 + 10)
        for a, b in pairwise(mine):
            assert a.ended_ns == b.started_ns or "missing" in b.note, f"a gap of {name} is not told"
        if name != "polled":
            # Whole from the first reading to the last, whoever lived meanwhile and whatever was not answered.
            assert all(a.ended_ns == b.started_ns for a, b in pairwise(mine)), name
            assert machine.now_ns - mine[-1].ended_ns <= 100 * MS
