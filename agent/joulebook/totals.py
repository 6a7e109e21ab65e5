"""Running totals of final measurements and their shares, for counters: exact, bounded in number, never falling.

The sampler adds every measurement once, when it becomes final, and every move that a late mark makes afterwards.
A Prometheus counter that falls is taken for one that began anew, and counted twice: so what a total loses to a late
mark it goes on showing until it has grown past it again; ``Energies.overstated`` says how much that is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from joulebook.rows import Component, Labels, Measurement, Method, Share, ShareKind
from joulebook.snapshot import DeviceEnergy, Energies, Exemplar, PhaseEnergy, RunEnergy, ShareEnergy
from joulebook.units import NS_PER_SECOND

MOST_RUNS: Final = 200
"""Runs that have series of their own; further ones are summed under OTHER."""
MOST_PHASES: Final = 32
"""Phases that have series of their own, of one run and of all runs together."""
MOST_PARTS: Final = 2000
"""Series of all runs together, from which on every further phase of a run is under OTHER."""
KEEP_NS: Final = 900 * NS_PER_SECOND
"""How long an ended run is still shown after its last value was seen."""
OTHER: Final = "other"
MOST_FOLDED: Final = 4096
"""Runs under OTHER that are remembered by id, so that one that ends and goes on stays there."""


@dataclass(slots=True)
class _Count:
    """net: the true sum.  shown: the largest that it has been."""

    net: int = 0
    shown: int = 0
    created_us: int = 0
    exemplar: Exemplar | None = None

    def add(self, millijoules: int) -> None:
        self.net += millijoules
        self.shown = max(self.shown, self.net)


Parts = dict[tuple[str, Component], _Count]


@dataclass(slots=True)
class _Run:
    """changed: number of the first snapshot that shows its present values.  born: of the first that showed it at all.

    ended: False only after ``open``, so that what a late row brings back goes again.  seen_ns: when it was noticed that
    the present values had been seen, None before.  frozen: its part of a snapshot.
    """

    run_id: str
    created_us: int
    labels: Labels
    born: int
    changed: int
    parts: Parts = field(default_factory=dict)
    ended: bool = True
    seen_ns: int | None = None
    frozen: RunEnergy | None = None

    def freeze(self) -> RunEnergy:
        if self.frozen is None:
            parts = tuple((phase, component, count.shown) for (phase, component), count in self.parts.items())
            told = self.labels
            self.frozen = RunEnergy(
                self.run_id, self.created_us, parts, told.name, told.project, told.study, told.arm
            )  # fmt: skip
        return self.frozen


class Totals:
    """Adds up rows; for one thread. most_runs, most_phases, most_parts: bounds on series.  keep_ns: see KEEP_NS."""

    def __init__(
        self,
        most_runs: int = MOST_RUNS,
        most_phases: int = MOST_PHASES,
        most_parts: int = MOST_PARTS,
        keep_ns: int = KEEP_NS,
    ) -> None:
        self.most_runs, self.most_phases, self.most_parts, self.keep_ns = most_runs, most_phases, most_parts, keep_ns
        self.folded_runs = 0
        self._devices: dict[tuple[str, Component, Method, str], DeviceEnergy] = {}
        self._shares: dict[tuple[ShareKind, Component], _Count] = {}
        self._phases: Parts = {}
        self._runs: dict[str, _Run] = {}
        self._parts = 0
        self._folded: dict[str, None] = {}
        self._other: _Run | None = None
        self._version = 1
        self._seen = 0
        self._frozen: Energies | None = None

    # -- what the sampler tells ------------------------------------------------------------------

    def open(self, run_id: str, at_us: int, labels: Labels | None = None) -> None:
        """A run begins, or goes on: it has its place from now on, before its first joule.

        at_us: UTC from which its joules are counted here, its start unless an agent before this one counted some.
        """
        run = self._run(run_id, at_us, labels)
        run.ended = False

    def expect(self, rows: Iterable[Measurement]) -> None:
        """Rows that are closed but not final: their series begin at 0 now, so that a reader sees them rise."""
        for row in rows:
            for share in row.shares:
                self._counts(row.component, share, row.started_at_us)

    def add(self, rows: Iterable[Measurement]) -> None:
        """Rows that have become final, each once."""
        for row in rows:
            self._measured(row)
            for share in row.shares:
                exemplar = Exemplar(share.run_id, share.millijoules, row.ended_at_us) if share.millijoules else None
                for count in self._counts(row.component, share, row.started_at_us):
                    count.add(share.millijoules)
                    count.exemplar = exemplar or count.exemplar
                self._touch(share.run_id)

    def move(self, component: Component, millijoules: int, giver: Share, taker: Share, at_us: int) -> None:
        """A late mark has moved millijoules of a final measurement. at_us: UTC of its end."""
        for count in self._counts(component, giver, at_us):
            count.add(-millijoules)
        for count in self._counts(component, taker, at_us):
            count.add(millijoules)
        self._touch(giver.run_id)
        self._touch(taker.run_id)

    def end(self, run_id: str) -> None:
        """A run has ended. Its last rows may still come."""
        if run_id in self._runs:
            self._runs[run_id].ended = True

    def expire(self, now_ns: int, seen: int) -> None:
        """Let go of ended runs whose last values were seen long enough ago. seen: newest version that was shown."""
        self._seen = max(self._seen, seen)
        for run in list(self._runs.values()):
            if run.ended and run.changed <= self._seen:
                run.seen_ns = now_ns if run.seen_ns is None else run.seen_ns
                if now_ns - run.seen_ns >= self.keep_ns:
                    self._drop(run)

    # -- what readers get ------------------------------------------------------------------------

    def freeze(self) -> tuple[int, Energies]:
        """The totals and the number of the snapshot that will show them; cheap where nothing has changed."""
        version = self._version
        self._version += 1
        if self._frozen is None:
            runs = [*self._runs.values(), *([self._other] if self._other else [])]
            self._frozen = Energies(
                devices=tuple(self._devices.values()),
                shares=tuple(
                    ShareEnergy(kind, component, count.shown, count.created_us)
                    for (kind, component), count in self._shares.items()
                ),
                phases=tuple(
                    PhaseEnergy(phase, component, count.shown, count.created_us, count.exemplar)
                    for (phase, component), count in self._phases.items()
                ),
                runs=tuple(run.freeze() for run in runs),
                folded_runs=self.folded_runs,
                residual_millijoules=self.residual(),
                overstated=(
                    ("share", _excess(self._shares)),
                    ("phase", _excess(self._phases)),
                    ("run", sum(_excess(run.parts) for run in runs)),
                ),
            )
        return version, self._frozen

    def residual(self) -> int:
        """Measured millijoules minus those of all shares; not 0 only when law 1 is broken."""
        measured = sum(device.millijoules for device in self._devices.values())
        return measured - sum(count.net for count in self._shares.values())

    # -- inside ----------------------------------------------------------------------------------

    def _measured(self, row: Measurement) -> None:
        key = (row.device_id, row.component, row.method, row.meter)
        known = self._devices.get(key) or DeviceEnergy(*key, 0, 0, row.started_at_us)
        observed_ns = round((row.ended_ns - row.started_ns) * row.coverage)
        self._devices[key] = DeviceEnergy(
            *key, known.millijoules + row.energy_millijoules, known.observed_ns + observed_ns, known.created_us
        )
        self._frozen = None

    def _counts(self, component: Component, share: Share, at_us: int) -> list[_Count]:
        """Every total that a share is a part of."""
        counts = [self._count(self._shares, (share.kind, component), at_us)]
        if share.run_id:
            counts.append(self._phase(self._phases, share.phase, component, at_us))
            run = self._run(share.run_id, at_us)
            known = len(run.parts)
            phase = share.phase if self._parts < self.most_parts or (share.phase, component) in run.parts else OTHER
            counts.append(self._phase(run.parts, phase, component, run.created_us))
            if len(run.parts) > known:
                self._parts += 1
                self._touch(share.run_id)
        return counts

    def _phase(self, parts: Parts, phase: str, component: Component, at_us: int) -> _Count:
        if (phase, component) not in parts and len({known for known, _ in parts} - {phase}) >= self.most_phases:
            phase = OTHER
        return self._count(parts, (phase, component), at_us)

    def _count(self, counts: dict[Any, _Count], key: tuple[Any, Component], at_us: int) -> _Count:
        if key not in counts:
            counts[key] = _Count(created_us=at_us)
            self._frozen = None
        return counts[key]

    def _run(self, run_id: str, at_us: int, labels: Labels | None = None) -> _Run:
        """The run's totals; those of OTHER where all places are taken."""
        known = self._runs.get(run_id)
        if known is None and (run_id in self._folded or run_id == OTHER or not self._make_room()):
            if run_id not in self._folded:
                self._remember_folded(run_id)
            self._other = self._other or _Run(OTHER, at_us, Labels(), self._version, self._version)
            return self._other
        if known is None:
            known = self._runs[run_id] = _Run(run_id, at_us, Labels(), self._version, self._version)
            self._frozen = None
        if labels is not None and labels != known.labels:
            known.labels = labels
            self._touch(run_id)
        return known

    def _make_room(self) -> bool:
        """True when a place is free for one more run: an ended run whose last values were seen goes first."""
        if len(self._runs) < self.most_runs:
            return True
        ended = [run for run in self._runs.values() if run.ended]
        for run in ended:
            if run.changed <= self._seen:
                self._drop(run)
                return True
        for run in ended:
            if run.born > self._seen:
                self._fold(run)
                return True
        return False

    def _fold(self, run: _Run) -> None:
        """Move a run that no reader has seen to OTHER: one that was seen would be counted there a second time."""
        self._drop(run)
        self._remember_folded(run.run_id)
        self._other = other = self._other or _Run(OTHER, run.created_us, Labels(), self._version, self._version)
        known = len(other.parts)
        for (phase, component), count in run.parts.items():
            self._phase(other.parts, phase, component, other.created_us).add(count.net)
        self._parts += len(other.parts) - known
        self._touch(OTHER)

    def _remember_folded(self, run_id: str) -> None:
        self.folded_runs += 1
        self._folded[run_id] = None
        if len(self._folded) > MOST_FOLDED:
            del self._folded[next(iter(self._folded))]

    def _drop(self, run: _Run) -> None:
        del self._runs[run.run_id]
        self._parts -= len(run.parts)
        self._frozen = None

    def _touch(self, run_id: str) -> None:
        run = self._runs.get(run_id) or self._other
        if run_id and run is not None:
            run.changed, run.seen_ns, run.frozen = self._version, None, None
        self._frozen = None

    # -- over a restart --------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """JSON for ``restore``: written in the transaction of the last flush.

        The next agent's first flush must remove it: restored twice, it would fall behind what was shown meanwhile.
        """
        runs = [*self._runs.values(), *([self._other] if self._other else [])]
        return {
            "devices": [list(_plain(device)) for device in self._devices.values()],
            "shares": [[*key, *_numbers(count)] for key, count in self._shares.items()],
            "phases": [[*key, *_numbers(count)] for key, count in self._phases.items()],
            "runs": [
                [
                    *(run.run_id, run.created_us, run.born <= self._seen, run.ended, _told(run.labels)),
                    [[*key, *_numbers(count)] for key, count in run.parts.items()],
                ]
                for run in runs
            ],
            "folded_runs": self.folded_runs,
        }

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Go on from where a cleanly ended agent stopped. Call it on fresh totals; None: begin at 0."""
        if not state:
            return
        for device_id, component, method, meter, *numbers in state["devices"]:
            key = (device_id, Component(component), Method(method), meter)
            self._devices[key] = DeviceEnergy(*key, *numbers)
        for kind, component, *numbers in state["shares"]:
            self._shares[ShareKind(kind), Component(component)] = _Count(*numbers)
        self._phases = _parts(state["phases"])
        for run_id, created_us, seen, ended, told, parts in state["runs"]:
            born = self._seen if seen else self._version
            run = _Run(run_id, created_us, Labels(*told), born, self._version, _parts(parts), ended)
            self._parts += len(run.parts)
            if run_id == OTHER:
                self._other = run
            else:
                self._runs[run_id] = run
        self.folded_runs = state["folded_runs"]


def _excess(counts: Mapping[Any, _Count]) -> int:
    return sum(count.shown - count.net for count in counts.values())


def _plain(device: DeviceEnergy) -> Iterable[Any]:
    return (getattr(device, name) for name in DeviceEnergy.__dataclass_fields__)


def _numbers(count: _Count) -> tuple[int, int, int]:
    return count.net, count.shown, count.created_us


def _told(labels: Labels) -> list[str]:
    return [labels.name, labels.project, labels.study, labels.arm]


def _parts(rows: Iterable[Any]) -> Parts:
    return {(phase, Component(component)): _Count(*numbers) for phase, component, *numbers in rows}
