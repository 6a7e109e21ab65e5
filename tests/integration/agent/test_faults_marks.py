"""Marks files that are cut short or garbled while their process writes on: no mark counts twice, a lost one is told."""

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from joulebook.folder import MarksFolder
from joulebook.home import Home
from joulebook.identity import boot_id
from joulebook.joining import marks_name, write_join
from joulebook.marks import MarksWriter

GARBAGE = [b"\x00" * 40, b"\xff\n", b"{}\n", b"[" * 500 + b"\n", b"\n\n", b'{"v":1,"n":"x"}\n', b"1e999\n"]


def begun(root):
    """A folder, and the writer and path of this process's marks file in it."""
    home = Home(root / "home").make()
    path = home.marks / marks_name("r", os.getpid(), "beef")
    marks = MarksWriter(path)
    write_join(marks, "r", "track", {}, ["train.py"])
    return MarksFolder(home, Path("/proc"), "m", boot_id()), marks, path


events = st.lists(
    st.one_of(
        st.just("mark"), st.just("look"), st.floats(0, 1, exclude_max=True), st.sampled_from(GARBAGE)
    ),
    max_size=25,
)  # fmt: skip


@given(events)
def test_cut_and_garbled_in_any_order(tmp_path_factory, happens):
    folder, marks, path = begun(tmp_path_factory.mktemp("marks"))
    seen, written, damaged = [], [], False

    def look():
        for _, lines in folder.read():
            seen.extend(line.n for line in lines if line.kind == "begin")

    look()
    for event in happens:
        if event == "mark":
            written.append(marks.write("begin", ',"phase":"train"'))
        elif event == "look":
            look()
        elif isinstance(event, bytes):
            damaged |= bool(event.strip())
            with path.open("ab") as file:
                file.write(event)
        else:
            look()  # what was never seen before a cut cannot be missed
            size = path.stat().st_size
            os.truncate(path, int(size * event))
            damaged = True
    (file,) = folder.files.values()
    file.gone = True  # its last line is as whole as it will be
    look()
    marks.close()
    assert len(set(seen)) == len(seen), "a mark counts twice"
    assert set(seen) <= set(written)
    lost = set(written) - set(seen)
    assert not lost or damaged
    assert not lost or file.reader.corrupt, "marks are missing and nobody says so"
    folder.release(file)


def test_what_is_written_after_a_cut_counts_and_the_cut_is_told(tmp_path):
    folder, marks, path = begun(tmp_path)
    first = marks.write("begin", ',"phase":"train"')
    folder.read()
    os.truncate(path, 0)
    marks.write("end", f',"of":{first}')
    ((file, lines),) = folder.read()
    assert [line.kind for line in lines] == ["end"]
    assert file.reader.corrupt
    marks.close()
    folder.release(file)


def test_a_file_that_was_taken_away_and_is_back_counts_no_mark_twice(tmp_path):
    folder, marks, path = begun(tmp_path)
    first = marks.write("begin", ',"phase":"train"')
    folder.read()
    aside = path.rename(tmp_path / "aside")
    ((file, lines),) = folder.read([path.name])
    assert (lines, file.reader.corrupt) == ([], [3])
    marks.write("end", f',"of":{first}')
    aside.rename(path)
    ((file, lines),) = folder.read()
    assert [line.kind for line in lines] == ["end"]
    marks.close()
    folder.release(file)
