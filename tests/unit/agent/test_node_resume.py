"""A node's meter across two agents of one boot, through the outbox: parts and remainder are the whole, once."""

import time
from pathlib import Path

import pytest
from builders import device, line
from joulebook.clock import boottime_ns
from joulebook.folder import MarksFolder
from joulebook.home import Home
from joulebook.meters import Reading, Roots
from joulebook.outbox import Outbox
from joulebook.resume import leave_counters
from joulebook.rows import Component, Measurement
from joulebook.sampler import Sampler
from joulebook.settings import Settings

S = 1_000_000_000


class Machine:
    """A meter of a node of 250 W, of which a package is 100 W."""

    name, left_out = "rapl", ()

    def __init__(self):
        self.devices = [
            device(device_id="psys", component=Component.NODE, covers="node"),
            device(device_id="package-0", covers="cpu:0", parent="psys"),
        ]

    def read(self):
        now = boottime_ns()
        return [
            Reading(one.device_id, now, energy_microjoules=now * (250 if one.parent is None else 100) // 1000)
            for one in self.devices
        ]

    def busy(self):
        return {}

    def close(self):
        pass


@pytest.fixture
def agent(tmp_path):
    """One agent's life of that many seconds on the same outbox; gives its measurements."""
    home, roots = Home(tmp_path / "home").make(), Roots(Path("/proc"), tmp_path / "sys")

    def live(seconds, *, other_home=False):
        outbox = Outbox(home.outboxes / "m.sqlite", writer=True)
        if other_home:
            leave_counters(outbox)
        sampler = Sampler(
            outbox, MarksFolder(home, roots.proc, "m", "boot"), [Machine()], roots, Settings(), "m", "boot"
        )
        sampler.start()
        sampler.book.take("k", line("join", 1, boottime_ns(), run="r"))
        until = boottime_ns() + int(seconds * S)
        while boottime_ns() < until:
            sampler.read_meters()
            time.sleep(0.02)
        now = boottime_ns()
        sampler.close_all(now)
        assert sampler.flush(now, finish_through=now)
        outbox.close()
        return [row for _, row in sampler._final if isinstance(row, Measurement)]

    return live


def watts(rows, device_id):
    mine = [row for row in rows if row.device_id == device_id]
    ns = max(row.ended_ns for row in mine) - min(row.started_ns for row in mine)
    assert sum(row.ended_ns - row.started_ns for row in mine) == ns, "no gap, and nothing twice"
    return sum(row.energy_millijoules for row in mine) / ns * 1e6


def test_the_remainder_of_an_absence_is_claimed_like_its_parts(agent):
    rows = agent(0.3)
    time.sleep(0.5)
    rows += agent(0.3)
    time.sleep(0.5)
    rows += agent(0.3)
    assert watts(rows, "m/package-0") == pytest.approx(100, rel=0.01)
    assert watts(rows, "m/psys/remainder") == pytest.approx(150, rel=0.01)
    claimed = [row for row in rows if "claimed across an absence of the agent" in row.note]
    assert {row.device_id for row in claimed} == {"m/package-0", "m/psys/remainder"}
    assert all(row.coverage < 1 for row in claimed)
    assert not any("are missing" in row.note for row in rows)


def test_what_another_home_s_agent_read_meanwhile_is_not_claimed(agent):
    before = agent(0.3)
    left = max(row.ended_ns for row in before)
    time.sleep(0.5)
    after = agent(0.3, other_home=True)
    assert min(row.started_ns for row in after) >= left + S // 2
    assert {row.device_id for row in after} == {"m/package-0", "m/psys/remainder"}
