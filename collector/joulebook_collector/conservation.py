"""The laws checked on the whole book, for the statement that every report carries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from joulebook.errors import LedgerError
from joulebook.summary import Conservation, check_conservation

from joulebook_collector import schema
from joulebook_collector.audit import Head
from joulebook_collector.ledger import Ledger


@dataclass(frozen=True, slots=True)
class BookCheck:
    """What the book holds at T, in integer millijoules and counts of rows.

    conservation: totals of what counts.  shadowed: measurements that a better look hides (law 2).
    quarantined: refused rows.  missing_rows: places that never arrived.  head: the last transaction's digest, which
    stands for all that is before it in this order of arrival: another order is the same book.
    """

    conservation: Conservation
    measurements: int
    shadowed: int
    quarantined: int
    missing_rows: int
    head: Head = field(compare=False)


def verify(
    ledger: Ledger,
    as_of_us: int | None = None,
    *,
    anchor: tuple[int, str] | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> BookCheck:
    """Follow the chain over every transaction known at T, compare shares with their measurements, then sum.

    Each transaction must hold as many rows as its line in the log says. anchor, progress: see audit.follow_chain.
    Raises LedgerError naming the first transaction and row that was altered after it was written.
    """
    as_of = ledger.as_of(as_of_us)
    head = ledger.follow_chain(as_of, anchor=anchor, progress=progress)
    _check_counts(ledger, as_of)
    counted = ledger.measurements(as_of)
    stored = int(ledger.query("select count(*) from measurement where known_at_us <= ?", [as_of])[0][0])
    return BookCheck(
        check_conservation(counted),
        len(counted),
        stored - len(counted),
        len(ledger.quarantined(as_of)),
        _missing_rows(ledger, as_of),
        head,
    )


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
        raise LedgerError(
            f"transaction {txn}, which took {accepted} rows and refused {refused}, holds {good} and {bad}",
            "restore the ledger from a backup",
        )


def _missing_rows(ledger: Ledger, as_of: int) -> int:
    """Places within recorded gaps that no later delivery filled."""
    missing = 0
    for agent_id, incarnation, first, last in ledger.gaps(as_of):
        one = (
            "select seq from {} where agent_id = $agent and incarnation = $inc"
            " and seq between $first and $last and known_at_us <= $as_of"
        )
        held = " union all ".join(one.format(table) for table in schema.DELIVERED)
        place = {"agent": agent_id, "inc": incarnation, "first": first, "last": last, "as_of": as_of}
        missing += last - first + 1 - int(ledger.query(f"select count(distinct seq) from ({held}) as h", place)[0][0])  # noqa: S608
    return missing
