"""Laws 1, 2 and 3: exact shares, each device once, and the same book however rows arrive."""

import random
import tempfile
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joulebook.errors import LedgerError
from joulebook.rows import Mark, Method, Policy, Reassignment, Share, ShareKind, Status, Weights
from joulebook.summary import check_conservation
from joulebook_collector.conservation import verify
from joulebook_collector.ledger import Ledger
from joulebook_collector.shadows import Covered, Look, shadowed
from joulebook_collector.testing import START_US, a_batch, a_measurement, a_run

FEW = settings(max_examples=12, deadline=None)


def a_stream(agent: int, spans: int, meter: str) -> list:
    """One agent's rows in its order: a run that starts, its spans and marks, the run's end."""
    run = a_run(f"run-{agent}", 0, None)
    rows: list = [run]
    for i in range(spans):
        rows.append(a_measurement(i * 10, i * 10 + 10, 1000 + 7 * i + agent, run.run_id, 900, meter=meter))
        at_ns = i * 10**10
        rows.append(Mark(run.run_id, "m1", "b1", 7, "log", START_US + i, at_ns, 0, i, samples=i))
    return [*rows, a_run(run.run_id, 0, spans * 10)]


def book(deliveries: list) -> tuple:
    """What a ledger says after these deliveries, knowledge times apart."""
    with tempfile.TemporaryDirectory() as home, Ledger.open(Path(home) / "ledger.duckdb") as ledger:
        for batch in deliveries:
            ledger.ingest(batch)
        ids = [run.run_id for run in ledger.runs()]
        return ledger.runs(), ledger.measurements(), ledger.marks(ids), verify(ledger)


@FEW
@given(
    st.lists(st.tuples(st.integers(1, 4), st.sampled_from(["nvml", "dcgm"])), min_size=1, max_size=3),
    st.integers(1, 5),
    st.randoms(use_true_random=False),
)
def test_any_order_batching_and_repetition_gives_the_same_book(agents, size, rng: random.Random):
    streams = [a_stream(n, spans, meter) for n, (spans, meter) in enumerate(agents)]
    names = [{"agent_id": f"a{n}", "incarnation": f"i{n}"} for n in range(len(streams))]
    in_order = [a_batch(rows, **name) for rows, name in zip(streams, names, strict=True)]
    pieces = []
    for rows, name in zip(streams, names, strict=True):
        first = 0
        while first < len(rows):
            length = rng.randint(1, size)
            pieces.append(a_batch(rows[first : first + length], first=first + 1, **name))
            first += length
    pieces += rng.sample(pieces, rng.randint(0, len(pieces)))
    rng.shuffle(pieces)
    assert book(pieces) == book(in_order)


def a_part(machine: int, start: int, end: int, status: str, words: dict) -> list:
    """One machine's rows of a run on several, in its agent's order."""
    where = {"machine_id": f"m{machine}", "boot_id": f"b{machine}"}
    record = {"cpus": 4, **words}
    begun = a_run("job", start, None, record=record, **where)
    spans = [
        a_measurement(at, at + 1, 100 + at, "job", device_id=f"GPU-{machine}", **where) for at in range(start, end)
    ]
    ended = a_run(
        "job", start, end, status=Status(status), reason="" if status == "ok" else status, record=record, **where
    )
    return [begun, *spans, begun if status == "running" else ended]


@FEW
@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.integers(4, 6),
            st.sampled_from(["ok", "failed", "interrupted", "running"]),
            st.dictionaries(st.sampled_from(["gpus", "load_1min"]), st.integers(0, 1)),
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 4),
    st.randoms(use_true_random=False),
)
def test_a_run_on_several_machines_is_the_same_in_whatever_order_their_rows_come(parts, size, rng: random.Random):
    pieces = []
    for n, (start, end, status, words) in enumerate(parts):
        rows, first = a_part(n, start, end, status, words), 0
        while first < len(rows):
            length = rng.randint(1, size)
            name = {"agent_id": f"a{n}", "incarnation": f"i{n}"}
            pieces.append(a_batch(rows[first : first + length], first=first + 1, **name))
            first += length
    told = book(pieces)
    rng.shuffle(pieces)
    assert book(pieces) == told
    ((run,), _, _, check) = told
    statuses = {status for _, _, status, _ in parts}
    assert run.status == next(s for s in ("running", "interrupted", "failed", "ok") if s in statuses)
    assert run.started_at_us == START_US + 1_000_000 * min(start for start, *_ in parts)
    assert check.conservation.holds


