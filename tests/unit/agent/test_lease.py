"""The lease: one holder, asked about without being taken, let go of by the kernel, its last holder on record."""

import json
import os
import signal

import pytest
from conftest import wait_for
from joulebook.errors import JoulebookError
from joulebook.home import Home, find_home
from joulebook.lease import (
    METERS,
    RUNS,
    forget_other_boots,
    holder_of,
    lease_is_held,
    lease_path,
    read_status,
    runs_are_taken,
    status_path,
    take_lease,
    write_status,
)


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home").make()


def test_one_holds_it_and_lets_go(home):
    with take_lease(home) as first:
        assert first.last_holder == ""
        assert take_lease(home) is None
        assert lease_is_held(home)
    assert not lease_is_held(home)
    with take_lease(home):
        pass


def test_asking_neither_makes_nor_takes_it(home):
    assert not lease_is_held(home)
    assert not lease_path(home).exists()
    with take_lease(home):
        before = lease_path(home).stat()
        assert [lease_is_held(home, byte) for byte in (METERS, RUNS)] == [True, False]
        assert lease_path(home).stat() == before
        assert take_lease(home) is None


def test_runs_are_refused_before_the_meters_are_let_go(home):
    with take_lease(home) as lease:
        assert not runs_are_taken(home)
        lease.take_runs()
        assert runs_are_taken(home)
        lease.refuse_runs()
        assert not runs_are_taken(home)
        assert lease_is_held(home)


def test_reading_the_file_elsewhere_in_the_process_keeps_the_lock(home):
    # A lock of the process, not of the open file, would be lost here.
    with take_lease(home) as lease:
        lease.take_runs()
        lease_path(home).read_text()
        assert runs_are_taken(home)
        assert take_lease(home) is None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_kernel_lets_go_of_what_a_dead_process_held(home, number):
    pid = os.fork()
    if pid == 0:
        take_lease(home).take_runs()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pause()
        os._exit(1)
    wait_for(lambda: runs_are_taken(home), what="the child's lease")
    os.kill(pid, number)
    os.waitpid(pid, 0)
    assert not runs_are_taken(home)
    with take_lease(home):
        pass


def test_who_held_it_last_is_on_record(home):
    with take_lease(home) as lease:
        lease.hold_for("a-long-outbox-id")
    with take_lease(home) as lease:
        assert lease.last_holder == "a-long-outbox-id"
        lease.hold_for("short")
        assert lease.last_holder == "short"
    with take_lease(home) as lease:
        assert lease.last_holder == "short"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_a_lease_of_another_user_is_refused_with_a_remedy(home):
    lease_path(home).touch(mode=0o000)
    with pytest.raises(JoulebookError, match="cannot open"):
        take_lease(home)


def test_two_homes_that_share_a_folder_of_marks_share_the_lease(tmp_path):
    homes = [Home(tmp_path / name, tmp_path / "shared").make() for name in ("daemon", "sidecar")]
    assert (tmp_path / "shared").stat().st_mode & 0o7777 == 0o1777
    with take_lease(homes[0]) as lease:
        lease.take_runs()
        assert runs_are_taken(homes[1])
        assert take_lease(homes[1]) is None
    write_status(homes[0], "node-1", {"pid": 7})
    assert read_status(homes[1]) == {"machine": "node-1", "pid": 7}
    assert json.loads((tmp_path / "shared/agents" / f"{lease_path(homes[0]).stem}.json").read_text())["pid"] == 7
    assert homes[0].outboxes != homes[1].outboxes


def test_the_shared_folder_is_a_setting(tmp_path, monkeypatch):
    monkeypatch.setenv("JOULEBOOK_HOME", str(tmp_path / "h"))
    monkeypatch.delenv("JOULEBOOK_MARKS", raising=False)
    assert find_home().marks == tmp_path / "h/marks"
    monkeypatch.setenv("JOULEBOOK_MARKS", str(tmp_path / "m"))
    assert (find_home().marks, find_home().logs) == (tmp_path / "m", tmp_path / "h/agents")


def test_what_earlier_boots_of_this_machine_left_is_removed_and_nothing_else(home):
    write_status(home, "m", {"pid": 1})
    take_lease(home).close()
    own = {path.name for path in home.agents.iterdir()}
    for name, text in (("before", '{"machine": "m"}'), ("another", '{"machine": "n"}'), ("odd", "[1]"), ("torn", "{")):
        (home.agents / f"{name}.json").write_text(text)
        (home.agents / f"{name}.lease").touch()
    forget_other_boots(home, "m")
    left = {path.name for path in home.agents.iterdir()} - own
    assert left == {f"{name}.{suffix}" for name in ("another", "odd", "torn") for suffix in ("json", "lease")}
    assert own <= {path.name for path in home.agents.iterdir()}


def test_neither_a_link_nor_a_pipe_in_a_shared_folder_catches_who_asks_or_writes(home, tmp_path):
    """Without O_NONBLOCK a pipe would keep the trainer for ever; through a link root would write anywhere."""
    os.mkfifo(lease_path(home))
    os.mkfifo(status_path(home))
    os.mkfifo(home.agents / "other.json")
    assert (runs_are_taken(home), read_status(home), holder_of(home)) == (False, {}, "")
    forget_other_boots(home, "m")
    precious = tmp_path / "precious"
    precious.write_text("mine")
    lease_path(home).unlink()
    lease_path(home).symlink_to(precious)
    with pytest.raises(JoulebookError, match="cannot open"):
        take_lease(home)
    status_path(home).with_suffix(".new").symlink_to(precious)
    write_status(home, "m", {"pid": 1})
    assert read_status(home) == {"machine": "m", "pid": 1}
    assert precious.read_text() == "mine"
