"""Embedded ingest: drains the outboxes of a home into its ledger, but for those that are not its to drain."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

from joulebook.errors import JoulebookError, LedgerError
from joulebook.home import Home
from joulebook.outbox import Outbox

from joulebook_collector.elsewhere import Busy, held_still
from joulebook_collector.ledger import Ledger, Receipt


def to_stderr(text: str) -> None:
    """One line for a person."""
    print(f"joulebook: {text}", file=sys.stderr)


def take_outboxes(
    ledger: Ledger, home: Home, *, collector_url: str = "", say: Callable[[str], None] = to_stderr
) -> list[Receipt]:
    """Take every final row that waits, oldest first; rows are forgotten only after the ledger has them durably.

    A crash between the two delivers the same batch again, and the ledger counts it once.
    One outbox that cannot be read keeps no other from being taken; its error is raised at the end.
    Left as they are, and said, one line each: outboxes of machines whose agent runs, since no SQLite file may be
    open on two; and those whose rows go to a collector, which would never see what is taken here.
    collector_url: where the agents of this home ship, "" where the outboxes themselves say.
    """
    receipts: list[Receipt] = []
    trouble: list[JoulebookError] = []
    shipped: dict[str, list[str]] = {}
    for path in sorted(home.outboxes.glob("*.sqlite")):
        if collector_url:
            shipped.setdefault(collector_url, []).append(path.stem)
            continue
        try:
            with ExitStack() as stack:
                held_still(home, path, stack)
                outbox = Outbox(path, writer=False)
                stack.callback(outbox.close)
                if url := outbox.ships_to:
                    shipped.setdefault(url, []).append(path.stem)
                else:
                    receipts.extend(_drain(ledger, outbox))
        except Busy as busy:
            say(str(busy))
        except JoulebookError as error:
            trouble.append(error)
        except sqlite3.DatabaseError as error:
            trouble.append(
                LedgerError(f"cannot read the outbox {path}: {error}", "move the file away to report without its rows")
            )
    for url, machines in shipped.items():
        say(_shipped(url, machines))
    if trouble:
        raise trouble[0]
    return receipts


def _shipped(url: str, machines: Sequence[str]) -> str:
    return f"rows of {', '.join(machines)} go to the collector {url}: what waits is not taken here, ask that one"


def _drain(ledger: Ledger, outbox: Outbox) -> Iterator[Receipt]:
    for batch in outbox.batches():
        receipt = ledger.ingest(batch)
        outbox.acknowledge(batch.incarnation, batch.last_seq)
        yield receipt
