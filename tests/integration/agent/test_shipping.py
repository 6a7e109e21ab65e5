"""Shipping to a real HTTP(S) server on loopback that keeps a real ledger: in order and once, whatever happens."""

import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from collector_server import DROP_AFTER, DROP_BEFORE, Collector, Hold, Reply, authority
from conftest import wait_for
from joulebook.collector_client import destination
from joulebook.outbox import Outbox
from joulebook.outbox_file import put_aside
from joulebook.rows import Mark
from joulebook.shipping import Shipper
from joulebook_collector.ledger import Ledger
from joulebook_collector.testing import a_measurement, a_run


def mark(n):
    return Mark("r1", "m1", "b1", 1, "log", 1, 1, 1, n)


@pytest.fixture
def collector(tmp_path):
    with Collector(tmp_path / "ledger.duckdb") as made:
        yield made


@pytest.fixture
def outbox(tmp_path):
    made = Outbox(tmp_path / "o.sqlite", writer=True)
    yield made
    made.close()


@pytest.fixture
def ship():
    """Starts shippers that wait hardly at all between attempts; they are stopped when the test ends."""
    started = []

    def start(outbox, url, token=None, ca=None, jitter=0.0):
        shipper = Shipper(
            outbox.path, destination(url, token and str(token), ca and str(ca)), 0.02, jitter=lambda: jitter
        )
        shipper.start()
        started.append(shipper)
        return shipper

    yield start
    for shipper in started:
        shipper.stop(10.0)


def drained(outbox):
    wait_for(lambda: outbox.depth() == 0, what="an empty outbox")


def marks_in(collector):
    """The book's marks by number, each with how often it is there."""
    collector.close()
    with Ledger.open(collector.path) as ledger:
        assert ledger.gaps() == []
        return Counter(mark.n for mark in ledger.marks(["r1"]))


def once(count):
    return Counter(range(count))


def test_rows_arrive_in_order_in_few_bytes_over_one_connection(outbox, collector, ship):
    outbox.write(final=[a_run()])
    for n in range(0, 3000, 20):
        outbox.write(final=[mark(n + i) for i in range(20)])
    shipper = ship(outbox, collector.url)
    drained(outbox)
    wait_for(lambda: shipper.status.rows == 3001)
    assert collector.connections == 1
    assert all(request["gzip"] and request["sent"] < request["bytes"] / 10 for request in collector.requests)
    assert shipper.status.error == ""
    assert shipper.status.acknowledged_at_us is not None
    assert marks_in(collector) == once(3000)


def test_a_small_batch_is_sent_plain(outbox, collector, ship):
    outbox.write(final=[mark(0)])
    ship(outbox, collector.url)
    drained(outbox)
    assert [request["gzip"] for request in collector.requests] == [False]


@pytest.mark.parametrize("fault", [DROP_BEFORE, DROP_AFTER, Reply(500), Reply(200), Reply(200, {"acknowledged": 99})])
def test_a_batch_without_its_answer_is_sent_again_and_counted_once(outbox, collector, ship, fault):
    outbox.write(final=[a_run(), *(mark(n) for n in range(5))])
    collector.faults.extend([fault, fault, None, fault])
    shipper = ship(outbox, collector.url)
    drained(outbox)
    outbox.write(final=[mark(n) for n in range(5, 10)])
    drained(outbox)
    wait_for(lambda: shipper.status.failures == 0)
    assert len(collector.requests) == 5
    assert marks_in(collector) == once(10)


def test_rows_leave_in_their_order_through_random_faults(outbox, collector, ship):
    random = Random(7)
    kinds = [None, None, DROP_BEFORE, DROP_AFTER, Reply(500), Reply(503, {}, {"Retry-After": 0}), Reply(413)]
    collector.faults.extend(random.choice(kinds) for _ in range(60))
    outbox.write(final=[a_run()])
    ship(outbox, collector.url)
    for n in range(0, 2000, 10):
        outbox.write(final=[mark(n + i) for i in range(10)])
    drained(outbox)
    assert marks_in(collector) == once(2000)


