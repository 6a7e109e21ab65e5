"""What the agent costs a node: CPU milliseconds per second and resident memory, 2 packages + dram + 8 GPUs, simulated.

    python bench/agent_cost.py [SECONDS]

Beside it, in the same seconds, the floor: a Python process that only wakes as often and reads the same counter files.
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

JOULEBOOK = [sys.executable, "-m", "joulebook"]
FLOOR = """
import glob, os, sys, time
fds = [os.open(p, os.O_RDONLY) for p in glob.glob(sys.argv[1] + "/class/powercap/*/energy_uj")]
while True:
    for fd in fds:
        os.pread(fd, 32, 0)
    time.sleep(float(sys.argv[2]))
"""


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process so far, all threads, from its ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    """Resident memory now, MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def settings(text: str) -> dict[str, str]:
    """The assignments among the words that a simulator prints."""
    return dict(word.split("=", 1) for word in shlex.split(text) if "=" in word)


def measure(root: Path, sample_seconds: float, seconds: float) -> None:
    home = root / f"home-{sample_seconds:g}"
    environ = {**os.environ, "JOULEBOOK_HOME": str(home), "JOULEBOOK_SAMPLE_SECONDS": str(sample_seconds)}
    options = ["--packages", "2", "--dram", "--curve", "constant:100"]
    simulator = subprocess.Popen(
        [*JOULEBOOK, "simulate", "powercap", str(root / "sys"), *options], stdout=subprocess.PIPE, text=True
    )
    nvml = subprocess.run(
        [*JOULEBOOK, "simulate", "nvml", str(root / "nvml"), "--gpus", "8"], capture_output=True, text=True, check=True
    )
    environ |= settings(simulator.stdout.readline()) | settings(nvml.stdout)
    run = subprocess.Popen([*JOULEBOOK, "run", "--quiet", "--", "sleep", str(seconds + 8)], env=environ)
    floor = subprocess.Popen([sys.executable, "-c", FLOOR, environ["JOULEBOOK_SYS_ROOT"], str(sample_seconds)])
    try:
        time.sleep(5)  # start-up is not what a node pays every second
        agent = json.loads(next(home.glob("agents/*.json")).read_text())["pid"]
        before = {pid: cpu_seconds(pid) for pid in (agent, floor.pid)}
        started = time.monotonic()
        time.sleep(seconds)
        elapsed = time.monotonic() - started
        spent = {pid: (cpu_seconds(pid) - before[pid]) / elapsed * 1000 for pid in before}
        print(
            f"{1 / sample_seconds:4.0f} Hz  agent {spent[agent]:6.2f} ms/s, {resident_mib(agent):5.1f} MiB"
            f"   floor {spent[floor.pid]:6.2f} ms/s, {resident_mib(floor.pid):5.1f} MiB"
        )
    finally:
        for process in (floor, simulator, run):
            process.terminate()
            process.wait()


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    with tempfile.TemporaryDirectory() as root:
        for sample_seconds in (1.0, 0.1):
            measure(Path(root), sample_seconds, seconds)
        time.sleep(10)  # the agents end by themselves


if __name__ == "__main__":
    main()
