"""The words of the book: what the agent writes, the collector stores and reports read.

Frozen data, free of hardware and of carbon. Every row goes over the wire as the plain
dict of ``to_wire`` (JSON types only) and comes back through ``from_wire``, which refuses what
breaks a row's own rules; rules between rows are the ledger's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from joulebook.errors import BadInput

MAX_TEXT: Final = 512
"""Longest name, id or label accepted anywhere, in characters."""


class Component(StrEnum):
    """What kind of thing a device is."""

    CPU = "cpu"
    DRAM = "dram"
    GPU = "gpu"
    NODE = "node"
    OTHER = "other"


class Method(StrEnum):
    """How a measurement came about, best first: law 2 prefers in this order."""

    COUNTER = "counter"
    INTEGRATED = "integrated"
    MODELLED = "modelled"


class ShareKind(StrEnum):
    """Whose a share is."""

    RUN = "run"
    IDLE = "idle"
    UNATTRIBUTED = "unattributed"


class Policy(StrEnum):
    """How a shared device's energy is divided; named on every share and every report.

    After calibration this is for the idle part alone, and the rest follows use: by reservation, by use, in equal
    parts to the runs that hold the device, or to nobody (a line of its own).
    """

    RESERVED = "reserved"
    UTILISATION = "utilisation"
    EQUAL = "equal"
    UNALLOCATED = "unallocated"


class Status(StrEnum):
    """How a run stands."""

    RUNNING = "running"
    OK = "ok"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


PHASES: Final = ("setup", "search", "train", "finetune", "eval", "inference")
"""The phases that reports know by name; users may add their own."""

UNREAD: Final = "unread_ns"
"""Field of a run's record: device -> nanoseconds before an end of the run over which nothing was read of it."""

BY_AGENT: Final = "agent"
"""The source of rows that an agent wrote; those of a file name the file."""

NO_PHASE: Final = ""
DIVIDED: Final = "divided: "
"""Begins the u_common_key of a device whose users could not be told apart: that error cancels between no two runs."""
"""The phase of joules that fall outside every phase of a run."""


@dataclass(frozen=True, slots=True)
class Weights:
    """What a claim on a device rests on, kept so that a report can split again.

    cpu_seconds: CPU time within the span, >= 0 (seconds).  sm_seconds: streaming-multiprocessor
    time within the span, >= 0 (seconds).  reserved_fraction: part of the device that is
    reserved, 0 to 1.
    """

    cpu_seconds: float = 0.0
    sm_seconds: float = 0.0
    reserved_fraction: float = 0.0


@dataclass(frozen=True, slots=True)
class Share:
    """A named part of one measurement.

    millijoules: >= 0.  run_id is empty unless kind is run; phase is "" outside every phase;
    member is the ensemble member, None when shared by all; rank None when the run has one process.
    """

    kind: ShareKind
    millijoules: int
    policy: Policy
    run_id: str = ""
    phase: str = NO_PHASE
    member: str | None = None
    rank: int | None = None
    weights: Weights = field(default_factory=Weights)

    def __post_init__(self) -> None:
        _whole("share millijoules", self.millijoules)
        if (self.kind is ShareKind.RUN) != bool(self.run_id):
            raise BadInput(f"a {self.kind} share has run_id {self.run_id!r}", "name the run in run shares only")


@dataclass(frozen=True, slots=True)
class Measurement:
    """The energy of one device over one half-open span, with the shares that exhaust it.

    Span: [started_at_us, ended_at_us) in UTC microseconds, for pricing; [started_ns, ended_ns)
    in CLOCK_BOOTTIME nanoseconds, for order and overlap within a boot.
    energy_millijoules: integer, >= 0.  idle_millijoules: the calibrated idle part, None before
    calibration.  u_common, u_indep: relative standard uncertainties (k=1) that measurements with
    the same u_common_key share, and that they do not.  coverage: part of the span that was
    observed, 0 to 1.  start_slack_millijoules, end_slack_millijoules: hard bounds of what may belong to the
    neighbour on that side where a process changed its state, from counters that only rise and power that has a
    limit; None elsewhere, and where nothing bounds it.
    note: a label that every report carries on ("claimed across absence").
    Law 1: the shares' millijoules sum to energy_millijoules exactly.
    """

    machine_id: str
    boot_id: str
    device_id: str
    component: Component
    started_at_us: int
    ended_at_us: int
    started_ns: int
    ended_ns: int
    energy_millijoules: int
    meter: str
    method: Method
    u_common: float
    u_common_key: str
    u_indep: float
    coverage: float
    source: str
    shares: tuple[Share, ...]
    idle_millijoules: int | None = None
    note: str = ""
    start_slack_millijoules: int | None = None
    end_slack_millijoules: int | None = None

    def __post_init__(self) -> None:
        _whole("energy_millijoules", self.energy_millijoules)
        for name in ("machine_id", "device_id", "meter"):
            _text(name, getattr(self, name))
        if not (self.started_at_us < self.ended_at_us and self.started_ns < self.ended_ns):
            raise BadInput(
                f"measurement of {self.device_id} ends at or before its start", "give ended after started, in UTC"
            )
        for name in ("u_common", "u_indep"):
            _real(name, getattr(self, name))
        if not 0.0 <= self.coverage <= 1.0:
            raise BadInput(f"coverage {self.coverage} of {self.device_id} is not within 0 to 1", "give a fraction")
        for name in ("idle_millijoules", "start_slack_millijoules", "end_slack_millijoules"):
            if getattr(self, name) is not None:
                _whole(name, getattr(self, name))
        if sum(share.millijoules for share in self.shares) != self.energy_millijoules:
            raise BadInput(
                f"the shares of {self.device_id} do not sum to its {self.energy_millijoules} mJ",
                "send shares that exhaust the measurement (law 1)",
            )