@pytest.mark.parametrize("status", [429, 503])
def test_a_pause_that_the_collector_asks_for_is_kept(outbox, collector, ship, status):
    outbox.write(final=[mark(0)])
    collector.faults.append(Reply(status, {}, {"Retry-After": 1}))
    began = time.monotonic()
    shipper = ship(outbox, collector.url)
    wait_for(lambda: str(status) in shipper.status.error)
    drained(outbox)
    assert time.monotonic() - began >= 1.0
    assert len(collector.requests) == 2


def test_a_collector_that_is_slow_holds_up_no_flush(outbox, collector, ship):
    outbox.write(final=[a_run(), mark(0)])
    hold = Hold()
    collector.faults.append(hold)
    ship(outbox, collector.url)
    assert hold.held.wait(20)
    for n in range(1, 200):
        outbox.write(final=[mark(n)])  # the request is under way all the while
    assert outbox.depth() == 201
    hold.release.set()
    drained(outbox)
    assert marks_in(collector) == once(200)


def test_rows_that_waited_for_a_collector_arrive_when_it_is_there(outbox, tmp_path, ship, capsys):
    with Collector(tmp_path / "ledger.duckdb") as gone:
        port = gone.url
    outbox.write(final=[mark(0)])
    shipper = ship(outbox, port, jitter=0.01)
    wait_for(lambda: shipper.status.failures > 2)
    assert "no answer from http://127.0.0.1" in shipper.status.error
    assert outbox.depth() == 1
    assert capsys.readouterr().err.count("rows wait in the outbox") == 1


def test_refused_rows_are_kept_aside_with_their_reason_and_the_others_are_taken(outbox, collector, ship, capsys):
    overlapping = a_measurement(5, 15, 7)
    outbox.write(final=[a_run(), a_measurement(0, 10, 1000), overlapping, a_measurement(15, 25, 300)])
    shipper = ship(outbox, collector.url)
    drained(outbox)
    wait_for(lambda: shipper.status.refused_rows == 1)
    ((incarnation, seq, reason, body),) = outbox.refused()
    assert (incarnation, seq, body) == (outbox.incarnation, 3, overlapping)
    assert "overlaps" in reason
    assert outbox.status().refused_rows == 1
    assert "has refused 1 rows, which are kept aside; row 3: overlaps" in capsys.readouterr().err
    collector.close()
    with Ledger.open(collector.path) as ledger:
        assert sum(row.energy_millijoules for row in ledger.measurements()) == 1300


def test_a_copied_disk_forks_and_both_agents_rows_are_counted(tmp_path, collector, ship):
    first = Outbox(tmp_path / "o.sqlite", writer=True)
    first.write(final=[a_run(), a_measurement(0, 10, 1), a_measurement(10, 20, 2)])
    shipper = Shipper(first.path, destination(collector.url, None, None), 0.02)
    shipper.start()
    drained(first)
    shipper.stop(10)
    first.write(final=[a_measurement(20, 30, 4)])  # both copies have it, neither has sent it
    first._db.execute("pragma wal_checkpoint(truncate)").fetchall()
    (tmp_path / "copy").mkdir()
    shutil.copy(first.path, tmp_path / "copy" / "o.sqlite")
    # The copy goes on under the same incarnation, as a virtual machine does that was copied while it ran.
    other = Outbox(tmp_path / "copy" / "o.sqlite", writer=True)
    with_same_name = "update incarnation set id = ?, wire_id = ?, wire_seq = 3 where opened = 1"
    other._db.execute(with_same_name, (first.incarnation, first.incarnation))
    other._opened, other._seq = 1, 4
    other.write(final=[a_measurement(0, 10, 100, machine_id="m2"), a_measurement(10, 20, 200, machine_id="m2")])
    first.write(final=[a_measurement(30, 40, 8)])
    for box in (first, other):
        shipper = ship(box, collector.url)
        drained(box)
    assert shipper.status.moved == 1
    collector.close()
    with Ledger.open(collector.path) as ledger:
        assert sum(row.energy_millijoules for row in ledger.measurements()) == 1 + 2 + 4 + 8 + 100 + 200
        assert ledger.gaps() == []
        assert ledger.quarantined() == []
    first.close()
    other.close()


