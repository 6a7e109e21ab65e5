"""One process's marks, as an agent follows them: who the process is, what it was in when, and what it logged."""

from __future__ import annotations

from dataclasses import dataclass, field

from joulebook.marks import Line, MarksReader
from joulebook.timeline import Timeline


@dataclass(slots=True)
class MarksFile:
    """One process's marks. key: the file's name.  pid: its number here, 0 when it is not to be seen from here.

    logs: its log file, None while none was seen.  whole: all that it logged was read after it was in no run any more.
    speakers: ids of the users who may write for it in a shared folder, beside root.  pidfd: readable once the process
    is gone, -1 when not held.  seen_alive: this agent saw the process live, so that it knows when it went.
    """

    key: str
    reader: MarksReader
    logs: MarksReader | None = None
    whole: bool = False
    speakers: set[int] = field(default_factory=set)
    timeline: Timeline = field(default_factory=Timeline)
    run_id: str = ""
    pid: int = 0
    pid_namespace: int | None = None
    rank: int | None = None
    role: str = ""
    joined: bool = False
    machine_id: str = ""
    boot_id: str = ""
    pidfd: int = -1
    started_ticks: int | None = None
    gone: bool = False
    seen_alive: bool = False
    last_ns: int = 0
    last_us: int = 0

    @property
    def log_key(self) -> str:
        """What messages call its log file, and the outbox the place in it."""
        return f"logs/{self.key}"

    @property
    def readers(self) -> list[MarksReader]:
        """Its files."""
        return [self.reader] if self.logs is None else [self.reader, self.logs]

    @property
    def launcher(self) -> bool:
        """True for ``joulebook run``, which waits for the job and is not it."""
        return self.role == "launcher"

    @property
    def leaves(self) -> bool:
        """True for a process that says when it leaves; one that only marks phases just ends."""
        return self.role in ("launcher", "track")

    def read(self) -> list[Line]:
        """What is new, the timeline brought up to it. Raises OSError on what never was a marks file."""
        try:
            fresh = list(self.reader.read(final=self.gone))
        except OSError as error:
            if not self.run_id:
                raise
            self.reader.refuse(error, final=self.gone)
            return []
        lines = []
        for line in fresh:
            if line.kind == "join":
                if line.values.get("again") and self.joined:
                    continue  # said twice, and understood the first time
                self._introduce(line)
            lines.append(line)
        for line in lines:
            self.timeline.take(line)
            self._see(line)
        return lines

    def read_logs(self, until_ns: int | None = None) -> list[Line]:
        """What it has logged since, up to an instant on CLOCK_BOOTTIME; None: it logs no more."""
        lines: list[Line] = []
        logs = self.logs
        if logs is None:
            return lines
        try:
            for line in logs.read(final=until_ns is None, until_ns=until_ns):
                if line.kind == "log":
                    lines.append(line)
                    self._see(line)
                else:
                    logs.corrupt.append(logs.line_number)
        except OSError as error:
            logs.refuse(error, final=until_ns is None)
        return lines

    def _see(self, line: Line) -> None:
        """A sign of life."""
        self.last_ns, self.last_us = max(self.last_ns, line.at_ns), max(self.last_us, line.at_us)

    def _introduce(self, line: Line) -> None:
        """The first join says who the process is; a later track of the same run, that it will say when it leaves."""
        values = line.values
        if self.joined:
            if values.get("run") == self.run_id and values.get("role"):
                self.role = str(values["role"])
            return
        self.joined = True
        self.run_id = str(values.get("run", ""))
        self.pid = _whole(values.get("pid")) or 0
        self.pid_namespace = _whole(values.get("pid_ns"))
        self.started_ticks = _whole(values.get("started_ticks"))
        self.rank = _whole(values.get("rank"))
        self.role = str(values.get("role", ""))
        self.machine_id, self.boot_id = str(values.get("machine", "")), str(values.get("boot", ""))


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
