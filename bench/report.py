"""Tables and plots of docs/benchmarks.md from the results of bench/*.py.

    python bench/report.py RESULTS [--docs DIRECTORY]

RESULTS holds the JSON files that BENCH_RESULTS=RESULTS makes each bench write. In the page, what stands between
``<!-- begin NAME -->`` and ``<!-- end NAME -->`` is replaced by the table of NAME's results; all else is left as it is.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

from benching.results import Row, short
from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

MARKED = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)
OURS, PEER, FLOOR = "#0072b2", "#999999", "#e69f00"
"""Okabe and Ito's blue and orange, and grey."""


def read(folder: Path) -> dict[str, dict]:
    """Every result by its bench's name, its rows as rows. Raises SystemExit when there is none."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        told = json.loads(path.read_text())
        found[told["bench"]] = {**told, "rows": [Row(**row) for row in told["rows"]]}
    if not found:
        raise SystemExit(f"{folder} holds no results: run BENCH_RESULTS={folder} python bench/NAME.py")
    return found


def table(told: dict) -> str:
    """The rows as a Markdown table, and what measured them when."""
    lines = ["| figure | who | value | target | met | note |", "|---|---|---|---|---|---|"]
    for row in told["rows"]:
        cells = (row.figure, row.who, row.shown, row.target, row.verdict, row.note)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    m = told["machine"]
    told_by = (
        f"{told['at'][:10]}, {m['cpus']} processors of {m['cpu']}, Python {m['python']}, load {m['load']} at the end"
    )
    return "\n".join([*lines, "", told_by, "", ""])


def fill(page: str, found: dict[str, dict]) -> str:
    """The page with every table that there are results for. Raises SystemExit on results that it has no place for."""
    homeless = found.keys() - {name for _, name, _ in MARKED.findall(page)}
    if homeless:
        raise SystemExit(f"the page has no place for {', '.join(sorted(homeless))}")

    def anew(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        return f"{begin}\n{table(found[name])}{end}" if name in found else match.group()

    return MARKED.sub(anew, page)


def costs(rows: Sequence[Row]) -> Figure:
    """CPU and memory of agent, floors and peers at 1 Hz with no run."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    for axes, kind, unit in zip(
        figure.subplots(1, 2, sharey=True), ("CPU", "resident"), ("CPU, ms/s", "resident, MiB"), strict=True
    ):
        chosen = [row for row in rows if row.figure == f"{kind}, 1 Hz, no run" and row.value is not None][::-1]
        colours = [OURS if "joulebook" in r.who else FLOOR if r.who.startswith("floor") else PEER for r in chosen]
        bars = axes.barh([row.who for row in chosen], [row.value for row in chosen], color=colours)
        axes.bar_label(bars, [short(row.value) for row in chosen], padding=3)
        axes.set_xscale("log")
        axes.set_xlim(right=4 * max(row.value for row in chosen))
        axes.set_xlabel(unit)
        axes.spines[["top", "right"]].set_visible(False)
        target = next((row.most for row in chosen if row.most is not None), None)
        if target is not None:
            axes.axvline(target, color=OURS, linestyle=":", linewidth=1)
            axes.set_title(f"dotted: the agent's target, {target:g}", fontsize=9)
    figure.suptitle("2 packages with DRAM and 8 GPUs, simulated, read once a second")
    return figure


def targets(found: dict[str, dict]) -> Figure:
    """Every figure with an upper target, as a part of it."""
    rows = [
        row
        for told in found.values()
        for row in told["rows"]
        if row.most and row.least is None and row.value is not None
    ]
    rows = [row for row in rows if row.value > 0][::-1]
    figure = Figure(figsize=(8, 1 + 0.22 * len(rows)), layout="constrained")
    axes = figure.subplots()
    parts = [row.value / row.most for row in rows]
    axes.scatter(parts, range(len(rows)), color=[OURS if part <= 1 else FLOOR for part in parts], zorder=2)
    axes.set_yticks(range(len(rows)), [f"{row.figure} ({row.who})" for row in rows], fontsize=7)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.grid(axis="y", linewidth=0.3)
    axes.set_xlabel("value over target: left of the line is met")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw(figure: Figure, path: Path) -> None:
    """Write it as SVG, the same bytes for the same numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.hashsalt": "joulebook", "svg.fonttype": "none"}):
        FigureCanvasSVG(figure).print_svg(path, metadata={"Date": None})


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("results", type=Path)
    options.add_argument("--docs", type=Path, default=Path(__file__).parent.parent / "docs")
    given = options.parse_args()
    found = read(given.results)
    page = given.docs / "benchmarks.md"
    page.write_text(fill(page.read_text(), found))
    if "agent_cost" in found:
        draw(costs(found["agent_cost"]["rows"]), given.docs / "img" / "agent-cost.svg")
    draw(targets(found), given.docs / "img" / "targets.svg")
    print(f"{page}: {', '.join(found)}")


if __name__ == "__main__":
    main()
