"""Law 4 for a full outbox: merging spans keeps every millijoule of every device, run, phase and hour."""

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st
from joulebook.rows import Component, Mark, Measurement, Method, Policy, Share, ShareKind, Weights
from joulebook.thinning import STEPS_US, merged_count, thin

S_US = 1_000_000
HOUR_US = 3600 * S_US
START_US = 490_000 * HOUR_US - 600 * S_US

weights = st.builds(Weights, st.floats(0, 40), st.floats(0, 40), st.floats(0, 1))
names = st.sampled_from(
    [
        (ShareKind.UNATTRIBUTED, "", "", None, None),
        (ShareKind.RUN, "a", "train", None, None),
        (ShareKind.RUN, "a", "train", "m1", 0),
        (ShareKind.RUN, "a", "eval", None, None),
        (ShareKind.RUN, "b", "train", None, 1),
    ]
)


@st.composite
def shares(draw):
    found = []
    for kind, run_id, phase, member, rank in draw(st.lists(names, min_size=1, max_size=3, unique=True)):
        amount = draw(st.integers(0, 10**9))
        found.append(Share(kind, amount, Policy.RESERVED, run_id, phase, member, rank, draw(weights)))
    return tuple(found)


@st.composite
def streams(draw):
    """Devices' spans over up to hours, interleaved as an agent writes them, with gaps, cuts and marks between."""
    rows = []
    for device in draw(st.sampled_from([["d1"], ["d1", "d2"], ["d1", "d2", "d3"]])):
        at_us = START_US + draw(st.integers(0, 1200)) * S_US
        for _ in range(draw(st.integers(1, 25))):
            at_us += draw(st.sampled_from([0, 0, 0, 0, 0, 5 * S_US]))
            length = draw(st.sampled_from([4 * S_US, 4 * S_US, 60 * S_US, 300 * S_US, 1_234_567]))
            mine = draw(shares())
            rows.append(
                Measurement(
                    "m",
                    "b",
                    device,
                    Component.CPU,
                    at_us,
                    at_us + length,
                    at_us * 1000,
                    (at_us + length) * 1000,
                    sum(share.millijoules for share in mine),
                    draw(st.sampled_from(["rapl", "rapl", "model"])),
                    Method.COUNTER,
                    0.03,
                    "k",
                    draw(st.floats(0, 0.5)),
                    draw(st.sampled_from([1.0, 1.0, 0.5])),
                    "agent",
                    mine,
                    draw(st.sampled_from([None, None, 5])),
                    draw(st.sampled_from(["", "", "odd"])),
                )
            )
            at_us += length
    rows.sort(key=lambda row: row.started_ns)
    marks = [Mark("a", "m", "b", 1, "log", 1, 1, 1, n) for n in range(draw(st.integers(0, 3)))]
    for mark in marks:
        rows.insert(draw(st.integers(0, len(rows))), mark)
    return rows


def measurements(rows):
    return [row for row in rows if isinstance(row, Measurement)]


def totals(rows):
    """Millijoules by everything that a report can ask for."""
    found = defaultdict(int)
    for row in measurements(rows):
        hour = row.started_at_us // HOUR_US
        found["idle", row.device_id, hour] += row.idle_millijoules or 0
        for share in row.shares:
            who = (share.kind, share.run_id, share.phase, share.member, share.rank, share.policy)
            found[row.device_id, row.meter, hour, *who] += share.millijoules
            found[row.device_id, row.meter, row.note.split(";")[0] == "odd", *who] += share.millijoules
    return {key: value for key, value in found.items() if value}


@given(streams(), st.sampled_from(STEPS_US))
def test_every_device_run_phase_and_hour_keeps_its_millijoules(rows, step):
    # A span that itself crosses an hour is counted where it starts, before and after.
    thinned = thin(rows, step)
    assert totals(thinned) == totals(rows)
    for row in measurements(thinned):
        assert sum(share.millijoules for share in row.shares) == row.energy_millijoules


@given(streams(), st.sampled_from(STEPS_US))
def test_no_merged_span_crosses_its_step_and_none_covers_a_gap(rows, step):
    before = measurements(rows)
    for row in measurements(thin(rows, step)):
        if row in before:
            continue
        assert row.started_at_us // step == (row.ended_at_us - 1) // step
        inside = [r for r in before if r.device_id == row.device_id and row.started_ns <= r.started_ns < row.ended_ns]
        assert merged_count(row) == len(inside) > 1
        assert sum(r.ended_ns - r.started_ns for r in inside) == row.ended_ns - row.started_ns
        assert len({tuple(sorted(map(repr, shape(r)))) for r in inside}) == 1
        assert {(r.meter, r.method, r.u_common_key) for r in inside} == {(row.meter, row.method, row.u_common_key)}


def shape(row):
    return [(s.kind, s.run_id, s.phase, s.member, s.rank, s.policy) for s in row.shares]


@given(streams(), st.sampled_from(STEPS_US))
def test_thinning_twice_is_thinning_once(rows, step):
    once = thin(rows, step)
    assert thin(once, step) == once


@given(streams())
def test_thinning_by_and_by_keeps_what_thinning_at_once_keeps(rows):
    by_and_by = rows
    for step in STEPS_US:
        by_and_by = thin(by_and_by, step)
    at_once = thin(rows, STEPS_US[-1])
    assert totals(by_and_by) == totals(at_once)
    assert [spanned(row) for row in measurements(by_and_by)] == [spanned(row) for row in measurements(at_once)]


def spanned(row):
    return (row.device_id, row.meter, row.started_ns, row.ended_ns, row.energy_millijoules, row.note)


@given(streams(), st.sampled_from(STEPS_US))
def test_other_rows_keep_their_order_and_devices_theirs(rows, step):
    thinned = thin(rows, step)
    assert [row for row in thinned if isinstance(row, Mark)] == [row for row in rows if isinstance(row, Mark)]
    for device in {row.device_id for row in measurements(rows)}:
        starts = [row.started_ns for row in measurements(thinned) if row.device_id == device]
        assert starts == sorted(starts)


@given(streams())
def test_weights_and_uncertainty_are_within_what_they_were_made_of(rows):
    before = measurements(rows)
    for row in measurements(thin(rows, HOUR_US)):
        inside = [r for r in before if r.device_id == row.device_id and row.started_ns <= r.started_ns < row.ended_ns]
        assert min(r.coverage for r in inside) <= row.coverage <= max(r.coverage for r in inside)
        assert row.u_indep <= max(r.u_indep for r in inside) * (1 + 1e-12)
        seconds = sum(s.weights.cpu_seconds for r in inside for s in r.shares)
        assert abs(sum(s.weights.cpu_seconds for s in row.shares) - seconds) <= 1e-9 * max(1, seconds)
