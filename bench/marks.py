"""What a mark costs the trainer: back to back, and inside the step of a real network.

    python bench/marks.py [--calls N] [--steps N] [--json FILE]

CPU time of the calling thread, each call timed alone and the clock's own cost taken off; beside it one ``write`` of as
many bytes, the floor that any durable line has. Back to back the processor's caches hold nothing else; inside a step of
a small CNN (one thread) every call comes after millions of other instructions. An agent follows the marks meanwhile.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benching.node import Node
from benching.results import Row, parser, tell

_clock = time.thread_time_ns


def clock_cost_ns() -> float:
    """What two readings of the clock cost by themselves."""
    return statistics.median(-(_clock() - _clock()) for _ in range(2000))


def timed(call, cost: float) -> float:
    """CPU microseconds of one call."""
    before = _clock()
    call()
    return (_clock() - before - cost) / 1000


class Calls:
    """The calls that are timed, in one process that tracks itself."""

    def __init__(self, folder: Path) -> None:
        import joulebook

        fd = os.open(folder / "floor", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        line = b"x" * 150
        phase = joulebook.phase("train")
        self.by_name = {
            "write of 150 bytes": lambda: os.write(fd, line),
            "phase begins": phase.__enter__,
            "phase ends": phase.__exit__,
            "log of one metric": lambda: joulebook.log(samples=64, step=1, loss=0.5),
        }


def back_to_back(calls: Calls, count: int) -> dict[str, list[float]]:
    """Every call many times, in turn."""
    found: dict[str, list[float]] = {name: [] for name in calls.by_name}
    cost = clock_cost_ns()
    for _ in range(count):
        for name, call in calls.by_name.items():
            found[name].append(timed(call, cost))
    return found


def inside_steps(calls: Calls, count: int) -> tuple[dict[str, list[float]], float]:
    """Every call with whole steps of a small CNN around it; and the median step, milliseconds."""
    step = training_step()
    cost = clock_cost_ns()
    found: dict[str, list[float]] = {name: [] for name in calls.by_name}
    begin, end = [name for name in calls.by_name if name.startswith("phase")]
    steps = []
    for _ in range(20):  # the first steps are not what training is like
        step()
    for _ in range(count):
        found[begin].append(timed(calls.by_name[begin], cost))
        before = _clock()
        step()
        steps.append((_clock() - before) / 1e6)
        found[end].append(timed(calls.by_name[end], cost))
        step()
    for name in found.keys() - {begin, end}:
        for _ in range(count):
            step()
            found[name].append(timed(calls.by_name[name], cost))
    return found, statistics.median(steps)


def training_step():
    """One step of a small CNN on one thread, as a call."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(8, 16, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(10),
    )  # fmt: skip
    x, y = torch.randn(64, 1, 28, 28), torch.randint(0, 10, (64,))
    model(x)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def rows_of(where: str, found: dict[str, list[float]], median_us: float, p99_us: float, note: str = "") -> list[Row]:
    """Median and p99 of each call; the marks have targets, the floor has none."""
    made = []
    for name, values in found.items():
        ordered = sorted(values)
        floor = name.startswith("write")
        who = "floor" if floor else "SDK"
        median, p99 = statistics.median(ordered), ordered[int(0.99 * len(ordered))]
        made.append(Row(f"{name}, {where}, median", who, median, "us", most=None if floor else median_us, note=note))
        made.append(Row(f"{name}, {where}, p99", who, p99, "us", most=None if floor else p99_us, note=note))
    return made


def job(calls: int, steps: int, folder: str) -> list[Row]:
    """What the child of ``main`` measures, inside a home that an agent watches."""
    import joulebook

    with joulebook.track("bench"):
        ready = Calls(Path(folder))
        made = rows_of("back to back", back_to_back(ready, calls), 5, 20, f"{calls} calls")
        found, step_ms = inside_steps(ready, steps)
        return made + rows_of("inside a step", found, 25, 100, f"{steps} calls, steps of {step_ms:.3g} ms")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--calls", type=int, default=20_000, help="calls back to back (default 20000)")
    options.add_argument("--steps", type=int, default=1000, help="steps of the network (default 1000)")
    options.add_argument("--inside", metavar="FOLDER", help="measure here and now: what this bench starts")
    given = options.parse_args()
    if given.inside:
        tell(job(given.calls, given.steps, given.inside), given.json)
        return
    with Node() as node:
        _, home = node.agent("marks")
        words = ["--calls", str(given.calls), "--steps", str(given.steps), "--inside", str(node.root)]
        words += ["--json", str(given.json)] if given.json else []
        settings = {"JOULEBOOK_HOME": str(home), "OMP_NUM_THREADS": "1"}
        done = node.start([sys.executable, sys.argv[0], *words], settings).wait()
    if done:
        raise subprocess.CalledProcessError(done, "bench/marks.py")


if __name__ == "__main__":
    main()
