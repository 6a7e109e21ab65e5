"""What marks make of a run: labels, status, its end, and who has the last word."""

import pytest
from builders import line
from joulebook.rows import UNREAD, Labels, Status, Technique
from joulebook.runs import REMEMBERED_RUNS, RunBook, mark_row, merged


def book_of(*marks):
    book = RunBook("m", "b")
    for key, mark in marks:
        book.take(key, mark)
    return book


def join(n, at, run="r", **values):
    return line("join", n, at, run=run, **values)


def leave(n, at, run="r", status="ok", **values):
    return line("leave", n, at, run=run, status=status, **values)


def test_a_run_of_one_process():
    run = book_of(("a", join(1, 5000)), ("a", leave(2, 9000))).runs["r"].run
    assert (run.status, run.started_ns, run.ended_ns) == (Status.OK, 5000, 9000)


def test_a_run_lasts_until_its_last_process_left():
    book = book_of(("a", join(1, 5000)), ("b", join(1, 6000)), ("a", leave(2, 7000)))
    assert book.open_ids() == ["r"]
    book.take("b", leave(2, 8000))
    assert book.runs["r"].run.ended_ns == 8000
    assert book.open_ids() == []


@pytest.mark.parametrize(
    ("statuses", "whole"), [(["ok", "ok"], "ok"), (["ok", "failed"], "failed"), (["failed", "ok"], "failed")]
)
def test_one_failed_process_fails_the_run(statuses, whole):
    book = book_of(("a", join(1, 1)), ("b", join(1, 1)))
    for key, status in zip("ab", statuses, strict=True):
        book.take(key, leave(2, 2, status=status))
    assert book.runs["r"].run.status == whole


def test_a_process_that_dies_interrupts_the_run():
    book = book_of(("a", join(1, 1)))
    book.died("a", 500, 5)
    run = book.runs["r"].run
    assert (run.status, run.ended_ns) == (Status.INTERRUPTED, 500)
    assert "killed or lost" in run.reason


def test_a_process_that_only_marks_phases_just_ends():
    book = book_of(("a", join(1, 1)))
    book.died("a", 500, 5, lost=False)
    assert (book.runs["r"].run.status, book.runs["r"].run.reason) == (Status.OK, "")


def test_what_the_launcher_waited_for_is_its_to_judge():
    book = book_of(("l", join(1, 1, role="launcher")), ("l", line("start", 2, 100, run="r")), ("a", join(1, 200)))
    book.died("a", 300, 3)
    book.take("l", leave(3, 400, exit_code=0))
    assert (book.runs["r"].run.status, book.runs["r"].run.reason) == (Status.OK, "")


def test_a_run_that_was_not_metered_throughout_is_interrupted_even_if_the_job_ended_well():
    book = book_of(("a", join(1, 1)))
    book.runs["r"].interrupt("the agent was gone for a part of it")
    book.take("a", leave(2, 9))
    assert book.runs["r"].run.status is Status.INTERRUPTED


def test_the_launcher_has_the_last_word():
    book = book_of(
        ("l", join(1, 1, role="launcher")),
        ("l", line("start", 2, 100, run="r")),
        ("a", join(1, 200)),
        ("a", leave(2, 300, status="failed")),
    )
    assert book.open_ids() == ["r"]
    book.take("l", leave(3, 400, status="ok", exit_code=0))
    run = book.runs["r"].run
    assert (run.status, run.exit_code, run.started_ns, run.ended_ns) == (Status.OK, 0, 100, 400)


def test_a_second_process_after_the_first_reopens_a_run_without_launcher():
    book = book_of(("a", join(1, 1)), ("a", leave(2, 2)), ("b", join(1, 5)))
    assert book.open_ids() == ["r"]
    book.take("b", leave(2, 9))
    assert book.runs["r"].run.ended_ns == 9


def test_a_resumed_run_says_so_and_its_outcome_is_the_later_ones():
    book = book_of(("a", join(1, 1_000_000)))
    book.died("a", 2_000_000_000, 2_000_000)
    assert book.runs["r"].run.status is Status.INTERRUPTED
    book.take("b", join(1, 9_000_000_000))
    book.take("b", leave(2, 12_000_000_000))
    run = book.runs["r"].run
    assert (run.status, run.reason, run.notes) == (Status.OK, "", ("resumed after 7 s",))
    assert (run.started_ns, run.ended_ns) == (1_000_000, 12_000_000_000)


def test_a_run_that_an_earlier_agent_saw_end_goes_on():
    old = book_of(("a", join(1, 1000)), ("a", leave(2, 2_000_000_000)))
    book = RunBook("m", "b", ended={"r": old.runs["r"].run})
    assert book.open_ids() == []
    book.take("b", join(1, 5_000_000_000))
    assert (book.open_ids(), book.ended) == (["r"], {})
    run = book.runs["r"].run
    assert (run.started_ns, run.notes) == (1000, ("resumed after 3 s",))


def test_a_run_resumed_on_a_later_boot_is_timed_by_the_later_clock():
    old = book_of(("a", join(1, 50_000_000_000)), ("a", leave(2, 60_000_000_000))).runs["r"].run
    book = RunBook("m", "later", ended={"r": old})
    mark = line("join", 1, 5_000_000_000, run="r", boot="later")
    later = type(mark)(mark.n, mark.kind, mark.at_ns, 100_000_000, mark.cpu_ns, mark.values)
    book.take("b", later)
    run = book.runs["r"].run
    # 50 s after the run's start by UTC it is 5 s after the boot: the run began 45 s before that boot's zero.
    assert (run.boot_id, run.started_at_us, run.started_ns) == (
        "later", 50_000_000, -45_000_000_000,
    )  # fmt: skip
    assert run.notes == ("resumed after 40 s",)


