"""What a home of the ledger must do, whatever it is built on: the embedded one here."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joulebook.errors import BadInput, LedgerError
from joulebook.rows import Batch, Mark, Reassignment, Row, Share, ShareKind, Status, Weights
from joulebook_collector import schema
from joulebook_collector.conservation import verify
from joulebook_collector.ledger import Forked, Ledger, Receipt
from joulebook_collector.testing import START_US, a_batch, a_measurement, a_run


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(tmp_path / "ledger.duckdb") as opened:
        yield opened


def spans(count: int, first: int = 0) -> list:
    return [a_measurement(i, i + 1, 100 + i) for i in range(first, first + count)]


def test_rows_come_back_as_they_went_in(ledger):
    run = a_run(labels=replace(a_run().labels, study="s", parent_run_id="p"), record={"gpu": "x", "n": 1.5})
    mark = Mark("r1", "m1", "b1", 7, "log", START_US, 5, 6, 1, samples=3, flops=1e12, quality={"accuracy": 0.5})
    measurement = a_measurement(0, 1, 100, "r1", 30, idle_millijoules=10, note="claimed across absence")
    assert ledger.ingest(a_batch([run, measurement, mark])) == Receipt(3, 0, 0, 3)
    assert (ledger.run("r1"), ledger.runs(), ledger.runs(study="s")) == (run, [run], [run])
    assert (ledger.children("p"), ledger.runs(study="t"), ledger.run("r2")) == ([run], [], None)
    assert ledger.measurements() == [measurement]
    assert ledger.marks(["r1"]) == [mark]


def test_a_batch_delivered_twice_counts_once_and_changes_nothing(ledger):
    batch = a_batch(spans(5))
    assert ledger.ingest(batch) == Receipt(5, 0, 0, 5)
    known = ledger.latest_known_us()
    assert ledger.ingest(batch) == Receipt(0, 5, 0, 5)
    assert ledger.latest_known_us() == known


def test_a_batch_that_overlaps_an_earlier_one_adds_only_what_is_new(ledger):
    ledger.ingest(a_batch(spans(3)))
    assert ledger.ingest(a_batch(spans(4, 1), first=2)) == Receipt(2, 2, 0, 5)
    assert ledger.measurements() == spans(5)


def test_other_rows_under_a_taken_place_are_forked_and_nothing_is_stored(ledger):
    ledger.ingest(a_batch(spans(3)))
    with pytest.raises(Forked) as caught:
        ledger.ingest(a_batch([a_measurement(2, 3, 999), a_measurement(3, 4, 5)], first=3))
    assert "row 3" in caught.value.cause
    assert "new incarnation" in caught.value.remedy
    assert ledger.measurements() == spans(3)


def test_a_gap_is_recorded_and_a_late_row_fills_it(ledger):
    ledger.ingest(a_batch(spans(2)))
    assert ledger.ingest(a_batch(spans(2, 5), first=6)) == Receipt(2, 0, 0, 7)
    assert ledger.gaps() == [("agent-1", "inc-1", 3, 5)]
    assert verify(ledger).missing_rows == 3
    ledger.ingest(a_batch(spans(3, 2), first=3))
    assert verify(ledger).missing_rows == 0
    assert ledger.measurements() == spans(7)


def test_an_overlap_by_the_same_meter_goes_to_quarantine_and_moves_the_mark(ledger):
    ledger.ingest(a_batch([a_measurement(0, 10, 100)]))
    bad = a_batch([a_measurement(9, 11, 5), a_measurement(11, 12, 7)], first=2)
    assert ledger.ingest(bad) == Receipt(1, 0, 1, 3)
    assert ledger.ingest(bad) == Receipt(0, 2, 0, 3)
    ((agent, incarnation, seq, kind, reason),) = ledger.quarantined()
    assert (agent, incarnation, seq, kind) == ("agent-1", "inc-1", 2, "measurement")
    assert "overlaps" in reason
    assert [m.energy_millijoules for m in ledger.measurements()] == [100, 7]


def test_spans_that_only_touch_do_not_overlap(ledger):
    assert ledger.ingest(a_batch(spans(3))).quarantined == 0


def test_the_same_row_under_a_new_incarnation_is_a_duplicate(ledger):
    ledger.ingest(a_batch(spans(2)))
    assert ledger.ingest(a_batch(spans(3), incarnation="inc-2")) == Receipt(1, 2, 0, 3)
    assert ledger.measurements() == spans(3)


def test_a_mark_that_came_under_two_places_counts_once(ledger):
    mark = Mark("r1", "m1", "b1", 7, "log", START_US, 5, 6, 1, samples=3)
    ledger.ingest(a_batch([mark]))
    ledger.ingest(a_batch([mark], incarnation="inc-2"))
    assert ledger.marks(["r1"]) == [mark]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"started_at_us": "yesterday"}, "started_at_us"),
        ({"energy_millijoules": 2**70}, "energy_millijoules"),
        ({"u_common": True}, "u_common"),
        ({"note": "\ud800"}, "JSON"),
    ],
)
def test_a_value_that_fits_no_column_is_quarantined_alone(ledger, change, reason):
    row = a_measurement(0, 1, 100)
    for name, value in change.items():
        object.__setattr__(row, name, value)
    assert ledger.ingest(a_batch([row, a_measurement(1, 2, 50)])) == Receipt(1, 0, 1, 2)
    assert reason in ledger.quarantined()[0][4]
    assert ledger.ingest(a_batch([row, a_measurement(1, 2, 50)])) == Receipt(0, 2, 0, 2)


def test_several_batches_are_taken_with_one_commit_each_judged_after_those_before_it(ledger):
    other = a_batch([a_measurement(9, 10, 7)])
    overlapping = a_batch([a_measurement(0, 2, 5), a_measurement(20, 21)], incarnation="inc-2")
    malformed = Batch("a", "i", (Row(0, a_measurement(30, 31)),))
    first, forked, second, refused, again = ledger.ingest_all(
        [a_batch(spans(2)), other, overlapping, malformed, a_batch(spans(2))]
    )
    assert (first, second, again) == (Receipt(2, 0, 0, 2), Receipt(1, 0, 1, 2), Receipt(0, 2, 0, 2))
    assert isinstance(forked, Forked)
    assert forked.seq == 1
    assert isinstance(refused, BadInput)
    assert [seq for seq, reason in second.refused if "overlaps" in reason] == [1]
    assert verify(ledger).measurements == 3
    assert len({known for (known,) in ledger.query("select known_at_us from log where action = 'ingest'")}) == 2


def test_of_several_batches_nothing_stays_when_the_ledger_fails_under_one(tmp_path):
    moments = iter([1, 2, 3])

    def clock():
        moment = next(moments, None)
        if moment is None:  # at the third batch
            raise OSError("no clock")
        return moment

    with Ledger.open(tmp_path / "l.duckdb", clock=clock) as ledger:
        three = [a_batch(spans(2, 5 * i), incarnation=f"inc-{i}") for i in range(3)]
        with pytest.raises(OSError, match="no clock"):
            ledger.ingest_all(three)
        assert ledger.measurements() == []
        moments = iter(range(10, 20))
        assert ledger.ingest_all([*three, three[0]]) == [*[Receipt(2, 0, 0, 2)] * 3, Receipt(0, 2, 0, 2)]
        assert verify(ledger).measurements == 6


@pytest.mark.parametrize("seqs", [[], [0, 1], [1, 3], [2, 1]])
def test_a_malformed_batch_is_refused(ledger, seqs):
    with pytest.raises(BadInput):
        ledger.ingest(Batch("a", "i", tuple(Row(seq, a_measurement(seq, seq + 1)) for seq in seqs)))


@given(
    st.floats(0, 1e300),
    st.floats(0, 1e6, allow_subnormal=True),
    st.integers(0, 2**62),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_value_is_stored_exactly(tmp_path, u, cpu_seconds, energy, note):
    measurement = a_measurement(0, 1, energy, u_common=u, u_indep=-0.0, note=note)
    share = replace(measurement.shares[0], weights=Weights(cpu_seconds=cpu_seconds))
    measurement = replace(measurement, shares=(share, measurement.shares[1]))
    path = tmp_path / "exact.duckdb"
    with Ledger.open(path) as ledger:
        ledger.ingest(a_batch([measurement]))
        assert ledger.measurements() == [measurement]
        assert verify(ledger).conservation.measured == energy
    path.unlink()


def test_the_newest_version_of_a_run_counts_and_older_ones_stay_known(ledger):
    ledger.ingest(a_batch([a_run(end_s=None)]))
    then = ledger.latest_known_us()
    ledger.ingest(a_batch([a_run(end_s=20)], first=2))
    assert ledger.run("r1") == a_run(end_s=20)
    assert ledger.run("r1", then) == a_run(end_s=None)
    assert ledger.finished_at_us("r1", then) is None
    assert ledger.finished_at_us("r1") == ledger.latest_known_us()


def test_an_older_version_that_arrives_late_does_not_win(ledger):
    ledger.ingest(a_batch([a_run(end_s=20, status=Status.FAILED)], first=2))
    ledger.ingest(a_batch([a_run(end_s=None)]))
    assert ledger.run("r1").status is Status.FAILED


def of_two(machine: str, start: float, end: float | None, **changes):
    return a_run("r1", start, end, machine_id=machine, boot_id=f"boot of {machine}", **changes)


def test_a_run_on_two_machines_is_one_whichever_agents_rows_come_first(tmp_path):
    ok = [of_two("node-1", 1, None), of_two("node-1", 1, 12)]
    failed = [of_two("node-0", 0, None), of_two("node-0", 0, 9, status=Status.FAILED, reason="exit status 1")]
    batches = [
        a_batch(rows, agent_id=f"agent of {rows[0].machine_id}", incarnation=f"inc of {rows[0].machine_id}")
        for rows in (ok, failed)
    ]
    told = []
    for i, order in enumerate((batches, batches[::-1])):
        with Ledger.open(tmp_path / f"{i}.duckdb") as ledger:
            for batch in order:
                ledger.ingest(batch)
            told.append(repr((ledger.runs(), ledger.run("r1"), ledger.parts("r1"))))
            run = ledger.run("r1")
            assert (run.status, run.reason) == (Status.FAILED, "node-0: exit status 1")
            assert (run.started_at_us, run.ended_at_us) == (START_US, START_US + 12_000_000)
            assert [part.machine_id for part in ledger.parts("r1")] == ["node-0", "node-1"]
    assert told[0] == told[1]


def test_a_run_on_two_machines_has_ended_when_it_has_on_both(ledger):
    ledger.ingest(a_batch([of_two("a", 0, None)], agent_id="a"))
    ledger.ingest(a_batch([of_two("b", 1, None), of_two("b", 1, 5)], agent_id="b"))
    between = ledger.latest_known_us()
    assert (ledger.run("r1").status, ledger.finished_at_us("r1")) == (Status.RUNNING, None)
    ledger.ingest(a_batch([of_two("a", 0, 4)], first=2, agent_id="a"))
    assert (ledger.run("r1").status, ledger.finished_at_us("r1")) == (Status.OK, ledger.latest_known_us())
    assert (ledger.run("r1", between).status, ledger.finished_at_us("r1", between)) == (Status.RUNNING, None)


def test_a_machine_whose_outbox_was_set_aside_goes_on_under_another_agent(ledger):
    ledger.ingest(a_batch([a_run(end_s=None)], agent_id="before", incarnation="x"))
    ledger.ingest(a_batch([a_run(end_s=7)], agent_id="after", incarnation="y"))
    assert ledger.run("r1") == a_run(end_s=7)


def test_a_run_is_found_by_what_any_of_its_machines_was_told(ledger):
    ledger.ingest(a_batch([of_two("a", 0, 9)], agent_id="a"))
    said = replace(a_run().labels, study="s", parent_run_id="p")
    ledger.ingest(a_batch([of_two("b", 1, 9, labels=said)], agent_id="b"))
    assert [run.machine_id for run in ledger.runs(study="s")] == ["a"]
    assert [run.run_id for run in ledger.children("p")] == ["r1"]


def test_readers_see_what_was_known_at_t(ledger):
    ledger.ingest(a_batch(spans(1)))
    then = ledger.latest_known_us()
    ledger.ingest(a_batch(spans(2, 1), first=2))
    assert ledger.measurements(then) == spans(1)
    assert ledger.measurements() == spans(3)
    assert ledger.measurements(then - 1) == []


def test_known_times_rise_even_when_the_clock_does_not(tmp_path):
    with Ledger.open(tmp_path / "l.duckdb", clock=lambda: 1000) as ledger:
        times = [ledger.latest_known_us()]
        for i in range(3):
            ledger.ingest(a_batch([a_measurement(i, i + 1)], first=i + 1))
            times.append(ledger.latest_known_us())
    assert times == [1000, 1001, 1002, 1003]


def test_a_time_that_has_not_passed_is_refused_by_every_reader(tmp_path):
    now = [1000]
    with Ledger.open(tmp_path / "l.duckdb", clock=lambda: now[0]) as ledger:
        now[0] = 2000
        # Known at 1000: nothing. At 2000 a row may still come with the next transaction, at 1999 none can.
        assert ledger.measurements(1999) == []
        readers = (ledger.measurements, ledger.runs, ledger.factors, ledger.sites, lambda t: verify(ledger, t))
        for read in readers:
            for too_late in (2000, 1_764_547_200_000_000, 2**62):
                with pytest.raises(BadInput, match="has not passed yet"):
                    read(too_late)
        for i in range(3):
            ledger.ingest(a_batch(spans(1, i), first=i + 1))
        assert ledger.latest_known_us() == 2002
        assert ledger.measurements(1999) == []
        # The ledger's own time may run ahead of a clock that stands still.
        assert ledger.measurements(2002) == spans(3)


def test_measurements_of_a_run_and_those_that_overlap_it(ledger):
    run = a_run("r1", 0, 2)
    other = a_measurement(1, 3, 7, "r2", device_id="GPU-2")
    later = a_measurement(5, 6, 9, "r2", device_id="GPU-2")
    elsewhere = a_measurement(0, 2, 9, "r2", machine_id="m2")
    ledger.ingest(a_batch([a_measurement(0, 2, 100), other, later, elsewhere]))
    assert ledger.measurements(run_ids=["r1"]) == [a_measurement(0, 2, 100)]
    assert ledger.measurements(overlapping=[run]) == [a_measurement(0, 2, 100), other]
    assert ledger.measurements(run_ids=[]) == []
    assert len(ledger.measurements()) == 4


def test_a_reassignment_moves_millijoules_and_weights_and_keeps_the_total(ledger):
    weights = Weights(cpu_seconds=0.25)
    rest = Share(ShareKind.UNATTRIBUTED, 0, a_measurement().shares[0].policy)
    late = Share(ShareKind.RUN, 0, rest.policy, "r1", "eval", weights=weights)
    move = Reassignment("inc-1", 1, 150, rest, late)
    ledger.ingest(a_batch([a_measurement(0, 10, 1000, "r1", 600)]))
    before = ledger.latest_known_us()
    ledger.ingest(a_batch([move], first=2))
    (after,) = ledger.measurements(run_ids=["r1"])
    # 1000 = 600 train + 400 unattributed; 150 of the 400 go to eval.
    assert {(s.run_id, s.phase): s.millijoules for s in after.shares} == {
        ("r1", "train"): 600,
        ("", ""): 250,
        ("r1", "eval"): 150,
    }
    assert next(s for s in after.shares if s.phase == "eval").weights == weights
    assert ledger.measurements(before) == [a_measurement(0, 10, 1000, "r1", 600)]


def test_a_reassignment_that_asks_for_too_much_is_left_out_and_said(ledger):
    rest = Share(ShareKind.UNATTRIBUTED, 0, a_measurement().shares[0].policy)
    move = Reassignment("inc-1", 2, 500, rest, Share(ShareKind.RUN, 0, rest.policy, "r9", "eval"))
    # Before the measurement it names: order of arrival changes nothing.
    ledger.ingest(a_batch([move]))
    ledger.ingest(a_batch([a_measurement(0, 10, 1000, "r1", 600)], first=2))
    (only,) = ledger.measurements()
    assert only.shares == a_measurement(0, 10, 1000, "r1", 600).shares
    assert "500 mJ that nobody held" in only.note


def test_a_newer_ledger_is_refused_and_not_touched(tmp_path):
    path = tmp_path / "ledger.duckdb"
    Ledger.open(path).close()
    with duckdb.connect(str(path)) as db:
        db.execute("insert into schema_version values (?)", [schema.VERSION + 1])
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=f"schema {schema.VERSION + 1}") as caught:
        Ledger.open(path)
    assert "upgrade" in caught.value.remedy
    assert path.read_bytes() == before


def test_a_file_that_is_no_ledger_is_refused_and_not_touched(tmp_path):
    path = tmp_path / "ledger.duckdb"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(LedgerError, match="cannot open"):
        Ledger.open(path)
    assert path.read_bytes() == b"not a database" * 100


def test_the_file_format_is_one_that_every_supported_duckdb_reads(tmp_path):
    path = tmp_path / "ledger.duckdb"
    Ledger.open(path).close()
    with duckdb.connect(str(path), read_only=True) as db:
        (tags,) = db.execute("select tags from duckdb_databases() where path is not null and not internal").fetchone()
    assert tags["storage_version"].startswith("v1.5")


HOLD = """
import sys, time
from pathlib import Path
from joulebook_collector.ledger import Ledger
with Ledger.open(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def hold(path, seconds: float) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path), str(seconds)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_second_process_waits_with_one_message_and_then_has_it(tmp_path, capfd):
    path = tmp_path / "ledger.duckdb"
    with hold(path, 1.6), Ledger.open(path, wait_seconds=30) as ledger:
        assert ledger.measurements() == []
    assert capfd.readouterr().err == "another joulebook process has the ledger; waiting\n"


