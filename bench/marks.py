"""What a mark costs the trainer, beside the floor that any durable line has: one ``write`` of as many bytes.

    python bench/marks.py

CPU microseconds per call, best of seven rounds. The ratio to the floor of the same run carries over to other machines.
"""

import os
import tempfile
import time
from pathlib import Path

ROUNDS, CALLS = 7, 20_000


def cpu_us(call) -> float:
    """CPU microseconds of one call, over many."""
    started = time.process_time_ns()
    for _ in range(CALLS):
        call()
    return (time.process_time_ns() - started) / CALLS / 1000


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"JOULEBOOK_HOME": home, "JOULEBOOK_AGENT": "off"}
        import joulebook

        fd = os.open(Path(home) / "floor", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        line = b"x" * 130

        def both_edges() -> None:
            with joulebook.phase("train"):
                pass

        rows = {"write of 130 bytes": [], "phase, begin and end": [], "log of one metric": []}
        with joulebook.track("bench"):
            for _ in range(ROUNDS):
                rows["write of 130 bytes"].append(cpu_us(lambda: os.write(fd, line)))
                rows["phase, begin and end"].append(cpu_us(both_edges))
                rows["log of one metric"].append(cpu_us(lambda: joulebook.log(samples=64, step=1, loss=0.5)))
        os.close(fd)
    floor = min(rows["write of 130 bytes"])
    for name, values in rows.items():
        print(f"{name:24} {min(values):6.2f} us  {min(values) / floor:5.2f} x the write")


if __name__ == "__main__":
    main()
