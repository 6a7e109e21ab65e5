"""Static SVG plots: the same bytes for the same numbers, no script, legible in print and to the colour-blind.

matplotlib's Figure with its SVG canvas, without pyplot and so without shared state
(docs/decisions/0010-matplotlib-svg.md). Text stays text: it can be read aloud, searched and copied.
"""

from __future__ import annotations

import io
import re
import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from joulebook_reports.power import Traces
from joulebook_reports.uncertainty import GRAMS, JOULES, Scale, scale_for, significant
from joulebook_reports.words import gases_of

INK, FAINT, GRID = "#1f2933", "#7b8794", "#e4e7eb"
COLOURS: Final = {"cpu": "#0072B2", "gpu": "#D55E00", "dram": "#56B4E9", "node": "#009E73", "other": "#8a8f98"}
"""Okabe and Ito's palette: tells apart under every common colour blindness, and by lightness in print."""

ARM_COLOURS: Final = ("#1f2933", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
SHADES: Final = ("#f1f4f8", "#e3e9f1")
WIDTH: Final = 7.2
COLUMN_INCHES: Final = 0.08
"""Width of a character at the plots' size; East Asian wide characters take two of these columns."""

LONGEST_LABEL: Final = 34
"""Columns in which a row's name is written before it breaks into a second line."""

LINE_INCHES: Final = 0.16

_SETTINGS: Final[Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "joulebook",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "text.color": INK,
    "text.parse_math": False,  # a name with two dollar signs is a name
    "xtick.color": INK,
    "ytick.color": INK,
}


def energy_by_phase(doc: Mapping[str, Any]) -> str:
    """Stacked bars: one per phase, in parts by component; empty text when there is nothing to draw."""
    phases = {name: parts for name, parts in doc["phases"].items() if sum(parts.values()) > 0}
    if not phases:
        return ""
    ordered = sorted(phases, key=lambda name: (sum(phases[name].values()), name))
    names = [_broken(name) for name in ordered]
    scale = scale_for(max(sum(parts.values()) for parts in phases.values()), JOULES)
    components = [c for c in COLOURS if any(parts.get(c) for parts in phases.values())]

    def draw(figure: Any) -> None:
        axes = _bars(figure, f"energy ({scale.unit})", names)
        left = [0.0] * len(names)
        for component in components:
            widths = [phases[name].get(component, 0.0) / scale.factor for name in ordered]
            axes.barh(
                range(len(names)),
                widths,
                left=left,
                color=COLOURS[component],
                height=0.62,
                edgecolor="white",
                linewidth=0.6,
            )
            left = [a + b for a, b in zip(left, widths, strict=True)]
        for i, whole in enumerate(left):
            axes.annotate(
                f"{significant(whole)} {scale.unit}", (whole, i), (5, 0), textcoords="offset points", va="center"
            )
        axes.set_yticks(range(len(names)), names)
        axes.set_xlim(0, max(left) * 1.16)
        _key(axes, [(doc["component_names"].get(name, name), COLOURS[name]) for name in components])

    return _svg(draw, 0.95 + _row_inches(names, 0.36) * len(names), "Energy by phase and component")


def power_over_time(traces: Traces) -> str:
    """Each device's mean power over every measured span, phases shaded; gaps stay gaps."""
    if not traces.devices:
        return ""

    def draw(figure: Any) -> None:
        axes = figure.add_axes((0.085, 0.2, 0.745, 0.64))
        _shade(axes, traces)
        ends = []
        machines = {device.partition("/")[0] for _, device in traces.devices}
        for (component, device), steps in traces.devices.items():
            colour = COLOURS.get(component, COLOURS["other"])
            times, watts = _outline(steps)
            axes.plot(times, watts, color=colour, linewidth=1.4, solid_joinstyle="miter")
            ends.append((steps[-1].watts, _short(device, machines), colour))
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("time since the run's start (s)")
        axes.set_ylabel("power (W), mean of each span")
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        _plain(axes)
        _label_ends(axes, ends)

    return _svg(draw, 2.9, "Power over time by device")


def energy_per_arm(doc: Mapping[str, Any]) -> str:
    """Every run's full energy by arm, with the mean and its interval; own energy apart where runs inherit."""
    lines = []
    for arm in doc["arms"]:
        inherits = bool(arm["inherits"])
        runs = [run for run in doc["runs"] if run["arm"] == arm["arm"]]
        lines.append(
            (arm["arm"] + (" with inherited" if inherits else ""), arm["full_joules"], [r["full_joules"] for r in runs])
        )
        if inherits:
            lines.append((arm["arm"] + " own only", arm["marginal_joules"], [r["marginal_joules"] for r in runs]))
    return _dots(lines, JOULES, "energy of a run", "Energy per arm")


def inference_per_arm(doc: Mapping[str, Any]) -> str:
    """Every run's inference energy per 10,000 samples by arm."""
    lines = []
    for arm in doc["arms"]:
        runs = [run["inference_joules_per_10k"] for run in doc["runs"] if run["arm"] == arm["arm"]]
        if arm["inference_joules_per_10k"] is not None:
            lines.append((arm["arm"], arm["inference_joules_per_10k"], runs))
    return _dots(lines, JOULES, "inference energy per 10,000 samples", "Inference energy per arm") if lines else ""


def quality_against_cost(doc: Mapping[str, Any]) -> str:
    """Quality against emissions (energy where nothing is priced), every run a point, means with intervals."""
    priced = all(arm["full_emissions_g"] is not None for arm in doc["arms"])
    cost, scales, word = ("full_emissions_g", GRAMS, "emissions") if priced else ("full_joules", JOULES, "energy")
    arms = [arm for arm in doc["arms"] if arm["quality"] is not None and arm[cost] is not None]
    if not arms:
        return ""
    scale = scale_for(max(arm[cost]["point"] for arm in arms), scales)
    metric = doc["quality_gate"]["metric"]
    gases = f" {gases_of(doc['reference']['series'])} on the reference site" if priced else ""

    def draw(figure: Any) -> None:
        axes = figure.add_axes((0.11, 0.15, 0.86, 0.82))
        _plain(axes)
        axes.grid(color=GRID, linewidth=0.8)
        below = _labels_below(arms, cost)
        for i, arm in enumerate(arms):
            colour = ARM_COLOURS[i % len(ARM_COLOURS)]
            runs = [run for run in doc["runs"] if run["arm"] == arm["arm"]]
            points = [(run[cost] / scale.factor, run["quality"]) for run in runs]
            axes.scatter(*zip(*points, strict=True), s=16, color=colour, alpha=0.35, linewidths=0)
            _cross(axes, arm[cost], arm["quality"], scale, colour)
            at = (arm[cost]["point"] / scale.factor, arm["quality"]["point"])
            shift = (6, -13) if arm["arm"] in below else (6, 6)
            axes.annotate(arm["arm"], at, shift, textcoords="offset points", color=colour, weight="bold")
        axes.set_xlabel(f"{word} of a run, with what it inherits ({scale.unit}{gases})")
        axes.set_ylabel(f"{metric} ({doc['quality_gate']['direction']} is better)")
        axes.margins(x=0.22, y=0.2)
        axes.set_xlim(left=max(0.0, axes.get_xlim()[0]))

    return _svg(draw, 3.5, f"{metric} against {word}")


def _labels_below(arms: Sequence[Mapping[str, Any]], cost: str) -> set[str]:
    """Every second arm in order of cost: names of neighbours then do not overlap."""
    ordered = sorted(arms, key=lambda arm: (arm[cost]["point"], arm["arm"]))
    return {arm["arm"] for arm in ordered[1::2]}


Line = tuple[str, Mapping[str, Any], Sequence[float]]
"""Name, estimate (point, low, high) and every run's value of one row of dots."""


def _dots(lines: Sequence[Line], scales: tuple[Scale, ...], quantity: str, title: str) -> str:
    largest = max(max(values) for _, _, values in lines)
    scale = scale_for(largest, scales)
    names = [_broken(name) for name, _, _ in lines]

    def draw(figure: Any) -> None:
        axes = _bars(figure, f"{quantity} ({scale.unit}): each run, mean and 95 % interval", names)
        for i, (_, found, values) in enumerate(reversed(lines)):
            _row_of_dots(axes, i, found, values, scale)
        axes.set_yticks(range(len(lines)), names[::-1])
        axes.set_ylim(-0.6, len(lines) - 0.4)
        axes.set_xlim(0, max(largest, *(f["high"] or 0.0 for _, f, _ in lines)) / scale.factor * 1.08)
        axes.grid(axis="x", color=GRID, linewidth=0.8)

    return _svg(draw, 0.85 + _row_inches(names, 0.46) * len(lines), title)


def _row_of_dots(axes: Any, y: int, found: Mapping[str, Any], values: Sequence[float], scale: Scale) -> None:
    colour = COLOURS["cpu"]
    point = found["point"] / scale.factor
    axes.scatter(
        [v / scale.factor for v in values], [y - 0.17] * len(values), s=14, color=FAINT, alpha=0.7, linewidths=0
    )
    if found["low"] is not None:
        axes.plot(
            [found["low"] / scale.factor, found["high"] / scale.factor],
            [y, y],
            color=colour,
            linewidth=2.2,
            solid_capstyle="butt",
        )
    axes.scatter([point], [y], s=34, color=colour, zorder=3, edgecolors="white", linewidths=0.8)
    text = f"{significant(point, 4)} {scale.unit}" + (" (one run)" if len(values) == 1 else "")
    axes.annotate(text, (point, y), (0, 7), textcoords="offset points", ha="center", va="bottom", fontsize=8)


def _cross(axes: Any, cost: Mapping[str, Any], quality: Mapping[str, Any], scale: Scale, colour: str) -> None:
    x, y = cost["point"] / scale.factor, quality["point"]
    if cost["low"] is not None:
        axes.plot([cost["low"] / scale.factor, cost["high"] / scale.factor], [y, y], color=colour, linewidth=1.4)
    if quality["low"] is not None:
        axes.plot([x, x], [quality["low"], quality["high"]], color=colour, linewidth=1.4)
    axes.scatter([x], [y], s=40, color=colour, zorder=3, edgecolors="white", linewidths=0.8)


def _outline(steps: Sequence[Any]) -> tuple[list[float], list[float]]:
    """A step line's corners; NaN lifts the pen over a gap."""
    times: list[float] = []
    watts: list[float] = []
    for step in steps:
        if times and step.started > times[-1] + 1e-3:
            times.append(times[-1])
            watts.append(float("nan"))
        times += [step.started, step.ended]
        watts += [step.watts, step.watts]
    return times, watts


def _shade(axes: Any, traces: Traces) -> None:
    end = max(step.ended for steps in traces.devices.values() for step in steps)
    for i, phase in enumerate(traces.phases):
        axes.axvspan(phase.started, phase.ended, color=SHADES[i % 2], linewidth=0, zorder=0)
        if phase.ended - phase.started > end * 0.022 * (len(phase.name) * 0.55):
            middle = (phase.started + phase.ended) / 2
            axes.annotate(
                phase.name,
                (middle, 1.0),
                (0, 4),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=FAINT,
            )
    axes.set_xlim(0, end)


def _label_ends(axes: Any, ends: Sequence[tuple[float, str, str]]) -> None:
    """Device names at the right, pushed apart where lines end close together."""
    top = axes.get_ylim()[1]
    least = top * 0.075
    placed = -least
    for watts, device, colour in sorted(ends):
        placed = max(watts, placed + least)
        axes.annotate(
            device,
            (1.0, placed),
            (5, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=8,
        )


def _short(device: str, machines: set[str]) -> str:
    """The device's name that fits beside its line, without its machine where all are of one."""
    machine, slash, rest = device.partition("/")
    if slash and len(machine) > 18 and len({m for m in machines if len(m) > 18}) == 1:
        device = rest
    return device if len(device) <= 18 else f"{device[:8]}…{device[-8:]}"


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _broken(name: str) -> str:
    """The name in lines of at most LONGEST_LABEL columns, broken after a space where there is one."""
    lines = [""]
    for part in re.findall(r"\S+\s*|\s+", name):
        if lines[-1] and _columns(lines[-1] + part.rstrip()) > LONGEST_LABEL:
            lines.append("")
        for character in part:
            if _columns(lines[-1] + character) > LONGEST_LABEL:
                lines.append("")
            lines[-1] += character
    return "\n".join(line.rstrip() for line in lines)


def _row_inches(names: Sequence[str], least: float) -> float:
    return max(least, *(LINE_INCHES * (name.count("\n") + 2) for name in names if "\n" in name), 0.0)


def _bars(figure: Any, label: str, names: Sequence[str]) -> Any:
    """Axes for rows of these names, the margin at the left as wide as the longest line of them."""
    height = figure.get_figheight()
    longest = max(_columns(line) for name in names for line in name.split("\n"))
    left = max(0.2, (longest * COLUMN_INCHES + 0.15) / WIDTH)
    axes = figure.add_axes((left, 0.48 / height, 0.97 - left, 1 - 0.7 / height))
    axes.set_xlabel(label)
    axes.tick_params(axis="y", length=0)
    _plain(axes)
    return axes


def _key(axes: Any, names: Sequence[tuple[str, str]]) -> None:
    """The colours' names in their own colours, above the bars."""
    for i, (name, colour) in enumerate(names):
        axes.annotate(
            f"■ {name}",
            (i * 0.11, 1.0),
            (0, 4),
            xycoords="axes fraction",
            textcoords="offset points",
            color=colour,
            weight="bold",
        )


def _plain(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _svg(draw: Callable[[Any], None], height: float, title: str) -> str:
    """The drawing as an <svg> element, without XML prologue, dates or random ids."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        # Text stays text: the reader's own font draws what the measuring font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure = Figure(figsize=(WIDTH, height))
        FigureCanvasSVG(figure)
        draw(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Title": title})
    text = out.getvalue()
    return text[text.index("<svg") :].replace("<svg ", '<svg role="img" ', 1)
