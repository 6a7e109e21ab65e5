"""Joules attributed to four processes against the CPU time that they know they took.

    python bench/attribution.py [SECONDS] [--json FILE]

Four runs share two simulated packages under the policy `utilisation`; each process keeps a processor busy for its own
part of the time and takes its CPU time from getrusage. Among the four: each one's part of their joules against its
part of their CPU time, whatever else the machine does. Of the machine: each one's joules against those due to it span
by span, from its own clock and the machine's, which this bench samples four times a second.
"""

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from benching.cost import cpu_ns
from benching.node import Node, measurements
from benching.results import Row, parser, tell
from joulebook.processes import machine_counts
from joulebook.rows import Measurement

DUTIES = (0.05, 0.1, 0.15, 0.2)
SCRIPT = Path(__file__).parent / "benching" / "busy.py"


@dataclass
class Clocks:
    """CPU nanoseconds of each process and of the whole machine, sampled over time."""

    pids: list[int]
    times: list[int] = field(default_factory=list)
    values: list[list[float]] = field(default_factory=list)

    def sample(self) -> None:
        """One more sample; a process that has ended keeps its last value."""
        last = self.values[-1] if self.values else [0.0] * (len(self.pids) + 1)
        now = []
        for pid, before in zip(self.pids, last, strict=False):
            try:
                now.append(float(cpu_ns(pid)))
            except OSError:
                now.append(before)
        self.values.append([*now, float(machine_counts(Path("/proc"))[0])])
        self.times.append(time.clock_gettime_ns(time.CLOCK_BOOTTIME))

    def due(self, m: Measurement, tracked: list[tuple[int, int]]) -> list[float]:
        """The part of a measurement's joules that each process's part of the busy time is, while it is tracked."""
        table = np.array(self.values)
        gained = []
        for n, (start, end) in enumerate([*tracked, (m.started_ns, m.ended_ns)]):
            inside = [min(max(t, start), end) for t in (m.started_ns, m.ended_ns)]
            gained.append(float(np.diff(np.interp(inside, self.times, table[:, n]))[0]))
        whole = max(gained[-1], sum(gained[:-1]))
        return [m.energy_millijoules / 1000 * own / whole if whole else 0.0 for own in gained[:-1]]


def measure(seconds: float) -> list[Row]:
    """Error of each process's joules in percent of what is due, both ways."""
    with Node(packages=2, gpus=0, curve="constant:150") as node:
        agent, home = node.agent("attribution", JOULEBOOK_POLICY="utilisation", JOULEBOOK_GRACE_SECONDS="2")
        settings = {"JOULEBOOK_HOME": str(home), "JOULEBOOK_AGENT": "on"}
        outs = [node.root / f"busy-{n}.json" for n in range(len(DUTIES))]
        jobs = [
            node.start([sys.executable, str(SCRIPT), str(duty), str(seconds), str(out)], settings)
            for duty, out in zip(DUTIES, outs, strict=True)
        ]
        clocks = Clocks([job.pid for job in jobs])
        while any(job.poll() is None for job in jobs):
            clocks.sample()
            time.sleep(0.25)
        clocks.sample()
        if any(job.returncode for job in jobs):
            raise SystemExit("a busy process failed")
        time.sleep(4)
        node.end(agent)
        told = [json.loads(out.read_text()) for out in outs]
        packages = [m for m in measurements(home) if m.component == "cpu"]
    joules = [
        sum(s.millijoules for m in packages for s in m.shares if s.run_id == each["run_id"]) / 1000 for each in told
    ]
    tracked = [(each["began_ns"], each["ended_ns"]) for each in told]
    due = np.sum([clocks.due(m, tracked) for m in packages], axis=0)
    cpu = [each["cpu_seconds"] for each in told]
    rows = []
    for n, duty in enumerate(DUTIES):
        who = f"process busy {100 * duty:g} %"
        among = abs(joules[n] / sum(joules) / (cpu[n] / sum(cpu)) - 1) * 100
        note = f"{cpu[n]:.2f} of {sum(cpu):.2f} CPU s, {joules[n]:.1f} of {sum(joules):.1f} J"
        rows.append(Row("attribution error, among the four", who, among, "%", most=2, note=note))
        note = f"{joules[n]:.1f} J, due {due[n]:.1f} J"
        rows.append(
            Row("attribution error, of the machine", who, abs(joules[n] / due[n] - 1) * 100, "%", most=2, note=note)
        )
    return rows


def main() -> None:
    given = parser(__doc__, 30.0).parse_args()
    tell(measure(given.seconds), given.json)


if __name__ == "__main__":
    main()
