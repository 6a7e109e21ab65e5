"""The disk under a living agent fills up and is freed again: every joule is in the book, none twice."""

import signal
import subprocess
import sys
from itertools import pairwise

import pytest
from conftest import wait_for


@pytest.fixture
def small_home(simulated):
    """The home on a file system of its own of two MiB."""
    place = simulated.home.root
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount here: {mounted.stderr.decode().strip()}")
    yield simulated
    simulated.close()
    subprocess.run(["umount", "-l", place], check=True)


def fill(path):
    """Take every byte that is left."""
    with path.open("wb", buffering=0) as file:
        for size in (65536, 512, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


TRAINER = """
import joulebook, time
with joulebook.track("t"):
    time.sleep(600)
"""


@pytest.mark.slow
def test_a_full_disk_delays_rows_and_loses_none(small_home):
    small_home.powercap("--packages", "1", "--dram", "--curve", "constant:100")
    small_home.environ["JOULEBOOK_GRACE_SECONDS"] = "0"
    log = small_home.root / "agent.log"  # not on the disk that fills up
    with log.open("wb") as stderr:
        agent = small_home.start("agent", stderr=stderr)
        wait_for(small_home.statuses, what="the agent")
        trainer = subprocess.Popen([sys.executable, "-c", TRAINER], env=small_home.environ)  # spans of 10 s
        small_home.started.append(trainer)
        wait_for(small_home.runs, what="the run")
        wait_for(small_home.measurements, 40, "the first rows")
        ballast = small_home.home.root / "ballast"
        fill(ballast)
        wait_for(lambda: b"refuses rows" in log.read_bytes(), 40, "a refused flush")
        known = len(small_home.measurements())
        ballast.unlink()
        wait_for(lambda: len(small_home.measurements()) > known, 40, "rows again")
        trainer.kill()
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(20) == 0
    rows = small_home.measurements()
    for device in {row.device_id for row in rows}:
        mine = sorted((row for row in rows if row.device_id == device), key=lambda row: row.started_ns)
        assert all(a.ended_ns == b.started_ns for a, b in pairwise(mine))
        truth = small_home.truth(mine[0].started_ns, mine[-1].ended_ns)
        joules = sum(row.energy_millijoules for row in mine) / 1000
        (true_joules,) = [value for name, value in truth.items() if device.endswith(name)]
        assert joules == pytest.approx(true_joules, rel=0.005)
