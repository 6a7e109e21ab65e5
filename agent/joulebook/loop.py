"""The agent's loop: when what is due. Everything that it learns goes through the sampler."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from joulebook.adoption import adopt
from joulebook.clock import boottime_ns
from joulebook.home import Home
from joulebook.inotify import Inotify
from joulebook.lease import Lease, write_status
from joulebook.reopening import Reopening
from joulebook.sampler import Sampler
from joulebook.units import NS_PER_SECOND

if TYPE_CHECKING:
    from joulebook.shipping import Shipper
    from joulebook.snapshot import ShippingState

FIRST_RUN_SECONDS: Final = 30
"""An agent that was started for a run waits this long for it."""
NEVER: Final = 2**63
LEAST_WAKE_NS: Final = 50_000_000
"""Marks wake the sampler at most this often."""
POLL_NS: Final = 100_000_000
"""How often marks are looked for where the kernel cannot tell of them (shared volumes)."""
STEP_NS: Final = 500_000_000
"""A smaller change between two ticks is what keeping the clocks in step may do."""
ALL_MARKS_NS: Final = 30 * NS_PER_SECOND
"""How often all marks files are looked at, whatever inotify says."""
BURST_PER_STEP: Final = 4
"""After a mark a slow counter is read this many times per step, until one step and a quarter are over."""


@dataclass(slots=True)
class Clocks:
    """What happened to the machine's clocks from one tick to the next; how punctual ticks are, Telemetry counts."""

    _offset_ns: int | None = None
    _asleep_ns: int = 0

    def tick(self, tell: Callable[[str], None]) -> int:
        """UTC minus CLOCK_BOOTTIME now, ns. tell: takes what the reports of open runs must say."""
        gettime = time.clock_gettime_ns
        shift = gettime(time.CLOCK_REALTIME) - gettime(time.CLOCK_BOOTTIME)
        asleep = gettime(time.CLOCK_BOOTTIME) - gettime(time.CLOCK_MONOTONIC)
        if self._offset_ns is not None:
            stepped, slept = shift - self._offset_ns, asleep - self._asleep_ns
            if abs(stepped) > STEP_NS:
                tell(f"the clock was set by {stepped / 1e9:+.1f} s")
            if slept > STEP_NS:
                tell(f"the machine slept for {slept / 1e9:.1f} s")
        self._offset_ns, self._asleep_ns = shift, asleep
        return shift


