"""The whole node from its metered parts: P_wall = fixed + per_metered x sum of the parts, always labelled modelled.

METHODS 1.4: P_wall = (sum of metered + P_other) / eta, so fixed = P_other / eta (fans, drives, network, board) and
per_metered = 1 / eta (losses of the supply). Both are fitted per chassis against a BMC or a PDU (``fit_node``) and
declared in a file; without one there is no figure of the node: an overhead that nobody measured is not guessed.
What the parts drew comes from whoever reads them anyway (``follow``); where nobody says it the model reads them itself.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from joulebook.errors import BadInput
from joulebook.history import DeviceHistory
from joulebook.meters import (
    Busy,
    Device,
    LeftOut,
    MeterAbsent,
    MeterUnavailable,
    Reading,
    Roots,
    named_meters,
    open_meters,
)
from joulebook.rows import MAX_TEXT, Component, Method
from joulebook.units import NS_PER_SECOND

VARIABLE: Final = "JOULEBOOK_NODE_MODEL"
DEVICE: Final = "node:model"
FORM: Final = "see docs/reference/node-meters.md, The whole node from its parts, for the file"
LEAST_FIXED_WATTS: Final = 0.1
MOST_FIXED_WATTS: Final = 1e5
MOST_PER_METERED: Final = 2.0
"""A supply of 50 % efficiency: no server's is worse under load."""
NO_PARTS: Final = frozenset({"node", "redfish", "ipmi", "model", "replay"})
"""Meters that read no part of a node by a sensor of its own."""
PARTS: Final = frozenset({Component.CPU, Component.DRAM, Component.GPU})
LEAST_SPREAD: Final = 0.2
"""Of the greatest metered power over the least, relative to their mean: below it the slope is noise."""
SIGMAS: Final = 2.0
"""A coefficient so many standard errors beyond what physics allows is no chance."""

ROUNDING: Final = 1e-6
"""Of floating point, relative: exact loads give no scatter that would cover it."""


@dataclass(frozen=True, slots=True)
class NodeModel:
    """What is declared of a chassis.

    fixed_watts: at no metered power, > 0 (W).  per_metered: W at the wall per metered W, >= 1.  u_r: relative standard
    uncertainty of the result.  metered: how many devices of each component it was fitted over.
    """

    chassis: str
    fixed_watts: float
    per_metered: float
    u_r: float
    metered: Mapping[Component, int]

    def wall_joules(self, seconds: float, metered_joules: float) -> float:
        """Energy at the wall over a span in which the parts drew metered_joules."""
        return self.fixed_watts * seconds + self.per_metered * metered_joules


@dataclass(frozen=True, slots=True)
class Load:
    """Mean powers over a steady window: of all metered parts together, and at the wall by a meter of the node (W)."""

    metered_watts: float
    wall_watts: float


@dataclass(frozen=True, slots=True)
class Fit:
    """Least squares of wall power over metered power, with standard errors (k=1).

    u_fixed_watts, u_per_metered: of the coefficients.  covariance: of both, W.  residual_watts: standard deviation of
    the points about the line.
    """

    fixed_watts: float
    per_metered: float
    u_fixed_watts: float
    u_per_metered: float
    covariance: float
    residual_watts: float

    def wall_watts(self, metered_watts: float) -> float:
        """The line at a metered power."""
        return self.fixed_watts + self.per_metered * metered_watts

    def u_relative(self, metered_watts: float) -> float:
        """Relative standard uncertainty of one prediction: coefficients with their covariance, and the scatter."""
        variance = (
            self.u_fixed_watts**2
            + 2 * metered_watts * self.covariance
            + (metered_watts * self.u_per_metered) ** 2
            + self.residual_watts**2
        )
        return math.sqrt(max(0.0, variance)) / self.wall_watts(metered_watts)


def fit_node(loads: Sequence[Load]) -> Fit:
    """Ordinary least squares over steady loads, at three levels or more: some in each third of the range.

    Raises BadInput on fewer levels, on a range too narrow for a slope, and on coefficients that no supply has.
    """
    x, y = [load.metered_watts for load in loads], [load.wall_watts for load in loads]
    if not all(0 <= value < math.inf for value in (*x, *y)):
        raise BadInput("a power is negative or no number", "measure the loads again")
    _check_levels(x)
    n = len(x)
    mean_x, mean_y = math.fsum(x) / n, math.fsum(y) / n
    spread = math.fsum((a - mean_x) ** 2 for a in x)
    slope = math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread
    fixed = mean_y - slope * mean_x
    scatter = math.fsum((b - fixed - slope * a) ** 2 for a, b in zip(x, y, strict=True)) / (n - 2)
    fit = Fit(
        fixed_watts=fixed,
        per_metered=slope,
        u_fixed_watts=math.sqrt(scatter * (1 / n + mean_x**2 / spread)),
        u_per_metered=math.sqrt(scatter / spread),
        covariance=-mean_x * scatter / spread,
        residual_watts=math.sqrt(scatter),
    )
    _check_physics(fit, x)
    return fit


