"""What ``joulebook run`` calls after its command to fill in the priced fields (entry point joulebook.summary)."""

from __future__ import annotations

from typing import Any

from joulebook.home import find_home


def priced_summary(run_id: str) -> dict[str, Any]:
    """The JSON object of the run, priced with all that is known now. Raises JoulebookError where there is none."""
    from joulebook_reports import gather
    from joulebook_reports.run_document import run_document

    with gather.open_book(find_home()) as ledger:
        as_of_us = ledger.latest_known_us()
        facts = gather.gather_run(ledger, gather.find_run(ledger, run_id, as_of_us), as_of_us)
    return run_document(facts, as_of_us)
