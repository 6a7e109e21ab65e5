"""``joulebook ledger``: every corruption is found and named; a copy is whole or not there."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner
from joulebook.cli import cli
from joulebook.errors import BadInput, JoulebookError, LedgerError
from joulebook.home import Home
from joulebook.rows import Mark, Reassignment, Share, ShareKind, Weights
from joulebook_collector.backup import back_up, restore
from joulebook_collector.conservation import verify
from joulebook_collector.factors import NewFactor, add_factors
from joulebook_collector.ledger import Ledger
from joulebook_collector.priced import SeriesKey
from joulebook_collector.sites import assign
from joulebook_collector.structure import check_structure
from joulebook_collector.testing import START_US, a_batch, a_measurement, a_run

INGESTED = "(select min(txn) from log where action = 'ingest')"
HOUR_US = 3_600_000_000


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("JOULEBOOK_HOME", str(tmp_path))
    home = Home(tmp_path).make()
    measured = [a_measurement(i, i + 1, 1000 + i, "r1", 600) for i in range(6)]
    late = Share(ShareKind.RUN, 0, measured[0].shares[1].policy, "r1", "eval", weights=Weights(cpu_seconds=0.25))
    mark = Mark("r1", "m1", "b1", 7, "log", START_US, 5, 6, 1, samples=3)
    with Ledger.open(home.ledger) as book:
        book.ingest(a_batch([*measured, a_run(), mark, Reassignment("inc-1", 1, 40, measured[0].shares[1], late)]))
        book.ingest(a_batch([a_measurement(50, 51, 7), a_measurement(50, 52, 8)], first=12))
        book.ingest(a_batch([a_measurement(60, 61, 9, device_id="GPU-2")], agent_id="agent-2", incarnation="inc-2"))
        hour = NewFactor(SeriesKey("DE"), START_US, START_US + HOUR_US, 300.0, "a grid", 0.1)
        add_factors(book, [hour], "test")
        assign(book, "m1", "local", START_US)
    return home


@dataclass
class Told:
    """What the command line answered. output: both streams, and the words of its error."""

    exit_code: int
    stdout: str
    output: str


def told(*words):
    done = CliRunner().invoke(cli, ["ledger", *map(str, words)])
    error = done.exception
    if isinstance(error, JoulebookError):
        return Told(error.exit_status, done.stdout, f"{done.output}\n{error.cause}")
    assert error is None or isinstance(error, SystemExit), repr(error)
    return Told(done.exit_code, done.stdout, done.output)


def test_a_whole_book_is_told_with_its_head(home):
    done = told("verify", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["measurements"], found["quarantined"], found["missing_rows"]) == (8, 1, 2)
    assert (found["measured_joules"], found["transactions"]) == (6.031, 6)
    assert told("verify", "--anchor", found["head"]).exit_code == 0
    assert told("verify", "--anchor", found["head"][:12]).exit_code == 0
    assert "transactions" in told("verify").stdout
    stats = json.loads(told("stats", "--json").stdout)
    assert (stats["rows"]["measurement"], stats["rows"]["share"], stats["transactions"]) == (8, 16, 6)


@pytest.mark.parametrize("anchor", ["6", "six:0123456789", "6:0123", "6:xyzxyzxyz"])
def test_what_is_no_anchor_is_refused(home, anchor):
    assert told("verify", "--anchor", anchor).exit_code == 2


SEEDED = {
    "edited energy": (
        "update measurement_row set energy_millijoules = energy_millijoules + 1 where seq = 3",
        "measurement 3 of transaction 2",
    ),
    "edited energy that still adds up": (
        "update measurement_row set energy_millijoules = energy_millijoules + 1 where seq = 3;"
        "update share_row set millijoules = millijoules + 1 where seq = 3 and ordinal = 0",
        "measurement 3 of transaction 2",
    ),
    "edited share": ("update share_row set cpu_seconds = 2 where seq = 4 and ordinal = 0", "measurement 4 of"),
    "edited name": ("update look set device_id = 'GPU-9' where device_id = 'GPU-2'", "measurement 1 of transaction 4"),
    "deleted row": ("delete from measurement_row where seq = 6; delete from share_row where seq = 6", "is gone"),
    "deleted share": ("delete from share_row where seq = 6 and ordinal = 1", "measurement 6 of transaction 2"),
    "inserted row": (
        "insert into measurement_row select * replace (99 as seq, 9000000000000 as started_ns,"
        " 9000000000001 as ended_ns) from measurement_row where seq = 2",
        "measurement 99 of transaction 2",
    ),
    "doubled batch": (
        f"insert into measurement_row select * from measurement_row where txn = {INGESTED};"
        f"insert into share_row select * from share_row where txn = {INGESTED}",
        "transaction 2",
    ),
    "doubled transaction": (
        "insert into log select * replace (7 as txn, known_at_us + 1000000000 as known_at_us) from log where txn = 4",
        "digest of transaction 7 is gone",
    ),
    "moved high-water mark": ("update log set high_water = 500 where txn = 3", "the line of transaction 3 in the log"),
    "closed gap": ("update log set gap_from = null, gap_to = null where txn = 3", "the line of transaction 3"),
    "edited factor": (
        "update factor set g_per_kwh = 3 where source = 'a grid'",
        "the factor 0 DE of transaction 5",
    ),
    "edited site": ("update site set pue = 1.0", "the site local"),
    "edited assignment": ("update site_assignment set from_us = from_us + 1", "the site assignment m1 local"),
    "edited quarantine": (
        "update quarantine set body = replace(body, '52', '53')",
        "the refused measurement 13 of transaction 3",
    ),
    "edited mark": ("update mark set samples = 4", "mark 8 of transaction 2"),
    "edited run": ("update run set status = 'failed'", "run 7 of transaction 2"),
    "edited late mark": ("update reassignment set millijoules = 41", "reassignment 9 of transaction 2"),
    "another's rows": ("update measurement_row set stream = 1 where txn = 4", "another sender or moment than the log"),
    "known earlier": ("update measurement_row set known_at_us = 7 where txn = 4", "another sender or moment"),
    "exchanged transactions": (
        "update log set txn = 7 - txn where txn in (3, 4);"
        "update measurement_row set txn = 7 - txn where txn in (3, 4);"
        "update share_row set txn = 7 - txn where txn in (3, 4); update quarantine set txn = 7 - txn where txn = 3;"
        "update chain set txn = 7 - txn where txn in (3, 4)",
        "transaction 3",
    ),
    "transaction taken out": (
        "delete from log where txn = 4; delete from measurement_row where txn = 4;"
        "delete from share_row where txn = 4; delete from chain where txn = 4",
        "transaction 4 is gone",
    ),
    "log without its end": ("delete from log where txn = 6; delete from site_assignment", "its digest is not"),
    "chain without its end": ("delete from chain where txn = 6", "digest of transaction 6 is gone"),
    "edited digest": ("update chain set digest = '\\x00'::blob where txn = 3", "transaction 3"),
}


@pytest.mark.parametrize("what", SEEDED)
def test_a_seeded_corruption_is_found_and_named(home, what):
    sql, named = SEEDED[what]
    with duckdb.connect(str(home.ledger)) as db:
        for statement in sql.split(";"):
            db.execute(statement)
    done = told("verify")
    assert done.exit_code == 1, done.output
    assert named in done.output


LAWLESS = {
    1: "delete from measurement_row where seq = 6",
    2: "update measurement_row set started_ns = started_ns - 1 where seq = 3",
    3: "update log set high_water = 500 where txn = 3",
    5: "update log set known_at_us = known_at_us - 1000000000 where txn = 4",
}


@pytest.mark.parametrize("law", LAWLESS)
def test_each_law_is_checked_by_itself_too(home, law):
    with Ledger.open(home.ledger) as book:
        check_structure(book)
    with duckdb.connect(str(home.ledger)) as db:
        db.execute(LAWLESS[law])
    with Ledger.open(home.ledger) as book, pytest.raises(LedgerError, match=f"law {law}"):
        check_structure(book)


def test_only_a_noted_digest_shows_that_the_end_is_gone(home):
    head = json.loads(told("verify", "--json").stdout)["head"]
    with duckdb.connect(str(home.ledger)) as db:
        for table in ("log", "chain", "site_assignment"):
            db.execute(f"delete from {table} where txn = 6")
    assert told("verify").exit_code == 0
    done = told("verify", "--anchor", head)
    assert done.exit_code == 1
    assert "transaction 6, which was noted, is gone" in done.output


def test_only_a_noted_digest_shows_a_book_written_anew(home, tmp_path):
    head = json.loads(told("verify", "--json").stdout)["head"]
    home.ledger.unlink()
    with Ledger.open(home.ledger) as book:
        for i in range(6):
            book.ingest(a_batch([a_measurement(i, i + 1)], first=i + 1))
    assert told("verify").exit_code == 0
    assert "is not the one that was noted" in told("verify", "--anchor", head).output


def test_a_flipped_bit_in_the_file_is_found(home):
    told("verify")
    size = home.ledger.stat().st_size
    text = home.ledger.read_bytes()
    at = text.rindex(b"agent-2")
    assert 0 < at < size
    with home.ledger.open("r+b") as file:
        file.seek(at)
        file.write(bytes([text[at] ^ 1]))
    done = told("verify")
    assert done.exit_code == 1


def test_a_backup_is_the_ledger_and_replaces_nothing(home, tmp_path):
    done = told("backup", tmp_path, "--json")
    assert done.exit_code == 0, done.output
    copy = json.loads(done.stdout)
    assert copy["file"].endswith("ledger-000000006.duckdb")
    assert copy["head"] == json.loads(told("verify", "--json").stdout)["head"]
    assert told("backup", copy["file"]).exit_code == 2
    assert told("backup", tmp_path / "no" / "where").exit_code == 2
    with Ledger.open(home.ledger) as book, Ledger.open(Path(copy["file"])) as other:
        assert other.measurements() == book.measurements()
        assert other.quarantined() == book.quarantined()
        assert verify(other) == verify(book)


def test_a_restored_backup_is_written_on_and_what_came_after_it_is_missing(home, tmp_path):
    backup = tmp_path / "b.duckdb"
    assert told("backup", backup).exit_code == 0
    with Ledger.open(home.ledger) as book:
        book.ingest(a_batch([a_measurement(70, 71)], first=14))
    assert told("restore", backup).exit_code == 2
    done = told("restore", backup, "--replace", "--json")
    assert done.exit_code == 0, done.output
    assert Path(json.loads(done.stdout)["moved_aside"]).exists()
    with Ledger.open(home.ledger) as book:
        book.ingest(a_batch([a_measurement(71, 72)], first=15))
        assert ("agent-1", "inc-1", 14, 14) in book.gaps()
        assert verify(book).measurements == 9


def test_a_damaged_backup_is_not_restored(home, tmp_path):
    backup = tmp_path / "b.duckdb"
    told("backup", backup)
    with duckdb.connect(str(backup)) as db:
        db.execute("update share_row set cpu_seconds = 5 where seq = 1")
    before = home.ledger.read_bytes()
    with pytest.raises(LedgerError, match="the copy is damaged: measurement 1"):
        restore(backup, home.ledger, replace=True)
    assert home.ledger.read_bytes() == before
    assert not list(tmp_path.glob("*.part*"))
    with pytest.raises(BadInput, match="is no file"):
        restore(tmp_path / "none", home.ledger)


WRITER = """
import sys
from pathlib import Path
from joulebook_collector.backup import back_up
from joulebook_collector.ledger import Ledger
from joulebook_collector.testing import a_batch, a_measurement
what, path = sys.argv[1], Path(sys.argv[2])
print("begun", flush=True)
with Ledger.open(path) as book:
    print("open", flush=True)
    if what == "ingest":
        seq = book.query("select coalesce(max(high_water), 0) from log")[0][0]
        while True:
            rows = [a_measurement(1000 + i, 1001 + i) for i in range(seq, seq + 200)]
            book.ingest_all([a_batch(rows[:120], first=seq + 1), a_batch(rows[120:], first=seq + 121)])
            seq += 200
            print(seq, flush=True)
    while what == "backup":
        back_up(book, path.with_name(f"{len(list(path.parent.iterdir()))}.copy"))
