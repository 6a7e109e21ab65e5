"""Where state lives: one documented directory, JOULEBOOK_HOME (docs/reference/home.md)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from joulebook.errors import JoulebookError


class Home(NamedTuple):
    """The directory and the places in it. shared: a folder of marks elsewhere, that other homes' agents read too."""

    root: Path
    shared: Path | None = None

    @property
    def marks(self) -> Path:
        """Marks files, one per process: the SDK appends, the agent reads."""
        return self.shared or self.root / "marks"

    @property
    def mark_logs(self) -> Path:
        """What processes log, one file each: beside their marks, where writing wakes no agent."""
        return self.marks / "logs"

    @property
    def outboxes(self) -> Path:
        """Durable queues of rows, one per agent."""
        return self.root / "outbox"

    @property
    def agents(self) -> Path:
        """Lease and status of each machine's agent: with the marks that it reads."""
        return self.shared / "agents" if self.shared else self.logs

    @property
    def logs(self) -> Path:
        """Messages of agents that were started for a run."""
        return self.root / "agents"

    @property
    def cache(self) -> Path:
        """What can be fetched again: answers of grid providers, and how often they were asked."""
        return self.root / "cache"

    @property
    def ledger(self) -> Path:
        """The embedded ledger."""
        return self.root / "ledger.duckdb"

    def make(self) -> Home:
        """The same home, its directories made, readable by their owner only; a shared folder as /tmp is."""
        variable = "JOULEBOOK_HOME"
        try:
            for place in (self.root, self.outboxes, self.logs):
                place.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.shared is None:
                for place in (self.marks, self.mark_logs):
                    place.mkdir(mode=0o700, exist_ok=True)
            else:
                variable = "JOULEBOOK_MARKS"
                for place in (self.marks, self.mark_logs, self.agents):
                    _make_shared(place)
        except OSError as error:
            raise JoulebookError(
                f"cannot make {error.filename or self.root}: {error.strerror}",
                f"set {variable} to a directory that you may write",
            ) from error
        return self


def _make_shared(place: Path) -> None:
    try:
        place.mkdir(parents=True)
    except FileExistsError:
        return
    place.chmod(0o1777)


def find_home() -> Home:
    """JOULEBOOK_HOME, else joulebook under XDG_STATE_HOME, else ~/.local/state/joulebook; marks in JOULEBOOK_MARKS."""
    marks = os.environ.get("JOULEBOOK_MARKS")
    shared = Path(marks).absolute() if marks else None
    named = os.environ.get("JOULEBOOK_HOME")
    if named:
        return Home(Path(named).absolute(), shared)
    state = os.environ.get("XDG_STATE_HOME")
    base = Path(state) if state else Path.home() / ".local" / "state"
    return Home(base / "joulebook", shared)
