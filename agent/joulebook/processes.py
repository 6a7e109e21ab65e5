"""Who runs on this machine: process trees and their CPU time, by differencing the /proc listing.

An *actor* is a process that marks (a trainer, a rank, the launcher); every process belongs to its
nearest ancestor that is one. No tree is walked: only processes not seen before are looked up.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from joulebook.history import History
from joulebook.identity import RUN_ID

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
NS_PER_TICK = 1_000_000_000 // TICKS_PER_SECOND


@dataclass(frozen=True, slots=True)
class Stat:
    """The fields of /proc/PID/stat that matter. own_ns, children_ns: CPU time, waited-for children apart."""

    ppid: int
    own_ns: int
    children_ns: int
    started_ticks: int
    state: str


def read_stat(proc: Path, pid: int) -> Stat | None:
    """A process's stat, None when it is gone."""
    try:
        with open(f"{proc}/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None
    fields = text[text.rindex(b")") + 2 :].split()
    own = int(fields[11]) + int(fields[12])
    children = int(fields[13]) + int(fields[14])
    return Stat(int(fields[1]), own * NS_PER_TICK, children * NS_PER_TICK, int(fields[19]), fields[0].decode())


def machine_busy_ns(proc: Path) -> int:
    """CPU time of the whole machine since boot that did work: user, nice, system, irq, softirq."""
    with open(f"{proc}/stat", "rb") as file:
        words = file.readline().split()
    user, nice, system, _, _, irq, softirq = (int(word) for word in words[1:8])
    return (user + nice + system + irq + softirq) * NS_PER_TICK


@dataclass(slots=True)
class Actor:
    """A marking process and the tree below it.

    cpu: cumulative CPU nanoseconds of the tree over time.  carried: CPU time of members that are gone
    and that no live member's waited-for children contain.
    """

    key: str
    run_id: str
    pid: int
    launcher: bool
    cpu: History = field(default_factory=History)
    carried: int = 0
    gone: bool = False


@dataclass(slots=True)
class _Known:
    ppid: int
    actor: str | None
    own_ns: int = 0
    children_ns: int = 0


@dataclass(slots=True)
class ProcessTable:
    """The processes as of the last scan."""

    proc: Path
    actors: dict[str, Actor] = field(default_factory=dict)
    machine: History = field(default_factory=History)
    _known: dict[int, _Known] = field(default_factory=dict)

    def add_actor(self, actor: Actor) -> None:
        """From the next scan on, the process and what it starts count for this actor."""
        self.actors[actor.key] = actor
        self._known.clear()  # who belongs to whom is decided anew; totals live in the actors

    def drop_actor(self, key: str) -> None:
        """Its processes count for whoever is above them from now on."""
        if self.actors.pop(key, None) is not None:
            self._known.clear()

    def actor_of(self, pid: int) -> str | None:
        """Key of the actor that a process belongs to."""
        known = self._known.get(pid)
        return known.actor if known is not None else None

    def scan(self, now_ns: int) -> None:
        """Read CPU times of every actor's tree and of the machine."""
        self.machine.add(now_ns, machine_busy_ns(self.proc))
        if not self.actors:
            self._known.clear()
            return
        listed = {int(name) for name in os.listdir(self.proc) if name.isdigit()}  # noqa: PTH208
        self._leave(listed)
        self._meet(listed)
        totals = dict.fromkeys(self.actors, 0)
        for pid, known in self._known.items():
            if known.actor is None:
                continue
            stat = read_stat(self.proc, pid)
            if stat is not None:
                known.own_ns, known.children_ns = stat.own_ns, stat.children_ns
            totals[known.actor] += known.own_ns + known.children_ns
        for key, total in totals.items():
            actor = self.actors[key]
            actor.cpu.add(now_ns, total + actor.carried)

    def _meet(self, listed: set[int]) -> None:
        by_pid = {actor.pid: actor.key for actor in self.actors.values() if not actor.gone}
        fresh = sorted(listed - self._known.keys())
        stats = {pid: stat for pid in fresh if (stat := read_stat(self.proc, pid)) is not None}
        for pid, stat in stats.items():
            self._known[pid] = _Known(stat.ppid, by_pid.get(pid), stat.own_ns, stat.children_ns)
        for pid in stats:
            if self._known[pid].actor is None:
                self._known[pid].actor = self._inherit(pid, by_pid)

    def _inherit(self, pid: int, by_pid: dict[int, str]) -> str | None:
        seen: set[int] = set()
        at = pid
        while at > 1 and at in self._known and at not in seen:
            seen.add(at)
            if self._known[at].actor is not None:
                return self._known[at].actor
            at = self._known[at].ppid
        return self._orphan_of(pid)

    def _orphan_of(self, pid: int) -> str | None:
        """A process whose parents are gone still carries its run in its environment."""
        try:
            with open(f"{self.proc}/{pid}/environ", "rb") as file:
                words = file.read().split(b"\0")
        except OSError:
            return None
        prefix = RUN_ID.encode() + b"="
        named = next((word[len(prefix) :].decode(errors="replace") for word in words if word.startswith(prefix)), None)
        return next((a.key for a in self.actors.values() if named is not None and a.run_id == named), None)

    def _leave(self, listed: set[int]) -> None:
        for pid in sorted(self._known.keys() - listed):
            known = self._known.pop(pid)
            if known.actor is None or known.actor not in self.actors:
                continue
            actor = self.actors[known.actor]
            total = known.own_ns + known.children_ns
            parent = self._known.get(known.ppid)
            if pid == actor.pid:
                actor.gone = True
            if parent is None or parent.actor is None:
                actor.carried += total  # reaped outside the run: nobody else will show it
            elif parent.actor != known.actor:
                actor.carried += total
                self.actors[parent.actor].carried -= total  # reaped by another actor: not to count twice
