"""Any text in a marks file: the folder, the timelines and the book of runs go on, and other files are followed."""

import json
import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from joulebook.folder import MarksFolder
from joulebook.home import Home
from joulebook.identity import boot_id
from joulebook.joining import write_join
from joulebook.marks import MarksWriter
from joulebook.runs import RunBook, mark_row

BOOT = boot_id()
ODD = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=8),
        st.sampled_from(["r", "r2", BOOT, "launcher", "track", "ok", "failed", os.getpid(), 1, 0, -1]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=5,
)  # fmt: skip
MEMBERS = [
    "run", "role", "pid", "pid_ns", "started_ticks", "machine", "boot", "rank", "world_size", "nodes", "restart",
    "parent", "labels", "note", "argv", "cwd", "python", "again", "phase", "member", "of", "status", "reason",
    "exit_code", "packages", "lost", "samples", "flops", "step", "split", "quality", "synced",
]  # fmt: skip
KINDS = st.sampled_from(["join", "start", "begin", "end", "log", "leave", "dance"])


@st.composite
def mark(draw):
    """A line that is nearly a mark, or one, or no text at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=60)).replace(b"\n", b"")
    head = {"v": 1, "n": draw(st.integers(0, 99)), "kind": draw(KINDS), "at_ns": draw(st.integers(0, 2**63)),
            "at_us": draw(st.integers(0, 2**60)), "cpu_ns": 1, "boot": BOOT, "run": "r"}  # fmt: skip
    values = draw(st.dictionaries(st.sampled_from(MEMBERS), ODD, max_size=6))
    return json.dumps({**head, **values}, default=str).encode()


@given(st.lists(mark(), max_size=12), st.booleans())
def test_no_text_stops_the_agent_or_hides_another_file(tmp_path_factory, lines, named):
    home = Home(tmp_path_factory.mktemp("home")).make()
    name = f"r.{os.getpid()}.odd.jsonl" if named else "odd.jsonl"
    (home.marks / name).write_bytes(b"\n".join(lines) + b"\n")
    (home.mark_logs / "z.1.good.jsonl").write_bytes(b"\n".join(lines))
    good = MarksWriter(home.marks / "z.1.good.jsonl")
    write_join(good, "good", "track", {}, [])
    good.close()
    folder, book = MarksFolder(home, Path("/proc"), "m", BOOT), RunBook("m", BOOT)
    for _ in range(2):
        for file, found in folder.read():
            for line in found:
                book.take(file.key, line)
                mark_row(line, "r", "m", BOOT, file.pid, file.rank)
            for line in folder.read_logs(file):
                mark_row(line, "r", "m", BOOT, file.pid, file.rank)
            file.timeline.stretches(0, 2**62)
    assert "good" in book.runs
    for file in folder.newly_gone():
        book.died(file.key, 2**62, 2**52)
    for file in list(folder.files.values()):
        folder.release(file)
