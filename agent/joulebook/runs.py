"""Runs as their marks tell them: who joined, who left and how, and what that makes of the run. No clock, no files."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from joulebook.errors import BadInput
from joulebook.marks import LARGEST, Line
from joulebook.rows import MAX_TEXT, UNREAD, Labels, Mark, Run, Status, labels_from_wire
from joulebook.units import NS_PER_US

UNREADABLE: Final = "has unreadable lines"
"""Part of the note of a run whose marks file is damaged; reports fail on it after they have printed."""
RECORDED: Final = ("python", "cwd", "world_size", "nodes")
"""What of a join line a run's record keeps."""
REMEMBERED_RUNS: Final = 100
"""How many ended runs are known, in case a later process goes on with one."""
STARTED_AGAIN: Final = "started again by its launcher ({})"
LOST: Final = "a process of it was killed or lost before it ended"


@dataclass(slots=True)
class RunState:
    """One run and the processes in it.

    holders: marks files whose process is in the run now.  launchers: those of ``joulebook run``, of which each node
    of a job may have one; their word on the outcome is final (judged).  provisional: its start is not known yet.
    restart: how often the job's launcher has started it again.  former: processes of an earlier start, whose end
    does not count.  left_ns, left_us: when the last process that decides left, so far.  unmetered: no agent was there
    for a part of it.  unread_told: it says which devices told nothing up to its end.
    """

    run: Run
    holders: set[str] = field(default_factory=set)
    launchers: set[str] = field(default_factory=set)
    judged: bool = False
    provisional: bool = False
    restart: int = 0
    former: set[str] = field(default_factory=set)
    left_ns: int = 0
    left_us: int = 0
    failed: bool = False
    died: bool = False
    unmetered: bool = False
    unread_told: bool = False
    changed: bool = True

    @property
    def open(self) -> bool:
        """True until the run has ended."""
        return self.run.status is Status.RUNNING

    def decides(self, key: str) -> bool:
        """True for a process whose end says how the run ended."""
        return key in self.launchers if self.launchers else key not in self.former

    def start_anew(self, restart: int) -> None:
        """The launcher has started the job again: its outcome is that of the processes from here on."""
        self.former |= self.holders
        self.failed = self.died = False
        if not self.unmetered:
            self.run = replace(self.run, reason="")
        self.note(STARTED_AGAIN.format(restart))

    def note(self, text: str) -> None:
        """Add a label that reports carry on."""
        if text not in self.run.notes:
            self.run = replace(self.run, notes=(*self.run.notes, text))
            self.changed = True

    def see_gpus(self, visible: Sequence[str]) -> None:
        """Its processes may use these GPUs too, which are known only now."""
        known = self.run.record.get("visible_gpus", ())
        self.run = replace(self.run, record={**self.run.record, "visible_gpus": [*dict.fromkeys([*known, *visible])]})
        self.changed = True

    def leave_unread(self, unread_ns: Mapping[str, int]) -> None:
        """Of which devices nothing was read before the run's end, and for how many nanoseconds each."""
        if unread_ns:  # a run that is resumed keeps what was said at an earlier end, as its notes do
            told = {**self.run.record.get(UNREAD, {}), **unread_ns}
            self.run = replace(self.run, record={**self.run.record, UNREAD: told})
            self.changed = True
        self.unread_told = True

    def interrupt(self, reason: str) -> None:
        """The metering was interrupted: the run's status will say so, whatever becomes of it."""
        self.unmetered = True
        self.run = replace(self.run, reason=reason)
        self.changed = True


