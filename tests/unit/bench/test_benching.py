"""What the benches stand on: their clocks count, their verdicts can fail, their report leaves no figure out."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[3] / "bench"
PAGE = BENCH.parent / "docs" / "benchmarks.md"
NOT_MEASUREMENTS = {"report", "soak"}


@pytest.fixture(autouse=True)
def _benching_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))


def spin(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def test_a_process_clock_counts_what_the_process_itself_counts():
    import os

    from benching.cost import cpu_ns

    before, own = cpu_ns(os.getpid()), time.process_time_ns()
    spin(0.05)
    counted, taken = cpu_ns(os.getpid()) - before, time.process_time_ns() - own
    assert counted >= 50_000_000
    assert abs(counted - taken) < 5_000_000


def test_a_tree_counts_its_living_and_its_ended_children():
    from benching.cost import descendants, tree_cpu_ns

    code = """
import subprocess, sys
burn = "import time\\nwhile time.process_time() < 0.2: pass"
subprocess.run([sys.executable, "-c", burn])
wait = burn + "\\nprint('burnt', flush=True)\\ninput()"
living = subprocess.Popen([sys.executable, "-c", wait], stdin=subprocess.PIPE)
input()
living.communicate(b"x")
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout.readline().strip() == "burnt"
        assert len(descendants(parent.pid)) == 2
        assert tree_cpu_ns(parent.pid) >= 380_000_000  # the ended one is known in ticks of 10 ms
    finally:
        parent.communicate("x")


def test_a_row_says_whether_its_target_was_met():
    from benching.results import Row

    assert Row("f", "w", 1.0, "ms", most=1.0).verdict == "met"
    assert Row("f", "w", 1.1, "ms", most=1.0).verdict == "missed"
    assert Row("f", "w", 92.0, "%", least=93, most=99).verdict == "missed"
    assert Row("f", "w", 99.5, "%", least=93, most=99).verdict == "missed"
    assert Row("f", "w", 95.0, "%", least=93, most=99).verdict == "met"
    assert Row("f", "w", None, "ms", most=1.0).verdict == "not measured"
    assert Row("f", "w", 1.0, "ms").verdict == ""


def test_a_random_curve_has_the_energy_that_its_power_sums_to():
    import numpy as np
    from benching.power import random_curve
    from joulebook.rows import Component

    rng = np.random.default_rng(1)
    for _ in range(20):
        curve = random_curve(rng, Component.GPU, 40.0)
        watts = np.diff(curve.joules) / np.diff(curve.seconds)
        assert (watts >= 0).all()
        assert watts.max() <= 1000
        fine = np.linspace(0, 40, 400_001)
        summed = float((np.diff(curve.energy(fine))).sum())
        assert summed == pytest.approx(float(curve.joules[-1]), rel=1e-9)


def test_a_perfect_sensor_gives_the_agent_the_energy_of_the_curve():
    import numpy as np
    from benching.power import NS, random_curve, random_sensor, read_times, readings
    from joulebook.history import DeviceHistory
    from joulebook.meters import Device
    from joulebook.rows import Component, Method

    rng = np.random.default_rng(2)
    device = Device("gpu", Component.GPU, Method.COUNTER, 0.0, "k", step_ns=1_000_000, wraps_at_microjoules=2**33)
    for _ in range(5):
        curve = random_curve(rng, Component.GPU, 60.0)
        history = DeviceHistory(device, "bench", NS)
        for reading in readings(rng, curve, random_sensor(rng, device, 1.0), device, read_times(rng, 60.0, 1.0)):
            history.add(reading)
        told = history.history.gained(10 * NS, 50 * NS) / 1e6
        assert told == pytest.approx(float(curve.energy(50.0) - curve.energy(10.0)), rel=0.02)


def test_results_go_into_their_place_in_the_page(tmp_path):
    from benching.results import Row
    from report import fill

    told = {
        "at": "2026-07-01T00:00:00+00:00",
        "machine": {"cpu": "C", "cpus": 2, "python": "3.11", "load": "0.1"},
        "rows": [Row("figure", "who | else", 1.5, "ms", 1.0, 2.0, most=1.0, note="n")],
    }
    page = "a\n<!-- begin one -->\nold\n<!-- end one -->\nb\n<!-- begin two -->\nkept\n<!-- end two -->\n"
    filled = fill(page, {"one": told})
    assert "| figure | who \\| else | 1.5 (1 to 2) ms | <= 1 | missed | n |" in filled
    assert "old" not in filled
    assert "kept" in filled
    assert fill(filled, {"one": told}) == filled
    with pytest.raises(SystemExit, match="no place for three"):
        fill(page, {"three": told})


def test_every_bench_has_its_place_in_the_page_and_says_what_it_does():
    page = PAGE.read_text()
    for path in BENCH.glob("*.py"):
        if path.stem in NOT_MEASUREMENTS:
            continue
        assert f"<!-- begin {path.stem} -->" in page, path.stem
        done = subprocess.run([sys.executable, str(path), "--help"], capture_output=True, text=True, check=True)
        assert f"bench/{path.name}" in done.stdout


def test_results_are_written_where_they_are_asked_for(tmp_path, monkeypatch, capsys):
    from benching.results import Row, tell

    monkeypatch.setattr(sys, "argv", ["bench/thing.py"])
    monkeypatch.setenv("BENCH_RESULTS", str(tmp_path / "out"))
    tell([Row("figure", "who", 2.0, "ms", most=1.0)], None)
    told = json.loads((tmp_path / "out" / "thing.json").read_text())
    assert told["rows"][0]["value"] == 2.0
    assert "missed" in capsys.readouterr().out
    assert told["machine"]["cpus"] >= 1


def test_a_small_world_keeps_every_joule_and_ends_every_run():
    words = ["--ticks", "6000", "--runs", "6", "--processes", "60"]
    done = subprocess.run([sys.executable, str(BENCH / "flat.py"), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told = next(line for line in done.stdout.splitlines() if line.startswith("energy told over due"))
    assert float(told.split("joulebook agent")[1].split()[0]) == pytest.approx(1.0, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("ready.py", "--starts", "1"),
        ("marks.py", "--calls", "50", "--steps", "2"),
        ("attribution.py", "3"),
        ("agent_cost.py", "1", "--warm", "0"),
        ("slowdown.py", "1"),
    ],
    ids=lambda words: words[0],
)
def test_a_bench_runs_and_gives_every_figure_that_it_can_measure_here(words, tmp_path):
    name, *arguments = words
    to = tmp_path / "out.json"
    command = [sys.executable, str(BENCH / name), *arguments, "--json", str(to)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(to.read_text())
    assert told["bench"] == Path(name).stem
    assert told["rows"]
    for row in told["rows"]:
        assert row["value"] is not None or row["note"], row
