"""Energy of a 5 s phase against the truth, at 1 Hz.

    python bench/phases.py [SECONDS] [--agents N] [--json FILE]

A simulated node draws a square wave: 400 W for 5 s in every 8. Several jobs run beside each other, each with an agent
of its own, and mark phases of 5 s again and again: half of them when the power is high, up to 150 ms off its edges
either way (a phase and its load begin together), half of them anywhere. The truth is the curve's integral between the
job's own two marks. Every device of the node is one sample of every phase.
"""

import math
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from benching.node import Node, measurements, rows, simulated_id
from benching.results import Row, parser, tell
from joulebook.phase_bounds import phase_bounds
from joulebook.rows import Mark, Measurement, Share
from joulebook.simulate.truth import read_truth

JOB = Path(__file__).parent / "benching" / "phase_job.py"
PHASE_SECONDS, PERIOD_SECONDS = 5.0, 8.0
CURVE = f"square:60,400,{PERIOD_SECONDS},{PHASE_SECONDS / PERIOD_SECONDS}"


@dataclass(frozen=True)
class Sample:
    """One device over one phase, joules. labelled: called too short to resolve.  bounds: hard ones, None without."""

    component: str
    hot: bool
    told: float
    true: float
    labelled: bool
    bounds: tuple[float, float] | None

    @property
    def error_percent(self) -> float:
        """Signed, in percent of the truth."""
        return (self.told / self.true - 1) * 100


def samples(node: Node, home: Path, hot: bool) -> list[Sample]:
    """Every device over every whole phase that a job marked."""
    found = rows(home)
    begins = {mark.n: mark for mark in found if isinstance(mark, Mark) and mark.kind == "begin"}
    ends = sorted((mark for mark in found if isinstance(mark, Mark) and mark.kind == "end"), key=lambda mark: mark.n)
    told: dict[tuple[str, str], float] = defaultdict(float)
    owned: dict[tuple[str, str], list[tuple[Measurement, Share]]] = defaultdict(list)
    labels: set[tuple[str, str]] = set()
    component = {}
    for m in measurements(home):
        component[m.device_id] = str(m.component)
        for share in m.shares:
            told[share.phase, m.device_id] += share.millijoules / 1000
            owned[share.phase, m.device_id].append((m, share))
            if "too short" in m.note:
                labels.add((share.phase, m.device_id))
    known = node.truth(0, 1)
    made = []
    for end in ends:
        begin = begins.get(end.n - 1)
        if begin is None:
            continue
        true = node.truth(begin.at_ns, end.at_ns)
        for device_id, kind in component.items():
            key = (begin.phase, device_id)
            bounds = phase_bounds(owned[key]).get(begin.phase)
            pair = None if bounds is None else (bounds.least / 1000, bounds.most / 1000)
            made.append(Sample(kind, hot, told[key], true[simulated_id(device_id, known)], key in labels, pair))
    return made


def phase_job(node: Node, home: Path, seed: str, period: float, length: float, seconds: float) -> subprocess.Popen:
    """A job that marks phases of ``length`` seconds, one every ``period`` seconds of the node's curve.

    seed: "hot ..." for phases at the curve's high power, "any ..." for phases anywhere.
    """
    began = min(source.t0_ns for source in read_truth(node.nvml))
    words = [str(word) for word in (began, period, length, seed.split()[0], seed, seconds)]
    return node.start([sys.executable, str(JOB), *words], {"JOULEBOOK_HOME": str(home), "JOULEBOOK_AGENT": "on"})


def run(seconds: float, count: int) -> list[Sample]:
    """All samples of ``count`` jobs, each with its own agent, over so many seconds."""
    # One curve for each device, and the same one: a phase is hot on all of them at once.
    packages = tuple(word for _ in range(2) for word in ("--curve", CURVE))
    boards = tuple(word for _ in range(8) for word in ("--curve", CURVE))
    with Node(2, 8, curve=CURVE, package_options=packages[2:], gpu_options=boards) as node:
        homes, agents = [], []
        for n in range(count):
            agent, home = node.agent(f"phases-{n}", JOULEBOOK_GRACE_SECONDS="2")
            job = phase_job(node, home, f"{'any' if n % 2 else 'hot'} {n}", PERIOD_SECONDS, PHASE_SECONDS, seconds)
            homes.append((home, n % 2 == 0, job))
            agents.append(agent)
        for _, _, job in homes:
            job.wait()
        time.sleep(5)
        for agent in agents:
            node.end(agent)
        return [sample for home, hot, _ in homes for sample in samples(node, home, hot)]


def figures(found: list[Sample]) -> list[Row]:
    """Error by load and component; the target is for all together."""
    groups = {
        "all": found,
        "hot phases": [s for s in found if s.hot],
        "phases anywhere": [s for s in found if not s.hot],
        **{f"hot phases, {c}": [s for s in found if s.hot and s.component == c] for c in ("gpu", "cpu", "dram")},
    }
    made = []
    for name, group in groups.items():
        errors = np.array([s.error_percent for s in group])
        worst = errors[np.abs(errors).argmax()]
        note = f"{len(group)} device-phases; mean {errors.mean():+.2g} %, worst {worst:+.2g} %"
        for p in (50, 95):
            most = 1.0 if (name, p) == ("all", 95) else None
            value = float(np.percentile(np.abs(errors), p))
            figure = f"5 s phase, |error| p{p}, {name}"
            made.append(Row(figure, "joulebook agent", value, "%", most=most, note=note))
    labelled = 100 * sum(s.labelled for s in found) / len(found)
    bounded = [(s, s.bounds) for s in found if s.bounds is not None]
    inside = sum(low - 0.002 <= s.true <= high + 0.002 for s, (low, high) in bounded)  # whole millijoules
    width = np.mean([(high - low) / 2 / s.true for s, (low, high) in bounded]) * 100 if bounded else math.nan
    note = f"{len(bounded)} of {len(found)} device-phases have bounds; mean half-width {width:.2g} % of the truth"
    value = 100 * inside / len(bounded) if bounded else None
    made.append(Row("phases inside their hard bounds", "joulebook agent", value, "%", least=100, note=note))
    made.append(Row('labelled "too short to resolve"', "joulebook agent", labelled, "%"))
    return made


def main() -> None:
    options = parser(__doc__, 70.0)
    options.add_argument("--agents", type=int, default=6, help="jobs beside each other, each with an agent (default 6)")
    given = options.parse_args()
    tell(figures(run(given.seconds, given.agents)), given.json)


if __name__ == "__main__":
    main()