@dataclass(slots=True)
class RunBook:
    """All runs that the agent knows of, by id. ended: runs of earlier agents, that a later process may resume."""

    machine_id: str
    boot_id: str
    runs: dict[str, RunState] = field(default_factory=dict)
    ended: dict[str, Run] = field(default_factory=dict)

    def take(self, key: str, line: Line) -> None:
        """Follow one mark of one marks file."""
        values = line.values
        if line.kind == "join":
            self._join(key, line)
        elif line.kind == "start":
            state = self.runs.get(str(values.get("run")))
            if state is not None:
                _begin(state, line)
        elif line.kind == "leave":
            self._leave(key, line)

    def died(self, key: str, at_ns: int, at_us: int, *, lost: bool = True) -> None:
        """The process behind a marks file is gone without leaving. lost: it had said that it would leave."""
        for state in self.runs.values():
            if key in state.holders:
                state.judged |= key in state.launchers
                if lost and state.decides(key):
                    state.died = True
                    state.run = replace(state.run, reason=state.run.reason or LOST)
                self._drop(state, key, at_ns, at_us)

    def holds(self, key: str) -> bool:
        """Whether the process behind a marks file is in a run."""
        return any(key in state.holders for state in self.runs.values())

    def open_ids(self) -> list[str]:
        """Ids of the runs that have not ended."""
        return [run_id for run_id, state in self.runs.items() if state.open]

    def any_open(self) -> bool:
        """Whether a run has not ended."""
        return any(state.open for state in self.runs.values())

    def forget(self, before_ns: int, kept: Collection[str]) -> None:
        """Drop what ended before a CLOCK_BOOTTIME instant, is written, and is none of ``kept``.

        The last of them stay in ``ended``, in case a later process goes on with one.
        """
        over = [
            run_id
            for run_id, state in self.runs.items()
            if not state.open and not state.changed and (state.run.ended_ns or 0) < before_ns and run_id not in kept
        ]
        for run_id in over:
            self.ended[run_id] = self.runs.pop(run_id).run
        while len(self.ended) > REMEMBERED_RUNS:
            del self.ended[next(iter(self.ended))]

    def root_of(self, run_id: str) -> str:
        """The outermost open run that a run is nested in."""
        seen: set[str] = set()
        while (state := self.runs.get(run_id)) is not None and run_id not in seen:
            seen.add(run_id)
            parent = self.runs.get(state.run.labels.parent_run_id)
            if parent is None or not parent.open:
                break
            run_id = parent.run.run_id
        return run_id

    def _join(self, key: str, line: Line) -> None:
        values = line.values
        run_id = str(values.get("run", ""))
        if not 0 < len(run_id) <= MAX_TEXT:
            return
        labels = values.get("labels")
        told = dict(labels) if isinstance(labels, Mapping) else {}
        if values.get("parent"):
            told["parent_run_id"] = str(values["parent"])
        role = values.get("role")
        if run_id not in self.runs and run_id in self.ended:
            self.runs[run_id] = _ended(self.ended.pop(run_id))
        state = self.runs.get(run_id)
        if state is None:
            run = Run(
                run_id=run_id,
                machine_id=self.machine_id,
                boot_id=str(values.get("boot") or self.boot_id),
                status=Status.RUNNING,
                started_at_us=line.at_us,
                started_ns=line.at_ns,
                labels=Labels(),
                command=tuple(str(word) for word in argv) if isinstance(argv := values.get("argv"), list) else (),
                record={name: values[name] for name in RECORDED if values.get(name) is not None},
            )
            state = self.runs[run_id] = RunState(run, provisional=True)
        within = state.run.boot_id == self.boot_id and line.at_ns <= state.left_ns  # it is only read late
        if not state.open and state.judged and role != "launcher" and not within:
            return  # a process that the job left behind
        state.run = replace(state.run, labels=merged(state.run.labels, told))
        state.changed = True
        if values.get("note"):
            state.note(str(values["note"])[:256])
        if not state.open and state.judged and role != "launcher":
            _begin(state, line)
            return  # the launcher has said how the run ended
        if not state.open and within:
            state.run = replace(state.run, status=Status.RUNNING, ended_at_us=None, ended_ns=None)
        elif not state.open:
            self._reopen(state, line)
        self._count_start(state, key, values.get("restart"))
        state.holders.add(key)
        if role == "launcher":
            state.launchers.add(key)
        else:
            _begin(state, line)

    def _count_start(self, state: RunState, key: str, restart: object) -> None:
        """Which start of the job the process is of; those of earlier ones, even if read later, decide nothing."""
        if not isinstance(restart, int):
            return
        if restart > state.restart:
            if not state.provisional:
                state.start_anew(restart)
            state.restart = restart
        elif restart < state.restart:
            state.former.add(key)
            state.note(STARTED_AGAIN.format(state.restart))

    def _reopen(self, state: RunState, line: Line) -> None:
        """A later process of the same run: the run goes on, and its outcome is the later one's."""
        seconds = max(0, line.at_us - (state.run.ended_at_us or line.at_us)) / 1e6
        state.failed = state.died = state.judged = False
        state.launchers.clear()
        state.former.clear()
        run = state.run
        if run.boot_id != self.boot_id:  # the machine was booted meanwhile: the run's start, on this boot's clock
            run = replace(
                run, boot_id=self.boot_id, started_ns=line.at_ns - (line.at_us - run.started_at_us) * NS_PER_US
            )
            state.left_ns = state.left_us = 0
        reason = run.reason if state.unmetered else ""
        state.run = replace(run, status=Status.RUNNING, ended_at_us=None, ended_ns=None, exit_code=None, reason=reason)
        state.note(f"resumed after {seconds:.0f} s")

    def _leave(self, key: str, line: Line) -> None:
        values = line.values
        state = self.runs.get(str(values.get("run")))
        if state is None or key not in state.holders:
            return
        if isinstance(values.get("packages"), Mapping):
            record = {**state.run.record, "packages": dict(values["packages"])}
            state.run = replace(state.run, record=record)
        if values.get("lost"):
            state.note(f"{values['lost']} marks could not be written")
        status = values.get("status")
        if key in state.launchers and not state.judged:  # it judges what its processes said of themselves
            state.judged, state.failed, state.died = True, False, False
        if state.decides(key):
            state.failed |= status == Status.FAILED
            state.died |= status == Status.INTERRUPTED
        if values.get("reason") and not state.run.reason and key not in state.former:
            state.run = replace(state.run, reason=str(values["reason"])[:256])
        if key in state.launchers:
            state.run = replace(state.run, exit_code=max(state.run.exit_code or 0, values.get("exit_code") or 0))
        self._drop(state, key, line.at_ns, line.at_us)

    def _drop(self, state: RunState, key: str, at_ns: int, at_us: int) -> None:
        state.holders.discard(key)
        state.changed = True
        if state.decides(key) and at_ns > state.left_ns:
            state.left_ns, state.left_us = at_ns, at_us
        left = state.launchers & state.holders if state.launchers else state.holders
        if state.open and not left:
            state.unread_told = False
            interrupted = state.died or state.unmetered
            status = Status.INTERRUPTED if interrupted else Status.FAILED if state.failed else Status.OK
            ended_ns = max(state.left_ns, state.run.started_ns + 1)
            ended_us = max(state.left_us, state.run.started_at_us)
            state.run = replace(state.run, status=status, ended_ns=ended_ns, ended_at_us=ended_us)


