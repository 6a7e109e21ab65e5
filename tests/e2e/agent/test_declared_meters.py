"""Declared meters in a real agent: what a run's rows hold, beside the truth of the simulated source."""

import shlex
import signal
import subprocess

import pytest
from joulebook.simulate import truth

SOURCES = {
    "redfish": (["redfish", "--curve", "constant:400"], {"JOULEBOOK_REDFISH_POLL_SECONDS": "0.5"}, 1),
    "ipmi": (["ipmi", "--curve", "constant:400"], {"JOULEBOOK_IPMI_POLL_SECONDS": "0.5"}, 2),
    "prometheus": (
        ["exporter", "--kind", "dcgm", "--devices", "2", "--slices", "7", "--step-seconds", "0.5"],
        {"JOULEBOOK_PROMETHEUS_POLL_SECONDS": "0.2"},
        2,
    ),
}
"""Meter -> the words that simulate its source, its settings, and how many settings the simulator prints."""


@pytest.mark.parametrize("meter", sorted(SOURCES))
def test_a_run_is_metered_within_what_the_meter_says(meter: str, bench) -> None:
    words, settings, lines = SOURCES[meter]
    directory = bench.root / "source"
    simulator = bench.start("simulate", words[0], str(directory), *words[1:], stdout=subprocess.PIPE, text=True)
    for _ in range(lines):
        name, _, value = simulator.stdout.readline().removeprefix("export ").strip().partition("=")
        bench.environ[name] = shlex.split(value)[0]
    bench.environ |= {**settings, "JOULEBOOK_METERS": meter}
    done = bench.joulebook("run", "--", "sleep", "8")
    simulator.send_signal(signal.SIGTERM)
    assert done.returncode == 0, done.stderr
    rows = bench.measurements()
    assert {row.meter for row in rows} == {meter}
    for device_id in {row.device_id for row in rows}:
        own = sorted((row for row in rows if row.device_id == device_id), key=lambda row: row.started_ns)
        joules = sum(row.energy_millijoules for row in own) / 1e3
        true = sum(truth(directory, row.started_ns, row.ended_ns)[device_id.rpartition("/")[2]] for row in own)
        # Known through most of the run; a stale step at either end of what is known.
        seconds = sum(row.ended_ns - row.started_ns for row in own) / 1e9
        assert seconds > 4
        assert joules == pytest.approx(true, rel=0.005 + 2 * 0.5 / seconds if meter == "prometheus" else 0.005)
    (run,) = bench.runs().values()
    assert bench.energy(run).total > 0
