"""Process trees on a made-up /proc: CPU time by actor, whoever reaps whom and in whatever order they go."""

import pytest
from joulebook.processes import NS_PER_TICK, Actor, ProcessTable


class Proc:
    """A /proc of processes that tests give birth to, let work and let die."""

    def __init__(self, root):
        self.root = root
        self.stat("cpu", 0)

    def stat(self, _, busy):
        (self.root / "stat").write_text(f"cpu  {busy} 0 0 0 0 0 0 0 0 0\n")

    def set(self, pid, ppid, own, children=0):
        (self.root / str(pid)).mkdir(exist_ok=True)
        fields = ["S", ppid, *[0] * 9, own, 0, children, 0, *[0] * 4, 100]
        (self.root / str(pid) / "stat").write_text(f"{pid} (a name) " + " ".join(map(str, fields)))

    def kill(self, pid):
        (self.root / str(pid) / "stat").unlink()
        (self.root / str(pid)).rmdir()


@pytest.fixture
def proc(tmp_path):
    return Proc(tmp_path)


@pytest.fixture
def table(proc):
    return ProcessTable(proc.root)


def ticks(table, key, a, b):
    return table.actors[key].cpu.gained(a, b) / NS_PER_TICK


def test_a_tree_counts_for_its_actor_and_children_born_later_do_too(proc, table):
    proc.set(10, 1, own=100)
    table.add_actor(Actor("a", "r", 10, False))
    table.scan(0)
    proc.set(11, 10, own=7)
    proc.set(10, 1, own=105)
    table.scan(100)
    assert ticks(table, "a", 0, 100) == 12


def test_a_child_that_was_waited_for_counts_once(proc, table):
    proc.set(10, 1, own=0)
    table.add_actor(Actor("a", "r", 10, False))
    table.scan(0)
    proc.set(11, 10, own=50)
    table.scan(100)
    proc.kill(11)
    proc.set(10, 1, own=0, children=60)
    table.scan(200)
    assert ticks(table, "a", 0, 200) == 60


def test_a_wrapper_and_its_child_that_end_together_count_once(proc, table):
    proc.set(10, 1, own=0)
    table.add_actor(Actor("a", "r", 10, False))
    proc.set(11, 10, own=0)
    proc.set(12, 11, own=500)
    table.scan(0)
    proc.set(12, 11, own=900)
    table.scan(100)
    proc.kill(11)
    proc.kill(12)
    proc.set(10, 1, own=0, children=905)
    table.scan(200)
    assert ticks(table, "a", 0, 200) == 405


def test_an_orphan_reaped_elsewhere_keeps_its_time_with_the_actor(proc, table):
    proc.set(10, 1, own=0)
    table.add_actor(Actor("a", "r", 10, False))
    proc.set(11, 10, own=0)
    table.scan(0)
    proc.set(11, 1, own=80)
    table.scan(100)
    proc.kill(11)
    table.scan(200)
    assert ticks(table, "a", 0, 200) == 80


def test_a_rank_that_its_launcher_reaps_is_not_the_launchers_too(proc, table):
    proc.set(10, 1, own=0)
    table.add_actor(Actor("launcher", "r", 10, True))
    table.scan(0)
    proc.set(11, 10, own=5)
    table.add_actor(Actor("rank", "r", 11, False))
    table.scan(100)
    proc.set(11, 10, own=105)
    table.scan(200)
    proc.kill(11)
    proc.set(10, 1, own=0, children=106)
    table.scan(300)
    assert ticks(table, "rank", 0, 300) == 100
    assert ticks(table, "launcher", 0, 300) <= 6  # what the rank used before it marked, and after its last look


def test_a_process_that_becomes_an_actor_takes_nothing_back_from_its_parent(proc, table):
    proc.set(10, 1, own=0)
    table.add_actor(Actor("a", "r", 10, False))
    proc.set(11, 10, own=0)
    table.scan(0)
    proc.set(11, 10, own=40)
    table.scan(100)
    table.add_actor(Actor("b", "r", 11, False))
    table.scan(200)
    proc.set(10, 1, own=30)
    proc.set(11, 10, own=60)
    table.scan(300)
    assert ticks(table, "a", 0, 300) == 70
    assert ticks(table, "b", 0, 300) == 20


def test_processes_of_nobody_count_for_nobody(proc, table):
    proc.set(10, 1, own=0)
    proc.set(50, 1, own=0)
    table.add_actor(Actor("a", "r", 10, False))
    table.scan(0)
    proc.set(50, 1, own=500)
    table.scan(100)
    assert ticks(table, "a", 0, 100) == 0
    assert table.actor_of(50) is None
    assert table.actor_of(10) == "a"
