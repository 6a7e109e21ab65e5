"""Whether the agent's memory stays flat: millions of ticks, thousands of runs, a hundred thousand processes.

    python bench/flat.py [--ticks N] [--runs N] [--processes N] [--json FILE]

The agent's own loop, sampler, marks folder, process table and outbox in this process, on a clock that this bench moves
by 10 ms a tick and on a /proc of files: runs begin, mark phases, start children, log and end; every row goes through
the outbox on tmpfs, which is drained as a collector would. The resident set is taken at even distances. Growth is the
slope over the run after its first tenth, times the ticks, with a 95 % interval from the residuals.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import joulebook.clock
import numpy as np
from benching.cost import resident_mib
from benching.results import Row, parser, tell

NS = 1_000_000_000
TICK_NS = NS // 100
BEGAN_NS = 3600 * NS
UTC_OFFSET_NS = 1_790_000_000 * NS
FIRST_PID = 5_000_000
"""Above every real process's number, so that none is taken for one."""
POINTS = 40
METER_WATTS = 350


class Clock:
    """CLOCK_BOOTTIME and UTC for everything that asks joulebook.clock."""

    now_ns = BEGAN_NS

    def boottime_ns(self) -> int:
        return self.now_ns

    def utc_us(self) -> int:
        return (self.now_ns + UTC_OFFSET_NS) // 1000

    def offset(self):
        return joulebook.clock.Offset(UTC_OFFSET_NS)


CLOCK = Clock()
# Before anything else of joulebook is imported, so that all of it is given this clock.
joulebook.clock.boottime_ns = CLOCK.boottime_ns
joulebook.clock.utc_us = CLOCK.utc_us
joulebook.clock.offset = CLOCK.offset

from joulebook.folder import MarksFolder  # noqa: E402
from joulebook.home import Home  # noqa: E402
from joulebook.lease import take_lease  # noqa: E402
from joulebook.loop import Loop  # noqa: E402
from joulebook.meters import Device, Reading, Roots  # noqa: E402
from joulebook.outbox import Outbox  # noqa: E402
from joulebook.reopening import Reopening  # noqa: E402
from joulebook.rows import Component, Measurement, Method, Run  # noqa: E402
from joulebook.sampler import Sampler  # noqa: E402
from joulebook.settings import Settings  # noqa: E402


