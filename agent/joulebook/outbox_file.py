"""The outbox's SQLite file: layout, bound on disk, and what is done with one that cannot be read."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from joulebook.errors import JoulebookError

MOST_BYTES: Final = 1 << 30
"""Size that an outbox does not exceed on disk, when not set otherwise."""
WAIT_SECONDS: Final = 30.0
"""How long a transaction of another process is waited for; all of them are short."""
WRITER_WAITS_SECONDS: Final = 5.0
"""The same for the agent, which has meters to read: what it could not write is written with the next flush."""
LAYOUT: Final = 2
LEAST_PAGES: Final = 48
TRANSACTION_PAGES: Final = 64
"""Room in the write-ahead log for one large transaction, beyond the point at which it is taken into the file."""
RELEASE_PAGES: Final = 1024
"""Free pages that the file keeps for the rows to come; more are given back to the file system."""

_LAYOUT = """
create table open (id integer primary key, keys text not null, body blob not null);

create table incarnation (
    opened integer primary key, id text not null, wire_id text not null, wire_seq integer not null
);

create table final (
    opened integer not null, first integer not null, last integer not null,
    wire_id text, wire_seq integer, names integer not null, body blob not null
);

create unique index queue on final (opened, first, last);

create index sent on final (wire_id, wire_seq) where wire_id is not null;

create table named (incarnation text not null, place integer not null, primary key (incarnation, place)) without rowid;

create table sent_as (
    incarnation text not null, first integer not null, wire_id text not null, shift integer not null,
    primary key (incarnation, first)
) without rowid;

create table refused (
    id integer primary key autoincrement, wire_id text not null, seq integer not null, reason text not null,
    body blob not null
);

create table state (key text primary key, value text not null) without rowid;

insert into state values ('waiting', 0);

create trigger more_wait after insert on final begin
    update state set value = value + new.last - new.first + 1 where key = 'waiting';
end;

create trigger fewer_wait after delete on final begin
    update state set value = value - old.last + old.first - 1 where key = 'waiting';
end;
"""
"""Statements, a blank line between. waiting: rows in the queue; in months of silence they are too many to count."""


def new_id() -> str:
    """A random id of 64 bits. (The module ``secrets`` would bring OpenSSL and its megabytes along.)"""
    return os.urandom(8).hex()


class Unreadable(sqlite3.DatabaseError):
    """The file is no outbox of this layout."""


class Transaction:
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


@contextmanager
def unsynced(db: sqlite3.Connection) -> Iterator[None]:
    """Commits within last through a kill; through a loss of power only from the next other commit on."""
    db.execute("pragma synchronous = normal")
    try:
        yield
    finally:
        db.execute("pragma synchronous = full")


def open_file(path: Path, most_bytes: int | None) -> sqlite3.Connection:
    """A connection to that outbox, made when absent. most_bytes: its bound; None for who drains it.

    Draining has no bound, so that a full file can be drained, and waits longer for other processes.
    Raises JoulebookError where it cannot be opened or written, sqlite3.DatabaseError when it is no outbox.
    """
    try:
        wait = WAIT_SECONDS if most_bytes is None else WRITER_WAITS_SECONDS
        db = sqlite3.connect(path, timeout=wait, isolation_level=None)
        try:
            _set_up(db, path, most_bytes)
        except BaseException:
            db.close()
            raise
    except (sqlite3.OperationalError, OSError) as error:
        raise JoulebookError(
            f"cannot open the outbox {path}: {error}",
            "make its directory writable, with space left; or set JOULEBOOK_HOME to one that is",
        ) from error
    return db


def _set_up(db: sqlite3.Connection, path: Path, most_bytes: int | None) -> None:
    layout = _layout(db, path)
    path.chmod(0o600)
    if layout == 0:
        db.execute("pragma auto_vacuum = incremental")  # on a file that has tables it would be a write
    page = db.execute("pragma page_size").fetchone()[0]
    pages = max((most_bytes or MOST_BYTES) // page, LEAST_PAGES)
    log_pages = min(pages // 8, 256)
    db.execute("pragma journal_mode = wal")
    db.execute("pragma synchronous = full")
    db.execute("pragma cache_size = -256")
    db.execute(f"pragma wal_autocheckpoint = {log_pages}")
    db.execute(f"pragma journal_size_limit = {log_pages * page}")
    if most_bytes is not None:
        db.execute(f"pragma max_page_count = {pages - log_pages - min(pages // 4, TRANSACTION_PAGES)}")
    if layout == 0:
        with Transaction(db):
            if _layout(db, path) == 0:  # nobody was quicker
                for statement in _LAYOUT.split("\n\n"):
                    db.execute(statement)
                db.execute(f"pragma user_version = {LAYOUT}")


def _layout(db: sqlite3.Connection, path: Path) -> int:
    """The file's layout, 0 when it is empty."""
    layout: int = db.execute("pragma user_version").fetchone()[0]
    tables = db.execute("select count(*) from sqlite_schema").fetchone()[0]
    if layout > LAYOUT:
        raise JoulebookError(
            f"the outbox {path} was written by a newer joulebook (layout {layout}, this one knows {LAYOUT})",
            "use that version, or move the file away",
        )
    if tables and layout < LAYOUT:
        raise Unreadable("it is of an older layout")
    return layout


