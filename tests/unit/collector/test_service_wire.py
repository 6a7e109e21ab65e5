"""A request's bytes become a batch; what cannot become a row stands in it as it came."""

import gzip
import json
from dataclasses import replace

import pytest
import zstandard
from joulebook.rows import Ensemble, Labels, Mark, Policy, Reassignment, Share, ShareKind, Technique, to_wire
from joulebook_collector.limits import MOST_ROWS
from joulebook_collector.plain import PlainMeasurement
from joulebook_collector.service.unpack import Garbled, TooLarge, unpack
from joulebook_collector.service.wire import Malformed, TooManyRows, read_batch
from joulebook_collector.testing import START_US, a_measurement, a_run
from joulebook_collector.unread import Unread
from service import wire

LABELS = Labels(
    project="p",
    techniques=(Technique("int8", {"bits": 8, "layers": ["a"]}),),
    ensemble=Ensemble("e", "bagging", 4),
    member="1",
    inherits=("r0",),
)
SHARE = Share(ShareKind.UNATTRIBUTED, 5, Policy.RESERVED)
BODIES = (
    a_measurement(),
    a_measurement(idle_millijoules=7, note="n", start_slack_millijoules=1, end_slack_millijoules=None),
    a_run(labels=LABELS, record={"gpu": ["x"], "nested": {"a": None}}, command=("python", "a.py")),
    Mark("r1", "m1", "b1", 7, "log", START_US, 5, 6, 1, quality={"accuracy": 0.5}, samples=3, flops=1e18),
    Reassignment("inc-1", 1, 5, SHARE, replace(SHARE, kind=ShareKind.RUN, run_id="r1")),
)


def only(body):
    """The one row of a batch of that body."""
    (row,) = read_batch(wire([body])).rows
    return row.body.as_body() if isinstance(row.body, PlainMeasurement) else row.body


@pytest.mark.parametrize("body", BODIES, ids=lambda body: type(body).__name__)
def test_every_row_comes_as_it_was_sent(body):
    assert only(body) == body


@pytest.mark.parametrize("body", BODIES, ids=lambda body: type(body).__name__)
def test_fields_that_are_not_known_are_ignored(body):
    assert only({**to_wire(body), "colour": "green"}) == body


MANY = {str(i): i for i in range(65)}


def changed(body=BODIES[0], **changes):
    return {**to_wire(body), **changes}


