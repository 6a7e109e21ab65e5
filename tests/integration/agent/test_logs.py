"""What a process logs: bound to what it was in, read once, never lost before it is durable, no agent woken by it."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from joulebook.clock import boottime_ns
from joulebook.folder import MarksFolder
from joulebook.home import Home
from joulebook.identity import boot_id
from joulebook.inotify import Inotify
from joulebook.joining import marks_name, write_join
from joulebook.marks import MarksWriter
from joulebook.meters import Roots
from joulebook.outbox import Outbox
from joulebook.recover import recover
from joulebook.rows import Mark, Run
from joulebook.sampler import Sampler
from joulebook.settings import Settings

S = 1_000_000_000
NAME = marks_name("r", os.getpid(), "beef")


@dataclass
class Machine:
    """A home, this process's marks and logs in it, and the agent that follows them."""

    home: Home

    def __post_init__(self):
        self.marks = MarksWriter(self.home.marks / NAME)
        write_join(self.marks, "r", "track", {}, ["train.py"])
        self.logs = None
        self.start()

    @property
    def log_path(self):
        return self.home.mark_logs / NAME

    def start(self):
        self.outbox = Outbox(self.home.outboxes / "m.sqlite", writer=True)
        folder = MarksFolder(self.home, Path("/proc"), "m", boot_id())
        self.sampler = Sampler(self.outbox, folder, [], Roots(), Settings(grace_ns=S), "m", boot_id())
        self.sampler.start()
        self.sampler.read_marks()

    def log(self, **values):
        body = "".join(f",{json.dumps(name)}:{json.dumps(value)}" for name, value in values.items())
        self.logs = self.logs or MarksWriter(self.log_path)
        return self.logs.write("log", body)

    def flush(self, after_ns=0):
        """As the loop does it."""
        now = boottime_ns() + after_ns
        self.sampler.read_logs()
        written = self.sampler.flush(now)
        if written:
            self.sampler.tidy(now)
        return written

    def die(self):
        """The agent is gone, and nothing that it held was written."""
        for file in self.sampler.folder.files.values():
            self.sampler.folder.release(file)
        self.outbox.close()

    def logged(self):
        return [row for row in self.outbox.bodies() if isinstance(row, Mark) and row.kind == "log"]

    def notes(self):
        return self.sampler.book.runs["r"].run.notes


@pytest.fixture
def machine(tmp_path):
    made = Machine(Home(tmp_path / "home").make())
    yield made
    made.die()


def test_a_log_belongs_to_the_phase_that_its_process_was_in(machine):
    machine.log(step=0)
    begun = machine.marks.write("begin", ',"phase":"train","member":"1"')
    machine.log(step=1, samples=64, quality={"loss": 0.5})
    machine.marks.write("end", f',"of":{begun}')
    machine.log(step=2)
    assert machine.flush()
    assert [(row.step, row.run_id, row.phase, row.member, row.n) for row in machine.logged()] == [
        (0, "r", "", None, 1), (1, "r", "train", "1", 2), (2, "r", "", None, 3),
    ]  # fmt: skip
    assert (machine.logged()[1].samples, machine.logged()[1].quality) == (64, {"loss": 0.5})


def test_a_log_waits_for_the_marks_before_it(machine, monkeypatch):
    read_marks = Sampler.read_marks

    def and_then_a_phase_begins(self, names=None):
        new = read_marks(self, names)
        machine.marks.write("begin", ',"phase":"train"')
        machine.log(step=1)
        return new

    with monkeypatch.context() as patch:
        patch.setattr(Sampler, "read_marks", and_then_a_phase_begins)
        assert machine.flush()
    assert machine.logged() == [], "its phase is not known yet"
    assert machine.flush()
    assert [row.phase for row in machine.logged()] == ["train"]


def test_a_log_wakes_no_agent_and_a_mark_does(machine):
    watch = Inotify(machine.home.marks)
    try:
        machine.log(step=1)
        assert watch.changed() == set()
        machine.marks.write("begin", ',"phase":"train"')
        assert watch.changed() == {NAME}
    finally:
        watch.close()


