"""Whether an agent at 1 Hz slows the training of a real network, and how small an effect this run could have seen.

    python bench/slowdown.py [SECONDS] [--json FILE]

One process trains a small CNN on every processor, in blocks of a tenth of a second; a block's figure is its mean
seconds per step, by the wall and by the process's own CPU time. In every second group of four blocks an agent, which
meters 8 GPUs, 2 packages and DRAM and this very run, is at work in blocks 2 and 3 and frozen in 1 and 4 (ABBA, so that
a drift cancels); in the groups between it is frozen in all four and the same subtraction is made: A/A. Freezing an
agent (SIGSTOP) leaves its memory and takes its work away; what fell due meanwhile it does when it wakes, so that a
second's work falls into a part of it and the effect shows larger than it is. Figures are medians over groups, their
standard errors from the median absolute deviation: other programs' bursts would rule a mean. The agent's CPU time over
that of all processors bounds the slowdown as long as it is CPU time that it costs.
"""

import os
import signal
import time

import numpy as np
from benching.cost import cpu_ns
from benching.node import Node
from benching.results import Row, parser, tell

BLOCK_SECONDS = 0.1


def training_step(threads: int):
    """One step of a small CNN, as a call."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(threads)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.LazyLinear(10)
    )
    x, y = torch.randn(64, 1, 28, 28), torch.randint(0, 10, (64,))
    model(x)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def block(step) -> np.ndarray:
    """Wall and CPU seconds per step, means over a block."""
    wall, cpu, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() < wall + BLOCK_SECONDS:
        step()
        count += 1
    return np.array([time.perf_counter() - wall, time.process_time() - cpu]) / count


def effects(step, pid: int, seconds: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Relative slowdown (wall, CPU) of each group with the agent, of each without, and the agent's CPU s per second."""
    effect: dict[bool, list[np.ndarray]] = {True: [], False: []}
    started, spent = time.monotonic(), cpu_ns(pid)
    until = started + seconds
    with_agent = True
    while time.monotonic() < until or len(effect[False]) < 3:
        blocks = []
        for at_work in (False, with_agent, with_agent, False):
            os.kill(pid, signal.SIGCONT if at_work else signal.SIGSTOP)
            blocks.append(block(step))
        effect[with_agent].append((blocks[1] + blocks[2]) / (blocks[0] + blocks[3]) - 1)
        with_agent = not with_agent
    os.kill(pid, signal.SIGCONT)
    cpu_share = (cpu_ns(pid) - spent) / 1e9 / (time.monotonic() - started)
    return np.array(effect[True]), np.array(effect[False]), cpu_share


def location(values: np.ndarray) -> tuple[float, float]:
    """Median, and its standard error from the median absolute deviation (of a normal: 1.2533 sigma / sqrt n)."""
    middle = float(np.median(values))
    sigma = 1.4826 * float(np.median(np.abs(values - middle)))
    return middle, 1.2533 * sigma / len(values) ** 0.5


def rows(with_agent: np.ndarray, without: np.ndarray, cpu_share: float, cpus: int) -> list[Row]:
    """Effects with their 95 % intervals, and the smallest one that the A/A groups let this run resolve."""
    made = []
    for n, clock in enumerate(("wall", "CPU")):
        (effect, error), (nothing, nothing_error) = location(with_agent[:, n]), location(without[:, n])
        for name, value, u, group in (
            ("agent at work", effect, error, with_agent),
            ("A/A, agent frozen", nothing, nothing_error, without),
        ):
            figure, note = f"slowdown of a training step, {clock} time", f"{len(group)} groups; 95 % interval"
            made.append(Row(figure, name, 100 * value, "%", 100 * (value - 2 * u), 100 * (value + 2 * u), note=note))
        slower = (effect - nothing) / max(1e-12, (error**2 + nothing_error**2) ** 0.5)
        made.append(Row(f"slower than A/A, {clock} time", "standard errors", slower, "", most=2))
        resolved = 2.8 * nothing_error * 2**0.5
        note = "seen in 4 of 5 such runs, at the 5 % level"
        made.append(Row(f"smallest effect resolved, {clock} time", "A/A", 100 * resolved, "%", note=note))
    note = f"{1000 * cpu_share:.2g} ms/s of {cpus} processors"
    return [*made, Row("bound from CPU time", "joulebook agent", 100 * cpu_share / cpus, "%", note=note)]


def main() -> None:
    given = parser(__doc__, 120.0).parse_args()
    cpus = len(os.sched_getaffinity(0))
    with Node() as node:
        agent, home = node.agent("slowdown")
        os.environ |= {"JOULEBOOK_HOME": str(home), "JOULEBOOK_AGENT": "off"}
        import joulebook

        with joulebook.track("slowdown"):
            step = training_step(cpus)
            for _ in range(50):
                step()
            found = effects(step, agent.pid, given.seconds)
        tell(rows(*found, cpus), given.json)


if __name__ == "__main__":
    main()
