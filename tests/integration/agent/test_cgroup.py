"""A real control group of this kernel, laid out as Slurm does: its CPU time is one file, ended processes included."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from joulebook.cgroup import group_usage_ns, members_of, own_group
from joulebook.meters import Roots

ROOTS = Roots(Path("/proc"), Path("/sys"))
BURN = """
import sys, time
sys.stdin.readline()
while time.process_time() < 0.5: pass
print("burnt", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def step():
    """A group made for the test, below whichever hierarchy counts CPU time here."""
    base = Path("/sys/fs/cgroup")
    hierarchy = next((base / name for name in ("cpuacct", "cpu,cpuacct") if (base / name).is_dir()), base)
    made = [hierarchy / f"joulebook-test-{os.getpid()}"]
    made += [made[0] / "job_7", made[0] / "job_7/step_0"]
    try:
        for directory in made:
            directory.mkdir()
    except OSError as error:
        for directory in reversed(made):
            with contextlib.suppress(OSError):
                directory.rmdir()
        pytest.skip(f"no control group can be made here: {error}")
    yield made[-1]
    for directory in reversed(made):
        directory.rmdir()


def test_cpu_time_of_a_real_group(step):
    job = subprocess.Popen([sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        (step / "cgroup.procs").write_text(f"{job.pid}\n")
        group = own_group(job.pid, ROOTS)
        assert group is not None
        assert (group.level.kind, group.level.name, group.directory) == ("step", "0", step)
        assert members_of(group.directory.parent) == {job.pid}
        before = group_usage_ns(group.usage)
        job.stdin.write("go\n")
        job.stdin.flush()
        assert job.stdout.readline() == "burnt\n"
        assert group_usage_ns(group.usage) - before > 0.4e9
    finally:
        job.communicate("end\n")
    assert group_usage_ns(group.usage) - before > 0.4e9, "those that have ended count too"
    assert members_of(step) == set()
