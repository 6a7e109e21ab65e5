"""Another process at the ledger of this one: the same reads and writes, in turn, each transaction whole."""

import threading
import time

import pyarrow as pa
import pytest
from joulebook.errors import LedgerError
from joulebook_collector.conservation import verify
from joulebook_collector.ledger import Ledger
from joulebook_collector.remote import RemoteConnection, socket_path
from joulebook_collector.sites import add_site
from joulebook_collector.testing import a_batch, a_measurement, a_run


@pytest.fixture
def owned(tmp_path):
    """A ledger with its door open, and the lock that its writers take."""
    turn = threading.Lock()
    with Ledger.open(tmp_path / "ledger.duckdb", own=True) as ledger:
        door = ledger.door(turn)
        try:
            yield ledger, turn
        finally:
            door.close()


def test_a_visitor_reads_what_the_owner_wrote_and_the_owner_what_the_visitor_did(owned):
    ledger, turn = owned
    ledger.ingest(a_batch([a_run(), a_measurement()]))
    with Ledger.open(ledger.path) as visitor:
        assert visitor.runs() == ledger.runs()
        assert visitor.measurements() == ledger.measurements()
        add_site(visitor, "lab", words={}, pue=1.3, pue_source="meter")
        visitor.ingest(a_batch([a_measurement(10, 20)], first=3))
    with turn:
        ledger.ingest(a_batch([a_measurement(20, 30)], first=4))
    assert [site.site_id for site in ledger.sites()] == ["lab", "local"]
    assert len(ledger.measurements()) == 3
    txns = [txn for (txn,) in ledger.query("select txn from log order by txn")]
    assert txns == list(range(1, len(txns) + 1))
    assert ledger.gaps() == []
    verify(ledger)


def test_writers_take_turns_and_nothing_is_lost(owned):
    ledger, turn = owned
    began = threading.Barrier(3)

    def visit(name):
        began.wait()
        with Ledger.open(ledger.path) as visitor:
            for i in range(10):
                visitor.ingest(a_batch([a_measurement(i, i + 1, device_id=name)], first=i + 1, agent_id=name))

    threads = [threading.Thread(target=visit, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    began.wait()
    for i in range(10):
        with turn:
            ledger.ingest(a_batch([a_measurement(i, i + 1)], first=i + 1))
    for thread in threads:
        thread.join(60)
    assert len(ledger.measurements()) == 30
    verify(ledger)


def test_a_visitor_that_dies_within_a_transaction_leaves_nothing_and_gives_the_turn_back(owned):
    ledger, turn = owned
    visitor = RemoteConnection(socket_path(ledger.path))
    visitor.execute("begin transaction")
    visitor.execute("insert into site_assignment values (99, 99, 'm', 'local', 0)")
    assert not turn.acquire(blocking=False)
    visitor.close()
    assert turn.acquire(timeout=10)
    turn.release()
    assert ledger.query("select * from site_assignment") == []


def test_a_statement_that_fails_is_told_and_the_visit_goes_on(owned):
    ledger, _ = owned
    visitor = RemoteConnection(socket_path(ledger.path))
    with pytest.raises(LedgerError, match="nowhere"):
        visitor.execute("select * from nowhere")
    with pytest.raises(LedgerError):
        visitor.execute("select 170141183460469231731687303715884105727::hugeint")
    visitor.register("incoming", pa.table({"a": [1, 2]}))
    assert visitor.execute("select sum(a)::bigint from incoming").fetchall() == [(3,)]
    visitor.unregister("incoming")
    visitor.close()


def test_only_the_owner_of_the_home_may_open_the_socket(owned):
    ledger, _ = owned
    assert socket_path(ledger.path).stat().st_mode & 0o777 == 0o600


def test_an_owner_that_goes_away_is_said(tmp_path):
    with Ledger.open(tmp_path / "ledger.duckdb", own=True) as ledger:
        door = ledger.door(threading.Lock())
        visitor = Ledger.open(ledger.path)
        door.close()
        with pytest.raises(LedgerError, match="ended meanwhile"):
            visitor.runs()
        visitor.close()


def test_a_socket_that_an_owner_left_behind_keeps_nobody_out(tmp_path):
    path = tmp_path / "ledger.duckdb"
    socket_path(path).touch()
    with Ledger.open(path, own=True) as ledger:
        ledger.door(threading.Lock()).close()
        began = time.monotonic()
        with pytest.raises(LedgerError, match="has had"):
            Ledger.open(path, wait_seconds=0.3)
        assert time.monotonic() - began < 10


def test_a_home_with_a_long_name_has_a_door_too(tmp_path):
    folder = tmp_path / ("long" * 20) / ("name" * 20)
    folder.mkdir(parents=True)
    with Ledger.open(folder / "ledger.duckdb", own=True) as ledger:
        door = ledger.door(threading.Lock())
        with Ledger.open(ledger.path) as visitor:
            assert visitor.runs() == []
        door.close()
