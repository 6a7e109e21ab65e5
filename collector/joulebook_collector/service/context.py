"""What the endpoints share: the ledger, its writer, who may do what, and the counters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, TypeVar

from joulebook_collector.ledger import Ledger
from joulebook_collector.service.access import Access
from joulebook_collector.service.metrics import Metrics
from joulebook_collector.service.refusals import Refusals
from joulebook_collector.service.writer import Writer

T = TypeVar("T")
READERS: Final = 2
"""Queries that run at one moment; the others wait, so that ingest keeps its core."""
MOST_WAITING: Final = 32
"""Queries that may wait for a reader."""


class TooManyQueries(Exception):
    """As many queries wait as may."""


@dataclass(slots=True)
class Service:
    """One collector. token_free: requests need no token."""

    ledger: Ledger
    writer: Writer
    access: Access
    refusals: Refusals
    metrics: Metrics
    token_free: bool = False
    broken: str = ""
    reading_bytes: int = 0
    readers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(READERS, "reader"))
    queries: int = 0

    async def read(self, query: Callable[[Ledger], T]) -> T:
        """Run a query in a thread, on a connection of its own. Raises TooManyQueries."""
        if self.queries >= READERS + MOST_WAITING:
            raise TooManyQueries
        self.queries += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.readers, self._read, query)
        finally:
            self.queries -= 1

    def _read(self, query: Callable[[Ledger], T]) -> T:
        with self.ledger.reader() as ledger:
            return query(ledger)