@FEW
@given(st.integers(0, 5), st.integers(1, 6))
def test_a_crash_before_the_commit_leaves_nothing_and_after_it_everything(crash_at, rows):
    moments = iter(range(1, 10**6))

    def clock() -> int:
        now = next(moments)
        if now == crash_at + 3:
            raise KeyboardInterrupt
        return now

    batches = [a_batch([a_measurement(i, i + 1, i)], first=i + 1) for i in range(rows)]
    with tempfile.TemporaryDirectory() as home:
        path = Path(home) / "ledger.duckdb"
        taken = 0
        with Ledger.open(path, clock=clock) as ledger:
            try:
                for batch in batches:
                    ledger.ingest(batch)
                    taken += 1
            except KeyboardInterrupt:
                pass
        with Ledger.open(path) as ledger:
            assert len(ledger.measurements()) == taken
            for batch in batches:
                ledger.ingest(batch)
            assert [m.energy_millijoules for m in ledger.measurements()] == list(range(rows))


looks = st.builds(
    lambda n, start, length, method, u, agent, boot: Look(
        name=(n, 0),
        device=("m", "d"),
        boot_id=boot,
        us=(start, start + length),
        ns=(start * 1000, (start + length) * 1000),
        method=method,
        u_common=u,
        u_indep=0.0,
        agent_id=f"{agent}{n}",
        meter="x",
    ),
    st.integers(0, 10**9),
    st.integers(0, 50),
    st.integers(1, 20),
    st.sampled_from([str(m) for m in Method]),
    st.sampled_from([0.01, 0.05]),
    st.sampled_from("ab"),
    st.sampled_from(["b1", "utc"]),
)


@given(st.lists(looks, max_size=12, unique_by=lambda look: look.name), st.randoms(use_true_random=False))
def test_what_counts_of_a_device_never_overlaps_and_does_not_depend_on_order(some, rng):
    hidden = shadowed(some)
    counted = [look for look in some if look.name not in hidden]
    for a in counted:
        for b in counted:
            assert a is b or a.us[1] <= b.us[0] or b.us[1] <= a.us[0]
    for loser in (look for look in some if look.name in hidden):
        assert any(
            better.rank() < loser.rank() and better.us[0] < loser.us[1] and loser.us[0] < better.us[1]
            for better in counted
        )
    rng.shuffle(some)
    assert shadowed(some) == hidden


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 10)), max_size=12), st.integers(0, 50), st.integers(1, 9))
def test_covered_is_the_union_of_what_was_added(spans, start, length):
    covered = Covered()
    for at, long in spans:
        covered.add(at, at + long)
    union = {second for at, long in spans for second in range(at, at + long)}
    assert covered.meets(start, start + length) == bool(union & set(range(start, start + length)))


def test_a_ledger_counts_the_better_look_whichever_comes_first(tmp_path):
    counter = a_measurement(0, 10, 1000)
    modelled = a_measurement(3, 8, 400, meter="model", method=Method.MODELLED)
    for n, order in enumerate([(counter, modelled), (modelled, counter)]):
        with Ledger.open(tmp_path / f"{n}.duckdb") as ledger:
            for body in order:
                ledger.ingest(a_batch([body], agent_id=body.meter, incarnation=body.meter))
            assert ledger.measurements() == [counter]
            assert ledger.measurements(run_ids=["r1"]) == [counter]
            assert ledger.shadowed_count() == 1
            assert verify(ledger).shadowed == 1


def test_an_import_of_a_device_that_an_agent_metered_is_compared_in_utc(tmp_path):
    metered = a_measurement(0, 10, 1000)
    imported = replace(metered, boot_id="utc", started_ns=5, ended_ns=6, method=Method.INTEGRATED, meter="import")
    with Ledger.open(tmp_path / "l.duckdb") as ledger:
        ledger.ingest(a_batch([imported], agent_id="import:1", incarnation="measurements"))
        ledger.ingest(a_batch([metered]))
        assert ledger.measurements() == [metered]


