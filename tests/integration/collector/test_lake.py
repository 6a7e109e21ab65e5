"""The lake with real files and processes: kills at any moment, and what is found when a file is not what it was."""

import json
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import msgspec
import pytest
from click.testing import CliRunner
from joulebook.errors import BadInput, LedgerError
from joulebook.units import US_PER_HOUR
from joulebook_collector.backup import back_up, restore
from joulebook_collector.lake.check import check_lake
from joulebook_collector.lake.cli import lake as verb
from joulebook_collector.lake.compact import clear, compact, retire
from joulebook_collector.lake.lake import CURRENT, Lake
from joulebook_collector.lake.manifest import decode, encode, path_of
from joulebook_collector.lake.seal import closed_hours, prepare_seal, seal
from joulebook_collector.ledger import Ledger
from joulebook_collector.ledger_cli import ledger as ledger_verb
from joulebook_collector.pricing_fleet import price_fleet
from joulebook_collector.sites import add_site
from joulebook_collector.testing import SECOND_US, START_US, a_batch, a_measurement, a_run

LATER_US = START_US + 40 * US_PER_HOUR
OPEN = {"patience_us": -US_PER_HOUR}
"""No agent that was heard keeps an hour open."""

BUSY = """
import random, sys
from pathlib import Path
from joulebook.units import US_PER_HOUR
from joulebook_collector.lake.compact import clear, compact
from joulebook_collector.lake.lake import Lake
from joulebook_collector.lake.seal import seal
from joulebook_collector.ledger import Ledger
from joulebook_collector.testing import START_US, a_batch, a_measurement

path, first = Path(sys.argv[1]), int(sys.argv[2])
with Ledger.open(path) as ledger:
    while True:
        rows = [a_measurement(60 * i, 60 * i + 60, 1000 + i) for i in range(first - 1, first + 39)]
        ledger.ingest(a_batch(rows, first=first))
        first += 40
        print(first - 1, flush=True)
        seal(Lake(ledger), START_US + 400 * US_PER_HOUR, patience_us=-US_PER_HOUR)
        if random.random() < 0.5:
            compact(Lake(ledger))
            clear(Lake(ledger), kept_versions=1)
"""


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(tmp_path / "ledger.duckdb", clock=lambda: LATER_US) as opened:
        yield opened


def rows(first, last):
    """Measurements of a minute each, numbered as their seq, 60 to an hour."""
    return [a_measurement(60 * i, 60 * i + 60, 1000 + i) for i in range(first - 1, last)]


def test_killed_at_any_moment_every_row_that_was_taken_is_there_once(tmp_path):
    path, taken = tmp_path / "ledger.duckdb", 0
    chance = random.Random(7)
    for _ in range(8):
        busy = subprocess.Popen(
            [sys.executable, "-c", BUSY, str(path), str(taken + 1)], stdout=subprocess.PIPE, text=True
        )
        assert busy.stdout is not None
        taken = int(busy.stdout.readline())
        time.sleep(chance.uniform(0, 0.6))
        busy.kill()
        taken = int(([taken, *busy.stdout.read().split()])[-1])
        busy.wait()
        busy.stdout.close()
        with Ledger.open(path) as book:
            seqs = [seq for (seq,) in book.query("select seq from measurement order by seq")]
            assert seqs[:taken] == list(range(1, taken + 1))
            assert seqs == list(range(1, len(seqs) + 1)), "a batch is there whole, and once"
            taken = len(seqs)
            assert [m.energy_millijoules for m in book.measurements()] == [1000 + i for i in range(taken)]
            lake = Lake(book)
            assert check_lake(lake) == []
            lake.point()
            if lake.manifest.version:
                current = json.loads(lake.store.get(CURRENT))
                assert current == {"version": lake.manifest.version, "sha256": lake.current.sha256}
            clear(lake, kept_versions=0)
            files = {path for path in lake.store.list("") if path.endswith(".parquet")}
            assert files == {part.path for part in lake.manifest.parts}, "leftovers are cleared away"