def test_an_answer_of_forked_again_and_again_is_waited_out(outbox, collector, ship):
    outbox.write(final=[mark(0)])
    collector.faults.extend([Reply(409, {"error": "forked"})] * 3)
    shipper = ship(outbox, collector.url)
    drained(outbox)
    assert shipper.status.moved == 3
    assert marks_in(collector) == once(1)


def test_a_batch_that_is_too_large_is_halved_until_it_fits(outbox, tmp_path, ship):
    with Collector(tmp_path / "ledger.duckdb", most_rows=3) as collector:
        outbox.write(final=[a_run(), *(mark(n) for n in range(50))])
        ship(outbox, collector.url)
        drained(outbox)
        assert marks_in(collector) == once(50)


def test_a_single_row_that_is_too_large_stays_and_is_said(outbox, tmp_path, ship):
    with Collector(tmp_path / "ledger.duckdb", most_rows=0) as collector:
        outbox.write(final=[mark(0), mark(1)])
        shipper = ship(outbox, collector.url, jitter=0.01)
        wait_for(lambda: "row 1 alone is too large" in shipper.status.error)
        assert outbox.depth() == 2


def test_a_token_is_read_anew_and_shown_nowhere(outbox, tmp_path, ship, capsys):
    token = tmp_path / "token"
    token.write_text("secret-of-yesterday\n")
    token.chmod(0o600)
    with Collector(tmp_path / "ledger.duckdb", token="secret-of-today") as collector:
        outbox.write(final=[a_run(), mark(0)])
        shipper = ship(outbox, collector.url, token, jitter=0.01)
        wait_for(lambda: "401: unknown token" in shipper.status.error)
        assert outbox.depth() == 2
        token.write_text("secret-of-today\n")
        drained(outbox)
        assert "secret" not in capsys.readouterr().err
        assert marks_in(collector) == once(1)


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o620, 0o666])
def test_a_token_that_others_may_read_is_not_used(outbox, tmp_path, collector, ship, mode):
    token = tmp_path / "token"
    token.write_text("secret")
    token.chmod(mode)
    outbox.write(final=[mark(0)])
    shipper = ship(outbox, collector.url, token, jitter=0.01)
    wait_for(lambda: f"is open to others; try: chmod 600 {token}" in shipper.status.error)
    assert collector.requests == []
    token.chmod(0o600)
    drained(outbox)


def test_tls_is_verified_against_the_authority_that_is_given(outbox, tmp_path, ship):
    ca, certificate = authority(tmp_path, "right")
    wrong, _ = authority(tmp_path, "wrong")
    with Collector(tmp_path / "ledger.duckdb", certificate=certificate) as collector:
        outbox.write(final=[a_run(), mark(0)])
        shipper = ship(outbox, collector.url, ca=wrong, jitter=0.01)
        wait_for(lambda: "certificate verify failed" in shipper.status.error)
        assert "JOULEBOOK_COLLECTOR_CA_FILE" in shipper.status.error
        shipper.stop(10)
        shipper = ship(outbox, collector.url, jitter=0.01)  # nor do the system's authorities know it
        wait_for(lambda: "certificate verify failed" in shipper.status.error)
        shipper.stop(10)
        assert collector.requests == []
        ship(outbox, collector.url, ca=ca)
        drained(outbox)
        assert marks_in(collector) == once(1)


