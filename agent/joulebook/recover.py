"""Finishing what dead agents left: open rows become final, runs whose processes are gone are closed."""

from __future__ import annotations

from joulebook.clock import boottime_ns
from joulebook.folder import MarksFolder
from joulebook.home import Home
from joulebook.identity import boot_id, machine_id
from joulebook.lease import outbox_path, take_lease
from joulebook.marks import SUFFIX
from joulebook.meters import roots_from_environment
from joulebook.outbox import Outbox
from joulebook.resume import ended_runs, remember_ended
from joulebook.sampler import Sampler
from joulebook.settings import settings_from_environment


def recover(home: Home) -> bool:
    """Finish this machine's leftovers, so that a report sees them. False when a living agent
    holds the lease, or the disk refuses.

    No meter is opened: counters' differences since the last flush are left for the next agent.
    """
    machine = machine_id()
    path = outbox_path(home, machine)
    if not path.exists() and not any(home.marks.glob(f"*{SUFFIX}")):
        return True
    lease = take_lease(home)
    if lease is None:
        return False
    with lease:
        settings = settings_from_environment()
        outbox = Outbox(path, writer=True, most_bytes=settings.outbox_bytes)
        try:
            roots = roots_from_environment()
            folder = MarksFolder(home, roots.proc, machine, boot_id())
            sampler = Sampler(outbox, folder, [], roots, settings, machine, boot_id())
            sampler.book.ended = ended_runs(outbox)
            sampler.start()
            now = boottime_ns()
            if not sampler.flush(now, finish_through=now):
                return False  # the disk refused: the marks stay for the next try
            sampler.tidy(now, everything=True)
            remember_ended(outbox, sampler.book)
        finally:
            outbox.close()
    return True
