"""Idle power from a device's history: the 5th percentile of the windows in which nothing used the machine. Pure.

Source: METHODS 2: measured at idle, p05 of idle windows, never the least that was ever seen.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Final

from joulebook.history import DeviceHistory, History
from joulebook.rows import Component, Method
from joulebook.units import NS_PER_SECOND

STEPS: Final = 10
"""Counter steps that a window holds at least."""
LEAST_WINDOWS: Final = 20
"""Idle windows from which a 5th percentile is read at least."""
MOST_BUSY: Final = 0.05
"""Part of the machine's CPUs that may work in an idle window, and in no case more than MOST_CPUS of them."""
MOST_CPUS: Final = 1.0
QUANTILE: Final = 0.05
LOOK_NS: Final = NS_PER_SECOND
"""Distance between two looks at who uses a GPU."""


@dataclass(slots=True)
class Watch:
    """What the machine did meanwhile, CLOCK_BOOTTIME ns.

    cpu: busy CPU ns of the whole machine over time.  looks: GPU -> instants at which its meter named its processes;
    users: those at which there were some, ascending.
    """

    cpus: int
    cpu: History = field(default_factory=History)
    looks: dict[str, list[int]] = field(default_factory=dict)
    users: dict[str, list[int]] = field(default_factory=dict)

    def look(self, at_ns: int, pids: Mapping[str, Sequence[int]]) -> None:
        """Take in who uses which GPU."""
        for device_id, there in pids.items():
            self.looks.setdefault(device_id, []).append(at_ns)
            if there:
                self.users.setdefault(device_id, []).append(at_ns)

    def cpu_busy(self, start: int, end: int) -> float:
        """Part of the machine's CPUs that worked over [start, end), 0 to 1."""
        return self.cpu.gained(start, end) / ((end - start) * self.cpus)

    def what_for(self, component: Component, device_id: str, start: int, end: int) -> str:
        """Why [start, end) is no idle window of a device, "" when it is one."""
        if component is Component.GPU:
            if not _any_within(self.looks.get(device_id, ()), start, end):
                return "unknown users"
            return "used by processes" if _any_within(self.users.get(device_id, ()), start, end) else ""
        most = min(MOST_BUSY, MOST_CPUS / self.cpus)
        if self.cpu_busy(start, end) > most:
            return f"CPUs busy above {100 * most:.2g}%"
        if component in (Component.CPU, Component.DRAM):
            return ""
        used = any(_any_within(instants, start, end) for instants in self.users.values())
        return "GPUs used by processes" if used else ""


def _any_within(instants: Sequence[int], start: int, end: int) -> bool:
    """Whether one lies within a look's distance of [start, end)."""
    return bisect_left(instants, start - LOOK_NS) < bisect_right(instants, end + LOOK_NS)


@dataclass(frozen=True, slots=True)
class Found:
    """Idle power of a device, W. u_relative: standard uncertainty of it where the true one lies within
    median - p05 of p05 either way, rectangular: (median - p05) / sqrt(3), over p05.  in_use: of ``windows``, those that
    count by force.
    """

    idle_watts: float
    u_relative: float
    median_watts: float
    windows: int
    cpu_busy: float
    in_use: int = 0


def window_ns(step_ns: int) -> int:
    """Length of a window: whole seconds, ten steps of the device at least."""
    return max(1, math.ceil(STEPS * step_ns / NS_PER_SECOND)) * NS_PER_SECOND


def seconds_needed(step_ns: int) -> int:
    """Seconds of measuring that give a device enough windows, one more for what is lost at its ends."""
    return (LEAST_WINDOWS + 1) * window_ns(step_ns) // NS_PER_SECOND + 1


def idle_power(
    history: DeviceHistory, own_id: str, watch: Watch, start: int, end: int, *, forced: bool = False
) -> Found | str:
    """The idle power of a device over [start, end), or why there is none.

    own_id: the device as its meter names it.  forced: windows count whatever used the machine.
    """
    device = history.device
    if device.method is Method.MODELLED:
        return "modelled: a model's idle is its curve's at 0 %, there is nothing to measure"
    length = window_ns(device.step_ns)
    watts, busy = [], []
    dropped: dict[str, int] = {}
    in_use = 0
    for a in range(start, end - length + 1, length):
        power = _power(history, a, a + length)
        used = watch.what_for(device.component, own_id, a, a + length)
        why = "not read throughout" if power is None else used
        if power is None or (used and not forced):
            dropped[why] = dropped.get(why, 0) + 1
            continue
        in_use += bool(used)
        watts.append(power)
        busy.append(watch.cpu_busy(a, a + length))
    if len(watts) < LEAST_WINDOWS:
        return _too_few(len(watts), length, dropped)
    watts.sort()
    p05, middle = quantile(watts, QUANTILE), median(watts)
    if p05 <= 0:
        return "it read no energy in idle windows: a meter that does not count"
    return Found(p05, (middle - p05) / math.sqrt(3) / p05, middle, len(watts), fmean(busy), in_use)


def _power(history: DeviceHistory, start: int, end: int) -> float | None:
    """Mean power in W, None where a part of the window is not known."""
    known = history.history.known(start, end)
    if len(known) != 1 or known[0][:2] != (start, end) or history.unread_in(start, end):
        return None
    segment = known[0][2]
    return (segment.at(end) - segment.at(start)) * 1e3 / (end - start)


def _too_few(good: int, length: int, dropped: Mapping[str, int]) -> str:
    reasons = "".join(f", {count} {why}" for why, count in sorted(dropped.items()))
    return f"{good} idle windows of {length / NS_PER_SECOND:g} s, {LEAST_WINDOWS} needed{reasons}"


def quantile(ordered: Sequence[float], p: float) -> float:
    """The p-quantile by linear interpolation between order statistics, (n - 1) p from the least.

    ordered: ascending, not empty.  Source: Hyndman and Fan (1996), definition 7.
    """
    at = (len(ordered) - 1) * p
    below = math.floor(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (at - below)
