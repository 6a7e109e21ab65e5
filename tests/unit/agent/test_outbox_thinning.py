"""A full outbox thins what was never sent, oldest first, and touches nothing else."""

from random import Random

import pytest
from joulebook.outbox import KEEP_WHOLE_NS, Outbox
from joulebook.rows import Component, Measurement, Method, Policy, Reassignment, Share, ShareKind

S = 1_000_000_000
SPAN_NS = 4 * S
KEPT_SPANS = KEEP_WHOLE_NS // SPAN_NS
START_US = 490_000 * 3600 * 1_000_000
NOBODY = Share(ShareKind.UNATTRIBUTED, 0, Policy.RESERVED)
LATE = Share(ShareKind.RUN, 0, Policy.RESERVED, "late", "train")


def span(i, device="d", millijoules=None):
    millijoules = 1000 + i if millijoules is None else millijoules
    at_us = START_US + 4_000_000 * i
    return Measurement(
        "m", "b", device, Component.CPU, at_us, at_us + 4_000_000, SPAN_NS * i, SPAN_NS * (i + 1), millijoules,
        "rapl", Method.COUNTER, 0.03, "k", 0.01, 1.0, "agent",
        (Share(ShareKind.UNATTRIBUTED, millijoules, Policy.RESERVED),),
    )  # fmt: skip


@pytest.fixture
def outbox(tmp_path):
    made = Outbox(tmp_path / "o.sqlite", writer=True)
    yield made
    made.close()


def fill(outbox, first, last):
    for i in range(first, last):
        outbox.write(final=[span(i)])


def thin_all(outbox):
    while outbox.thin():
        pass


