"""How far the demo is: a bar with the time left on a terminal, plain lines elsewhere. Always on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import click


class Shown(Protocol):
    """What is told of progress: ``begin`` a run, ``end`` it with what it drew, the seconds left known or not."""

    def begin(self, number: int, title: str, seconds_left: float | None) -> None:
        """A run starts."""
        ...

    def end(self, number: int, title: str, told: str) -> None:
        """A run is over."""
        ...


class Lines:
    """One line for each run that is over."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._left = ""

    def begin(self, number: int, title: str, seconds_left: float | None) -> None:
        """Nothing is printed before there is something to say."""
        self._left = spoken_left(seconds_left)

    def end(self, number: int, title: str, told: str) -> None:
        """The line of the run."""
        click.echo(f"[{number}/{self._total}] {title}: {told}{self._left and '; ' + self._left}", err=True)


@contextmanager
def shown(total: int) -> Iterator[Shown]:
    """A bar when stderr is a terminal, else lines."""
    if not sys.stderr.isatty():
        yield Lines(total)
        return
    with _bar(total) as bar:
        yield bar


def spoken_left(seconds: float | None) -> str:
    """The time left as one says it, "" while it is unknown."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"about {max(5, round(seconds / 5) * 5)} s left"
    return f"about {round(seconds / 60)} min left"


@contextmanager
def _bar(total: int) -> Iterator[Shown]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(30), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)

        class Bar:
            def begin(self, number: int, title: str, seconds_left: float | None) -> None:
                left = spoken_left(seconds_left)
                progress.update(task, description=f"{title}{left and '; ' + left}")

            def end(self, number: int, title: str, told: str) -> None:
                progress.console.print(f"{title}: {told}", highlight=False)
                progress.update(task, completed=number)

        yield Bar()
