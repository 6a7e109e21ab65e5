"""Real agents on simulated GPUs that are lost, divided, reloaded or silent: what their runs are told."""

import json
import subprocess

import pytest

SLICES = ("--architecture", "ga100", "--slice", "0:3", "--slice", "0:1")


def run_for(simulated, seconds):
    """``joulebook run -- sleep``: the document, the run, and measured and true joules by device."""
    out = simulated.root / "run.json"
    done = simulated.joulebook("run", "--json", str(out), "--", "sleep", str(seconds))
    assert done.returncode == 0, done.stderr
    document = json.loads(out.read_text())
    run = simulated.runs()[document["run_id"]]
    return document, run, document["devices"], simulated.truth(run.started_ns, run.ended_ns)


def is_conserved(document):
    kept = document["conservation"]
    return kept["measured"] == kept["runs"] + kept["idle"] + kept["unattributed"]


@pytest.mark.slow
def test_a_lost_gpu_costs_its_own_joules_only_and_the_job_nothing(simulated):
    simulated.nvml("--gpus", "3", "--curve", "constant:200", "--lose", "1:6:11", "--lose", "2:8")
    document, _, measured, true = run_for(simulated, 18)
    whole, back, gone = sorted(true)
    assert measured[whole] == pytest.approx(true[whole], rel=0.01)
    # Back within 4 s of its return (it is looked for 1, 3 and 7 s after it went), never more than it drew.
    assert true[back] - 190 * 9.5 <= measured[back] <= 1.01 * true[back]
    # Gone for good: what was read before, and nothing made up after.
    assert 0 < measured[gone] < 180 * 8.5
    assert document["coverage"] < 1
    assert is_conserved(document)


@pytest.mark.slow
def test_a_driver_loaded_again_leaves_a_gap_and_no_false_joule(simulated):
    simulated.nvml("--gpus", "2", "--curve", "constant:200", "--down", "7:8.5")
    document, _, measured, true = run_for(simulated, 16)
    for device, joules in true.items():
        watts = 200 if device == min(true) else 190
        # Two seconds without a driver, or until it is looked for, 1 and 3 s after it was missed, a tick after it was
        # last read; half a counter step at either end of what is known, and milliseconds of lateness.
        assert joules - 4.3 * watts <= measured[device] <= joules - 1.5 * watts + 0.2 * watts
    assert document["coverage"] < 1
    assert is_conserved(document)


@pytest.mark.slow
def test_runs_in_mig_slices_share_by_their_size(simulated):
    simulated.environ["JOULEBOOK_POLICY"] = "utilisation"
    simulated.nvml("--gpus", "1", "--curve", "constant:200", *SLICES)
    conf = simulated.environ["JOULEBOOK_SIM_NVML"]
    outs = [simulated.root / f"run-{i}.json" for i in range(2)]
    jobs = [
        simulated.start(
            "run", "--json", str(out), "--", "sh", "-c", f'echo "gpu 0 process $$ 0 -1 {i}" >> {conf}; exec sleep 12',
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for i, out in enumerate(outs)
    ]  # fmt: skip
    assert [job.wait(timeout=60) for job in jobs] == [0, 0]
    large, small = (json.loads(out.read_text()) for out in outs)
    shared = [0, 0]
    for row in simulated.measurements():
        parts = [sum(s.millijoules for s in row.shares if s.run_id == doc["run_id"]) for doc in (large, small)]
        if row.component == "gpu" and row.ended_ns - row.started_ns > 1_000_000_000 and all(parts):
            shared = [total + part for total, part in zip(shared, parts, strict=True)]
    # 3/7 and 1/7 while both ran; how long each ran alone is the machine's matter.
    assert shared[0] > 100_000
    assert shared[0] / shared[1] == pytest.approx(3, rel=0.1)
    assert is_conserved(large)
    assert is_conserved(small)


@pytest.mark.slow
def test_a_board_without_power_is_modelled_and_every_report_says_so(simulated):
    simulated.nvml("--gpus", "1", "--curve", "constant:350", "--no-power")
    document, _, measured, true = run_for(simulated, 8)
    # 350 W of the limit of 700 W: 50 % by utilisation.
    assert {device: measured[device] for device in true} == {d: pytest.approx(j, rel=0.05) for d, j in true.items()}
    assert document["method"]["gpu"] == "modelled"
    low, high = document["energy_interval_joules"]["gpu"]
    assert (high - low) / document["energy_joules"]["gpu"] > 4 * 0.39
    assert any("design power 700 W" in note for note in document["notes"])
