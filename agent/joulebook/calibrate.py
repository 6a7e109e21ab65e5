"""``joulebook calibrate``: measures every device's idle power while nothing uses the machine."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from joulebook.calibration import (
    Booked,
    Calibration,
    Idle,
    book_name,
    booked,
    load,
    now_iso,
    save,
    state_of,
)
from joulebook.cgroup import machine_cpus
from joulebook.clock import boottime_ns
from joulebook.errors import JoulebookError
from joulebook.folder import MarksFolder
from joulebook.history import DeviceHistory
from joulebook.home import Home, find_home
from joulebook.identity import boot_id, machine_id
from joulebook.idle_windows import LOOK_NS, Found, Watch, idle_power, seconds_needed, window_ns
from joulebook.lease import read_status, take_lease
from joulebook.meters import Device, Meter, MeterAbsent, Refused, Roots, open_meters, roots_from_environment
from joulebook.processes import machine_counts
from joulebook.remainder import Remainder
from joulebook.rows import Method
from joulebook.units import NS_PER_SECOND

LONGEST_SECONDS: Final = 86_400
READS_PER_STEP: Final = 4
"""At a window's edge a counter of 10 ms to 1 s is read so often, until one step and a quarter are over: half a step of
doubt at either end of a second would put its 5th percentile several percent low."""
LEAST_STEP_NS: Final = 10_000_000


@click.command()
@click.option(
    "--seconds", type=click.IntRange(22, LONGEST_SECONDS), default=60, show_default=True, help="Measure for so long."
)
@click.option("--force", is_flag=True, help="Count windows in which the machine was in use; rows say so.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def calibrate(seconds: int, force: bool, as_json: bool) -> None:
    """Measure the idle power of every device while nothing uses the machine, and keep it.

    The agent that starts next separates idle energy by it. Stop an agent that runs, and let no job run meanwhile.

    \b
    joulebook calibrate                  a minute
    joulebook calibrate --seconds 300    more windows, for meters that are read seldom
    """
    home, machine, roots = find_home().make(), machine_id(), roots_from_environment()
    kept = load(home, machine, roots)
    with _meters(home, roots) as (meters, refused):
        session = Session(home, roots, machine, meters)
        session.refuse_runs("a run is open on this machine", "joulebook calibrate once it has ended")
        measured, left_out = session.measure(seconds, kept, forced=force)
    left_out |= {r.name: r.error.cause for r in refused if not isinstance(r.error, MeterAbsent)}
    path = save(home, kept.with_devices(measured)) if measured else None
    document = {
        "machine": machine,
        "path": None if path is None else str(path),
        "calibrated": [_plain(idle) for idle in measured],
        "left_out": [{"what": what, "why": why} for what, why in left_out.items()],
    }
    click.echo(json.dumps(document, indent=1) if as_json else "\n".join(_text(machine, measured, left_out, path)))
    if not measured:
        raise JoulebookError("no device was calibrated", "joulebook calibrate again on the idle machine")


@contextmanager
def _meters(home: Home, roots: Roots) -> Iterator[tuple[list[Meter], list[Refused]]]:
    """All meters, held by the lease of an agent. Raises JoulebookError where an agent has it, or nothing is metered."""
    lease = take_lease(home)
    if lease is None:
        status = read_status(home)
        who = "another process" if status.get("stopped", True) else f"an agent (pid {status.get('pid')})"
        raise JoulebookError(f"{who} meters this machine", "stop it, joulebook calibrate, and start it again")
    with lease:
        meters, refused = open_meters(None, roots)
        try:
            if not meters:
                raise JoulebookError("no meter of this machine can be opened", "joulebook doctor says what mends it")
            yield meters, refused
        finally:
            for meter in meters:
                meter.close()


@dataclass(slots=True)
class _Seen:
    """A leaf of the book with its history. node: what brings the history up to date where it is a node's remainder."""

    leaf: Booked
    history: DeviceHistory
    node: Remainder | None = None


