"""A ledger that an earlier joulebook wrote: migrated when opened, every figure as it was, and written on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner
from joulebook.cli import cli
from joulebook.errors import LedgerError
from joulebook.home import Home
from joulebook_collector import schema
from joulebook_collector.conservation import verify
from joulebook_collector.ledger import Forked, Ledger
from joulebook_collector.testing import a_batch, a_measurement

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home with the ledger of version 1."""
    monkeypatch.setenv("JOULEBOOK_HOME", str(tmp_path))
    home = Home(tmp_path).make()
    with duckdb.connect(str(home.ledger), config={"storage_compatibility_version": "v1.5.0"}) as db:
        db.execute((FIXTURES / "ledger-1.sql").read_text())
    return home


def tables(db: duckdb.DuckDBPyConnection) -> list[tuple[Any, ...]]:
    return db.execute(
        "select table_name, column_name, data_type, is_nullable from duckdb_columns()"
        " where not internal and table_name <> 'schema_version' order by table_name, column_index"
    ).fetchall()


def test_the_first_migration_still_makes_what_version_1_was(home: Home) -> None:
    with duckdb.connect(str(home.ledger)) as old, duckdb.connect() as new:
        for statement in schema.MIGRATIONS[0]:
            new.execute(statement)
        assert tables(new) == tables(old)


def test_a_migrated_ledger_is_like_a_fresh_one(home: Home, tmp_path: Path) -> None:
    Ledger.open(home.ledger).close()
    Ledger.open(tmp_path / "fresh.duckdb").close()
    with duckdb.connect(str(home.ledger)) as old, duckdb.connect(str(tmp_path / "fresh.duckdb")) as new:
        assert tables(old) == tables(new)
        versions, steps = (
            "select version from schema_version order by version",
            [(v,) for v in range(1, schema.VERSION + 1)],
        )
        assert old.execute(versions).fetchall() == new.execute(versions).fetchall() == steps


def test_its_reports_say_what_they_said(home: Home) -> None:
    before = json.loads((FIXTURES / "ledger-1-run.json").read_text())
    done = CliRunner().invoke(
        cli, ["report", "run", "r1", "--json", "--as-of", before["as_of"]], catch_exceptions=False
    )
    assert done.exit_code == 0
    now = json.loads(done.stdout)
    said = "energy_under_other_policies_joules"  # there are more policies now
    assert before.pop(said).items() <= now[said].items()
    (more,) = set(now["notes"]) - set(before["notes"])  # it was always so, and is said now
    assert more.startswith("idle is not separated without calibration")
    now["notes"].remove(more)
    for row in now["pricing"]:
        assert row.pop("g_per_kwh_range") == [row["g_per_kwh"]] * 2
    assert now["data_quality"].pop("unread") == []  # its runs did not say
    assert {name: now[name] for name in before} == before
    assert set(now["phase_bounds_joules"].values()) == {None}, "it held none, and none are made up"


def test_it_is_written_on(home: Home) -> None:
    again = a_measurement(0, 10, 1000, "r1", 600)
    with Ledger.open(home.ledger) as ledger:
        assert ledger.ingest(a_batch([again], first=5)).duplicates == 1
        with pytest.raises(Forked):
            ledger.ingest(a_batch([a_measurement(0, 10, 1000, "r1", 600, end_slack_millijoules=0)], first=5))
        bounded = a_measurement(30, 40, 500, start_slack_millijoules=3, end_slack_millijoules=0)
        ledger.ingest(a_batch([bounded], first=11))
        check = verify(ledger)
        assert (check.measurements, check.conservation.measured) == (4, 6500)
        assert ledger.measurements()[-1] == bounded


def test_an_old_row_that_gained_a_bound_is_refused(home: Home) -> None:
    Ledger.open(home.ledger).close()
    with duckdb.connect(str(home.ledger)) as db:
        db.execute("update measurement_row set start_slack_millijoules = 7 where seq = 6")
    with Ledger.open(home.ledger) as ledger, pytest.raises(LedgerError, match="measurement 6 of transaction 2"):
        verify(ledger)


@pytest.mark.parametrize(
    ("sql", "named"),
    [
        ("update measurement set energy_millijoules = energy_millijoules + 1 where seq = 6", "measurement 6 of"),
        ("update share set cpu_seconds = 77 where seq = 6", "measurement 6 of"),
        ("update run set status = 'failed'", "run "),
    ],
)
def test_no_chain_is_made_over_a_row_that_was_altered_before(home: Home, sql: str, named: str) -> None:
    with duckdb.connect(str(home.ledger)) as db:
        db.execute(sql)
    for _ in range(2):
        with pytest.raises(LedgerError, match=f"{named}.* differs from what was written"):
            Ledger.open(home.ledger)
    with duckdb.connect(str(home.ledger)) as db:
        assert db.execute("select max(version) from schema_version").fetchall() == [(schema.CHAINED - 1,)]
        assert db.execute("select count(digest) from measurement").fetchall() != [(0,)]
