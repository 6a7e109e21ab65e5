"""Who used a GPU, from looks at it that are seconds apart."""

import subprocess
from pathlib import Path

import pytest
from joulebook.gpu_use import GpuUse
from joulebook.meters import Busy
from joulebook.processes import Actor, ProcessTable

S = 1_000_000_000


@pytest.fixture
def two():
    """A table of two processes, each an actor of its own run, both looked at once."""
    jobs = [subprocess.Popen(["sleep", "1000"]) for _ in range(2)]
    table = ProcessTable(Path("/proc"))
    for name, job in zip("ab", jobs, strict=True):
        table.add_actor(Actor(name, name, job.pid, launcher=False))
    table.scan(S)
    yield GpuUse(table), [job.pid for job in jobs], jobs
    for job in jobs:
        job.kill()
        job.wait()


def busy_seconds(use: GpuUse, party: str, start: int, end: int) -> float:
    return use.by_device["g"][party].gained(start * S, end * S) / S


def leave(job: subprocess.Popen, use: GpuUse, at: int) -> None:
    job.kill()
    job.wait()
    use.processes.scan(at * S)


def test_what_went_since_the_last_look_used_its_part_until_then(two) -> None:
    use, (a, b), jobs = two
    use.add("g", Busy({a: 0.4, b: 0.2}), S, 5 * S)
    leave(jobs[0], use, 9)
    use.add("g", Busy({b: 0.2}), 5 * S, 9 * S)
    assert busy_seconds(use, "a", 5, 8) == pytest.approx(3 * 0.4)  # a run that ended at 8
    assert busy_seconds(use, "b", 1, 9) == pytest.approx(8 * 0.2)
    use.add("g", Busy({b: 0.2}), 9 * S, 13 * S)
    assert busy_seconds(use, "a", 9, 13) == 0


def test_of_processes_that_do_not_say_each_had_an_equal_part_until_one_went(two) -> None:
    use, (a, b), jobs = two
    use.add("g", Busy({a: None, b: None}), S, 5 * S)
    leave(jobs[0], use, 9)
    use.add("g", Busy({b: None}), 5 * S, 9 * S)
    assert busy_seconds(use, "a", 5, 8) == busy_seconds(use, "b", 5, 8) == pytest.approx(1.5)


def test_a_meter_that_still_lists_or_samples_one_that_went_means_its_run(two) -> None:
    use, (a, b), jobs = two
    use.add("g", Busy({a: 0.5, b: 0.5}, sampled=True), S, 5 * S)
    leave(jobs[0], use, 9)
    use.add("g", Busy({a: 0.1, b: 0.5}, sampled=True), 5 * S, 9 * S)
    assert busy_seconds(use, "a", 5, 9) == pytest.approx(0.4)
    assert "" not in use.by_device["g"]


def test_a_process_without_a_sample_since_the_last_look_used_nothing(two) -> None:
    use, (a, b), jobs = two
    use.add("g", Busy({a: 0.5, b: 0.5}, sampled=True), S, 5 * S)
    leave(jobs[0], use, 9)
    use.add("g", Busy({b: 0.5}, sampled=True), 5 * S, 9 * S)
    assert busy_seconds(use, "a", 5, 9) == 0


def test_whose_a_process_was_is_forgotten_after_a_while(two) -> None:
    use, (a, _), jobs = two
    leave(jobs[0], use, 9)
    assert use.processes.actor_of(a) == "a"
    leave(jobs[1], use, 30)
    assert use.processes.actor_of(a) is None
