"""A tracked process that keeps a processor busy for a fixed part of the time, and says what CPU time it took.

python busy.py DUTY SECONDS OUT.json
"""

import json
import resource
import sys
import time
from pathlib import Path

import joulebook

PERIOD_SECONDS = 0.05


def used_seconds() -> float:
    """CPU seconds of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def boottime_ns() -> int:
    """CLOCK_BOOTTIME ns."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def main() -> None:
    duty, seconds = float(sys.argv[1]), float(sys.argv[2])
    with joulebook.track(f"busy {duty:g}") as run:
        before, began, began_ns = used_seconds(), time.monotonic(), boottime_ns()
        due = began
        while due < began + seconds:
            until = time.process_time() + duty * PERIOD_SECONDS
            while time.process_time() < until:
                pass
            due += PERIOD_SECONDS
            time.sleep(max(0.0, due - time.monotonic()))
        cpu, ended_ns = used_seconds() - before, boottime_ns()
    told = {"run_id": run.run_id, "cpu_seconds": cpu, "began_ns": began_ns, "ended_ns": ended_ns}
    Path(sys.argv[3]).write_text(json.dumps(told))


if __name__ == "__main__":
    main()
