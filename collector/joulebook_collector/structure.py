"""What must hold between rows whatever they say: checked by ``joulebook ledger verify`` beside the chain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from joulebook.errors import LedgerError

from joulebook_collector import schema

if TYPE_CHECKING:
    from joulebook_collector.ledger import Ledger

RESTORE: Final = "restore the ledger from a backup"


def check_structure(ledger: Ledger) -> None:
    """Raise LedgerError naming the first place where the book contradicts itself.

    Law 1: shares of no measurement.  Law 2: spans of one device by one meter of an agent overlap within a boot.
    Law 3: a place in a stream holds two rows, or a high-water mark or gap is none that the deliveries before lead to.
    Law 5: a transaction is known before the one before it.
    """
    for law, sql, words in _CHECKS:
        found = ledger.query(sql)
        if found:
            raise LedgerError(f"law {law}: {words.format(*found[0])}", RESTORE)
    _check_marks(ledger)


def _check_marks(ledger: Ledger) -> None:
    high: dict[tuple[str, str], int] = {}
    for txn, agent, incarnation, first, top, rows, gap_from, gap_to in ledger.query(_DELIVERIES):
        before = high.get((agent, incarnation), 0)
        last = first + rows - 1
        if top != max(before, last):
            raise LedgerError(
                f"law 3: transaction {txn} moved the high-water mark of {incarnation} to {top}, its rows end at {last}",
                RESTORE,
            )
        gap: tuple[Any, Any] = (before + 1, first - 1) if first > before + 1 else (None, None)
        if (gap_from, gap_to) != gap:
            raise LedgerError(
                f"law 3: transaction {txn} says that {gap_from} to {gap_to} are missing, and {gap[0]} to {gap[1]} are",
                RESTORE,
            )
        high[agent, incarnation] = top


_PLACES: Final = " union all ".join(
    f"select agent_id, incarnation, seq from {table}"  # noqa: S608
    for table in schema.DELIVERED
    if table != "quarantine"
)
_PLACES_REFUSED: Final = """
select q.agent_id, q.incarnation, q.seq from quarantine as q left join log as l on l.action = 'replay'
    and l.agent_id = q.agent_id and l.incarnation = q.incarnation and l.first_seq = q.seq
where l.txn is null
"""
"""What was replayed has its line in quarantine still, at the place of the row that it became."""
_CHECKS: Final = (
    (
        1,
        "select s.seq, s.txn from share as s left join measurement as m on m.txn = s.txn and m.seq = s.seq"
        " where m.txn is null order by s.txn, s.seq limit 1",
        "the measurement of the shares {} of transaction {} is gone",
    ),
    (
        2,
        """select device_id, meter, boot_id, txn, seq from (
            select *, max(ended_ns) over (
                partition by agent_id, machine_id, boot_id, device_id, meter order by started_ns, ended_ns
                rows between unbounded preceding and 1 preceding) as taken
            from measurement
        ) as m where started_ns < taken order by txn, seq limit 1""",
        "{0} by {1} is counted twice in boot {2}, by measurement {4} of transaction {3}",
    ),
    (
        3,
        f"""select seq, incarnation, agent_id from ({_PLACES} union all {_PLACES_REFUSED}) as p
        group by agent_id, incarnation, seq having count(*) > 1 order by agent_id, incarnation, seq limit 1""",  # noqa: S608
        "place {} of incarnation {} of agent {} holds several rows",
    ),
    (
        5,
        """select txn from (select txn, known_at_us, lag(known_at_us) over (order by txn) as before from log) as l
        where known_at_us <= before order by txn limit 1""",
        "transaction {} is known no later than the one before it",
    ),
)

_DELIVERIES: Final = """
select txn, agent_id, incarnation, first_seq, high_water, accepted + duplicates + quarantined, gap_from, gap_to
from log where action = 'ingest' order by txn
"""
