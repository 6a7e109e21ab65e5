"""What the book holds already where a batch would put its rows: asked only when there may be something."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from joulebook_collector import schema
from joulebook_collector.columns import Record, Values

if TYPE_CHECKING:
    from joulebook_collector.remote import Connection

Place = tuple[str, str]
"""agent_id and incarnation."""

Content = tuple[Values, tuple[Values, ...]]
"""A measurement's values with its shares'."""


@dataclass(frozen=True, slots=True)
class Held:
    """A stored row. reason: why it is in quarantine, "" when it is not; body: its text there."""

    kind: str
    values: Values = ()
    shares: tuple[Values, ...] = ()
    reason: str = ""
    body: str = ""

    def same_as(self, record: Record, text: Callable[[], str]) -> bool:
        """Whether a row that came again is this one. text: the row as quarantine would keep it."""
        if self.reason:
            return self.kind == record.kind and self.body == text()
        return (self.kind, self.values, self.shares) == (record.kind, record.values, record.shares)


def held_rows(db: Connection, place: Place, first: int, last: int) -> dict[int, Held]:
    """Stored rows of a stream by seq, from first to last."""
    where: dict[str, Any] = {"agent": place[0], "inc": place[1], "first": first, "last": last}
    txns = [txn for (txn,) in db.execute(_TXNS, where).fetchall()]
    if not txns:
        return {}
    where["txns"] = txns
    measured = _measured(db, _HELD, where)
    held = {seq: Held("measurement", *content) for (_, seq), content in measured.items()}
    for table, columns in _OTHERS.items() if len(held) <= last - first else ():
        found = db.execute(f"select seq, {_names(columns)} from {table} as m where {_HELD}", where)  # noqa: S608
        for seq, *values in found.fetchall():
            if table != "quarantine":
                held[seq] = Held(table, tuple(values))
            elif seq not in held:  # what was replayed is held as the row that it became
                held[seq] = Held(values[0], reason=values[1], body=values[2])
    return held


class Spans:
    """Spans already taken, by (machine, boot, device, meter), with what they hold."""

    def __init__(self) -> None:
        self._by_key: dict[tuple[str, ...], list[tuple[int, int, Content]]] = defaultdict(list)

    def add(self, key: tuple[str, ...], start: int, end: int, content: Content) -> None:
        """Take a span; spans of a key come mostly in order of start."""
        spans = self._by_key[key]
        spans.append((start, end, content))
        if len(spans) > 1 and spans[-2][0] > start:
            spans.sort(key=lambda span: span[:2])

    def meeting(self, key: tuple[str, ...], start: int, end: int) -> Content | None:
        """What a taken span holds that shares length with this one; taken spans never overlap each other."""
        spans = self._by_key[key]
        at = bisect_left(spans, end, key=lambda span: span[0])
        if at and spans[at - 1][1] > start:
            return spans[at - 1][2]
        return None


def spans_near(db: Connection, agent_id: str, measured: Sequence[Values]) -> Spans:
    """The agent's stored spans around these measurements (values in the order of schema.MEASUREMENT)."""
    where = {
        "agent": agent_id,
        "devices": sorted({values[2] for values in measured}),
        "from_ns": min(values[6] for values in measured),
        "to_ns": max(values[7] for values in measured),
    }
    taken = Spans()
    for content in _measured(db, _NEAR, where).values():
        values = content[0]
        taken.add((values[0], values[1], values[2], values[9]), values[6], values[7], content)
    return taken


def _measured(db: Connection, condition: str, where: Mapping[str, Any]) -> dict[tuple[int, int], Content]:
    held = f"select m.txn, m.seq from measurement as m where {condition}"  # noqa: S608
    db.execute(f"create or replace temp table held as {held}", where)
    shares: dict[tuple[int, int], list[Values]] = defaultdict(list)
    # The bounds spare most of the book from being read at all.
    of_held = " where {0}.txn between (select min(txn) from held) and (select max(txn) from held)"
    for row in db.execute(
        f"select s.txn, s.seq, {_names(schema.SHARE, 's.')} from share as s"  # noqa: S608
        f" join held as h on h.txn = s.txn and h.seq = s.seq{of_held.format('s')} order by s.txn, s.seq, s.ordinal"
    ).fetchall():
        shares[row[:2]].append(row[2:])
    return {
        row[:2]: (row[2:], tuple(shares.get(row[:2], ())))
        for row in db.execute(
            f"select m.txn, m.seq, {_names(schema.MEASUREMENT, 'm.')} from measurement as m"  # noqa: S608
            f" join held as h on h.txn = m.txn and h.seq = m.seq{of_held.format('m')} order by m.started_ns"
        ).fetchall()
    }


def _names(columns: Sequence[tuple[str, str]], prefix: str = "") -> str:
    return ", ".join(f"{prefix}{name}" for name, _ in columns)


_OTHERS: Final = {
    "run": schema.RUN,
    "mark": schema.MARK,
    "reassignment": schema.REASSIGNMENT,
    "quarantine": schema.QUARANTINE,
}
_TXNS: Final = """
select txn from log where agent_id = $agent and incarnation = $inc
and first_seq <= $last and first_seq + accepted + duplicates + quarantined > $first
"""
_HELD: Final = (
    "m.txn in (select unnest($txns::bigint[])) and m.agent_id = $agent and m.incarnation = $inc"
    " and m.seq between $first and $last"
)
_NEAR: Final = (
    "m.agent_id = $agent and m.device_id in (select unnest($devices::varchar[]))"
    " and m.started_ns < $to_ns and m.ended_ns > $from_ns"
)
