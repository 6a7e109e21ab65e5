"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

F = Callable[..., Any]


def series_options(command: F) -> F:
    """Options that tell series of one zone apart."""
    choices = {
        "gases": ("CO2e", "CO2"),
        "accounting": ("location", "market"),
        "flow": ("production", "consumption"),
        "basis": ("direct", "lifecycle"),
        "kind": ("average", "marginal"),
    }
    for word, values in choices.items():
        command = click.option(f"--{word}", type=click.Choice(values), help="Which series of the zone.")(command)
    return command


def json_option(command: F) -> F:
    """--json: one JSON document on stdout."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(command)