@dataclass
class Meter:
    """Two counters of 100 W and 250 W, one of which wraps every 20 minutes or so."""

    name: str = "bench"
    left_out: tuple = ()
    devices: tuple = (
        Device("cpu", Component.CPU, Method.COUNTER, 0.03, "bench", wraps_at_microjoules=2**37),
        Device("gpu", Component.GPU, Method.COUNTER, 0.03, "bench", step_ns=100_000_000),
    )

    def read(self) -> list[Reading]:
        elapsed = CLOCK.now_ns - BEGAN_NS
        return [
            Reading("cpu", CLOCK.now_ns, energy_microjoules=elapsed // 10 % 2**37),
            Reading("gpu", CLOCK.now_ns, energy_microjoules=elapsed // 10**8 * 25_000_000),
        ]

    def busy(self) -> dict:
        return {}

    def close(self) -> None:
        """Nothing is held."""


@dataclass
class Proc:
    """A /proc of files."""

    root: Path

    def __post_init__(self) -> None:
        self.root.mkdir()
        (self.root / "cpuinfo").write_text("processor : 0\nmodel name : Bench\n\nprocessor : 1\nmodel name : Bench\n")
        (self.root / "meminfo").write_text("MemTotal: 16777216 kB\n")
        (self.root / "self").mkdir()
        (self.root / "self" / "cgroup").write_text("0::/\n")
        self.tick()

    def tick(self) -> None:
        """The machine's own CPU time: half a processor."""
        ticks = (CLOCK.now_ns - BEGAN_NS) // (2 * TICK_NS)
        (self.root / "stat").write_text(f"cpu  {ticks} 0 0 0 0 0 0 0 0 0\n")

    def start(self, pid: int, parent: int) -> None:
        (self.root / str(pid)).mkdir()
        self.run(pid, parent, 0)

    def run(self, pid: int, parent: int, cpu_ticks: int) -> None:
        began = (CLOCK.now_ns - BEGAN_NS) // TICK_NS if cpu_ticks == 0 else 0
        rest = [0] * 9 + [cpu_ticks, 0, 0, 0, 20, 0, 1, 0, began, 0, 0]
        (self.root / str(pid) / "stat").write_text(f"{pid} (bench) S {parent} {' '.join(map(str, rest))}\n")

    def end(self, pid: int) -> None:
        shutil.rmtree(self.root / str(pid))


@dataclass
class Job:
    """One run's life in ticks: it begins, starts children, marks, logs, ends."""

    number: int
    first_tick: int
    last_tick: int
    pids: list[int]
    marks: Path
    n: int = 0

    def mark(self, kind: str, **values: object) -> None:
        self.n += 1
        append(self.marks, self.n, kind, values)

    def log(self, **values: object) -> None:
        """The run's only log."""
        append(self.marks.parent / "logs" / self.marks.name, 1, "log", values)


def append(path: Path, n: int, kind: str, values: dict[str, object]) -> None:
    """One line as the SDK writes it, at the bench's time."""
    head = {"v": 1, "n": n, "kind": kind, "at_ns": CLOCK.now_ns, "at_us": CLOCK.utc_us(), "cpu_ns": 0}
    with path.open("a") as file:
        file.write(json.dumps({**head, **values}) + "\n")


@dataclass
class World:
    """Runs one after another on the agent's machine, and the collector's side of its outbox."""

    root: Path
    ticks: int
    runs: int
    processes: int
    sums: dict[str, int] = field(default_factory=lambda: {"measured": 0, "shared": 0, "rows": 0, "ended": 0})

    def __post_init__(self) -> None:
        self.home = Home(self.root / "home").make()
        self.proc = Proc(self.root / "proc")
        (self.root / "sys").mkdir()
        outbox_path = self.home.outboxes / "bench.sqlite"
        outbox = Outbox(outbox_path, writer=True)
        self.collector = Outbox(outbox_path, writer=False)
        folder = MarksFolder(self.home, self.proc.root, "bench", "boot")
        roots = Roots(self.proc.root, self.root / "sys")
        self.sampler = Sampler(outbox, folder, [Meter()], roots, Settings(sample_ns=TICK_NS), "bench", "boot")
        self.sampler.start()
        reader, _ = os.pipe()
        self.loop = Loop(self.sampler, self.home, Reopening([], roots, 0), None, reader, take_lease(self.home))
        self.job: Job | None = None
        self.begun = 0

    def live(self, tick: int) -> bool:
        """What happens on the machine at one tick. True where marks are new."""
        length = self.ticks // self.runs
        begin, within = divmod(tick, length)
        if within == 0 and self.begun < self.runs:
            self.begin(begin, tick, length)
            return True
        job = self.job
        if job is None:
            return False
        if within == length // 3:
            job.mark("begin", phase="train")
        elif within == length // 2:
            job.log(samples=64, quality={"loss": 0.5})
            return False  # nothing watches where logs are written
        elif within == 2 * length // 3:
            job.mark("end", of=job.n - 1)
            for pid in job.pids[1:]:
                self.proc.run(pid, job.pids[0], 100)
        elif within == length - length // 10:
            job.mark("leave", run=f"run-{job.number}", status="ok")
            for pid in job.pids:
                self.proc.end(pid)
            self.job = None
        else:
            return False
        return True

    def begin(self, number: int, tick: int, length: int) -> None:
        each = self.processes // self.runs
        first = FIRST_PID + number * each
        pids = list(range(first, first + each))
        name = f"run-{number}.{first}.{number:08x}.jsonl"
        self.job = job = Job(number, tick, tick + length, pids, self.home.marks / name)
        self.begun += 1
        for pid in pids:
            self.proc.start(pid, 1 if pid == first else first)
        job.mark("join", run=f"run-{number}", role="track", pid=first, machine="bench", boot="boot")

    def drain(self) -> None:
        """Take what is final, as a collector would, and check law 1 on the way."""
        for batch in self.collector.batches():
            for row in batch.rows:
                self.sums["rows"] += 1
                if isinstance(row.body, Measurement):
                    self.sums["measured"] += row.body.energy_millijoules
                    self.sums["shared"] += sum(share.millijoules for share in row.body.shares)
                elif isinstance(row.body, Run):
                    self.sums["ended"] += row.body.ended_ns is not None
            self.collector.acknowledge(batch.incarnation, batch.last_seq)


def run(world: World) -> tuple[np.ndarray, np.ndarray, float]:
    """Ticks and resident MiB at even distances; CPU microseconds of the loop alone per tick, this bench's apart."""
    at, mib = [], []
    distance = max(1, world.ticks // POINTS)
    spent = 0
    scanned = 0
    for tick in range(world.ticks):
        CLOCK.now_ns += TICK_NS
        new = world.live(tick)
        if new or CLOCK.now_ns - scanned >= NS:
            world.proc.tick()
            scanned = CLOCK.now_ns
        before = time.process_time_ns()
        world.loop.step(CLOCK.now_ns, marks_may_be_new=new)
        spent += time.process_time_ns() - before
        if tick % 2_000 == 0:
            world.drain()
        if tick % distance == distance - 1:
            at.append(tick + 1)
            mib.append(resident_mib([os.getpid()]))
            print(f"{tick + 1:>11,} ticks  {mib[-1]:.2f} MiB", file=sys.stderr, flush=True)
    world.loop.finish()
    world.drain()
    return np.array(at), np.array(mib), spent / world.ticks / 1000


def growth(at: np.ndarray, mib: np.ndarray) -> tuple[float, float, float]:
    """MiB over all ticks from the slope after the first tenth, with its 95 % interval."""
    late = at > at[-1] / 10
    x, y = at[late], mib[late]
    slope, intercept = np.polyfit(x, y, 1)
    residual = y - slope * x - intercept
    error = np.sqrt(residual @ residual / max(1, len(x) - 2) / ((x - x.mean()) @ (x - x.mean())))
    return tuple(float(value * at[-1]) for value in (slope, slope - 2 * error, slope + 2 * error))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--ticks", type=int, default=10_000_000, help="default 10 million, at 100 Hz")
    options.add_argument("--runs", type=int, default=10_000, help="default 10,000")
    options.add_argument("--processes", type=int, default=100_000, help="default 100,000")
    given = options.parse_args()
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="joulebook-flat-", dir=base) as root:
        world = World(Path(root), given.ticks, given.runs, given.processes)
        at, mib, tick_us = run(world)
    tell(rows(given, world.sums, at, mib, tick_us), given.json)


def rows(given: argparse.Namespace, sums: dict[str, int], at: np.ndarray, mib: np.ndarray, tick_us: float) -> list[Row]:
    """The figures; raises SystemExit where the book itself came out wrong."""
    if sums["ended"] < given.runs:
        raise SystemExit(f"{sums['ended']} of {given.runs} runs ended")
    if sums["measured"] != sums["shared"]:
        raise SystemExit(f"law 1 is broken: {sums}")
    due = (CLOCK.now_ns - BEGAN_NS) * METER_WATTS / NS
    growth_mib, low, high = growth(at, mib)
    tenth, end = float(mib[len(mib) // 10]), float(mib[-1])
    world = f"{given.ticks:,} ticks, {given.runs:,} runs, {given.processes:,} processes, {sums['rows']:,} rows"
    bench = f"this bench and numpy in it; {tenth:.1f} MiB at a tenth"
    cost = "2 devices at 100 Hz, with runs, flushes and a drained outbox"
    return [
        Row(
            "growth of resident memory over all ticks", "joulebook agent", growth_mib, "MiB", low, high, 1.0, note=world
        ),
        Row("resident at the end", "joulebook agent", end, "MiB", note=bench),
        Row("CPU per tick", "joulebook agent", tick_us, "us", note=cost),
        Row("energy told over due", "joulebook agent", sums["measured"] / 1000 / due, "", note="law 1 on every row"),
    ]


if __name__ == "__main__":
    main()
