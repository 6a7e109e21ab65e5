"""One process owns a ledger file: an flock beside it, waited for with one message."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from joulebook.errors import LedgerError

SPEAK_AFTER_SECONDS = 1.0
POLL_SECONDS = 0.05


T = TypeVar("T")


def take_lock(ledger: Path, wait_seconds: float, ask: Callable[[Path], T | None]) -> int | T:
    """The descriptor that holds the ledger's lock; closing it, or dying, gives the lock back.

    wait_seconds: >= 0.  ask: what to have in place of the lock from its owner, None while that one offers nothing.
    Says once on stderr that it waits. Raises LedgerError when the time is over.
    """
    path = ledger.with_name(ledger.name + ".lock")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LedgerError(
            f"cannot open {path}: {error.strerror}", "set JOULEBOOK_HOME to a directory that you may write"
        ) from error
    try:
        found = _wait(descriptor, ledger, wait_seconds, ask)
    except BaseException:
        os.close(descriptor)
        raise
    if found is None:
        return descriptor
    os.close(descriptor)
    return found


def _wait(descriptor: int, ledger: Path, wait_seconds: float, ask: Callable[[Path], T | None]) -> T | None:
    began = time.monotonic()
    spoken = False
    while not _locked(descriptor):
        if (found := ask(ledger)) is not None:
            return found
        waited = time.monotonic() - began
        if waited >= wait_seconds:
            raise LedgerError(
                f"another joulebook process has had {ledger} for {wait_seconds:g} s",
                "wait until it ends (fuser names it), then try again",
            )
        if waited >= SPEAK_AFTER_SECONDS and not spoken:
            print("another joulebook process has the ledger; waiting", file=sys.stderr, flush=True)
            spoken = True
        time.sleep(POLL_SECONDS)
    return None


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
