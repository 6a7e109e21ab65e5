"""What dead agents and dead processes left: closed where they were last known to live, in their own boot."""

import json

import pytest
from joulebook.identity import boot_id
from joulebook.recover import recover
from joulebook.runs import LOST

DEAD_PID = 2**22 + 7  # above the kernel's largest pid


def left_behind(bench, boot, *extra):
    """A marks file of a process that is gone, in a phase when it died."""
    bench.home.make()
    lines = [
        {"kind": "join", "at_ns": 10**9, "at_us": 10**15, "run": "r", "role": "track", "pid": DEAD_PID, "boot": boot},
        {"kind": "begin", "at_ns": 3 * 10**9, "at_us": 10**15 + 2 * 10**6, "phase": "train"},
        *extra,
    ]
    text = "".join(json.dumps({"v": 1, "n": n, "cpu_ns": 0, **line}) + "\n" for n, line in enumerate(lines, 1))
    path = bench.home.marks / f"r.{DEAD_PID}.beef.jsonl"
    path.write_text(text)
    return path


@pytest.mark.parametrize("boot", ["another-boot", None], ids=["of another boot", "of this boot"])
def test_a_process_that_nobody_saw_die_ends_at_its_last_sign_of_life(bench, monkeypatch, boot):
    monkeypatch.setenv("JOULEBOOK_HOME", bench.environ["JOULEBOOK_HOME"])
    path = left_behind(bench, boot or boot_id())
    assert recover(bench.home)
    (run,) = bench.runs().values()
    assert (run.status, run.boot_id) == ("interrupted", boot or boot_id())
    assert (run.ended_ns, run.ended_at_us) == (3 * 10**9, 10**15 + 2 * 10**6)
    assert not path.exists()
    assert recover(bench.home), "a second recovery finds nothing to do"
    assert len(bench.runs()) == 1


def test_a_launcher_that_died_before_its_command_began_leaves_no_run_open(bench, monkeypatch):
    monkeypatch.setenv("JOULEBOOK_HOME", bench.environ["JOULEBOOK_HOME"])
    bench.home.make()
    join = {"kind": "join", "at_ns": 10**9, "at_us": 10**15, "run": "r", "role": "launcher", "pid": DEAD_PID}
    line = json.dumps({"v": 1, "n": 1, "cpu_ns": 0, "boot": boot_id(), **join}) + "\n"
    path = bench.home.marks / f"r.{DEAD_PID}.launcher-beef.jsonl"
    path.write_text(line)
    assert recover(bench.home)
    (run,) = bench.runs().values()
    assert (run.status, run.reason) == ("interrupted", LOST)
    assert not path.exists()


@pytest.mark.parametrize(
    "odd",
    [
        {"kind": "log", "at_ns": 4 * 10**9, "at_us": 10**15, "samples": "many"},
        {"kind": "log", "at_ns": 4 * 10**9, "at_us": 10**15, "quality": {"accuracy": "high"}},
        {"kind": "log", "at_ns": 4 * 10**9, "at_us": 10**15, "quality": {"accuracy": 10**400}},
        {"kind": "log", "at_ns": 4 * 10**9, "at_us": 10**15, "samples": 10**400},
        {"kind": "log", "at_ns": 10**30, "at_us": 10**15, "samples": 1},
        {"kind": "join", "at_ns": 4 * 10**9, "at_us": 10**15, "run": "x" * 2000},
        {"kind": "join", "at_ns": 4 * 10**9, "at_us": 10**15, "run": "r.c", "parent": "r", "labels": {"seed": [1]}},
        {"kind": "end", "at_ns": 4 * 10**9, "at_us": 10**15, "of": {}},
        {"kind": "dance", "at_ns": 4 * 10**9, "at_us": 10**15},
    ],
)
def test_odd_marks_stop_nobody(bench, monkeypatch, odd):
    monkeypatch.setenv("JOULEBOOK_HOME", bench.environ["JOULEBOOK_HOME"])
    left_behind(bench, boot_id(), odd)
    assert recover(bench.home)
    run = bench.runs()["r"]
    assert (run.status, run.ended_ns <= 4 * 10**9) == ("interrupted", True)


def test_infinity_is_an_unreadable_line_and_not_a_crash(bench, monkeypatch):
    monkeypatch.setenv("JOULEBOOK_HOME", bench.environ["JOULEBOOK_HOME"])
    path = left_behind(bench, boot_id())
    line = '{"v":1,"n":3,"kind":"log","at_ns":4,"at_us":4,"cpu_ns":0,"quality":{"loss":1e400}}\n'
    path.write_text(path.read_text() + line)
    assert recover(bench.home)
    assert any("unreadable lines (3)" in note for note in bench.runs()["r"].notes)
