"""Where state lives: one documented directory, JOULEBOOK_HOME (docs/reference/home.md)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from joulebook.errors import JoulebookError


@dataclass(frozen=True, slots=True)
class Home:
    """The directory and the places in it."""

    root: Path

    @property
    def marks(self) -> Path:
        """Marks files, one per process: the SDK appends, the agent reads."""
        return self.root / "marks"

    @property
    def outboxes(self) -> Path:
        """Durable queues of rows, one per agent."""
        return self.root / "outbox"

    @property
    def agents(self) -> Path:
        """Lease, status and log of each machine's agent."""
        return self.root / "agents"

    @property
    def ledger(self) -> Path:
        """The embedded ledger."""
        return self.root / "ledger.duckdb"

    def make(self) -> Home:
        """The same home, its directories made, readable by their owner only."""
        try:
            for place in (self.root, self.marks, self.outboxes, self.agents):
                place.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise JoulebookError(
                f"cannot make {self.root}: {error.strerror}", "set JOULEBOOK_HOME to a directory that you may write"
            ) from error
        return self


def find_home() -> Home:
    """JOULEBOOK_HOME, else joulebook under XDG_STATE_HOME, else ~/.local/state/joulebook."""
    named = os.environ.get("JOULEBOOK_HOME")
    if named:
        return Home(Path(named).absolute())
    state = os.environ.get("XDG_STATE_HOME")
    base = Path(state) if state else Path.home() / ".local" / "state"
    return Home(base / "joulebook")