def share(**changes):
    return changed(shares=[{**to_wire(BODIES[0])["shares"][0], **changes}])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (5, "cannot be read"),
        ("text", "cannot be read"),
        ([], "cannot be read"),
        ({}, "unknown kind ''"),
        ({"row": "nonsense"}, "unknown kind 'nonsense'"),
        ({"row": "measurement"}, "missing required field"),
        (changed(energy_millijoules=-1), "energy_millijoules is -1"),
        (changed(energy_millijoules=1.5), "cannot be read"),
        (changed(energy_millijoules="1000"), "cannot be read"),
        (changed(energy_millijoules=10**30), "do not sum"),
        (changed(u_common=float("nan")), "not finite"),
        (changed(u_indep=float("-inf")), "not finite"),
        (changed(u_common=-0.5), "u_common is -0.5"),
        (changed(coverage=1.5), "coverage 1.5"),
        (changed(component="sun"), "cannot be read"),
        (changed(machine_id=""), "machine_id"),
        (changed(machine_id="m" * 600), "machine_id"),
        (changed(boot_id="b" * 600), "boot_id has 600 characters"),
        (changed(note="n" * 70_000), "note has 70000 characters"),
        (changed(started_at_us=10), "not within 2015 to 2100"),
        (changed(started_at_us=0, ended_at_us=5), "not within 2015 to 2100"),
        (changed(ended_at_us=4_200_000_000_000_000), "not within 2015 to 2100"),
        (changed(ended_at_us=START_US - 5), "ends at or before its start"),
        (changed(started_ns=-5), "before the machine's boot"),
        (changed(shares=[]), "do not sum"),
        (share(weights={"cpu_seconds": -1}), "negative"),
        (share(run_id="r" * 600), "longer than 512"),
        (changed(shares=to_wire(BODIES[0])["shares"] * 3000), "do not sum"),
        (changed(BODIES[2], started_at_us=1), "not within 2015 to 2100"),
        (changed(BODIES[2], record={"a": "x"}, labels={"techniques": [{"name": "t"}] * 65}), "65 techniques"),
        (changed(BODIES[2], labels={"techniques": [{"name": "t", "parameters": MANY}]}), "65 p"),
        (changed(BODIES[2], labels={"project": "p" * 600}), "project has 600"),
        (changed(BODIES[2], command=["x" * 70_000]), "70000 characters"),
        (changed(BODIES[3], quality={f"m{i}": 0.5 for i in range(65)}), "65 metrics"),
        (changed(BODIES[3], quality={"accuracy": float("inf")}), "not finite"),
        (changed(BODIES[3], at_us=4_200_000_000_000_000), "not within 2015 to 2100"),
        (changed(BODIES[4], millijoules=-3), "reassigned millijoules is -3"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_row_that_breaks_a_rule_is_kept_with_the_reason_and_the_others_are_taken(row, reason):
    first, second, third = read_batch(wire([BODIES[0], row, BODIES[2]], first=41)).rows
    assert (first.seq, first.body, third.body) == (41, BODIES[0], BODIES[2])
    assert isinstance(second.body, Unread)
    assert reason in second.body.reason
    kept = json.loads(second.body.text)
    assert json.dumps(kept, sort_keys=True) == json.dumps(json.loads(json.dumps(row)), sort_keys=True)


def test_a_record_nested_too_deep_is_refused_and_one_that_no_parser_takes_is_no_batch():
    def nested(levels):
        value = 1
        for _ in range(levels):
            value = {"a": value}
        return value

    assert only(changed(BODIES[2], record=nested(30))) == replace(BODIES[2], record=nested(30))
    assert "nested deeper" in only(changed(BODIES[2], record=nested(40))).reason
    text = wire([BODIES[0]]).replace(b'"rows": [', b'"rows": [' + b"[" * 100_000)
    with pytest.raises(Malformed):
        read_batch(text)


def test_the_same_row_is_the_same_text_however_it_was_written():
    one, other = '{"row":"x","b":[1.0, 2],"a":NaN}', ' { "a" : NaN, "b" : [1.0,2], "row" : "x"} '
    texts = {
        read_batch(f'{{"version":1,"agent_id":"a","incarnation":"i","first_seq":1,"rows":[{row}]}}'.encode())
        .rows[0]
        .body.text
        for row in (one, other)
    }
    assert len(texts) == 1


def test_half_a_surrogate_keeps_the_rest():
    text = wire([BODIES[0], {"row": "run", "run_id": "X"}]).replace(b'"X"', b'"\\ud800"')
    taken, kept = read_batch(text).rows
    assert taken.body == BODIES[0]
    assert "\\ud800" in kept.body.text
    kept.body.text.encode()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        wire([]),
        wire([1], first=0),
        wire([1], first=-1),
        wire([1], first=2**63),
        wire([1], agent_id=""),
        wire([1], agent_id="a" * 600),
        wire([1], agent_id=5),
        b'{"version": 1, "agent_id": "a", "incarnation": "i", "first_seq": 1, "rows": {"a": NaN}}',
        b'{"version": 1, "agent_id": "a", "incarnation": "i", "first_seq": 1, "rows": 5}',
        b'{"version": 1, "agent_id": NaN, "incarnation": "i", "first_seq": 1, "rows": [1]}',
        b"9" * 5000,
    ],
)
def test_what_is_no_batch_is_malformed(text):
    with pytest.raises(Malformed) as told:
        read_batch(text)
    assert told.value.error == "malformed"


def test_another_version_and_too_many_rows_are_told_apart():
    with pytest.raises(Malformed) as told:
        read_batch(wire([1], version=2))
    assert told.value.error == "version"
    with pytest.raises(TooManyRows):
        read_batch(wire([1] * (MOST_ROWS + 1)))


PACKERS = {"gzip": gzip.compress, "zstd": zstandard.compress, "identity": bytes}


@pytest.mark.parametrize("encoding", PACKERS)
def test_bodies_come_back_as_they_were_packed(encoding):
    assert unpack(PACKERS[encoding](b"body" * 100), encoding, 1000) == b"body" * 100


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_bomb_is_refused_before_it_is_unpacked(encoding):
    import tracemalloc

    bomb = PACKERS[encoding](bytes(200 << 20))
    assert len(bomb) < 1 << 20
    tracemalloc.start()
    with pytest.raises(TooLarge):
        unpack(bomb, encoding, 1 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_what_is_cut_off_or_followed_by_more_is_garbled(encoding):
    packed = PACKERS[encoding](b"body" * 100)
    for body in (packed[:-3], packed[: len(packed) // 2], packed + b"more", b"no such thing", b""):
        with pytest.raises(Garbled):
            unpack(body, encoding, 1000)
