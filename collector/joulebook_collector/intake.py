"""What becomes of delivered batches: each row new, held already, refused, or proof that two agents write one stream.

What decides on most rows is kept in memory (high-water marks, the last end of every device's spans); the book itself is
asked only about rows that were delivered before and spans that come out of order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import msgspec
from joulebook.errors import BadInput, LedgerError
from joulebook.rows import Batch, Body, Measurement, Row, kind_of, to_wire

from joulebook_collector import chain, columns
from joulebook_collector.columns import Record, Values
from joulebook_collector.held import Held, Place, Spans, held_rows, spans_near
from joulebook_collector.hot import HotRows
from joulebook_collector.journal import Entry, Journal, Stamp
from joulebook_collector.plain import PlainMeasurement
from joulebook_collector.unread import Unread

if TYPE_CHECKING:
    from joulebook_collector.remote import Connection

Insert = Callable[[str, Sequence[Sequence[Any]]], None]


class Forked(LedgerError):
    """Rows re-sent under a place that holds others: two agents write one incarnation (a cloned disk).

    seq: the first row that differs.
    """

    def __init__(self, incarnation: str, seq: int) -> None:
        super().__init__(
            f"row {seq} of incarnation {incarnation} differs from the one that is stored",
            "send the waiting rows under a new incarnation",
        )
        self.seq = seq


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a batch. high_water: the highest seq of its incarnation that the ledger has seen.

    refused: (seq, reason) of the rows that are in quarantine, by this delivery or an earlier one.
    """

    accepted: int
    duplicates: int
    quarantined: int
    high_water: int
    refused: tuple[tuple[int, str], ...] = field(default=(), compare=False)


class _Judged(msgspec.Struct, frozen=True, gc=False):
    """A row that the ledger does not hold yet; refused says why it goes to quarantine."""

    seq: int
    record: Record
    refused: str = ""
    duplicate: bool = False


COPY: Final = "the same row is stored under another place"
"""Why a row is in quarantine that was not refused: delivered again under another incarnation, it counts once."""

_KEY: Final = itemgetter(0, 1, 2, 9)
"""machine, boot, device and meter of a measurement's values: spans of one agent under one key never overlap."""
_START_NS, _END_NS = 6, 7


class Intake:
    """Judges batches and gathers what is to be written, until ``flush``. Begun anew after anything was rolled back."""

    def __init__(self, db: Connection, journal: Journal, insert: Insert) -> None:
        self._db, self._journal, self._insert = db, journal, insert
        self._hot = HotRows(db)
        self._others: dict[str, list[Values]] = {}
        self._waiting: set[str] = set()
        self._high: dict[Place, int] = {
            (agent, incarnation): high
            for agent, incarnation, high in db.execute(
                "select agent_id, incarnation, max(high_water) from log where action = 'ingest' group by all"
            ).fetchall()
        }
        self._ends: dict[tuple[str, ...], int] = {
            tuple(key): end
            for *key, end in db.execute(
                "select agent_id, machine_id, boot_id, device_id, meter, max(ended_ns) from measurement group by all"
            ).fetchall()
        }

    def take(self, batch: Batch, now_us: int, *, whole: bool = False) -> Receipt:
        """Judge a batch, and gather it when it is taken. Raises Forked, BadInput; nothing of it is gathered then."""
        _check_batch(batch)
        place = (batch.agent_id, batch.incarnation)
        high = self._high.get(place, 0)
        held = self._held(batch) if batch.first_seq <= high else {}
        judged = _read(batch)
        bodies = {row.seq: row.body for row in batch.rows} if held else {}
        for row in judged:
            if row.seq in held and not held[row.seq].same_as(row.record, partial(as_text, bodies[row.seq])):
                raise Forked(batch.incarnation, row.seq)
        told = [(seq, row.reason) for seq, row in sorted(held.items()) if row.reason and row.reason != COPY]
        fresh = [row for row in judged if row.seq not in held]
        if not fresh:
            return Receipt(0, len(judged), 0, high, tuple(told))
        fresh, ends = self._without_overlaps(batch.agent_id, fresh)
        if whole:
            _refuse_partial(fresh)
        good = [row for row in fresh if not row.refused]
        refused = [row for row in fresh if row.refused and not row.duplicate]
        duplicates = len(judged) - len(good) - len(refused)
        top = max(high, batch.last_seq)
        gap = (high + 1, batch.first_seq - 1) if batch.first_seq > high + 1 else (None, None)
        entry = self._journal.open(now_us)
        self._gather(entry, place, good, [row for row in fresh if row.refused], batch)
        counts = (top, len(good), duplicates, len(refused))
        self._journal.close(entry, ("ingest", *place, batch.first_seq, *counts, *gap, ""))
        self._high[place] = top
        self._ends.update(ends)
        self._waiting.add(batch.agent_id)
        told += [(row.seq, row.refused) for row in refused]
        return Receipt(len(good), duplicates, len(refused), top, tuple(told))

    def replay(self, place: Place, seq: int, body: Body, now_us: int) -> Stamp:
        """Gather a row that was refused before, at its own place. Raises BadInput when it breaks a rule still."""
        batch = Batch(*place, (Row(seq, body),))
        fresh, ends = self._without_overlaps(place[0], _read(batch))
        (row,) = fresh
        if row.refused:
            raise BadInput(row.refused, "leave it in quarantine")
        entry = self._journal.open(now_us)
        self._gather(entry, place, fresh, [], batch)
        self._journal.close(entry, ("replay", *place, seq, self._high.get(place, 0), 1, 0, 0, None, None, ""))
        self._ends.update(ends)
        self._waiting.add(place[0])
        return entry.stamp

    def flush(self) -> None:
        """Write what was gathered."""
        self._hot.flush()
        for table, rows in self._others.items():
            self._insert(table, rows)
        self._others = {}
        self._journal.flush()
        self._waiting.clear()

    def _held(self, batch: Batch) -> dict[int, Held]:
        if batch.agent_id in self._waiting:
            self.flush()
        return held_rows(self._db, (batch.agent_id, batch.incarnation), batch.first_seq, batch.last_seq)

    def _without_overlaps(
        self, agent_id: str, fresh: list[_Judged]
    ) -> tuple[list[_Judged], Mapping[tuple[str, ...], int]]:
        """Refuse a measurement that overlaps another of its device by the same meter of the same agent.

        With the rows, the last ends that hold once they are stored.
        """
        ends: dict[tuple[str, ...], int] = {}
        measured = [row.record.values for row in fresh if row.record.kind == "measurement" and not row.refused]
        for values in measured:
            key = (agent_id, *_KEY(values))
            if values[_START_NS] < (ends.get(key) or self._ends.get(key, values[_START_NS])):
                break
            ends[key] = values[_END_NS]
        else:
            return fresh, ends
        if agent_id in self._waiting:
            self.flush()
        taken = spans_near(self._db, agent_id, measured)
        judged = [_judge(row, taken) if row.record.kind == "measurement" and not row.refused else row for row in fresh]
        ends = {}
        for row in judged:
            if row.record.kind == "measurement" and not row.refused:
                key = (agent_id, *_KEY(row.record.values))
                ends[key] = max(ends.get(key) or self._ends.get(key, 0), row.record.values[_END_NS])
        return judged, ends

    def _gather(self, entry: Entry, place: Place, good: list[_Judged], refused: list[_Judged], batch: Batch) -> None:
        measured = [(row.seq, row.record) for row in good if row.record.kind == "measurement"]
        entry.add("measurement", [chain.pack_row(seq, record.packed) for seq, record in measured])
        self._hot.add(entry.stamp, place, measured)
        stamp = (entry.stamp.txn, entry.stamp.known_at_us, *place)
        for row in good if len(measured) < len(good) else ():
            if row.record.kind != "measurement":
                entry.add(row.record.kind, [chain.pack_row(row.seq, row.record.packed)])
                self._others.setdefault(row.record.kind, []).append((*stamp, row.seq, *row.record.values))
        bodies = {row.seq: row.body for row in batch.rows} if refused else {}
        for row in refused:
            values = (row.record.kind, row.refused, as_text(bodies[row.seq]))
            entry.add("quarantine", [chain.pack_row(row.seq, chain.pack_values(values))])
            self._others.setdefault("quarantine", []).append((*stamp, row.seq, *values))


