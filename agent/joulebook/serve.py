"""The agent as a process: it waits for the lease if it must, meters while it has it, and leaves no run unseen."""

from __future__ import annotations

import ctypes
import gc
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from joulebook.clock import boottime_ns, utc_us
from joulebook.errors import JoulebookError
from joulebook.folder import MarksFolder
from joulebook.home import Home, find_home
from joulebook.identity import boot_id, machine_id
from joulebook.lease import (
    Lease,
    forget_other_boots,
    open_lease,
    outbox_path,
    read_status,
    runs_are_taken,
    take_lease,
    try_lease,
)
from joulebook.loop import Loop
from joulebook.meters import Meter, MeterAbsent, open_meters, roots_from_environment
from joulebook.outbox import Outbox
from joulebook.reopening import Reopening
from joulebook.resume import ended_runs, leave_counters
from joulebook.sampler import Sampler
from joulebook.settings import Settings, settings_from_environment
from joulebook.units import NS_PER_SECOND

if TYPE_CHECKING:
    from joulebook.collector_client import Destination
    from joulebook.shipping import Shipper
    from joulebook.telemetry import Telemetry

STANDBY_SECONDS: Final = 0.5
"""How often an agent that stands by tries to take over: a dead owner's meters are read again within 2 s."""
SUCCESSION_SECONDS: Final = 0.05
"""How often an agent that was started for a run looks whether the one before it has ended."""
SHIP_AT_END_SECONDS: Final = 5.0
"""Time that an agent which ends gives the collector to take what waits; the next agent sends the rest."""
EXPORTERS: Final = ("JOULEBOOK_METRICS_ADDRESS", "JOULEBOOK_OTLP_ENDPOINT")
"""Variables that ask for an exporter; without them nothing of it is loaded."""
FINISH_SECONDS: Final = 60.0
"""Time that an agent which takes no more runs is given to flush and end."""


@dataclass(slots=True)
class _Agent:
    """What stays while the agent has the lease. until_idle_seconds: None goes on for ever."""

    home: Home
    settings: Settings
    until_idle_seconds: float | None
    stop_fd: int
    telemetry: Telemetry | None
    destination: Destination | None
    meters: list[Meter]
    reopening: Reopening


def serve(home: Home, until_idle_seconds: float | None, *, standby: bool) -> bool:
    """Run an agent in this process until it is stopped, or idle. False when it never had the lease.

    until_idle_seconds: None goes on for ever.  standby: wait for the lease for ever, and not only for an agent
    that is about to end.
    """
    settings = settings_from_environment()
    destination = _destination(settings)
    home.make()
    stop_fd = _stop_pipe()
    with ExitStack() as stack:
        lease = take_lease(home) or (None if standby else _succeed(home, stop_fd))
        if lease is None and not standby:
            return False
        telemetry = _telemetry(settings, stack, standing_by=lease is None)
        lease = lease or _stand_by(home, stop_fd)
        if lease is None:
            return False
        stack.enter_context(lease)
        lease.take_runs()
        with suppress(OSError):
            forget_other_boots(home, machine_id())
        meters, reopening = _open_meters(telemetry, stack)
        agent = _Agent(home, settings, until_idle_seconds, stop_fd, telemetry, destination, meters, reopening)
        while _meter(agent, lease):
            lease.take_runs()
    return True


def _destination(settings: Settings) -> Destination | None:
    """Where rows are shipped to, None where nothing is."""
    if not settings.collector_url:
        return None
    from joulebook.collector_client import destination

    return destination(
        settings.collector_url, settings.collector_token_file or None, settings.collector_ca_file or None
    )


def _telemetry(settings: Settings, stack: ExitStack, *, standing_by: bool) -> Telemetry | None:
    """What the exporters show, None where none is asked for; an exporter that cannot start stops no metering."""
    if not any(os.environ.get(variable) for variable in EXPORTERS):
        return None
    from importlib.metadata import version

    from joulebook.telemetry import Telemetry

    telemetry = Telemetry(machine_id(), version("joulebook"), settings.sample_ns, utc_us())
    telemetry.standing_by = standing_by
    for error in telemetry.open_exporters(stack):
        print(error.lines("agent"), file=sys.stderr)
    return telemetry


