"""The outbox's queue: final rows in their order, numbered when they are first sent, forgotten when acknowledged.

A row has a *place* from the start, counted from 1 within its writer's incarnation, and a *seq* from its first
sending on: thinning frees places, and a ledger sees no gap. Reassignments are kept by place and leave by seq.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from joulebook.errors import BadInput
from joulebook.outbox_file import Transaction, count_state, keep_damaged, new_id, release, state_of, unsynced
from joulebook.packing import deflate, first_wire, inflate, pack, unpack
from joulebook.rows import Body, Reassignment

CHUNK_ROWS: Final = 250
"""Rows that are packed together at most."""
CHUNKS_AT_ONCE: Final = 100
KEEP_REFUSED: Final = 1000
"""Refused rows that are kept to be looked at; all are counted, and the collector has them too."""

START: Final = (0, 0)
"""Before the first chunk of the queue."""

_CHUNKS: Final = (
    "select f.opened, i.id, f.first, f.last, f.wire_id, f.wire_seq, f.names, {}"
    " from final as f join incarnation as i on i.opened = f.opened"
    " where (f.opened, f.first) > (?, ?) and {} order by f.opened, f.first limit ?"
)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of the queue, packed together.

    opened: order of its incarnation.  first, last: places.  wire_id, wire_seq: what its first row was
    sent as, None before.  names: some of its rows name others.  body: its rows, packed.
    """

    opened: int
    incarnation: str
    first: int
    last: int
    wire_id: str | None
    wire_seq: int | None
    names: bool
    body: bytes

    @property
    def count(self) -> int:
        """How many rows."""
        return self.last - self.first + 1

    @property
    def end(self) -> tuple[int, int]:
        """Where the next chunk is looked for."""
        return self.opened, self.last

    @property
    def sent_as(self) -> tuple[str, int]:
        """Incarnation and seq of its first row. Only for one that was sent."""
        assert self.wire_id is not None
        assert self.wire_seq is not None
        return self.wire_id, self.wire_seq


