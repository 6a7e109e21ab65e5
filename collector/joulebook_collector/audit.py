"""The chain followed over the whole book: every transaction's digest made anew from what the book holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from joulebook.errors import LedgerError

from joulebook_collector import chain, schema
from joulebook_collector.arrow import insert

if TYPE_CHECKING:
    from joulebook_collector.remote import Connection

Row = tuple[bytes, str]
"""Canonical bytes, and in words which row it is."""
Line = tuple[Any, ...]

AT_ONCE: Final = 200_000
"""Rows and shares that are held in memory at a time."""

RESTORE: Final = "restore the ledger from a backup"


@dataclass(frozen=True, slots=True)
class Head:
    """How far the chain reaches.

    txn: number of the last transaction, 0 of none.  digest: its digest, in hex.  rows: how many are below it.
    """

    txn: int
    digest: str
    rows: int


def follow_chain(
    db: Connection,
    as_of_us: int,
    *,
    anchor: tuple[int, str] | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Head:
    """Make every digest known at T anew and compare it with the one that was written.

    anchor: (transaction, digest in hex) noted earlier, outside this file: without one, the loss of the last
    transactions cannot show.  progress: told how many transactions were looked at since.
    Raises LedgerError naming the first transaction and row that differ.
    """
    _check_stamps(db)
    before, txn, rows = chain.FIRST, 0, 0
    stored = _stored_links(db)
    for line, found in _transactions(db, as_of_us):
        txn, expected = line[0], txn + 1
        if txn != expected:
            raise LedgerError(f"transaction {expected} is gone from the log", RESTORE)
        if txn not in stored:
            raise LedgerError(f"the digest of transaction {txn} is gone from the chain", RESTORE)
        told = [(chain.pack_line(line), f"the line of transaction {txn} in the log"), *found]
        before, tags = chain.link(before, told[0][0], [packed for packed, _ in found])
        digest, kept = stored[txn]
        if before != digest:
            raise LedgerError(_first_difference(txn, told, tags, kept), RESTORE)
        if anchor is not None and anchor[0] == txn and not before.hex().startswith(anchor[1]):
            raise LedgerError(
                f"transaction {txn} is not the one that was noted: its digest is {before.hex()}, not {anchor[1]}",
                f"{RESTORE}, or find out who wrote the book anew",
            )
        rows += len(found)
        progress(1)
    if anchor is not None and anchor[0] > txn:
        raise LedgerError(f"transaction {anchor[0]}, which was noted, is gone: the book ends at {txn}", RESTORE)
    return Head(txn, before.hex(), rows)


def link_past(db: Connection) -> None:
    """Write the chain of a book that had none, inside a transaction."""
    before, links = chain.FIRST, []
    for line, found in _transactions(db, None):
        before, tags = chain.link(before, chain.pack_line(line), [packed for packed, _ in found])
        links.append((line[0], before, tags))
    if links:
        insert(db, "chain", list(zip(*links, strict=True)))


def _stored_links(db: Connection) -> dict[int, tuple[bytes, bytes]]:
    links: dict[int, tuple[bytes, bytes]] = {}
    for txn, digest, tags in db.execute("select txn, digest, tags from chain order by txn").fetchall():
        if txn in links:
            raise LedgerError(f"transaction {txn} is in the chain twice", RESTORE)
        links[txn] = (bytes(digest), bytes(tags))
    (last,) = db.execute("select coalesce(max(txn), 0) from log").fetchall()[0]
    if links and max(links) > last:
        raise LedgerError(f"transaction {last + 1} is gone from the log, its digest is not", RESTORE)
    return links


def _first_difference(txn: int, told: Sequence[Row], tags: bytes, kept: bytes) -> str:
    """In words, the first row of a transaction whose digest differs."""
    width = chain.TAG_BYTES
    for at, (_, name) in enumerate(told):
        if tags[at * width : (at + 1) * width] != kept[at * width : (at + 1) * width]:
            if len(tags) < len(kept):
                return f"a row of transaction {txn} is gone, at or before where {name} is now"
            added = ", or was added" if len(tags) > len(kept) else ""
            return f"{name} differs from what was written{added}"
    if len(tags) < len(kept):
        return f"a row of transaction {txn} is gone, after {told[-1][1]}"
    return f"transaction {txn} differs from what was written, or others were before it"


def _transactions(db: Connection, as_of_us: int | None) -> Iterator[tuple[Line, list[Row]]]:
    """Every transaction's line in the log, with its rows as the chain orders them."""
    names = ", ".join(name for name, _ in schema.LOG)
    lines = db.execute(
        f"select {names} from log where $as_of is null or known_at_us <= $as_of order by txn",  # noqa: S608
        {"as_of": as_of_us},
    ).fetchall()
    part: list[Line] = []
    held = 0
    for line in lines:
        part.append(line)
        held += 4 * (line[7] + line[9]) + 1
        if held >= AT_ONCE:
            yield from _with_rows(db, part)
            part, held = [], 0
    yield from _with_rows(db, part)


