"""The agent as a process: it waits for the lease if it must, meters while it has it, and leaves no run unseen."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Final

from joulebook.errors import JoulebookError
from joulebook.folder import MarksFolder
from joulebook.home import Home, find_home
from joulebook.identity import boot_id, machine_id
from joulebook.lease import Lease, forget_other_boots, outbox_path, read_status, runs_are_taken, take_lease
from joulebook.loop import Loop
from joulebook.meters import Meter, MeterAbsent, Refused, open_meters, roots_from_environment
from joulebook.outbox import Outbox
from joulebook.resume import ended_runs, leave_counters, remember_ended
from joulebook.sampler import Sampler
from joulebook.settings import Settings, settings_from_environment
from joulebook.units import NS_PER_SECOND

STANDBY_SECONDS: Final = 0.5
"""How often an agent that stands by tries to take over: a dead owner's meters are read again within 2 s."""
SUCCESSION_SECONDS: Final = 0.05
"""How often an agent that was started for a run looks whether the one before it has ended."""
FINISH_SECONDS: Final = 60.0
"""Time that an agent which takes no more runs is given to flush and end."""


def serve(home: Home, until_idle_seconds: float | None, *, standby: bool) -> bool:
    """Run an agent in this process until it is stopped, or idle. False when it never had the lease.

    until_idle_seconds: None goes on for ever.  standby: wait for the lease for ever, and not only for an agent
    that is about to end.
    """
    settings = settings_from_environment()
    home.make()
    stop_fd = _stop_pipe()
    lease = take_lease(home) or (_stand_by(home, stop_fd) if standby else _succeed(home, stop_fd))
    if lease is None:
        return False
    with lease, ExitStack() as stack:
        lease.take_runs()
        with suppress(OSError):
            forget_other_boots(home, machine_id())
        meters, refused = open_meters(None, roots_from_environment())
        for meter in meters:
            stack.callback(meter.close)
        for refusal in refused:
            if not meters or not isinstance(refusal.error, MeterAbsent):  # what is not there needs no mending
                print(refusal.error.lines("agent"), file=sys.stderr)
        while _meter(home, settings, lease, meters, refused, until_idle_seconds, stop_fd):
            lease.take_runs()
    return True


def _meter(
    home: Home,
    settings: Settings,
    lease: Lease,
    meters: Sequence[Meter],
    refused: Sequence[Refused],
    until_idle_seconds: float | None,
    stop_fd: int,
) -> bool:
    """Meter until stopped or idle. True when a run began while it was ending: then it is to go on."""
    machine, boot, roots = machine_id(), boot_id(), roots_from_environment()
    outbox = Outbox(outbox_path(home, machine), writer=True, most_bytes=settings.outbox_bytes)
    try:
        if lease.last_holder not in ("", outbox.agent_id):
            leave_counters(outbox)
        lease.hold_for(outbox.agent_id)
        folder = MarksFolder(home, roots.proc, machine, boot)
        sampler = Sampler(outbox, folder, meters, roots, settings, machine, boot)
        sampler.book.ended = ended_runs(outbox)
        sampler.start()
        idle = None if until_idle_seconds is None else int(until_idle_seconds * NS_PER_SECOND)
        Loop(sampler, home, refused, idle, stop_fd).run()
        remember_ended(outbox, sampler.book)
        if _is_readable(stop_fd, 0.0):
            return False
        lease.refuse_runs()
        return bool(sampler.book.open_ids()) or folder.joined_unseen()
    finally:
        outbox.close()


def _stand_by(home: Home, stop_fd: int) -> Lease | None:
    """The lease once its owner is gone; None when stopped before."""
    status = read_status(home)
    owner = (
        f"pid {status['pid']} of {status['machine']}" if "pid" in status and "machine" in status else "another agent"
    )
    print(f"joulebook agent: {owner} meters this machine ({home.agents}): standing by", file=sys.stderr, flush=True)
    while not _is_readable(stop_fd, STANDBY_SECONDS):
        if (lease := take_lease(home)) is not None:
            print("joulebook agent: the other agent has ended: metering", file=sys.stderr, flush=True)
            return lease
    return None


def _succeed(home: Home, stop_fd: int) -> Lease | None:
    """The lease of an agent that is about to end; None when that one takes runs, or does not end."""
    deadline = time.monotonic() + FINISH_SECONDS
    while not runs_are_taken(home) and time.monotonic() < deadline:
        if _is_readable(stop_fd, SUCCESSION_SECONDS):
            return None
        if (lease := take_lease(home)) is not None:
            return lease
    return None


def _is_readable(fd: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(int(seconds * 1000)))


def _stop_pipe() -> int:
    """A descriptor that becomes readable on SIGTERM or SIGINT."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return reader


def main(words: Sequence[str]) -> int:
    """The agent from its command line, which ``launch.agent_command`` writes and nobody else."""
    until_idle = float(words[words.index("--until-idle") + 1]) if "--until-idle" in words else None
    standby = until_idle is None
    if "--standby" in words or "--no-standby" in words:
        standby = "--standby" in words
    try:
        home = find_home()
        if serve(home, until_idle, standby=standby) or standby or until_idle is not None:
            return 0
        raise JoulebookError(
            f"another agent meters this machine for {home.agents}",
            "joulebook agent --standby, or stop it first (its pid is in agents/*.json)",
        )
    except JoulebookError as error:
        if "--debug" in words:
            raise
        print(error.lines("agent"), file=sys.stderr)
        return error.exit_status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
