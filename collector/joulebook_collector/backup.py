"""Copies of the ledger: whole and followed to the end of their chain before they count, or not there at all."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb
from joulebook.errors import BadInput, LedgerError

from joulebook_collector.audit import Head
from joulebook_collector.lake.copies import bring_files
from joulebook_collector.ledger import Ledger
from joulebook_collector.lock import take_lock

PART: Final = ".part"
"""Ending of a copy that is being made; one that a kill left is overwritten."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy that was made. head: the end of its chain; moved: where the ledger is that was here before, if any."""

    path: Path
    size_bytes: int
    head: Head
    moved: Path | None = None


def back_up(ledger: Ledger, to: Path) -> Copy:
    """Copy the ledger as of one moment, while it is written too. to: a file that is not there, or a directory.

    What is sealed goes into a lake beside the copy, but for a lake at an absolute path or a URI, which stays.

    Raises BadInput when the file is there, LedgerError when the copy is not what the ledger holds.
    """
    txn = ledger.query("select coalesce(max(txn), 0) from log")[0][0]
    target = to / f"ledger-{txn:09d}.duckdb" if to.is_dir() else to
    if target.exists():
        raise BadInput(f"{target} is there already", "give another name; a backup replaces nothing")
    if not target.parent.is_dir():
        raise BadInput(f"{target.parent} is no directory", "make it first")
    part = _part(target)
    ledger.copy_to(part.resolve())
    head = _followed(part, ledger.path.parent)
    if ledger.query("select digest from chain where txn = ?", [head.txn]) != [(bytes.fromhex(head.digest),)]:
        raise LedgerError(f"the copy {part} ends otherwise than the ledger", "try again, on another disk")
    return Copy(target, _settle(part, target), head)


def restore(source: Path, ledger: Path, *, replace: bool = False) -> Copy:
    """Put a backup in the ledger's place. replace: move aside the ledger that is there; else that is BadInput.

    Raises LedgerError, leaving all as it was, when the backup does not follow its chain, or a process has the ledger.
    """
    if not source.is_file():
        raise BadInput(f"{source} is no file", "give the file that joulebook ledger backup made")
    lock = take_lock(ledger, 0.0, lambda _: None)
    assert isinstance(lock, int)
    try:
        if ledger.exists() and not replace:
            raise BadInput(f"{ledger} is there", "give --replace to move it aside")
        part = _part(ledger)
        shutil.copyfile(source, part)
        head = _followed(part, source.parent)
        moved = _move_aside(ledger) if ledger.exists() else None
        return Copy(ledger, _settle(part, ledger), head, moved)
    finally:
        os.close(lock)


def _part(target: Path) -> Path:
    part = target.with_name(target.name + PART)
    _forget(part)
    return part


def _followed(part: Path, source: Path) -> Head:
    """The end of the chain of a copy, which is brought to this schema with it. source: folder of what was copied."""
    try:
        bring_files(part, source, part.parent)
        with Ledger.open(part, wait_seconds=0, own=True) as copy:
            head = copy.follow_chain()
            copy.checkpoint()
    except (duckdb.Error, LedgerError) as error:
        _forget(part)
        raise LedgerError(f"the copy is damaged: {str(error).splitlines()[0]}", "use another backup") from error
    return head


def _settle(part: Path, target: Path) -> int:
    """Make the copy durable under its name; its size in bytes."""
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(target)
    _forget(part)
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return target.stat().st_size


def _move_aside(ledger: Path) -> Path:
    number = 1
    while (aside := ledger.with_name(f"{ledger.name}.before-restore-{number}")).exists():
        number += 1
    wal = _wal(ledger)
    if wal.exists():
        wal.replace(_wal(aside))
    ledger.replace(aside)
    return aside


def _wal(path: Path) -> Path:
    return path.with_name(path.name + ".wal")


def _forget(part: Path) -> None:
    for path in (part, _wal(part), part.with_name(part.name + ".lock")):
        path.unlink(missing_ok=True)
