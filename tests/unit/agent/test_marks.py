"""Marks files: whole lines in order, torn tails, corrupt lines, a disk that refuses."""

import json
import os

from hypothesis import given
from hypothesis import strategies as st
from joulebook.marks import MarksReader, MarksWriter, members, parse


def test_what_is_written_is_read_in_order(tmp_path):
    writer = MarksWriter(tmp_path / "a.jsonl")
    writer.write("join", members({"run": "r", "rank": None}))
    begun = writer.write("begin", members({"phase": "train", "member": 'é"\n'}))
    writer.write("end", f',"of":{begun}')
    writer.close()
    lines = list(MarksReader(tmp_path / "a.jsonl").read())
    assert [(line.n, line.kind) for line in lines] == [(1, "join"), (2, "begin"), (3, "end")]
    assert lines[0].values == {"run": "r"}
    assert lines[1].values == {"phase": "train", "member": 'é"\n'}
    assert lines[2].values == {"of": 2}
    assert lines[0].at_ns <= lines[1].at_ns <= lines[2].at_ns
    assert lines[0].cpu_ns <= lines[2].cpu_ns


def test_a_torn_tail_waits_for_its_rest(tmp_path):
    path = tmp_path / "a.jsonl"
    writer = MarksWriter(path)
    writer.write("join", members({"run": "r"}))
    whole = path.read_bytes()
    reader = MarksReader(path)
    path.write_bytes(whole[:-10])
    assert list(reader.read()) == []
    path.write_bytes(whole)
    assert [line.kind for line in reader.read()] == ["join"]
    assert list(reader.read()) == []
    assert reader.corrupt == []


def test_a_torn_tail_of_a_dead_writer_is_corrupt(tmp_path):
    path = tmp_path / "a.jsonl"
    MarksWriter(path).write("join", members({"run": "r"}))
    path.write_bytes(path.read_bytes() + b'{"v":1,"n":2,"ki')
    reader = MarksReader(path)
    assert len(list(reader.read(final=True))) == 1
    assert reader.corrupt == [2]


@given(st.binary(max_size=200).filter(lambda junk: b"\n" not in junk))
def test_junk_in_the_middle_costs_its_own_line_only(tmp_path_factory, junk):
    path = tmp_path_factory.mktemp("marks") / "a.jsonl"
    writer = MarksWriter(path)
    writer.write("join")
    with path.open("ab") as file:
        file.write(junk + b"\n")
    writer.write("leave")
    reader = MarksReader(path)
    assert [line.kind for line in reader.read()] == ["join", "leave"]
    assert reader.corrupt == [2]


def test_lines_of_another_version_or_shape_are_no_marks():
    good = {"v": 1, "n": 1, "kind": "end", "at_ns": 1, "at_us": 1, "cpu_ns": 1}
    assert parse(json.dumps(good).encode()) is not None
    for change in ({"v": 2}, {"n": "1"}, {"at_ns": -1}, {"kind": 3}, {"at_us": 1.5}):
        assert parse(json.dumps({**good, **change}).encode()) is None, change
    for missing in good:
        assert parse(json.dumps({k: v for k, v in good.items() if k != missing}).encode()) is None, missing
    assert parse(b"[]") is None
    assert parse(b"1") is None


def test_a_place_that_cannot_be_written_is_counted_and_harmless(tmp_path):
    writer = MarksWriter(tmp_path / "none" / "a.jsonl")
    writer.write("join")
    assert writer.lost == 2
    writer.close()


def test_two_writers_of_one_file_never_tear_each_others_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    writers = [MarksWriter(path) for _ in range(2)]
    pids = []
    for writer in writers:
        pid = os.fork()
        if pid == 0:
            for _ in range(2000):
                writer.write("begin", members({"phase": "train"}))
            os._exit(0)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]
    reader = MarksReader(path)
    assert len(list(reader.read())) == 4000
    assert reader.corrupt == []