def test_a_crash_before_the_commit_leaves_the_older_version_and_the_next_one_takes_another_number(ledger):
    ledger.ingest(a_batch(rows(1, 60)))
    lake = Lake(ledger)
    seal(lake, LATER_US, **OPEN)
    lake.store.put(path_of(2), b"{}")  # a manifest that no transaction names
    ledger.ingest(a_batch(rows(61, 120), first=61))
    again = Lake(ledger)
    assert again.manifest.version == 1
    seal(again, LATER_US, **OPEN)
    assert (again.manifest.version, again.manifest.previous) == (3, 1)
    assert check_lake(again) == []


def test_an_hour_waits_for_agents_that_were_heard_and_not_for_those_that_are_gone(tmp_path):
    clock = [START_US + 2 * US_PER_HOUR]
    with Ledger.open(tmp_path / "ledger.duckdb", clock=lambda: clock[0]) as ledger:
        ledger.ingest(a_batch(rows(1, 180)))
        behind = [replace(m, machine_id="m2") for m in rows(1, 30)]
        ledger.ingest(a_batch(behind, agent_id="agent-2", incarnation="inc-2"))
        at = START_US + 2 * US_PER_HOUR + 600 * SECOND_US
        (through,) = ledger.query("select max(txn) from log")[0]
        with ledger.cursor() as db:
            assert closed_hours(db, through, at) == []
            assert closed_hours(db, through, at, patience_us=60 * SECOND_US) == [START_US]
            assert closed_hours(db, through, at, grace_us=0, patience_us=0) == [START_US, START_US + US_PER_HOUR]


def test_rows_come_back_exactly_and_a_batch_that_is_sent_again_counts_once(ledger):
    odd = [
        a_measurement(0, 7, 3, note="as;it,is\"'", u_indep=1 / 3, coverage=1 / 7, idle_millijoules=2, boot_id=""),
        a_measurement(7, 9, 0, shares=()),
        a_measurement(9, 10, 5, run_millijoules=4, start_slack_millijoules=0, end_slack_millijoules=9),
    ]
    ledger.ingest(a_batch(odd))
    before = ledger.measurements()
    seal(Lake(ledger), LATER_US, **OPEN)
    assert ledger.measurements() == before == odd
    assert ledger.ingest(a_batch(odd)).duplicates == 3
    with pytest.raises(LedgerError, match="differs"):
        ledger.ingest(a_batch([replace(odd[0], note="another"), *odd[1:]]))


@pytest.fixture
def sealed(ledger):
    """A lake of two hours and a late file."""
    lake = Lake(ledger)
    for first, last in ((1, 120), (121, 150)):
        late = (
            [replace(m, device_id="GPU-late") for m in rows(first - 120, last - 120)]
            if first > 120
            else rows(first, last)
        )
        ledger.ingest(a_batch(late, first=first))
        seal(lake, LATER_US, **OPEN)
    assert len(lake.manifest.of_level("raw")) == 3
    return lake


def forged(lake, change):
    """The current manifest altered, and named by the ledger as if it had been written so."""
    manifest = change(lake.manifest)
    lake.commit(lake.write("seal", lake.next_version(), manifest.parts, lake.manifest.parts))


def test_files_that_are_missing_altered_doubled_or_miscounted_are_found(sealed):
    raw = sealed.manifest.of_level("raw")[0]
    content = sealed.store.get(raw.path)
    assert check_lake(sealed) == []
    sealed.store.put(raw.path, content[:-100] + bytes([content[-100] ^ 1]) + content[-99:])
    assert check_lake(sealed) == [f"{raw.path} differs from what was written"]
    sealed.store.remove(raw.path)
    assert check_lake(sealed) == [f"{raw.path} is missing"]
    sealed.store.put(raw.path, content)
    older = sealed.store.get(path_of(1))
    sealed.store.put(path_of(1), older.replace(b"raw", b"RAW", 1))
    assert check_lake(sealed) == [f"{path_of(1)} differs from what version 2 was made from"]
    sealed.store.put(path_of(1), older)
    assert check_lake(sealed) == []


