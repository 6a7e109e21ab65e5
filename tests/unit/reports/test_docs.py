"""Every key that a report emits has its row in the reference, and every row is emitted."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from joulebook.summary import Conservation
from joulebook_collector.audit import Head
from joulebook_collector.conservation import BookCheck
from joulebook_reports.cli import run_report, study_report
from joulebook_reports.example import START_US, example_run, example_study
from joulebook_reports.facts import Restated
from joulebook_reports.run_document import run_document
from joulebook_reports.study_document import Asked, study_document

PAGE = (Path(__file__).parents[3] / "docs/reference/report.md").read_text()
BOOK = BookCheck(Conservation(1, 1, 0, 0), 1, 0, 0, 0, Head(1, "00", 1))
CHANGE = (Restated(START_US, 0.1, 1, "a factor was corrected"),)
ESTIMATE = {"point", "low", "high", "n"}


def paths(value: Any, at: str, named: set[str]) -> set[str]:
    """Paths of the leaves; what the reference documents whole, as a map of names or an estimate, is a leaf."""
    if at in named:
        return {at}
    if isinstance(value, dict) and not value.keys() >= ESTIMATE:
        return set().union(*(paths(v, f"{at}.{k}" if at else k, named) for k, v in value.items()))
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return set().union(*(paths(v, f"{at}[]", named) for v in value))
    if value == [] and any(name.startswith(f"{at}[].") for name in named):
        return set()
    return {at}


def rows(title: str) -> set[str]:
    section = PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
    return set(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE))


def test_every_key_of_a_run_is_documented_and_every_row_emitted() -> None:
    doc = run_document(replace(example_run(), restated=CHANGE), START_US, BOOK)
    assert paths(doc, "", rows("A run")) == rows("A run")


def test_every_key_of_a_study_is_documented_and_every_row_emitted() -> None:
    study = example_study()
    first = study.runs[0]
    odd = replace(first, restated=CHANGE, run=replace(first.run, record={**first.run.record, "cpu_model": "Other"}))
    doc = study_document(replace(study, runs=(odd, *study.runs[1:])), Asked(), START_US, BOOK)
    assert paths(doc, "", rows("A study")) == rows("A study")


def test_every_option_is_documented() -> None:
    options = {name for command in (run_report, study_report) for p in command.params for name in p.opts}
    documented = set(re.findall(r"^\| `([^`]+)` \|", PAGE.split("## Rules")[0], re.MULTILINE))
    assert {("RUN_ID" if n == "run_id" else n) for n in options if n != "name"} == documented


def test_commands_have_examples_in_their_help() -> None:
    for command in (run_report, study_report):
        text = command.get_help(click.Context(command))
        assert text.count("joulebook report ") >= 3
