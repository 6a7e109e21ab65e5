"""The verb ledger: verify, backup, restore, stats."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from joulebook.errors import BadInput, LedgerError
from joulebook.home import find_home

from joulebook_collector.cli import iso, open_ledger, print_json, print_lines
from joulebook_collector.options import json_option

if TYPE_CHECKING:
    from joulebook_collector.audit import Head
    from joulebook_collector.backup import Copy
    from joulebook_collector.ledger import Ledger

ANCHOR_HEX: Final = 8
"""Fewest digits of a digest that are taken for one."""


@click.group()
def ledger() -> None:
    """Look after JOULEBOOK_HOME's ledger: check it, copy it, count it."""


@ledger.command()
@click.option("--anchor", metavar="TXN:DIGEST", help="A digest noted earlier: the book must still lead there.")
@json_option
def verify(anchor: str | None, as_json: bool) -> None:
    """Check the whole book: laws 1 to 3 and 5, the chain of digests over every transaction, and the lake's files.

    Status 1, and the first transaction and row that differ, when anything does. Prints the last
    transaction's digest: noted elsewhere, it later shows (--anchor) that nothing was taken off the end.

    \b
    joulebook ledger verify --json
    joulebook ledger verify --anchor 1204:5f3c9a0e77b1
    """
    import duckdb

    from joulebook_collector.conservation import verify as check
    from joulebook_collector.lake.check import check_lake
    from joulebook_collector.lake.lake import Lake
    from joulebook_collector.structure import check_structure

    noted = None if anchor is None else read_anchor(anchor)
    try:
        with open_ledger() as book:
            with _bar(int(book.query("select count(*) from log")[0][0])) as bar:
                found = check(book, anchor=noted, progress=bar.update)
            check_structure(book)
            sealed = Lake(book)
            wrong = check_lake(sealed)
            if wrong:
                raise LedgerError(f"the lake: {wrong[0]}", "'joulebook lake verify' lists all; restore those files")
    except duckdb.Error as error:
        raise LedgerError(
            f"the file is damaged: {str(error).splitlines()[0]}", "restore the ledger from a backup"
        ) from error
    sums = found.conservation
    told: dict[str, Any] = {
        "head": head_text(found.head),
        "transactions": found.head.txn,
        "rows": found.head.rows,
        "measurements": found.measurements,
        "shadowed": found.shadowed,
        "quarantined": found.quarantined,
        "missing_rows": found.missing_rows,
        "lake_files": len(sealed.manifest.parts),
        "measured_joules": sums.measured / 1000,
        "runs_joules": sums.runs / 1000,
        "idle_joules": sums.idle / 1000,
        "unattributed_joules": sums.unattributed / 1000,
    }
    _print(told, as_json)


@ledger.command()
@click.argument("to", type=click.Path(path_type=Path), metavar="FILE|DIR")
@json_option
def backup(to: Path, as_json: bool) -> None:
    """Copy the ledger as of now into FILE, or into DIR under the number of its last transaction.

    A running collector makes the copy itself and goes on. The copy's chain is followed before it counts. Sealed rows
    come along in a lake beside it, but for a lake at an absolute path or a URI.

    \b
    joulebook ledger backup /backups
    """
    from joulebook_collector.backup import back_up

    with open_ledger() as book:
        copy = back_up(book, to)
    _print(_copy_told(copy), as_json)


@ledger.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="Move the ledger that is there aside.")
@json_option
def restore(file: Path, replace: bool, as_json: bool) -> None:
    """Put the backup FILE in the ledger's place, once its chain was followed. No process may have the ledger.

    Rows that were acknowledged after the backup was made are not in it, and their agents do not send them
    again: they are told as missing by the next verify.

    \b
    joulebook ledger restore /backups/ledger-000001204.duckdb --replace
    """
    from joulebook_collector.backup import restore as put

    _print(_copy_told(put(file, find_home().make().ledger, replace=replace)), as_json)


@ledger.command()
@json_option
def stats(as_json: bool) -> None:
    """Count the ledger's rows and bytes, without checking them.

    \b
    joulebook ledger stats --json
    """
    with open_ledger() as book:
        told = count(book)
    _print(told, as_json)


def count(book: Ledger) -> dict[str, Any]:
    """What ``stats`` tells: rows by table, bytes in use, span of what is known."""
    from joulebook_collector import schema

    rows = {
        table: int(book.query(f"select count(*) from {table}")[0][0])  # noqa: S608
        for table in (*schema.TABLES, *schema.NAMES)
    }
    used, wal = book.query("select used_blocks * block_size, wal_size from pragma_database_size() limit 1")[0]
    first, last = book.query("select min(known_at_us), max(known_at_us) from log")[0]
    return {
        "schema_version": int(book.query("select max(version) from schema_version")[0][0]),
        "transactions": rows.pop("log"),
        "known_from": iso(first),
        "known_to": iso(last),
        "bytes_in_use": int(used),
        "write_ahead_log": str(wal),
        "rows": rows,
    }


def head_text(head: Head) -> str:
    """A head as --anchor takes it."""
    return f"{head.txn}:{head.digest}"


def read_anchor(text: str) -> tuple[int, str]:
    """What ``head_text`` wrote, its digest perhaps shortened. Raises BadInput on anything else."""
    number, _, digest = text.partition(":")
    if not number.isdecimal() or len(digest) < ANCHOR_HEX or set(digest) - set("0123456789abcdef"):
        raise BadInput(f"--anchor {text!r} is no noted digest", "give what verify printed as head, 123:4f5e...")
    return int(number), digest


def _copy_told(copy: Copy) -> dict[str, Any]:
    moved = {} if copy.moved is None else {"moved_aside": str(copy.moved)}
    return {"file": str(copy.path), "bytes": copy.size_bytes, "head": head_text(copy.head), **moved}


def _bar(transactions: int) -> Any:
    return click.progressbar(length=transactions, label="transactions", file=sys.stderr, update_min_steps=100)


def _print(told: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(told)
        return
    flat = {name: value for name, value in told.items() if not isinstance(value, dict)}
    for group in told.values():
        flat |= group if isinstance(group, dict) else {}
    width = max(map(len, flat))
    print_lines(f"{name.replace('_', ' '):{width}}  {value}" for name, value in flat.items())