def _open_meters(telemetry: Telemetry | None, stack: ExitStack) -> tuple[list[Meter], Reopening]:
    """The meters that open, and those that are to be tried again; ``stack`` closes all, those that come later too."""
    roots = roots_from_environment()
    meters, refused = open_meters(None, roots)
    reopening = Reopening(refused, roots, boottime_ns())
    stack.callback(_close, meters)
    stack.callback(reopening.close)
    for refusal in refused:
        absent = isinstance(refusal.error, MeterAbsent)  # what is not there needs no mending
        if not (absent and meters):
            print(refusal.error.lines("agent"), file=sys.stderr)
        if telemetry is not None and not absent:
            telemetry.unavailable(refusal.name)
    if telemetry is not None:
        telemetry.standing_by = False
    return meters, reopening


def _close(meters: Sequence[Meter]) -> None:
    for meter in meters:
        meter.close()


def _meter(agent: _Agent, lease: Lease) -> bool:
    """Meter until stopped or idle. True when a run began while it was ending: then it is to go on."""
    home, machine, boot, roots = agent.home, machine_id(), boot_id(), roots_from_environment()
    path = outbox_path(home, machine)
    outbox = Outbox(path, writer=True, most_bytes=agent.settings.outbox_bytes)
    shipper: Shipper | None = None
    try:
        outbox.ship_to(None if agent.destination is None else agent.destination.url)
        shipper = _shipper(agent.destination, path)
        if lease.last_holder not in ("", outbox.agent_id):
            leave_counters(outbox)
        lease.hold_for(outbox.agent_id)
        folder = MarksFolder(home, roots.proc, machine, boot)
        sampler = Sampler(outbox, folder, agent.meters, roots, agent.settings, machine, boot)
        sampler.book.ended = ended_runs(outbox)
        if agent.telemetry is not None:
            agent.telemetry.resume(outbox)
            sampler.telemetry = agent.telemetry
        sampler.start()
        idle = None if agent.until_idle_seconds is None else int(agent.until_idle_seconds * NS_PER_SECOND)
        _settle_memory()
        loop = Loop(sampler, home, agent.reopening, idle, agent.stop_fd, lease, shipper)
        loop.run()
        if agent.telemetry is not None:
            sampler.publish(boottime_ns(), loop.shipping())
            agent.telemetry.leave(outbox)
        return not _is_readable(agent.stop_fd, 0.0) and folder.joined_unseen()
    finally:
        if shipper is not None:
            shipper.stop(SHIP_AT_END_SECONDS)
        outbox.close()


def _settle_memory() -> None:
    """What is there now stays: no later collection need look at it. What opening took is given back (glibc: 1 MiB)."""
    gc.collect()
    gc.freeze()
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _shipper(to: Destination | None, path: Path) -> Shipper | None:
    """The thread that ships, begun."""
    if to is None:
        return None
    from joulebook.shipping import Shipper

    shipper = Shipper(path, to)
    shipper.start()
    return shipper


def _stand_by(home: Home, stop_fd: int) -> Lease | None:
    """The lease once its owner is gone; None when stopped before."""
    status = read_status(home)
    owner = (
        f"pid {status['pid']} of {status['machine']}" if "pid" in status and "machine" in status else "another agent"
    )
    print(f"joulebook agent: {owner} meters this machine ({home.agents}): standing by", file=sys.stderr, flush=True)
    fd = open_lease(home)
    while not _is_readable(stop_fd, STANDBY_SECONDS):
        if (lease := try_lease(fd)) is not None:
            print("joulebook agent: the other agent has ended: metering", file=sys.stderr, flush=True)
            return lease
    os.close(fd)
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
