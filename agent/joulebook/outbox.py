"""The durable outbox: rows wait on disk until a ledger has acknowledged them (docs/reference/outbox.md).

One SQLite file per agent (docs/decisions/0006-outbox.md). Rows are *open* while their shares may still
change, then *final*: they stand in a queue that is drained in order. A row gets its seq when it is first sent;
from then on it never changes. Until then, rows may be thinned when the file nears its bound. The agent writes;
whoever takes rows into a ledger reads batches and acknowledges them.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from joulebook.errors import BadInput, JoulebookError
from joulebook.outbox_file import (
    MOST_BYTES,
    Transaction,
    bytes_on_disk,
    files_set_aside,
    is_broken,
    is_nearly_full,
    open_file,
    put_aside,
    release,
)
from joulebook.packing import SMALL, deflate, inflate, joined, pack, unpack
from joulebook.rows import Batch, Body, Measurement, Reassignment, Row, to_wire
from joulebook.thinning import STEPS_US, thin
from joulebook.units import NS_PER_SECOND

__all__ = ["BATCH_ROWS", "MOST_BYTES", "Outbox", "OutboxStatus", "Parcel"]

BATCH_ROWS: Final = 1000
CHUNK_ROWS: Final = 500
"""Rows that are packed together at most."""
WINDOW_ROWS: Final = 1000
"""Rows that one step of thinning looks at: it runs on the sampler's thread, and in its memory."""
CHUNKS_PER_BATCH: Final = 100
STEPS_PER_WRITE: Final = 8
"""Steps of thinning that one write waits for at most."""
KEEP_WHOLE_NS: Final = 900 * NS_PER_SECOND
"""The newest rows are not merged: a late mark may still name them."""
KEEP_REFUSED: Final = 1000
"""Refused rows that are kept to be looked at; all are counted, and the collector has them too."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """Contiguous rows as JSON text, ready to be sent.  count: how many.  text: a JSON array of wire rows."""

    agent_id: str
    incarnation: str
    first_seq: int
    count: int
    text: str

    @property
    def last_seq(self) -> int:
        """seq of the last row."""
        return self.first_seq + self.count - 1


@dataclass(frozen=True, slots=True)
class OutboxStatus:
    """What a status file and an exposition say of an outbox.

    waiting_rows: final rows that no ledger has acknowledged.  bytes_on_disk: file and write-ahead log.
    merged_spans: spans that became part of a longer one because the outbox was full, ever.  refused_rows: rows
    that a collector refused, ever.  set_aside: files that could not be read and were put aside.
    """

    waiting_rows: int
    bytes_on_disk: int
    merged_spans: int
    refused_rows: int
    set_aside: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A stretch of the queue, packed together. wire_id, wire_seq: what its first row was sent as, None before.

    names: some of its rows name others (reassignments).
    """

    opened: int
    incarnation: str
    first: int
    last: int
    wire_id: str | None
    wire_seq: int | None
    names: int
    body: bytes

    @property
    def count(self) -> int:
        return self.last - self.first + 1