def as_text(body: Body | Unread) -> str:
    """The row as JSON, whatever it holds: numbers beyond 64 bits and NaN among them."""
    if isinstance(body, Unread):
        return body.text
    if isinstance(body, PlainMeasurement):
        body = body.as_body()
    return json.dumps(to_wire(body), sort_keys=True, default=str)


def _read(batch: Batch) -> list[_Judged]:
    """The rows as columns, or the reason why one is refused."""
    measured = [row.body for row in batch.rows if type(row.body) in _MEASURED]
    records = columns.measurement_records(measured)  # type: ignore[arg-type]
    if records is None:
        return [_read_one(row.seq, row.body) for row in batch.rows]
    following = iter(records)
    return [
        _Judged(row.seq, next(following)) if type(row.body) in _MEASURED else _read_one(row.seq, row.body)
        for row in batch.rows
    ]


_MEASURED: Final = {Measurement, PlainMeasurement}


def _read_one(seq: int, body: Body | Unread) -> _Judged:
    if isinstance(body, PlainMeasurement):
        body = body.as_body()
    if isinstance(body, Unread):
        return _Judged(seq, Record(body.kind, (), (), b""), body.reason)
    try:
        return _Judged(seq, columns.record_of(body))
    except BadInput as error:
        return _Judged(seq, Record(kind_of(body), (), (), b""), error.cause)


def _judge(row: _Judged, taken: Spans) -> _Judged:
    values = row.record.values
    key, start, end = _KEY(values), values[_START_NS], values[_END_NS]
    met = taken.meeting(key, start, end)
    if met is None:
        taken.add(key, start, end, (values, row.record.shares))
        return row
    if met == (values, row.record.shares):
        return _Judged(row.seq, row.record, COPY, duplicate=True)
    return _Judged(row.seq, row.record, f"overlaps another measurement of {key[2]} by {key[3]} within boot {key[1]}")


def _refuse_partial(fresh: Sequence[_Judged]) -> None:
    for row in fresh:
        if row.refused and not row.duplicate:
            raise BadInput(f"row {row.seq} cannot be stored: {row.refused}", "mend it, or leave it out")


def _check_batch(batch: Batch) -> None:
    seqs = [row.seq for row in batch.rows]
    if not seqs or seqs[0] < 1 or seqs != list(range(seqs[0], seqs[0] + len(seqs))):
        raise BadInput(
            f"a batch of incarnation {batch.incarnation} has rows {seqs[:3]}...", "send contiguous rows, counted from 1"
        )