@pytest.mark.parametrize("way", ["a bundle", "a hashed directory"])
def test_without_a_file_the_systems_authorities_are_trusted(outbox, tmp_path, ship, monkeypatch, way):
    ca, certificate = authority(tmp_path, "system")
    known = tmp_path / "certs"
    known.mkdir()
    shutil.copy(ca, known / "system.pem")
    if way == "a bundle":
        monkeypatch.setenv("SSL_CERT_FILE", str(ca))
    else:
        monkeypatch.setenv("SSL_CERT_DIR", str(known))
        subprocess.run(["openssl", "rehash", known], check=True)
    with Collector(tmp_path / "ledger.duckdb", certificate=certificate) as collector:
        outbox.write(final=[a_run(), mark(0)])
        ship(outbox, collector.url)
        drained(outbox)
        assert marks_in(collector) == once(1)


def test_certificates_that_cannot_be_read_are_told(outbox, tmp_path, ship):
    outbox.write(final=[mark(0)])
    shipper = ship(outbox, "https://127.0.0.1:1", ca=tmp_path / "none.pem", jitter=0.01)
    wait_for(lambda: "cannot use the certificates" in shipper.status.error)


def test_stopping_ships_what_waits(outbox, collector):
    shipper = Shipper(outbox.path, destination(collector.url, None, None))
    shipper.start()
    wait_for(lambda: shipper._outbox is not None)
    outbox.write(final=[a_run(), *(mark(n) for n in range(1200))])
    shipper.stop(20.0)
    assert outbox.depth() == 0
    assert marks_in(collector) == once(1200)


@pytest.mark.parametrize("readable", [True, False])
def test_a_fresh_outbox_in_the_place_of_a_damaged_one_is_shipped(outbox, collector, ship, readable):
    outbox.write(final=[a_run(), mark(0)])
    ship(outbox, collector.url)
    drained(outbox)
    outbox.close()
    if readable:  # to the shipper, whose pages are not the damaged ones
        put_aside(outbox.path, "a page is damaged")
    else:
        outbox.path.write_bytes(b"broken" * 2000)
    fresh = Outbox(outbox.path, writer=True)
    fresh.write(final=[replace(a_run(), run_id="r2"), mark(1)])
    drained(fresh)
    assert marks_in(collector) == once(2)
    fresh.close()


AGENT = """
import sys, time
from pathlib import Path
from joulebook.collector_client import destination
from joulebook.outbox import Outbox
from joulebook.outbox_file import put_aside
from joulebook.rows import Mark
from joulebook.shipping import Shipper
outbox = Outbox(Path(sys.argv[1]), writer=True)
shipper = Shipper(outbox.path, destination(sys.argv[2], None, None), 0.01, jitter=lambda: 0.0)
shipper.start()
n = int(sys.argv[3])
while True:
    outbox.write(final=[Mark("r1", "m1", "b1", 1, "log", 1, 1, 1, n + i) for i in range(3)])
    n += 3
    print(n, flush=True)
    time.sleep(0.002)
"""


def test_an_agent_that_is_killed_while_shipping_loses_nothing_and_doubles_nothing(tmp_path, collector, ship):
    path = tmp_path / "o.sqlite"
    random = Random(3)
    n = 0
    box = Outbox(path, writer=True)
    box.write(final=[a_run()])
    box.close()
    for _ in range(6):
        agent = subprocess.Popen(
            [sys.executable, "-c", AGENT, str(path), collector.url, str(n)], stdout=subprocess.PIPE, text=True
        )
        told = [int(agent.stdout.readline()) for _ in range(random.randint(5, 150))]
        agent.send_signal(signal.SIGKILL)
        told += [int(word) for word in agent.stdout.read().split()]
        agent.stdout.close()
        agent.wait()
        box = Outbox(path, writer=False)
        # The last transaction may have been written and not told.
        waiting = [row.n for row in box.bodies() if isinstance(row, Mark)]
        n = max([told[-1], *(m + 1 for m in waiting)])
        box.close()
    box = Outbox(path, writer=True)
    ship(box, collector.url)
    drained(box)
    book = marks_in(collector)
    assert set(book.values()) == {1}
    # A transaction that was written, shipped and not told was written again under other rows with the same numbers.
    assert sorted(book) == list(range(len(book)))
    assert len(book) >= n
    box.close()
