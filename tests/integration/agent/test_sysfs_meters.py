"""AMD GPUs and hardware monitors with a real agent, a real run and a simulator that moves the files meanwhile."""

import json
import subprocess

import pytest


def machine(simulated, kind, *options):
    """A simulator of ``joulebook simulate KIND`` whose tree the agent reads."""
    words = ["simulate", kind, str(simulated.root / "sys"), *options]
    simulator = simulated.start(*words, stdout=subprocess.PIPE, text=True)
    simulated._take_settings(simulator.stdout.readline())
    simulated.environ["JOULEBOOK_METERS"] = "amdgpu" if kind == "amdgpu" else "hwmon"


def run(simulated, seconds):
    """A run of so many seconds: its document, measured and true joules by device."""
    out = simulated.root / "run.json"
    done = simulated.joulebook("run", "--json", str(out), "--", "sleep", str(seconds))
    assert done.returncode == 0, done.stderr
    document = json.loads(out.read_text())
    own = simulated.runs()[document["run_id"]]
    truth = simulated.truth(own.started_ns, own.ended_ns)
    # The machine's id stands before every device's but a GPU's.
    measured = {
        device[device.index(next(iter(truth)).partition(":")[0]) :]: j for device, j in document["devices"].items()
    }
    return document, measured, truth


@pytest.mark.parametrize("options", [(), ("--counter-rate", "3"), ("--two-dies",)])
def test_amd_gpus_give_the_true_joules_whatever_their_counter_says(simulated, options):
    machine(simulated, "amdgpu", "--gpus", "2", "--curve", "square:60,300,3", *options)
    document, measured, truth = run(simulated, 5)
    assert measured.keys() == truth.keys()
    assert len(truth) == 2
    # Instants are read ten times a second: every edge of the square errs by 12 J of some 900 J at most.
    assert measured == {device: pytest.approx(joules, rel=0.04) for device, joules in truth.items()}
    kept = document["conservation"]
    assert kept["measured"] == kept["runs"] + kept["idle"] + kept["unattributed"]


@pytest.mark.parametrize(
    ("kind", "options", "devices"),
    [
        ("grace", ("--sockets", "2", "--interval-ms", "50"), 4),
        ("ina3221", (), 1),
        ("amd_energy", ("--sockets", "2"), 2),
    ],
)
def test_hardware_monitors_give_the_true_joules(simulated, kind, options, devices):
    machine(simulated, "hwmon", "--kind", kind, "--curve", "square:60,200,3", *options)
    document, measured, truth = run(simulated, 5)
    assert measured.keys() == truth.keys()
    assert len(truth) == devices
    assert measured == {device: pytest.approx(joules, rel=0.04) for device, joules in truth.items()}
    kept = document["conservation"]
    assert kept["measured"] == kept["runs"] + kept["idle"] + kept["unattributed"]


def test_a_card_that_is_taken_away_for_good_is_missing_and_harms_no_other(simulated):
    machine(simulated, "amdgpu", "--gpus", "2", "--curve", "constant:200", "--fault", "gone:0:3")
    document, measured, truth = run(simulated, 6)
    gone, other = sorted(truth)
    assert measured[other] == pytest.approx(truth[other], rel=0.04)
    # It was there for less than the first three seconds.
    assert measured.get(gone, 0) <= 3.1 * 200
    # Half of the run is not known of it, and the report says how much was observed.
    assert 0.3 < document["coverage"] < 0.7
    kept = document["conservation"]
    assert kept["measured"] == kept["runs"] + kept["idle"] + kept["unattributed"]
