"""Refusals of access go to the audit log, but no flood of them fills the disk."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from joulebook_collector.service.access import Access

BURST: Final = 60
PER_SECOND: Final = 1.0
"""Lines that refusals may write: a burst, then one a second; what is left out is counted in the next line."""


@dataclass(slots=True)
class Refusals:
    """Writes them, bounded in rate."""

    access: Access
    total: int = 0
    _left: float = BURST
    _at: float = field(default_factory=monotonic)
    _untold: int = 0

    def note(self, actor: str, act: str, reason: str) -> None:
        """One refusal."""
        self.total += 1
        now = monotonic()
        self._left = min(float(BURST), self._left + (now - self._at) * PER_SECOND)
        self._at = now
        if self._left < 1.0:
            self._untold += 1
            return
        self._left -= 1.0
        others = f"; {self._untold} others before it" if self._untold else ""
        try:
            self.access.note(actor, act, "", "refused", reason + others)
            self._untold = 0
        except sqlite3.Error:  # a full disk: the refusal stands, and the next line that can be written counts it
            self._untold += 1
