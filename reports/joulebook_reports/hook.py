"""What ``joulebook run`` calls after its command to fill in the priced fields (entry point joulebook.summary)."""

from __future__ import annotations

from typing import Any

from joulebook.home import Home, find_home
from joulebook.identity import machine_id
from joulebook.lease import outbox_path
from joulebook.outbox import Outbox
from joulebook.settings import settings_from_environment
from joulebook.summary import document, run_in


def priced_summary(run_id: str) -> dict[str, Any]:
    """The JSON object of the run, priced with all that is known now. Raises JoulebookError where there is none.

    Where rows go to a collector, joules alone, from those that wait here; they stay the collector's.
    """
    from joulebook_reports import gather
    from joulebook_reports.run_document import run_document

    home = find_home()
    shipped = _shipped_summary(home, run_id)
    if shipped is not None:
        return shipped
    with gather.open_book(home, say=lambda _: None) as ledger:
        as_of_us = ledger.latest_known_us()
        facts = gather.gather_run(ledger, gather.find_run(ledger, run_id, as_of_us), as_of_us)
    return run_document(facts, as_of_us)


def _shipped_summary(home: Home, run_id: str) -> dict[str, Any] | None:
    """The run from rows that wait for a collector; None where they wait for a report."""
    path = outbox_path(home, machine_id())
    if not path.exists():
        return None
    outbox = Outbox(path, writer=False)
    try:
        url = settings_from_environment().collector_url or outbox.ships_to
        if not url:
            return None
        run, energy = run_in(outbox.bodies(), run_id, may_leave=True)
    finally:
        outbox.close()
    return {**document(run, energy), "missing": f"rows go to the collector {url}, which prices them"}