@dataclass(frozen=True, slots=True)
class Technique:
    """One efficiency technique with its parameters; a run's empty list of them is the baseline."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def label(self) -> str:
        """Stable text for tables: ``name(key=value, ...)``."""
        inner = ", ".join(f"{key}={value}" for key, value in sorted(self.parameters.items()))
        return f"{self.name}({inner})" if inner else self.name


@dataclass(frozen=True, slots=True)
class Ensemble:
    """An ensemble instance: its own id, method and number of members."""

    ensemble_id: str
    method: str
    members: int | None = None


@dataclass(frozen=True, slots=True)
class Labels:
    """What a run says of itself. inherits: run ids whose cost this run reuses."""

    name: str = ""
    project: str = ""
    study: str = ""
    arm: str = ""
    techniques: tuple[Technique, ...] = ()
    ensemble: Ensemble | None = None
    member: str | None = None
    seed: int | None = None
    parent_run_id: str = ""
    inherits: tuple[str, ...] = ()
    data_hash: str = ""

    def arm_label(self) -> str:
        """The name under which a study groups the run: its arm, else techniques and ensemble, else baseline."""
        if self.arm:
            return self.arm
        parts = [technique.label() for technique in self.techniques]
        if self.ensemble is not None:
            parts.append(self.ensemble.method)
        return " + ".join(parts) or "baseline"


@dataclass(frozen=True, slots=True)
class Run:
    """One version of a run's record; the newest version known is the one that counts.

    started_at_us, ended_at_us: UTC microseconds, ended None while running.  started_ns, ended_ns:
    CLOCK_BOOTTIME.  record: the start-of-run record (hardware, limits, versions, commit), and at its end UNREAD.
    reason: why the status is what it is, in words.
    """

    run_id: str
    machine_id: str
    boot_id: str
    status: Status
    started_at_us: int
    started_ns: int
    labels: Labels
    ended_at_us: int | None = None
    ended_ns: int | None = None
    exit_code: int | None = None
    command: tuple[str, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    notes: tuple[str, ...] = ()
    source: str = BY_AGENT

    def __post_init__(self) -> None:
        _text("run_id", self.run_id)
        if self.ended_at_us is not None and self.ended_at_us < self.started_at_us:
            raise BadInput(f"run {self.run_id} ends before it starts", "give ended after started, in UTC")


@dataclass(frozen=True, slots=True)
class Mark:
    """One line of a marks file, as the ledger keeps it.

    kind: join, begin, end, log, leave.  at_us UTC, at_ns CLOCK_BOOTTIME, cpu_ns the process's own
    CPU time.  samples, flops: counts of this mark alone.  quality: metric name to value.
    """

    run_id: str
    machine_id: str
    boot_id: str
    pid: int
    kind: str
    at_us: int
    at_ns: int
    cpu_ns: int
    n: int
    phase: str = NO_PHASE
    member: str | None = None
    rank: int | None = None
    samples: int | None = None
    flops: float | None = None
    step: int | None = None
    split: str = ""
    quality: Mapping[str, float] = field(default_factory=dict)
    synced: bool = True


@dataclass(frozen=True, slots=True)
class Reassignment:
    """A late mark's effect: moves millijoules of a final measurement from one share to another.

    measurement names its row as (incarnation, seq) of the same agent.  Append-only.
    """

    incarnation: str
    seq: int
    millijoules: int
    from_share: Share
    to_share: Share

    def __post_init__(self) -> None:
        _whole("reassigned millijoules", self.millijoules)


Body = Measurement | Run | Mark | Reassignment


def kind_of(body: Body) -> str:
    """The wire name of a row's type."""
    return type(body).__name__.lower()


@dataclass(frozen=True, slots=True)
class Row:
    """A row with its place in its agent's stream: seq counts from 1 within an incarnation."""

    seq: int
    body: Body


