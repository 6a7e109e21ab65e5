"""The durable outbox: rows wait on disk until a ledger has acknowledged them.

One SQLite file per agent (docs/decisions/0006-outbox.md). Rows are *open* while their shares may still
change, then *final*: numbered within the incarnation they were born in, immutable, drained in
order. The agent writes; whoever takes rows into a ledger reads batches and acknowledges them.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from joulebook.rows import Batch, Body, Row, from_wire, to_wire

BATCH_ROWS = 1000
MOST_BYTES = 1 << 30
"""Size that an outbox does not exceed on disk, when not set otherwise."""

_SCHEMA = """
create table if not exists open (key text primary key, body text not null) without rowid;
create table if not exists final (
    incarnation text not null, seq integer not null, body text not null,
    primary key (incarnation, seq)
) without rowid;
create table if not exists incarnation (id text primary key, opened integer not null, last_seq integer not null)
    without rowid;
create table if not exists state (key text primary key, value text not null) without rowid;
"""


class Outbox:
    """Rows of one agent on disk. Not for use by several threads.

    agent_id: a lasting random id of this outbox.  incarnation: a fresh random id for every
    writer; None when opened only to drain.  most_bytes: size on disk that a writer does not exceed;
    past it the disk "refuses" until rows are acknowledged.
    """

    def __init__(self, path: Path, *, writer: bool, most_bytes: int = MOST_BYTES) -> None:
        self.path = path
        self._db = sqlite3.connect(path, timeout=30.0, isolation_level=None)
        path.chmod(0o600)
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = full")
        page_bytes = self._db.execute("pragma page_size").fetchone()[0]
        self._db.execute(f"pragma max_page_count = {most_bytes // page_bytes}")
        self._db.executescript(_SCHEMA)
        with self._transaction():
            self._db.execute("insert or ignore into state values ('agent_id', ?)", (secrets.token_hex(8),))
        self.agent_id: str = self._db.execute("select value from state where key = 'agent_id'").fetchone()[0]
        self.incarnation: str | None = None
        self._seq = 0
        if writer:
            self.incarnation = secrets.token_hex(8)
            with self._transaction():
                self._db.execute(
                    "insert into incarnation select ?, coalesce(max(opened), 0) + 1, 0 from incarnation",
                    (self.incarnation,),
                )

    def close(self) -> None:
        """Close the file; every committed row stays."""
        self._db.close()

    def write(
        self,
        *,
        drop: Iterable[str] = (),
        open_rows: Mapping[str, Body] | None = None,
        finish: Iterable[tuple[str, Body]] = (),
        final: Iterable[Body] = (),
        state: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """One durable transaction. Returns the seq given to each finished and final row, in order.

        drop: keys of open rows that are no more.  open_rows: key -> row, replacing what the key held.
        finish: (key, row) that leave the open rows and become final.  final: rows that are final from
        the start.  state: agent's own memory.  Raises OSError when the disk refuses: then nothing
        of it is written.
        """
        if self.incarnation is None:
            raise ValueError("this outbox was opened to drain")
        try:
            return self._write(self.incarnation, drop, open_rows or {}, finish, final, state or {})
        except sqlite3.OperationalError as error:
            raise OSError(f"{self.path}: {error}") from error

    def _write(
        self,
        incarnation: str,
        drop: Iterable[str],
        open_rows: Mapping[str, Body],
        finish: Iterable[tuple[str, Body]],
        final: Iterable[Body],
        state: Mapping[str, Any],
    ) -> list[int]:
        numbered: list[tuple[str, int, str]] = []
        seq = self._seq
        with self._transaction():
            self._db.executemany("delete from open where key = ?", [(key,) for key in drop])
            self._db.executemany(
                "insert or replace into open values (?, ?)",
                [(key, _dump(to_wire(body))) for key, body in open_rows.items()],
            )
            for key, body in finish:
                self._db.execute("delete from open where key = ?", (key,))
                seq += 1
                numbered.append((incarnation, seq, _dump(to_wire(body))))
            for body in final:
                seq += 1
                numbered.append((incarnation, seq, _dump(to_wire(body))))
            self._db.executemany("insert into final values (?, ?, ?)", numbered)
            self._db.execute("update incarnation set last_seq = ? where id = ?", (seq, incarnation))
            self._db.executemany(
                "insert or replace into state values (?, ?)", [(k, _dump(v)) for k, v in state.items()]
            )
        self._seq = seq
        return [number for _, number, _ in numbered]

    def state(self, key: str) -> Any:
        """What an earlier ``write`` kept under that key, None when nothing."""
        found = self._db.execute("select value from state where key = ?", (key,)).fetchone()
        return None if found is None else json.loads(found[0])

    def open_rows(self) -> dict[str, Body]:
        """Rows whose shares may still change, by key, in key order."""
        rows = self._db.execute("select key, body from open order by key").fetchall()
        return {key: from_wire(json.loads(body)) for key, body in rows}

    def batches(self, limit: int = BATCH_ROWS) -> Iterator[Batch]:
        """Final rows not yet acknowledged, oldest incarnation first, in contiguous batches."""
        for incarnation, _, _ in self._incarnations():
            after = 0
            while rows := self._db.execute(
                "select seq, body from final where incarnation = ? and seq > ? order by seq limit ?",
                (incarnation, after, limit),
            ).fetchall():
                after = rows[-1][0]
                bodies = tuple(Row(seq, from_wire(json.loads(body))) for seq, body in rows)
                yield Batch(self.agent_id, incarnation, bodies)

    def acknowledge(self, incarnation: str, seq: int) -> None:
        """Forget final rows of that incarnation up to and including ``seq``: a ledger has them durably."""
        with self._transaction():
            self._db.execute("delete from final where incarnation = ? and seq <= ?", (incarnation, seq))

    def depth(self) -> int:
        """Final rows that wait."""
        count: int = self._db.execute("select count(*) from final").fetchone()[0]
        return count

    def _incarnations(self) -> list[tuple[str, int, int]]:
        return self._db.execute("select id, opened, last_seq from incarnation order by opened").fetchall()

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db)


class _Transaction:
    """begin immediate ... commit, rolled back on any error."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("begin immediate")

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            try:
                self._db.execute("commit")
            except sqlite3.OperationalError:
                self._undo()
                raise
        else:
            self._undo()

    def _undo(self) -> None:
        if self._db.in_transaction:
            self._db.execute("rollback")


def _dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
