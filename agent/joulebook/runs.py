"""Runs as their marks tell them: who joined, who left and how, and what that makes of the run. No clock, no files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from joulebook.errors import BadInput
from joulebook.marks import Line
from joulebook.rows import MAX_TEXT, Labels, Mark, Run, Status, labels_from_wire

UNREADABLE: Final = "has unreadable lines"
"""Part of the note of a run whose marks file is damaged; reports fail on it after they have printed."""
LOST: Final = "a process of it was killed or lost before it ended"


@dataclass(slots=True)
class RunState:
    """One run and the processes in it.

    holders: marks files whose process is in the run now.  launcher: the file of ``joulebook run``, if any;
    its word on the outcome is final.  unmetered: no agent was there for a part of it.
    """

    run: Run
    holders: set[str] = field(default_factory=set)
    launcher: str | None = None
    launcher_left: bool = False
    failed: bool = False
    died: bool = False
    unmetered: bool = False
    changed: bool = True

    @property
    def open(self) -> bool:
        """True until the run has ended."""
        return self.run.status is Status.RUNNING

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
    """All runs that the agent knows of, by id."""

    machine_id: str
    boot_id: str
    runs: dict[str, RunState] = field(default_factory=dict)

    def take(self, key: str, line: Line) -> None:
        """Follow one mark of one marks file."""
        values = line.values
        if line.kind == "join":
            self._join(key, line)
        elif line.kind == "start":
            state = self.runs.get(str(values.get("run")))
            if state is not None:
                state.run = replace(state.run, started_at_us=line.at_us, started_ns=line.at_ns)
                state.changed = True
        elif line.kind == "leave":
            self._leave(key, line)

    def died(self, key: str, at_ns: int, at_us: int, *, lost: bool = True) -> None:
        """The process behind a marks file is gone without leaving. lost: it had said that it would leave."""
        for state in self.runs.values():
            if key in state.holders:
                if lost and (state.launcher is None or key == state.launcher):
                    state.died = True
                    state.run = replace(state.run, reason=state.run.reason or LOST)
                self._drop(state, key, at_ns, at_us)

    def open_ids(self) -> list[str]:
        """Ids of the runs that have not ended."""
        return [run_id for run_id, state in self.runs.items() if state.open]

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
                record={"python": values.get("python"), "cwd": values.get("cwd")},
            )
            state = self.runs[run_id] = RunState(run)
        elif not state.open and not state.launcher_left:
            state.run = replace(state.run, status=Status.RUNNING, ended_at_us=None, ended_ns=None)
        elif not state.open:
            return
        state.run = replace(state.run, labels=merged(state.run.labels, told))
        state.holders.add(key)
        state.changed = True
        if values.get("role") == "launcher":
            state.launcher = key

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
        state.failed |= status == Status.FAILED
        state.died |= status == Status.INTERRUPTED
        if values.get("reason") and not state.run.reason:
            state.run = replace(state.run, reason=str(values["reason"])[:256])
        if key == state.launcher:
            state.launcher_left = True
            state.run = replace(state.run, exit_code=values.get("exit_code"))
            state.failed, state.died = status == Status.FAILED, status == Status.INTERRUPTED
        self._drop(state, key, line.at_ns, line.at_us)

    def _drop(self, state: RunState, key: str, at_ns: int, at_us: int) -> None:
        state.holders.discard(key)
        state.changed = True
        if state.open and (state.launcher_left or not state.holders):
            interrupted = state.died or state.unmetered
            status = Status.INTERRUPTED if interrupted else Status.FAILED if state.failed else Status.OK
            ended_ns = max(at_ns, state.run.started_ns + 1)
            ended_us = max(at_us, state.run.started_at_us)
            state.run = replace(state.run, status=status, ended_ns=ended_ns, ended_at_us=ended_us)


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