def spans(outbox):
    return [(row.started_ns // SPAN_NS, row.ended_ns // SPAN_NS) for row in outbox.bodies()]


def test_an_hour_becomes_one_span_and_the_newest_quarter_of_an_hour_stays(outbox, capsys):
    fill(outbox, 0, 900 + KEPT_SPANS)
    total = sum(row.energy_millijoules for row in outbox.bodies())
    thin_all(outbox)
    assert spans(outbox) == [(0, 900), *((i, i + 1) for i in range(900, 900 + KEPT_SPANS))]
    assert sum(row.energy_millijoules for row in outbox.bodies()) == total
    assert next(outbox.bodies()).note == "900 spans merged: the outbox was full"
    assert outbox.status().merged_spans == 899
    said = capsys.readouterr().err.splitlines()
    assert "spans were merged, which keeps their joules" in said[0]
    assert 1 < len(said) <= 10  # whenever the number had doubled
    (batch,) = outbox.batches()
    assert [row.seq for row in batch.rows] == list(range(1, 1 + 1 + KEPT_SPANS))


def test_rows_are_first_packed_closer_and_only_then_merged(outbox):
    fill(outbox, 0, 600)
    before = list(outbox.bodies())
    chunks = "select count(*) from final"
    while outbox._db.execute(chunks).fetchone()[0] > 6:
        assert outbox.thin()
        assert list(outbox.bodies()) == before


def test_what_was_sent_is_never_changed(outbox):
    fill(outbox, 0, 900 + KEPT_SPANS)
    batch = next(outbox.batches(limit=100))
    thin_all(outbox)
    again = next(outbox.batches(limit=100))
    assert again == batch
    assert spans(outbox)[:101] == [*((i, i + 1) for i in range(100)), (100, 900)]


def test_what_a_waiting_reassignment_names_stays_and_is_named_as_it_leaves(outbox):
    fill(outbox, 0, 50)
    (place,) = outbox.write(final=[span(50)])
    fill(outbox, 51, 900 + KEPT_SPANS)
    outbox.write(final=[Reassignment(outbox.incarnation, place, 7, NOBODY, LATE)])
    thin_all(outbox)
    assert spans_of_measurements(outbox)[:3] == [(0, 50), (50, 51), (51, 900)]
    rows = {row.seq: row.body for batch in outbox.batches() for row in batch.rows}
    (move,) = [row for row in rows.values() if isinstance(row, Reassignment)]
    assert rows[move.seq] == span(50)
    assert move.seq == 2


def test_a_row_that_a_late_mark_may_name_keeps_its_place_when_older_ones_behind_it_are_merged(outbox):
    rows = [span(i) for i in range(900, 1000)]
    places = outbox.write(final=rows[:50]) + outbox.write(final=rows[50:])
    outbox.write(final=[span(i, "silent for long") for i in range(200)])
    outbox.write(final=[span(1000)])
    thin_all(outbox)
    assert outbox.status().merged_spans == 186  # fourteen minutes are left
    thin_all(outbox)
    outbox.write(final=[Reassignment(outbox.incarnation, places[70], 7, NOBODY, LATE)])
    sent = {row.seq: row.body for batch in outbox.batches() for row in batch.rows}
    (move,) = [row for row in sent.values() if isinstance(row, Reassignment)]
    assert sent[move.seq] == rows[70]


def test_a_step_passes_by_a_bounded_part_of_a_long_queue_and_reads_it_once(outbox, monkeypatch):
    monkeypatch.setattr("joulebook.outbox_thinner.MOST_PASSED", 100)
    for i in range(0, 250 * 350, 250):
        outbox.write(final=[span(n) for n in range(i, i + 250)])
    pages = []
    outbox._db.set_trace_callback(lambda sql: pages.append(sql) if "order by f.opened" in sql else None)
    stops = []
    for _ in range(4):
        assert outbox.thin()
        stops.append(outbox.state("thinning"))
    assert stops == [[0, 1, 250 * 101], [0, 1, 250 * 202], [0, 1, 250 * 303], [1, 0, 0]]
    assert len(pages) == 8  # of a hundred each: two for each step, the last one's second is empty


def spans_of_measurements(outbox):
    rows = [row for row in outbox.bodies() if isinstance(row, Measurement)]
    return [(row.started_ns // SPAN_NS, row.ended_ns // SPAN_NS) for row in rows]


def test_a_row_of_an_earlier_writer_may_be_merged_at_once(outbox, tmp_path):
    fill(outbox, 0, 100)
    later = Outbox(tmp_path / "o.sqlite", writer=True)
    thin_all(later)
    assert spans(later) == [(0, 100)]
    later.close()


def test_a_late_mark_on_a_row_that_left_before_the_queue_was_thinned_names_what_it_was_sent_as(outbox):
    fill(outbox, 0, 500)
    thin_all(outbox)
    fill(outbox, 500, 510)
    for batch in outbox.batches():
        outbox.acknowledge(batch.incarnation, batch.last_seq)
    sent = {row.body.started_ns // SPAN_NS: row.seq for row in batch.rows}
    outbox.write(final=[Reassignment(outbox.incarnation, 506, 7, NOBODY, LATE)])  # the 506th row: span 505
    (batch,) = outbox.batches()
    assert batch.rows[0].body.seq == sent[505] < 506


def test_a_nearly_full_file_thins_by_itself_and_takes_rows_for_long(tmp_path):
    most = 1 << 20
    whole = Outbox(tmp_path / "whole.sqlite", writer=True)
    small = Outbox(tmp_path / "small.sqlite", writer=True, most_bytes=most)
    random = Random(1)
    largest = 0
    for i in range(0, 15000, 100):  # seventeen hours of five devices
        rows = [span(n, f"GPU-{d:032x}", random.getrandbits(40)) for n in range(i, i + 100) for d in range(5)]
        whole.write(final=rows)
        small.write(final=rows)
        largest = max(largest, small.status().bytes_on_disk)
    assert whole.status().merged_spans == 0
    assert whole.status().bytes_on_disk > most >= largest
    assert small.status().merged_spans > 0
    totals = [sum(row.energy_millijoules for row in box.bodies()) for box in (whole, small)]
    assert totals[0] == totals[1] > 0
    small.close()
    whole.close()
