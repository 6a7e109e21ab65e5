"""The program ``joulebook``: verbs found lazily, errors in two lines, stable exit statuses.

Exit status: 0 done, 1 the world refused, 2 the request was wrong; ``run`` passes on its command's.
"""

from __future__ import annotations

import sys
from importlib.metadata import entry_points, version
from typing import Final

import click

from joulebook.errors import JoulebookError

GROUP: Final = "joulebook.verbs"
NEEDS: Final = {
    "report": "reports",
    "import": "collector",
    "site": "collector",
    "factors": "collector",
    "collector": "service",
    "token": "service",
    "quarantine": "service",
    "demo": "studies",
}
"""Verbs of the upper floors and the extra that brings each."""


class Verbs(click.Group):
    """Verbs from entry points: none is imported before it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the verbs, in alphabetical order."""
        return sorted(entry.name for entry in entry_points(group=GROUP))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb, or an error that says which extra brings it."""
        for entry in entry_points(group=GROUP, name=cmd_name):
            try:
                command: click.Command = entry.load()
            except ModuleNotFoundError as error:
                if cmd_name not in NEEDS:
                    raise
                raise not_installed(cmd_name, error) from error
            return command
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs whose packages are there; say what brings the others."""
        rows = []
        for name in self.list_commands(ctx):
            try:
                command = self.get_command(ctx, name)
            except JoulebookError as error:
                rows.append((name, f"({error.remedy})"))
            else:
                rows.append((name, command.get_short_help_str(80) if command else ""))
        with formatter.section("Verbs"):
            formatter.write_dl(rows)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("joulebook"), prog_name="joulebook")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Energy and carbon accounting for machine learning.

    \b
    joulebook run -- python train.py       measure a command
    joulebook report run                   what the last run drew and emitted
    joulebook doctor                       which meters this machine has
    """
    ctx.obj = {"debug": debug}


def not_installed(verb: str, error: ModuleNotFoundError) -> JoulebookError:
    """What to say when a verb's packages are missing: the extra that brings them."""
    cause = f"{verb} needs {error.name}, which is not installed"
    return JoulebookError(cause, f"pip install 'joulebook[{NEEDS[verb]}]'")


def main() -> None:
    """Entry point of the program."""
    verb = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    try:
        status = cli.main(standalone_mode=False)  # a verb's ctx.exit(N) comes back as N
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except JoulebookError as error:
        if "--debug" in sys.argv[1:3]:
            raise
        print(error.lines(verb), file=sys.stderr)
        sys.exit(error.exit_status)
    except ModuleNotFoundError as error:
        if verb not in NEEDS or "--debug" in sys.argv[1:3]:
            raise
        missing = not_installed(verb, error)
        print(missing.lines(verb), file=sys.stderr)
        sys.exit(missing.exit_status)
    except BrokenPipeError:
        sys.exit(141)
    sys.exit(status if isinstance(status, int) else 0)