def test_marks_files_of_older_versions_hold_logs_too(machine):
    machine.marks.write("begin", ',"phase":"train"')
    machine.marks.write("log", ',"step":1')
    machine.log(step=2)
    assert machine.flush()
    assert [(row.step, row.phase) for row in machine.logged()] == [(1, "train"), (2, "train")]


def test_an_agent_that_starts_anew_reads_on_where_the_last_one_wrote(machine):
    machine.log(step=1)
    machine.flush()
    machine.log(step=2)
    machine.sampler.read_logs()  # and dies before it has written
    machine.die()
    machine.log(step=3)
    machine.start()
    machine.flush()
    assert [row.step for row in machine.logged()] == [1, 2, 3]


def test_a_torn_line_waits_and_is_damage_once_its_process_logs_no_more(machine):
    machine.log(step=1)
    with machine.log_path.open("ab") as file:
        file.write(b'{"v":1,"n":2,')
    machine.flush()
    assert machine.notes() == ()
    machine.marks.write("leave", ',"run":"r","status":"ok"')
    machine.flush()
    assert machine.notes() == (f"marks file logs/{NAME} has unreadable lines (2): their marks are missing",)


@pytest.mark.parametrize(
    "damage", [b"\0" * 50 + b"\n", b'{"v":1,"n":1,"kind":"leave","at_ns":1,"at_us":1,"cpu_ns":1,"run":"r"}\n']
)
def test_what_is_no_log_is_passed_over_said_and_kept_aside(machine, damage):
    machine.log_path.write_bytes(damage)
    machine.log(step=1)
    machine.marks.write("leave", ',"run":"r","status":"ok"')
    assert machine.flush(after_ns=2 * S)
    assert [row.step for row in machine.logged()] == [1]
    (run,) = [row for row in machine.outbox.bodies() if isinstance(row, Run) and row.ended_ns is not None]
    assert run.notes == (f"marks file logs/{NAME} has unreadable lines (1): their marks are missing",)
    assert not machine.log_path.exists()
    assert [path.name for path in (machine.home.marks / "corrupt").iterdir()] == [f"logs.{NAME}"]


def test_a_log_file_that_is_cut_counts_no_log_twice_and_the_cut_is_told(machine):
    for step in (1, 2):
        machine.log(step=step)
    machine.flush()
    os.truncate(machine.log_path, 0)
    machine.log(step=3)
    machine.flush()
    assert [row.step for row in machine.logged()] == [1, 2, 3]
    assert "unreadable lines" in machine.notes()[0]


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_neither_link_nor_pipe_is_taken_for_logs(machine, tmp_path, kind):
    secret = tmp_path / "secret"
    secret.write_text('{"v":1,"n":1,"kind":"log","at_ns":1,"at_us":1,"cpu_ns":1}\n')
    if kind == "pipe":
        os.mkfifo(machine.log_path)
    elif kind == "link":
        machine.log_path.symlink_to(secret)
    else:
        machine.log_path.mkdir()
    machine.marks.write("leave", ',"run":"r","status":"ok"')
    assert machine.flush(after_ns=2 * S)
    assert machine.logged() == []
    assert "unreadable lines" in machine.notes()[0]
    assert secret.exists()


def test_a_link_in_place_of_the_folder_is_refused_told_and_nothing_is_removed_there(machine, tmp_path, capsys):
    machine.log(step=1)
    elsewhere = machine.home.mark_logs.rename(tmp_path / "elsewhere")
    machine.home.mark_logs.symlink_to(elsewhere)
    machine.flush()
    machine.marks.write("leave", ',"run":"r","status":"ok"')
    assert machine.flush(after_ns=2 * S)
    assert machine.logged() == []
    assert (elsewhere / NAME).exists()
    (note,) = machine.notes()
    assert "what its processes logged cannot be read" in note
    assert capsys.readouterr().err.count("cannot be read") == 1