def test_a_segment_that_is_listed_under_two_names_is_found(sealed):
    raw = sealed.manifest.of_level("raw")[0]
    twin = msgspec.structs.replace(raw, path=raw.path.replace("part-00000001", "part-00000009"))
    sealed.store.put(twin.path, sealed.store.get(raw.path))
    forged(sealed, lambda m: msgspec.structs.replace(m, parts=(*m.parts, twin)))
    wrong = "\n".join(check_lake(sealed))
    assert "hold the same rows" in wrong
    assert "is sealed 2 times" in wrong


def test_a_segment_that_the_manifest_lost_and_totals_that_it_changed_are_found(sealed):
    minutes = sealed.manifest.of_level("minute")
    forged(sealed, lambda m: msgspec.structs.replace(m, parts=tuple(p for p in m.parts if p.path != minutes[0].path)))
    assert any("has no file of level minute" in wrong for wrong in check_lake(sealed))
    more = msgspec.structs.replace(minutes[1], share_millijoules=minutes[1].share_millijoules + 1)
    forged(sealed, lambda m: msgspec.structs.replace(m, parts=tuple(more if p == minutes[1] else p for p in m.parts)))
    assert any("its manifest says" in wrong for wrong in check_lake(sealed))


def test_a_row_that_is_hot_and_sealed_is_found(ledger, sealed):
    ledger.ingest(a_batch(rows(151, 160), first=151))
    prepared = prepare_seal(sealed, LATER_US, **OPEN)
    sealed.commit(replace(prepared, deletes=()))
    assert any("is both hot and sealed" in wrong for wrong in check_lake(sealed))


def test_a_manifest_that_is_not_the_one_the_ledger_names_is_refused(ledger, sealed):
    text = sealed.store.get(path_of(2))
    sealed.store.put(path_of(2), text.replace(b'"version": 2', b'"version":  2'))
    with pytest.raises(LedgerError, match="differs from what was written"):
        Lake(ledger)
    sealed.store.remove(path_of(2))
    with pytest.raises(LedgerError, match="is missing"):
        Lake(ledger)


