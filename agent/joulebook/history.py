"""Short histories of cumulative energy and of CPU time, so that marks can be bound to them afterwards.

A history is a list of segments; within one the cumulative value is known, between two it is not
(a reset, a gap). Values between knots are interpolated; bounds come from monotonicity.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from joulebook.counters import Step, difference
from joulebook.meters import Busy, Device, Reading
from joulebook.rows import Method
from joulebook.units import MICROJOULES_PER_MILLIJOULE, NS_PER_SECOND

T = TypeVar("T")

GAP_FACTOR = 3
"""Power is not integrated across a silence longer than this many nominal intervals (and 5 s)."""
GAP_LEAST_NS = 5 * NS_PER_SECOND
LATE_NS = 20_000_000
"""A counter may be brought up to date this much later than it should: no gain is called impossible for that."""


@dataclass(slots=True)
class Segment:
    """A stretch over which a cumulative value is known at its knots, times and values ascending."""

    times: list[int] = field(default_factory=list)
    values: list[int] = field(default_factory=list)

    def at(self, t: int) -> int:
        """The value at ``t`` within the segment, interpolated between knots."""
        i = bisect_right(self.times, t)
        if i == len(self.times):
            return self.values[-1]
        if i == 0:
            return self.values[0]
        t0, t1, v0, v1 = self.times[i - 1], self.times[i], self.values[i - 1], self.values[i]
        return v0 + (v1 - v0) * (t - t0) // (t1 - t0)


@dataclass(slots=True)
class History:
    """Segments in order; the last one grows."""

    segments: list[Segment] = field(default_factory=lambda: [Segment()])

    def add(self, t: int, value: int) -> None:
        """A knot after all others; one at or before the last is passed over (clocks of two reads may tie)."""
        last = self.segments[-1]
        if last.times and t <= last.times[-1]:
            return
        last.times.append(t)
        last.values.append(value if not last.values else max(value, last.values[-1]))

    def move_last(self, t: int) -> None:
        """The newest knot was really at ``t``; passed over where that would put it before another."""
        times = self.segments[-1].times
        if times and (len(times) == 1 or t > times[-2]):
            times[-1] = t

    def gap(self) -> None:
        """What comes next is not known to follow from what came before."""
        if self.segments[-1].times:
            self.segments.append(Segment())

    @property
    def last_time(self) -> int | None:
        """Time of the newest knot."""
        times = self.segments[-1].times
        return times[-1] if times else None

    def value_at(self, t: int) -> int:
        """The value at ``t`` as far as it is known, else the one before it; the first before all, 0 without any."""
        for segment in reversed(self.segments):
            if segment.times and segment.times[0] <= t:
                return segment.at(t)
        first = self.segments[0].values
        return first[0] if first else 0

    def known(self, start: int, end: int) -> list[tuple[int, int, Segment]]:
        """The parts of [start, end) over which the value is known."""
        parts = []
        for segment in self.segments:
            if len(segment.times) < 2:
                continue
            a, b = max(start, segment.times[0]), min(end, segment.times[-1])
            if a < b:
                parts.append((a, b, segment))
        return parts

    def gained(self, start: int, end: int) -> int:
        """What was gained over the known parts of [start, end)."""
        return sum(segment.at(b) - segment.at(a) for a, b, segment in self.known(start, end))

    def forget(self, before: int) -> None:
        """Drop knots older than ``before``, keeping the one at or before it."""
        for segment in self.segments:
            keep = max(0, bisect_right(segment.times, before) - 1)
            if keep:
                del segment.times[:keep], segment.values[:keep]
        self.segments = [s for s in self.segments[:-1] if s.times and s.times[-1] > before] + [self.segments[-1]]


@dataclass(slots=True)
class DeviceHistory:
    """A device's cumulative microjoules, made from its meter's readings.

    Counters: differences with wrap, reset and gap told apart.  Power: integrated, trapezoid between
    instants, left-closed step for window means (METHODS 1.3).
    meter: name of the meter.  sample_ns: nominal time between reads.  capacity: CPUs or bytes that the
    device serves, for reservations; None when not known.  idle_watts: as calibrated, None before.
    edge: CLOCK_BOOTTIME ns up to which its measurements are made.  whole: of a remainder, the node's history: its
    uncertainty, its gaps and what nobody read of it are the whole's, however little of it is left.
    unread: stretches of a counter that nobody read for long, with what a report must say of them.  looks: stretches in
    which who used it was told with a note or uncertainty, and these.  breaks: how often
    its energy was lost track of.  first_ns: when it is known from, None before the first reading.
    left_ns: up to when an earlier agent of this boot measured it, 0 where none did.
    """

    device: Device
    meter: str
    sample_ns: int
    capacity: float | None = None
    idle_watts: float | None = None
    edge: int = 0
    whole: DeviceHistory | None = None
    parts: Sequence[DeviceHistory] = ()
    history: History = field(default_factory=History)
    last: Reading | None = None
    jumps: list[tuple[int, float]] = field(default_factory=list)
    notes: list[tuple[int, str]] = field(default_factory=list)
    unread: list[tuple[int, int, str]] = field(default_factory=list)
    looks: list[tuple[int, int, str, float]] = field(default_factory=list)
    breaks: int = 0
    first_ns: int | None = None
    left_ns: int = 0
    _read_ns: int = 0
    _vague_ns: int | None = None
    _seen_ns: int = 0
    _total: int = 0
    _picojoules: int = 0

    def add(self, reading: Reading) -> None:
        """Take one reading in."""
        previous = self.last
        if previous is not None and reading.at_ns <= max(previous.at_ns, self._read_ns):
            return  # told before, or overtaken by a later one
        self.last = reading
        if previous is None:
            self._begin(reading)
        elif reading.energy_microjoules is not None and previous.energy_microjoules is not None:
            self._count(previous, reading)
        elif reading.power_milliwatts is not None and previous.power_milliwatts is not None:
            self._integrate(previous, reading)
        elif (elapsed := reading.at_ns - previous.at_ns) > self.device.step_ns:
            self._break(reading, f"told in another way since: {self.missing(elapsed)}")
        self._read_ns = reading.at_ns

    def is_silent(self, now_ns: int) -> bool:
        """True when it has told nothing for so long that nobody waits for it."""
        return now_ns - (self.history.last_time or 0) > self.longest_ns

    @property
    def told_ns(self) -> int:
        """Up to when it told something: to its edge, or before any reading to where an earlier agent left it."""
        return self.left_ns if self.last is None and self.left_ns else self.edge

    @property
    def longest_ns(self) -> int:
        """A silence longer than this is a gap: three nominal intervals, and five seconds."""
        return max(GAP_FACTOR * max(self.sample_ns, self.device.step_ns), GAP_LEAST_NS)

    def _begin(self, reading: Reading) -> None:
        """The first knot: a counter stood there since its last update, half a step ago on average."""
        counter = reading.energy_microjoules is not None
        self._vague_ns = reading.at_ns if counter else None
        self._seen_ns = reading.at_ns
        self.first_ns = reading.at_ns - (self.device.step_ns // 2 if counter else 0)
        self.history.add(self.first_ns, self._total)
        if self.left_ns:
            self.notes.append((reading.at_ns, f"no agent read it: {self.missing(reading.at_ns - self.left_ns)}"))

    def _count(self, previous: Reading, reading: Reading) -> None:
        assert previous.energy_microjoules is not None
        assert reading.energy_microjoules is not None
        device, elapsed = self.device, reading.at_ns - previous.at_ns
        silent = reading.at_ns - self._read_ns if self._read_ns else 0
        if device.method is Method.MODELLED and silent > self.longest_ns:
            self._break(reading, f"nothing was sampled: {self.missing(silent)}")
            return
        most = None if device.most_watts is None else device.most_watts * 1e6
        if most is not None:
            # A difference may hold one step's energy more than its distance, and what was brought up to date late.
            most *= 1 + max(device.step_ns, LATE_NS) / elapsed
        gain = difference(
            previous.energy_microjoules, reading.energy_microjoules, elapsed, device.wraps_at_microjoules, most,
            restarted=reading.restarted,
        )  # fmt: skip
        if gain.counts is None:
            bounds = _bounds(gain.at_least / 1e6, None if gain.at_most is None else gain.at_most / 1e6)
            self._break(reading, f"counter {gain.step}: {bounds} are missing")
            return
        if silent > self.longest_ns:
            self.unread.append((self._read_ns, reading.at_ns, f"claimed across {silent / 1e9:.0f} s without a reading"))
        seen, self._seen_ns = self._seen_ns, reading.at_ns
        if gain.counts == 0 and elapsed < device.step_ns:
            self.last = previous  # the counter has not been updated yet: no news but this
            return
        self._total += gain.counts
        # The value was reached when the counter was last updated: within the last step, and since the last read.
        window = min(device.step_ns, reading.at_ns - max(seen, previous.at_ns))
        at = reading.at_ns - window // 2
        if gain.step is Step.WRAP:
            self.notes.append((at, "counter wrapped"))
        if window > device.step_ns // 2:
            self._vague_ns = reading.at_ns
        else:
            self._sharpen(at)
        self.history.add(at, self._total)

    def _break(self, reading: Reading, note: str) -> None:
        """What lies before this reading is not known: a gap stays a gap."""
        counter = reading.energy_microjoules is not None
        times = self.history.segments[-1].times
        if (
            len(times) == 1
        ):  # two gaps with one reading between them: no measurement tells of the first, so this one does
            self.notes = [(reading.at_ns if t >= times[0] else t, said) for t, said in self.notes]
        # Not before what is known or booked already, however long the counter may have stood there.
        known_ns = max(times[-1], self.edge) if times else self.edge
        first_ns = max(reading.at_ns - (self.device.step_ns // 2 if counter else 0), min(known_ns, reading.at_ns))
        self.history.gap()
        self.history.add(first_ns, self._total)
        self._vague_ns = reading.at_ns if counter else None
        self._seen_ns = reading.at_ns
        self.notes.append((reading.at_ns, note))
        self.breaks += 1

    def _sharpen(self, updated_ns: int) -> None:
        """An update caught in the act tells when the one before it was: whole steps earlier."""
        vague, self._vague_ns = self._vague_ns, None
        if vague is None or not 0 < updated_ns - vague <= 2 * self.device.step_ns:
            return
        steps = -(-(updated_ns - vague) // self.device.step_ns)
        at = updated_ns - steps * self.device.step_ns
        before, times = self.history.segments[:-1], self.history.segments[-1].times
        if self._total and self.edge > (times[-2] if len(times) > 1 else at):
            return  # a measurement that is made already ends on the line to that knot: it stays as it was booked
        if not (len(times) == 1 and before and at < before[-1].times[-1]):
            self.history.move_last(at)

    def _integrate(self, previous: Reading, reading: Reading) -> None:
        assert previous.power_milliwatts is not None
        assert reading.power_milliwatts is not None
        elapsed = reading.at_ns - previous.at_ns
        if elapsed > self.longest_ns:
            self._break(reading, f"power was not read: {self.missing(elapsed)}")
            return
        now, before = reading.power_milliwatts, previous.power_milliwatts
        self._picojoules += (now * 2 if self.device.averaged else now + before) * elapsed // 2
        self._total, self._picojoules = self._total + self._picojoules // 10**6, self._picojoules % 10**6
        self.jumps.append((reading.at_ns, abs(now - before) * elapsed / 1e6))
        self.history.add(reading.at_ns, self._total)

    def missing(self, elapsed_ns: int) -> str:
        """Bounds of what a device drew while nothing was read: its idle power, or 0, and its limit."""
        seconds, device = elapsed_ns / 1e9, self.device
        most = device.limit_watts if device.limit_watts is not None else device.most_watts
        least = (self.idle_watts or 0.0) * seconds
        return f"{_bounds(least, None if most is None else most * seconds)} of {seconds:.1f} s are missing"

    def resume(self, reading: Reading, now_ns: int) -> None:
        """Claim a counter's difference since ``reading``, which an earlier agent of this boot took."""
        if self.last is None and reading.energy_microjoules is not None:
            self.last = reading
            self.edge = reading.at_ns
            self.history.add(reading.at_ns, self._total)
            self.unread.append((reading.at_ns, now_ns, "claimed across an absence of the agent"))

    @property
    def total_microjoules(self) -> int:
        """Energy since the first reading, as far as it is known."""
        return self.history.segments[-1].values[-1] if self.history.segments[-1].values else 0

    def raw_at(self, t: int) -> int | None:
        """The counter's own value at ``t``: what ``resume`` needs later. None where there is no counter."""
        if self.last is None or self.last.energy_microjoules is None:
            return None
        raw = self.last.energy_microjoules - (self._total - self.history.segments[-1].at(t))
        wraps_at = self.device.wraps_at_microjoules
        if raw < 0 and wraps_at is not None:
            raw += wraps_at
        return max(0, raw)

    def integration_u(self, start: int, end: int) -> float:
        """Standard uncertainty in microjoules of integrating power that jumps between two reads.

        A jump of dP somewhere within dt is uniform over +-dP dt / 2 about the trapezoid: dP dt / sqrt 12.
        """
        own = math.sqrt(sum((jump * jump) / 12 for t, jump in self.jumps if start < t <= end))
        return own if self.whole is None else math.hypot(own, self.whole.integration_u(start, end))

    def jumped(self, start: int, end: int) -> float:
        """Microjoules that the jumps of power from reading to reading over (start, end] stand for, all of one sign."""
        return sum(jump for t, jump in self.jumps if start < t <= end)

    def look(self, start: int, end: int, busy: Busy) -> None:
        """Who used it over [start, end) was told so."""
        if not busy.note and not busy.u_split:
            return
        if self.looks and self.looks[-1][1:] == (start, busy.note, busy.u_split):
            start = self.looks.pop()[0]
        self.looks.append((start, end, busy.note, busy.u_split))

    def split_u(self, start: int, end: int) -> float:
        """Relative standard uncertainty of what each of several users had of it over [start, end)."""
        return max((u for a, b, _, u in self.looks if a < end and b > start), default=0.0)

    def notes_in(self, start: int, end: int) -> list[str]:
        """What happened to the device's meter within [start, end], both ends: a gap's note stands where it ends."""
        own = [note for t, note in self.notes if start <= t <= end]
        own += [note for a, b, note, _ in self.looks if note and a < end and b > start]
        return own if self.whole is None else [*own, *self.whole.notes_in(start, end)]

    def slack_millijoules(self, t: int) -> int | None:
        """Hard bound of how far the value at ``t`` may be from the true one; None where nothing bounds it.

        A counter's value was reached within one step before it was read, and only rises: the last reading before ``t``
        is a lower bound, the first one whose update came after it an upper one; the greatest power narrows both.
        """
        if self.whole is not None:
            bounds = [history.slack_millijoules(t) for history in (self.whole, *self.parts)]
            return None if None in bounds else sum(bound for bound in bounds if bound is not None)
        segment = next((s for s in self.history.segments if s.times and s.times[0] <= t <= s.times[-1]), None)
        if segment is None or self.device.method is not Method.COUNTER:
            return None
        step, times, values = self.device.step_ns, segment.times, segment.values
        most = None if self.device.most_watts is None else self.device.most_watts / 1e3  # microjoules per ns
        before, after = bisect_right(times, t - step // 2) - 1, bisect_left(times, t + step // 2 + LATE_NS)
        lows = [values[before]] if before >= 0 else []
        highs = [values[after]] if after < len(times) else []
        if most is not None:
            soon = bisect_left(times, t)
            if soon < len(times):
                lows.append(values[soon] - int(most * (times[soon] + step // 2 - t)) - 1)
            if before >= 0:
                highs.append(values[before] + int(most * (t - times[before] + step + LATE_NS)) + 1)
        if not lows or not highs:
            return None
        value = segment.at(t)
        slack = max(0, value - max(lows), min(highs) - value)
        return -(-slack // MICROJOULES_PER_MILLIJOULE)

    def unread_in(self, start: int, end: int) -> list[tuple[int, int, str]]:
        """The parts of [start, end) that nobody read, with what to say of them."""
        unread = self.unread if self.whole is None else [*self.unread, *self.whole.unread]
        return [(max(start, a), min(end, b), note) for a, b, note in unread if a < end and b > start]

    def idle_millijoules(self, start: int, end: int) -> int | None:
        """Idle energy over [start, end), None before calibration; the cumulative value is floored, so parts add up."""
        if self.idle_watts is None:
            return None
        microwatts = round(self.idle_watts * 1e6)
        return microwatts * end // 10**12 - microwatts * start // 10**12

    def forget(self, before: int) -> None:
        """Drop what no open span needs."""
        self.history.forget(before)
        self.jumps = _since(self.jumps, before)
        self.notes = _since(self.notes, before)
        if self.looks and self.looks[0][1] <= before:
            self.looks = [look for look in self.looks if look[1] > before]
        if self.unread and self.unread[0][1] <= before:
            self.unread = [part for part in self.unread if part[1] > before]


def _bounds(least_joules: float, most_joules: float | None) -> str:
    """How much may be missing, in words: whole joules that hold the truth between them."""
    least = math.floor(least_joules)
    return f"at least {least} J" if most_joules is None else f"{least} to {math.ceil(most_joules)} J"


def _since(items: Sequence[tuple[int, T]], before: int) -> list[tuple[int, T]]:
    return [item for item in items if item[0] >= before] if items and items[0][0] < before else list(items)
