"""Runs as their marks tell them: who joined, who left and how, and what that makes of the run. No clock, no files."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from joulebook.errors import BadInput
from joulebook.marks import Line
from joulebook.rows import MAX_TEXT, Labels, Mark, Run, Status, labels_from_wire
from joulebook.units import NS_PER_US

UNREADABLE: Final = "has unreadable lines"
"""Part of the note of a run whose marks file is damaged; reports fail on it after they have printed."""
RECORDED: Final = ("python", "cwd", "world_size", "nodes")
"""What of a join line a run's record keeps."""
LOST: Final = "a process of it was killed or lost before it ended"


@dataclass(slots=True)
class RunState:
    """One run and the processes in it.

    holders: marks files whose process is in the run now.  launchers: those of ``joulebook run``, of which each node
    of a job may have one; their word on the outcome is final (judged).  provisional: its start is not known yet.
    restart: how often the job's launcher has started it again.  former: processes of an earlier start, whose end
    does not count.  unmetered: no agent was there for a part of it.
    """

    run: Run
    holders: set[str] = field(default_factory=set)
    launchers: set[str] = field(default_factory=set)
    judged: bool = False
    provisional: bool = False
    restart: int = 0
    former: set[str] = field(default_factory=set)
    failed: bool = False
    died: bool = False
    unmetered: bool = False
    changed: bool = True

    @property
    def open(self) -> bool:
        """True until the run has ended."""
        return self.run.status is Status.RUNNING

    def start_anew(self, restart: int) -> None:
        """The launcher has started the job again: its outcome is that of the processes from here on."""
        self.former |= self.holders
        self.failed = self.died = False
        if not self.unmetered:
            self.run = replace(self.run, reason="")
        self.note(f"started again by its launcher ({restart})")

    def note(self, text: str) -> None:
        """Add a label that reports carry on."""
        if text not in self.run.notes:
            self.run = replace(self.run, notes=(*self.run.notes, text))
            self.changed = True

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
                counts = key in state.launchers if state.launchers else key not in state.former
                state.judged |= key in state.launchers
                if lost and counts:
                    state.died = True
                    state.run = replace(state.run, reason=state.run.reason or LOST)
                self._drop(state, key, at_ns, at_us)

    def open_ids(self) -> list[str]:
        """Ids of the runs that have not ended."""
        return [run_id for run_id, state in self.runs.items() if state.open]

    def any_open(self) -> bool:
        """Whether a run has not ended."""
        return any(state.open for state in self.runs.values())

    def forget(self, before_ns: int, kept: Collection[str]) -> None:
        """Drop what ended before a CLOCK_BOOTTIME instant, is written, and is none of ``kept``."""
        over = [
            run_id
            for run_id, state in self.runs.items()
            if not state.open and not state.changed and (state.run.ended_ns or 0) < before_ns and run_id not in kept
        ]
        for run_id in over:
            del self.runs[run_id]

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
            self.runs[run_id] = RunState(self.ended.pop(run_id))
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
                command=tuple(str(word) for word in values.get("argv") or ()),
                record={name: values[name] for name in RECORDED if values.get(name) is not None},
            )
            state = self.runs[run_id] = RunState(run, provisional=True)
        elif not state.open and state.judged and role != "launcher":
            return  # a process that the job left behind
        elif not state.open:
            self._reopen(state, line)
        restart = values.get("restart")
        if isinstance(restart, int) and restart > state.restart:
            if not state.provisional:
                state.start_anew(restart)
            state.restart = restart
        state.run = replace(state.run, labels=merged(state.run.labels, told))
        if values.get("note"):
            state.note(str(values["note"])[:256])
        state.holders.add(key)
        state.former.discard(key)
        state.changed = True
        if role == "launcher":
            state.launchers.add(key)
            state.judged = False
        else:
            _begin(state, line)

    def _reopen(self, state: RunState, line: Line) -> None:
        """A later process of the same run: the run goes on, and its outcome is the later one's."""
        seconds = max(0, line.at_us - (state.run.ended_at_us or line.at_us)) / 1e6
        state.failed = state.died = state.judged = False
        state.launchers.clear()
        run = state.run
        if run.boot_id != self.boot_id:  # the machine was booted meanwhile: the run's start, on this boot's clock
            run = replace(
                run, boot_id=self.boot_id, started_ns=line.at_ns - (line.at_us - run.started_at_us) * NS_PER_US
            )
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
        if (
            key in state.launchers and not state.judged
        ):  # what its processes said of themselves is the launcher's to judge
            state.judged, state.failed, state.died = True, False, False
        if key in state.launchers or not state.launchers:
            state.failed |= status == Status.FAILED
            state.died |= status == Status.INTERRUPTED
        if values.get("reason") and not state.run.reason:
            state.run = replace(state.run, reason=str(values["reason"])[:256])
        if key in state.launchers:
            state.run = replace(state.run, exit_code=max(state.run.exit_code or 0, values.get("exit_code") or 0))
        self._drop(state, key, line.at_ns, line.at_us)

    def _drop(self, state: RunState, key: str, at_ns: int, at_us: int) -> None:
        state.holders.discard(key)
        state.changed = True
        left = state.launchers & state.holders if state.launchers else state.holders
        if state.open and not left:
            interrupted = state.died or state.unmetered
            status = Status.INTERRUPTED if interrupted else Status.FAILED if state.failed else Status.OK
            ended_ns = max(at_ns, state.run.started_ns + 1)
            ended_us = max(at_us, state.run.started_at_us)
            state.run = replace(state.run, status=status, ended_ns=ended_ns, ended_at_us=ended_us)


def _begin(state: RunState, line: Line) -> None:
    """The run begins with its first process's work, whichever is read first; a launcher's own start-up is before it."""
    if state.provisional or line.at_ns < state.run.started_ns:
        state.run = replace(state.run, started_at_us=line.at_us, started_ns=line.at_ns)
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


def mark_row(line: Line, run_id: str, machine_id: str, boot_id: str, pid: int, rank: int | None) -> Mark | None:
    """A marks line as a ledger row, None when its values break a mark's rules."""
    values = line.values
    quality = values.get("quality") or {}
    if not isinstance(quality, Mapping) or not all(isinstance(v, int | float) for v in quality.values()):
        return None
    counts = [values.get(name) for name in ("samples", "flops", "step")]
    if not all(count is None or isinstance(count, int | float) for count in counts):
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
