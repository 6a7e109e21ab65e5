"""The service's verbs: collector, token and quarantine."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from joulebook.clock import utc_us
from joulebook.errors import BadInput, JoulebookError
from joulebook.home import Home, find_home

from joulebook_collector.cli import iso, moment_us, open_ledger, print_json
from joulebook_collector.options import json_option

if TYPE_CHECKING:
    from joulebook_collector.service.access import Access, Token

F = Callable[..., Any]
US_PER_HOUR: Final = 3600 * 1_000_000


def home_option(command: F) -> F:
    """--home: another home than JOULEBOOK_HOME."""
    return click.option("--home", type=click.Path(path_type=Path, file_okay=False), help="In place of JOULEBOOK_HOME.")(
        command
    )


@click.command()
@home_option
@click.option("--listen", default="127.0.0.1:8437", show_default=True, metavar="HOST:PORT", help="Where; port 0: any.")
@click.option("--cert", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Certificate chain, PEM.")
@click.option("--key", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Its key, PEM.")
@click.option("--insecure", is_flag=True, help="Plain HTTP beyond loopback.")
@click.option("--no-tokens", "token_free", is_flag=True, help="Everybody on this machine may write and read.")
@click.option("--queue-rows", type=click.IntRange(500), help="Rows that may wait to be written.")
@click.pass_context
def collector(
    ctx: click.Context,
    home: Path | None,
    listen: str,
    cert: Path | None,
    key: Path | None,
    insecure: bool,
    token_free: bool,
    queue_rows: int | None,
) -> None:
    """Take rows from agents over HTTP into the home's ledger, until SIGTERM.

    \b
    joulebook collector --listen 127.0.0.1:8437
    joulebook collector --listen 0.0.0.0:8437 --cert collector.crt --key collector.key
    """
    from joulebook_collector.service.serve import Listen, serve
    from joulebook_collector.service.writer import QUEUE_ROWS

    host, port = _address(listen)
    where = Listen(host, port, cert, key, insecure, token_free)
    ctx.exit(serve(_home(home).make(), where, queue_rows or QUEUE_ROWS))


@click.group()
def token() -> None:
    """Who may bring rows to the collector, and who may read.

    A token's text is shown once. Changes hold for a collector that runs from its next request on.
    """


@token.command("create")
@click.argument("name")
@click.option("--write", multiple=True, metavar="GLOB", help="Machines whose rows it may bring; again for more.")
@click.option("--read", multiple=True, metavar="GLOB", help="Projects whose runs it may see; again for more.")
@click.option("--admin", is_flag=True, help="May see everything, quarantine and audit log too.")
@click.option("--expires", metavar="TIME", help="ISO 8601 with a zone; never when not given.")
@home_option
@json_option
def token_create(name: str, expires: str | None, home: Path | None, as_json: bool, **scopes: Any) -> None:
    """Make a token and show its text, for a file that only its holder reads.

    \b
    joulebook token create node-3 --write node-3 > token
    joulebook token create fleet --write 'node-*' --expires 2027-01-01T00:00Z
    joulebook token create vision-team --read 'vision-*'
    """
    until = None if expires is None else moment_us(expires, "--expires")
    with _access(home) as access:
        made, text = access.create(name, expires_at_us=until, actor=_actor(), **scopes)
    _show_secret(made, text, as_json)


@token.command("list")
@home_option
@json_option
def token_list(home: Path | None, as_json: bool) -> None:
    """Every token with its scopes and when it was last used, within a minute.

    \b
    joulebook token list
    """
    with _access(home) as access:
        found = access.tokens()
    if as_json:
        print_json([_token_json(each) for each in found])
        return
    for each in found:
        print(_token_line(each))


@token.command("revoke")
@click.argument("token_id", metavar="ID")
@home_option
@json_option
def token_revoke(token_id: str, home: Path | None, as_json: bool) -> None:
    """End a token now.

    \b
    joulebook token revoke 3f9c1a2b4d5e
    """
    with _access(home) as access:
        ended = access.revoke(token_id, actor=_actor())
    print_json(_token_json(ended)) if as_json else print(_token_line(ended))


@token.command("rotate")
@click.argument("token_id", metavar="ID")
@click.option(
    "--grace-hours", type=click.FloatRange(0, 24 * 365), default=24.0, show_default=True, help="The old one's rest."
)
@home_option
@json_option
def token_rotate(token_id: str, grace_hours: float, home: Path | None, as_json: bool) -> None:
    """Make a token like that one, which ends after the grace.

    \b
    joulebook token rotate 3f9c1a2b4d5e > token
    """
    with _access(home) as access:
        made, text = access.rotate(token_id, grace_us=round(grace_hours * US_PER_HOUR), actor=_actor())
    _show_secret(made, text, as_json)


@click.group()
def quarantine() -> None:
    """Rows that a collector did not take into the book, with the reason."""


@quarantine.command("list")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="How many at most.")
@json_option
def quarantine_list(limit: int, as_json: bool) -> None:
    """Refused rows in order of arrival; `txn/seq` names one.

    \b
    joulebook quarantine list
    """
    from joulebook_collector.service.quarantine import refused_page

    with open_ledger() as ledger:
        page = refused_page(limit, 0, 0, None)(ledger)
    if as_json:
        print_json([{name: getattr(row, name) for name in row.__struct_fields__} for row in page.rows])
        return
    for row in page.rows:
        since = "" if row.replayed_txn is None else f"; taken later, by transaction {row.replayed_txn}"
        told = f"{row.kind or 'row'} of {row.agent_id}: {row.reason}{since}"
        print(f"{row.txn}/{row.seq}  {iso(row.known_at_us)}  {told}")
    if page.next_txn is not None:
        print("there are more: give a larger --limit", file=sys.stderr)


@quarantine.command("show")
@click.argument("name", metavar="TXN/SEQ")
def quarantine_show(name: str) -> None:
    """One refused row, as it came.

    \b
    joulebook quarantine show 41/57
    """
    from joulebook_collector.service.answers import Problem
    from joulebook_collector.service.quarantine import refused_row

    txn, seq = _place(name)
    with open_ledger() as ledger:
        try:
            found = refused_row(txn, seq)(ledger)
        except Problem as problem:
            raise BadInput(f"{problem}: {name}", "'joulebook quarantine list' names them") from None
    print(f"{found.line.reason}\n{found.body}")


@quarantine.command("replay")
@click.argument("names", metavar="TXN/SEQ...", nargs=-1, required=True)
@home_option
def quarantine_replay(names: Sequence[str], home: Path | None) -> None:
    """Judge refused rows anew, after a rule has changed, and take those that nothing stands against any more.

    A row that is taken keeps its place in its agent's stream, and its line in quarantine.

    \b
    joulebook quarantine replay 41/57 41/58
    """
    from joulebook_collector.ledger import Ledger
    from joulebook_collector.service.answers import Problem
    from joulebook_collector.service.quarantine import replay

    failed = 0
    with Ledger.open(_home(home).make().ledger) as ledger, _access(home) as access:
        for name in names:
            try:
                told = f"taken by transaction {replay(*_place(name))(ledger).txn}"
                access.note(_actor(), "quarantine replay", name, "done", told)
            except Problem as problem:
                told = str(problem)
                access.note(_actor(), "quarantine replay", name, "refused", told)
                failed += 1
            print(f"{name}: {told}")
    if failed:
        raise JoulebookError(f"{failed} of {len(names)} rows were not taken", "see the reasons above")


def _place(name: str) -> tuple[int, int]:
    txn, slash, seq = name.partition("/")
    if not (slash and txn.isdecimal() and seq.isdecimal()):
        raise BadInput(f"{name!r} names no row", "write it as TXN/SEQ, such as 41/57")
    return int(txn), int(seq)


def _address(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if not (host and port.isdecimal() and int(port) < 65536):
        raise BadInput(f"--listen {listen!r} is no address", "write it as HOST:PORT, such as 127.0.0.1:8437")
    return host.strip("[]"), int(port)


def _home(root: Path | None) -> Home:
    found = find_home()
    return found if root is None else found._replace(root=root.absolute())


def _access(root: Path | None) -> Access:
    from joulebook_collector.service.access import Access
    from joulebook_collector.service.serve import access_path

    return Access(access_path(_home(root).make()))


def _actor() -> str:
    return f"cli:{getpass.getuser()}"


def _show_secret(made: Token, text: str, as_json: bool) -> None:
    if as_json:
        print_json({**_token_json(made), "token": text})
        return
    print(f"{_token_line(made)}\nthis is its text, shown this once:", file=sys.stderr)
    print(text)


def _token_json(token: Token) -> dict[str, Any]:
    values = asdict(token)
    instants = {name: values.pop(f"{name}_at_us") for name in ("created", "expires", "revoked", "used")}
    shown = {f"{name}_at": None if at is None else iso(at) for name, at in instants.items()}
    return {**values, **shown, "state": token.state(utc_us())}


def _token_line(token: Token) -> str:
    scopes = [
        *(f"write {glob}" for glob in token.write),
        *(f"read {glob}" for glob in token.read),
        *(["admin"] if token.admin else []),
    ]
    ends = f", until {iso(token.expires_at_us)}" if token.expires_at_us is not None else ""
    used = f"last used {iso(token.used_at_us)}" if token.used_at_us is not None else "never used"
    return f"{token.token_id}  {token.name}  {token.state(utc_us())}{ends}  {', '.join(scopes)}  {used}"