class Queue:
    """The tables final, named, sent_as and refused of an open outbox."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db

    # -- the agent's end, within its transaction

    def append(self, opened: int, first: int, bodies: Sequence[Body]) -> None:
        """Rows at the end, from place ``first`` on."""
        named = [(body.incarnation, body.seq) for body in bodies if isinstance(body, Reassignment)]
        self.db.executemany("insert or ignore into named values (?, ?)", named)
        last = first + len(bodies) - 1
        self.put(Chunk(opened, "", first, last, None, None, bool(named), pack(bodies)))

    def adopt(self, opened: int, first: int, last: int, open_id: int) -> None:
        """Rows at the end that are those of an open chunk, as they are packed there."""
        self.db.execute(
            "insert into final select ?, ?, ?, null, null, 0, body from open where id = ?",
            (opened, first, last, open_id),
        )

    def put(self, chunk: Chunk) -> None:
        """Add a chunk."""
        values = (chunk.opened, chunk.first, chunk.last, chunk.wire_id, chunk.wire_seq, chunk.names, chunk.body)
        self.db.execute("insert into final values (?, ?, ?, ?, ?, ?, ?)", values)

    def delete(self, chunk: Chunk) -> None:
        """Take a chunk away."""
        self.db.execute("delete from final where opened = ? and first = ?", (chunk.opened, chunk.first))

    # -- looking

    def chunks(self, after: tuple[int, int], body: str = "f.body") -> Iterator[Chunk]:
        """All chunks after that end, CHUNKS_AT_ONCE in memory. body: "x''" leaves the rows unread."""
        sql = _CHUNKS.format(body, "true")
        while rows := self.db.execute(sql, (*after, CHUNKS_AT_ONCE)).fetchall():
            for row in rows:
                yield Chunk(*row)
            after = Chunk(*rows[-1]).end

    def with_body(self, chunk: Chunk) -> Chunk:
        """The chunk, its rows read."""
        found = self.db.execute("select body from final where opened = ? and first = ?", (chunk.opened, chunk.first))
        return replace(chunk, body=found.fetchone()[0])

    def is_named(self, chunk: Chunk) -> bool:
        """True when a reassignment that was written later names one of its rows."""
        found = self.db.execute(
            "select 1 from named where incarnation = ? and place between ? and ? limit 1",
            (chunk.incarnation, chunk.first, chunk.last),
        )
        return found.fetchone() is not None

    def bodies(self) -> Iterator[Body]:
        """All rows, in order."""
        for chunk in self.chunks(START):
            yield from unpack(chunk.body)

    def depth(self) -> int:
        """How many rows wait."""
        count: int = state_of(self.db, "waiting")
        return count

    def oldest_us(self) -> int | None:
        """UTC microseconds of what waits longest: a span's end, a mark, a run's last word. None when nothing waits."""
        found = self.db.execute("select body from final order by opened, first limit 1").fetchone()
        if found is None:
            return None
        with suppress(BadInput):  # damaged rows tell no time; they are told when they are taken
            wire = first_wire(found[0])
            return next((wire[name] for name in ("ended_at_us", "at_us", "started_at_us") if wire.get(name)), None)
        return None

    # -- sending

    def take(self, after: tuple[int, int], limit: int) -> list[Chunk]:
        """The next chunks of one incarnation, at most ``limit`` rows, their seq durably theirs.

        A damaged chunk is put aside with its seq: whoever receives sees a gap, and what comes after it is taken.
        Raises JoulebookError when the disk does not let it be kept.
        """
        taken: list[Chunk] = []
        with Transaction(self.db):
            for chunk in self.chunks(after):
                count = sum(c.count for c in taken) + chunk.count
                if taken and (chunk.opened != taken[0].opened or count > limit):
                    break
                try:
                    inflate(chunk.body)
                except BadInput:
                    if taken:
                        break  # what is taken together has no gap
                    self._put_damaged_aside(chunk)
                    continue
                if chunk.count > limit:
                    chunk = self._split(chunk, limit)
                taken.append(chunk if chunk.wire_id is not None else self._numbered(chunk))
        return taken

    def renamed(self, chunk: Chunk) -> bytes:
        """The rows of a sent chunk, packed, with what its reassignments name called as it was sent."""
        if not chunk.names:
            return chunk.body
        bodies: list[Body] = []
        for body in unpack(chunk.body):
            if isinstance(body, Reassignment):
                incarnation, seq = self._sent_as(body.incarnation, body.seq)
                body = replace(body, incarnation=incarnation, seq=seq)
            bodies.append(body)
        return pack(bodies)

    def acknowledge(self, wire_id: str, seq: int, refused: Mapping[int, str]) -> None:
        """Forget what was sent under that incarnation up to and including ``seq``; keep refused rows aside."""
        sql = _CHUNKS.format("f.body", "f.wire_id = ? and f.wire_seq <= ?")
        with unsynced(self.db), Transaction(self.db):  # one that power loss undoes is made again
            for row in self.db.execute(sql, (*START, wire_id, seq, -1)).fetchall():
                chunk = Chunk(*row)
                first = chunk.sent_as[1]
                if seq < first + chunk.count - 1:
                    chunk = self._split(chunk, seq - first + 1)
                self._keep_refused(chunk, refused)
                self._forget(chunk)
        release(self.db)

    def move(self, wire_id: str) -> str:
        """What waits of that incarnation leaves under a fresh one, from 1; its id."""
        fresh = new_id()
        with Transaction(self.db):
            sql = "select opened, id from incarnation where wire_id = ?"
            for opened, local in self.db.execute(sql, (wire_id,)).fetchall():
                first = self.db.execute("select min(first) from final where opened = ?", (opened,)).fetchone()[0]
                self.db.execute("update incarnation set wire_id = ?, wire_seq = 0 where opened = ?", (fresh, opened))
                self.db.execute(
                    "update final set wire_id = null, wire_seq = null where opened = ? and wire_id is not null",
                    (opened,),
                )
                if first is not None:
                    self.db.execute("delete from sent_as where incarnation = ? and first >= ?", (local, first))
        return fresh

    def refused(self) -> list[tuple[str, int, str, Body]]:
        """Refused rows that are kept: (incarnation, seq, reason, row), oldest first."""
        rows = self.db.execute("select wire_id, seq, reason, body from refused order by id").fetchall()
        return [(wire_id, seq, reason, unpack(body)[0]) for wire_id, seq, reason, body in rows]

    def _put_damaged_aside(self, chunk: Chunk) -> None:
        sent = chunk if chunk.wire_id is not None else self._numbered(chunk)
        wire_id, seq = sent.sent_as
        keep_damaged(self.db, wire_id, seq, seq + chunk.count - 1, chunk.body)
        self._forget(chunk)

    def _forget(self, chunk: Chunk) -> None:
        """Take a chunk away, and what was noted of its rows."""
        self.delete(chunk)
        names = (chunk.incarnation, chunk.first, chunk.last)
        self.db.execute("delete from named where incarnation = ? and place between ? and ?", names)

    def _numbered(self, chunk: Chunk) -> Chunk:
        """A chunk that is sent for the first time: from now on its rows are what they are."""
        wire_id, last = self.db.execute(
            "select wire_id, wire_seq from incarnation where opened = ?", (chunk.opened,)
        ).fetchone()
        self.db.execute(
            "update final set wire_id = ?, wire_seq = ? where opened = ? and first = ?",
            (wire_id, last + 1, chunk.opened, chunk.first),
        )
        self.db.execute("update incarnation set wire_seq = ? where opened = ?", (last + chunk.count, chunk.opened))
        if self._sent_as(chunk.incarnation, chunk.first) != (wire_id, last + 1):
            self.db.execute(
                "insert or replace into sent_as values (?, ?, ?, ?)",
                (chunk.incarnation, chunk.first, wire_id, chunk.first - last - 1),
            )
        return replace(chunk, wire_id=wire_id, wire_seq=last + 1)

    def _sent_as(self, incarnation: str, place: int) -> tuple[str, int]:
        """What the row at that place was sent as."""
        found = self.db.execute(
            "select wire_id, shift from sent_as where incarnation = ? and first <= ? order by first desc limit 1",
            (incarnation, place),
        ).fetchone()
        return (incarnation, place) if found is None else (found[0], place - found[1])

    def _split(self, chunk: Chunk, count: int) -> Chunk:
        """Put the chunk as two; the one with its first ``count`` rows."""
        rows = json.loads(inflate(chunk.body))
        halves = [deflate(json.dumps(part, separators=(",", ":"))) for part in (rows[:count], rows[count:])]
        middle = chunk.first + count
        seq = None if chunk.wire_seq is None else chunk.wire_seq + count
        first = replace(chunk, last=middle - 1, body=halves[0])
        self.delete(chunk)
        self.put(first)
        self.put(replace(chunk, first=middle, wire_seq=seq, body=halves[1]))
        return first

    def _keep_refused(self, chunk: Chunk, refused: Mapping[int, str]) -> None:
        wire_id, first = chunk.sent_as
        mine = {seq: reason for seq, reason in sorted(refused.items()) if first <= seq < first + chunk.count}
        if not mine:
            return
        bodies = unpack(chunk.body)
        self.db.executemany(
            "insert into refused (wire_id, seq, reason, body) values (?, ?, ?, ?)",
            [(wire_id, seq, reason, pack([bodies[seq - first]])) for seq, reason in mine.items()],
        )
        count_state(self.db, "refused", len(mine))
        self.db.execute("delete from refused where id <= (select max(id) from refused) - ?", (KEEP_REFUSED,))
