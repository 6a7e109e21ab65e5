"""The sampler: reads meters, marks and processes, and turns closed spans into rows of the outbox.

One thread. It holds what is recent in memory; what must outlive it goes to the outbox at every flush, in
one transaction: open rows, final rows, marks, runs, and what a later agent of this boot needs to resume.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final

from joulebook.binding import Machine, Party, Scene, claims, measure, reassign
from joulebook.calibration import FORCED, Calibration, book_name, load
from joulebook.cgroup import Limit, cgroup_of, cpu_limit, cpus_of, machine_cpus, machine_memory, memory_limit, memory_of
from joulebook.clock import Offset, boottime_ns
from joulebook.clock import offset as clock_offset
from joulebook.errors import BadInput, JoulebookError
from joulebook.folder import MarksFolder
from joulebook.gpu_use import GpuUse
from joulebook.history import LATE_NS, DeviceHistory, History
from joulebook.marks import Line
from joulebook.marks_file import MarksFile
from joulebook.meters import Askable, Device, Follower, Limited, Meter, Reading, Roots
from joulebook.outbox import Outbox, OutboxStatus
from joulebook.processes import Actor, ProcessTable
from joulebook.record import start_of_run_record, visible_gpus
from joulebook.remainder import Remainder, remainder_device
from joulebook.resume import lately_ended
from joulebook.rows import NO_PHASE, Body, Component, Measurement, Method, Reassignment, Run, from_wire, to_wire
from joulebook.runs import UNREADABLE, RunBook, RunState, mark_row
from joulebook.settings import IDLE_SPAN_SECONDS, SPAN_SECONDS, Settings
from joulebook.spans import grid_cuts
from joulebook.split import split
from joulebook.units import NS_PER_SECOND, NS_PER_US, US_PER_SECOND

if TYPE_CHECKING:
    from joulebook.snapshot import ShippingState
    from joulebook.telemetry import Telemetry

SETTLE_NS: Final = 1_100_000_000
"""How long a span waits for the readings after its end, beside one step of the device."""
REMEMBER_NS: Final = 600 * NS_PER_SECOND
"""How long final measurements can still be reassigned, and ended runs are remembered."""
MINUTE_US: Final = 60 * US_PER_SECOND
EDGE_JITTER_US: Final = 1000
"""Distance within which two sightings of a grid instant are the same one, microseconds."""
LEAST_QUICK_NS: Final = 100_000_000
"""Instant power is read at most this often."""
SPAN_US: Final = SPAN_SECONDS * US_PER_SECOND
IDLE_SPAN_US: Final = IDLE_SPAN_SECONDS * US_PER_SECOND
SPARSE_NS: Final = 900_000_000
"""Least distance of the readings that are taken in while there is no run."""
UNDIGESTED: Final = 200
"""Looks of one meter that may wait before they are taken in."""
PENDING_ROWS: Final = 50_000
"""Rows kept in memory while the disk refuses them."""
DRIVER_CHANGED: Final = "its driver changed from {!r} to {!r} while it was read"
TOO_LATE: Final = "marks came when others of their time were let go of: what was booked until then stays as it was"


@dataclass(slots=True)
class _Closed:
    """A closed span of one device whose shares are still open.

    rows: by their key in the outbox.  written: they are there alike.
    """

    history: DeviceHistory
    start: int
    end: int
    offset: Offset
    rows: dict[str, Measurement]
    written: bool = False


@dataclass(slots=True)
class Sampler:
    """State of one agent.

    edge: CLOCK_BOOTTIME ns up to which spans are closed; a device that is behind it (its own ``edge``) has not
    answered, and catches up when it does.  grid: the next instant at which all are closed.  ends: further instants at
    which spans must be closed early, because a run ended there.  quick_ns: how often instant power must be read to be
    integrated, None when no device needs it.
    """

    outbox: Outbox
    folder: MarksFolder
    meters: list[Meter]
    roots: Roots
    settings: Settings
    machine_id: str
    boot_id: str
    devices: dict[str, DeviceHistory] = field(default_factory=dict)
    nodes: dict[str, Remainder] = field(default_factory=dict)
    telemetry: Telemetry | None = None
    calibration: Calibration = field(init=False)
    processes: ProcessTable = field(init=False)
    book: RunBook = field(init=False)
    edge: int = 0
    grid: int = 0
    ends: list[int] = field(default_factory=list)
    quick_ns: int | None = None
    _quick: list[Meter] = field(default_factory=list)
    gpu_use: GpuUse = field(init=False)
    lost_rows: int = 0
    writable: bool = True
    _outbox_status: OutboxStatus | None = None
    read_errors: dict[str, int] = field(default_factory=dict)
    _open: deque[_Closed] = field(default_factory=deque)
    _final: deque[tuple[int, Measurement]] = field(default_factory=deque)
    _pending: list[Body] = field(default_factory=list)
    _reserved: dict[str, tuple[Limit | None, Limit | None]] = field(default_factory=dict)
    _dropped_keys: set[str] = field(default_factory=set)
    _left_cpu: dict[str, list[int]] = field(default_factory=dict)
    _left_edge: int = 0
    _left_boot: str = ""
    _told: dict[str, Sequence[Device]] = field(default_factory=dict)
    _undigested: list[tuple[Meter, Sequence[Device], Sequence[Reading]]] = field(default_factory=list)
    _counted: set[str] = field(default_factory=set)
    _taken_ns: dict[str, int] = field(default_factory=dict)
    _followers: list[Follower] = field(default_factory=list)
    _askable: list[Askable] = field(default_factory=list)
    _looked_ns: int = 0
    _let_go_ns: int = 0

    def __post_init__(self) -> None:
        self.processes = ProcessTable(self.roots.proc, usage=cgroup_of("self", self.roots).usage)
        self.gpu_use = GpuUse(self.processes)
        self.book = RunBook(self.machine_id, self.boot_id)
        self.calibration = self._load_calibration()
        for meter in self.meters:
            self._follow_devices(meter)
        self._know_meters()

    def _follow_devices(self, meter: Meter) -> None:
        for device in meter.devices:
            self.devices[device.device_id] = self._history(meter.name, book_name(device, self.machine_id))

    def _know_meters(self) -> None:
        """What follows from which meters there are."""
        self._told = {meter.name: meter.devices for meter in self.meters}
        self._askable = [meter for meter in self.meters if isinstance(meter, Askable)]
        self._followers = [meter for meter in self.meters if isinstance(meter, Follower)]
        self._divide_nodes()
        self._plan_quick()
        self._find_counted()

    def add_meter(self, meter: Meter, now: int) -> None:
        """Read one more meter from now on; runs that are open say what of its devices is missing before."""
        self.digest()
        self.meters.append(meter)
        self._follow_devices(meter)
        for described in (device for one in self.meters for device in one.devices):
            history = self.devices[described.device_id]
            if history.whole is None:
                history.device = replace(history.device, parent=described.parent)
        self._know_meters()
        for device in meter.devices:
            history = self.devices[device.device_id]
            history.edge = now
            for state in self.book.runs.values():
                if state.open and state.run.boot_id == self.boot_id and state.run.started_ns < now:
                    missing = history.missing(now - state.run.started_ns)
                    state.note(f"{history.device.device_id}: not read before its meter could be opened: {missing}")
        for file in self.folder.files.values():
            run = self.book.runs.get(file.run_id)
            if run is not None and run.open and "visible_gpus" in run.run.record and not file.gone:
                run.see_gpus(visible_gpus(self.roots, file.pid, [h.device for h in self.devices.values()]) or ())
        self.read_meters([meter])

    def drop_devices(self, device_ids: Collection[str]) -> None:
        """Read these no more: others stand for them. A meter of which none is left is closed."""
        for meter in list(self.meters):
            left = [device for device in meter.devices if device.device_id not in device_ids]
            if meter.devices and not left:
                meter.close()
                self.meters.remove(meter)
            elif len(left) < len(meter.devices):
                meter.devices = left
        for device_id in device_ids:
            del self.devices[device_id]
        for node in self.nodes.values():
            node.lose_track()

    def _load_calibration(self) -> Calibration:
        """Idle powers as calibrated; a damaged file stops no metering."""
        try:
            return load(self.folder.home, self.machine_id, self.roots)
        except JoulebookError as error:
            print(error.lines("agent"), file=sys.stderr)
            return Calibration(self.machine_id, "")

    def _history(self, meter: str, device: Device, parts: Collection[str] = ()) -> DeviceHistory:
        history = DeviceHistory(device, meter, self.settings.sample_ns, self._capacity(device.component))
        self._set_idle(history, parts)
        return history

    def _set_idle(self, history: DeviceHistory, parts: Collection[str] = ()) -> None:
        """Separate the device's idle energy by its calibration, if that is of the device as it is read now."""
        idle, misfit = self.calibration.fit(history.device, history.meter, parts)
        history.idle_watts = None if idle is None else idle.idle_watts
        if idle is not None and idle.forced:
            history.device = replace(history.device, note="; ".join(filter(None, (history.device.note, FORCED))))
        if misfit:
            print(
                f"joulebook agent: {history.device.device_id}: {misfit}: its idle energy is not separated\n"
                "  try: joulebook calibrate",
                file=sys.stderr,
            )

    def _divide_nodes(self) -> None:
        """A node that contains metered parts is booked as what it draws beyond them."""
        for device_id, history in list(self.devices.items()):
            parts = {own_id: h for own_id, h in self.devices.items() if h.device.parent == device_id}
            if device_id in self.nodes:
                self.nodes[device_id].parts = history.parts = list(parts.values())
                self._set_idle(history, parts)
            elif parts:
                left = self._history(history.meter, remainder_device(history.device), parts)
                left.whole, left.parts, left.edge = history, list(parts.values()), history.edge
                self.nodes[device_id] = Remainder(history, list(parts.values()), left)
                self.devices[device_id] = left

    def _capacity(self, component: Component) -> float | None:
        """What a device serves: the machine's CPUs or bytes; a modelled one serves the agent's own control group."""
        devices = [device for meter in self.meters for device in meter.devices if device.component is component]
        modelled = any(device.method is Method.MODELLED for device in devices)
        if component is Component.CPU:
            return (cpus_of("self", self.roots) if modelled else None) or float(machine_cpus(self.roots))
        if component is Component.DRAM:
            return float((memory_of("self", self.roots) if modelled else None) or machine_memory(self.roots))
        return None

    # -- reading ---------------------------------------------------------------------------------

    def start(self) -> None:
        """First readings; what an earlier agent of this boot left is taken up."""
        now = boottime_ns()
        self.edge = self._looked_ns = now
        for history in self.devices.values():
            history.edge = now
        self._resume(now)
        self.read_meters()
        self.scan(boottime_ns())
        self.plan_grid(now)

    def _find_counted(self) -> None:
        """The meters that read nothing but counters: what lies between two readings is in the second."""
        counters = Method.COUNTER
        self._counted = {m.name for m in self.meters if m.devices and all(d.method is counters for d in m.devices)}

    def _plan_quick(self) -> None:
        """Which meters tell power as an instant that changes between two ticks, and how often to read them."""
        steps = {
            history.meter: history.device.step_ns
            for history in self.devices.values()
            if history.device.method is Method.INTEGRATED
            and not history.device.averaged
            and history.device.step_ns < self.settings.sample_ns
        }
        self._quick = [meter for meter in self.meters if meter.name in steps]
        self.quick_ns = max(min(steps.values()), LEAST_QUICK_NS) if steps else None

    def read_quick(self) -> None:
        """One reading of the meters whose power is instant: what lies between two reads is unseen."""
        self.read_meters(self._quick)

    def read_meters(self, meters: Sequence[Meter] | None = None) -> None:
        """One reading of every meter; a failing one is counted and harms no other.

        The readings only wait here: taken in one by one, between long sleeps, they cost several times as much as
        together (``digest``), when the code that takes them in is in the processor's cache.
        """
        telemetry = self.telemetry
        for meter in self.meters if meters is None else meters:
            began = perf_counter_ns() if telemetry is not None else 0
            try:
                self._undigested.append((meter, meter.devices, meter.read()))
            except Exception as error:  # noqa: BLE001 - whatever one meter does, the others are read
                self._failed(meter.name, error)
                if telemetry is not None:
                    telemetry.read(meter.name, perf_counter_ns() - began, succeeded=False)
            else:
                if telemetry is not None:
                    telemetry.read(meter.name, perf_counter_ns() - began, succeeded=True)
        if len(self._undigested) >= UNDIGESTED:
            self.digest()

    def _failed(self, meter: str, error: Exception) -> None:
        """Count a meter's failure; the first one is told, and one that is no failing file is a defect of the meter."""
        if meter not in self.read_errors:
            what = str(error) if isinstance(error, OSError) else f"a defect, please report it: {error!r}"
            print(f"joulebook agent: meter {meter} cannot be read: {what}", file=sys.stderr)
        self.read_errors[meter] = self.read_errors.get(meter, 0) + 1

    def digest(self) -> None:
        """Take the readings that wait into the histories; of counters one a second, while there is no run to bind."""
        devices, sparse = self.devices, not self.book.any_open() and not self.ends
        for meter, described, readings in self._undigested:
            if described is not self._told[meter.name]:
                self._tell_anew(meter.name, described)
            if sparse and readings and meter.name in self._counted:
                soon = readings[0].at_ns - self._taken_ns.get(meter.name, 0) < SPARSE_NS
                if soon and not any(reading.restarted for reading in readings):
                    continue
                self._taken_ns[meter.name] = readings[0].at_ns
            for reading in readings:
                history = devices.get(reading.device_id)
                if history is None:
                    continue
                (history if history.whole is None else history.whole).add(reading)
        self._undigested.clear()
        if self._followers:
            leaves = [history for history in devices.values() if history.whole is None]
            for follower in self._followers:
                follower.follow(leaves)
                for reading in follower.read():
                    history = devices[reading.device_id]
                    (history if history.whole is None else history.whole).add(reading)
        now = boottime_ns() if self.nodes else 0
        for node in self.nodes.values():
            node.follow(now)

    def _tell_anew(self, meter: str, devices: Sequence[Device]) -> None:
        """A meter has learnt more of its devices: another method from this reading on, another limit."""
        self._told[meter] = devices
        for device in devices:
            history = self.devices.get(device.device_id)
            if history is not None and history.whole is None:
                before = history.device
                history.device = replace(book_name(device, self.machine_id), parent=before.parent)
                self._set_idle(history)
                if before.driver and device.driver != before.driver:
                    self.note(f"{before.device_id}: {DRIVER_CHANGED.format(before.driver, device.driver)}")
        self._plan_quick()
        self._find_counted()

    def scan(self, now: int, *, promptly: bool = True) -> None:
        """CPU time of every tree, and who used which GPU since the last look. promptly: see ProcessTable.scan."""
        self.processes.scan(now, promptly=promptly)
        before, self._looked_ns = self._looked_ns, now
        if not self.processes.actors:
            self.gpu_use.clear()
            return
        for meter in self.meters:
            try:
                told = meter.busy()
            except Exception as error:  # noqa: BLE001 - as of a reading
                self._failed(meter.name, error)
                continue
            for device_id, busy in told.items():
                self.gpu_use.add(device_id, busy, before, now)
                if device_id in self.devices:
                    self.devices[device_id].look(before, now, busy)

    def read_marks(self, names: Collection[str] | None = None) -> bool:
        """Follow new marks. True when some changed a state, so that meters are read at once.

        names: the marks files in which something is known to be new, None to look at all.
        """
        late: dict[str, int] = {}
        any_new = False
        for file, lines in self.folder.read(names):
            any_new |= any(line.kind != "log" for line in lines)
            try:
                self._follow(file, lines)
            except (BadInput, ValueError, TypeError, AttributeError) as error:
                # One odd file must not stop the metering of all others.
                print(f"joulebook agent: marks file {file.key} is set aside: {error}", file=sys.stderr)
                file.reader.corrupt.append(file.reader.line_number)
            earliest = min((line.at_ns for line in lines), default=self.edge)
            if earliest < self.edge and file.boot_id == self.boot_id:
                late[file.run_id] = min(earliest, late.get(file.run_id, earliest))
            self._note_damage(file)
        for file in self.folder.newly_gone():
            self._bury(file)
            any_new = True
        for file in list(self.folder.files.values()):
            if file.gone and self._is_in_a_run(file):
                self._bury(file)
        if late and not self._rebind(min(late.values())):
            for state in filter(None, map(self.book.runs.get, late)):
                state.note(TOO_LATE)
        return any_new

    def read_logs(self) -> bool:
        """New marks, then what was logged up to then, bound to what its process was in. True as of ``read_marks``.

        A log that is younger than the marks read may be of a phase that is not known yet: it waits.
        """
        now = boottime_ns()
        any_new = self.read_marks()
        for file in self.folder.files.values():
            self._follow_logs(file, now if file.timeline.open else None)
        return any_new

    def _follow_logs(self, file: MarksFile, until_ns: int | None = None) -> None:
        try:
            lines = self.folder.read_logs(file, until_ns)
        except OSError as error:
            lines = []
            state = self.book.runs.get(file.run_id)
            text = f"what its processes logged cannot be read: {error}"
            if state is not None and text not in state.run.notes:
                print(f"joulebook agent: run {file.run_id}: {text}", file=sys.stderr)
                state.note(text)
        shipped = self.folder.offsets.get(file.log_key, 0)
        for line in lines:
            if line.n > shipped:
                self._ship_mark(file, line, file.log_key)
                self.folder.offsets[file.log_key] = line.n
        file.whole = until_ns is None
        self._note_damage(file)

    def note(self, text: str) -> None:
        """Something happened to the machine that the reports of all open runs must say."""
        for state in self.book.runs.values():
            if state.open:
                state.note(text)

    def _note_damage(self, file: MarksFile) -> None:
        """Runs whose marks files have unreadable lines say so, once they are known."""
        state = self.book.runs.get(file.run_id)
        for reader in file.readers:
            if reader.corrupt and state is not None:
                numbers = ", ".join(str(n) for n in reader.corrupt[:5])
                state.note(f"marks file {reader.key} {UNREADABLE} ({numbers}): their marks are missing")

    def _follow(self, file: MarksFile, lines: Sequence[Line]) -> None:
        was_open, known = set(self.book.open_ids()), set(self.book.runs)
        shipped = self.folder.offsets.get(file.key, 0)
        for line in lines:
            self.book.take(file.key, line)
            if line.n > shipped:
                self._ship_mark(file, line, file.key)
        self.folder.offsets[file.key] = max(line.n for line in lines) if lines else shipped
        if not file.gone and file.key not in self.processes.actors and file.timeline.times:
            actor = Actor(file.key, file.run_id, file.pid, file.launcher)
            if file.key in self._left_cpu:  # an earlier agent knew it: its CPU time goes on from there
                total, actor.carried = self._left_cpu.pop(file.key)
                actor.cpu.add(self.edge, total)
            self.processes.add_actor(actor)
            self.scan(boottime_ns())  # at once: its CPU time counts from here
            self._reserved[file.key] = (cpu_limit(file.pid, self.roots), memory_limit(file.pid, self.roots))
        for run_id in set(self.book.open_ids()) - was_open:
            if self.telemetry is not None:
                run = self.book.runs[run_id].run
                self.telemetry.totals.open(run_id, run.started_at_us, run.labels)
            self._opened(self.book.runs[run_id], file)
            self.plan_grid(boottime_ns())
        # A run that is new and not open began and ended before it was looked at.
        self._note_ends(was_open | (self.book.runs.keys() - known))

    def _ship_mark(self, file: MarksFile, line: Line, told_in: str) -> None:
        # A log line names neither run nor phase: it belongs to what the process was in when it was written.
        inside = file.timeline.at(line.at_ns) if line.kind == "log" else None
        run_id = str(line.values.get("run") or (inside.run_id if inside else file.run_id))
        row = mark_row(line, run_id, file.machine_id, file.boot_id, file.pid, file.rank)
        if row is not None and inside is not None:
            row = replace(row, phase=inside.phase, member=inside.member)
        if row is None and (state := self.book.runs.get(file.run_id)) is not None:
            state.note(f"marks file {told_in} line {line.n} has values that are no numbers: left out")
        elif row is not None:
            self._pending.append(row)

    def _opened(self, state: RunState, file: MarksFile) -> None:
        if file.gone:
            return
        limits: dict[str, float] = {}
        for meter in self.meters:
            limits |= meter.limits() if isinstance(meter, Limited) else {}
        devices = [
            replace(h.device, limit_watts=limits.get(device_id, h.device.limit_watts))
            for device_id, h in self.devices.items()
        ]
        record = start_of_run_record(self.roots, file.pid, devices)
        state.run = replace(state.run, record={**record, **state.run.record})

    def _bury(self, file: MarksFile) -> None:
        """The process is gone. What it still was in ends where it was last known to live."""
        was_open = set(self.book.open_ids())
        for line in file.read():  # whole now: a torn last line is not going to be finished
            self.book.take(file.key, line)
            self._ship_mark(file, line, file.key)
            self.folder.offsets[file.key] = line.n
        self._follow_logs(file)  # its last log may be its last sign of life
        self._note_damage(file)
        if self._is_in_a_run(file):
            at, us = self._end_of(file)
            state = file.timeline.at(at)
            file.timeline.end(at)
            self.book.died(file.key, at, us, lost=file.leaves or (state is not None and state.phase != NO_PHASE))
        self._note_ends(was_open)

    def _is_in_a_run(self, file: MarksFile) -> bool:
        """A launcher is before its command begins, and what a run left behind may be in none."""
        return file.timeline.open or self.book.holds(file.key)

    def _end_of(self, file: MarksFile) -> tuple[int, int]:
        """When the process went: now, if it was seen alive; else when it last marked or an agent last closed a span."""
        if file.seen_alive:
            now = boottime_ns()
            return now, clock_offset().utc_us(now)
        at = max(file.last_ns, self._left_edge if file.boot_id == self._left_boot else 0)
        return at, file.last_us + (at - file.last_ns) // NS_PER_US

    def _note_ends(self, was_open: set[str]) -> None:
        for run_id in was_open - set(self.book.open_ids()):
            if self.telemetry is not None:
                self.telemetry.totals.end(run_id)
            run = self.book.runs[run_id].run
            if run.boot_id == self.boot_id and run.ended_ns is not None and run.ended_ns > self.edge:
                self.ends.append(min(run.ended_ns, boottime_ns()))
                for meter in self._askable:
                    meter.ask_now(0)

    # -- closing spans ---------------------------------------------------------------------------

    def plan_grid(self, now: int) -> None:
        """Set the next grid instant: whole multiples in UTC of the span, of a minute while there is no run.

        So hours are never crossed, and an absence is closed in one go and cut at whole minutes.
        """
        clocks = clock_offset()
        minute = (clocks.utc_us(self.edge) + EDGE_JITTER_US) // IDLE_SPAN_US + 1
        ends = [clocks.boot_ns(minute * IDLE_SPAN_US)]
        if self.book.any_open():
            # The clocks' offset jitters: an edge closed a moment ago must not come up again a moment later.
            span = (clocks.utc_us(max(now, self.edge)) + EDGE_JITTER_US) // SPAN_US + 1
            ends.append(clocks.boot_ns(span * SPAN_US))
        self.grid = max(min(ends), self.edge + 1)

    def close_spans(self, now: int, *, force: bool = False) -> bool:
        """Close every span whose end is past and known. True when any was. force: take what is known."""
        closed = False
        if now >= self.grid or self.ends:
            self.digest()
        while True:
            end = min([self.grid, *(t for t in self.ends if t > self.edge)])
            if end > now:
                break
            if not self._close_devices(end, now, force=force):
                break
            self.edge = end
            self._note_unread(end)
            self.plan_grid(end)
            closed = True
        self.ends = [t for t in self.ends if t > self.edge]
        return closed

    def close_all(self, now: int) -> None:
        """Close everything up to now with what is known."""
        self.digest()
        if now > self.edge:
            self._close_devices(now, now, force=True)
            self.edge = now
            self._note_unread(now)
            self.plan_grid(now)

    def _close_devices(self, end: int, now: int, *, force: bool) -> bool:
        """Bind each device's energy up to ``end``. False while one may still tell; a silent one is left behind."""
        clocks, scene, waiting = clock_offset(), None, False
        for history in self.devices.values():
            known = history.history.last_time
            if history.edge >= end or known is None:
                continue
            until = min(known, end)
            # Where a run ends, one reading beyond it bounds what its last phase can have had.
            wanted = end + history.device.step_ns // 2 + LATE_NS if end in self.ends else end
            if known < wanted and not force and now <= end + SETTLE_NS + history.device.step_ns:
                waiting = True
                continue
            if until <= history.edge:
                continue
            scene = scene or self.scene()
            self._bind(scene, history, history.edge, until, clocks)
            history.edge = until
        return not waiting

    def _note_unread(self, end: int) -> None:
        """A run that has ended says which devices had told nothing for long by then: no row of it does."""
        for state in self.book.runs.values():
            run = state.run
            if run.ended_ns is None or run.boot_id != self.boot_id or state.unread_told or run.ended_ns > end:
                continue
            unread_ns: dict[str, int] = {}
            for history in self.devices.values():
                unread = run.ended_ns - max(history.told_ns, run.started_ns)
                if unread > self.settings.sample_ns + history.device.step_ns:
                    said = f"not read up to its end: {history.missing(unread)}, unless a later measurement claims them"
                    state.note(f"{history.device.device_id}: {said}")
                    unread_ns[history.device.device_id] = unread
            state.leave_unread(unread_ns)

    def _bind(self, scene: Scene, history: DeviceHistory, start: int, end: int, clocks: Offset) -> None:
        rows = measure(scene, [history], start, end, clocks, _minutes(start, end, clocks))
        self._open.append(_Closed(history, start, end, clocks, _keyed(rows)))
        if self.telemetry is not None:
            self.telemetry.totals.expect(rows)

    def parties(self) -> list[Party]:
        """The marking processes as binding sees them."""
        found = []
        for key, file in self.folder.files.items():
            if file.boot_id != self.boot_id:
                continue  # its clock is another boot's: it was nowhere in any span of this one
            actor = self.processes.actors.get(key)
            cpus, memory = self._reserved.get(key, (None, None))
            state = self.book.runs.get(file.run_id)
            gpus = state.run.record.get("visible_gpus") if state is not None else None
            found.append(
                Party(
                    key=key,
                    run_id=file.run_id,
                    root_run_id=self.book.root_of(file.run_id),
                    timeline=file.timeline,
                    cpu=actor.cpu if actor is not None else History(),
                    launcher=file.launcher,
                    rank=file.rank,
                    cpus=cpus,
                    memory=memory,
                    gpus=None if gpus is None else frozenset(gpus),
                )
            )
        return found

    def scene(self) -> Scene:
        """The machine and its parties as they are known now."""
        return Scene(self._machine(), self.parties())

    def _machine(self) -> Machine:
        return Machine(
            self.machine_id, self.boot_id, self.processes.machine, self.settings.sample_ns, self.gpu_use.by_device,
            self.settings.policy,
            self.processes.group if self.processes.usage is not None else None,
        )  # fmt: skip

    # -- late marks ------------------------------------------------------------------------------

    def _rebind(self, since: int) -> bool:
        """A late mark: spans still open are bound again, final ones get reassignments.

        False when some stay as they are: a process that may have a part of them is not followed any more.
        """
        self.digest()
        scene = self.scene()
        for closed in self._open:
            if closed.end > since:
                cuts = _minutes(closed.start, closed.end, closed.offset)
                rows = measure(scene, [closed.history], closed.start, closed.end, closed.offset, cuts)
                self._dropped_keys |= closed.rows.keys()
                closed.rows = _keyed(rows)
                closed.written = False
        late = [i for i, (_, row) in enumerate(self._final) if row.ended_ns > since]
        for i in late:
            seq, row = self._final[i]
            if row.started_ns >= self._let_go_ns:
                self._final[i] = (seq, self._reassigned(scene, seq, row))
        return all(self._final[i][1].started_ns >= self._let_go_ns for i in late)

    def _reassigned(self, scene: Scene, seq: int, row: Measurement) -> Measurement:
        history = next((h for h in self.devices.values() if h.device.device_id == row.device_id), None)
        if history is None or self.outbox.incarnation is None:
            return row
        claimed = claims(scene, history, row.started_ns, row.ended_ns)
        shares = split(row.energy_millijoules, claimed, self.settings.policy, row.component, row.idle_millijoules)
        for millijoules, giver, taker in reassign(row.shares, shares):
            self._pending.append(Reassignment(self.outbox.incarnation, seq, millijoules, giver, taker))
            if self.telemetry is not None:
                self.telemetry.totals.move(row.component, millijoules, giver, taker, row.ended_at_us)
        return replace(row, shares=shares)

    # -- flushing --------------------------------------------------------------------------------

    def flush(self, now: int, *, finish_through: int | None = None) -> bool:
        """Write what is new in one durable transaction. False when the disk refused; nothing is forgotten then.

        finish_through: spans that end by then become final whatever their grace.
        """
        ripe = now - self.settings.grace_ns if finish_through is None else finish_through
        finishing = [closed for closed in self._open if closed.end <= ripe]
        finish = [(key, row) for closed in finishing for key, row in closed.rows.items()]
        fresh = [closed for closed in self._open if closed.end > ripe and not closed.written]
        runs = [state for state in self.book.runs.values() if state.changed]
        try:
            seqs = self.outbox.write(
                drop=self._dropped_keys,
                open_rows={key: row for closed in fresh for key, row in closed.rows.items()},
                finish=finish,
                final=[*self._pending, *(state.run for state in runs)],
                state=self._state(),
            )
        except OSError:
            self.writable = False
            self._bound_pending()
            return False
        self.writable = True
        self._dropped_keys = set()
        self._pending = []
        for closed in fresh:
            closed.written = True
        for state in runs:
            state.changed = False
        if self.telemetry is not None:
            self.telemetry.totals.add(row for _, row in finish)
            self._outbox_status = self.outbox.status()
        self._final.extend((seq, row) for seq, (_, row) in zip(seqs, finish, strict=False))
        self._open = deque(closed for closed in self._open if closed.end > ripe)
        self._forget(now)
        return True

    def _bound_pending(self) -> None:
        """Memory is bounded while the disk is full: the oldest rows go, and are counted."""
        rows = sum(len(closed.rows) for closed in self._open) + len(self._pending)
        lost = 0
        while rows - lost > PENDING_ROWS and self._open:
            lost += len(self._open.popleft().rows)
        if (over := rows - lost - PENDING_ROWS) > 0:
            del self._pending[:over]
            lost += over
        self.lost_rows += lost
        if lost:
            self.note("rows were lost while the disk refused them")

    def _state(self) -> dict[str, Any]:
        """What a later agent of this boot needs to go on from the last closed edge."""
        raws = {
            device_id: raw
            for device_id, history in self.devices.items()
            if (raw := history.raw_at(history.edge)) is not None
        }
        state: dict[str, Any] = {
            "marks": self.folder.offsets,
            "runs": [to_wire(state.run) for state in self.book.runs.values() if state.open],
            "ended": [to_wire(run) for run in lately_ended(self.book)],
        }
        if self.devices:  # without meters (recovery) the last agent's counters stay on record
            cpu = {key: [actor.cpu.value_at(self.edge), actor.carried] for key, actor in self.processes.actors.items()}
            state["resume"] = {
                "boot_id": self.boot_id,
                "edge": self.edge,
                "edges": {device_id: history.edge for device_id, history in self.devices.items()},
                "raw": raws,
                "nodes": {own_id: left for own_id, node in self.nodes.items() if (left := node.state()) is not None},
                "cpu": cpu,
                "machine_cpu": self.processes.machine.value_at(self.edge),
            }
        return state

    def _resume(self, now: int) -> None:
        """Finish what an earlier agent left open, and claim the counters' differences since its last edge."""
        left = self.outbox.open_rows()
        if left:
            self.outbox.write(finish=left.items())
            if self.telemetry is not None:
                self.telemetry.totals.add(row for row in left.values() if isinstance(row, Measurement))
        self.folder.offsets = self.outbox.state("marks") or {}
        saved = self.outbox.state("resume") or {}
        self._left_edge, self._left_boot = saved.get("edge", 0), saved.get("boot_id", "")
        same_boot = self._left_boot == self.boot_id
        unended = [run for wire in self.outbox.state("runs") or () if isinstance(run := from_wire(wire), Run)]
        for run in unended:
            state = RunState(run, changed=False)
            state.interrupt("the agent was gone for a part of it")
            self.book.runs[run.run_id] = state
        if same_boot and saved["edge"] < now:
            edges = saved.get("edges", {})
            for device_id, raw in saved["raw"].items():
                history = self.devices.get(device_id)
                if history is not None and history.device.method is Method.COUNTER:
                    reading = Reading(device_id, edges.get(device_id, saved["edge"]), energy_microjoules=raw)
                    history.resume(reading, now)
            for device_id, left_state in saved.get("nodes", {}).items():
                if device_id in self.nodes:
                    self.nodes[device_id].resume(left_state, now)
            for device_id, edge in edges.items():
                history = self.devices.get(device_id)
                if history is not None and (told := history.whole or history).last is None:
                    told.left_ns = edge
            if any(history.unread for history in self.devices.values()):
                self.edge = saved["edge"]
                self._left_cpu = saved.get("cpu", {})  # a state of an older version holds none
                if "machine_cpu" in saved:
                    self.processes.machine.add(saved["edge"], saved["machine_cpu"])
        self.read_logs()
        self._bury_leftovers(unended)

    def _bury_leftovers(self, runs: Sequence[Run]) -> None:
        """Runs of which no marks file is left can never end by themselves: they were interrupted."""
        for run in runs:
            state = self.book.runs[run.run_id]
            if state.open and not state.holders:
                state.died = True
                edge = self._left_edge if run.boot_id == self._left_boot else 0
                ended_ns = max(run.started_ns + 1, edge)
                ended_us = run.started_at_us + (ended_ns - run.started_ns) // NS_PER_US
                self.book.runs[run.run_id].holders.add("")
                self.book.died("", ended_ns, ended_us)

    def _forget(self, now: int) -> None:
        recent = now - self.settings.grace_ns - 2 * SPAN_SECONDS * NS_PER_SECOND
        for history in self.devices.values():
            history.forget(min(recent, history.edge))
        for node in self.nodes.values():
            node.whole.forget(min(recent, node.left.edge))
        old = now - REMEMBER_NS
        self.processes.machine.forget(old)
        self.processes.group.forget(old)
        for actor in self.processes.actors.values():
            actor.cpu.forget(old)
        self.gpu_use.forget(old)
        for file in self.folder.files.values():
            file.timeline.forget(old)
        while self._final and self._final[0][1].ended_ns < old:
            self._final.popleft()
        self.book.forget(old, {file.run_id for file in self.folder.files.values()})

    def tidy(self, now: int, *, everything: bool = False) -> None:
        """Remove the files of processes that left, once marks and logs are durable and their grace is over."""
        for key, file in list(self.folder.files.items()):
            over = file.last_ns + self.settings.grace_ns < now or everything
            done = not file.timeline.open and file.whole and over and not self._needed(file, now)
            if done:
                if file.timeline.times and file.boot_id == self.boot_id:
                    self._let_go_ns = max(self._let_go_ns, file.timeline.times[-1])
                self.folder.remove(key)
                self.processes.drop_actor(key)
                self.folder.offsets.pop(key, None)
                self.folder.offsets.pop(file.log_key, None)
                self._reserved.pop(key, None)

    def _needed(self, file: MarksFile, now: int) -> bool:
        """Whether spans that the process was in may still be bound anew, or are not yet."""
        if not file.timeline.times or file.last_ns + REMEMBER_NS < now:
            return False
        last = file.timeline.times[-1]
        behind = any(history.edge < last and history.history.last_time for history in self.devices.values())
        return behind or any(closed.start < last for closed in self._open)

    def publish(self, now: int, shipping: ShippingState | None) -> None:
        """A snapshot for the exporters."""
        if self.telemetry is None:
            return
        from joulebook.snapshot import DeviceState, OutboxState  # an agent without exporters does without them

        self.digest()
        devices = tuple(
            DeviceState(
                h.device.device_id, h.device.component, h.device.method, h.meter,
                h.total_microjoules, h.history.last_time, h.device.step_ns, h.breaks,
            )
            for h in self.devices.values()
        )  # fmt: skip
        status = self._outbox_status or self.outbox.status()
        self._outbox_status = status
        outbox = OutboxState(
            status.waiting_rows, status.bytes_on_disk, status.oldest_us, self.lost_rows, status.merged_spans,
            status.refused_rows, len(status.set_aside), self.writable,
        )  # fmt: skip
        self.telemetry.publish(now, devices, outbox, len(self.book.open_ids()), shipping)


def _keyed(rows: Sequence[Measurement]) -> dict[str, Measurement]:
    """Rows by their key in the outbox, which sorts by time."""
    return {f"{row.started_ns:020d}/{row.device_id}": row for row in rows}


def _minutes(start: int, end: int, clocks: Offset) -> list[int]:
    """The whole minutes of UTC strictly inside a span: none is ever crossed, and so no hour."""
    return [
        t
        for us in grid_cuts(clocks.utc_us(start) + EDGE_JITTER_US, clocks.utc_us(end) - EDGE_JITTER_US, MINUTE_US)
        if start < (t := clocks.boot_ns(us)) < end
    ]
