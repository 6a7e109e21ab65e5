"""The one thread that writes: batches wait in a queue bounded by rows, and many are made durable by one commit."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Final, TypeVar

import duckdb
from joulebook.errors import BadInput, LedgerError
from joulebook.rows import Batch

from joulebook_collector.ledger import Forked, Ledger, Receipt
from joulebook_collector.limits import MOST_WAITING_BYTES

QUEUE_ROWS: Final = 24_000
"""Rows that may wait: what 200 agents send at once, 120 rows each."""
GROUP_ROWS: Final = 12_000
"""Rows of one commit at most: what waits behind it waits no longer than it takes."""
SHORTEST_WAIT_SECONDS: Final = 1.0
LONGEST_WAIT_SECONDS: Final = 30.0


class Full(Exception):
    """The queue holds all that it may. retry_after_seconds: when to come again, jittered."""

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__("the queue is full")
        self.retry_after_seconds = retry_after_seconds


class Unwritten(Exception):
    """The ledger could not be written: nothing of the batch is stored, or nobody can tell."""


Outcome = Receipt | Forked | BadInput
Told = Outcome | Unwritten
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Waiting:
    batch: Batch
    size_bytes: int
    done: asyncio.Future[Outcome]


class Writer:
    """Start it in a running event loop; ``submit`` from that loop; ``stop`` drains the queue.

    turn: held while a group is written, so that another writer of the same ledger has its turn between two groups.
    broken: called once, in the loop, when the ledger can never be written again by this process.
    """

    def __init__(
        self, ledger: Ledger, turn: threading.Lock, broken: Callable[[str], None], queue_rows: int = QUEUE_ROWS
    ) -> None:
        self.waiting_rows = 0
        self._waiting_bytes = 0
        self.queue_rows = queue_rows
        self.rows_per_second = 0.0
        self.failures = 0
        self._last_failure = ""
        self._ledger = ledger
        self._turn = turn
        self._broken = broken
        self._loop = asyncio.get_running_loop()
        self._queue: deque[_Waiting] = deque()
        self._some = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    async def submit(self, batch: Batch, size_bytes: int) -> Outcome:
        """What became of the batch, once it is durable. Raises Full at once, Unwritten when it could not be stored.

        size_bytes: of its text.
        """
        rows = len(batch.rows)
        many = self.waiting_rows + rows > self.queue_rows or self._waiting_bytes + size_bytes > MOST_WAITING_BYTES
        if self._stopping or (self.waiting_rows and many):
            raise Full(self._wait_seconds())
        done: asyncio.Future[Outcome] = self._loop.create_future()
        self.waiting_rows += rows
        self._waiting_bytes += size_bytes
        with self._some:
            self._queue.append(_Waiting(batch, size_bytes, done))
            self._some.notify()
        return await asyncio.shield(done)

    async def act(self, act: Callable[[Ledger], T]) -> T:
        """What ``act`` returns, which may write: between two groups. Raises Unwritten when the ledger fails."""

        def in_turn() -> T:
            with self._turn:
                return act(self._ledger)

        try:
            return await self._loop.run_in_executor(None, in_turn)
        except duckdb.Error as error:
            self.failures += 1
            raise Unwritten(str(error).splitlines()[0]) from error

    async def stop(self) -> None:
        """Write what waits, then end the thread."""
        self._stopping = True
        with self._some:
            self._some.notify()
        await self._loop.run_in_executor(None, self._thread.join)
        await asyncio.sleep(0)  # what the last group answers

    def _wait_seconds(self) -> float:
        """The time that the queue takes to drain, half to one and a half times: who was refused comes back spread."""
        drain = self.waiting_rows / self.rows_per_second if self.rows_per_second else 0.0
        jitter = 0.5 + int.from_bytes(os.urandom(4), "big") / 2**32
        return jitter * min(max(drain, SHORTEST_WAIT_SECONDS), LONGEST_WAIT_SECONDS)

    def _run(self) -> None:
        while group := self._take():
            began = monotonic()
            outcomes = self._write([waiting.batch for waiting in group])
            rows = sum(len(waiting.batch.rows) for waiting in group)
            rate = rows / max(monotonic() - began, 1e-6)
            with suppress(RuntimeError):  # the loop was ended by a second signal: nobody listens any more
                self._loop.call_soon_threadsafe(self._tell, group, outcomes, rows, rate)
            del group, outcomes

    def _take(self) -> list[_Waiting]:
        """What is written next; empty when there is nothing and never will be."""
        with self._some:
            while not self._queue and not self._stopping:
                self._some.wait()
            group: list[_Waiting] = []
            rows = 0
            while self._queue and (not group or rows + len(self._queue[0].batch.rows) <= GROUP_ROWS):
                group.append(self._queue.popleft())
                rows += len(group[-1].batch.rows)
            return group

    def _write(self, batches: Sequence[Batch]) -> Sequence[Told]:
        try:
            with self._turn:
                return self._ledger.ingest_all(batches)
        except (duckdb.FatalException, duckdb.InternalException) as error:
            return self._failed(batches, error, fatal=True)
        except (duckdb.Error, LedgerError) as error:
            return self._failed(batches, error, fatal=False)
        except Exception as error:  # noqa: BLE001 - a defect that one batch meets must not keep out the others
            if len(batches) > 1:
                return [told for batch in batches for told in self._write([batch])]
            traceback.print_exc()
            return self._failed(batches, error, fatal=False)

    def _failed(self, batches: Sequence[Batch], error: Exception, *, fatal: bool) -> Sequence[Told]:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        self.failures += 1
        if fatal:
            self._loop.call_soon_threadsafe(self._broken, why)
        elif why != self._last_failure:
            print(f"joulebook collector: a commit failed: {why}", file=sys.stderr, flush=True)
        self._last_failure = why
        return [Unwritten(why) for _ in batches]

    def _tell(self, group: Sequence[_Waiting], outcomes: Sequence[Told], rows: int, rate: float) -> None:
        self.waiting_rows -= rows
        self._waiting_bytes -= sum(waiting.size_bytes for waiting in group)
        self.rows_per_second = rate
        for waiting, outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, Unwritten):
                waiting.done.set_exception(outcome)
            else:
                waiting.done.set_result(outcome)
