"""The verb ``joulebook agent``: it hands over to a fresh interpreter without the command line's weight."""

from __future__ import annotations

import os
import sys

import click

from joulebook.launch import agent_command


@click.command(epilog="Example: joulebook agent            (Ctrl-C ends it; its rows stay in the outbox)")
@click.option("--until-idle", type=float, metavar="SECONDS", help="End this long after the last run has ended.")
@click.option(
    "--standby/--no-standby",
    default=None,
    help="Wait, and take over when the agent that meters this machine ends. [default: standby, unless --until-idle]",
)
@click.pass_context
def agent(ctx: click.Context, until_idle: float | None, standby: bool | None) -> None:
    """Sample this machine's meters until stopped.

    `joulebook run` and `joulebook.track` start one when none runs. One agent owns a machine's meters; a second
    one stands by, and takes over within two seconds when the first ends or dies.
    """
    sys.stdout.flush()
    command = agent_command(until_idle, standby, debug=bool(ctx.obj and ctx.obj["debug"]))
    os.execv(command[0], command)  # noqa: S606