class Session:
    """The measuring of one machine."""

    def __init__(self, home: Home, roots: Roots, machine: str, meters: Sequence[Meter]) -> None:
        self._roots, self._machine, self._meters = roots, machine, meters
        self._folder = MarksFolder(home, roots.proc, machine, boot_id())
        self._seen = _histories(meters, machine)
        self._by_id = {seen.leaf.own_id: seen for seen in self._seen}
        self._watch = Watch(_cpus(roots))
        steps = {meter.name: {d.step_ns for d in meter.devices if _moves_in_steps(d)} for meter in meters}
        self._stepped = [meter for meter in meters if steps[meter.name]]
        reads = {
            n * step // READS_PER_STEP for step in set().union(*steps.values()) for n in range(1, READS_PER_STEP + 2)
        }
        self._further_ns = sorted(after for after in reads if after < LOOK_NS)

    def refuse_runs(self, cause: str, remedy: str) -> None:
        """Raise JoulebookError when a run is open: its agent needs the meters."""
        if self._folder.joined_unseen():
            raise JoulebookError(cause, remedy)

    def measure(self, seconds: int, kept: Calibration, *, forced: bool) -> tuple[list[Idle], dict[str, str]]:
        """The idle power of what could be calibrated, and of all else by device_id why not.

        Raises JoulebookError when a run begins meanwhile; its agent then has the meters.
        """
        for seen in self._seen:
            device, needed = seen.history.device, seconds_needed(seen.history.device.step_ns)
            if device.method is not Method.MODELLED and needed > seconds:
                click.echo(f"{seen.leaf.own_id} needs --seconds {needed}: its meter is slow", err=True)
        start, end = self._follow(seconds)
        at, measured, left_out = now_iso(), [], {}
        for seen in self._seen:
            device = seen.leaf.device
            found = idle_power(seen.history, seen.leaf.own_id, self._watch, start, end, forced=forced)
            if isinstance(found, str):
                left_out[device.device_id] = found
            else:
                measured.append(_idle(seen, found, state_of(device, kept.clock_state), at))
        return measured, left_out

    def _follow(self, seconds: int) -> tuple[int, int]:
        """Look once a second; the first and the last look, CLOCK_BOOTTIME ns."""
        start = end = self._look()
        with click.progressbar(range(1, seconds + 1), label="idle power", file=sys.stderr) as ticks:
            for n in ticks:
                _sleep_until(start + n * LOOK_NS)
                self.refuse_runs("a run has begun: nothing was kept", "joulebook calibrate once it has ended")
                end = self._look()
        return start, end

    def _look(self) -> int:
        """Read everything once, and what moves in steps until it has moved; the instant of the first."""
        self._read(self._meters)
        now = boottime_ns()
        self._watch.cpu.add(now, machine_counts(self._roots.proc)[0])
        for meter in self._meters:
            told = meter.busy()
            self._watch.look(now, {device_id: list(busy.pids) for device_id, busy in told.items()})
            self._tell_anew(meter)
        for after in self._further_ns:
            _sleep_until(now + after)
            self._read(self._stepped)
        for seen in self._seen:
            if seen.node is not None:
                seen.node.follow(boottime_ns())
        return now

    def _read(self, meters: Sequence[Meter]) -> None:
        for meter in meters:
            try:
                readings = meter.read()
            except OSError:
                continue
            for reading in readings:
                seen = self._by_id.get(reading.device_id)
                if seen is not None:
                    (seen.history if seen.node is None else seen.node.whole).add(reading)

    def _tell_anew(self, meter: Meter) -> None:
        """A meter may have learnt more of its devices since it was opened."""
        for device in meter.devices:
            seen = self._by_id.get(device.device_id)
            if seen is not None and seen.node is None:
                seen.history.device = book_name(device, self._machine)


def _cpus(roots: Roots) -> int:
    """CPUs of the machine, whose work says whether it is idle. Raises JoulebookError where that cannot be seen."""
    try:
        if machine_counts(roots.proc)[0] >= 0 and (cpus := machine_cpus(roots)):
            return cpus
    except (OSError, ValueError):
        pass
    raise JoulebookError(
        f"{roots.proc / 'stat'} does not say what the CPUs do",
        "mount the host's /proc and name it in JOULEBOOK_PROC_ROOT",
    )


def _moves_in_steps(device: Device) -> bool:
    return device.method is Method.COUNTER and LEAST_STEP_NS <= device.step_ns <= LOOK_NS


def _sleep_until(at_ns: int) -> None:
    time.sleep(max(0.0, (at_ns - boottime_ns()) / NS_PER_SECOND))


def _histories(meters: Sequence[Meter], machine: str) -> list[_Seen]:
    """Every leaf with a fresh history; a node's remainder follows the node and its parts."""
    leaves = booked(meters, machine)
    found = [_Seen(leaf, DeviceHistory(leaf.device, leaf.meter, LOOK_NS)) for leaf in leaves]
    by_id = {seen.leaf.own_id: seen.history for seen in found}
    whole = {device.device_id: device for meter in meters for device in meter.devices}
    for seen in found:
        if seen.leaf.parts:
            node = DeviceHistory(book_name(whole[seen.leaf.own_id], machine), seen.leaf.meter, LOOK_NS)
            seen.node = Remainder(node, [by_id[part] for part in seen.leaf.parts], seen.history)
    return found


def _idle(seen: _Seen, found: Found, clock_state: str, at: str) -> Idle:
    device = seen.history.device
    return Idle(
        device.device_id, seen.leaf.meter, device.method, device.model, device.driver, seen.leaf.parts, clock_state,
        found.idle_watts, found.u_relative, found.median_watts, found.windows,
        window_ns(device.step_ns) / NS_PER_SECOND, found.cpu_busy, at, found.in_use > 0,
    )  # fmt: skip


def _plain(idle: Idle) -> dict[str, Any]:
    return {name: getattr(idle, name) for name in Idle.__dataclass_fields__}


def _text(machine: str, measured: Sequence[Idle], left_out: dict[str, str], path: Path | None) -> list[str]:
    lines = [
        f"  {idle.device_id.removeprefix(machine + '/'):<28} {idle.idle_watts:9.3f} W  u {idle.u_relative:.1%}  "
        f"{idle.windows} windows of {idle.window_seconds:g} s, CPUs {idle.cpu_busy:.1%} busy"
        for idle in measured
    ]
    lines = [f"Idle power of {machine}", *lines] if measured else []
    if left_out:
        lines += ["Not calibrated", *(f"  {what.removeprefix(machine + '/')}: {why}" for what, why in left_out.items())]
    if path is not None:
        lines += [f"kept in {path}: the agent that starts next separates idle energy by it"]
    return lines
