"""Energy against the truth: over 30 s windows in real time, and how often the reported interval covers it.

    python bench/energy_error.py [SECONDS] [--curves N] [--json FILE]

Real time: the agent, as it is, on simulated boards of many power curves; windows are whole spans of the agent, at least
30 s long, and the truth is the curve's integral over the same nanoseconds. Counters wrap meanwhile (packages).
Fast clock: N random curves, each seen by a sensor whose gain is drawn from the uncertainty that its meter states, whose
step, phase and lag are random too; readings go through the agent's own histories, binding and interval.
"""

import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from zlib import crc32

import numpy as np
from benching.node import Node, measurements, simulated_id
from benching.power import NS, random_curve, random_sensor, read_times, readings
from benching.results import Row, parser, tell
from joulebook.binding import Machine, Scene, measure
from joulebook.clock import Offset
from joulebook.history import DeviceHistory, History
from joulebook.meters import Device, Roots, open_meters
from joulebook.rows import Measurement
from joulebook.settings import SPAN_SECONDS
from joulebook.summary import combined_u, interval_of
from phases import Sample, phase_job, samples

WINDOW_SECONDS = 30
CURVES = (
    "constant:250", "square:60,300,7", "square:60,600,1.3,0.3", "square:100,400,30", "square:60,700,0.5",
    "sine:300,200,10", "sine:300,250,1", "sine:350,300,60",
)  # fmt: skip
GPU_CURVES = tuple(word for curve in CURVES for word in ("--curve", curve))
POWER = "--no-energy-counter"
NODES = {
    "counter": Node(2, len(CURVES), package_options=("--start-near-wrap", "20"), gpu_options=GPU_CURVES),
    "power, mean of 1 s": Node(0, len(CURVES), gpu_options=(*GPU_CURVES, POWER)),
    "power, instant": Node(0, len(CURVES), gpu_options=(*GPU_CURVES, POWER, "--architecture", "ga100")),
}
MOST_PERCENT = {"counter": 0.5, "power, mean of 1 s": 3.0}


# -- real time -------------------------------------------------------------------------------------------------------


def real_time(seconds: float) -> list[Row]:
    """Worst error of each kind of device over all windows and curves, in percent of the truth."""
    found: dict[str, list[Window]] = defaultdict(list)
    phases: dict[str, list[Sample]] = defaultdict(list)
    with ExitStack() as stack:
        running = []
        for name, node in NODES.items():
            stack.enter_context(node)
            agent, home = node.agent("error")
            # A run is open all the time (instant power is read at 10 Hz then only), in phases of 30 s.
            job = phase_job(node, home, f"any {name}", WINDOW_SECONDS + 1, WINDOW_SECONDS, seconds)
            running.append((name, node, agent, home, job))
        for *_, job in running:
            job.wait()
        time.sleep(5)
        for name, node, agent, home, _ in running:
            node.end(agent)
            measured = measurements(home)
            if len({m.device_id for m in measured}) < len(node.truth(0, 1)):
                raise SystemExit(f"{name}: of {len(node.truth(0, 1))} devices some have no row")
            for window in windows(node, measured):
                found["RAPL counter, wraps" if window.component != "gpu" else f"GPU {name}"].append(window)
            for sample in samples(node, home, hot=False):
                phases["RAPL counter, wraps" if sample.component != "gpu" else f"GPU {name}"].append(sample)
    return [row for name, seen in found.items() for row in [*window_rows(name, seen), phase_row(name, phases[name])]]


@dataclass(frozen=True)
class Window:
    """One device over at least 30 s: joules told, with their interval, and true ones."""

    component: str
    curve: str
    told: float
    low: float
    high: float
    true: float

    @property
    def error_percent(self) -> float:
        """Distance from the truth."""
        return abs(self.told / self.true - 1) * 100


