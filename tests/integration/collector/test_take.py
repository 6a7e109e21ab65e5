"""Outboxes on disk into a ledger on disk, with every crash between the two harmless."""

import json
import os

import pytest
from joulebook.errors import LedgerError
from joulebook.home import Home
from joulebook.identity import boot_id
from joulebook.lease import METERS
from joulebook.locks import lock
from joulebook.outbox import Outbox
from joulebook_collector.ledger import Ledger
from joulebook_collector.take import take_outboxes
from joulebook_collector.testing import a_measurement


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path).make()


def fill(home: Home, name: str, first: int, count: int) -> None:
    outbox = Outbox(home.outboxes / f"{name}.sqlite", writer=True)
    rows = [a_measurement(i, i + 1, 10 + i, machine_id=name) for i in range(first, first + count)]
    outbox.write(final=rows)
    outbox.close()


def depth(home: Home, name: str) -> int:
    outbox = Outbox(home.outboxes / f"{name}.sqlite", writer=False)
    try:
        return outbox.depth()
    finally:
        outbox.close()


def test_every_outbox_is_drained_in_order_and_forgotten(home):
    fill(home, "n1", 0, 3)
    fill(home, "n1", 3, 2)
    fill(home, "n2", 0, 4)
    with Ledger.open(home.ledger) as ledger:
        receipts = take_outboxes(ledger, home)
        assert sorted(r.accepted for r in receipts) == [2, 3, 4]
        assert len(ledger.measurements()) == 9
        assert take_outboxes(ledger, home) == []
    assert (depth(home, "n1"), depth(home, "n2")) == (0, 0)


def test_a_crash_after_the_commit_and_before_the_acknowledgement_counts_once(home):
    fill(home, "n1", 0, 3)
    outbox = Outbox(home.outboxes / "n1.sqlite", writer=False)
    with Ledger.open(home.ledger) as ledger:
        for batch in outbox.batches():
            ledger.ingest(batch)  # the drainer dies here: nothing was acknowledged
        outbox.close()
    assert depth(home, "n1") == 3
    with Ledger.open(home.ledger) as ledger:
        (receipt,) = take_outboxes(ledger, home)
        assert (receipt.accepted, receipt.duplicates) == (0, 3)
        assert len(ledger.measurements()) == 3
    assert depth(home, "n1") == 0


def test_a_crash_before_the_commit_loses_nothing(home):
    fill(home, "n1", 0, 3)
    times = iter([1, 2, 3])

    def clock() -> int:
        try:
            return next(times)
        except StopIteration:
            raise KeyboardInterrupt from None

    with Ledger.open(home.ledger, clock=clock) as ledger:
        next(times)
        next(times)
        with pytest.raises(KeyboardInterrupt):
            take_outboxes(ledger, home)
    assert depth(home, "n1") == 3
    with Ledger.open(home.ledger) as ledger:
        take_outboxes(ledger, home)
        assert [m.energy_millijoules for m in ledger.measurements()] == [10, 11, 12]


def test_a_broken_outbox_keeps_no_other_from_being_taken(home):
    (home.outboxes / "a.sqlite").write_bytes(b"broken" * 1000)
    fill(home, "n2", 0, 2)
    with Ledger.open(home.ledger) as ledger:
        with pytest.raises(LedgerError, match=r"a\.sqlite"):
            take_outboxes(ledger, home)
        assert len(ledger.measurements()) == 2
    assert (home.outboxes / "a.sqlite").read_bytes() == b"broken" * 1000


def agent_of(home: Home, machine: str, boot: str) -> int:
    """The lease of an agent that runs under that boot, as a descriptor."""
    (home.agents / f"{boot}.json").write_text(json.dumps({"machine": machine, "pid": 1}))
    fd = os.open(home.agents / f"{boot}.lease", os.O_RDWR | os.O_CREAT)
    lock(fd, METERS)
    return fd


