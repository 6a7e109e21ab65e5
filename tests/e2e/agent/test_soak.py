"""Kills at random instants, again and again: the book conserves, counts nothing twice and loses at most one flush.

A short round runs with every test; the long one by ``make soak``.
"""

import os
import random
import signal
import subprocess
import time
from itertools import pairwise

import pytest
from conftest import is_alive
from joulebook.recover import recover
from joulebook_collector.ledger import Ledger
from joulebook_collector.take import take_outboxes


def storm(simulated, monkeypatch, seed, kills):
    """Runs one after another while whoever meters is killed now and then; at the end, the ledger against the truth."""
    rng = random.Random(seed)
    simulated.powercap("--packages", "2", "--curve", "square:50,150,3", "--start-near-wrap", str(rng.uniform(5, 30)))
    simulated.environ["JOULEBOOK_METERS"] = "rapl"
    for name in ("JOULEBOOK_HOME", "JOULEBOOK_SYS_ROOT", "JOULEBOOK_METERS"):
        monkeypatch.setenv(name, simulated.environ[name])
    for _ in range(kills):
        run = simulated.start("run", "--quiet", "--", "sleep", f"{rng.uniform(1, 8):.2f}", stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.5, 9))
        victims = [status["pid"] for status in simulated.statuses() if is_alive(status["pid"])]
        if rng.random() < 0.3:
            victims.append(run.pid)
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        if rng.random() < 0.5:
            recover(simulated.home)
            take(simulated)
        run.wait(60)
    for status in simulated.statuses():
        if is_alive(status["pid"]):
            os.kill(status["pid"], signal.SIGTERM)
            while is_alive(status["pid"]):
                time.sleep(0.05)
    assert recover(simulated.home)
    take(simulated)


def take(simulated):
    """Rows into the ledger, as a report does."""
    with Ledger.open(simulated.root / "ledger.duckdb") as ledger:
        take_outboxes(ledger, simulated.home)
        take_outboxes(ledger, simulated.home)


def check(simulated):
    """Every law that can be seen from outside."""
    with Ledger.open(simulated.root / "ledger.duckdb") as ledger:
        rows = ledger.measurements()
        runs = ledger.runs(ledger.latest_known_us())
    assert rows
    assert all(run.status != "running" for run in runs)
    by_device = {}
    for row in rows:
        assert sum(share.millijoules for share in row.shares) == row.energy_millijoules
        by_device.setdefault(row.device_id, []).append(row)
    for device_id, spans in by_device.items():
        spans.sort(key=lambda row: row.started_ns)
        for before, after in pairwise(spans):
            assert before.ended_ns <= after.started_ns, "a joule is counted twice"
        truth = sum(simulated.truth(row.started_ns, row.ended_ns)[device_id.partition("/")[2]] for row in spans)
        measured = sum(row.energy_millijoules for row in spans) / 1000
        assert measured == pytest.approx(truth, rel=0.02), device_id


def test_a_short_storm(simulated, monkeypatch):
    storm(simulated, monkeypatch, seed=1, kills=3)
    check(simulated)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(10, 16))
def test_a_long_storm(simulated, monkeypatch, seed):
    storm(simulated, monkeypatch, seed, kills=15)
    check(simulated)
