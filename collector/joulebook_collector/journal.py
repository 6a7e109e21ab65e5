"""Numbers, moments and digests of transactions, and their lines in the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from joulebook_collector import chain
from joulebook_collector.arrow import insert

if TYPE_CHECKING:
    from joulebook_collector.remote import Connection


@dataclass(frozen=True, slots=True)
class Stamp:
    """A transaction's number and the moment since which its rows are known, UTC microseconds."""

    txn: int
    known_at_us: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A transaction that is being written. rows: table -> canonical bytes of what it holds so far."""

    stamp: Stamp
    rows: dict[str, list[bytes]] = field(default_factory=dict)

    def add(self, table: str, rows: Sequence[bytes]) -> None:
        """Rows that the transaction's digest covers."""
        self.rows.setdefault(table, []).extend(rows)


class Journal:
    """What follows on what is in the log. Only good within the commit, or after it, that it was read before."""

    def __init__(self, db: Connection) -> None:
        self._db = db
        self._txn, self._known_us = db.execute(
            "select coalesce(max(txn), 0), coalesce(max(known_at_us), 0) from log"
        ).fetchall()[0]
        head = db.execute("select digest from chain where txn = ?", [self._txn]).fetchall()
        self._head = bytes(head[0][0]) if head else chain.FIRST
        self._lines: list[tuple[Any, ...]] = []
        self._links: list[tuple[int, bytes, bytes]] = []

    def open(self, now_us: int) -> Entry:
        """The next transaction."""
        self._txn += 1
        self._known_us = max(now_us, self._known_us + 1)
        return Entry(Stamp(self._txn, self._known_us))

    def close(self, entry: Entry, line: Sequence[Any]) -> None:
        """End a transaction, in the order in which they were opened. line: of the log, from action on."""
        told = (entry.stamp.txn, entry.stamp.known_at_us, *line)
        self._head, tags = chain.link(self._head, chain.pack_line(told), chain.in_order(entry.rows))
        self._lines.append(told)
        self._links.append((entry.stamp.txn, self._head, tags))

    def flush(self) -> None:
        """Write the lines and digests of what has ended."""
        if self._lines:
            insert(self._db, "log", list(zip(*self._lines, strict=True)))
            insert(self._db, "chain", list(zip(*self._links, strict=True)))
        self._lines, self._links = [], []
