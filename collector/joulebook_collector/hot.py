"""Measurements and shares on their way into the hot tables, column by column."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from joulebook_collector import schema
from joulebook_collector.arrow import insert
from joulebook_collector.columns import Record, Values
from joulebook_collector.journal import Stamp
from joulebook_collector.names import Names

if TYPE_CHECKING:
    from joulebook_collector.remote import Connection


def _at(columns: Sequence[tuple[str, str]], among: Sequence[tuple[str, str]]) -> tuple[int, ...]:
    return tuple(among.index(column) for column in columns)


_STAMPED: Final = 5
"""Leading columns of both tables: txn, known_at_us, stream, seq, and the number of a look or an owner."""
_LOOK: Final = itemgetter(*_at(schema.LOOK, schema.MEASUREMENT))
_OWNER: Final = itemgetter(*_at(schema.OWNER, schema.SHARE))
_MEASURED: Final = _at(schema.MEASUREMENT_ROW[_STAMPED:], schema.MEASUREMENT)
_SHARED: Final = _at(schema.SHARE_ROW[_STAMPED:], schema.SHARE)


class HotRows:
    """Gathers rows until ``flush`` writes them with one statement a table."""

    def __init__(self, db: Connection) -> None:
        self._db = db
        self._streams, self._looks, self._owners = (Names(db, table) for table in schema.NAMES)
        self._clear()

    def add(self, stamp: Stamp, place: tuple[str, str], rows: Sequence[tuple[int, Record]]) -> None:
        """Gather measurements of one transaction and stream, each with its seq."""
        if not rows:
            return
        stream = self._streams.number(place)
        values = [record.values for _, record in rows]
        shares = [share for _, record in rows for share in record.shares]
        seqs = [seq for seq, _ in rows]
        looks = list(map(self._looks.number, map(_LOOK, values)))
        owners = list(map(self._owners.number, map(_OWNER, shares)))
        share_seqs = [seq for seq, record in rows for _ in record.shares]
        _extend(self._measured, stamp, stream, seqs, looks, values, _MEASURED)
        _extend(self._shared, stamp, stream, share_seqs, owners, shares, _SHARED)

    def flush(self) -> None:
        """Write what was gathered, inside a transaction."""
        for names in (self._streams, self._looks, self._owners):
            if new := names.take_new():
                insert(self._db, names.table, list(zip(*new, strict=True)))
        if self._measured[0]:
            insert(self._db, "measurement_row", self._measured)
        if self._shared[0]:
            insert(self._db, "share_row", self._shared)
        self._clear()

    def _clear(self) -> None:
        self._measured: list[list[Any]] = [[] for _ in schema.MEASUREMENT_ROW]
        self._shared: list[list[Any]] = [[] for _ in schema.SHARE_ROW]


def _extend(
    into: list[list[Any]],
    stamp: Stamp,
    stream: int,
    seqs: list[int],
    numbers: list[int],
    values: Sequence[Values],
    picked: Sequence[int],
) -> None:
    count = len(values)
    if not count:
        return
    lead = ([stamp.txn] * count, [stamp.known_at_us] * count, [stream] * count, seqs, numbers)
    told = list(zip(*values, strict=True))
    for column, more in zip(into, (*lead, *(told[i] for i in picked)), strict=True):
        column.extend(more)