_CHUNKS: Final = (
    "select f.opened, i.id, f.first, f.last, f.wire_id, f.wire_seq, f.names, {}"
    " from final as f join incarnation as i on i.opened = f.opened"
    " where (f.opened, f.first) > (?, ?) and {} order by f.opened, f.first limit ?"
)


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
        try:
            return open_file(self.path, self._most_bytes)
        except sqlite3.DatabaseError as error:
            if not (self._writer and is_broken(error)):
                raise
            self.set_aside = put_aside(self.path, error)
            return open_file(self.path, self._most_bytes)

    def _begin(self) -> None:
        with Transaction(self._db):
            self._db.execute("insert or ignore into state values ('agent_id', ?)", (json.dumps(secrets.token_hex(8)),))
        self.agent_id: str = self.state("agent_id")
        self.incarnation: str | None = None
        self._seq = 0
        self._newest_ns: dict[str, int] = {}
        self._open: dict[int, dict[str, Body | None]] = {}
        self._told: dict[str, str] = {}
        if self._writer:
            self.incarnation = secrets.token_hex(8)
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
            self._thin_if_possible()
        return places

    def _begin_afresh(self, new: _Write, why: sqlite3.Error) -> list[int]:
        """The file has broken under the pen: it is put aside, and what memory still holds goes into a fresh one."""
        known = {k: body for rows in self._open.values() for k, body in rows.items() if body is not None}
        finishing = {key for key, _ in new.finish}
        kept = {k: body for k, body in known.items() if k not in finishing and k not in new.drop}
        self._db.close()
        try:
            self.set_aside = put_aside(self.path, why)
            self._db = open_file(self.path, self._most_bytes)
            self._begin()
            return self._write(replace(new, open_rows={**kept, **new.open_rows}))
        except (sqlite3.DatabaseError, JoulebookError) as error:
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
        place = (self._opened, first, last)
        if piece.chunk is not None:  # what was open becomes final as it is
            self._db.execute(
                "insert into final select ?, ?, ?, null, null, 0, body from open where id = ?", (*place, piece.chunk)
            )
            self._db.execute("delete from open where id = ?", (piece.chunk,))
            return
        named = [(b.incarnation, b.seq) for b in piece.bodies if isinstance(b, Reassignment)]
        self._db.executemany("insert or ignore into named values (?, ?)", named)
        self._db.execute(
            "insert into final values (?, ?, ?, null, null, ?, ?)", (*place, bool(named), pack(piece.bodies))
        )

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
        found = self._db.execute("select value from state where key = ?", (key,)).fetchone()
        return None if found is None else json.loads(found[0])

    def open_rows(self) -> dict[str, Body]:
        """Rows whose shares may still change, by key, in key order."""
        rows: dict[str, Body] = {}
        for keys, body in self._db.execute("select keys, body from open").fetchall():
            rows |= zip(json.loads(keys), unpack(body), strict=True)
        return dict(sorted(rows.items()))

    # -- draining

    def batches(self, limit: int = BATCH_ROWS) -> Iterator[Batch]:
        """Final rows not yet acknowledged, oldest incarnation first, in contiguous batches.

        A row that was in a batch has its seq and is never changed again; ``bodies`` only looks.
        """
        after = (0, 0)
        while chunks := self._take(after, limit):
            after = (chunks[-1].opened, chunks[-1].last)
            wire_id, seq = _sent_as(chunks[0])
            bodies = [body for chunk in chunks for body in unpack(self._renamed(chunk))]
            yield Batch(self.agent_id, wire_id, tuple(Row(n, body) for n, body in enumerate(bodies, start=seq)))

    def parcel(self, limit: int = BATCH_ROWS) -> Parcel | None:
        """The oldest rows that wait, as text; None when none waits. They have their seq from now on."""
        chunks = self._take((0, 0), limit)
        if not chunks:
            return None
        wire_id, seq = _sent_as(chunks[0])
        text = joined([inflate(self._renamed(chunk)) for chunk in chunks])
        return Parcel(self.agent_id, wire_id, seq, sum(chunk.count for chunk in chunks), text)

    def bodies(self) -> Iterator[Body]:
        """Final rows not yet acknowledged, in order, to look at: they stay as they are."""
        after = (0, 0)
        while chunks := self._chunks(after, 10):
            after = (chunks[-1].opened, chunks[-1].last)
            for chunk in chunks:
                yield from unpack(chunk.body)

    def acknowledge(self, incarnation: str, seq: int, refused: Mapping[int, str] | None = None) -> None:
        """Forget sent rows of that incarnation up to and including ``seq``: a ledger has them durably.

        refused: seq -> reason, of rows that the collector did not take into its book; they are kept aside.
        """
        with Transaction(self._db):
            for chunk in self._sent(incarnation, seq):
                _, first = _sent_as(chunk)
                if seq < first + chunk.count - 1:
                    chunk, _ = self._split(chunk, seq - first + 1)
                self._refuse(chunk, refused or {})
                self._delete(chunk)
                names = (chunk.incarnation, chunk.first, chunk.last)
                self._db.execute("delete from named where incarnation = ? and place between ? and ?", names)
            release(self._db)

    def move(self, incarnation: str) -> str:
        """Rows of that incarnation that wait leave under a fresh one, from 1; its id. For an answer of "forked"."""
        fresh = secrets.token_hex(8)
        with Transaction(self._db):
            found = self._db.execute("select opened, id from incarnation where wire_id = ?", (incarnation,)).fetchall()
            for opened, local in found:
                first = self._db.execute("select min(first) from final where opened = ?", (opened,)).fetchone()[0]
                self._db.execute("update incarnation set wire_id = ?, wire_seq = 0 where opened = ?", (fresh, opened))
                self._db.execute(
                    "update final set wire_id = null, wire_seq = null where opened = ? and wire_id is not null",
                    (opened,),
                )
                if first is not None:
                    self._db.execute("delete from sent_as where incarnation = ? and first >= ?", (local, first))
        return fresh

    def depth(self) -> int:
        """Final rows that wait."""
        count: int = self._db.execute("select coalesce(sum(last - first + 1), 0) from final").fetchone()[0]
        return count

    def status(self) -> OutboxStatus:
        """Counts for status and exposition."""
        merged, refused = (self.state(key) or 0 for key in ("merged", "refused"))
        aside = tuple(path.name for path in files_set_aside(self.path))
        return OutboxStatus(self.depth(), bytes_on_disk(self.path), merged, refused, aside)

    def refused(self) -> list[tuple[str, int, str, Body]]:
        """Refused rows that are kept: (incarnation, seq, reason, row), oldest first."""
        rows = self._db.execute("select wire_id, seq, reason, body from refused order by id").fetchall()
        return [(wire_id, seq, reason, unpack(body)[0]) for wire_id, seq, reason, body in rows]

    def _chunks(self, after: tuple[int, int], limit: int, body: str = "f.body") -> list[_Chunk]:
        sql = _CHUNKS.format(body, "true")
        return [_Chunk(*row) for row in self._db.execute(sql, (*after, limit)).fetchall()]

    def _sent(self, wire_id: str, seq: int) -> list[_Chunk]:
        sql = _CHUNKS.format("f.body", "f.wire_id = ? and f.wire_seq <= ?")
        return [_Chunk(*row) for row in self._db.execute(sql, (0, 0, wire_id, seq, -1)).fetchall()]

    def _take(self, after: tuple[int, int], limit: int) -> list[_Chunk]:
        """The next chunks of one incarnation, at most ``limit`` rows, with their seq durably theirs."""
        taken: list[_Chunk] = []
        with Transaction(self._db):
            for chunk in self._chunks(after, CHUNKS_PER_BATCH):
                count = sum(c.count for c in taken) + chunk.count
                if taken and (chunk.incarnation != taken[0].incarnation or count > limit):
                    break
                if chunk.count > limit:
                    chunk, _ = self._split(chunk, limit)
                taken.append(chunk if chunk.wire_id is not None else self._numbered(chunk))
        return taken

    def _numbered(self, chunk: _Chunk) -> _Chunk:
        """A chunk that is sent for the first time: from now on its rows are what they are."""
        wire_id, last = self._db.execute(
            "select wire_id, wire_seq from incarnation where opened = ?", (chunk.opened,)
        ).fetchone()
        self._db.execute(
            "update final set wire_id = ?, wire_seq = ? where opened = ? and first = ?",
            (wire_id, last + 1, chunk.opened, chunk.first),
        )
        self._db.execute("update incarnation set wire_seq = ? where opened = ?", (last + chunk.count, chunk.opened))
        if self._seq_of(chunk.incarnation, chunk.first) != (wire_id, last + 1):
            self._db.execute(
                "insert or replace into sent_as values (?, ?, ?, ?)",
                (chunk.incarnation, chunk.first, wire_id, chunk.first - last - 1),
            )
        return replace(chunk, wire_id=wire_id, wire_seq=last + 1)

    def _seq_of(self, incarnation: str, place: int) -> tuple[str, int]:
        """What the row at that place of the queue was sent as."""
        found = self._db.execute(
            "select wire_id, shift from sent_as where incarnation = ? and first <= ? order by first desc limit 1",
            (incarnation, place),
        ).fetchone()
        return (incarnation, place) if found is None else (found[0], place - found[1])

    def _renamed(self, chunk: _Chunk) -> bytes:
        """The chunk, its reassignments naming measurements as those were sent."""
        if not chunk.names:
            return chunk.body
        bodies: list[Body] = []
        for body in unpack(chunk.body):
            if isinstance(body, Reassignment):
                wire_id, seq = self._seq_of(body.incarnation, body.seq)
                body = replace(body, incarnation=wire_id, seq=seq)
            bodies.append(body)
        return pack(bodies)

    def _split(self, chunk: _Chunk, count: int) -> tuple[_Chunk, _Chunk]:
        """The chunk as two, the first with ``count`` rows."""
        rows = json.loads(inflate(chunk.body))
        halves = [deflate(json.dumps(part, separators=(",", ":"))) for part in (rows[:count], rows[count:])]
        middle = chunk.first + count
        seq = None if chunk.wire_seq is None else chunk.wire_seq + count
        first = replace(chunk, last=middle - 1, body=halves[0])
        second = replace(chunk, first=middle, wire_seq=seq, body=halves[1])
        self._delete(chunk)
        self._put(first)
        self._put(second)
        return first, second

    def _put(self, chunk: _Chunk) -> None:
        values = (chunk.opened, chunk.first, chunk.last, chunk.wire_id, chunk.wire_seq, chunk.names, chunk.body)
        self._db.execute("insert into final values (?, ?, ?, ?, ?, ?, ?)", values)

    def _delete(self, chunk: _Chunk) -> None:
        self._db.execute("delete from final where opened = ? and first = ?", (chunk.opened, chunk.first))

    def _refuse(self, chunk: _Chunk, refused: Mapping[int, str]) -> None:
        wire_id, first = _sent_as(chunk)
        mine = {seq: reason for seq, reason in refused.items() if first <= seq < first + chunk.count}
        if not mine:
            return
        bodies = unpack(chunk.body)
        self._db.executemany(
            "insert into refused (wire_id, seq, reason, body) values (?, ?, ?, ?)",
            [(wire_id, seq, reason, pack([bodies[seq - first]])) for seq, reason in sorted(mine.items())],
        )
        self._count("refused", len(mine))
        self._db.execute("delete from refused where id <= (select max(id) from refused) - ?", (KEEP_REFUSED,))

    def _count(self, key: str, more: int) -> None:
        count = (self.state(key) or 0) + more
        self._put_state(key, count)

    def _put_state(self, key: str, value: Any) -> None:
        self._db.execute("insert or replace into state values (?, ?)", (key, json.dumps(value)))

    # -- thinning

    def thin(self) -> bool:
        """One step of thinning rows that were never sent, oldest first. False when nothing is left to gain.

        First rows are only packed closer, then merged within a minute, within five, within an hour. A step looks
        at WINDOW_ROWS at most. Raises sqlite3.OperationalError when the disk refuses.
        """
        level, *after = self.state("thinning") or (0, 0, 0)
        with Transaction(self._db):
            while True:
                window, seen = self._window((after[0], after[1]))
                if seen is None:
                    level, after = level + 1, [0, 0]
                    break
                after = [*seen]
                if window and (level or _is_loose(window)):
                    with suppress(BadInput):  # damaged rows are left to be told by whoever drains them
                        self._thin_window(self._with_bodies(window), level)
                    break
            if level > len(STEPS_US):
                self._db.execute("delete from state where key = 'thinning'")
                return False
            self._put_state("thinning", [level, *after])
        return True

    def _thin_if_possible(self) -> None:
        try:
            self.thin()
        except sqlite3.OperationalError:
            return  # what was to be written is; the next write will say that the disk refuses

    def _window(self, after: tuple[int, int]) -> tuple[list[_Chunk], tuple[int, int] | None]:
        """Consecutive chunks that may be rewritten, bodies unread, and how far was looked; None when that is the end.

        Left alone: what was sent, what a waiting reassignment names, the newest rows.
        """
        window: list[_Chunk] = []
        seen: tuple[int, int] | None = None
        for chunk in self._chunks(after, CHUNKS_PER_BATCH, "x''"):
            full = sum(c.count for c in window) + chunk.count > WINDOW_ROWS
            if window and (full or chunk.opened != window[0].opened):
                break
            seen = (chunk.opened, chunk.last)
            if chunk.wire_id is None and not self._is_named(chunk):
                window.append(chunk)
            elif window:
                break
        return window, seen

    def _with_bodies(self, window: list[_Chunk]) -> list[_Chunk]:
        sql = "select body from final where opened = ? and first = ?"
        bodies = [self._db.execute(sql, (chunk.opened, chunk.first)).fetchone()[0] for chunk in window]
        return [replace(chunk, body=body) for chunk, body in zip(window, bodies, strict=True)]

    def _is_named(self, chunk: _Chunk) -> bool:
        found = self._db.execute(
            "select 1 from named where incarnation = ? and place between ? and ? limit 1",
            (chunk.incarnation, chunk.first, chunk.last),
        )
        return found.fetchone() is not None

    def _thin_window(self, window: list[_Chunk], level: int) -> None:
        if level == 0:
            arrays = [inflate(chunk.body) for chunk in window]
            self._repack(window, [row for array in arrays for row in json.loads(array)])
            return
        rows = [body for chunk in window for body in unpack(chunk.body)]
        live = window[0].opened == self._opened
        old = next((i for i, row in enumerate(rows) if live and self._is_new(row)), len(rows))
        kept = [*thin(rows[:old], STEPS_US[level - 1]), *rows[old:]]
        if len(kept) < len(rows):
            self._repack(window, [to_wire(row) for row in kept])
            self._count("merged", len(rows) - len(kept))

    def _is_new(self, row: Body) -> bool:
        return isinstance(row, Measurement) and row.ended_ns > self._newest_ns.get(row.boot_id, 0) - KEEP_WHOLE_NS

    def _repack(self, window: list[_Chunk], rows: list[Any]) -> None:
        """Put these wire rows in the window's place: the last places of it, so that they stay next to what follows."""
        for chunk in window:
            self._delete(chunk)
        place = window[-1].last - len(rows) + 1
        for i in range(0, len(rows), CHUNK_ROWS):
            part = rows[i : i + CHUNK_ROWS]
            names = any(row["row"] == "reassignment" for row in part)
            body = deflate(json.dumps(part, separators=(",", ":")), SMALL)
            self._put(replace(window[0], first=place + i, last=place + i + len(part) - 1, names=names, body=body))


def _sent_as(chunk: _Chunk) -> tuple[str, int]:
    assert chunk.wire_id is not None
    assert chunk.wire_seq is not None
    return chunk.wire_id, chunk.wire_seq


def _is_loose(window: Sequence[_Chunk]) -> bool:
    """True when the rows would take far fewer chunks."""
    return len(window) > 2 * -(-sum(chunk.count for chunk in window) // CHUNK_ROWS)


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
