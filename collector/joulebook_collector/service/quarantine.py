"""Refused rows: listed, shown, and taken after all once the rule that they broke is another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
from joulebook.errors import BadInput

from joulebook_collector.ledger import Ledger
from joulebook_collector.service.answers import Problem
from joulebook_collector.service.reads import as_of
from joulebook_collector.service.wire import read_row
from joulebook_collector.unread import Unread


class RefusedLine(msgspec.Struct):
    """A refused row: its transaction and seq name it, reason says why it was not taken.

    replayed_txn: the transaction that took it into the book later, null where none did.
    """

    txn: int
    seq: int
    known_at_us: int
    agent_id: str
    incarnation: str
    kind: str
    reason: str
    replayed_txn: int | None


class RefusedPage(msgspec.Struct):
    """Refused rows in order of arrival. next_txn, next_seq: where the next page begins behind; null on the last."""

    as_of_us: int
    rows: list[RefusedLine]
    next_txn: int | None
    next_seq: int | None


class ReplayAnswer(msgspec.Struct):
    """The transaction that took the row into the book."""

    txn: int


class RefusedRowAnswer(msgspec.Struct):
    """A refused row with its text as JSON."""

    line: RefusedLine
    body: str


def refused_page(limit: int, after_txn: int, after_seq: int, as_of_us: int | None) -> Callable[[Ledger], RefusedPage]:
    """A page of refused rows."""

    def query(ledger: Ledger) -> RefusedPage:
        known = as_of(ledger, as_of_us)
        values = {"as_of": known, "txn": after_txn, "seq": after_seq, "limit": limit + 1}
        rows = [RefusedLine(*line) for *line, _ in ledger.query(_PAGE, values)]
        more = len(rows) > limit
        rows = rows[:limit]
        return RefusedPage(known, rows, rows[-1].txn if more else None, rows[-1].seq if more else None)

    return query


def refused_row(txn: int, seq: int) -> Callable[[Ledger], RefusedRowAnswer]:
    """One refused row."""

    def query(ledger: Ledger) -> RefusedRowAnswer:
        return _one(ledger, txn, seq)

    return query


def replay(txn: int, seq: int) -> Callable[[Ledger], ReplayAnswer]:
    """Judge a refused row anew, and take it into the book when nothing stands against it any more.

    Raises Problem when there is no such row, it was taken already, or still breaks a rule.
    """

    def act(ledger: Ledger) -> ReplayAnswer:
        row = _one(ledger, txn, seq)
        line = row.line
        if line.replayed_txn is not None:
            raise Problem(409, "replayed", f"transaction {line.replayed_txn} took it already")
        body = read_row(row.body.encode())
        if isinstance(body, Unread):
            raise Problem(409, "refused", body.reason)
        try:
            return ReplayAnswer(ledger.replay(line.agent_id, line.incarnation, seq, body).txn)
        except BadInput as error:
            raise Problem(409, "refused", error.cause) from None

    return act


def _one(ledger: Ledger, txn: int, seq: int) -> RefusedRowAnswer:
    found = ledger.query(_ONE, {"txn": txn, "seq": seq, "as_of": ledger.latest_known_us()})
    if not found:
        raise Problem(404, "unknown", "no such row")
    *line, body = found[0]
    return RefusedRowAnswer(RefusedLine(*line), body)


_LINES: Final = """
select q.txn, q.seq, q.known_at_us, q.agent_id, q.incarnation, q.kind, q.reason, l.txn as replayed_txn, q.body
from quarantine as q
left join log as l on l.action = 'replay' and l.agent_id = q.agent_id and l.incarnation = q.incarnation
    and l.first_seq = q.seq and l.known_at_us <= $as_of
where q.known_at_us <= $as_of
"""
_PAGE: Final = f"{_LINES} and (q.txn > $txn or (q.txn = $txn and q.seq > $seq)) order by q.txn, q.seq limit $limit"
_ONE: Final = f"{_LINES} and q.txn = $txn and q.seq = $seq"
