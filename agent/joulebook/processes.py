"""Who runs on this machine: process trees and their CPU time, by differencing the /proc listing.

An *actor* is a process that marks (a trainer, a rank, the launcher); every process belongs to its
nearest ancestor that is one. No tree is walked: only processes not seen before are looked up.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from joulebook.cgroup import cpu_seconds
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
    """The processes as of the last scan.

    machine: busy CPU nanoseconds of everything over time.  usage, group: the file that counts the CPU time of the
    agent's own control group where that is limited, and what it said over time.
    """

    proc: Path
    actors: dict[str, Actor] = field(default_factory=dict)
    machine: History = field(default_factory=History)
    usage: Path | None = None
    group: History = field(default_factory=History)
    _known: dict[int, _Known] = field(default_factory=dict)
    _moved: bool = False

    def add_actor(self, actor: Actor) -> None:
        """From the next scan on, the process and what it starts count for this actor."""
        self.actors[actor.key] = actor
        self._moved = True

    def drop_actor(self, key: str) -> None:
        """Its processes count for whoever is above them from now on."""
        self._moved |= self.actors.pop(key, None) is not None

    def actor_of(self, pid: int) -> str | None:
        """Key of the actor that a process belongs to."""
        known = self._known.get(pid)
        return known.actor if known is not None else None

    def scan(self, now_ns: int) -> None:
        """Read CPU times of every actor's tree and of the machine."""
        self.machine.add(now_ns, machine_busy_ns(self.proc))
        if self.usage is not None:
            self.group.add(now_ns, int(cpu_seconds(self.usage) * 1e9))
        if not self.actors:
            self._known.clear()
            return
        listed = {int(name) for name in os.listdir(self.proc) if name.isdigit()}  # noqa: PTH208
        self._leave(listed)
        if self._moved:
            self._sort_anew(listed)
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

    def _sort_anew(self, listed: set[int]) -> None:
        """An actor came or went: who belongs to whom is decided anew, and no actor's total jumps for it."""
        before, self._known, self._moved = self._known, {}, False
        self._meet(listed)
        for pid, old in before.items():
            new = self._known.get(pid)
            if new is None or new.actor == old.actor:
                continue
            total = old.own_ns + old.children_ns
            if old.actor in self.actors:
                self.actors[old.actor].carried += total
            if new.actor is not None and self.actors[new.actor].cpu.last_time is not None:
                self.actors[new.actor].carried -= total

    def _leave(self, listed: set[int]) -> None:
        """Carry on what those that are gone had used, where nobody's waited-for children will show it."""
        gone = self._known.keys() - listed
        for pid in sorted(gone):
            known = self._known[pid]
            if known.actor not in self.actors:
                continue
            actor = self.actors[known.actor]
            actor.gone |= pid == actor.pid
            heir = self._heir(pid, gone)
            if heir == known.actor:
                continue  # waited for within the actor: the one that waited shows it
            total = known.own_ns + known.children_ns
            actor.carried += total
            if heir is not None:
                self.actors[heir].carried -= total  # waited for by another actor: not to count twice
        for pid in gone:
            del self._known[pid]

    def _heir(self, pid: int, gone: set[int]) -> str | None:
        """The actor of the nearest ancestor that still lives, None when that is none of ours."""
        at = self._known[pid].ppid
        while at in gone:
            at = self._known[at].ppid
        living = self._known.get(at)
        return living.actor if living is not None and living.actor in self.actors else None
