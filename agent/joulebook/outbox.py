"""The durable outbox: rows wait on disk until a ledger has acknowledged them (docs/reference/outbox.md).

One SQLite file per agent (docs/decisions/0006-outbox.md). Rows are *open* while their shares may still
change, then *final*: they stand in a queue that is drained in order. The agent writes; whoever takes rows into
a ledger reads batches and acknowledges them.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from joulebook.errors import JoulebookError
from joulebook.outbox_file import (
    MOST_BYTES,
    Transaction,
    bytes_on_disk,
    files_set_aside,
    is_broken,
    is_nearly_full,
    new_id,
    open_file,
    put_aside,
    put_state,
    state_of,
)
from joulebook.outbox_queue import CHUNK_ROWS, START, Queue
from joulebook.outbox_thinner import thin_step
from joulebook.packing import inflate, pack, unpack
from joulebook.rows import Batch, Body, Measurement, Row
from joulebook.units import NS_PER_SECOND

__all__ = ["BATCH_ROWS", "MOST_BYTES", "Outbox", "OutboxStatus", "Parcel"]

BATCH_ROWS: Final = 1000
STEPS_PER_WRITE: Final = 8
"""Steps of thinning that one write waits for at most."""
_SHIPS_TO: Final = "ships_to"
KEEP_WHOLE_NS: Final = 900 * NS_PER_SECOND
"""The newest rows are not merged: a late mark may still name them."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """Contiguous rows, ready to be sent.  count: how many.  arrays: JSON arrays of wire rows, packed, in order."""

    agent_id: str
    incarnation: str
    first_seq: int
    count: int
    arrays: tuple[bytes, ...]

    @property
    def last_seq(self) -> int:
        """seq of the last row."""
        return self.first_seq + self.count - 1

    def array(self, i: int) -> str:
        """One of the arrays as JSON text."""
        return inflate(self.arrays[i])


@dataclass(frozen=True, slots=True)
class OutboxStatus:
    """What a status file and an exposition say of an outbox.

    waiting_rows: final rows that no ledger has acknowledged.  oldest_us: UTC microseconds of the oldest of them, None
    when there is none, or it tells no time.  bytes_on_disk: file and write-ahead log.
    merged_spans: spans that became part of a longer one because the outbox was full, ever.  refused_rows: rows
    that a collector refused, ever.  set_aside: files, and stretches of rows, that could not be read and were put aside.
    """

    waiting_rows: int
    oldest_us: int | None
    bytes_on_disk: int
    merged_spans: int
    refused_rows: int
    set_aside: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Write:
    """What one ``write`` was asked for."""

    drop: list[str]
    open_rows: dict[str, Body]
    finish: list[tuple[str, Body]]
    final: list[Body]
    state: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows that become final together. chunk: the open chunk that holds exactly them, None when there is none."""

    bodies: list[Body]
    chunk: int | None = None


