"""Reports on the terminal: the same words without colour, plain where stdout is no terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from joulebook_reports import words

PLAIN_WIDTH = 140
"""Columns where stdout is no terminal: the tables' own width, whatever the shell says."""


def show(document: Mapping[str, Any], kind: str) -> None:
    """Print a report to stdout. kind: run or study."""
    console = _console()
    if kind == "run":
        show_run(document, console)
    else:
        show_study(document, console)


def _console() -> Console:
    on_terminal = sys.stdout.isatty()
    width = max(100, shutil.get_terminal_size().columns) if on_terminal else PLAIN_WIDTH
    return Console(file=sys.stdout, width=width, highlight=False, emoji=False, markup=False, soft_wrap=False)


def show_run(doc: Mapping[str, Any], console: Console) -> None:
    """One run."""
    _first_line(doc, console)
    console.print(Text(f"Run {doc['run_id']}", style="bold"), Text(_title(doc)))
    console.print(f"{doc['started_at'][:19]}Z to {_until(doc)}; {words.status_text(doc)}; policy {doc['policy']}")
    console.print()
    _print_table(console, ("component", "energy (k = 2)", "share", "method"), words.component_rows(doc))
    _print_table(console, ("phase", "time", "energy", "edges", "share", "emissions"), words.phase_rows(doc))
    _print_table(console, ("child runs", "energy"), words.child_rows(doc))
    _lines(console, "Facility energy", [words.facility_text(doc)])
    _lines(
        console, "Emissions", [words.headline_emissions(doc), *filter(None, [doc["missing"]]), *doc["pricing_notes"]]
    )
    _print_table(console, ("site", "PUE", "intensity", "series", "source"), words.pricing_rows(doc))
    _lines(console, "Restated", words.restatement_lines(doc))
    _lines(console, "Data quality", [doc["data_quality"]["statement"]])
    _lines(console, "Notes", words.note_lines(doc))
    _lines(console, "Conservation", [doc["conservation_statement"], *words.book_lines(doc)])
    console.print(f"As of {doc['as_of']}")


def show_study(doc: Mapping[str, Any], console: Console) -> None:
    """One study."""
    _first_line(doc, console)
    console.print(Text(f"Study {doc['study']}", style="bold"), f"against {doc['baseline']}, policy {doc['policy']}")
    console.print(f"Quality: {words.quality_text(doc)}")
    console.print()
    rows = words.arm_rows(doc)
    _print_columns(console, rows, _ENERGY_COLUMNS)
    _print_columns(console, rows, _QUALITY_COLUMNS)
    if any(arm["phases_joules"] for arm in doc["arms"]):
        _print_table(console, ("arm", *doc["phases"]), _phase_cells(doc))
    _lines(console, "Verdicts", words.verdict_lines(doc))
    _lines(console, "Under other policies", _other_policies(doc))
    _lines(console, "Reference site", [words.reference_text(doc)])
    _lines(console, "Left out", [f"{r['run_id']} ({r['arm']}): {r['reason']}" for r in doc["left_out"]])
    _lines(console, "Differs between arms", differences(doc))
    _lines(console, "Busy machine", doc["busy_runs"])
    _lines(console, "Restated", words.restatement_lines(doc))
    _lines(console, "Measurement", measurement_lines(doc))
    _lines(console, "Notes", words.note_lines(doc))
    _lines(console, "Conservation", [doc["conservation_statement"], *words.book_lines(doc)])
    console.print(f"As of {doc['as_of']}")


_ENERGY_COLUMNS = (
    ("arm", "arm"),
    ("n", "n"),
    ("marginal", "own energy"),
    ("full", "with inherited"),
    ("ratio", "ratio to baseline"),
    ("marginal_ratio", "own only"),
    ("holm", "p (Holm)"),
    ("emissions", "emissions"),
)
_QUALITY_COLUMNS = (
    ("arm", "arm"),
    ("quality", "quality"),
    ("quality_difference", "difference"),
    ("gate", "quality gate"),
    ("inference", "inference per 10,000"),
    ("inference_ratio", "ratio to baseline"),
    ("inference_holm", "p (Holm)"),
)


def differences(doc: Mapping[str, Any]) -> list[str]:
    """Fields that differ from the baseline's, graver ones marked."""
    return [
        f"{arm['arm']}: {d['field']} is {d['arm']}, in the baseline {d['baseline']}"
        + ("; it decides joules" * d["grave"])
        for arm in doc["arms"]
        for d in arm["differs_from_baseline"]
    ]


def measurement_lines(doc: Mapping[str, Any]) -> list[str]:
    """Measurement uncertainty, kept apart from run-to-run spread."""
    u = max((arm["u_rel_measurement"] for arm in doc["arms"]), default=0.0)
    said = sorted({arm["gain_statement"] for arm in doc["arms"] if arm["gain_statement"]})
    return [
        "intervals are from run to run, 95 % by Student's t",
        f"each energy is also uncertain by up to ± {200 * u:.2g} % (k = 2), of its meter or model",
        *said,
    ]


def _other_policies(doc: Mapping[str, Any]) -> list[str]:
    return [
        f"{arm['arm']} under {policy}: own energy {words.estimate_ratio(found)} x the baseline"
        for arm in doc["arms"]
        for policy, found in sorted(arm["ratios_under_other_policies"].items())
    ]


def _phase_cells(doc: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (arm["arm"], *(words.estimate_energy(arm["phases_joules"].get(phase)) for phase in doc["phases"]))
        for arm in doc["arms"]
    ]


def _first_line(doc: Mapping[str, Any], console: Console) -> None:
    if doc["modelled_statement"]:
        console.print(Text(doc["modelled_statement"], style="bold yellow"))
    for example in words.example_sites(doc):
        console.print(Text(f"example site, not a real one: {example}", style="yellow"))


def _title(doc: Mapping[str, Any]) -> str:
    return " / ".join(filter(None, (doc["name"], doc["study"], doc["arm"] if doc["study"] else "")))


def _until(doc: Mapping[str, Any]) -> str:
    return "now" if doc["ended_at"] is None else f"{doc['ended_at'][:19]}Z"


def _print_columns(console: Console, rows: Sequence[Mapping[str, str]], columns: Iterable[tuple[str, str]]) -> None:
    named = list(columns)
    _print_table(console, [title for _, title in named], [tuple(row[key] for key, _ in named) for row in rows])


def _print_table(console: Console, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if not rows:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, title in enumerate(titles):
        table.add_column(title, overflow="fold", justify="left" if i == 0 else "default")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print()


def _lines(console: Console, title: str, lines: Sequence[str]) -> None:
    if not lines:
        return
    console.print(Text(title, style="bold"))
    for line in lines:
        console.print(f"  {line}", soft_wrap=True)
    console.print()
