"""The model of a node's wall power: its fit over measured loads, and the file that declares it. Pure.

METHODS 1.4: P_wall = (sum of metered + P_other) / eta, so fixed = P_other / eta (fans, drives, network, board) and
per_metered = 1 / eta (losses of the supply), fitted per chassis against a BMC or a PDU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from joulebook.errors import BadInput
from joulebook.meters import MeterUnavailable
from joulebook.rows import MAX_TEXT, Component

VARIABLE: Final = "JOULEBOOK_NODE_MODEL"
FORM: Final = "see docs/reference/node-meters.md, The whole node from its parts, for the file"
LEAST_FIXED_WATTS: Final = 0.1
MOST_FIXED_WATTS: Final = 1e5
MOST_PER_METERED: Final = 2.0
"""A supply of 50 % efficiency: no server's is worse under load."""
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
