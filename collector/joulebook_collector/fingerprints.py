"""Fingerprints that ledgers before version 5 kept with each row: looked at once more before the chain replaces them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

import msgspec
from joulebook.errors import LedgerError

from joulebook_collector.schema import ADDED, MARK, MEASUREMENT, REASSIGNMENT, RUN, SHARE

if TYPE_CHECKING:
    from joulebook_collector.remote import Connection

_TO_TEXT: Final = msgspec.json.Encoder(order="deterministic")
_FIRST_WIDTH: Final = len(MEASUREMENT) - len(ADDED)
_PLAIN: Final = {"run": RUN, "mark": MARK, "reassignment": REASSIGNMENT}

Values = tuple[Any, ...]


def check_fingerprints(db: Connection) -> None:
    """Raise LedgerError, naming the first row that was altered, before a chain would vouch for what it says now."""
    shares: dict[tuple[int, int], list[Values]] = defaultdict(list)
    for row in db.execute(f"select txn, seq, {_names(SHARE)} from share order by txn, seq, ordinal").fetchall():  # noqa: S608
        shares[row[:2]].append(row[2:])
    _check(db, "measurement", MEASUREMENT, shares)
    if shares:
        txn, seq = min(shares)
        raise _altered(f"the measurement of the shares {seq} of transaction {txn}, which is gone,")
    for kind, columns in _PLAIN.items():
        _check(db, kind, columns, {})


def digest_of(kind: str, values: Sequence[Any], shares: Sequence[Sequence[Any]]) -> str:
    """A row's fingerprint; columns that version 2 added are left out where they hold nothing."""
    if kind == "measurement":
        values = values[: _FIRST_WIDTH if not any(v is not None for v in values[_FIRST_WIDTH:]) else None]
    return blake2b(_TO_TEXT.encode((kind, values, shares)), digest_size=16).hexdigest()


def _check(
    db: Connection,
    kind: str,
    columns: tuple[tuple[str, str], ...],
    shares: dict[tuple[int, int], list[Values]],
) -> None:
    rows = db.execute(f"select txn, seq, digest, {_names(columns)} from {kind} order by txn, seq").fetchall()  # noqa: S608
    for txn, seq, digest, *values in rows:
        if digest_of(kind, values, shares.pop((txn, seq), [])) != digest:
            raise _altered(f"{kind} {seq} of transaction {txn}")


def _altered(what: str) -> LedgerError:
    return LedgerError(f"{what} differs from what was written", "restore the ledger from a backup")


def _names(columns: tuple[tuple[str, str], ...]) -> str:
    return ", ".join(name for name, _ in columns)