def _with_rows(db: Connection, lines: list[Line]) -> Iterator[tuple[Line, list[Row]]]:
    if not lines:
        return
    span = [lines[0][0], lines[-1][0]]
    rows: dict[int, list[Row]] = defaultdict(list)
    for table in chain.covered():
        for txn, row in sorted(_rows_of(db, table, span), key=lambda found: (found[0], found[1][0])):
            rows[txn].append(row)
    for line in lines:
        yield line, rows.get(line[0], [])


def _rows_of(db: Connection, table: str, span: list[int]) -> Iterator[tuple[int, Row]]:
    own = chain.own_columns(table)
    sequenced = "seq" in own
    columns = ", ".join(own)
    shares = _shares(db, span) if table == "measurement" else {}
    for txn, *values in db.execute(
        f"select txn, {columns} from {table} where txn between ? and ?",  # noqa: S608
        span,
    ).fetchall():
        if not sequenced:
            name = f"the {table.replace('_', ' ')} {' '.join(map(str, values[:2]))} of transaction {txn}"
            yield txn, (chain.pack_values(values), name)
            continue
        seq = values[0]
        packed = chain.pack_row(seq, chain.pack_values(tuple(values[1:]), shares.pop((txn, seq), ())))
        yield txn, (packed, _name(table, txn, values))
    for (txn, seq), left in shares.items():
        yield (
            txn,
            (
                chain.pack_row(seq, chain.pack_values((), left)),
                f"the measurement of the shares {seq} of transaction {txn}, which is gone,",
            ),
        )


def _shares(db: Connection, span: list[int]) -> dict[tuple[int, int], tuple[Any, ...]]:
    shares: dict[tuple[int, int], list[Any]] = defaultdict(list)
    names = ", ".join(name for name, _ in schema.SHARE)
    for row in db.execute(
        f"select txn, seq, {names} from share where txn between ? and ? order by txn, seq, ordinal",  # noqa: S608
        span,
    ).fetchall():
        shares[row[:2]].append(row[2:])
    return {key: tuple(group) for key, group in shares.items()}


def _name(table: str, txn: int, values: Sequence[Any]) -> str:
    if table == "measurement":
        return f"measurement {values[0]} of transaction {txn} ({values[3]} on {values[1]})"
    kind = f"the refused {values[1]}" if table == "quarantine" else table
    return f"{kind} {values[0]} of transaction {txn}"


def _check_stamps(db: Connection) -> None:
    """Raise LedgerError when a row says another sender or moment than its transaction's line, or has none."""
    for table, columns in schema.TABLES.items():
        if table == "log":
            continue
        names = [name for name, _ in columns]
        same = [f"r.{name} = l.{name}" for name in chain.OF_LOG if name in names]
        found = db.execute(
            f"select r.txn from {table} as r left join log as l on {' and '.join(same)} where l.txn is null limit 1"  # noqa: S608
        ).fetchall()
        if found:
            raise LedgerError(
                f"a {table} row of transaction {found[0][0]} says another sender or moment than the log", RESTORE
            )
    repeated = db.execute("select txn from log group by txn having count(*) > 1 order by txn limit 1").fetchall()
    if repeated:
        raise LedgerError(f"transaction {repeated[0][0]} is in the log twice", RESTORE)