@dataclass(frozen=True, slots=True)
class Batch:
    """Contiguous rows of one incarnation of one agent: immutable once first sent."""

    agent_id: str
    incarnation: str
    rows: tuple[Row, ...]

    @property
    def first_seq(self) -> int:
        """seq of the first row."""
        return self.rows[0].seq

    @property
    def last_seq(self) -> int:
        """seq of the last row."""
        return self.rows[-1].seq


def to_wire(body: Body) -> dict[str, Any]:
    """The row as JSON types, with its kind under "row"."""
    if isinstance(body, Measurement):  # most of what is ever written: nothing in it but its shares is nested
        wire = {"row": "measurement", **{name: getattr(body, name) for name in _FIELDS[Measurement]}}
        wire["shares"] = [_share_to_wire(share) for share in body.shares]
        return wire
    return {"row": kind_of(body), **_plain(body)}


def _share_to_wire(share: Share) -> dict[str, Any]:
    weights = share.weights
    return {
        "kind": share.kind,
        "millijoules": share.millijoules,
        "policy": share.policy,
        "run_id": share.run_id,
        "phase": share.phase,
        "member": share.member,
        "rank": share.rank,
        "weights": {
            "cpu_seconds": weights.cpu_seconds,
            "sm_seconds": weights.sm_seconds,
            "reserved_fraction": weights.reserved_fraction,
        },
    }


def _plain(value: Any) -> Any:
    """Nested dataclasses as dicts, nothing copied that JSON only reads: several times as fast as ``asdict``."""
    fields = _FIELDS.get(type(value))
    if fields is not None:
        return {name: _plain(getattr(value, name)) for name in fields}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value


def from_wire(wire: Mapping[str, Any]) -> Body:
    """The row that ``to_wire`` wrote. Raises BadInput on anything else."""
    values = dict(wire)
    kind = values.pop("row", None)
    maker = _MAKERS.get(str(kind))
    if maker is None:
        raise BadInput(f"row of unknown kind {kind!r}", f"send one of {', '.join(sorted(_MAKERS))}")
    try:
        body: Body = maker(values)
    except (TypeError, ValueError, KeyError) as error:
        raise BadInput(f"{kind} row cannot be read: {error}", "send the fields of docs/reference/rows.md") from error
    return body


def share_from_wire(wire: Mapping[str, Any]) -> Share:
    """A share from its wire dict."""
    values = dict(wire)
    values["kind"] = ShareKind(values["kind"])
    values["policy"] = Policy(values["policy"])
    values["weights"] = Weights(**values.get("weights") or {})
    return Share(**values)


def labels_from_wire(wire: Mapping[str, Any]) -> Labels:
    """Labels from their wire dict."""
    values = dict(wire)
    values["techniques"] = tuple(Technique(**t) for t in values.get("techniques") or ())
    ensemble = values.get("ensemble")
    values["ensemble"] = None if ensemble is None else Ensemble(**ensemble)
    values["inherits"] = tuple(values.get("inherits") or ())
    return Labels(**values)


def _measurement(values: dict[str, Any]) -> Measurement:
    values["component"] = Component(values["component"])
    values["method"] = Method(values["method"])
    values["shares"] = tuple(share_from_wire(share) for share in values["shares"])
    return Measurement(**values)


def _run(values: dict[str, Any]) -> Run:
    values["status"] = Status(values["status"])
    values["labels"] = labels_from_wire(values["labels"])
    values["command"] = tuple(values.get("command") or ())
    values["notes"] = tuple(values.get("notes") or ())
    return Run(**values)


def _mark(values: dict[str, Any]) -> Mark:
    for name, value in (values.get("quality") or {}).items():
        _finite(f"quality {name}", value)
    return Mark(**values)


def _reassignment(values: dict[str, Any]) -> Reassignment:
    values["from_share"] = share_from_wire(values["from_share"])
    values["to_share"] = share_from_wire(values["to_share"])
    return Reassignment(**values)


_FIELDS: Final[Mapping[type, tuple[str, ...]]] = {
    kind: tuple(kind.__dataclass_fields__)
    for kind in (Weights, Share, Measurement, Technique, Ensemble, Labels, Run, Mark, Reassignment)
}

_MAKERS: Final[Mapping[str, Callable[[dict[str, Any]], Body]]] = {
    "measurement": _measurement,
    "run": _run,
    "mark": _mark,
    "reassignment": _reassignment,
}


def _whole(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise BadInput(f"{name} is {value!r}", "give a whole number of millijoules, 0 or more")


def _real(name: str, value: object) -> None:
    if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise BadInput(f"{name} is {value!r}", "give a finite number, 0 or more")


def _finite(name: str, value: object) -> None:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise BadInput(f"{name} is {value!r}", "give a finite number")


def _text(name: str, value: object) -> None:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT:
        raise BadInput(f"{name} is {value!r}", f"give 1 to {MAX_TEXT} characters")