def window_rows(name: str, seen: list[Window]) -> list[Row]:
    """The worst error of a kind of device, and how often its interval held the truth."""
    worst = max(seen, key=lambda window: window.error_percent)
    median = np.median([window.error_percent for window in seen])
    most = target(name)
    note = f"worst of {len(seen)} windows: {worst.curve}; median {median:.2g} %"
    hits = sum(window.low <= window.true <= window.high for window in seen) / len(seen)
    return [
        Row(
            f"error over {WINDOW_SECONDS} s, {name}", "joulebook agent", worst.error_percent, "%", most=most, note=note
        ),
        Row(f"such windows inside their interval, {name}", "joulebook agent", 100 * hits, "%", note="perfect gain"),
    ]


def phase_row(name: str, seen: list[Sample]) -> Row:
    """The worst error over a phase of 30 s, whose own marks are its ends."""
    errors = [abs(sample.error_percent) for sample in seen]
    figure = f"error over a phase of {WINDOW_SECONDS} s, {name}"
    if not errors:
        return Row(figure, "joulebook agent", None, "%", most=target(name), note="no phase ended in that time")
    note = f"worst of {len(errors)}; median {np.median(errors):.2g} %"
    return Row(figure, "joulebook agent", max(errors), "%", most=target(name), note=note)


def target(name: str) -> float | None:
    """What a kind of device is held to, percent."""
    return next((most for kind, most in MOST_PERCENT.items() if kind in name), None)


def windows(node: Node, measured: list[Measurement]) -> Iterator[Window]:
    """Every window: whole spans in a row, at least 30 s, each window starting one span later."""
    by_device: dict[str, list[Measurement]] = defaultdict(list)
    for m in sorted(measured, key=lambda m: m.started_ns):
        by_device[m.device_id].append(m)
    known = node.truth(0, 1)
    for device_id, spans in by_device.items():
        for first in range(1, len(spans)):
            rest = spans[first:]
            began = rest[0].started_ns
            last = next((i for i, m in enumerate(rest) if m.ended_ns - began >= WINDOW_SECONDS * NS), None)
            if last is None:
                break
            chosen = rest[: last + 1]
            ended = chosen[-1].ended_ns
            if sum(m.ended_ns - m.started_ns for m in chosen) != ended - began:
                raise SystemExit(f"{device_id}: a hole between spans, though nothing failed")
            component = str(chosen[0].component)
            curve = CURVES[node.gpu_index(device_id)] if component == "gpu" else node.curve
            true = node.truth(began, ended)[simulated_id(device_id, known)]
            yield Window(component, curve, *told(chosen), true)


def told(measured: list[Measurement]) -> tuple[float, float, float]:
    """Joules that rows sum to, and the interval that a report gives them."""
    energy = sum(m.energy_millijoules for m in measured)
    u = combined_u([(m.energy_millijoules, m.u_common_key, m.u_common, m.u_indep) for m in measured])
    low, high = interval_of(energy, u)
    return energy / 1000, low / 1000, high / 1000


# -- fast clock ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A kind of device as its own meter describes it. period_seconds: how often the agent reads it in a run."""

    name: str
    device: Device
    period_seconds: float


def kinds() -> list[Kind]:
    """The devices of simulated meters, opened by the agent's own openers: their uncertainties are theirs."""
    found = []
    for name, options in (
        ("GPU counter", ()),
        ("GPU power, mean of 1 s", (POWER,)),
        ("GPU power, instant", (POWER, "--architecture", "ga100")),
    ):
        with Node(1 if not options else 0, 1, gpu_options=options) as node:
            saved = dict(os.environ)
            os.environ |= {k: v for k, v in node.environ.items() if k.startswith("JOULEBOOK_")}
            try:
                meters, _ = open_meters(["nvml"] if options else ["rapl", "nvml"], Roots(sys=node.sys))
                for meter in meters:
                    for device in meter.devices:
                        title = name if device.component == "gpu" else f"RAPL {device.component}"
                        found.append(Kind(title, device, 0.1 if "instant" in title else 1.0))
                    meter.close()
            finally:
                os.environ.clear()
                os.environ.update(saved)
    return found


def one_history(rng: np.random.Generator, kind: Kind, seconds: float, gain: float):
    """A random curve, and the agent's history of a device that saw it."""
    curve = random_curve(rng, kind.device.component, seconds)
    sensor = random_sensor(rng, kind.device, gain)
    history = DeviceHistory(kind.device, "bench", round(kind.period_seconds * NS))
    for reading in readings(rng, curve, sensor, kind.device, read_times(rng, seconds, kind.period_seconds)):
        history.add(reading)
    return curve, history


