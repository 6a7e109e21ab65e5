"""The verb lake: seal closed hours, merge files, clear away, check, and price the fleet from it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click
from joulebook.errors import BadInput, LedgerError
from joulebook.home import find_home

from joulebook_collector.cli import print_json
from joulebook_collector.options import json_option

HOUR_US = 3_600_000_000

if TYPE_CHECKING:
    from joulebook_collector.lake.lake import Lake
    from joulebook_collector.lake.manifest import Part
    from joulebook_collector.ledger import Ledger
    from joulebook_collector.pricing_fleet import FleetLine


@click.group()
def lake() -> None:
    """Closed hours of the ledger, sealed into Parquet files beside it or in an object store."""


@lake.command("seal")
@click.option("--to", metavar="PLACE", help="Folder or URI (s3://bucket/prefix) of a new lake; beside the ledger else.")
@click.option("--grace", type=float, default=15.0, show_default=True, help="Minutes that an hour stays open for.")
@json_option
def seal_(to: str | None, grace: float, as_json: bool) -> None:
    """Move the rows of closed hours from the ledger's file into the lake. Reports say what they said.

    An hour is closed when it has been over for the grace and every agent that was heard in the last six hours has
    delivered beyond it. Rows that come later become a further file.

    \b
    joulebook lake seal
    joulebook lake seal --to s3://energy/lake
    """
    from joulebook_collector.lake.lake import Lake
    from joulebook_collector.lake.seal import seal
    from joulebook_collector.ledger import now_us

    with _own_ledger() as ledger:
        book = Lake(ledger, to)
        _tell(book, "sealed", seal(book, now_us(), grace_us=round(grace * 60_000_000)), as_json)


@lake.command("compact")
@json_option
def compact_(as_json: bool) -> None:
    """Merge the files of hours that have several; no total changes.

    \b
    joulebook lake compact
    """
    from joulebook_collector.lake.compact import compact
    from joulebook_collector.lake.lake import Lake

    with _own_ledger() as ledger:
        book = Lake(ledger)
        _tell(book, "merged into", compact(book), as_json)


@lake.command("clear")
@click.option("--keep", type=click.IntRange(0), default=48, show_default=True, help="Versions before the current one.")
@json_option
def clear_(keep: int, as_json: bool) -> None:
    """Remove files that neither the current version names nor one of those kept before it.

    A backup of the ledger can be restored as long as the version that it names is kept.

    \b
    joulebook lake clear --keep 48
    """
    from joulebook_collector.lake.compact import clear
    from joulebook_collector.lake.lake import Lake

    with _own_ledger() as ledger:
        gone = clear(Lake(ledger), kept_versions=keep)
    print_json({"removed": gone}) if as_json else print(f"{len(gone)} files removed")


@lake.command("verify")
@json_option
def verify_(as_json: bool) -> None:
    """Check every file of the lake against its manifest, and both against the ledger; status 1 when anything differs.

    \b
    joulebook lake verify
    joulebook lake verify --json
    """
    from joulebook_collector.cli import open_ledger
    from joulebook_collector.lake.check import check_lake
    from joulebook_collector.lake.lake import Lake

    with open_ledger() as ledger:
        book = Lake(ledger)
        bar = click.progressbar(length=len(book.manifest.parts), label="files", file=sys.stderr)
        with bar:
            wrong = check_lake(book, lambda _done, _all: bar.update(1))
        held = {"version": book.manifest.version, "files": len(book.manifest.parts), "wrong": wrong}
    if as_json:
        print_json(held)
    else:
        print("\n".join([*wrong, f"version {held['version']}, {held['files']} files, {len(wrong)} wrong"]))
    if wrong:
        raise LedgerError(
            f"{len(wrong)} things are wrong with the lake", "restore the files that are named from a copy"
        )


@lake.command("price")
@click.option("--from", "since", required=True, metavar="TIME", help="ISO 8601 with a zone, a whole hour.")
@click.option("--to", "until", required=True, metavar="TIME", help="End of the period, a whole hour.")
@click.option("--slot", type=click.IntRange(1, 60), default=60, show_default=True, help="Minutes of a pricing slot.")
@click.option("--rows", is_flag=True, help="Sum rows even where roll-ups hold the same.")
@click.option("--as-of", metavar="TIME", help="As known then.")
@json_option
def price_(since: str, until: str, slot: int, rows: bool, as_of: str | None, as_json: bool) -> None:
    """What the runs of a period drew and emitted, by technique and hour.

    \b
    joulebook lake price --from 2026-03-01T00:00:00Z --to 2026-03-02T00:00:00Z
    """
    from dataclasses import asdict

    from joulebook_collector.cli import iso, moment_us, open_ledger
    from joulebook_collector.pricing_fleet import price_fleet

    period = (moment_us(since, "--from"), moment_us(until, "--to"))
    if period[0] >= period[1] or any(at % HOUR_US for at in period) or 60 % slot:
        raise BadInput("the period or its slots do not fit whole hours", "give whole hours, and minutes that divide 60")
    with open_ledger() as ledger:
        as_of_us = None if as_of is None else moment_us(as_of, "--as-of")
        lines = price_fleet(ledger, period, slot_us=slot * 60_000_000, as_of_us=as_of_us, rows=rows)
    if as_json:
        print_json([{**asdict(line), "started_at": iso(line.started_at_us)} for line in lines])
        return
    for line in lines:
        energy = f"{line.energy_millijoules / 3.6e9:.6g} kWh"
        told = f"{line.missing}: not priced" if line.emissions_g is None else _grams(line)
        print(f"{iso(line.started_at_us)}  {line.technique or 'baseline'}  {energy}  {told}")


def _grams(line: FleetLine) -> str:
    assert line.emissions_g is not None
    assert line.u_emissions_g is not None
    words = " ".join(line.basis or ())
    ways = f" ({', '.join(line.ways)})" if line.ways else ""
    return f"{line.emissions_g:.6g} g +- {2 * line.u_emissions_g:.2g} (k = 2)  {words}{ways}"


def _own_ledger() -> Ledger:
    from joulebook_collector.ledger import Ledger

    return Ledger.open(find_home().make().ledger, own=True)


def _tell(book: Lake, did: str, parts: Iterable[Part], as_json: bool) -> None:
    raw = [part for part in parts if part.level == "raw"]
    told: dict[str, Any] = {
        "version": book.manifest.version,
        "files": [part.path for part in raw],
        "measurements": sum(part.measurements for part in raw),
        "bytes": sum(part.bytes for part in raw),
    }
    if as_json:
        print_json(told)
    else:
        rows, size = told["measurements"], told["bytes"]
        print(f"{did}: {rows} measurements in {len(raw)} files, {size} bytes; version {told['version']}")
