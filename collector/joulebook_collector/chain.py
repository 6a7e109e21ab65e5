"""The hash chain: every transaction's digest covers its log line, its rows, and the digest of the one before.

A row's canonical bytes are its own columns as MessagePack, in the order of the schema, without those that its log line
says already. Trailing nulls are left out, so that a column which a later version adds changes no older digest. Beside
the digest two bytes of a checksum stand for each row: they name the row that differs, and prove nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any, Final
from zlib import crc32

import msgspec

from joulebook_collector import schema

FIRST: Final = b""
"""What the first transaction has in place of a digest before it."""

DIGEST_BYTES: Final = 20
TAG_BYTES: Final = 2
_SEQ_BYTES: Final = 8
OF_LOG: Final = ("txn", "known_at_us", "agent_id", "incarnation")
"""Columns of a row that repeat its log line: compared with it, and not hashed again."""

_pack: Final = msgspec.msgpack.Encoder().encode


def covered() -> list[str]:
    """Tables whose rows a digest covers, in its order; shares go with their measurement."""
    return [name for name in schema.TABLES if name not in ("log", "share")]


def own_columns(table: str) -> list[str]:
    """Columns of a table that its rows' bytes are made of; seq leads where there is one."""
    return [name for name, _ in schema.TABLES[table] if name not in OF_LOG]


def pack_values(values: Sequence[Any], shares: Sequence[Sequence[Any]] = ()) -> bytes:
    """A row's values as canonical bytes. Raises OverflowError, UnicodeEncodeError on what no column holds."""
    if values and values[-1] is None:
        values = _without_trailing_nulls(values)
    return _pack((values, shares)) if shares else _pack((values,))


def pack_row(seq: int, packed: bytes) -> bytes:
    """The bytes of a row that has a place in a stream."""
    return seq.to_bytes(_SEQ_BYTES, "big") + packed


def pack_line(line: Sequence[Any]) -> bytes:
    """The bytes of a log line, in the order of schema.LOG."""
    return _pack(_without_trailing_nulls(line))


def tag(row: bytes) -> bytes:
    """Two bytes that tell most rows apart."""
    return (crc32(row) & 0xFFFF).to_bytes(TAG_BYTES, "big")


def link(before: bytes, line: bytes, rows: Iterable[bytes]) -> tuple[bytes, bytes]:
    """A transaction's digest and its tags, the log line's first. rows: of all tables, in the order of ``covered``."""
    told = [line, *rows]
    digest = blake2b(before, digest_size=DIGEST_BYTES)
    for row in told:
        digest.update(len(row).to_bytes(4, "big"))
        digest.update(row)
    return digest.digest(), b"".join(map(tag, told))


def in_order(rows: dict[str, list[bytes]]) -> list[bytes]:
    """The rows of a transaction in the order in which they are hashed: by table, then by their bytes."""
    return [row for table in covered() for row in sorted(rows.get(table, ()))]


def _without_trailing_nulls(values: Sequence[Any]) -> Sequence[Any]:
    last = len(values)
    while last and values[last - 1] is None:
        last -= 1
    return values[:last]
