"""The outbox on disks that are full, read-only, torn or damaged: nothing written is lost, nothing crashes."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from joulebook import outbox_file
from joulebook.errors import JoulebookError
from joulebook.outbox import Outbox
from joulebook.rows import Mark, Policy, Reassignment, Share, ShareKind


def mark(n):
    return Mark("r", "m", "b", 1, "log", 1, 1, 1, n, phase=os.urandom(60).hex())


def numbers(outbox):
    return [row.n for row in outbox.bodies() if isinstance(row, Mark)]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own of one MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


REFUSAL = r"full|disk I/O"


def try_to_write(outbox, first, count):
    try:
        outbox.write(final=[mark(first + i) for i in range(count)])
    except OSError:
        return False
    return True


def test_a_full_disk_refuses_whole_flushes_and_takes_rows_again_once_there_is_room(small_disk):
    outbox = Outbox(small_disk / "o.sqlite", writer=True)
    other = small_disk / "other"
    other.write_bytes(bytes(400_000))
    written = 0
    while try_to_write(outbox, written, 50):
        written += 50
    assert written > 0
    with pytest.raises(OSError, match=REFUSAL):
        outbox.write(final=[mark(written + i) for i in range(2000)])
    assert numbers(outbox) == list(range(written))
    other.unlink()
    places = outbox.write(final=[mark(written)])
    assert places == [written + 1]
    outbox.close()
    assert numbers(Outbox(small_disk / "o.sqlite", writer=False)) == list(range(written + 1))


def test_a_read_only_disk_at_start_is_told_with_its_remedy(small_disk):
    Outbox(small_disk / "o.sqlite", writer=True).close()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for name in ("o.sqlite", "new.sqlite"):
        with pytest.raises(JoulebookError, match="cannot open the outbox") as told:
            Outbox(small_disk / name, writer=True)
        assert "JOULEBOOK_HOME" in told.value.remedy
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    Outbox(small_disk / "o.sqlite", writer=True).close()


REFUSED = """
import resource, signal, sys
from pathlib import Path
from random import Random
from joulebook.outbox import Outbox
from joulebook.rows import Mark
outbox = Outbox(Path(sys.argv[1]), writer=True)
rows = lambda n: [Mark("r", "m", "b", 1, "log", 1, 1, 1, n)]
outbox.write(final=rows(0))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
try:
    outbox.write(final=rows(1))
    print("written")
except OSError as error:
    print("refused")
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
outbox.write(final=rows(2))
print(*(row.n for row in outbox.bodies()))
"""


def test_a_flush_that_the_kernel_refuses_leaves_nothing_of_it(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, str(tmp_path / "o.sqlite")], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:2] == ["refused", "0 2"]


KILLED = """
import os, sys
from pathlib import Path
from random import Random
from joulebook.outbox import Outbox
from joulebook.rows import Mark
outbox = Outbox(Path(sys.argv[1]), writer=True)
for k in range(40):
    outbox.write(final=[Mark("r", "m", "b", 1, "log", 1, 1, 1, 5 * k + i) for i in range(5)])
os.kill(os.getpid(), 9)
"""


def killed_writer(path):
    """A file as a killed agent leaves it after 40 flushes of five rows; its log."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    return path.with_name(path.name + "-wal")


