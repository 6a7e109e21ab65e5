"""Outboxes on disk into a ledger on disk, with every crash between the two harmless."""

import pytest
from joulebook.errors import LedgerError
from joulebook.home import Home
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
