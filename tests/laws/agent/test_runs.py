"""What becomes of a run does not depend on the order in which its processes' files are read."""

from typing import NamedTuple

from builders import line
from hypothesis import given
from hypothesis import strategies as st
from joulebook.rows import Status
from joulebook.runs import RunBook

S = 1_000_000_000


class Death(NamedTuple):
    """A process that is gone without a word."""

    at_ns: int


STATUSES = st.sampled_from(["ok", "failed", "interrupted", None])  # None: it dies without a word


@st.composite
def processes(draw):
    """Files of processes that are in one run all at once for a while: (key, [marks]), some of them launchers."""
    found = []
    launchers = draw(st.integers(0, 2))
    for i in range(draw(st.integers(max(1, launchers), 5))):
        launcher = i < launchers
        joined, left = draw(st.integers(1, 50)) * S, draw(st.integers(60, 99)) * S
        # Workers end before any launcher does: it waits for them.
        left = left if launcher or not launchers else 59 * S
        role = "launcher" if launcher else "track"
        marks = [line("join", 1, joined, run="r", role=role)]
        if launcher:
            marks.append(line("start", 2, joined, run="r"))
        status = draw(STATUSES)
        marks.append(Death(left) if status is None else line("leave", 3, left, run="r", status=status))
        found.append((f"{i}", marks))
    return found


def outcome(files):
    """The run after the files were read, each in order, the marks of all of them in the order given."""
    book = RunBook("m", "b")
    for key, mark in files:
        if isinstance(mark, Death):
            book.died(key, mark.at_ns, mark.at_ns // 1000)
        else:
            book.take(key, mark)
    return book.runs["r"].run


@given(processes(), st.data())
def test_any_order_of_files_ends_alike(files, data):
    marks = [(key, mark) for key, whole in files for mark in whole]
    in_time = sorted(marks, key=lambda entry: entry[1].at_ns)
    expected = outcome(in_time)
    shuffled = data.draw(st.permutations(files))
    found = outcome([(key, mark) for key, whole in shuffled for mark in whole])
    assert (found.status, found.started_ns, found.ended_ns) == (expected.status, expected.started_ns, expected.ended_ns)
    assert expected.status is not Status.RUNNING
    assert found.notes == expected.notes == ()


@given(processes())
def test_the_worst_outcome_of_those_who_decide_is_the_runs(files):
    deciding = [whole for _, whole in files if whole[0].values["role"] == "launcher"] or [whole for _, whole in files]
    ends = ["interrupted" if isinstance(w[-1], Death) else w[-1].values["status"] for w in deciding]
    worst = next((status for status in ("interrupted", "failed") if status in ends), "ok")
    marks = [(key, mark) for key, whole in files for mark in whole]
    run = outcome(sorted(marks, key=lambda entry: entry[1].at_ns))
    assert run.status == worst
    assert run.ended_ns == max(w[-1].at_ns for w in deciding)