def is_nearly_full(db: sqlite3.Connection) -> bool:
    """True when less than an eighth of what the file may hold is free."""
    pages: int = db.execute("pragma page_count").fetchone()[0]
    most: int = db.execute("pragma max_page_count").fetchone()[0]
    if pages < most - most // 8:
        return False
    free: int = db.execute("pragma freelist_count").fetchone()[0]
    return pages - free >= most - most // 8


def release(db: sqlite3.Connection) -> None:
    """Give the file system back what drained rows took, a little at a time. Not within a transaction."""
    if db.execute("pragma freelist_count").fetchone()[0] > RELEASE_PAGES:
        db.executescript("pragma incremental_vacuum(256)")  # a step per page: ``execute`` takes only the first


def state_of(db: sqlite3.Connection, key: str) -> Any:
    """What is kept under that key, None when nothing."""
    found = db.execute("select value from state where key = ?", (key,)).fetchone()
    return None if found is None else json.loads(found[0])


def put_state(db: sqlite3.Connection, key: str, value: Any) -> None:
    """Keep a JSON value under that key."""
    db.execute("insert or replace into state values (?, ?)", (key, json.dumps(value)))


def count_state(db: sqlite3.Connection, key: str, more: int) -> None:
    """Add to a count."""
    put_state(db, key, (state_of(db, key) or 0) + more)


def is_broken(error: sqlite3.Error) -> bool:
    """True when the file itself is damaged, not merely refused by the disk."""
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(error, Unreadable) or (
        code is not None and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    )


def put_aside(path: Path, why: object) -> Path:
    """Move a file that cannot be read out of the way, with its log, and say so. Nothing of it is deleted."""
    at = datetime.now(UTC)
    kept = path.with_name(f"{path.name}.unreadable-{at:%Y%m%dT%H%M%S.%fZ}")
    for suffix in ("-wal", "-shm"):
        side = path.with_name(path.name + suffix)
        if side.exists():
            side.rename(kept.with_name(kept.name + suffix))
    path.rename(kept)
    print(
        f"joulebook: cannot read the outbox {path}: {why}: it is kept as {kept.name}, a fresh one is begun",
        file=sys.stderr,
    )
    return kept


def keep_damaged(db: sqlite3.Connection, wire_id: str, first: int, last: int, packed: bytes) -> None:
    """Durably keep packed rows that cannot be read in a file beside the outbox, and say so.

    wire_id, first, last: what they were, or would have been, sent as. Raises JoulebookError when the disk refuses.
    """
    path = Path(db.execute("select file from pragma_database_list where name = 'main'").fetchone()[0])
    kept = path.with_name(f"{path.name}.unreadable-rows-{wire_id}-{first}-{last}")
    try:
        with os.fdopen(os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(packed)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise JoulebookError(
            f"damaged rows of the outbox {path} cannot be kept aside: {error}",
            "make its directory writable, with space left",
        ) from error
    print(
        f"joulebook: {last - first + 1} rows of the outbox {path} are damaged (incarnation {wire_id}, seq {first} to"
        f" {last}): they are kept as {kept.name} and are missing from the book",
        file=sys.stderr,
    )


def files_set_aside(path: Path) -> list[Path]:
    """Unreadable files and rows of that outbox that were kept, by name: files oldest first, then rows."""
    found = path.parent.glob(f"{path.name}.unreadable-*")
    return sorted(file for file in found if not file.name.endswith(("-wal", "-shm")))


def bytes_on_disk(path: Path) -> int:
    """Size of the outbox with its write-ahead log, bytes."""
    files = (path, path.with_name(path.name + "-wal"))
    return sum(file.stat().st_size for file in files if file.exists())
