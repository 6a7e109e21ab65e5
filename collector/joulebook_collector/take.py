"""Embedded ingest: drains the outboxes of a home into its ledger."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from joulebook.errors import JoulebookError, LedgerError
from joulebook.home import Home
from joulebook.outbox import Outbox

from joulebook_collector.ledger import Ledger, Receipt


def take_outboxes(ledger: Ledger, home: Home) -> list[Receipt]:
    """Take every final row that waits, oldest first; rows are forgotten only after the ledger has them durably.

    A crash between the two delivers the same batch again, and the ledger counts it once.
    One outbox that cannot be read keeps no other from being taken; its error is raised at the end.
    """
    receipts: list[Receipt] = []
    trouble: list[JoulebookError] = []
    for path in sorted(home.outboxes.glob("*.sqlite")):
        try:
            receipts.extend(_drain(ledger, path))
        except JoulebookError as error:
            trouble.append(error)
        except sqlite3.DatabaseError as error:
            trouble.append(
                LedgerError(f"cannot read the outbox {path}: {error}", "move the file away to report without its rows")
            )
    if trouble:
        raise trouble[0]
    return receipts


def _drain(ledger: Ledger, path: Path) -> Iterator[Receipt]:
    outbox = Outbox(path, writer=False)
    try:
        for batch in outbox.batches():
            receipt = ledger.ingest(batch)
            outbox.acknowledge(batch.incarnation, batch.last_seq)
            yield receipt
    finally:
        outbox.close()
