"""What an agent leaves in its outbox for the next one, beside the sampler's own state."""

from __future__ import annotations

import contextlib

from joulebook.outbox import Outbox
from joulebook.rows import Run, from_wire, to_wire
from joulebook.runs import REMEMBERED_RUNS, RunBook


def ended_runs(outbox: Outbox) -> dict[str, Run]:
    """Runs that earlier agents saw end: a later process of the same run goes on with it."""
    runs = [run for wire in outbox.state("ended") or () if isinstance(run := from_wire(wire), Run)]
    return {run.run_id: run for run in runs}


def lately_ended(book: RunBook) -> list[Run]:
    """The runs that ended last, for the next agent."""
    now = {run_id: state.run for run_id, state in book.runs.items() if not state.open}
    return sorted((book.ended | now).values(), key=lambda run: run.ended_at_us or 0)[-REMEMBERED_RUNS:]


def remember_ended(outbox: Outbox, book: RunBook) -> None:
    """Keep the runs that ended last for the next agent. A disk that refuses costs a note, and no joule."""
    with contextlib.suppress(OSError):
        outbox.write(state={"ended": [to_wire(run) for run in lately_ended(book)]})


def leave_counters(outbox: Outbox) -> None:
    """Another home's agent read the meters since this outbox last did: what they counted in between is not ours."""
    saved = outbox.state("resume")
    if saved and saved.get("raw"):
        outbox.write(state={"resume": {**saved, "raw": {}, "nodes": {}}})