class Outbox:
    """Rows of one agent on disk. Not for use by several threads; several processes may open one file.

    agent_id: a lasting random id of this outbox.  incarnation: a fresh random id for every
    writer; None when opened only to drain.  most_bytes: size on disk that a writer does not exceed.
    A writer puts a file that cannot be read aside and begins a fresh one (``set_aside`` names it); to drain
    one raises sqlite3.DatabaseError. Raises JoulebookError where the disk lets nobody write.
    """

    def __init__(self, path: Path, *, writer: bool, most_bytes: int = MOST_BYTES) -> None:
        self.path = path
        self.set_aside: Path | None = None
        self._most_bytes = most_bytes
        self._writer = writer
        self._opened = 0
        self._db = self._open_file()
        self._begin()

    def _open_file(self) -> sqlite3.Connection:
        most_bytes = self._most_bytes if self._writer else None
        try:
            return open_file(self.path, most_bytes)
        except sqlite3.DatabaseError as error:
            if not (self._writer and is_broken(error)):
                raise
            self.set_aside = put_aside(self.path, error)
            return open_file(self.path, most_bytes)

    def _begin(self) -> None:
        self._queue = Queue(self._db)
        if self.state("agent_id") is None:
            with Transaction(self._db):
                self._db.execute("insert or ignore into state values ('agent_id', ?)", (json.dumps(new_id()),))
        self.agent_id: str = self.state("agent_id")
        self.incarnation: str | None = None
        self._seq = 0
        self._newest_ns: dict[str, int] = {}
        self._open: dict[int, dict[str, Body | None]] = {}
        self._told: dict[str, str] = {}
        if self._writer:
            self.incarnation = new_id()
            for chunk, keys in self._db.execute("select id, keys from open"):
                self._open[chunk] = dict.fromkeys(json.loads(keys))
            with Transaction(self._db):
                last = self._db.execute("select coalesce(max(opened), 0) from incarnation").fetchone()[0]
                self._db.execute("delete from incarnation where opened not in (select opened from final)")
                for table in ("named", "sent_as"):
                    self._db.execute(f"delete from {table} where incarnation not in (select id from incarnation)")  # noqa: S608
                self._opened = last + 1
                new = (self._opened, self.incarnation, self.incarnation)
                self._db.execute("insert into incarnation values (?, ?, ?, 0)", new)

    def close(self) -> None:
        """Close the file; every committed row stays."""
        self._db.close()

    # -- writing

    def write(
        self,
        *,
        drop: Iterable[str] = (),
        open_rows: Mapping[str, Body] | None = None,
        finish: Iterable[tuple[str, Body]] = (),
        final: Iterable[Body] = (),
        state: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """One durable transaction. Returns the place of each finished and final row in the queue, in order.

        drop: keys of open rows that are no more.  open_rows: key -> row, replacing what the key held.
        finish: (key, row) that leave the open rows and become final.  final: rows that are final from
        the start.  state: agent's own memory. A Reassignment names a row by this incarnation and place; it
        leaves with the seq that the row was sent as.  When the file is nearly full, the oldest rows
        are thinned. Raises OSError when the disk refuses: then nothing of it is written.
        """
        if self.incarnation is None:
            raise ValueError("this outbox was opened to drain")
        new = _Write(list(drop), dict(open_rows or {}), list(finish), list(final), dict(state or {}))
        try:
            return self._write_or_thin(new)
        except sqlite3.OperationalError as error:
            raise OSError(f"{self.path}: {error}") from error
        except sqlite3.DatabaseError as error:
            if not is_broken(error):
                raise
            return self._begin_afresh(new, error)

    def _write_or_thin(self, new: _Write) -> list[int]:
        steps = 0
        while True:
            try:
                places = self._write(new)
                break
            except sqlite3.OperationalError as error:
                steps += 1
                if error.sqlite_errorcode != sqlite3.SQLITE_FULL or steps > STEPS_PER_WRITE or not self.thin():
                    raise
        if is_nearly_full(self._db):
            with suppress(sqlite3.OperationalError):  # this write is done; the next will say that the disk refuses
                self.thin()
        return places

    def _begin_afresh(self, new: _Write, why: sqlite3.Error) -> list[int]:
        """The file has broken under the pen: it is put aside, and what memory still holds goes into a fresh one."""
        known = {key: row for rows in self._open.values() for key, row in rows.items() if row is not None}
        gone = {*new.drop, *(key for key, _ in new.finish)}
        new = replace(new, open_rows={**{k: row for k, row in known.items() if k not in gone}, **new.open_rows})
        lost, places = self.incarnation, self._seq
        self._db.close()
        try:
            self.set_aside = put_aside(self.path, why)
            self._db = self._open_file()
            self._begin()
            # Places go on: a late mark may name a row that left from the broken file.
            self._seq = places
            self._db.execute("insert into sent_as values (?, 0, ?, 0)", (self.incarnation, lost))
            return self._write(new)
        except (OSError, sqlite3.DatabaseError, JoulebookError) as error:
            raise OSError(f"{self.path}: {error}") from error

    def _write(self, new: _Write) -> list[int]:
        open_chunks = dict(self._open)
        seq, newest = self._seq, dict(self._newest_ns)
        with Transaction(self._db):
            told = self._write_state(new.state)
            for piece in _pieces(new, open_chunks):
                first, seq = seq + 1, seq + len(piece.bodies)
                self._write_piece(piece, first, seq)
                newest |= {row.boot_id: row.ended_ns for row in piece.bodies if isinstance(row, Measurement)}
            self._write_open(new, open_chunks)
        first, self._seq = self._seq + 1, seq
        self._open, self._newest_ns = open_chunks, newest
        self._told |= told
        return list(range(first, seq + 1))

    def _write_state(self, state: Mapping[str, Any]) -> dict[str, str]:
        texts = {key: json.dumps(value, separators=(",", ":"), allow_nan=False) for key, value in state.items()}
        changed = {key: text for key, text in texts.items() if self._told.get(key) != text}
        self._db.executemany("insert or replace into state values (?, ?)", changed.items())
        return changed

    def _write_piece(self, piece: _Piece, first: int, last: int) -> None:
        if piece.chunk is None:
            self._queue.append(self._opened, first, piece.bodies)
        else:
            self._queue.adopt(self._opened, first, last, piece.chunk)
            self._db.execute("delete from open where id = ?", (piece.chunk,))

    def _write_open(self, new: _Write, chunks: dict[int, dict[str, Body | None]]) -> None:
        gone = {*new.drop, *new.open_rows, *(key for key, _ in new.finish)}
        for chunk, rows in list(chunks.items()):
            if gone.isdisjoint(rows):
                continue
            kept = {key: row for key, row in rows.items() if key not in gone}
            del chunks[chunk]
            if kept:
                chunks[chunk] = dict(zip(kept, self._known(chunk, kept), strict=True))
                self._put_open(chunk, chunks[chunk])
            else:
                self._db.execute("delete from open where id = ?", (chunk,))
        if new.open_rows:
            chunk = max(chunks, default=0) + 1
            chunks[chunk] = dict(new.open_rows)
            self._put_open(chunk, chunks[chunk])

    def _known(self, chunk: int, rows: Mapping[str, Body | None]) -> list[Body]:
        """The rows themselves; those of an earlier writer are read."""
        if None in rows.values():
            keys, body = self._db.execute("select keys, body from open where id = ?", (chunk,)).fetchone()
            rows = {**rows, **{k: row for k, row in zip(json.loads(keys), unpack(body), strict=True) if k in rows}}
        return [row for row in rows.values() if row is not None]

    def _put_open(self, chunk: int, rows: Mapping[str, Body | None]) -> None:
        values = (chunk, json.dumps(list(rows)), pack(row for row in rows.values() if row is not None))
        self._db.execute("insert or replace into open values (?, ?, ?)", values)

    def state(self, key: str) -> Any:
        """What an earlier ``write`` kept under that key, None when nothing."""
        return state_of(self._db, key)

    def open_rows(self) -> dict[str, Body]:
        """Rows whose shares may still change, by key, in key order."""
        rows: dict[str, Body] = {}
        for keys, body in self._db.execute("select keys, body from open").fetchall():
            rows |= zip(json.loads(keys), unpack(body), strict=True)
        return dict(sorted(rows.items()))

    def ship_to(self, url: str | None) -> None:
        """Rows of this outbox go to that collector and to no ledger beside it; None: to whoever takes batches.

        Raises OSError when the disk refuses.
        """
        if self.state(_SHIPS_TO) == url:
            return
        try:
            with Transaction(self._db):
                put_state(self._db, _SHIPS_TO, url)
        except sqlite3.OperationalError as error:
            raise OSError(f"{self.path}: {error}") from error

    @property
    def ships_to(self) -> str | None:
        """The collector that its rows go to, None where whoever comes may take them."""
        url: str | None = self.state(_SHIPS_TO)
        return url or None

    # -- draining

    def batches(self, limit: int = BATCH_ROWS) -> Iterator[Batch]:
        """Final rows not yet acknowledged, oldest incarnation first, in contiguous batches.

        A row that was in a batch has its seq and is never changed again; ``bodies`` only looks.
        Raises JoulebookError when the rows are a collector's: a ledger beside it would take them from it.
        """
        url = self.state(_SHIPS_TO)
        if url:
            raise JoulebookError(
                f"the rows of {self.path} go to the collector {url}",
                "ask that one; or start the agent once without JOULEBOOK_COLLECTOR_URL",
            )
        after = START
        while chunks := self._queue.take(after, limit):
            after = chunks[-1].end
            wire_id, seq = chunks[0].sent_as
            bodies = [body for chunk in chunks for body in unpack(self._queue.renamed(chunk))]
            yield Batch(self.agent_id, wire_id, tuple(Row(n, body) for n, body in enumerate(bodies, start=seq)))

    def parcel(self, limit: int = BATCH_ROWS) -> Parcel | None:
        """The oldest rows that wait; None when none waits. They have their seq from now on."""
        chunks = self._queue.take(START, limit)
        if not chunks:
            return None
        wire_id, seq = chunks[0].sent_as
        arrays = tuple(self._queue.renamed(chunk) for chunk in chunks)
        return Parcel(self.agent_id, wire_id, seq, sum(chunk.count for chunk in chunks), arrays)

    def bodies(self) -> Iterator[Body]:
        """Final rows not yet acknowledged, in order, to look at: they stay as they are."""
        return self._queue.bodies()

    def acknowledge(self, incarnation: str, seq: int, refused: Mapping[int, str] | None = None) -> None:
        """Forget sent rows of that incarnation up to and including ``seq``: a ledger has them durably.

        refused: seq -> reason, of rows that the collector did not take into its book; they are kept aside.
        """
        self._queue.acknowledge(incarnation, seq, refused or {})

    def move(self, incarnation: str) -> str:
        """Rows of that incarnation that wait leave under a fresh one, from 1; its id. For an answer of "forked"."""
        return self._queue.move(incarnation)

    def depth(self) -> int:
        """Final rows that wait."""
        return self._queue.depth()

    def refused(self) -> list[tuple[str, int, str, Body]]:
        """Refused rows that are kept: (incarnation, seq, reason, row), oldest first."""
        return self._queue.refused()

    def status(self) -> OutboxStatus:
        """Counts for status and exposition."""
        merged, refused = (self.state(key) or 0 for key in ("merged", "refused"))
        aside = tuple(path.name for path in files_set_aside(self.path))
        return OutboxStatus(self.depth(), self._queue.oldest_us(), bytes_on_disk(self.path), merged, refused, aside)

    # -- thinning

    def thin(self) -> bool:
        """One step of thinning rows that were never sent. False when nothing is left to gain."""
        before = self.state("merged") or 0
        more = thin_step(self._queue, self._is_new)
        after = self.state("merged") or 0
        if after.bit_length() > before.bit_length():  # the first time, and whenever there are twice as many
            print(
                f"joulebook: the outbox {self.path} is nearly full: {after} spans were merged, which keeps their"
                " joules; drain it, or raise JOULEBOOK_OUTBOX_MIB",
                file=sys.stderr,
            )
        return more

    def _is_new(self, opened: int, row: Body) -> bool:
        return (
            opened == self._opened
            and isinstance(row, Measurement)
            and row.ended_ns > self._newest_ns[row.boot_id] - KEEP_WHOLE_NS
        )


def _pieces(new: _Write, open_chunks: dict[int, dict[str, Body | None]]) -> Iterator[_Piece]:
    """What becomes final, in order; open chunks that finish whole are taken out of ``open_chunks``."""
    chunk_of = {next(iter(rows)): chunk for chunk, rows in open_chunks.items()}
    loose: list[Body] = []
    i = 0
    while i < len(new.finish):
        key, row = new.finish[i]
        chunk = chunk_of.get(key, -1)
        rows = list(open_chunks.get(chunk, {}).items())
        part = new.finish[i : i + len(rows)]
        if (
            rows
            and len(part) == len(rows)
            and all(a == b and x is y for (a, x), (b, y) in zip(part, rows, strict=True))
        ):
            yield from _packed(loose)
            loose = []
            del open_chunks[chunk]
            yield _Piece([body for _, body in part], chunk)
            i += len(rows)
        else:
            loose.append(row)
            i += 1
    yield from _packed([*loose, *new.final])


def _packed(bodies: Sequence[Body]) -> Iterator[_Piece]:
    for i in range(0, len(bodies), CHUNK_ROWS):
        yield _Piece(list(bodies[i : i + CHUNK_ROWS]))