def interval(histories: list[DeviceHistory], start: int, end: int) -> tuple[float, float, float]:
    """Joules that the agent's rows sum to over a span, and the interval that a report gives them."""
    nobody = Scene(Machine("bench", "bench", History(), NS), [])
    grid = range(start, end, SPAN_SECONDS * NS)
    measured = [m for a in grid for m in measure(nobody, histories, a, min(a + SPAN_SECONDS * NS, end), Offset(0))]
    return told(measured)


GAINS = {
    "none": lambda rng, u: 1.0,
    "normal": lambda rng, u: 1 + rng.normal(0, u),
    "rectangular": lambda rng, u: 1 + rng.uniform(-u, u) * 3**0.5,
}


def covered(chosen: list[Kind], shape: str, count: int) -> tuple[float, float]:
    """Fraction of ``count`` sums of devices whose interval holds the truth, and its mean relative half width.

    Drawn anew from what it is about, so that no study changes another.
    """
    rng = np.random.default_rng([20260701, crc32(f"{[kind.name for kind in chosen]} {shape} {count}".encode())])
    hits, widths = 0, 0.0
    for _ in range(count):
        length = float(rng.uniform(WINDOW_SECONDS, 120))
        gains = {kind.device.u_common_key: GAINS[shape](rng, kind.device.u_common) for kind in chosen}
        seen = [one_history(rng, kind, length + 8, gains[kind.device.u_common_key]) for kind in chosen]
        start = round(rng.uniform(2, 4) * NS)
        end = start + round(length * NS)
        energy, low, high = interval([history for _, history in seen], start, end)
        true = sum(float(curve.energy(end / NS) - curve.energy(start / NS)) for curve, _ in seen)
        hits += low <= true <= high
        widths += (high - low) / 2 / energy
    return hits / count, widths / count


def copies(kind: Kind, count: int) -> list[Kind]:
    """As many devices of a kind: they share its gain, and nothing else."""
    return [replace(kind, device=replace(kind.device, device_id=f"{kind.name} {n}")) for n in range(count)]


def coverage(count: int) -> list[Row]:
    """The coverage study: each kind of device alone, all together, and a node of eight boards and two packages."""
    alone = kinds()
    by_name = {kind.name: kind for kind in alone}
    each = max(1, count // len(alone))

    def row(name: str, part: float, half: float, n: int, target: tuple[float | None, float | None]) -> Row:
        note = f"{n} curves; mean interval +-{100 * half:.2g} %"
        return Row(f"95 % intervals that cover, {name}", "joulebook agent", 100 * part, "%", None, None, *target, note)

    seen = {name: covered([kind], "normal", each) for name, kind in by_name.items()}
    made = [row(f"{name}, gain normal", *result, each, (None, None)) for name, result in seen.items()]
    whole = [sum(values) / len(seen) for values in zip(*seen.values(), strict=True)]
    gpu, package, dram = by_name["GPU counter"], by_name["RAPL cpu"], by_name["RAPL dram"]
    known = {name: replace(kind, device=replace(kind.device, u_common=0.0)) for name, kind in by_name.items()}
    sharp = {name: covered([kind], "none", each) for name, kind in known.items() if "GPU" in name}
    node = [*copies(gpu, 8), *copies(package, 2), *copies(dram, 2)]
    sums = max(1, count // 2)
    return [
        row("all these", *whole, each * len(alone), (99, 93)),
        *made,
        row("a node's sum of 12 devices", *covered(node, "normal", sums), sums, (99, 93)),
        *(row(f"{name}, gain known", *result, each, (None, None)) for name, result in sharp.items()),
        row("GPU counter, gain rectangular", *covered([gpu], "rectangular", each), each, (None, None)),
    ]


def main() -> None:
    options = parser(__doc__, 100.0)
    options.add_argument("--curves", type=int, default=1000, help="random curves (default 1000)")
    given = options.parse_args()
    tell([*real_time(given.seconds), *coverage(given.curves)], given.json)


if __name__ == "__main__":
    main()