def test_an_outbox_is_left_alone_while_its_agent_runs_on_another_machine(home, capsys):
    fill(home, "n1", 0, 3)
    fill(home, "n2", 0, 2)
    fd = agent_of(home, "n1", "another-boot")
    files = sorted(home.outboxes.iterdir())
    with Ledger.open(home.ledger) as ledger:
        assert [r.accepted for r in take_outboxes(ledger, home)] == [2]
        assert sorted(home.outboxes.iterdir()) == files, "it was not even opened"
        (line,) = capsys.readouterr().err.splitlines()
        assert line == (
            "joulebook: the outbox of n1 is left alone: its agent runs there; report again when it has ended, or on n1"
        )
        os.close(fd)
        assert [r.accepted for r in take_outboxes(ledger, home)] == [3]
    assert capsys.readouterr().err == ""


def test_no_agent_of_the_other_machine_begins_while_its_outbox_is_open_here(home):
    fill(home, "n1", 0, 3)
    os.close(agent_of(home, "n1", "another-boot"))
    tried = []

    def clock() -> int:
        fd = os.open(home.agents / "another-boot.lease", os.O_RDWR)
        try:
            lock(fd, METERS)
            tried.append("begun")
        except BlockingIOError:
            tried.append("kept away")
        finally:
            os.close(fd)
        return 1

    with Ledger.open(home.ledger, clock=clock) as ledger:
        tried.clear()
        assert len(take_outboxes(ledger, home)) == 1
        assert set(tried) == {"kept away"}
        tried.clear()
        clock()
        assert tried == ["begun"], "the lease is given back"


def test_an_agent_of_this_kernel_shares_its_outbox_with_a_report(home):
    fill(home, "container-7", 0, 3)
    fd = agent_of(home, "container-7", boot_id())
    with Ledger.open(home.ledger) as ledger:
        assert [r.accepted for r in take_outboxes(ledger, home)] == [3]
    os.close(fd)


def test_another_machine_of_the_same_name_is_another_machine(home, monkeypatch, capsys):
    monkeypatch.setenv("JOULEBOOK_MACHINE_ID", "clone")
    fill(home, "clone", 0, 3)
    os.close(agent_of(home, "clone", boot_id()))
    os.close(agent_of(home, "clone", "an-earlier-boot"))
    fd = agent_of(home, "clone", "another-boot")
    with Ledger.open(home.ledger) as ledger:
        assert take_outboxes(ledger, home) == []
        assert "the outbox of clone is left alone: its agent runs there" in capsys.readouterr().err
        os.close(fd)
        assert [r.accepted for r in take_outboxes(ledger, home)] == [3]


def test_an_outbox_that_may_be_open_where_nobody_can_tell_is_left_alone(home, capsys):
    fill(home, "n1", 0, 3)
    theirs = Outbox(home.outboxes / "n1.sqlite", writer=False)
    with Ledger.open(home.ledger) as ledger:
        assert take_outboxes(ledger, home) == []
        assert "may be open on that machine" in capsys.readouterr().err
        theirs.close()
        assert [r.accepted for r in take_outboxes(ledger, home)] == [3]


def test_what_goes_to_a_collector_is_not_taken_from_it(home, capsys):
    fill(home, "n1", 0, 3)
    fill(home, "n2", 0, 2)
    with Ledger.open(home.ledger) as ledger:
        assert take_outboxes(ledger, home, collector_url="https://c.example") == []
        assert ledger.measurements() == []
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "joulebook: rows of n1, n2 go to the collector https://c.example: what waits is not taken here, ask that one"
    )
    assert (depth(home, "n1"), depth(home, "n2")) == (3, 2)


def test_an_outbox_that_says_where_its_rows_go_is_believed(home, capsys):
    fill(home, "n1", 0, 3)
    fill(home, "n2", 0, 2)
    outbox = Outbox(home.outboxes / "n1.sqlite", writer=False)
    outbox.ship_to("https://c.example")
    outbox.close()
    with Ledger.open(home.ledger) as ledger:
        assert [r.accepted for r in take_outboxes(ledger, home)] == [2]
    assert "rows of n1 go to the collector https://c.example" in capsys.readouterr().err
    assert depth(home, "n1") == 3