def _check_levels(metered_watts: Sequence[float]) -> None:
    least, greatest = min(metered_watts, default=0.0), max(metered_watts, default=0.0)
    width = greatest - least
    thirds = {min(2, int(3 * (value - least) / width)) for value in metered_watts} if width > 0 else set()
    if len(thirds) < 3:
        raise BadInput(
            f"{len(metered_watts)} loads at {len(thirds) or 1} levels give no line: three levels are needed",
            "measure the node idle, at half and at full load",
        )
    if width < LEAST_SPREAD * (least + greatest) / 2:
        raise BadInput(
            f"metered power went from {least:.0f} to {greatest:.0f} W only", "measure the node idle and at full load"
        )


def _check_physics(fit: Fit, metered_watts: Sequence[float]) -> None:
    if fit.per_metered + SIGMAS * fit.u_per_metered < 1 - ROUNDING:
        raise BadInput(
            f"the wall grew by {fit.per_metered:.2f} W per metered W: a supply gives out less than it takes in",
            "check that the node meter is this node's, and that no device is metered twice",
        )
    if fit.fixed_watts + SIGMAS * fit.u_fixed_watts < -ROUNDING * max(metered_watts):
        raise BadInput(
            f"{fit.fixed_watts:.0f} W at no metered power: the meters disagree", "check that no device is metered twice"
        )


def read_model(path: Path) -> NodeModel:
    """The model of a file. Raises MeterUnavailable with what is wrong."""
    import tomllib  # here only: it costs a MiB

    try:
        table = tomllib.loads(path.read_text()).get("node")
        if not isinstance(table, dict):
            raise ValueError("it has no table [node]")  # noqa: TRY004  what the file says is wrong, not a type
        return _model(table)
    except OSError as error:
        raise MeterUnavailable(f"{path}: {error.strerror}", f"set {VARIABLE} to a file that you may read") from error
    except ValueError as error:
        raise MeterUnavailable(f"{path} is no node model: {' '.join(str(error).split())}", FORM) from error


def _model(table: Mapping[str, Any]) -> NodeModel:
    unknown = table.keys() - {"chassis", "fixed_watts", "per_metered", "u_r", "metered"}
    if unknown:
        raise ValueError(f"it has {', '.join(sorted(unknown))}, which means nothing")
    chassis, metered = table.get("chassis"), table.get("metered")
    if not isinstance(chassis, str) or not chassis.strip() or len(chassis) > MAX_TEXT // 2 or not chassis.isprintable():
        raise ValueError("chassis is no name")
    if not isinstance(metered, dict) or not metered:
        raise ValueError("metered names no components, such as {cpu = 2, gpu = 8}")
    counts = {Component(name): count for name, count in metered.items()}
    if not counts.keys() <= PARTS or not all(type(count) is int and count > 0 for count in counts.values()):
        raise ValueError(f"metered gives numbers of {', '.join(sorted(PARTS))}")
    return NodeModel(
        chassis,
        _number(table, "fixed_watts", LEAST_FIXED_WATTS, MOST_FIXED_WATTS),
        _number(table, "per_metered", 1.0, MOST_PER_METERED),
        _number(table, "u_r", 0.001, 1.0),
        counts,
    )


def _number(table: Mapping[str, Any], name: str, least: float, most: float) -> float:
    value = table.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise ValueError(f"{name} is {value!r}, not a number from {least:g} to {most:g}")
    return float(value)


def as_toml(model: NodeModel) -> str:
    """The model as ``read_model`` takes it."""
    metered = ", ".join(f"{component.value} = {count}" for component, count in model.metered.items())
    chassis = model.chassis.replace("\\", "\\\\").replace('"', '\\"')
    return (
        f'[node]\nchassis = "{chassis}"\nfixed_watts = {model.fixed_watts!r}\nper_metered = {model.per_metered!r}\n'
        f"u_r = {model.u_r!r}\nmetered = {{ {metered} }}\n"
    )


def _gained(part: DeviceHistory, since_ns: int, at_ns: int) -> int | None:
    """Microjoules that a part drew over a span, None where that is not known throughout."""
    known = part.history.known(since_ns, at_ns)
    if len(known) != 1 or known[0][:2] != (since_ns, at_ns):
        return None
    segment = known[0][2]
    return segment.at(at_ns) - segment.at(since_ns)


class Parts:
    """The node's devices, read for the model alone."""

    def __init__(self, roots: Roots) -> None:
        names = [name for name in named_meters() if name not in NO_PARTS]
        self._meters, _ = open_meters(names, roots)
        self.histories = {
            device.device_id: DeviceHistory(device, meter.name, NS_PER_SECOND)
            for meter in self._meters
            for device in meter.devices
        }

    def look(self) -> Iterable[DeviceHistory]:
        """One reading of every part that answers, taken into its history."""
        for meter in self._meters:
            for reading in meter.read():
                if reading.device_id in self.histories:
                    self.histories[reading.device_id].add(reading)
        return self.histories.values()

    def forget(self, before_ns: int) -> None:
        """Drop what the model has taken in."""
        for history in self.histories.values():
            history.forget(before_ns)

    def close(self) -> None:
        """Close their meters."""
        for meter in self._meters:
            meter.close()


