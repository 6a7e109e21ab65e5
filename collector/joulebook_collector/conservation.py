"""The laws checked on the whole book, for the statement that every report carries."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from joulebook.errors import LedgerError
from joulebook.summary import Conservation, check_conservation

from joulebook_collector import schema
from joulebook_collector.columns import digest_of
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
    """Check every stored measurement against its shares and its fingerprint, then sum what counts.

    Raises LedgerError naming the first row that was altered after it was written.
    """
    as_of = ledger.as_of(as_of_us)
    stored = _check_fingerprints(ledger, as_of)
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
