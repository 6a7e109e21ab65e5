"""Rows that a rule refused are taken after all once the rule is another, at their place, and once."""

import json
import subprocess

import pytest
from conftest import JOULEBOOK
from joulebook_collector import limits
from joulebook_collector.conservation import verify
from joulebook_collector.ledger import Ledger
from joulebook_collector.service.answers import Problem
from joulebook_collector.service.quarantine import refused_page, replay
from joulebook_collector.service.wire import read_batch
from joulebook_collector.structure import check_structure
from joulebook_collector.testing import START_US, a_measurement, a_run
from service import Service, wire


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """A ledger that refused a measurement and a run by a rule that is gone since, between rows that it took."""
    rows = [a_measurement(), a_measurement(10, 20), a_run(), a_run(end_s=30.0), a_measurement(20, 30, note="n" * 50)]
    monkeypatch.setattr(limits, "MOST_LONG_TEXT", 40)
    monkeypatch.setattr(limits, "EARLIEST_US", START_US + 5_000_000)
    text = wire(rows)
    with monkeypatch.context() as patch:
        patch.setattr("joulebook_collector.service.wire.plain_batch", lambda _: None)
        batch = read_batch(text)
    with Ledger.open(tmp_path / "ledger.duckdb") as ledger:
        receipt = ledger.ingest(batch)
        assert [seq for seq, _ in receipt.refused] == [1, 3, 4, 5]
        monkeypatch.undo()
        yield ledger, text


def lines(ledger):
    return refused_page(100, 0, 0, None)(ledger).rows


def test_a_row_that_is_replayed_is_in_the_book_at_its_place(refused):
    ledger, _ = refused
    before = ledger.latest_known_us()
    (txn, seq), *others = [(line.txn, line.seq) for line in lines(ledger)]
    taken = replay(txn, seq)(ledger)
    assert [m.started_ns for m in ledger.measurements()] == [0, 10_000_000_000]
    assert [m.started_ns for m in ledger.measurements(before)] == [10_000_000_000], "what was known then is as it was"
    assert [line.replayed_txn for line in lines(ledger)] == [taken.txn, None, None, None]
    for other in others:
        replay(*other)(ledger)
    (run,) = ledger.runs()
    assert run.ended_at_us == START_US + 30_000_000, "the later version of its stream counts, whatever came last"
    assert ledger.gaps() == []
    assert verify(ledger).missing_rows == 0
    check_structure(ledger)


def test_the_same_batch_again_counts_no_row_twice_before_and_after(refused):
    ledger, text = refused
    for line in lines(ledger):
        replay(line.txn, line.seq)(ledger)
    known = ledger.latest_known_us()
    again = ledger.ingest(read_batch(text))
    assert (again.accepted, again.duplicates, again.refused) == (0, 5, ())
    assert ledger.latest_known_us() == known


def test_it_is_taken_once_and_only_where_nothing_stands_against_it(refused):
    ledger, _ = refused
    first = lines(ledger)[0]
    replay(first.txn, first.seq)(ledger)
    with pytest.raises(Problem, match="took it already"):
        replay(first.txn, first.seq)(ledger)
    with pytest.raises(Problem, match="no such row"):
        replay(first.txn, 77)(ledger)
    overlapping = {**json.loads(wire([a_measurement(3, 25)]))["rows"][0], "u_common": float("nan")}
    ledger.ingest(read_batch(wire([overlapping, 5], agent_id="agent-2")))
    for line in lines(ledger)[-2:]:
        with pytest.raises(Problem) as told:
            replay(line.txn, line.seq)(ledger)
        assert told.value.status == 409
    verify(ledger)


def test_a_rule_between_rows_holds_for_a_replay_too(refused, monkeypatch):
    ledger, _ = refused
    with monkeypatch.context() as patch:
        patch.setattr(limits, "MOST_SHARES", 1)
        rows = [a_measurement(100, 110, note="x")]
        patch.setattr("joulebook_collector.service.wire.plain_batch", lambda _: None)
        ledger.ingest(read_batch(wire(rows, agent_id="agent-3")))
    ledger.ingest(read_batch(wire([a_measurement(105, 115)], agent_id="agent-3", first=2)))
    line = lines(ledger)[-1]
    with pytest.raises(Problem, match="overlaps"):
        replay(line.txn, line.seq)(ledger)
    verify(ledger)
    ledger.ingest(read_batch(wire([a_measurement(115, 120)], agent_id="agent-3", first=3)))
    verify(ledger)


def test_by_api_and_by_command_it_is_audited(tmp_path):
    with Service(tmp_path / "home") as service:
        token = service.token()
        service.post([{"row": "nothing"}], token=token)
        (line,) = service.ask("GET", "/v1/quarantine", token=token)[1]["rows"]
        name = f"{line['txn']}/{line['seq']}"
        status, values, _ = service.ask("POST", f"/v1/quarantine/{name}/replay", token=token)
        assert (status, values["error"]) == (409, "refused")
        words = ["quarantine", "replay", name]
        ended = subprocess.run([*JOULEBOOK, *words], env=service.environ, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 1
        assert "unknown kind" in ended.stdout
        acts = service.ask("GET", "/v1/audit", token=token)[1]["lines"][-2:]
        assert [(act["act"], act["subject"], act["outcome"]) for act in acts] == [
            ("quarantine replay", name, "refused")
        ] * 2
        assert acts[0]["actor"] == service.tokens["all"]
        assert acts[1]["actor"].startswith("cli:")
        reader = service.token("reader", read=["*"])
        assert service.ask("POST", f"/v1/quarantine/{name}/replay", token=reader)[0] == 403
