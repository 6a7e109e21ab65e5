"""What people see of the example book, byte for byte."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

from joulebook_reports import page, tables
from joulebook_reports.cli import dumped
from joulebook_reports.example import START_US, example_run, example_study
from joulebook_reports.power import power_traces
from joulebook_reports.run_document import run_document
from joulebook_reports.study_document import Asked, study_document
from rich.console import Console

Golden = Callable[[str, str], None]


def printed(document: dict[str, object], show: Callable[..., None]) -> str:
    out = io.StringIO()
    show(document, Console(file=out, width=tables.PLAIN_WIDTH, highlight=False, emoji=False, markup=False))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def test_run_on_a_terminal(golden: Golden) -> None:
    golden("run.txt", printed(run_document(example_run(), START_US), tables.show_run))


def test_run_as_json(golden: Golden) -> None:
    golden("run.json", dumped(run_document(example_run(), START_US)) + "\n")


def test_study_on_a_terminal(golden: Golden) -> None:
    golden("study.txt", printed(study_document(example_study(), Asked(), START_US), tables.show_study))


def test_pages_without_their_drawings(golden: Golden) -> None:
    facts = example_run()
    run = page.run_page(run_document(facts, START_US), power_traces(facts))
    study = page.study_page(study_document(example_study(), Asked(), START_US))
    golden("run.html", body_of(run))
    golden("study.html", body_of(study))


def body_of(text: str) -> str:
    """The page's own words: matplotlib's drawings change with its versions, the style with taste."""
    return re.sub(r"<svg.*?</svg>", "<svg/>", text.split("</style>", 1)[1], flags=re.DOTALL)
