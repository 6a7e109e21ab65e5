"""The marks folder: whose files are ours, what a damaged join costs, and who joined unseen."""

import json
import os
from pathlib import Path

import pytest
from joulebook.folder import MarksFolder
from joulebook.home import Home
from joulebook.identity import boot_id
from joulebook.joining import marks_name, write_join
from joulebook.marks import MarksWriter


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home").make()


def folder_of(home, machine="m"):
    return MarksFolder(home, Path("/proc"), machine, boot_id())


def joined(home, run_id="r", role="track", tag="beef"):
    marks = MarksWriter(home.marks / marks_name(run_id, os.getpid(), tag))
    write_join(marks, run_id, role, {"study": "s"}, ["train.py"])
    return marks, home.marks / marks_name(run_id, os.getpid(), tag)


def damaged(path, line):
    """The file with one of its lines overwritten."""
    lines = path.read_bytes().splitlines()
    lines[line] = b"\0" * len(lines[line])
    path.write_bytes(b"\n".join(lines) + b"\n")


def test_a_join_is_followed_once_though_it_is_said_twice(home):
    joined(home)
    ((file, lines),) = folder_of(home).read()
    assert [line.kind for line in lines] == ["join"]
    assert (file.run_id, file.pid, file.role, file.timeline.open) == ("r", os.getpid(), "track", True)


@pytest.mark.parametrize("run_id", ["r", "no/file/name"])
@pytest.mark.parametrize("line", [0, 1])
def test_one_damaged_line_loses_no_process(home, run_id, line):
    marks, path = joined(home, run_id)
    marks.write("begin", ',"phase":"train"')
    damaged(path, line)
    ((file, lines),) = folder_of(home).read()
    assert [entry.kind for entry in lines] == ["join", "begin"]
    assert lines[0].values["labels"] == {"study": "s"}
    assert (file.run_id, file.role, file.reader.corrupt) == (run_id, "track", [line + 1])
    assert file.timeline.at(lines[1].at_ns).phase == "train"


def test_a_damaged_line_that_comes_alone_is_made_good_by_the_next(home):
    _, path = joined(home)
    damaged(path, 0)
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"\n") + 1])
    folder = folder_of(home)
    ((file, lines),) = folder.read()
    assert (file.run_id, lines, file.joined) == ("r", [], False)
    path.write_bytes(whole)
    ((file, lines),) = folder.read()
    assert ([line.kind for line in lines], file.role, file.joined) == (["join"], "track", True)


def test_a_worker_that_tracks_later_says_when_it_leaves(home):
    marks, _ = joined(home, role="worker")
    folder = folder_of(home)
    ((file, _),) = folder.read()
    assert not file.leaves
    marks.write("join", ',"run":"r","role":"track"')
    list(folder.read())
    assert file.leaves


def test_one_boot_is_one_machine_whatever_a_container_calls_it(home, monkeypatch):
    monkeypatch.setenv("JOULEBOOK_MACHINE_ID", "inside")
    joined(home)
    ((file, _),) = folder_of(home, "node-1").read()
    assert file.machine_id == "node-1"


def test_files_of_another_machines_boot_are_left_to_it(home):
    _, path = joined(home)
    text = path.read_text().replace(boot_id(), "elsewhere")
    path.write_text(text)
    assert json.loads(text.splitlines()[0])["boot"] == "elsewhere"
    assert list(folder_of(home, "other").read()) == []
    assert path.exists()


def test_who_joined_unseen(home):
    folder = folder_of(home)
    marks, _ = joined(home)
    assert folder.joined_unseen()
    list(folder.read())
    assert not folder.joined_unseen()
    marks.write("leave", ',"run":"r","status":"ok"')
    assert not folder_of(home).joined_unseen(), "it has left"
    joined(home, role="launcher", tag="launcher")
    assert folder.joined_unseen()


def test_the_dead_have_not_joined(home):
    _, path = joined(home)
    path.write_text(path.read_text().replace(f'"pid":{os.getpid()}', f'"pid":{2**22 + 5}'))
    assert not folder_of(home).joined_unseen()


def test_neither_a_pipe_nor_a_link_catches_the_reader(home, tmp_path):
    os.mkfifo(home.marks / "r.7.pipe.jsonl")
    (tmp_path / "secret").write_text("not for us\n")
    (home.marks / "r.7.link.jsonl").symlink_to(tmp_path / "secret")
    (home.marks / "r.7.folder.jsonl").mkdir()
    joined(home)
    ((file, _),) = folder_of(home).read()
    assert file.run_id == "r"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_in_a_shared_folder_nobody_speaks_for_anothers_process(tmp_path, capsys):
    shared = Home(tmp_path / "home", tmp_path / "shared").make()
    _, path = joined(shared)
    assert len(folder_of(shared).read()) == 1, "root's own"
    os.chown(path, 65534, 65534)
    folder = folder_of(shared)
    assert folder.read() == []
    assert folder.read() == []
    assert capsys.readouterr().err.count("is not its process's") == 1


def test_a_file_that_cannot_be_read_for_a_while_is_read_on(home, capsys):
    marks, path = joined(home)
    folder = folder_of(home)
    ((file, _),) = folder.read()
    marks.write("begin", ',"phase":"train"')
    aside = path.rename(path.with_suffix(".aside"))
    path.symlink_to(aside)
    assert folder.read() == folder.read() == []
    assert capsys.readouterr().err.count("cannot be read") == 1
    aside.replace(path)
    ((_, lines),) = folder.read()
    assert ([line.kind for line in lines], file.reader.corrupt) == (["begin"], [])


def test_a_file_that_can_never_be_read_again_stops_nothing_and_its_run_says_so(home):
    _, path = joined(home)
    folder = folder_of(home)
    ((file, _),) = folder.read()
    path.symlink_to(path.rename(path.with_suffix(".aside")))
    file.gone = True
    assert file.read() == file.read() == []
    assert file.reader.corrupt == [3]
    folder.remove(file.key)
    assert (home.marks / "corrupt" / path.name).is_symlink()


@pytest.mark.parametrize("made", ["link", "file"])
def test_nothing_is_set_aside_where_others_say(home, tmp_path, made, capsys):
    (tmp_path / "elsewhere").mkdir()
    corrupt = home.marks / "corrupt"
    corrupt.symlink_to(tmp_path / "elsewhere") if made == "link" else corrupt.write_text("")
    _, path = joined(home)
    damaged(path, 1)
    folder = folder_of(home)
    folder.read()
    folder.remove(path.name)
    assert not any((tmp_path / "elsewhere").iterdir())
    assert "cannot be removed" in capsys.readouterr().err
    assert folder.read() == [], "it would count twice"
