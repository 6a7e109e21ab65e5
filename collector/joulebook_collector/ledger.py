"""The embedded ledger: one DuckDB file, owned by one process at a time, append-only.

Every transaction has a number and a known_at_us that only ever rise; every reader takes the
as-of time T and sees what was known at T, so the same T always gives the same answer.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import duckdb
from joulebook.errors import BadInput, LedgerError
from joulebook.rows import Batch, Body, Mark, Measurement, Reassignment, Run

from joulebook_collector import chain, columns, schema
from joulebook_collector.audit import Head, follow_chain, link_past
from joulebook_collector.factors import read_factors
from joulebook_collector.fingerprints import check_fingerprints
from joulebook_collector.intake import Forked, Intake, Receipt
from joulebook_collector.journal import Entry, Journal, Stamp
from joulebook_collector.lake.lake import attach as attach_lake
from joulebook_collector.lock import take_lock
from joulebook_collector.machines import as_one
from joulebook_collector.moves import with_moves
from joulebook_collector.priced import Factor, SeriesKey, Site
from joulebook_collector.remote import Connection, Door, RemoteConnection, visit
from joulebook_collector.shadows import Look, RowName, shadowed
from joulebook_collector.shipped import bring_shipped
from joulebook_collector.sites import read_site_of, read_sites

__all__ = ["Forked", "Ledger", "Receipt", "Stamp"]

DuckValues = Sequence[Any]

CHECKPOINT: Final = "64MB"
"""Of the write-ahead log: each checkpoint writes the last 120,000 rows anew, and who opens after a crash reads this."""

STORAGE: Final = "v1.5.0"
"""The file format: the older one, so that every DuckDB of the supported range can read the book."""


def now_us() -> int:
    """UTC microseconds of the wall clock."""
    return time.time_ns() // 1000


class Ledger:
    """The book. Use ``Ledger.open`` as a context manager; not for use by several threads."""

    def __init__(self, db: Connection, lock: int | None, path: Path, clock: Callable[[], int]) -> None:
        self.path = path
        self._db = db
        self._lock = lock
        self._clock = clock
        self._journal: Journal | None = None
        self._intake: Intake | None = None
        self._entry: Entry | None = None

    @classmethod
    def open(
        cls, path: Path, *, wait_seconds: float = 60.0, clock: Callable[[], int] = now_us, own: bool = False
    ) -> Ledger:
        """The ledger in that file, made when absent, brought to this schema when older.

        wait_seconds: how long to wait for another process that has it.  clock: UTC microseconds.
        own: have the file or nothing; else, where a collector has it, that one is asked in the file's place.
        Raises LedgerError when it cannot be had, cannot be read, or is of another schema.
        """
        lock = take_lock(path, wait_seconds, _nobody if own else visit)
        if isinstance(lock, RemoteConnection):
            return cls(lock, None, path, clock)._checked()
        try:
            db = _connect(path)
            try:
                ledger = cls(db, lock, path, clock)
                ledger._bring_up_to_date()
            except BaseException:
                db.close()
                raise
        except BaseException:
            os.close(lock)
            raise
        return ledger

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back. Every transaction is on disk already."""
        self._db.close()
        if self._lock is not None:
            os.close(self._lock)

    @contextmanager
    def reader(self) -> Iterator[Ledger]:
        """The same book for another thread of this process, on a connection of its own; only to read."""
        assert not isinstance(self._db, RemoteConnection)
        with self._db.cursor() as db:
            yield Ledger(db, None, self.path, self._clock)

    def door(self, turn: threading.Lock) -> Door:
        """Let other processes of this user at the book. turn: held by whoever writes (remote.py)."""
        assert not isinstance(self._db, RemoteConnection)
        return Door(self.path, self._db, turn, self._written_by_another)

    def _written_by_another(self) -> None:
        """Forget what is kept in memory of the book: another connection to it has written."""
        self._journal = self._intake = None

    # -- writing

    def ingest(self, batch: Batch, *, whole: bool = False) -> Receipt:
        """Take a batch, once, however often it is delivered; durable on return.

        Rows that break a rule go to quarantine with the reason. Raises Forked when rows of the same
        place differ from those that are stored, BadInput when the batch itself is malformed; nothing is
        stored then.  whole: all of it or nothing, so a row that breaks a rule is BadInput too.
        """
        (outcome,) = self.ingest_all([batch], whole=whole)
        if isinstance(outcome, Receipt):
            return outcome
        raise outcome

    def ingest_all(self, batches: Sequence[Batch], *, whole: bool = False) -> list[Receipt | Forked | BadInput]:
        """Take the batches in this order, all durable on return, with one commit; what became of each, in order.

        As ``ingest`` of one after the other, but that a batch which would raise stores nothing and is told in its
        place; the others are taken. Whatever else is raised, nothing of any of them is stored.
        """
        with self._intaking() as intake:
            return [self._outcome(intake, batch, whole) for batch in batches]

    def replay(self, agent_id: str, incarnation: str, seq: int, body: Body) -> Stamp:
        """Take a row that is in quarantine into the book, at its own place in its stream; durable on return.

        body: the row as it is read now. Raises BadInput when it breaks a rule still; nothing is stored then.
        """
        with self._intaking() as intake:
            return intake.replay((agent_id, incarnation), seq, body, self._clock())

    @contextmanager
    def _intaking(self) -> Iterator[Intake]:
        """One commit of what the body gathers."""
        with self._commit() as journal:
            if self._intake is None:
                self._intake = Intake(self._db, journal, self._insert)
            yield self._intake
            self._intake.flush()

    def _outcome(self, intake: Intake, batch: Batch, whole: bool) -> Receipt | Forked | BadInput:
        try:
            return intake.take(batch, self._clock(), whole=whole)
        except (Forked, BadInput) as refused:
            return refused

    @contextmanager
    def transaction(self, action: str, detail: str = "") -> Iterator[Stamp]:
        """One durable transaction with its line in the log; nothing of it is stored when the body raises."""
        with self._commit() as journal:
            self._entry = entry = journal.open(self._clock())
            try:
                yield entry.stamp
            finally:
                self._entry = None
            journal.close(entry, (action, "", "", 0, 0, 0, 0, 0, None, None, detail))
            journal.flush()

    @contextmanager
    def _commit(self) -> Iterator[Journal]:
        """All that the body writes, durable at its end; nothing of it when it raises."""
        self._db.execute("begin transaction")
        try:
            if self._lock is None:
                self._written_by_another()  # its owner writes too: from here to the commit it is our turn
            if self._journal is None:
                self._journal = Journal(self._db)
            yield self._journal
            self._db.execute("commit")
        except BaseException:
            self._journal = self._intake = None  # they know of rows that are not there
            self._db.execute("rollback")
            raise

    def append(self, table: str, rows: Sequence[DuckValues]) -> None:
        """Add whole rows to a table of the schema, inside ``transaction``. Measurements come by ``ingest`` only."""
        if self._entry is None or table not in chain.covered() or table in schema.HOT:
            raise LedgerError(f"rows of {table} belong in a transaction", "write them inside Ledger.transaction")
        own = [i for i, (name, _) in enumerate(schema.TABLES[table]) if name not in chain.OF_LOG]
        self._entry.add(table, [chain.pack_values([row[i] for i in own]) for row in rows])
        self._insert(table, rows)

    def _insert(self, table: str, rows: Sequence[DuckValues]) -> None:
        if rows:
            kinds = [kind.removesuffix(" null") for _, kind in schema.TABLES[table]]
            insert_columns(self._db, table, kinds, rows)

    def query(self, sql: str, values: Sequence[Any] | dict[str, Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a read-only statement."""
        return self._db.execute(sql, values).fetchall()

    def follow_chain(
        self,
        as_of_us: int | None = None,
        *,
        anchor: tuple[int, str] | None = None,
        progress: Callable[[int], None] = lambda _: None,
    ) -> Head:
        """Every transaction known at T against its digest: see audit.follow_chain. Returns where the chain ends."""
        return follow_chain(self._db, self.as_of(as_of_us), anchor=anchor, progress=progress)

    def copy_to(self, path: Path) -> None:
        """Write what the ledger holds now into a new file; other connections may write meanwhile."""
        name = self.query("select current_database()")[0][0].replace('"', '""')
        where = str(path).replace("'", "''")
        self._db.execute(f"attach '{where}' as copied (storage_version '{STORAGE}')")
        try:
            self._db.execute(f'copy from database "{name}" to copied')
        finally:
            self._db.execute("detach copied")

    def checkpoint(self) -> None:
        """Bring what is in the write-ahead log into the file itself."""
        self._db.execute("checkpoint")

    def execute(self, sql: str, values: Sequence[Any] = ()) -> None:
        """A statement that writes: views of the lake, rows that leave the file for it, tables for one question."""
        self._db.execute(sql, values)

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A reader of its own, for another thread or beside a transaction; its caller closes it."""
        assert not isinstance(self._db, RemoteConnection)
        return self._db.cursor()

    def latest_known_us(self) -> int:
        """known_at_us of the newest transaction: the as-of time that sees everything."""
        return self._last()[1]

    # -- reading

    def runs(self, as_of_us: int | None = None, *, study: str | None = None) -> list[Run]:
        """The newest version of every run, by start and id; of a run on several machines, theirs as one."""
        where = "" if study is None else "where study = $study"
        return self._newest_runs(where, as_of_us, {} if study is None else {"study": study})

    def run(self, run_id: str, as_of_us: int | None = None) -> Run | None:
        """The newest version of a run, None when the ledger does not know it."""
        found = as_one(self.parts(run_id, as_of_us))
        return found[0] if found else None

    def parts(self, run_id: str, as_of_us: int | None = None) -> list[Run]:
        """The newest version of the run by each machine that it was on, by start and machine."""
        return self._newest_versions("where run_id = $run_id", as_of_us, {"run_id": run_id})

    def children(self, run_id: str, as_of_us: int | None = None) -> list[Run]:
        """Runs that name this one as their parent, by start and id."""
        return self._newest_runs("where parent_run_id = $parent", as_of_us, {"parent": run_id})

    def finished_at_us(self, run_id: str, as_of_us: int | None = None) -> int | None:
        """known_at_us since when the ledger knows the run to have ended on every machine that it was on.

        Its first price can be no older. None while it does not.
        """
        ends = self.query(
            "select min(known_at_us) filter (where status <> 'running') from run"
            " where run_id = ? and known_at_us <= ? group by machine_id",
            [run_id, self.as_of(as_of_us)],
        )
        found: list[int | None] = [end for (end,) in ends]
        return None if not found or None in found else max(end for end in found if end is not None)

    def measurements(
        self,
        as_of_us: int | None = None,
        *,
        run_ids: Sequence[str] | None = None,
        overlapping: Sequence[Run] | None = None,
    ) -> list[Measurement]:
        """What counts of the measurements known at T, late marks applied, in order of start, machine and device.

        run_ids: only those with a share of one of these runs.  overlapping: also those of these runs'
        machines within their spans, whoever drew them.  Neither: the whole book.
        Raises LedgerError naming the row when the shares of any measurement in the book, asked for or
        not, do not sum to it (law 1): a share that is gone would otherwise hide its measurement.
        """
        as_of = self.as_of(as_of_us)
        self._check_sums(as_of)
        self._pick(as_of, run_ids, overlapping)
        if run_ids is not None or overlapping is not None:
            self._refuse_retired()
        hidden = self._shadowed(as_of)
        shares = self._picked_shares()
        moves = self._picked_moves(as_of)
        found = []
        for txn, seq, *values in self.query(_PICKED):
            measurement = columns.measurement_from(values, shares.get((txn, seq), ()))
            if (txn, seq) not in hidden:
                moved = moves.get((txn, seq))
                found.append(with_moves(measurement, moved) if moved else measurement)
        return found

    def corrections(self, as_of_us: int | None = None) -> tuple[set[RowName], list[Measurement]]:
        """What a sum over the stored shares known at T leaves out, and what it takes in their place.

        Left out are measurements that a better look hides (law 2), and those that late marks changed; the latter, as
        they count, take their place. Few, so that all the others can be summed where they are stored.
        """
        as_of = self.as_of(as_of_us)
        several = self.query(_LOOKED_AT_TWICE)
        marked = self.query(_MARKED_LATE, [as_of])
        if not several and not marked:
            return set(), []
        self.table("several", (("machine_id", "varchar"), ("device_id", "varchar")), several)
        self.table("marked", _MARKED, marked)
        self._db.execute("create or replace temp table picked as " + _PICK_CORRECTED, {"as_of": as_of})
        hidden = self._shadowed(as_of) if several else set()
        shares, moves = self._picked_shares(), self._picked_moves(as_of)
        changed = []
        for txn, seq, *values in self.query(_PICKED):
            if (txn, seq) in moves and (txn, seq) not in hidden:
                measurement = columns.measurement_from(values, shares.get((txn, seq), ()))
                changed.append(with_moves(measurement, moves[txn, seq]))
        return hidden | moves.keys(), changed

    def shadowed_count(
        self,
        as_of_us: int | None = None,
        *,
        run_ids: Sequence[str] | None = None,
        overlapping: Sequence[Run] | None = None,
    ) -> int:
        """How many measurements, picked as in ``measurements``, a better look at the same device hides (law 2)."""
        as_of = self.as_of(as_of_us)
        self._pick(as_of, run_ids, overlapping)
        picked = {(txn, seq) for txn, seq in self.query("select txn, seq from picked")}
        return len(picked & self._shadowed(as_of))

    def marks(self, run_ids: Sequence[str], as_of_us: int | None = None) -> list[Mark]:
        """The runs' marks in order of time; a mark that was delivered under two places counts once."""
        rows = self.query(
            f"""select {_names(schema.MARK)} from (
                select *, row_number() over (
                    partition by run_id, machine_id, boot_id, pid, kind, at_ns, n order by txn, seq) as copy
                from mark where known_at_us <= $as_of and run_id in (select unnest($runs::varchar[]))
            ) as m where copy = 1 order by at_us, machine_id, boot_id, at_ns, pid, n, kind, run_id""",  # noqa: S608
            {"as_of": self.as_of(as_of_us), "runs": list(run_ids)},
        )
        return [columns.mark_from(row) for row in rows]

    def factors(
        self, as_of_us: int | None = None, *, zone: str | None = None, series: SeriesKey | None = None
    ) -> list[Factor]:
        """Factors known at T, superseded ones included, by series, period and transaction."""
        return read_factors(self, as_of_us, zone=zone, series=series)

    def sites(self, as_of_us: int | None = None) -> list[Site]:
        """The newest version of every site known at T, by id."""
        return read_sites(self, as_of_us)

    def site_of(self, machine_id: str, at_us: int, as_of_us: int | None = None) -> Site:
        """Where a machine stood at a moment, as known at T; ``local`` when nobody said."""
        return read_site_of(self, machine_id, at_us, as_of_us)

    def quarantined(self, as_of_us: int | None = None) -> list[tuple[str, str, int, str, str]]:
        """Refused rows: (agent_id, incarnation, seq, kind, reason), in order of arrival."""
        rows = self.query(
            "select agent_id, incarnation, seq, kind, reason from quarantine where known_at_us <= ? order by txn, seq",
            [self.as_of(as_of_us)],
        )
        return [(agent, incarnation, seq, kind, reason) for agent, incarnation, seq, kind, reason in rows]

    def gaps(self, as_of_us: int | None = None) -> list[tuple[str, str, int, int]]:
        """Places that never arrived when later ones did: (agent_id, incarnation, first seq, last seq)."""
        rows = self.query(
            "select agent_id, incarnation, gap_from, gap_to from log where gap_from is not null and known_at_us <= ?"
            " order by txn",
            [self.as_of(as_of_us)],
        )
        return [(agent, incarnation, first, last) for agent, incarnation, first, last in rows]

    def as_of(self, as_of_us: int | None) -> int:
        """T, or the newest known time when none is asked for.

        Raises BadInput on a T that has not passed: what will be known by then could still come, and the
        same T would give another answer (law 5).
        """
        if as_of_us is None:
            return self.latest_known_us()
        if as_of_us >= self._clock() and as_of_us > self.latest_known_us():
            raise BadInput(
                f"the as-of time {_iso(as_of_us)} has not passed yet", "give an earlier one, or leave it out"
            )
        return as_of_us

    def table(self, name: str, kinds: Sequence[tuple[str, str]], rows: Sequence[DuckValues]) -> None:
        """A temporary table for one statement, outside the file. kinds: (column, type) each."""
        body = ", ".join(f"{column} {kind}" for column, kind in kinds)
        self._db.execute(f"create or replace temp table {name} ({body})")
        if rows:
            insert_columns(self._db, name, [kind for _, kind in kinds], rows)

    # -- inside

    def _checked(self) -> Ledger:
        """This ledger of another process, when it is of the schema that is known here."""
        try:
            version = self.query("select max(version) from schema_version")[0][0]
            if version != schema.VERSION:
                raise LedgerError(
                    f"the collector that has {self.path} is of ledger schema {version}, this is {schema.VERSION}",
                    "run the same joulebook for both",
                )
        except BaseException:
            self.close()
            raise
        return self

    def _bring_up_to_date(self) -> None:
        self._db.execute("create table if not exists schema_version (version bigint not null)")
        version = self.query("select coalesce(max(version), 0) from schema_version")[0][0]
        for step, statements in enumerate(schema.MIGRATIONS[version:], start=version + 1):
            self._db.execute("begin transaction")
            if step == schema.CHAINED:
                check_fingerprints(self._db)
            for statement in statements:
                self._db.execute(statement)
            if step == schema.CHAINED:
                link_past(self._db)
            self._db.execute("insert into schema_version values (?)", [step])
            self._db.execute("commit")
        bring_shipped(self)
        attach_lake(self)

    def _last(self) -> tuple[int, int]:
        txn, known = self.query("select coalesce(max(txn), 0), coalesce(max(known_at_us), 0) from log")[0]
        return txn, known

    def _newest_runs(self, where: str, as_of_us: int | None, values: dict[str, Any]) -> list[Run]:
        found = as_one(self._newest_versions(where, as_of_us, values))
        study, parent = values.get("study"), values.get("parent")
        return [
            run
            for run in found
            if (study is None or run.labels.study == study) and (parent is None or run.labels.parent_run_id == parent)
        ]

    def _newest_versions(self, where: str, as_of_us: int | None, values: dict[str, Any]) -> list[Run]:
        """One per run and machine. where: which runs are asked for, by any of their versions."""
        # Within an incarnation seq tells what is newer, whatever the order of arrival; across them, arrival does.
        rows = self.query(
            f"""select {_names(schema.RUN)} from (
                select *, row_number() over (partition by run_id, machine_id order by txn desc, seq desc) as age from (
                    select *, row_number() over (
                        partition by run_id, machine_id, agent_id, incarnation order by seq desc) as own_age
                    from run where known_at_us <= $as_of
                ) as version where own_age = 1
            ) as r where age = 1 and run_id in (select run_id from run {where})
            order by started_at_us, machine_id, run_id""",  # noqa: S608
            {"as_of": self.as_of(as_of_us), **values},
        )
        return [columns.run_from(row) for row in rows]

    def _check_sums(self, as_of: int) -> None:
        broken = self.query(_BROKEN_SUMS, {"as_of": as_of})
        if broken:
            device, machine, at_us, energy, shares = broken[0]
            raise LedgerError(
                f"the shares of {device} on {machine} at {at_us} us sum to {shares} mJ, its measurement is {energy} mJ",
                "restore the ledger from a backup: a row was altered after it was written",
            )

    def _pick(self, as_of: int, run_ids: Sequence[str] | None, overlapping: Sequence[Run] | None) -> None:
        """The temporary table ``picked``: (txn, seq) of the measurements that a reader asked for."""
        self.table("wanted_run", [("run_id", "varchar")], [(run,) for run in _wanted_ids(run_ids, overlapping)])
        self.table("wanted_span", _SPAN, [_span(run) for run in overlapping or ()])
        whole = run_ids is None and overlapping is None
        self._db.execute(
            "create or replace temp table picked as " + (_PICK_ALL if whole else _PICK_WANTED), {"as_of": as_of}
        )

    def _refuse_retired(self) -> None:
        """Of runs that are wanted, a part is merged by minute: the rest would look like all of it."""
        merged = self.query(_RETIRED)
        if merged:
            raise LedgerError(
                f"run {merged[0][0]} has energy in hours whose rows are retired",
                "price the fleet's techniques for those hours; reports of runs need rows",
            )

    def _picked_shares(self) -> dict[RowName, list[tuple[Any, ...]]]:
        names = _names(schema.SHARE, "s.")
        rows = self.query(
            f"select s.txn, s.seq, {names} from share as s join picked as p on p.txn = s.txn and p.seq = s.seq"  # noqa: S608
            " order by s.txn, s.seq, s.ordinal"
        )
        shares: dict[RowName, list[tuple[Any, ...]]] = defaultdict(list)
        for row in rows:
            shares[row[:2]].append(row[2:])
        return shares

    def _picked_moves(self, as_of: int) -> dict[RowName, list[Reassignment]]:
        rows = self.query(
            f"""select m.txn, m.seq, {_names(schema.REASSIGNMENT, "r.")} from reassignment as r
            join measurement as m on m.agent_id = r.agent_id and m.incarnation = r.of_incarnation and m.seq = r.of_seq
            join picked as p on p.txn = m.txn and p.seq = m.seq
            where r.known_at_us <= $as_of order by r.incarnation = r.of_incarnation desc, r.incarnation, r.seq""",  # noqa: S608
            {"as_of": as_of},
        )
        moves: dict[RowName, list[Reassignment]] = defaultdict(list)
        for row in rows:
            moves[row[:2]].append(columns.reassignment_from(row[2:]))
        return moves

    def _shadowed(self, as_of: int) -> set[RowName]:
        rows = self.query(_SEVERAL_LOOKS, {"as_of": as_of})
        return shadowed(
            Look((txn, seq), (machine, device), boot, (us0, us1), (ns0, ns1), method, common, indep, agent, meter)
            for txn, seq, machine, device, boot, us0, us1, ns0, ns1, method, common, indep, agent, meter in rows
        )


def _iso(at_us: int) -> str:
    """UTC microseconds as ISO 8601; as a number where no calendar reaches."""
    try:
        return f"{datetime.fromtimestamp(at_us // 1_000_000, tz=UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, OverflowError, OSError):
        return f"{at_us} us"


def _nobody(_: Path) -> RemoteConnection | None:
    """Where the file itself is wanted, its owner is not asked."""
    return None


def _connect(path: Path) -> duckdb.DuckDBPyConnection:
    try:
        if path.exists():
            _refuse_newer(path)
        db = duckdb.connect(str(path), config={"storage_compatibility_version": STORAGE})
        db.execute(f"set wal_autocheckpoint = '{CHECKPOINT}'")
        return db
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise LedgerError(
            f"cannot open {path}: {reason}", "close other programs that have it, or restore it from a backup"
        ) from error


def _refuse_newer(path: Path) -> None:
    with duckdb.connect(str(path), read_only=True) as db:
        known = db.execute("select 1 from duckdb_tables() where table_name = 'schema_version'").fetchall()
        version = db.execute("select max(version) from schema_version").fetchall()[0][0] if known else 0
    if version is not None and version > schema.VERSION:
        raise LedgerError(
            f"{path} is of ledger schema {version}, this joulebook knows up to {schema.VERSION}",
            "upgrade joulebook; the ledger was not touched",
        )


def insert_columns(db: Connection, table: str, kinds: Sequence[str], rows: Sequence[DuckValues]) -> None:
    """Insert by column, as one JSON text: hundreds of times faster than row after row, and exact.

    Lists as parameters are as fast on DuckDB 2 and 300 times slower on 1.5.
    """
    by_name = {f"c{i}": column for i, column in enumerate(zip(*rows, strict=True))}
    shape = json.dumps({f"c{i}": [kind.upper()] for i, kind in enumerate(kinds)})
    picks = ", ".join(f"unnest(j.{name})" for name in by_name)
    text = columns.as_text(by_name)
    db.execute(f"insert into {table} select {picks} from (select from_json(?::json, '{shape}') as j) as t", [text])  # noqa: S608


def _names(kinds: Sequence[tuple[str, str]], prefix: str = "") -> str:
    return ", ".join(f"{prefix}{name}" for name, _ in kinds)


def _wanted_ids(run_ids: Sequence[str] | None, overlapping: Sequence[Run] | None) -> list[str]:
    return sorted({*(run_ids or ()), *(run.run_id for run in overlapping or ())})


def _span(run: Run) -> tuple[str, str, int, int]:
    ended_ns = columns.BIGINT_MAX if run.ended_ns is None else run.ended_ns
    return (run.machine_id, run.boot_id, run.started_ns, ended_ns)


_SPAN: Final = (("machine_id", "varchar"), ("boot_id", "varchar"), ("from_ns", "bigint"), ("to_ns", "bigint"))

_PICK_ALL: Final = "select txn, seq from measurement where known_at_us <= $as_of"

_PICK_WANTED: Final = """
select m.txn, m.seq from measurement as m
join (select distinct s.txn, s.seq from share as s where s.run_id in (select run_id from wanted_run)) as own
  on own.txn = m.txn and own.seq = m.seq
where m.known_at_us <= $as_of
union
select m.txn, m.seq from measurement as m
join reassignment as r on m.agent_id = r.agent_id and m.incarnation = r.of_incarnation and m.seq = r.of_seq
where m.known_at_us <= $as_of and r.known_at_us <= $as_of and r.to_run_id in (select run_id from wanted_run)
union
select m.txn, m.seq from measurement as m
join wanted_span as w on m.machine_id = w.machine_id and m.boot_id = w.boot_id
where m.known_at_us <= $as_of and m.started_ns < w.to_ns and m.ended_ns > w.from_ns
"""

_RETIRED: Final = (
    "select run_id from sealed_minute where run_id in (select run_id from wanted_run) order by run_id limit 1"
)

_LOOKED_AT_TWICE: Final = """
select machine_id, device_id from seen_device group by machine_id, device_id
having count(distinct agent_id) > 1 or count(distinct meter) > 1 order by machine_id, device_id
"""
_MARKED_LATE: Final = """
select distinct agent_id, of_incarnation, of_seq from reassignment where known_at_us <= ?
order by agent_id, of_incarnation, of_seq
"""
_MARKED: Final = (("agent_id", "varchar"), ("incarnation", "varchar"), ("seq", "bigint"))

_PICK_CORRECTED: Final = """
select m.txn, m.seq from measurement as m
join several as d on d.machine_id = m.machine_id and d.device_id = m.device_id
where m.known_at_us <= $as_of
union
select m.txn, m.seq from measurement as m
join marked as r on m.agent_id = r.agent_id and m.incarnation = r.incarnation and m.seq = r.seq
where m.known_at_us <= $as_of
"""
"""Measurements that may not count as they are stored: of devices with several looks, and what late marks name."""

_BROKEN_SUMS: Final = """
select m.device_id, m.machine_id, m.started_at_us, m.energy_millijoules, coalesce(s.millijoules, 0) as millijoules
from measurement as m
left join (select txn, seq, sum(millijoules) as millijoules from share group by txn, seq) as s
  on s.txn = m.txn and s.seq = m.seq
where m.known_at_us <= $as_of and m.energy_millijoules <> coalesce(s.millijoules, 0)
order by m.txn, m.seq limit 1
"""
"""Law 1 over the whole book: shares against the separately stored measurement."""

_PICKED: Final = f"""
select m.txn, m.seq, {_names(schema.MEASUREMENT, "m.")} from measurement as m
join picked as p on p.txn = m.txn and p.seq = m.seq
order by m.started_at_us, m.machine_id, m.device_id, m.started_ns, m.boot_id, m.meter, m.agent_id, m.incarnation, m.seq
"""  # noqa: S608

_SEVERAL_LOOKS: Final = """
select m.txn, m.seq, m.machine_id, m.device_id, m.boot_id, m.started_at_us, m.ended_at_us, m.started_ns, m.ended_ns,
    m.method, m.u_common, m.u_indep, m.agent_id, m.meter
from measurement as m
join (
    select d.machine_id, d.device_id from measurement as d
    join (
        select distinct n.machine_id, n.device_id from measurement as n
        join picked as p on p.txn = n.txn and p.seq = n.seq
    ) as near on near.machine_id = d.machine_id and near.device_id = d.device_id
    where d.known_at_us <= $as_of
    group by d.machine_id, d.device_id
    having count(distinct d.agent_id) > 1 or count(distinct d.meter) > 1
) as several on several.machine_id = m.machine_id and several.device_id = m.device_id
where m.known_at_us <= $as_of
"""
"""The looks at those picked devices that more than one meter or agent has looked at."""
