"""The outbox: one transaction or nothing, order within an incarnation, forgotten only when acknowledged."""

import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace

import pytest
from builders import counter_history, measured
from joulebook.binding import Machine
from joulebook.clock import Offset
from joulebook.errors import JoulebookError
from joulebook.history import History
from joulebook.outbox import Outbox
from joulebook.rows import Mark

S = 1_000_000_000


def mark(n):
    return Mark("r", "m", "b", 1, "log", 1, 1, 1, n)


def some_measurement():
    history = counter_history([(0, 0), (S, 100_000_000)])
    return measured(Machine("m", "b", History(), S), [history], [], 0, S // 2, Offset(10**18))[0]


def test_rows_come_out_in_order_and_as_they_went_in(tmp_path):
    outbox = Outbox(tmp_path / "o.sqlite", writer=True)
    row = some_measurement()
    assert outbox.write(final=[mark(1), row]) == [1, 2]
    assert outbox.write(final=[mark(2)]) == [3]
    (batch,) = Outbox(tmp_path / "o.sqlite", writer=False).batches()
    assert [r.seq for r in batch.rows] == [1, 2, 3]
    assert [r.body for r in batch.rows] == [mark(1), row, mark(2)]
    assert (batch.agent_id, batch.incarnation) == (outbox.agent_id, outbox.incarnation)


def test_open_rows_are_replaced_dropped_and_finished(tmp_path):
    outbox = Outbox(tmp_path / "o.sqlite", writer=True)
    outbox.write(open_rows={"a": mark(1), "b": mark(2), "c": mark(3)})
    outbox.write(drop=["a"], open_rows={"b": mark(22)})
    assert outbox.open_rows() == {"b": mark(22), "c": mark(3)}
    assert outbox.write(finish=[("b", mark(222))]) == [1]
    assert outbox.open_rows() == {"c": mark(3)}
    assert outbox.depth() == 1


def test_a_new_writer_is_a_new_incarnation_and_old_rows_keep_theirs(tmp_path):
    first = Outbox(tmp_path / "o.sqlite", writer=True)
    first.write(final=[mark(1)])
    second = Outbox(tmp_path / "o.sqlite", writer=True)
    assert second.agent_id == first.agent_id
    second.write(final=[mark(2)])
    assert [(b.incarnation, b.first_seq) for b in second.batches()] == [(first.incarnation, 1), (second.incarnation, 1)]


def test_acknowledged_rows_are_forgotten_and_no_others(tmp_path):
    outbox = Outbox(tmp_path / "o.sqlite", writer=True)
    outbox.write(final=[mark(n) for n in range(1, 6)])
    (batch,) = outbox.batches()
    outbox.acknowledge(batch.incarnation, 3)
    assert [r.seq for b in outbox.batches() for r in b.rows] == [4, 5]
    assert outbox.write(final=[mark(6)]) == [6]
    assert [(r.seq, r.body.n) for b in outbox.batches() for r in b.rows] == [(4, 4), (5, 5), (6, 6)]


def test_what_was_never_sent_cannot_be_acknowledged(tmp_path):
    outbox = Outbox(tmp_path / "o.sqlite", writer=True)
    outbox.write(final=[mark(1)])
    outbox.acknowledge(outbox.incarnation, 1)
    assert outbox.depth() == 1


def test_batches_are_contiguous_and_bounded(tmp_path):
    outbox = Outbox(tmp_path / "o.sqlite", writer=True)
    outbox.write(final=[mark(n) for n in range(25)])
    assert [(b.first_seq, b.last_seq) for b in outbox.batches(limit=10)] == [(1, 10), (11, 20), (21, 25)]


def test_only_a_writer_writes(tmp_path):
    with pytest.raises(ValueError, match="drain"):
        Outbox(tmp_path / "o.sqlite", writer=False).write(final=[mark(1)])


def test_the_file_is_its_owners_alone(tmp_path):
    Outbox(tmp_path / "o.sqlite", writer=True)
    assert (tmp_path / "o.sqlite").stat().st_mode & 0o777 == 0o600


def test_a_full_outbox_refuses_whole_transactions_until_rows_are_acknowledged(tmp_path):
    outbox = Outbox(tmp_path / "o.sqlite", writer=True, most_bytes=200_000)
    written = 0

    def write_hundred():
        nonlocal written
        outbox.write(final=[mark(n) for n in range(100)])
        written += 100

    with pytest.raises(OSError, match="full"):
        for _ in iter(write_hundred, "never"):
            pass
    assert outbox.depth() == written
    assert outbox.status().bytes_on_disk <= 200_000
    for batch in outbox.batches():
        outbox.acknowledge(batch.incarnation, batch.last_seq)
    assert outbox.depth() == 0
    assert outbox.write(final=[mark(1)]) == [written + 1]


def test_an_outbox_beyond_the_bound_of_who_drains_it_is_drained(tmp_path):
    outbox = Outbox(tmp_path / "o.sqlite", writer=True)
    for n in range(60):
        outbox.write(final=[replace(mark(n), phase=os.urandom(100).hex()) for _ in range(100)])
    outbox.close()
    assert outbox.path.stat().st_size > 600_000
    shipper = Outbox(tmp_path / "o.sqlite", writer=False, most_bytes=200_000)
    for batch in shipper.batches():
        shipper.acknowledge(batch.incarnation, batch.last_seq, {row.seq: "refused" for row in batch.rows})
    assert shipper.depth() == 0


WRITER = """
import sys
from pathlib import Path
from joulebook.outbox import Outbox
from joulebook.rows import Mark
outbox = Outbox(Path(sys.argv[1]), writer=True)
n = 0
while True:
    outbox.write(final=[Mark("r", "m", "b", 1, "log", 1, 1, 1, n + i) for i in range(3)])
    n += 3
    print(n, flush=True)
"""


def test_a_kill_loses_no_written_row_and_leaves_no_half_transaction(tmp_path):
    path = tmp_path / "o.sqlite"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    told = [int(writer.stdout.readline()) for _ in range(20)]
    os.kill(writer.pid, signal.SIGKILL)
    told += [int(word) for word in writer.stdout.read().split()]
    writer.wait()
    writer.stdout.close()
    numbers = [r.body.n for b in Outbox(path, writer=False).batches() for r in b.rows]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= told[-1]
    assert len(numbers) % 3 == 0


def test_a_drained_outbox_gives_the_disk_back(tmp_path):
    outbox = Outbox(tmp_path / "o.sqlite", writer=True)
    for _ in range(60):  # 12 MB that do not pack
        outbox.write(final=[replace(mark(n), phase=os.urandom(200).hex()) for n in range(1000)])
    full = outbox.status().bytes_on_disk
    for batch in outbox.batches():
        outbox.acknowledge(batch.incarnation, batch.last_seq)
    outbox.write(final=[mark(1)])
    outbox.close()
    assert outbox.path.stat().st_size < full / 2


def test_looking_at_an_outbox_needs_no_writing(tmp_path):
    path = tmp_path / "o.sqlite"
    outbox = Outbox(path, writer=True)
    outbox.write(final=[mark(1)])
    log = path.with_name("o.sqlite-wal")
    before = log.read_bytes()
    look = Outbox(path, writer=False)
    assert (list(look.bodies()), look.depth(), look.open_rows()) == ([mark(1)], 1, {})
    look.close()
    assert log.read_bytes() == before
    outbox.close()


def test_an_earlier_writers_open_rows_are_finished_by_the_next(tmp_path):
    first = Outbox(tmp_path / "o.sqlite", writer=True)
    first.write(open_rows={"a": mark(1), "b": mark(2), "c": mark(3)})
    first.close()
    second = Outbox(tmp_path / "o.sqlite", writer=True)
    left = second.open_rows()
    assert second.write(finish=[("b", left["b"])]) == [1]
    assert second.open_rows() == {"a": mark(1), "c": mark(3)}
    assert second.write(finish=[("a", left["a"]), ("c", left["c"])]) == [2, 3]
    assert second.open_rows() == {}
    assert [row.n for row in second.bodies()] == [2, 1, 3]
    second.close()


def test_spans_that_finish_as_they_were_opened_are_not_packed_again(tmp_path):
    outbox = Outbox(tmp_path / "o.sqlite", writer=True)
    rows = {key: mark(n) for n, key in enumerate("abcd")}
    outbox.write(open_rows={key: rows[key] for key in "ab"})
    outbox.write(open_rows={key: rows[key] for key in "cd"})
    packed = [body for (body,) in outbox._db.execute("select body from open order by id")]
    changed = replace(rows["d"], n=40)
    places = outbox.write(
        finish=[("a", rows["a"]), ("b", rows["b"]), ("c", rows["c"]), ("d", changed)], final=[mark(9)]
    )
    assert places == [1, 2, 3, 4, 5]
    assert [row.n for row in outbox.bodies()] == [0, 1, 2, 40, 9]
    assert outbox._db.execute("select body from final order by first").fetchone()[0] == packed[0]
    outbox.close()


def test_status_tells_how_long_the_oldest_row_has_waited(tmp_path):
    outbox = Outbox(tmp_path / "o.sqlite", writer=True)
    assert outbox.status().oldest_us is None
    row = some_measurement()
    outbox.write(final=[row, mark(1)])
    assert outbox.status().oldest_us == row.ended_at_us
    (batch,) = outbox.batches()
    outbox.acknowledge(batch.incarnation, 1)
    assert outbox.status().oldest_us == mark(1).at_us
    outbox.acknowledge(batch.incarnation, 2)
    outbox.write(final=[replace(mark(3), phase=os.urandom(250).hex(), quality={f"m{i}": 1.0 for i in range(600)})])
    assert outbox.status().oldest_us == mark(3).at_us
    outbox.close()


@pytest.mark.parametrize("sent_before", [False, True])
def test_damaged_rows_are_kept_aside_as_a_gap_and_all_others_leave(tmp_path, capsys, sent_before):
    path = tmp_path / "o.sqlite"
    outbox = Outbox(path, writer=True)
    for n in range(1, 7, 2):
        outbox.write(final=[mark(n), mark(n + 1)])
    if sent_before:
        list(Outbox(path, writer=False).batches())
    damaged = b"\x78\x01 no rows"
    with sqlite3.connect(path) as db:
        db.execute("update final set body = ? where first = 3", (damaged,))
    drain = Outbox(path, writer=False)
    batches = list(drain.batches())
    assert [[(row.seq, row.body.n) for row in batch.rows] for batch in batches] == [[(1, 1), (2, 2)], [(5, 5), (6, 6)]]
    assert {batch.incarnation for batch in batches} == {outbox.incarnation}
    (kept,) = tmp_path.glob("*.unreadable-*")
    assert kept.read_bytes() == damaged
    assert drain.status().set_aside == (f"o.sqlite.unreadable-rows-{outbox.incarnation}-3-4",) == (kept.name,)
    assert outbox.depth() == 4
    said = capsys.readouterr().err
    assert "2 rows of the outbox" in said
    assert "seq 3 to 4" in said
    list(drain.batches())
    assert capsys.readouterr().err == ""  # once
    outbox.acknowledge(outbox.incarnation, 6)
    assert outbox.depth() == 0


def test_damaged_rows_at_the_front_stop_neither_status_nor_shipping(tmp_path):
    outbox = Outbox(tmp_path / "o.sqlite", writer=True)
    outbox.write(final=[mark(1)])
    outbox.write(final=[mark(2)])
    with sqlite3.connect(outbox.path) as db:
        db.execute("update final set body = x'00' where first = 1")
    assert outbox.status().oldest_us is None
    parcel = outbox.parcel()
    assert (parcel.first_seq, parcel.count) == (2, 1)


def test_damaged_rows_that_cannot_be_kept_stay_where_they_are(tmp_path):
    outbox = Outbox(tmp_path / "o.sqlite", writer=True)
    outbox.write(final=[mark(1)])
    with sqlite3.connect(outbox.path) as db:
        db.execute("update final set body = x'00'")
    (tmp_path / f"o.sqlite.unreadable-rows-{outbox.incarnation}-1-1").mkdir()
    with pytest.raises(JoulebookError, match="cannot be kept aside"):
        outbox.parcel()
    assert outbox.depth() == 1
