"""Refused rows, by HTTP: listed and shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from joulebook_collector.ledger import Ledger
from joulebook_collector.service.answers import Problem
from joulebook_collector.service.reads import as_of


class RefusedLine(msgspec.Struct):
    """A refused row: its transaction and seq name it, reason says why it is not in the book."""

    txn: int
    seq: int
    known_at_us: int
    agent_id: str
    incarnation: str
    kind: str
    reason: str


class RefusedPage(msgspec.Struct):
    """Refused rows in order of arrival. next_txn, next_seq: where the next page begins behind; null on the last."""

    as_of_us: int
    rows: list[RefusedLine]
    next_txn: int | None
    next_seq: int | None


class RefusedRowAnswer(msgspec.Struct):
    """A refused row with its text as JSON."""

    line: RefusedLine
    body: str


def refused_page(limit: int, after_txn: int, after_seq: int, as_of_us: int | None) -> Callable[[Ledger], RefusedPage]:
    """A page of refused rows."""

    def query(ledger: Ledger) -> RefusedPage:
        known = as_of(ledger, as_of_us)
        values = {"as_of": known, "txn": after_txn, "seq": after_seq, "limit": limit + 1}
        rows = [_line(row) for row in ledger.query(_PAGE, values)]
        more = len(rows) > limit
        rows = rows[:limit]
        return RefusedPage(known, rows, rows[-1].txn if more else None, rows[-1].seq if more else None)

    return query


def refused_row(txn: int, seq: int) -> Callable[[Ledger], RefusedRowAnswer]:
    """One refused row."""

    def query(ledger: Ledger) -> RefusedRowAnswer:
        found = ledger.query(_ONE, {"txn": txn, "seq": seq})
        if not found:
            raise Problem(404, "unknown", "no such row")
        *line, body = found[0]
        return RefusedRowAnswer(_line(line), body)

    return query


def _line(row: Any) -> RefusedLine:
    return RefusedLine(*row)


_NAMES: Final = "txn, seq, known_at_us, agent_id, incarnation, kind, reason"
_PAGE: Final = f"""
select {_NAMES} from quarantine where known_at_us <= $as_of and (txn > $txn or (txn = $txn and seq > $seq))
order by txn, seq limit $limit
"""  # noqa: S608
_ONE: Final = f"select {_NAMES}, body from quarantine where txn = $txn and seq = $seq"  # noqa: S608