@pytest.mark.parametrize("damage", ["cut", "garbage at the end", "garbage within"])
def test_a_torn_log_keeps_the_flushes_before_the_damage(tmp_path, damage):
    path = tmp_path / "o.sqlite"
    log = killed_writer(path)
    size = log.stat().st_size
    with log.open("r+b") as file:
        if damage == "cut":
            file.truncate(size * 2 // 3 + 100)
        elif damage == "garbage at the end":
            file.seek(0, 2)
            file.write(os.urandom(10_000))
        else:
            file.seek(size // 2)
            file.write(os.urandom(5000))
    outbox = Outbox(path, writer=True)
    kept = numbers(outbox)
    assert outbox.set_aside is None
    assert kept == list(range(len(kept)))
    assert len(kept) % 5 == 0
    assert len(kept) == 200 if damage == "garbage at the end" else 0 < len(kept) < 200
    outbox.write(final=[mark(1000)])
    assert numbers(outbox) == [*kept, 1000]


def test_a_log_cut_anywhere_leaves_whole_flushes(tmp_path):
    """What a loss of power may leave of the log: each flush was synced, so a cut is at its end or later."""
    log = killed_writer(tmp_path / "o.sqlite")
    random = Random(5)
    size = log.stat().st_size
    for i, cut in enumerate(sorted(random.randrange(size) for _ in range(40))):
        copy = tmp_path / f"copy{i}"
        copy.mkdir()
        for file in tmp_path.glob("o.sqlite*"):
            if not file.name.endswith("-shm"):
                shutil.copy(file, copy / file.name)
        os.truncate(copy / log.name, cut)
        outbox = Outbox(copy / "o.sqlite", writer=True)
        kept = numbers(outbox)
        assert kept == list(range(len(kept)))
        assert len(kept) % 5 == 0
        outbox.close()
    assert len(kept) > 150


def test_a_flush_waits_only_a_little_for_another_process_and_is_refused_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(outbox_file, "WRITER_WAITS_SECONDS", 0.05)
    outbox = Outbox(tmp_path / "o.sqlite", writer=True)
    other = sqlite3.connect(outbox.path, isolation_level=None)
    other.execute("begin immediate")
    with pytest.raises(OSError, match="locked"):
        outbox.write(final=[mark(0)])
    other.execute("rollback")
    other.close()
    assert outbox.write(final=[mark(1)]) == [1]
    assert numbers(outbox) == [1]
    outbox.close()


@pytest.mark.parametrize("damage", ["no database", "torn header", "torn schema", "an older layout"])
def test_a_damaged_file_is_kept_aside_and_a_fresh_one_is_begun(tmp_path, damage, capsys):
    path = tmp_path / "o.sqlite"
    box = Outbox(path, writer=True)
    box.write(final=[mark(n) for n in range(100)])
    box.close()
    whole = path.read_bytes()
    if damage == "an older layout":
        path.unlink()
        old = sqlite3.connect(path)
        old.execute("create table final (incarnation text, seq integer, body text)")
        old.close()
    else:
        cut = {"no database": os.urandom(9000), "torn header": b"x" * 100 + whole[100:]}
        path.write_bytes(cut.get(damage, whole[:100] + b"\xff" * 3000 + whole[3100:]))
    left = path.read_bytes()
    fresh = Outbox(path, writer=True)
    fresh.write(final=[mark(1)])
    assert numbers(fresh) == [1]
    assert fresh.set_aside is not None
    assert fresh.set_aside.read_bytes() == left
    assert fresh.status().set_aside == (fresh.set_aside.name,)
    assert fresh.set_aside.name in capsys.readouterr().err
    assert list(tmp_path.glob("*.sqlite")) == [path]


def test_a_file_that_breaks_under_the_pen_is_replaced_and_open_rows_are_written_again(tmp_path, capsys):
    path = tmp_path / "o.sqlite"
    outbox = Outbox(path, writer=True)
    places = outbox.write(final=[mark(n) for n in range(3000)], open_rows={"a": mark(-1), "b": mark(-2)})
    first = outbox.incarnation
    outbox._db.execute("pragma wal_checkpoint(truncate)").fetchall()
    outbox._db.execute("pragma shrink_memory")
    with path.open("r+b") as file:  # every page but the first, whose schema the connection still knows
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    kept = outbox.open_rows
    (place,) = outbox.write(finish=[("a", mark(-1))], open_rows={"c": mark(-3)})
    assert "cannot read the outbox" in capsys.readouterr().err
    assert [row.n for row in kept().values()] == [-2, -3]
    assert numbers(outbox) == [-1]
    assert outbox.incarnation != first
    assert place == places[-1] + 1
    # A late mark on a row that had left from the broken file names it as it left.
    nobody = Share(ShareKind.UNATTRIBUTED, 0, Policy.RESERVED)
    outbox.write(final=[Reassignment(outbox.incarnation, places[4], 1, nobody, nobody)])
    (batch,) = outbox.batches()
    assert [row.seq for row in batch.rows] == [1, 2]
    assert (batch.rows[1].body.incarnation, batch.rows[1].body.seq) == (first, 5)


def test_who_only_drains_leaves_a_damaged_file_as_it_is(tmp_path):
    path = tmp_path / "o.sqlite"
    path.write_bytes(b"broken" * 2000)
    with pytest.raises(sqlite3.DatabaseError):
        Outbox(path, writer=False)
    assert path.read_bytes() == b"broken" * 2000


def test_a_newer_layout_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "o.sqlite"
    Outbox(path, writer=True).close()
    db = sqlite3.connect(path)
    db.execute("pragma user_version = 99")
    db.close()
    left = path.read_bytes()
    with pytest.raises(JoulebookError, match="newer joulebook"):
        Outbox(path, writer=True)
    assert path.read_bytes() == left


def test_an_outbox_can_be_read_from_a_copy_of_its_files(tmp_path):
    path = tmp_path / "o.sqlite"
    killed_writer(path)
    (tmp_path / "copy").mkdir()
    for file in Path(tmp_path).glob("o.sqlite*"):
        shutil.copy(file, tmp_path / "copy" / file.name)
    assert numbers(Outbox(tmp_path / "copy" / "o.sqlite", writer=False)) == list(range(200))
