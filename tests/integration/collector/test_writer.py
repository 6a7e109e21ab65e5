"""The writing thread: groups, a full queue, a batch that meets a defect, a ledger that fails."""

import asyncio
import threading

import duckdb
import pytest
from joulebook_collector.ledger import Forked, Ledger, Receipt
from joulebook_collector.limits import MOST_WAITING_BYTES
from joulebook_collector.service.writer import Full, Unwritten, Writer
from joulebook_collector.testing import a_batch, a_measurement, a_run


class Faulty(Ledger):
    """A real ledger in which some agents' batches meet a fault. commits: of groups, in the number of their batches."""

    faults = {}  # noqa: RUF012
    commits = []  # noqa: RUF012

    def ingest_all(self, batches, *, whole=False):
        for batch in batches:
            if batch.agent_id in self.faults:
                raise self.faults[batch.agent_id]
        outcomes = super().ingest_all(batches, whole=whole)
        self.commits.append(len(batches))
        return outcomes


def write(tmp_path, work, queue_rows=1000):
    """Run ``work(writer, turn)`` and drain; what it returned, and why the ledger was called broken."""
    broken = []

    async def run():
        turn = threading.Lock()
        writer = Writer(ledger, turn, broken.append, queue_rows)
        try:
            return await work(writer, turn)
        finally:
            await writer.stop()

    with Faulty.open(tmp_path / "ledger.duckdb", own=True) as ledger:
        ledger.commits = []
        return asyncio.run(run()), broken, ledger.commits


async def together(writer, turn, batches):
    """Submit them while nothing can be written, then let the writer go on; outcomes or errors, in order."""
    with turn:
        tasks = [asyncio.create_task(writer.submit(batch, 100)) for batch in batches]
        await asyncio.sleep(0.2)
    return await asyncio.gather(*tasks, return_exceptions=True)


def test_what_waits_is_written_with_one_commit_and_each_is_told_its_own(tmp_path):
    batches = [a_batch([a_run(f"r{i}")], agent_id=f"a{i}") for i in range(20)]
    batches += [a_batch([a_run("other")], agent_id="a3"), batches[5]]

    async def work(writer, turn):
        return await together(writer, turn, batches)

    outcomes, broken, commits = write(tmp_path, work)
    assert all(isinstance(outcome, Receipt) for outcome in outcomes[:20])
    assert isinstance(outcomes[20], Forked)
    assert outcomes[21].duplicates == 1
    assert sum(commits) == 22
    assert len(commits) <= 3
    assert broken == []


def test_a_full_queue_refuses_and_asks_to_come_later_by_rows_and_by_bytes(tmp_path):
    async def work(writer, turn):
        with turn:
            held = [asyncio.create_task(writer.submit(a_batch([a_run("a")] * 60, agent_id="a"), 100))]
            await asyncio.sleep(0.1)
            with pytest.raises(Full) as rows:
                await writer.submit(a_batch([a_run("b")] * 60, agent_id="b"), 100)
            with pytest.raises(Full):
                await writer.submit(a_batch([a_run("b")], agent_id="b"), MOST_WAITING_BYTES)
        await asyncio.gather(*held)
        assert 0.5 <= rows.value.retry_after_seconds <= 45
        assert writer.waiting_rows == 0
        return await writer.submit(a_batch([a_run("b")] * 60, agent_id="b"), MOST_WAITING_BYTES)

    outcome, _, _ = write(tmp_path, work, queue_rows=100)
    assert isinstance(outcome, Receipt)


def test_a_batch_that_meets_a_defect_keeps_out_no_other(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Faulty, "faults", {"poison": KeyError("a defect")})
    names = ["a", "poison", "b"]

    async def work(writer, turn):
        return await together(writer, turn, [a_batch([a_run(name)], agent_id=name) for name in names])

    outcomes, broken, _ = write(tmp_path, work)
    assert [type(outcome) for outcome in outcomes] == [Receipt, Unwritten, Receipt]
    assert broken == []
    assert "a defect" in capsys.readouterr().err


def test_a_ledger_that_can_never_be_written_again_is_told_once_a_failed_commit_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(
        Faulty, "faults", {"full": duckdb.IOException("no space"), "dead": duckdb.FatalException("invalidated")}
    )

    async def work(writer, turn):
        with pytest.raises(Unwritten):
            await writer.submit(a_batch([a_run()], agent_id="full"), 1)
        taken = await writer.submit(a_batch([a_measurement()], agent_id="good"), 1)
        with pytest.raises(Unwritten):
            await writer.submit(a_batch([a_run()], agent_id="dead"), 1)
        assert writer.failures == 2
        return taken

    outcome, broken, _ = write(tmp_path, work)
    assert isinstance(outcome, Receipt)
    assert broken == ["invalidated"]
