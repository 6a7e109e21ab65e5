"""``joulebook report``: what runs and studies drew and emitted."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from joulebook.errors import JoulebookError
from joulebook.rows import Policy
from joulebook.runs import UNREADABLE


@click.group(invoke_without_command=True)
@click.pass_context
def report(ctx: click.Context) -> None:
    """What runs and studies drew and emitted; without more words, the last run.

    \b
    joulebook report                            the last run
    joulebook report run 3f9c --html run.html   a run as one page
    joulebook report study quantisation         arms against the baseline
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(run_report)


def _shared(command: Callable[..., None]) -> Callable[..., None]:
    """The options that every report takes."""
    options = (
        click.option(
            "--policy", type=click.Choice([policy.value for policy in Policy]), help="How shared devices are divided."
        ),
        click.option("--as-of", metavar="TIME", help="What was known then, ISO 8601. Default: all that is known."),
        click.option("--json", "as_json", is_flag=True, help="One JSON object (docs/reference/report.md)."),
        click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write one HTML page."),
        click.option("--format", "form", type=click.Choice(["table", "json", "html"]), help="What goes to stdout."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@report.command("run")
@click.argument("run_id", default="last")
@_shared
def run_report(
    run_id: str, policy: str | None, as_of: str | None, as_json: bool, html: Path | None, form: str | None
) -> None:
    """One run: energy by component and phase, emissions, and how far to trust them.

    RUN_ID is an id, the beginning of one, or "last".

    \b
    joulebook report run last --json
    joulebook report run 3f9c --policy utilisation
    joulebook report run --html run.html
    """
    from joulebook_reports import gather
    from joulebook_reports.run_document import run_document

    with gather.open_book() as ledger:
        as_of_us = gather.as_of_from(as_of, ledger)
        book = gather.check_book(ledger, as_of_us)
        facts = gather.gather_run(ledger, gather.find_run(ledger, run_id, as_of_us), as_of_us, _policy(policy))
    document = run_document(facts, as_of_us, book)

    def page() -> str:
        from joulebook_reports.page import run_page
        from joulebook_reports.power import power_traces

        return run_page(document, power_traces(facts))

    _write(document, _form(form, as_json), html, page, "run")
    _fail_on_damage(facts.run.notes)


@report.command("study")
@click.argument("name")
@click.option("--baseline", metavar="ARM", help='The arm that others are compared with. Default: "baseline".')
@click.option("--quality", "metric", default="accuracy", show_default=True, help="The metric that must not suffer.")
@click.option("--direction", type=click.Choice(["higher", "lower"]), help="Which way the metric is better.")
@click.option(
    "--margin", type=float, help="Loss of the metric that counts as equal, in its own unit. Default: 0.5 point."
)
@_shared
def study_report(
    name: str,
    baseline: str | None,
    metric: str,
    direction: str | None,
    margin: float | None,
    policy: str | None,
    as_of: str | None,
    as_json: bool,
    html: Path | None,
    form: str | None,
) -> None:
    """A study: each arm against the baseline, at equal quality, with intervals.

    \b
    joulebook report study demo
    joulebook report study demo --baseline fp32 --quality f1 --margin 0.01
    joulebook report study demo --html study.html
    """
    from joulebook_reports import gather
    from joulebook_reports.study_document import Asked, study_document

    with gather.open_book() as ledger:
        as_of_us = gather.as_of_from(as_of, ledger)
        book = gather.check_book(ledger, as_of_us)
        facts = gather.gather_study(ledger, name, as_of_us, _policy(policy))
    document = study_document(facts, Asked(baseline, metric, direction, margin), as_of_us, book)

    def page() -> str:
        from joulebook_reports.page import study_page

        return study_page(document)

    _write(document, _form(form, as_json), html, page, "study")


def _fail_on_damage(notes: Sequence[str]) -> None:
    """The report is out; that marks were unreadable must not pass unseen by a script."""
    damaged = next((note for note in notes if UNREADABLE in note), None)
    if damaged is not None:
        raise JoulebookError(damaged, "look at the file in marks/corrupt: its other marks count, and its joules too")


def dumped(document: dict[str, Any]) -> str:
    """The document as JSON: sorted keys, shortest floats, the same bytes for the same knowledge."""
    return json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)


def _policy(name: str | None) -> Policy | None:
    return None if name is None else Policy(name)


def _form(form: str | None, as_json: bool) -> str:
    return form or ("json" if as_json else "table")


def _write(document: dict[str, Any], form: str, html: Path | None, page: Callable[[], str], kind: str) -> None:
    """Print in the form asked for, and write the page where one was asked for."""
    if html is not None:
        _write_page(html, page())
    if form == "json":
        click.echo(dumped(document))
    elif form == "html":
        click.echo(page())
    else:
        from joulebook_reports import tables

        tables.show(document, kind)


def _write_page(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise JoulebookError(f"cannot write {path}: {error.strerror}", "name a file that you may write") from error
    click.echo(f"joulebook report: wrote {path}", err=True)
