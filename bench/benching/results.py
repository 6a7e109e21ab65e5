"""Results of a measurement: one row per figure, printed as a table and kept as JSON for bench/report.py."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one contestant.

    value: None where it was not measured; ``note`` then says why.  low, high: spread of what was seen in the run.
    most, least: the figure's target, None where it has none.
    """

    figure: str
    who: str
    value: float | None
    unit: str
    low: float | None = None
    high: float | None = None
    most: float | None = None
    least: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        """Whether the target was met; empty without one."""
        if self.most is None and self.least is None:
            return ""
        if self.value is None:
            return "not measured"
        above = self.most is not None and self.value > self.most
        below = self.least is not None and self.value < self.least
        return "missed" if above or below else "met"

    @property
    def target(self) -> str:
        """The target in words."""
        if self.least is not None and self.most is not None:
            return f"{self.least:g} to {self.most:g}"
        return f"<= {self.most:g}" if self.most is not None else f">= {self.least:g}" if self.least is not None else ""

    @property
    def shown(self) -> str:
        """Value and spread in four significant digits at most."""
        if self.value is None:
            return "-"
        spread = "" if self.low is None else f" ({short(self.low)} to {short(self.high)})"
        return f"{short(self.value)}{spread} {self.unit}".strip()


def short(value: float) -> str:
    """Three significant digits; whole numbers from 100 on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def parser(document: str, seconds: float | None = None, **options) -> argparse.ArgumentParser:
    """The command line that every bench has: SECONDS where it takes time, and --json FILE."""
    made = argparse.ArgumentParser(
        description=document, formatter_class=argparse.RawDescriptionHelpFormatter, **options
    )
    if seconds is not None:
        made.add_argument("seconds", nargs="?", type=float, default=seconds, help=f"default {seconds:g}")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too, else under BENCH_RESULTS")
    return made


def tell(rows: Sequence[Row], to: Path | None) -> None:
    """Print the rows, and write them where asked: ``to``, else a file named like the bench under BENCH_RESULTS."""
    print(as_text(rows), flush=True)
    name, folder = Path(sys.argv[0]).stem, os.environ.get("BENCH_RESULTS")
    if to is None and folder:
        to = Path(folder) / f"{name}.json"
    if to is not None:
        told = {
            "bench": name,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "rows": [asdict(row) for row in rows],
        }
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(json.dumps(told, indent=1) + "\n")


def as_text(rows: Sequence[Row]) -> str:
    """The rows as an aligned table."""
    header = ("figure", "who", "value", "target", "", "note")
    cells = [header, *((r.figure, r.who, r.shown, r.target, r.verdict, r.note) for r in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header) - 1)]
    lines = ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[-1]]) for row in cells]
    return "\n".join(line.rstrip() for line in lines)


def machine() -> dict[str, str | int]:
    """What ran the measurement, without its name."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return {
        "cpu": model,
        "cpus": os.cpu_count() or 0,
        "python": platform.python_version(),
        "load": f"{os.getloadavg()[0]:.1f}",
    }
