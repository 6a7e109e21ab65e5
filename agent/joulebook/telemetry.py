"""What the agent's loop tells of itself as it goes, and the newest snapshot made of it for the exporters.

One thread tells; any thread may read ``newest``. An agent without exporters has no Telemetry and pays nothing.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from joulebook.errors import JoulebookError
from joulebook.snapshot import LATENESS_BOUNDS_NS, DeviceState, MeterState, OutboxState, ShippingState, Snapshot, Ticks
from joulebook.totals import Totals
from joulebook.units import NS_PER_SECOND

if TYPE_CHECKING:
    from joulebook.outbox import Outbox

STATE: Final = "totals"
"""Where the totals of a cleanly ended agent are kept in its outbox."""
PUBLISH_NS: Final = NS_PER_SECOND * 9 // 10
"""Snapshots are at least this far apart, however fast the loop ticks."""
CLOCK_STEP_NS: Final = NS_PER_SECOND // 10
"""UTC that moves by more than this against CLOCK_BOOTTIME from one tick to the next was set, not slewed."""


class Exporter(Protocol):
    """seen: the newest snapshot's version that it has shown to the outside."""

    seen: int

    def close(self) -> None:
        """Stop."""
        ...


@dataclass(slots=True)
class _Readings:
    reads: int = 0
    failures: int = 0
    read_ns: int = 0
    up: bool = False


@dataclass(slots=True)
class Telemetry:
    """Counts since ``started_us`` (UTC).

    totals: to be told of rows and runs.  newest: None before the first ``publish``.  standing_by: True while the agent
    waits for another one's end.
    """

    machine_id: str
    agent_version: str
    sample_ns: int
    started_us: int
    totals: Totals = field(default_factory=Totals)
    newest: Snapshot | None = None
    standing_by: bool = False
    exporters: list[Exporter] = field(default_factory=list)
    clock_steps: int = 0
    _meters: dict[str, _Readings] = field(default_factory=dict)
    _late: list[int] = field(default_factory=lambda: [0] * (len(LATENESS_BOUNDS_NS) + 1))
    _late_ns: int = 0
    _missed: int = 0
    _offset_ns: int | None = None

    def ticked(self, due_ns: int, now_ns: int, offset_ns: int) -> None:
        """A tick that was due then (0: it is the first) begins now. offset_ns: UTC minus CLOCK_BOOTTIME."""
        late = max(0, now_ns - due_ns) if due_ns else 0
        self._late[bisect_left(LATENESS_BOUNDS_NS, late)] += 1
        self._late_ns += late
        self._missed += late // self.sample_ns
        if self._offset_ns is not None and abs(offset_ns - self._offset_ns) > CLOCK_STEP_NS:
            self.clock_steps += 1
        self._offset_ns = offset_ns

    def read(self, meter: str, spent_ns: int, *, succeeded: bool) -> None:
        """A meter was read, or tried, in that wall time."""
        readings = self._readings(meter)
        readings.reads += 1
        readings.failures += not succeeded
        readings.read_ns += spent_ns
        readings.up = succeeded

    def unavailable(self, meter: str) -> None:
        """A meter that should be there could not be opened."""
        self._readings(meter)

    def _readings(self, meter: str) -> _Readings:
        if meter not in self._meters:
            self._meters[meter] = _Readings()
        return self._meters[meter]

    def is_due(self, now_ns: int) -> bool:
        """True when it is time for the next ``publish``."""
        return self.newest is None or now_ns - self.newest.at_ns >= PUBLISH_NS

    def publish(
        self,
        now_ns: int,
        devices: tuple[DeviceState, ...],
        outbox: OutboxState,
        open_runs: int,
        shipping: ShippingState | None = None,
    ) -> None:
        """Make the newest snapshot; runs that have been shown for long enough leave the totals."""
        self.totals.expire(now_ns, max((exporter.seen for exporter in self.exporters), default=0))
        version, energies = self.totals.freeze()
        late = tuple(self._late)
        self.newest = Snapshot(
            version=version,
            at_ns=now_ns,
            sample_ns=self.sample_ns,
            machine_id=self.machine_id,
            agent_version=self.agent_version,
            started_us=self.started_us,
            energies=energies,
            devices=devices,
            meters=tuple(
                MeterState(name, read.reads, read.failures, read.read_ns, read.up)
                for name, read in self._meters.items()
            ),
            outbox=outbox,
            shipping=shipping,
            ticks=Ticks(sum(late), self._missed, late, self._late_ns),
            clock_steps=self.clock_steps,
            open_runs=open_runs,
        )

    def resume(self, outbox: Outbox) -> None:
        """Go on counting where the agent before stopped, if it stopped cleanly; before any row is added.

        What it left is removed first: totals restored a second time would lie below what was shown meanwhile, and
        a reader would count them twice. Where the disk does not let it be removed, counting begins at 0.
        """
        left = outbox.state(STATE)
        if left is not None:
            with suppress(OSError):
                outbox.write(state={STATE: None})
                if self.newest is None:
                    self.totals.restore(left)

    def leave(self, outbox: Outbox) -> None:
        """Leave the totals for the next agent, after the last flush; without a disk that takes them it begins at 0."""
        with suppress(OSError):
            outbox.write(state={STATE: self.totals.state()})

    def open_exporters(self, stack: ExitStack, environ: Mapping[str, str] = os.environ) -> list[JoulebookError]:
        """Start those that the variables ask for, to be closed with ``stack``; what kept others from starting."""
        errors: list[JoulebookError] = []
        for variable, opener in OPENERS.items():
            if environ.get(variable):
                try:
                    exporter = opener(self, environ)
                except JoulebookError as error:
                    errors.append(error)
                else:
                    self.exporters.append(exporter)
                    stack.callback(exporter.close)
        return errors


def is_wanted(environ: Mapping[str, str] = os.environ) -> bool:
    """True where some exporter is asked for."""
    return any(environ.get(variable) for variable in OPENERS)


def _open_exposition(telemetry: Telemetry, environ: Mapping[str, str]) -> Exporter:
    from joulebook.exposition import Exposition, exporter_settings

    settings = exporter_settings(environ)
    assert settings is not None
    return Exposition(lambda: telemetry.newest, settings, lambda: telemetry.standing_by)


def _open_otlp(telemetry: Telemetry, environ: Mapping[str, str]) -> Exporter:
    from joulebook.otlp import OtlpPusher, otlp_settings

    settings = otlp_settings(environ)
    assert settings is not None
    return OtlpPusher(lambda: telemetry.newest, settings)


OPENERS: Final[dict[str, Callable[[Telemetry, Mapping[str, str]], Any]]] = {
    "JOULEBOOK_METRICS_ADDRESS": _open_exposition,
    "JOULEBOOK_OTLP_ENDPOINT": _open_otlp,
}
"""Variable that asks for an exporter -> what opens it, imported only then."""
