"""The ledger of a running collector, for another process of the same user: SQL over a socket beside the file.

The file has one owner; whoever may open the file may also open this socket (mode 0600, in the same directory), and
gets a connection of its own in the owner's process. A transaction takes the owner's turn to write, and gives it
back at its end or with the connection.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import duckdb
import msgspec
from joulebook.errors import LedgerError

_LENGTH: Final = struct.Struct("!I")
MOST_BYTES: Final = 1 << 30
"""Of one statement or one answer."""
TURN_SECONDS: Final = 60.0
"""How long a transaction of another process waits for its turn."""


def socket_path(ledger: Path) -> Path:
    """Where the owner of that ledger listens."""
    return ledger.with_name(ledger.name + ".sock")


class RemoteConnection:
    """Has of a DuckDB connection what readers and writers of the ledger use."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _with_short_name(path, self._socket.connect)
        except OSError:
            self._socket.close()
            raise
        self._rows: list[tuple[Any, ...]] = []

    def execute(self, sql: str, values: Any = ()) -> Self:
        """Run a statement. Raises LedgerError with the owner's words when it fails there."""
        rows = self._ask("execute", sql, values if isinstance(values, dict) else list(values))
        self._rows = [tuple(row) for row in rows]
        return self

    def register(self, name: str, table: Any) -> None:
        """Let statements name an Arrow table."""
        import pyarrow as pa

        with pa.BufferOutputStream() as sink:
            with pa.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(table)
            self._ask("register", name, sink.getvalue().to_pybytes())

    def unregister(self, name: str) -> None:
        """Forget a table that was registered."""
        self._ask("unregister", name, None)

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Rows of the last statement."""
        return self._rows

    def close(self) -> None:
        """Let the connection go; an open transaction is rolled back."""
        self._socket.close()

    def _ask(self, what: str, first: str, second: Any) -> list[Any]:
        try:
            _send(self._socket, [what, first, second])
            answer = _receive(self._socket)
        except OSError as error:
            raise self._gone() from error
        if answer is None:
            raise self._gone()
        if "error" in answer:
            raise LedgerError(answer["error"], "see the collector's log; try again")
        rows: list[Any] = answer["rows"]
        return rows

    def _gone(self) -> LedgerError:
        return LedgerError("the collector that has the ledger ended meanwhile", "run the command again")


Connection = duckdb.DuckDBPyConnection | RemoteConnection
"""To the ledger's file, or to the process that has it."""


class Door:
    """Lets other processes of this user at the ledger that this one owns; ``close`` it before the ledger.

    db: a connection to duplicate for each visitor.  turn: held by a visitor's transaction.
    written: called after a visitor's transaction, its turn still held.
    """

    def __init__(
        self, ledger: Path, db: duckdb.DuckDBPyConnection, turn: threading.Lock, written: Callable[[], None]
    ) -> None:
        self._path = socket_path(ledger)
        self._db = db
        self._turn = turn
        self._written = written
        self._visitors: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._path.unlink(missing_ok=True)  # of an owner that was killed: we hold the ledger's lock
        before = os.umask(0o177)
        try:
            _with_short_name(self._path, self._socket.bind)
        finally:
            os.umask(before)
        self._socket.listen(16)
        self._thread = threading.Thread(target=self._welcome, name="door", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let nobody in any more and send away who is there."""
        self._path.unlink(missing_ok=True)
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        for visitor in list(self._visitors):
            with contextlib.suppress(OSError):
                visitor.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _welcome(self) -> None:
        while True:
            try:
                visitor, _ = self._socket.accept()
            except OSError:
                return
            self._visitors.add(visitor)
            thread = threading.Thread(target=self._serve, args=(visitor,), name="visitor", daemon=True)
            self._threads = [old for old in self._threads if old.is_alive()] + [thread]
            thread.start()

    def _serve(self, visitor: socket.socket) -> None:
        visit = _Visit(self._db.cursor(), self._turn, self._written)
        try:
            while (asked := _receive(visitor)) is not None:
                _send_text(visitor, visit.answer(*asked))
        except OSError:
            pass  # the other process went away
        finally:
            visit.end()
            visitor.close()
            self._visitors.discard(visitor)


@dataclass(slots=True)
class _Visit:
    """One visitor's connection; from ``begin`` to ``commit`` or ``rollback`` it is its turn to write."""

    db: duckdb.DuckDBPyConnection
    turn: threading.Lock
    written: Callable[[], None]
    mine: bool = False

    def answer(self, what: str, first: str, second: Any) -> bytes:
        if what == "register":
            return _told(lambda: self._register(first, second))
        if what == "unregister":
            return _told(lambda: self._unregister(first))
        word = first.split(maxsplit=1)[0].lower() if first.strip() else ""
        if word == "begin" and not self.mine:
            self.mine = self.turn.acquire(timeout=TURN_SECONDS)
            if not self.mine:
                return _error("the collector has been writing without a pause")
        text = _told(lambda: self.db.execute(first, second).fetchall())
        if self.mine and word in ("commit", "rollback"):
            self._give_back()
        return text

    def end(self) -> None:
        self.db.close()  # rolls back what it had begun
        if self.mine:
            self._give_back()

    def _give_back(self) -> None:
        self.written()
        self.mine = False
        self.turn.release()

    def _register(self, name: str, text: bytes) -> list[Any]:
        import pyarrow as pa

        self.db.register(name, pa.ipc.open_stream(text).read_all())
        return []

    def _unregister(self, name: str) -> list[Any]:
        self.db.unregister(name)
        return []


def _told(ask: Callable[[], list[Any]]) -> bytes:
    try:
        text = msgspec.msgpack.encode({"rows": ask()})
    except (duckdb.Error, OverflowError, TypeError) as error:  # the latter: a value that has no form on this wire
        return _error(str(error).splitlines()[0])
    return text if len(text) <= MOST_BYTES else _error(f"the answer has {len(text)} bytes, more than is sent")


def _error(why: str) -> bytes:
    return msgspec.msgpack.encode({"error": why})


def _send(to: socket.socket, message: Any) -> None:
    _send_text(to, msgspec.msgpack.encode(message))


def _send_text(to: socket.socket, text: bytes) -> None:
    to.sendall(_LENGTH.pack(len(text)) + text)


def _receive(source: socket.socket) -> Any:
    """The next message, None at the end."""
    head = _exactly(source, _LENGTH.size)
    if head is None:
        return None
    text = _exactly(source, _LENGTH.unpack(head)[0])
    return None if text is None else msgspec.msgpack.decode(text)


def _exactly(source: socket.socket, count: int) -> bytes | None:
    pieces = []
    while count:
        piece = source.recv(min(count, 1 << 20))
        if not piece:
            return None
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def _with_short_name(path: Path, use: Callable[[str], object]) -> None:
    """Socket names end at 107 bytes, directories do not: a descriptor of the directory is short."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        use(f"/proc/self/fd/{folder}/{path.name}" if len(os.fsencode(path)) > 100 else str(path))
    finally:
        os.close(folder)


def visit(ledger: Path) -> RemoteConnection | None:
    """A connection to the process that owns the ledger, None when none listens. Says on stderr that it asks."""
    try:
        connection = RemoteConnection(socket_path(ledger))
    except OSError:
        return None
    print("joulebook: a collector has the ledger; asking it", file=sys.stderr, flush=True)
    return connection