"""


def killed(what, path, after, wait_for="open"):
    """What a process said that is killed so many seconds after it has said that it is at it."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, what, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        said = []
        for line in process.stdout:
            said.append(line.strip())
            if said[-1] == wait_for:
                break
        time.sleep(after)
        os.kill(process.pid, signal.SIGKILL)
        said += process.stdout.read().split()
    return said


def test_a_kill_during_ingest_loses_nothing_acknowledged_and_breaks_no_link(tmp_path):
    path = tmp_path / "l.duckdb"
    for round_ in range(4):
        said = [int(word) for word in killed("ingest", path, 0.15 + 0.11 * round_) if word.isdecimal()]
        with Ledger.open(path) as book:
            held = verify(book).measurements
            check_structure(book)
        assert held % 200 == 0
        assert held >= max(said, default=0)


def test_a_kill_during_a_backup_leaves_no_copy_that_is_not_whole(tmp_path):
    path = tmp_path / "l.duckdb"
    with Ledger.open(path) as book:
        book.ingest(a_batch([a_measurement(i, i + 1) for i in range(400)]))
    for round_ in range(4):
        killed("backup", path, 0.05 + 0.13 * round_)
    for copy in tmp_path.glob("*.copy"):
        with Ledger.open(copy) as other:
            assert verify(other).measurements == 400
    with Ledger.open(path) as book:
        assert back_up(book, tmp_path / "last.duckdb").head == book.follow_chain()


def test_a_kill_during_migration_leaves_a_ledger_that_is_migrated_when_next_opened(tmp_path):
    first = (Path(__file__).parents[2] / "fixtures" / "ledger-1.sql").read_text()
    heads = set()
    for round_ in range(5):
        path = tmp_path / f"{round_}.duckdb"
        with duckdb.connect(str(path), config={"storage_compatibility_version": "v1.5.0"}) as db:
            db.execute(first)
        killed("open", path, 0.02 * round_ if round_ else 0, "begun")
        with Ledger.open(path) as book:
            check_structure(book)
            heads.add(book.query("select digest from chain order by txn limit 1 offset 2")[0][0])
            assert verify(book).measurements == 3
    assert len(heads) == 1