def test_a_second_process_gives_up_after_its_time(tmp_path):
    path = tmp_path / "ledger.duckdb"
    process = hold(path, 60)
    try:
        with pytest.raises(LedgerError, match="another joulebook process") as caught:
            Ledger.open(path, wait_seconds=0.1)
        assert "try again" in caught.value.remedy
    finally:
        process.kill()
        process.communicate()


INGEST = """
import sys
from pathlib import Path
from joulebook_collector.ledger import Ledger
from joulebook_collector.testing import a_batch, a_measurement
with Ledger.open(Path(sys.argv[1])) as ledger:
    for i in range(10**6):
        ledger.ingest(a_batch([a_measurement(i, i + 1, i)], first=i + 1))
        print(i + 1, flush=True)
"""


def test_what_was_acknowledged_survives_kill_9(tmp_path):
    path = tmp_path / "ledger.duckdb"
    process = subprocess.Popen([sys.executable, "-c", INGEST, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    acknowledged = [int(process.stdout.readline()) for _ in range(20)][-1]
    os.kill(process.pid, signal.SIGKILL)
    acknowledged = max([acknowledged, *(int(n) for n in process.communicate()[0].split())])
    with Ledger.open(path) as ledger:
        stored = [m.energy_millijoules for m in ledger.measurements()]
    assert stored == list(range(len(stored)))
    assert acknowledged <= len(stored) <= acknowledged + 1


def test_two_openers_in_one_process_take_turns(tmp_path):
    path = tmp_path / "ledger.duckdb"
    order = []

    def second() -> None:
        with Ledger.open(path):
            order.append("second")

    with Ledger.open(path):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
