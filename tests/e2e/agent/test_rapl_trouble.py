"""Runs over RAPL trouble: a zone that goes and returns, a reader that is killed. Every joule is theirs all the same."""

import json
import os
import socket
import subprocess
import sys

import pytest
from conftest import wait_for
from joulebook import reader

WATTS = 150


def measured_over_truth(simulated, process, out):
    """The document of a run that has ended, and measured over true joules by device, over its own span."""
    _, complaints = process.communicate(timeout=120)
    assert process.returncode == 0, complaints
    document = json.loads(out.read_text())
    run = simulated.runs()[document["run_id"]]
    truth = simulated.truth(run.started_ns, run.ended_ns)
    measured = {device.partition("/")[2]: joules for device, joules in document["devices"].items()}
    return document, {device: measured[device] / truth[device] for device in truth}


def start_run(simulated, seconds):
    out = simulated.root / "run.json"
    words = ["run", "--json", str(out), "--", "sleep", str(seconds)]
    return simulated.start(*words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True), out


def test_a_zone_that_goes_and_returns_costs_no_joule(simulated):
    simulated.powercap("--packages", "2", "--dram", "--curve", f"constant:{WATTS}", "--away", "intel-rapl:1=4,8.5")
    document, ratios = measured_over_truth(simulated, *start_run(simulated, 11))
    assert ratios.keys() == {f"rapl:package-{n}{part}" for n in range(2) for part in ("", "/dram")}
    assert all(abs(ratio - 1) < 0.005 for ratio in ratios.values()), ratios
    kept = document["conservation"]
    assert kept["measured"] == kept["runs"] + kept["idle"] + kept["unattributed"]


@pytest.mark.skipif(os.geteuid() != 0, reason="the reader drops the privileges of root")
def test_a_reader_that_is_killed_and_started_anew_costs_no_joule(simulated):
    simulated.powercap("--packages", "2", "--dram", "--curve", f"constant:{WATTS}")
    path = str(simulated.root / "rapl.sock")

    def start_reader():
        words = [sys.executable, "-I", reader.__file__, "--sys", str(simulated.root / "sys"), "--socket", path]
        process = subprocess.Popen(words)
        simulated.started.append(process)
        wait_for(lambda: listens(path), what="the reader")
        return process

    first = start_reader()
    simulated.environ |= {"JOULEBOOK_RAPL_SOCKET": path, "JOULEBOOK_SYS_ROOT": str(simulated.root / "none")}
    process, out = start_run(simulated, 11)
    wait_for(lambda: any("open" in status["runs"].values() for status in simulated.statuses()), what="the run")
    first.kill()
    first.wait()
    start_reader()
    document, ratios = measured_over_truth(simulated, process, out)
    # A joule at each end, of some 1700 J and 250 J.
    assert all(abs(ratio - 1) < 0.01 for ratio in ratios.values()), ratios
    assert len(ratios) == 4
    assert any("through the reader: 1 J, 1 s" in note for note in document["notes"])


def listens(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        return peer.connect_ex(path) == 0