def _ended(run: Run) -> RunState:
    """The state of a run that an earlier agent saw end."""
    return RunState(run, left_ns=run.ended_ns or 0, left_us=run.ended_at_us or 0, unread_told=True)


def _begin(state: RunState, line: Line) -> None:
    """The run begins with its first process's work, whichever is read first; a launcher's own start-up is before it."""
    if state.provisional or line.at_ns < state.run.started_ns:
        ended_us, ended_ns = state.run.ended_at_us, state.run.ended_ns
        state.run = replace(
            state.run,
            started_at_us=line.at_us,
            started_ns=line.at_ns,
            # UTC may have been set back since.
            ended_at_us=None if ended_us is None else max(ended_us, line.at_us),
            ended_ns=None if ended_ns is None else max(ended_ns, line.at_ns + 1),
        )
        state.provisional, state.changed = False, True


def merged(labels: Labels, told: Mapping[str, Any]) -> Labels:
    """Labels with what one more process told of them: its words where there were none."""
    try:
        new = labels_from_wire(told)
    except (TypeError, ValueError, KeyError, BadInput):
        return labels
    empty = Labels()
    changes = {
        name: getattr(new, name)
        for name in Labels.__dataclass_fields__
        if getattr(new, name) != getattr(empty, name) and getattr(labels, name) == getattr(empty, name)
    }
    return replace(labels, **changes)


def _is_number(value: object) -> bool:
    """True for what a row can hold; a mark's floats are finite."""
    return isinstance(value, float) or (isinstance(value, int) and -LARGEST <= value <= LARGEST)


def mark_row(line: Line, run_id: str, machine_id: str, boot_id: str, pid: int, rank: int | None) -> Mark | None:
    """A marks line as a ledger row, None when its values break a mark's rules."""
    values = line.values
    quality = values.get("quality") or {}
    if not isinstance(quality, Mapping) or not all(map(_is_number, quality.values())):
        return None
    counts = [values.get(name) for name in ("samples", "flops", "step")]
    if not all(count is None or _is_number(count) for count in counts):
        return None
    return Mark(
        run_id=run_id,
        machine_id=machine_id,
        boot_id=boot_id,
        pid=pid,
        kind=line.kind,
        at_us=line.at_us,
        at_ns=line.at_ns,
        cpu_ns=line.cpu_ns,
        n=line.n,
        phase=str(values.get("phase", "")),
        member=values.get("member"),
        rank=rank,
        samples=values.get("samples"),
        flops=values.get("flops"),
        step=values.get("step"),
        split=str(values.get("split", "")),
        quality={str(k): float(v) for k, v in quality.items()},
        synced=values.get("synced", True) is not False,
    )
