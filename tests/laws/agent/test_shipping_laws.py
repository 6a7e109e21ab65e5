"""Whatever a server answers, rows are forgotten for an acknowledgement of theirs and for nothing else."""

import contextlib
import io
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from joulebook.collector_client import Answer, _object, _retry_after, destination
from joulebook.outbox import Outbox
from joulebook.rows import Mark
from joulebook.shipping import LONGEST_ASKED_WAIT_SECONDS, Shipper

ROWS = 6
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
answers = st.fixed_dictionaries(
    {},
    optional={
        "acknowledged": json_values,
        "refused": json_values | st.lists(st.fixed_dictionaries({"seq": st.integers(-1, 9), "reason": json_values})),
        "error": st.sampled_from(["forked", "token", 7, None]),
        "seq": json_values,
        "message": json_values,
    },
)
statuses = st.sampled_from([200, 201, 204, 301, 400, 401, 409, 413, 418, 429, 500, 503])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(statuses, answers, st.none() | st.floats(0, 1e9)), min_size=1, max_size=4))
def test_rows_leave_only_when_they_were_acknowledged(replies):
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        outbox = Outbox(Path(folder) / "o.sqlite", writer=True)
        outbox.write(final=[Mark("r", "m", "b", 1, "log", 1, 1, 1, n) for n in range(ROWS)])
        shipper = Shipper(outbox.path, destination("http://127.0.0.1:1", None, None), jitter=lambda: 1.0)
        for status, values, asked in replies:
            before = [row.n for row in outbox.bodies()]
            parcel = outbox.parcel(shipper._limit)
            if parcel is None:
                break
            wait = shipper._judge(outbox, parcel, Answer(status, values, asked))
            after = [row.n for row in outbox.bodies()]
            assert after == before[len(before) - len(after) :]
            taken = len(before) - len(after)
            told = values.get("acknowledged") if 200 <= status < 300 else None
            if type(told) is int and parcel.first_seq <= told <= parcel.last_seq:
                assert taken == told - parcel.first_seq + 1
            elif status == 409 and values.get("error") == "forked":
                # Those before the first that differs are stored alike.
                assert not taken or values["seq"] == parcel.first_seq + taken
            else:
                assert taken == 0
            assert 0 <= wait <= LONGEST_ASKED_WAIT_SECONDS
        assert len(outbox.refused()) <= ROWS
        outbox.close()


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_a_body_that_is_no_object_says_nothing(text):
    assert isinstance(_object(text), dict)


@given(st.text(st.characters(max_codepoint=255), max_size=40))
def test_a_pause_is_read_from_anything(text):
    seconds = _retry_after(text)
    assert seconds is None or seconds >= 0