@pytest.mark.parametrize(
    "sql",
    [
        "update share_row set millijoules = millijoules + 1 where ordinal = 0",
        "update share_row set millijoules = -5 where ordinal = 0",
        "update measurement_row set energy_millijoules = energy_millijoules - 1",
        "delete from share_row where ordinal = 0",
    ],
)
def test_an_altered_share_or_measurement_is_refused_by_every_reader(tmp_path, sql):
    path = tmp_path / "ledger.duckdb"
    with Ledger.open(path) as ledger:
        ledger.ingest(a_batch([a_measurement(0, 10, 1000, "r1", 600)]))
    with duckdb.connect(str(path)) as db:
        db.execute(sql)
    with Ledger.open(path) as ledger:
        for read in (ledger.measurements, lambda: ledger.measurements(run_ids=["r1"]), lambda: verify(ledger)):
            with pytest.raises(LedgerError, match="GPU-1"):
                read()


@pytest.mark.parametrize(
    "sql",
    [
        "update owner set run_id = 'another' where kind = 'run'",
        "update share_row set millijoules = case when ordinal = 0 then 700 else 300 end",
        "update measurement_row set ended_at_us = ended_at_us + 1",
        "delete from measurement_row",
    ],
)
def test_the_whole_book_check_finds_what_still_adds_up(tmp_path, sql):
    path = tmp_path / "ledger.duckdb"
    with Ledger.open(path) as ledger:
        ledger.ingest(a_batch([a_measurement(0, 10, 1000, "r1", 600)]))
        assert verify(ledger).conservation.holds
    with duckdb.connect(str(path)) as db:
        db.execute(sql)
    with Ledger.open(path) as ledger, pytest.raises(LedgerError, match="differs from what was written"):
        verify(ledger)


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("update run set status = 'failed'", "run 2 of transaction"),
        ("update run set study = 'another'", "run 2 of transaction"),
        ("update mark set samples = samples + 1", "mark 3 of transaction"),
        ("update mark set quality = '{\"accuracy\":0.99}'", "mark 3 of transaction"),
        ("update reassignment set millijoules = 399", "reassignment 4 of transaction"),
        ("update quarantine set body = replace(body, '1000', '1001')", "the refused measurement 5 of transaction"),
        ("update quarantine set body = '5' where seq = 5", "the refused measurement 5 of transaction"),
        (
            "update quarantine set body = replace(body, 'nvml', 'rapl') where seq = 6",
            "the refused measurement 6 of transaction",
        ),
        ("delete from mark", "a row of transaction 2 is gone"),
        ("delete from quarantine where seq = 6", "a row of transaction 2 is gone, after the refused measurement 5"),
    ],
)
def test_the_whole_book_check_finds_any_altered_row_of_a_stream(tmp_path, sql, what):
    path = tmp_path / "ledger.duckdb"
    measured = a_measurement(0, 10, 1000, "r1", 600)
    late = Share(ShareKind.RUN, 0, Policy.RESERVED, "r1", "eval", weights=Weights(cpu_seconds=0.25))
    bodies = [
        measured,
        a_run(labels=replace(a_run().labels, study="s"), record={"gpu": "x", "n": 1.5}),
        Mark("r1", "m1", "b1", 7, "log", START_US, 5, 6, 1, samples=3, flops=1e12, quality={"accuracy": 0.5}),
        Reassignment("inc-1", 1, 400, measured.shares[1], late),
        a_measurement(5, 15, 1000),
        a_measurement(20, 30, 7, source=5),
    ]
    with Ledger.open(path) as ledger:
        assert ledger.ingest(a_batch(bodies)).quarantined == 2
        assert verify(ledger).conservation.holds
    with duckdb.connect(str(path)) as db:
        db.execute(sql)
    with Ledger.open(path) as ledger, pytest.raises(LedgerError, match=what):
        verify(ledger)


def test_conservation_of_the_book_is_the_sum_of_its_measurements(tmp_path):
    with Ledger.open(tmp_path / "l.duckdb") as ledger:
        ledger.ingest(a_batch([a_measurement(i, i + 1, 100, "r1", 60) for i in range(5)]))
        total = check_conservation(ledger.measurements())
        # 5 spans of 100 mJ, 60 of each the run's.
        assert (total.measured, total.runs, total.idle, total.unattributed) == (500, 300, 0, 200)
        assert verify(ledger).conservation == total
