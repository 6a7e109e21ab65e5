"""A provider's rate limit, obeyed by all processes of a home together: a token bucket in a locked file."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joulebook_collector.grid import Rate
from joulebook_collector.grid.waits import Waits


@dataclass(frozen=True, slots=True)
class Bucket:
    """Takes a token for every request, and sleeps until it is there.

    The burst is a tenth of the rate and refills with the rest of it, so no window of ``per_seconds`` sees more
    requests than allowed, whatever came before.
    """

    path: Path
    rate: Rate
    waits: Waits

    def take(self) -> None:
        """Wait for a token. A token is reserved before the wait, so processes queue in order."""
        with self._state() as state:
            now = self.waits.now()
            burst = max(1, self.rate.requests // 10)
            per_second = max(1, self.rate.requests - burst) / self.rate.per_seconds
            since = max(0.0, now - min(now, state["at"]))  # a clock that was set back refills nothing
            tokens = min(burst, state["tokens"] + since * per_second) - 1
            state.update(tokens=tokens, at=now)
            wait = max(0.0, -tokens / per_second, state["not_before"] - now)
        if wait:
            self.waits.sleep(wait)

    def hold(self, seconds: float) -> None:
        """Let nobody ask for so long: the provider said so."""
        with self._state() as state:
            state["not_before"] = max(state["not_before"], self.waits.now() + seconds)

    @contextmanager
    def _state(self) -> Iterator[dict[str, float]]:
        """What the file holds, written back at the end, under its lock."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "r+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            state = _read(file.read(), self.waits.now(), max(1, self.rate.requests // 10))
            yield state
            file.seek(0)
            file.truncate()
            json.dump(state, file)


def _read(text: str, now: float, burst: int) -> dict[str, float]:
    """The state; a full bucket where there is none yet, an empty one where it cannot be read."""
    if not text:
        return {"tokens": float(burst), "at": now, "not_before": 0.0}
    try:
        found: Any = json.loads(text)
        return {name: float(found[name]) for name in ("tokens", "at", "not_before")}
    except (ValueError, TypeError, KeyError):
        return {"tokens": 0.0, "at": now, "not_before": 0.0}