def unfit(model: NodeModel, devices: Sequence[Device]) -> MeterUnavailable | None:
    """Why the model does not hold for these devices: it was fitted over others, or they are modelled themselves."""
    for component, wanted in model.metered.items():
        found = [device for device in devices if device.component is component]
        if len(found) != wanted:
            return MeterUnavailable(
                f"the node model was fitted over {wanted} {component.value}, and {len(found)} are metered",
                "see joulebook doctor for those that are not read, or fit the model anew",
            )
    modelled = next((device for device in devices if device.method is Method.MODELLED), None)
    if modelled is None:
        return None
    return MeterUnavailable(f"{modelled.device_id} is itself modelled", "give joulebook access to its counter")


class WholeNode:
    """The modelled node, as far as what all its parts drew is known.

    parts: read by the model itself until somebody else's are followed; None where they always are.
    failing: why there is no figure at present.
    """

    name = "node"

    def __init__(self, model: NodeModel, parts: Parts | None = None) -> None:
        self.model = model
        self._parts = parts
        self.devices: Sequence[Device] = [
            Device(
                device_id=DEVICE,
                component=Component.NODE,
                method=Method.MODELLED,
                u_common=model.u_r,
                u_common_key=f"node:{model.chassis}",
                step_ns=1_000_000,
                covers="node",
                model=model.chassis,
                note="node modelled from its parts",
            )
        ]
        self.left_out: Sequence[LeftOut] = ()
        self.failing: MeterUnavailable | None = None
        self._told_ns = 0
        self._joules: float | None = None
        self._fresh: Sequence[Reading] = ()

    def follow(self, histories: Iterable[DeviceHistory]) -> None:
        """Take in what the node's devices drew, as far as all of them are known. Called after they were read."""
        self.close()
        self._take(histories)

    def _take(self, histories: Iterable[DeviceHistory]) -> None:
        parts = [history for history in histories if history.device.component in self.model.metered]
        self.failing = unfit(self.model, [history.device for history in parts])
        times = [part.history.segments[-1].times for part in parts]
        if self.failing is not None or not all(times):
            self._joules = None
            return
        # From where all parts are known, and never from before what was told.
        began_ns = max(own[0] for own in times)
        since_ns = self._told_ns if self._joules is not None else max(self._told_ns, began_ns)
        slowest = min(times, key=lambda own: own[-1])
        # Of several looks at once each is told: what is between two of them would be spread over both.
        for a, b in pairwise([since_ns, *(t for t in slowest if t > since_ns)]):
            self._span(parts, a, b)

    def _span(self, parts: Sequence[DeviceHistory], since_ns: int, at_ns: int) -> None:
        gained = [_gained(part, since_ns, at_ns) for part in parts]
        if None in gained:
            self._joules = None
            return
        if self._joules is None:
            # Counted anew from 0, which is less than what was read last: it shows as a reset, never as energy.
            self._joules = 0.0
            self._fresh = [*self._fresh, Reading(DEVICE, since_ns, energy_microjoules=0)]
        metered_joules = sum(energy for energy in gained if energy is not None) / 1e6
        self._joules += self.model.wall_joules((at_ns - since_ns) / NS_PER_SECOND, metered_joules)
        self._fresh = [*self._fresh, Reading(DEVICE, at_ns, energy_microjoules=math.floor(self._joules * 1e6))]
        self._told_ns = at_ns

    def read(self) -> Sequence[Reading]:
        """What has become known since the last look, once."""
        if self._parts is not None:
            self._take(self._parts.look())
            self._parts.forget(self._told_ns)
        fresh, self._fresh = self._fresh, ()
        return fresh

    def busy(self) -> Mapping[str, Busy]:
        """A node does not know who uses it."""
        return {}

    def close(self) -> None:
        """Close the parts that it reads itself."""
        if self._parts is not None:
            self._parts.close()
            self._parts = None


def open_node(roots: Roots, environ: Mapping[str, str] = os.environ) -> WholeNode:
    """The model that JOULEBOOK_NODE_MODEL names.

    Raises MeterAbsent where none is, MeterUnavailable on a wrong file, or where it was fitted over other parts.
    """
    path = environ.get(VARIABLE)
    if not path:
        raise MeterAbsent(
            "no meter and no model of the whole node is declared",
            f"set JOULEBOOK_REDFISH_URL or JOULEBOOK_IPMI to its BMC, or {VARIABLE} to a model fitted for its chassis",
        )
    model = read_model(Path(path))
    parts = Parts(roots)
    error = unfit(model, [history.device for history in parts.histories.values()])
    if error is not None:
        parts.close()
        raise error
    return WholeNode(model, parts)
