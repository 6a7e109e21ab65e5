"""Batches judged while they are decoded are judged as row by row: nothing else is accepted, and nothing differs."""

import json

from hypothesis import given
from hypothesis import strategies as st
from joulebook.rows import to_wire
from joulebook_collector.plain import PlainMeasurement, plain_batch
from joulebook_collector.service.wire import Malformed, read_each
from joulebook_collector.testing import START_US, a_measurement
from joulebook_collector.unread import Unread
from service import wire

ROW = to_wire(a_measurement(run_millijoules=400, idle_millijoules=3))
EDGES = [0, -0.0, 0.0, -1, 1, 0.5, 1.0, 1.5, 2**63 - 1, 2**63, 10**30, 1e308, 1e309, -1e-300, START_US, 5, True, None]
TEXTS = ["", "x", "x" * 512, "x" * 513, "\0", "é\U0001f600", "\ud800", "run", "idle", "counter", "gpu", "train"]
VALUES = st.sampled_from([*EDGES, *TEXTS, [], {}, [1]])


@st.composite
def changed(draw):
    """The row, or one of its shares or their weights, with up to two values changed, gone or added."""
    row = json.loads(json.dumps(ROW))
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.sampled_from([row, row["shares"][0], row["shares"][1], row["shares"][1]["weights"]]))
        name = draw(st.sampled_from([*sorted(place), "new"]))
        if draw(st.booleans()):
            place[name] = draw(VALUES)
        else:
            place.pop(name, None)
        if not (isinstance(row.get("shares"), list) and len(row["shares"]) == 2):
            break
        if not all(isinstance(share, dict) and isinstance(share.get("weights"), dict) for share in row["shares"]):
            break
    return row


@given(rows=st.lists(changed(), min_size=1, max_size=3))
def test_plain_batches_are_what_row_by_row_they_are(rows):
    text = wire(rows)
    plain = plain_batch(text)
    try:
        each = [row.body for row in read_each(text).rows]
    except Malformed:
        each = None
    if plain is None:
        return
    assert [row.as_body() for row in plain.rows] == each
    assert not any(isinstance(body, Unread) for body in each)


def test_what_agents_send_is_plain():
    rows = [a_measurement(), a_measurement(note="n", idle_millijoules=5, end_slack_millijoules=7)]
    plain = plain_batch(wire(rows, first=7))
    assert [type(row) for row in plain.rows] == [PlainMeasurement] * 2
    assert [row.as_body() for row in plain.rows] == rows
    assert plain.first_seq == 7
