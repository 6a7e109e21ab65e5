"""Shipping: a thread of the agent that brings the outbox's rows to a collector, in order, each counted once.

A batch is acknowledged by an answer only; without one the same batch is sent again, and the collector knows it.
Sampling never waits for the network: the thread has its own connection to the outbox, and short transactions.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Final

from joulebook.clock import utc_us
from joulebook.collector_client import Answer, CollectorClient, Destination
from joulebook.errors import JoulebookError
from joulebook.outbox import Outbox, Parcel

SHIP_SECONDS: Final = 30.0
"""Rows that became final are gathered for so long before they leave together."""
SHIP_ROWS: Final = 500
"""Rows of one batch at most."""
PAUSE_SECONDS: Final = 0.25
"""Between batches while many rows wait: a backlog of days takes minutes, and a few per cent of one core."""
FIRST_WAIT_SECONDS: Final = 1.0
LONGEST_WAIT_SECONDS: Final = 300.0
LONGEST_ASKED_WAIT_SECONDS: Final = 3600.0
"""A collector that asks for a longer pause is asked again after this one."""


@dataclass(frozen=True, slots=True)
class ShippingStatus:
    """What status and exposition say of shipping.

    rows, batches: acknowledged since the agent's start.  refused_rows: of those, not taken into the collector's book.
    moved: how often rows had to leave under another incarnation.
    failures: attempts since the last acknowledgement.  error: why the last one failed, empty when it did not.
    acknowledged_at_us: UTC microseconds of the last acknowledgement, None before the first.
    """

    url: str
    rows: int = 0
    batches: int = 0
    refused_rows: int = 0
    moved: int = 0
    failures: int = 0
    error: str = ""
    acknowledged_at_us: int | None = None


def wait_seconds(failures: int, asked: float | None, jitter: float) -> float:
    """How long to wait after that many failures in a row: exponential, with full jitter.

    asked: by the collector (Retry-After), None when it did not ask; never waits less.  jitter: 0 to 1, random.
    """
    most = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** min(failures - 1, 30))
    return max(jitter * most, min(asked or 0.0, LONGEST_ASKED_WAIT_SECONDS))


def _jitter() -> float:
    """Random, 0 to 1."""
    return int.from_bytes(os.urandom(4), "big") / 2**32


@dataclass(slots=True)
class Shipper:
    """Start it once; ``stop`` it before the agent ends.

    outbox_path: an outbox that its writer has opened.  ship_seconds: how long rows are gathered.
    """

    outbox_path: Path
    to: Destination
    ship_seconds: float = SHIP_SECONDS
    jitter: Callable[[], float] = _jitter
    status: ShippingStatus = field(init=False)
    _client: CollectorClient = field(init=False)
    _thread: threading.Thread = field(init=False)
    _stopping: threading.Event = field(default_factory=threading.Event, init=False)
    _deadline: float = field(default=0.0, init=False)
    _limit: int = field(default=SHIP_ROWS, init=False)
    _more: bool = field(default=False, init=False)
    _forks: int = field(default=0, init=False)
    _outbox: Outbox | None = field(default=None, init=False)
    _inode: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.status = ShippingStatus(self.to.url)
        self._client = CollectorClient(self.to)
        self._thread = threading.Thread(target=self._run, name="shipping", daemon=True)

    def start(self) -> None:
        """Begin to ship."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Ship what waits as long as the collector takes it, for at most so long, then end. The rest stays on disk."""
        self._deadline = monotonic() + seconds
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        stopping = False
        while True:
            wait = self._turn()
            if stopping and (not self._more or monotonic() > self._deadline):
                break
            stopping = stopping or self._stopping.wait(wait)
        self._client.close()
        self._close_outbox()

    def _turn(self) -> float:
        """One attempt; how long to wait after it, seconds. _more: there is more to send at once."""
        self._more = False
        try:
            outbox = self._open()
            parcel = outbox.parcel(self._limit)
            if parcel is None:
                return self.ship_seconds
            return self._judge(outbox, parcel, self._client.post(parcel))
        except JoulebookError as error:
            return self._failed(f"{error.cause}; try: {error.remedy}", None)
        except (sqlite3.DatabaseError, OSError) as error:
            self._close_outbox()
            return self._failed(f"cannot read the outbox {self.outbox_path}: {error}", None)
        except Exception as error:  # noqa: BLE001 - a defect here must not end shipping in silence
            self._client.close()
            return self._failed(
                f"shipping failed: {type(error).__name__}: {error}; try: report it, it is a defect", None
            )

    def _open(self) -> Outbox:
        """The outbox as it is now: the agent may have put a damaged one aside and begun another."""
        inode = self.outbox_path.stat().st_ino
        if self._outbox is None or inode != self._inode:
            self._close_outbox()
            self._outbox = Outbox(self.outbox_path, writer=False)
            self._inode = inode
        return self._outbox

    def _close_outbox(self) -> None:
        if self._outbox is not None:
            self._outbox.close()
            self._outbox = None

    def _judge(self, outbox: Outbox, parcel: Parcel, answer: Answer) -> float:
        seq = answer.values.get("acknowledged")
        if 200 <= answer.status < 300 and type(seq) is int and parcel.first_seq <= seq <= parcel.last_seq:
            return self._acknowledged(outbox, parcel, seq, _refused(answer, parcel, seq))
        if answer.status == 409 and answer.values.get("error") == "forked":
            return self._forked(outbox, parcel, answer)
        if answer.status == 413 and parcel.count > 1:
            self._limit = parcel.count // 2
            return self._at_once()
        return self._failed(_trouble(self.to, parcel, answer), answer.retry_after_seconds)

    def _acknowledged(self, outbox: Outbox, parcel: Parcel, seq: int, refused: dict[int, str]) -> float:
        outbox.acknowledge(parcel.incarnation, seq, refused)
        if self.status.error:
            _say(f"{self.to.url} takes rows again")
        self._tell_refused(refused)
        self.status = replace(
            self.status,
            rows=self.status.rows + seq - parcel.first_seq + 1,
            batches=self.status.batches + 1,
            refused_rows=self.status.refused_rows + len(refused),
            failures=0,
            error="",
            acknowledged_at_us=utc_us(),
        )
        self._forks = 0
        self._more = outbox.depth() > 0
        self._limit = min(SHIP_ROWS, self._limit + max(1, self._limit // 8))
        return PAUSE_SECONDS if self._more else self.ship_seconds

    def _tell_refused(self, refused: dict[int, str]) -> None:
        before, after = self.status.refused_rows, self.status.refused_rows + len(refused)
        if after.bit_length() > before.bit_length():  # the first one, and whenever there are twice as many
            seq, reason = next(iter(refused.items()))
            _say(f"{self.to.url} has refused {after} rows, which are kept aside; row {seq}: {reason}")

    def _forked(self, outbox: Outbox, parcel: Parcel, answer: Answer) -> float:
        """Another agent has written this incarnation: what it has not taken as ours leaves under a fresh one."""
        seq = answer.values.get("seq")
        if isinstance(seq, int) and parcel.first_seq < seq <= parcel.last_seq:
            outbox.acknowledge(parcel.incarnation, seq - 1)  # those before are stored alike
        fresh = outbox.move(parcel.incarnation)
        self.status = replace(self.status, moved=self.status.moved + 1)
        _say(f"{self.to.url} holds other rows of incarnation {parcel.incarnation} (a copied disk?): now {fresh}")
        self._forks += 1
        if self._forks == 1:
            return self._at_once()
        return self._failed(f"{self.to.url} answers forked again and again; try: see the collector's log", None)

    def _at_once(self) -> float:
        self._more = True
        return 0.0

    def _failed(self, error: str, asked: float | None) -> float:
        if error != self.status.error:
            _say(f"{error}; rows wait in the outbox")
        failures = self.status.failures + 1
        self.status = replace(self.status, failures=failures, error=error)
        return wait_seconds(failures, asked, self.jitter())


def _refused(answer: Answer, parcel: Parcel, acknowledged: int) -> dict[int, str]:
    """seq -> reason of the rows that the collector did not take into its book."""
    found: dict[int, str] = {}
    rows = answer.values.get("refused")
    for row in rows if isinstance(rows, list) else ():
        seq = row.get("seq") if isinstance(row, dict) else None
        if isinstance(seq, int) and parcel.first_seq <= seq <= acknowledged:
            found[seq] = str(row.get("reason", ""))
    return found


def _trouble(to: Destination, parcel: Parcel, answer: Answer) -> str:
    """What an answer that acknowledges nothing means, with a remedy."""
    said = str(answer.values.get("message") or answer.values.get("error") or "")[:200]
    too_large = f"row {parcel.first_seq} alone is too large: raise the limit of the collector, or of a proxy before it"
    remedies = {
        401: "put a valid token into JOULEBOOK_COLLECTOR_TOKEN_FILE",
        403: "give the token the scope to write rows",
        404: "set JOULEBOOK_COLLECTOR_URL to a collector",
        413: too_large,
        429: "wait: it will be asked again",
        503: "wait: it will be asked again",
    }
    remedy = remedies.get(answer.status, "see the collector's log")
    return f"{to.url} answered {answer.status}{': ' + said if said else ''}; try: {remedy}"


def _say(message: str) -> None:
    print(f"joulebook agent: {message}", file=sys.stderr)
