"""What the verbs of ``joulebook simulate`` share: arguments, what they print, how they end."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from joulebook.simulate.curve import FORMS

if TYPE_CHECKING:
    from joulebook.simulate.moving import Ticking

DIRECTORY: Final = click.Path(file_okay=False, path_type=Path)
CURVE_HELP: Final = f"Power of each device, or one for all, made to differ: {FORMS}."


def stopped_by_signals() -> threading.Event:
    """Set by SIGTERM or Ctrl-C."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def print_settings(settings: Mapping[str, str]) -> None:
    """As lines that a shell takes."""
    for variable, value in settings.items():
        click.echo(f"export {variable}={shlex.quote(value)}")
    sys.stdout.flush()


def move_until_ended(tree: Ticking, directory: Path, seconds: float | None) -> None:
    """Print the setting that points joulebook at a tree of /sys, move it until ended or for so long, and close it."""
    from joulebook.simulate.moving import keep_moving

    stop = stopped_by_signals()
    print_settings({"JOULEBOOK_SYS_ROOT": str(directory.absolute())})
    keep_moving(tree, stop, seconds)
    tree.close()