def test_the_home_may_move(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    with Ledger.open(old / "ledger.duckdb") as book:
        book.ingest(a_batch(rows(1, 60)))
        seal(Lake(book), LATER_US, **OPEN)
        before = book.measurements()
    old.rename(new)
    with Ledger.open(new / "ledger.duckdb") as book:
        assert book.measurements() == before


def test_a_backup_brings_what_is_sealed_and_a_restore_brings_it_back(tmp_path):
    home, shelf, other = (tmp_path / name for name in ("home", "shelf", "other"))
    for folder in (home, shelf, other):
        folder.mkdir()
    with Ledger.open(home / "ledger.duckdb") as book:
        book.ingest(a_batch(rows(1, 120)))
        seal(Lake(book), LATER_US, **OPEN)
        before, files = book.measurements(), len(Lake(book).manifest.parts)
        first = back_up(book, shelf)
        book.ingest(a_batch(rows(121, 130), first=121))
        second = back_up(book, shelf)
    shutil.rmtree(home / "lake")
    assert restore(first.path, other / "ledger.duckdb").head == first.head
    assert restore(second.path, home / "ledger.duckdb", replace=True).head == second.head
    for folder, more in ((other, 0), (home, 10)):
        with Ledger.open(folder / "ledger.duckdb") as book:
            assert book.measurements()[:120] == before
            assert len(book.measurements()) == 120 + more
            assert (check_lake(Lake(book)), len(Lake(book).manifest.parts)) == ([], files)


def test_a_sealed_file_that_was_altered_is_found_by_verify_and_no_backup_is_made(tmp_path, monkeypatch):
    (tmp_path / "shelf").mkdir()
    with Ledger.open(tmp_path / "ledger.duckdb") as book:
        book.ingest(a_batch(rows(1, 120)))
        lake = Lake(book)
        seal(lake, LATER_US, **OPEN)
        part = lake.manifest.of_level("raw")[0]
        lake.store.put(part.path, b"PAR1")
        with pytest.raises(LedgerError, match="missing or altered"):
            back_up(book, tmp_path / "shelf")
    monkeypatch.setenv("JOULEBOOK_HOME", str(tmp_path))
    assert CliRunner().invoke(ledger_verb, ["verify"]).exit_code != 0
    assert list((tmp_path / "shelf").glob("*.duckdb*")) == []


def test_only_files_of_a_lake_are_cleared_away(ledger, sealed):
    sealed.store.put("raw/notes.txt", b"mine")
    compact(sealed)
    gone = clear(sealed, kept_versions=0)
    assert len([path for path in gone if path.endswith(".parquet")]) == 6
    assert sealed.store.get("raw/notes.txt") == b"mine"
    assert check_lake(sealed) == []


def test_a_manifest_reads_back_as_it_was_written(sealed):
    text = sealed.store.get(path_of(2))
    assert encode(decode(text, "x").manifest) == text
    assert json.loads(text)["previous_sha256"] == decode(sealed.store.get(path_of(1)), "x").sha256


def test_a_run_whose_rows_are_retired_is_refused_and_others_are_reported(ledger, sealed):
    ledger.ingest(a_batch([a_measurement(7200, 7260, 9, "r2")], first=151))
    retire(sealed, START_US + US_PER_HOUR)
    with pytest.raises(LedgerError, match="r1 has energy in hours whose rows are retired"):
        ledger.measurements(run_ids=["r1"])
    assert len(ledger.measurements(run_ids=["r2"])) == 1


def add_a_site(home):
    with Ledger.open(home / "ledger.duckdb") as book:
        add_site(book, "local", pue=1.2, pue_source="test", zone="DE")


def test_what_shares_a_slot_with_a_row_that_does_not_count_keeps_its_rows(ledger):
    long, twice = a_measurement(50 * 60, 65 * 60, 9000), replace(a_measurement(61 * 60, 62 * 60, 500), device_id="b")
    ledger.ingest(a_batch([a_run("r1"), long, twice, *rows(200, 230)]))
    again = replace(twice, meter="another", u_common=0.5)
    ledger.ingest(a_batch([again], agent_id="agent-2", incarnation="inc-2"))
    lake = Lake(ledger)
    seal(lake, LATER_US, **OPEN)
    period = (START_US, START_US + 24 * US_PER_HOUR)
    before = price_fleet(ledger, period)
    gone = retire(lake, LATER_US)
    assert {part.hour_us for part in gone} == {START_US + hour * US_PER_HOUR for hour in (3,)}
    assert price_fleet(ledger, period) == before


def test_the_verbs(tmp_path, monkeypatch):
    monkeypatch.setenv("JOULEBOOK_HOME", str(tmp_path))
    with Ledger.open(tmp_path / "ledger.duckdb", clock=lambda: LATER_US) as book:
        book.ingest(a_batch(rows(1, 120)))
    done = CliRunner().invoke(verb, ["seal", "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["measurements"] == 120
    done = CliRunner().invoke(verb, ["verify", "--json"], catch_exceptions=False)
    assert json.loads(done.stdout) == {"version": 1, "files": 6, "wrong": []}
    assert "0 measurements in 0 files" in CliRunner().invoke(verb, ["compact"], catch_exceptions=False).stdout
    period = ["--from", "2025-12-01T00:00:00Z", "--to", "2025-12-01T03:00:00Z"]
    done = CliRunner().invoke(verb, ["price", *period], catch_exceptions=False)
    first, second = done.stdout.splitlines()
    assert first == f"2025-12-01T00:00:00Z  baseline  {sum(range(1000, 1060)) / 3.6e9:.6g} kWh  no PUE: not priced"
    add_a_site(tmp_path)
    done = CliRunner().invoke(verb, ["price", *period, "--slot", "5", "--json"], catch_exceptions=False)
    first, second = json.loads(done.stdout)
    assert (first["energy_millijoules"], second["energy_millijoules"]) == (
        sum(range(1000, 1060)),
        sum(range(1060, 1120)),
    )
    assert first["emissions_g"] > 0
    with pytest.raises(BadInput):
        CliRunner().invoke(verb, ["price", *period, "--slot", "7"], catch_exceptions=False)
    done = CliRunner().invoke(verb, ["clear", "--keep", "0"], catch_exceptions=False)
    assert done.stdout == "0 files removed\n"
