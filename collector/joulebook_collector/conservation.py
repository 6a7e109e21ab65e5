"""The laws checked on the whole book, for the statement that every report carries."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Final

from joulebook.errors import BadInput, LedgerError
from joulebook.rows import from_wire
from joulebook.summary import Conservation, check_conservation

from joulebook_collector import schema
from joulebook_collector.columns import digest_of, record_of
from joulebook_collector.ledger import Ledger


@dataclass(frozen=True, slots=True)
class BookCheck:
    """What the book holds at T, in integer millijoules and counts of rows.

    conservation: totals of what counts.  shadowed: measurements that a better look hides (law 2).
    quarantined: refused rows.  missing_rows: places that never arrived.
    """

    conservation: Conservation
    measurements: int
    shadowed: int
    quarantined: int
    missing_rows: int


def verify(ledger: Ledger, as_of_us: int | None = None) -> BookCheck:
    """Check every row of the agents' streams against its fingerprint, measurements with their shares, then sum.

    Each transaction must still hold as many of them as its line in the log says. Factors, sites and
    assignments carry no fingerprint, so an altered one is not found here.
    Raises LedgerError naming the first row that was altered after it was written.
    """
    as_of = ledger.as_of(as_of_us)
    stored = _check_fingerprints(ledger, as_of)
    for kind, kinds in _PLAIN.items():
        _check_plain(ledger, as_of, kind, kinds)
    _check_refused(ledger, as_of)
    _check_counts(ledger, as_of)
    counted = ledger.measurements(as_of)
    return BookCheck(
        check_conservation(counted),
        len(counted),
        stored - len(counted),
        len(ledger.quarantined(as_of)),
        _missing_rows(ledger, as_of),
    )


def _check_fingerprints(ledger: Ledger, as_of: int) -> int:
    shares: dict[tuple[int, int], list[tuple[Any, ...]]] = defaultdict(list)
    for row in ledger.query(
        f"select txn, seq, {_names(schema.SHARE)} from share where known_at_us <= ? order by txn, seq, ordinal",  # noqa: S608
        [as_of],
    ):
        shares[row[:2]].append(row[2:])
    rows = ledger.query(
        f"select txn, seq, digest, {_names(schema.MEASUREMENT)} from measurement where known_at_us <= ?"  # noqa: S608
        " order by txn, seq",
        [as_of],
    )
    for txn, seq, digest, *values in rows:
        if digest_of("measurement", values, shares.pop((txn, seq), [])) != digest:
            raise _altered(f"measurement {seq} of transaction {txn} ({values[2]} on {values[0]})")
    if shares:
        txn, seq = min(shares)
        raise _altered(f"the measurement of the shares {seq} of transaction {txn}, which is gone,")
    return len(rows)


_PLAIN: Final = {"run": schema.RUN, "mark": schema.MARK, "reassignment": schema.REASSIGNMENT}
"""Tables of an agent's stream whose rows stand alone."""


def _check_plain(ledger: Ledger, as_of: int, kind: str, kinds: tuple[tuple[str, str], ...]) -> None:
    for txn, seq, digest, *values in ledger.query(
        f"select txn, seq, digest, {_names(kinds)} from {kind} where known_at_us <= ? order by txn, seq",  # noqa: S608
        [as_of],
    ):
        if digest_of(kind, values, ()) != digest:
            raise _altered(f"{kind} {seq} of transaction {txn}")


def _check_refused(ledger: Ledger, as_of: int) -> None:
    for txn, seq, digest, kind, body in ledger.query(
        "select txn, seq, digest, kind, body from quarantine where known_at_us <= ? order by txn, seq", [as_of]
    ):
        if digest not in (digest_of(kind, (body,), ()), _digest_of_text(body)):
            raise _altered(f"the refused {kind} {seq} of transaction {txn}")


def _digest_of_text(body: str) -> str:
    """Fingerprint of a refused row that its columns could have held; "" when they could not."""
    try:
        return record_of(from_wire(json.loads(body))).digest
    except (BadInput, ValueError, TypeError, AttributeError):  # an altered body may be any JSON, or none
        return ""


def _check_counts(ledger: Ledger, as_of: int) -> None:
    # Quarantine may hold more than were counted as refused: copies of rows that came under another place.
    rows = " union all ".join(f"select txn, '{table}' as place from {table}" for table in schema.DELIVERED)  # noqa: S608
    for txn, accepted, refused, good, bad in ledger.query(
        f"""select l.txn, l.accepted, l.quarantined, coalesce(h.good, 0), coalesce(h.bad, 0) from log as l
        left join (
            select txn, count(*) filter (where place <> 'quarantine') as good,
                count(*) filter (where place = 'quarantine') as bad
            from ({rows}) as r group by txn
        ) as h on h.txn = l.txn
        where l.known_at_us <= ? and (l.accepted <> coalesce(h.good, 0) or l.quarantined > coalesce(h.bad, 0))
        order by l.txn limit 1""",  # noqa: S608
        [as_of],
    ):
        raise _altered(
            f"transaction {txn}, which took {accepted} rows and refused {refused}, and holds {good} and {bad},"
        )


def _missing_rows(ledger: Ledger, as_of: int) -> int:
    """Places within recorded gaps that no later delivery filled."""
    missing = 0
    for agent_id, incarnation, first, last in ledger.gaps(as_of):
        one = (
            "select count(*) as n from {} where agent_id = $agent and incarnation = $inc"
            " and seq between $first and $last and known_at_us <= $as_of"
        )
        held = " union all ".join(one.format(table) for table in schema.DELIVERED)
        place = {"agent": agent_id, "inc": incarnation, "first": first, "last": last, "as_of": as_of}
        missing += last - first + 1 - int(ledger.query(f"select sum(n) from ({held}) as h", place)[0][0])  # noqa: S608
    return missing


def _altered(what: str) -> LedgerError:
    return LedgerError(f"{what} differs from what was written", "restore the ledger from a backup")


def _names(kinds: tuple[tuple[str, str], ...]) -> str:
    return ", ".join(name for name, _ in kinds)
