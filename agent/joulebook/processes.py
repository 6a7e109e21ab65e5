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

STAT_BYTES = 1024
"""More than the longest /proc/PID/stat."""
MOST_HELD = 512
"""Members' files kept open; those beyond are opened for every scan."""
LIST_NS = 10_000_000_000
"""Longest time for which a new process may wait to be seen."""
REMEMBER_NS = 10_000_000_000
"""How long it is known whose a process was that is gone: a GPU may speak of it after that."""
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
            return _parse(file.read())
    except OSError:
        return None


def _parse(text: bytes) -> Stat:
    fields = text[text.rindex(b")") + 2 :].split()
    own = int(fields[11]) + int(fields[12])
    children = int(fields[13]) + int(fields[14])
    return Stat(int(fields[1]), own * NS_PER_TICK, children * NS_PER_TICK, int(fields[19]), fields[0].decode())


def machine_counts(proc: Path) -> tuple[int, int | None]:
    """Since boot: CPU time of the whole machine that did work (user, nice, system, irq, softirq), ns; and forks.

    The forks, threads included, are None where the file does not tell them.
    """
    with open(f"{proc}/stat", "rb") as file:
        text = file.read()
    words = text[: text.index(b"\n")].split()
    user, nice, system, _, _, irq, softirq = (int(word) for word in words[1:8])
    at = text.rfind(b"\nprocesses ")
    forks = None if at < 0 else int(text[at + 11 :].split(None, 1)[0])
    return (user + nice + system + irq + softirq) * NS_PER_TICK, forks


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
    fd: int = -1


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
    _gone: dict[int, tuple[str, int]] = field(default_factory=dict)
    _moved: bool = False
    _forks: int | None = None
    _listed_ns: int = 0
    _held: int = 0

    def add_actor(self, actor: Actor) -> None:
        """From the next scan on, the process and what it starts count for this actor."""
        self.actors[actor.key] = actor
        self._moved = True

    def drop_actor(self, key: str) -> None:
        """Its processes count for whoever is above them from now on."""
        self._moved |= self.actors.pop(key, None) is not None

    def actor_of(self, pid: int) -> str | None:
        """Key of the actor that a process belongs to, or did until a moment ago."""
        known = self._known.get(pid)
        return known.actor if known is not None else self._gone.get(pid, (None, 0))[0]

    def has_left(self, pid: int) -> bool:
        """Whether a process of an actor went a moment ago."""
        return pid in self._gone and pid not in self._known

    def scan(self, now_ns: int, *, promptly: bool = True) -> None:
        """Read CPU times of every actor's tree and of the machine.

        The listing, half of the cost, is read only when a process was made or is gone since the last one. promptly: as
        soon as one was made, else within LIST_NS: what it used until then is counted when it is seen.
        """
        busy_ns, forks = machine_counts(self.proc)
        self.machine.add(now_ns, busy_ns)
        if self.usage is not None:
            self.group.add(now_ns, int(cpu_seconds(self.usage) * 1e9))
        if not self.actors:
            self._forget_all()
            return
        whole = self._read_members()
        made = forks is None or (forks != self._forks and (promptly or now_ns - self._listed_ns >= LIST_NS))
        if not whole or made or self._moved:
            self._forks, self._listed_ns = forks, now_ns
            listed = {int(name) for name in os.listdir(self.proc) if name.isdigit()}  # noqa: PTH208
            self._leave(listed, now_ns)
            if self._moved:
                self._sort_anew(listed)
            self._meet(listed)
        totals = dict.fromkeys(self.actors, 0)
        for known in self._known.values():
            if known.actor is not None:
                totals[known.actor] += known.own_ns + known.children_ns
        for key, total in totals.items():
            actor = self.actors[key]
            actor.cpu.add(now_ns, total + actor.carried)

    def _read_members(self) -> bool:
        """Bring the CPU times of all members up to now. False when one of them is gone."""
        whole = True
        for pid, known in self._known.items():
            if known.actor is None:
                continue
            try:
                if known.fd < 0:
                    self._hold(pid, known)
                text = os.pread(known.fd, STAT_BYTES, 0) if known.fd >= 0 else self._read_anew(pid)
                fields = text[text.rindex(b")") + 2 :].split(None, 15)
                known.own_ns = (int(fields[11]) + int(fields[12])) * NS_PER_TICK
                known.children_ns = (int(fields[13]) + int(fields[14])) * NS_PER_TICK
            except (OSError, ValueError, IndexError):  # no such process: its file is empty
                whole = False
        return whole

    def _read_anew(self, pid: int) -> bytes:
        with open(f"{self.proc}/{pid}/stat", "rb") as file:
            return file.read()

    def _hold(self, pid: int, known: _Known) -> None:
        """Keep a member's file open: reading it again costs half of opening it again, and it is never another's."""
        if self._held < MOST_HELD:
            known.fd = os.open(f"{self.proc}/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
            self._held += 1

    def _release(self, known: _Known) -> None:
        if known.fd >= 0:
            os.close(known.fd)
            known.fd = -1
            self._held -= 1

    def _forget_all(self) -> None:
        for known in self._known.values():
            self._release(known)
        self._known.clear()
        self._gone.clear()
        self._forks = None

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
            self._release(old)
            new = self._known.get(pid)
            if new is None or new.actor == old.actor:
                continue
            total = old.own_ns + old.children_ns
            if old.actor in self.actors:
                self.actors[old.actor].carried += total
            if new.actor is not None and self.actors[new.actor].cpu.last_time is not None:
                self.actors[new.actor].carried -= total

    def _leave(self, listed: set[int], now_ns: int) -> None:
        """Carry on what those that are gone had used, where nobody's waited-for children will show it."""
        gone = self._known.keys() - listed
        self._gone = {pid: left for pid, left in self._gone.items() if left[1] + REMEMBER_NS > now_ns}
        for pid in sorted(gone):
            known = self._known[pid]
            if known.actor not in self.actors:
                continue
            actor = self.actors[known.actor]
            actor.gone |= pid == actor.pid
            self._gone[pid] = (actor.key, now_ns)
            heir = self._heir(pid, gone)
            if heir == known.actor:
                continue  # waited for within the actor: the one that waited shows it
            total = known.own_ns + known.children_ns
            actor.carried += total
            if heir is not None:
                self.actors[heir].carried -= total  # waited for by another actor: not to count twice
        for pid in gone:
            self._release(self._known.pop(pid))

    def _heir(self, pid: int, gone: set[int]) -> str | None:
        """The actor of the nearest ancestor that still lives, None when that is none of ours."""
        at = self._known[pid].ppid
        while at in gone:
            at = self._known[at].ppid
        living = self._known.get(at)
        return living.actor if living is not None and living.actor in self.actors else None
