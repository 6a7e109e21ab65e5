"""The files of /proc from which the model works, with a CPU whose load follows a curve of its power."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

TDP_WATTS: Final = 125.0
"""Of the Xeon Gold 6230 in the shipped table, which has 40 threads."""
BUSY_FRACTION: Final = 0.5
MEMORY_KB: Final = 1 << 20
CPUINFO: Final = "vendor_id : GenuineIntel\nmodel name : Intel Xeon Gold 6230\n"


class Machine:
    """One CPU, half busy, one GB of memory."""

    environ: Mapping[str, str] = {}

    def __init__(self, root: Path, began_ns: int) -> None:
        self._stat = root / "proc" / "stat"
        self._began_ns = began_ns
        (root / "proc" / "self").mkdir(parents=True, exist_ok=True)
        (root / "proc" / "cpuinfo").write_text(CPUINFO)
        (root / "proc" / "meminfo").write_text(f"MemTotal: {MEMORY_KB} kB\n")
        self.move(began_ns)

    def move(self, now_ns: int) -> None:
        """CPU time up to an instant."""
        ticks = int((now_ns - self._began_ns) / 1e9 * BUSY_FRACTION * os.sysconf("SC_CLK_TCK"))
        self._stat.write_text(f"cpu  {ticks} 0 0 0 0 0 0 0\ncpu0 {ticks} 0 0 0 0 0 0 0\n")

    def joules(self, from_ns: int, to_ns: int) -> dict[str, float]:
        """What the model should say, by its own curve: 0.75 of the design power of one thread; 0.36 W of memory."""
        seconds = (to_ns - from_ns) / 1e9
        return {"model:cpu": 0.75 * TDP_WATTS / 40 * seconds, "model:dram": 0.36 * seconds}

    def close(self) -> None:
        """Nothing runs."""


def stand(root: Path, began_ns: int) -> Machine:
    """A machine for the model."""
    return Machine(root, began_ns)
