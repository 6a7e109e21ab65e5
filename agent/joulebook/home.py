"""Where state lives: one documented directory, JOULEBOOK_HOME (docs/reference/home.md)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from joulebook.errors import JoulebookError


@dataclass(frozen=True, slots=True)
class Home:
    """The directory and the places in it. shared: a folder of marks elsewhere, that other homes' agents read too."""

    root: Path
    shared: Path | None = None

    @property
    def marks(self) -> Path:
        """Marks files, one per process: the SDK appends, the agent reads."""
        return self.shared or self.root / "marks"

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
    def ledger(self) -> Path:
        """The embedded ledger."""
        return self.root / "ledger.duckdb"

    def make(self) -> Home:
        """The same home, its directories made, readable by their owner only."""
        try:
            for place in (self.root, self.outboxes, self.logs):
                place.mkdir(mode=0o700, parents=True, exist_ok=True)
            for place in (self.marks, self.agents):
                if self.shared is None:
                    place.mkdir(mode=0o700, exist_ok=True)
                elif not place.is_dir():  # like /tmp: trainers in other containers are other users
                    place.mkdir(parents=True)
                    place.chmod(0o1777)
        except OSError as error:
            where = error.filename or self.root
            raise JoulebookError(
                f"cannot make {where}: {error.strerror}", f"set {self._variable(where)} to a directory that you may write"
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