def test_a_folder_that_becomes_a_link_loses_nothing_elsewhere(machine, tmp_path, capsys):
    machine.log(step=1)
    machine.flush()
    (file,) = machine.sampler.folder.files.values()
    elsewhere = machine.home.mark_logs.rename(tmp_path / "elsewhere")
    machine.home.mark_logs.symlink_to(elsewhere)
    machine.sampler.folder.remove(file.key)
    assert (elsewhere / NAME).exists()
    assert "cannot be removed" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
@pytest.mark.parametrize(("owner", "steps"), [(0, [1]), (65534, [])])
def test_in_a_shared_folder_nobody_logs_for_anothers_process(tmp_path, capsys, owner, steps):
    machine = Machine(Home(tmp_path / "home", tmp_path / "shared").make())
    assert machine.home.mark_logs.stat().st_mode & 0o7777 == 0o1777
    machine.log(step=1)
    os.chown(machine.log_path, owner, owner)
    machine.flush()
    machine.flush()
    assert [row.step for row in machine.logged()] == steps
    assert capsys.readouterr().err.count(f"logs/{NAME} is not its process's") == (not steps)
    machine.die()


def test_a_log_file_stays_until_its_logs_are_durable(machine):
    machine.log(step=1)
    machine.marks.write("leave", ',"run":"r","status":"ok"')
    machine.outbox._db.execute("pragma query_only = 1")
    assert not machine.flush(after_ns=2 * S)
    assert machine.log_path.exists()
    machine.outbox._db.execute("pragma query_only = 0")
    assert machine.flush(after_ns=2 * S)
    assert [row.step for row in machine.logged()] == [1]
    assert list(machine.home.mark_logs.iterdir()) == []
    assert machine.sampler.folder.offsets == {}


def test_marks_that_were_read_alone_remove_no_log_file(machine):
    machine.log(step=1)
    machine.marks.write("leave", ',"run":"r","status":"ok"')
    machine.sampler.read_marks()
    now = boottime_ns() + 2 * S
    assert machine.sampler.flush(now)
    machine.sampler.tidy(now, everything=True)
    assert machine.log_path.exists()
    assert machine.flush(after_ns=2 * S)
    assert [row.step for row in machine.logged()] == [1]


def test_the_last_log_of_a_process_that_nobody_saw_die_is_its_last_sign_of_life(tmp_path, monkeypatch):
    monkeypatch.setenv("JOULEBOOK_HOME", str(tmp_path / "home"))
    home = Home(tmp_path / "home").make()
    pid = 2**22 + 7  # above the kernel's largest pid
    join = {"kind": "join", "at_ns": S, "at_us": 10**15, "run": "r", "role": "track", "pid": pid, "boot": boot_id()}
    begin = {"kind": "begin", "at_ns": 3 * S, "at_us": 10**15 + 2 * 10**6, "phase": "train"}
    log = {"kind": "log", "at_ns": 8 * S, "at_us": 10**15 + 7 * 10**6, "step": 1}
    name = f"r.{pid}.beef.jsonl"
    for path, lines in ((home.marks / name, [join, begin]), (home.mark_logs / name, [log])):
        text = "".join(json.dumps({"v": 1, "n": n, "cpu_ns": 0, **line}) + "\n" for n, line in enumerate(lines, 1))
        path.write_text(text)
    assert recover(home)
    (path,) = home.outboxes.glob("*.sqlite")
    outbox = Outbox(path, writer=False)
    rows = list(outbox.bodies())
    outbox.close()
    (run,) = [row for row in rows if isinstance(row, Run)]
    assert (run.status, run.ended_ns, run.ended_at_us) == ("interrupted", 8 * S, 10**15 + 7 * 10**6)
    assert [(row.step, row.phase) for row in rows if isinstance(row, Mark) and row.kind == "log"] == [(1, "train")]
    assert not list(home.marks.rglob("*.jsonl"))