@dataclass(slots=True)
class Loop:
    """When what is due. until_idle_ns: end this long after the last run, None to go on for ever."""

    sampler: Sampler
    home: Home
    reopening: Reopening
    until_idle_ns: int | None
    stop_fd: int
    lease: Lease
    shipper: Shipper | None = None
    inotify: Inotify | None = field(init=False)
    clocks: Clocks = field(default_factory=Clocks)
    next_tick: int = 0
    next_quick: int = NEVER
    burst: list[int] = field(default_factory=list)
    scanned: int = -1
    all_marks: int = 0
    last_wake: int = 0
    wake_wanted: bool = False
    idle_since: int = 0
    told: str = ""
    complained: bool = False

    def __post_init__(self) -> None:
        try:
            self.inotify = Inotify(self.home.marks)
        except OSError as error:
            self.inotify = None
            print(f"joulebook agent: no inotify ({error}): marks are polled at 10 Hz", file=sys.stderr)

    def run(self) -> None:
        """Until stopped, or idle for long enough."""
        poll = select.poll()
        poll.register(self.stop_fd, select.POLLIN)
        if self.inotify is not None:
            poll.register(self.inotify.fd, select.POLLIN)
        now = boottime_ns()
        self.idle_since = now + (FIRST_RUN_SECONDS * NS_PER_SECOND if self.until_idle_ns else 0)
        self._plan_burst(now)
        self.tell()
        while not (self._is_over(now) and self._may_end()):
            events = poll.poll(max(0, -((now - self._due(now)) // 1_000_000)))
            if any(fd == self.stop_fd for fd, _ in events):
                break
            now = boottime_ns()
            self.step(now, marks_may_be_new=bool(events))
        self.finish()

    def _may_end(self) -> bool:
        """No run begins from now on, and none did a moment ago; else it goes on."""
        self.lease.refuse_runs()
        self.sampler.read_marks()
        if not self.sampler.book.any_open():
            return True
        self.lease.take_runs()
        self.wake_wanted = True
        return False

    def _due(self, now: int) -> int:
        due = min(self.next_tick, self.next_quick)
        if self.burst:
            due = min(due, self.burst[0])
        for end in self.sampler.ends:
            if now < end < due:
                due = end
        if self.wake_wanted:
            due = min(due, self.last_wake + LEAST_WAKE_NS)
        if self.inotify is None and self.sampler.book.any_open():
            due = min(due, now + POLL_NS)
        return due

    def step(self, now: int, *, marks_may_be_new: bool) -> None:
        """One turn: marks first, then meters if anything is due, then what can be closed and flushed."""
        sampler = self.sampler
        tick = now >= self.next_tick
        edge = now >= sampler.grid and sampler.grid != self.scanned
        all_due = self.home.shared is not None or now - self.all_marks >= ALL_MARKS_NS
        new = self._read_marks(marks_may_be_new, everything=tick and all_due)
        self.wake_wanted |= new  # a wake may be put off, never left out
        wake = self.wake_wanted and now - self.last_wake >= LEAST_WAKE_NS
        if tick or wake or (self.burst and self.burst[0] <= now):
            sampler.read_meters()
            self.burst = [t for t in self.burst if t > now]
        elif now >= self.next_quick:
            sampler.read_quick()
        if wake or edge:
            self.scanned = sampler.grid if edge else self.scanned
            sampler.scan(boottime_ns(), promptly=wake)
        if wake:
            self.wake_wanted = False
            self._plan_burst(now)
        if tick:
            self._tick(now)
            new |= self._reopen(now)
        if sampler.quick_ns is not None:
            self._plan_quick(now, sampler.quick_ns)
        if not self.wake_wanted and (now >= sampler.grid or sampler.ends):
            self._close(now)
        if tick and sampler.telemetry is not None and sampler.telemetry.is_due(now):
            sampler.publish(now, self.shipping())
        if new:
            self.tell()

    def _read_marks(self, may_be_new: bool, *, everything: bool) -> bool:
        """Follow what inotify names; all files where it cannot tell, and now and then in case it lost some."""
        names: set[str] | None = None
        if self.inotify is None or everything:
            self.all_marks = boottime_ns()
        else:
            names = set()
            if may_be_new:
                names = self.inotify.changed()
        if names == set() and not self.sampler.folder.files:
            return False
        return self.sampler.read_marks(names)

    def _close(self, now: int) -> None:
        ending = max((t for t in self.sampler.ends if t <= now), default=None)
        if not self.sampler.close_spans(now):
            return
        self.wake_wanted |= self.sampler.read_logs()
        through = ending if ending is not None and self.sampler.edge >= ending else None
        if self.sampler.flush(now, finish_through=through):
            self.complained = False
            self.sampler.tidy(now)
        elif not self.complained:
            self.complained = True
            print("joulebook agent: the outbox's disk refuses rows: they wait in memory", file=sys.stderr)
        self.tell()

    def _tick(self, now: int) -> None:
        """Ticks fall on whole multiples of the sampling time in UTC, so that span edges are ticks."""
        step = self.sampler.settings.sample_ns
        due, telemetry = self.next_tick, self.sampler.telemetry
        shift = self.clocks.tick(self.sampler.note)
        if telemetry is not None:
            telemetry.ticked(due, now, shift)
        self.next_tick = ((now + shift) // step + 1) * step - shift

    def _reopen(self, now: int) -> bool:
        """Try refused meters again when it is time. True when one is read from now on."""
        self.reopening.step(now)
        waiting = self.reopening.opened
        if not waiting:
            return False
        self.reopening.opened = [meter for meter in waiting if not adopt(self.sampler, meter)]
        return len(self.reopening.opened) < len(waiting)

    def _plan_quick(self, now: int, step: int) -> None:
        """While a run is open, instant power is read between the ticks too."""
        if not self.sampler.book.any_open():
            self.next_quick = NEVER
        elif not now < self.next_quick <= now + step:
            self.next_quick = now + step

    def shipping(self) -> ShippingState | None:
        """How shipping goes, None where nothing is shipped."""
        if self.shipper is None:
            return None
        from joulebook.snapshot import ShippingState

        status = self.shipper.status
        return ShippingState(status.rows, status.failures, status.acknowledged_at_us)

    def _plan_burst(self, now: int) -> None:
        self.last_wake = now
        steps = {h.device.step_ns for h in self.sampler.devices.values() if h.device.step_ns >= 10_000_000}
        steps = {step for step in steps if step <= NS_PER_SECOND}
        marks = {now + k * step // BURST_PER_STEP for step in steps for k in range(1, BURST_PER_STEP + 2)}
        self.burst = sorted(marks | {now + 5_000_000})

    def _is_over(self, now: int) -> bool:
        if self.until_idle_ns is None:
            return False
        if self.sampler.book.any_open() or self.sampler.ends:
            self.idle_since = now
            return False
        if self.sampler.book.runs:
            self.idle_since = min(self.idle_since, now)  # the first run has been: no more waiting for it
        return now - self.idle_since > self.until_idle_ns

    def finish(self) -> None:
        """Close what is open up to now and leave everything durable."""
        self.sampler.read_logs()
        self.sampler.read_meters()
        now = boottime_ns()
        self.sampler.scan(now)
        self.sampler.close_spans(now, force=True)
        self.sampler.close_all(now)
        if self.sampler.flush(now, finish_through=now):
            self.sampler.tidy(now, everything=True)
        self.tell(stopped=True)

    def tell(self, *, stopped: bool = False) -> None:
        """Say in the status file which runs are metered, by what, and which are closed for good."""
        sampler = self.sampler
        runs = {
            run_id: "open"
            if state.open
            else "closing"
            if state.changed or self._is_ending(state.run.ended_ns)
            else "closed"
            for run_id, state in sampler.book.runs.items()
        }
        status = {
            "pid": os.getpid(),
            "stopped": stopped,
            "incarnation": sampler.outbox.incarnation,
            "runs": runs,
            "devices": {
                h.device.device_id: {"component": h.device.component, "method": h.device.method, "meter": h.meter}
                for h in sampler.devices.values()
            },
            "refused": [
                {"meter": r.name, "cause": r.error.cause, "remedy": r.error.remedy} for r in self.reopening.refused
            ],
            "read_errors": sampler.read_errors,
        }
        if repr(status) != self.told:
            self.told = repr(status)
            try:
                write_status(self.home, sampler.machine_id, status)
            except OSError:
                self.told = ""

    def _is_ending(self, ended_ns: int | None) -> bool:
        return ended_ns is not None and any(t >= ended_ns for t in self.sampler.ends)