def test_what_a_launcher_started_again_is_judged_by_its_last_start():
    book = book_of(("a0", join(1, 1, rank=0, restart=0)), ("a1", join(1, 1, rank=1, restart=0)))
    book.died("a0", 500, 5)
    book.take("b0", join(1, 600, rank=0, restart=1))
    book.died("a1", 700, 7)  # found dead only after its successor had come
    book.take("b1", join(1, 800, rank=1, restart=1))
    for key in ("b0", "b1"):
        book.take(key, leave(2, 900))
    run = book.runs["r"].run
    assert (run.status, run.reason, run.ended_ns) == (Status.OK, "", 900)
    assert run.notes == ("started again by its launcher (1)",)


def test_a_process_that_dies_after_the_last_start_interrupts_the_run():
    book = book_of(("a", join(1, 1, restart=0)), ("b", join(1, 600, restart=1)))
    book.died("a", 700, 7)
    book.died("b", 800, 8)
    assert book.runs["r"].run.status is Status.INTERRUPTED


def launcher(n, at, **values):
    return join(n, at, role="launcher", **values)


def test_a_job_with_a_launcher_on_each_node_ends_with_its_last_one():
    book = book_of(
        ("l0", launcher(1, 1)), ("l1", launcher(1, 2)), ("l0", line("start", 2, 100, run="r")),
        ("l1", line("start", 2, 150, run="r")), ("a", join(1, 200)), ("a", leave(2, 300, status="failed")),
        ("l0", leave(3, 400, status="failed", exit_code=3)),
    )  # fmt: skip
    assert book.open_ids() == ["r"]
    book.take("l1", leave(3, 500, exit_code=0))
    run = book.runs["r"].run
    assert (run.status, run.exit_code, run.started_ns, run.ended_ns) == (Status.FAILED, 3, 100, 500)


def test_a_launcher_that_dies_beside_one_that_ends_well_interrupts_the_run():
    book = book_of(("l0", launcher(1, 1)), ("l1", launcher(1, 2)))
    book.died("l0", 300, 3)
    book.take("l1", leave(3, 500, exit_code=0))
    assert book.runs["r"].run.status is Status.INTERRUPTED


def test_a_run_begins_with_its_first_work_in_whatever_order_it_is_read():
    early, late = ("a", join(1, 300)), ("l", line("start", 2, 100, run="r"))
    for marks in ([("l", launcher(1, 1)), late, early], [early, ("l", launcher(1, 1)), late]):
        assert book_of(*marks).runs["r"].run.started_ns == 100


def test_what_a_process_says_of_its_job_is_noted_and_recorded():
    run = book_of(("a", join(1, 1, note="ranks elsewhere", world_size=8, nodes=2))).runs["r"].run
    assert run.notes == ("ranks elsewhere",)
    assert (run.record["world_size"], run.record["nodes"]) == (8, 2)


def test_labels_of_later_processes_fill_what_is_empty_and_change_nothing_else():
    labels = merged(Labels(study="s", seed=1), {"study": "other", "arm": "int8", "seed": 2})
    assert labels == Labels(study="s", seed=1, arm="int8")
    told = {"techniques": [{"name": "int8", "parameters": {"bits": 8}}]}
    assert merged(Labels(), told).techniques == (Technique("int8", {"bits": 8}),)
    assert merged(Labels(study="s"), {"no such label": 1}) == Labels(study="s")


def test_a_child_names_its_parent_and_the_root_is_the_outermost_open_run():
    book = book_of(("a", join(1, 1)), ("a", join(2, 2, run="r.c", parent="r")))
    assert book.runs["r.c"].run.labels.parent_run_id == "r"
    assert book.root_of("r.c") == "r"
    book.take("a", leave(3, 3, run="r.c"))
    assert book.runs["r.c"].run.status is Status.OK
    assert book.open_ids() == ["r"]


def test_a_mark_whose_values_are_no_numbers_is_no_row():
    assert mark_row(line("log", 1, 1, quality={"accuracy": "high"}), "r", "m", "b", 1, None) is None
    row = mark_row(line("log", 1, 1, samples=64, quality={"accuracy": 0.9}), "r", "m", "b", 1, None)
    assert row is not None
    assert (row.samples, row.quality) == (64, {"accuracy": 0.9})


def test_a_forgotten_run_can_be_gone_on_with():
    book = book_of(("a", join(1, 1000)), ("a", leave(2, 2_000_000_000)))
    book.runs["r"].changed = False
    book.forget(3_000_000_000, ())
    assert book.runs == {}
    book.take("b", join(1, 5_000_000_000))
    assert book.runs["r"].run.started_ns == 1000
    assert book.runs["r"].run.notes == ("resumed after 3 s",)


def test_of_the_forgotten_only_the_last_are_kept():
    book = RunBook("m", "b")
    for i in range(REMEMBERED_RUNS + 5):
        book.take(f"{i}", join(1, 1 + i, run=f"r{i}"))
        book.take(f"{i}", leave(2, 1000 + i, run=f"r{i}"))
        book.runs[f"r{i}"].changed = False
    book.forget(10_000, ())
    assert len(book.ended) == REMEMBERED_RUNS
    assert next(iter(book.ended)) == "r5"


def test_a_run_keeps_of_which_devices_nothing_was_read_at_each_of_its_ends():
    state = book_of(("a", join(1, 5000)), ("a", leave(2, 9000))).runs["r"]
    state.changed = False
    state.leave_unread({})
    assert state.unread_told
    assert UNREAD not in state.run.record
    state.leave_unread({"gpu-1": 4000})
    state.leave_unread({"gpu-2": 10})
    assert state.run.record[UNREAD] == {"gpu-1": 4000, "gpu-2": 10}
    assert state.changed
