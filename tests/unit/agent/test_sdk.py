"""The SDK writes marks and nothing else: nesting, labels, forks, values that are no numbers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import joulebook
import pytest
from joulebook import sdk
from joulebook.identity import RUN_ID
from joulebook.marks import parse
from joulebook.sdk import ensemble_wire, labels_from_environment, technique_wire


class Odd:
    """A scalar of another library, as numpy's are: no JSON, but an ``item``."""

    ndim = 0

    def __init__(self, value):
        self.value = value

    def item(self):
        return self.value


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home without an agent, and a process that is in no run."""
    for name in list(os.environ):
        if name.startswith(("JOULEBOOK_", "TORCHELASTIC", "SLURM")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("JOULEBOOK_HOME", str(tmp_path))
    monkeypatch.setenv("JOULEBOOK_AGENT", "off")
    monkeypatch.setattr(sdk, "_process", None)
    monkeypatch.setattr(sdk, "_joined", {})
    monkeypatch.setattr(sdk, "_jobs", {})
    return tmp_path


def marks_of(home):
    """All marks by file, in order, what is said twice once."""
    files = [
        [json.loads(line) for line in path.read_text().splitlines()] for path in sorted(home.glob("marks/*.jsonl"))
    ]
    return [[line for line in lines if not line.get("again")] for lines in files]


def logs_of(home):
    """What was logged, by the name of the file."""
    paths = sorted(home.glob("marks/logs/*"))
    return {path.name: [json.loads(line) for line in path.read_text().splitlines()] for path in paths}


def test_a_tracked_block(home):
    with joulebook.track("t", study="s", techniques=["int8:bits=8"], seed=3) as run:
        assert os.environ[RUN_ID] == run.run_id
        with joulebook.phase("train", member="0"):
            joulebook.log(samples=64, flops=1e9, loss=0.5)
    assert RUN_ID not in os.environ
    (lines,) = marks_of(home)
    assert [line["kind"] for line in lines] == ["join", "begin", "end", "leave"]
    assert {line["run"] for line in lines if "run" in line} == {run.run_id}
    told = {"name": "t", "study": "s", "seed": 3, "techniques": [{"name": "int8", "parameters": {"bits": 8}}]}
    assert lines[0]["labels"] == told
    assert (lines[1]["phase"], lines[1]["member"]) == ("train", "0")
    assert lines[2]["of"] == lines[1]["n"]
    assert lines[3]["status"] == "ok"
    ((log,),) = logs_of(home).values()
    assert (log["n"], log["kind"]) == (1, "log")
    assert (log["samples"], log["flops"], log["quality"]) == (64, 1e9, {"loss": 0.5})
    assert lines[1]["at_ns"] <= log["at_ns"] <= lines[2]["at_ns"]


def test_the_first_log_makes_the_log_file_and_it_has_the_marks_files_name(home):
    with joulebook.track():
        assert list(logs_of(home)) == []
        for step in range(3):
            joulebook.log(step=step)
    (path,) = home.glob("marks/*.jsonl")
    ((name, lines),) = logs_of(home).items()
    assert (name, [line["n"] for line in lines]) == (path.name, [1, 2, 3])


def test_logs_that_could_not_be_written_are_counted_where_the_process_leaves(home):
    with joulebook.track():
        (home / "marks" / "logs").rmdir()
        joulebook.log(samples=1)
        joulebook.log(samples=1)
    assert marks_of(home)[0][-1]["lost"] == 3, "the file that could not be opened, and two lines"


def test_a_nested_track_is_a_child_run_that_every_rank_names_alike(home, monkeypatch):
    def once():
        monkeypatch.setenv(RUN_ID, "r")
        monkeypatch.setattr(sdk, "_joined", {})  # as another rank's process would be
        with joulebook.track(), joulebook.track("probe") as first, joulebook.track("probe") as second:
            return first.run_id, second.run_id

    named = once()
    assert once() == named
    assert named[0].startswith("r.")
    assert named[1].startswith(named[0] + ".")
    lines = marks_of(home)[0]
    assert [(line["run"], line.get("parent")) for line in lines if line["kind"] == "join"] == [
        ("r", None), (named[0], "r"), (named[1], named[0]),
    ]  # fmt: skip


def test_only_the_first_track_of_a_process_joins_the_inherited_run(home, monkeypatch):
    monkeypatch.setenv(RUN_ID, "r")
    named = []
    for seed in range(3):
        with joulebook.track(arm=f"arm{seed}", seed=seed) as run:
            named.append(run.run_id)
    assert named[0] == "r"
    assert len(set(named)) == 3
    joins = {lines[0]["run"]: lines[0]["labels"] for lines in marks_of(home)}
    assert [joins[name]["seed"] for name in named] == [0, 1, 2]
    assert [joins[name].get("parent_run_id") for name in named] == [None, "r", "r"]


@pytest.mark.parametrize(
    "labels",
    [
        {"seed": Odd(3)},
        {"techniques": [("lr", {"x": Odd(0.5)})]},
        {"techniques": [("clip", {"norm": float("inf")})]},
        {"ensemble": "snapshot:members=three"},
        {"data_hash": object()},
    ],
)
def test_labels_that_json_does_not_know_stop_nobody(home, labels):
    with joulebook.track(**labels):
        pass
    (lines,) = marks_of(home)
    assert [line["kind"] for line in lines] == ["join", "leave"]
    assert parse(json.dumps(lines[0]).encode()) is not None


def test_an_error_fails_the_run_and_passes_through(home):
    with pytest.raises(ZeroDivisionError), joulebook.track():
        1 / 0
    leave = marks_of(home)[0][-1]
    assert (leave["status"], leave["reason"]) == ("failed", "ZeroDivisionError")


@pytest.mark.parametrize(("code", "status"), [(0, "ok"), (None, "ok"), (2, "failed")])
def test_leaving_by_exit(home, code, status):
    with pytest.raises(SystemExit), joulebook.track():
        sys.exit(code)
    assert marks_of(home)[0][-1]["status"] == status


def test_a_decorated_function_is_a_run_at_every_call(home):
    @joulebook.track(study="s")
    def double(x: int) -> int:
        """Twice."""
        return 2 * x

    assert (double(2), double(3), double.__doc__) == (4, 6, "Twice.")
    assert len(marks_of(home)) == 2


def kinds(lines):
    return [line["kind"] for line in lines]


def test_a_coroutine_is_tracked_until_it_is_done(home):
    import asyncio

    @joulebook.track("t")
    async def train(x: int) -> int:
        with joulebook.phase("train"):
            await asyncio.sleep(0.01)
        return x

    waiting = train(2)
    assert marks_of(home) == [], "nothing runs yet"
    assert asyncio.run(waiting) == 2
    assert kinds(marks_of(home)[0]) == ["join", "begin", "end", "leave"]
    assert train.__name__ == "train"


def test_a_generator_is_tracked_from_its_first_step_to_its_last(home):
    @joulebook.track()
    def epochs(n: int):
        for epoch in range(n):
            with joulebook.phase("train"):
                yield epoch
        return "done"

    steps = epochs(2)
    assert marks_of(home) == []
    assert list(steps) == [0, 1]
    assert kinds(marks_of(home)[0]) == ["join", "begin", "end", "begin", "end", "leave"]


def test_an_asynchronous_generator_too(home):
    import asyncio

    @joulebook.track()
    async def epochs(n: int):
        for epoch in range(n):
            yield epoch

    async def collect():
        return [epoch async for epoch in epochs(2)]

    assert asyncio.run(collect()) == [0, 1]
    assert kinds(marks_of(home)[0]) == ["join", "leave"]


def test_an_error_of_a_coroutine_fails_its_run(home):
    import asyncio

    @joulebook.track()
    async def train():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(train())
    assert marks_of(home)[0][-1]["status"] == "failed"


def test_the_first_track_joins_the_inherited_run_though_a_phase_came_before(home, monkeypatch):
    monkeypatch.setenv(RUN_ID, "r")
    with joulebook.phase("setup"):
        pass
    with joulebook.track("t", seed=1) as first, joulebook.phase("train"):
        pass
    with joulebook.track("u") as second:
        pass
    assert first.run_id == "r"
    assert second.run_id.startswith("r.")
    (lines,) = [lines for lines in marks_of(home) if len(lines) > 2]
    assert kinds(lines) == ["join", "begin", "end", "join", "begin", "end", "leave"]
    assert {line["run"] for line in lines if "run" in line} == {"r"}
    assert [line.get("role") for line in lines if line["kind"] == "join"] == ["worker", "track"]
    assert lines[3]["labels"] == {"name": "t", "seed": 1}


def test_a_forked_childs_first_track_joins_its_parents_run(home):
    with joulebook.track() as run:
        pids = []
        for _ in range(2):
            pid = os.fork()
            if pid == 0:
                with joulebook.track("same"):
                    pass
                os._exit(0)
            pids.append(pid)
        assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]
    assert {lines[0]["run"] for lines in marks_of(home)} == {run.run_id}


def test_who_joins_says_so_twice_and_where_it_is(home):
    with joulebook.track("t"):
        pass
    (path,) = home.glob("marks/*.jsonl")
    first, second = [json.loads(line) for line in path.read_text().splitlines()][:2]
    assert (first["kind"], second["kind"], second["again"]) == ("join", "join", True)
    same = ("run", "role", "pid", "machine", "boot", "pid_ns", "cgroup", "labels")
    assert {name: first.get(name) for name in same} == {name: second.get(name) for name in same}
    assert first["pid_ns"] == Path("/proc/self/ns/pid").stat().st_ino


@pytest.mark.parametrize("words", [["x" * 600] * 40, ["\U0001f525" * 600] * 40])
def test_a_long_command_line_loses_no_join(home, monkeypatch, words):
    monkeypatch.setattr(sys, "argv", words)
    with joulebook.track("t"):
        pass
    (path,) = home.glob("marks/*.jsonl")
    lines = [parse(line) for line in path.read_bytes().splitlines()]
    assert [line.kind for line in lines] == ["join", "join", "leave"]
    assert lines[0].values["labels"] == {"name": "t"}


def test_labels_too_long_for_a_mark_are_left_out_and_the_run_says_so(home):
    with joulebook.track("x" * 40_000):
        pass
    (path,) = home.glob("marks/*.jsonl")
    join = parse(path.read_bytes().splitlines()[0])
    assert "too long" in join.values["note"]
    assert "labels" not in join.values


@pytest.mark.parametrize("run_id", ["a/b", "x" * 500, "é" * 300, "..", "a\nb"])
def test_any_run_id_has_a_marks_file(home, monkeypatch, run_id):
    monkeypatch.setenv(RUN_ID, run_id)
    with joulebook.track() as run:
        pass
    assert run.run_id == run_id
    assert marks_of(home)[0][0]["run"] == run_id


def test_without_the_jobs_id_a_rank_is_not_tracked_and_one_line_says_why(home, monkeypatch, capsys):
    monkeypatch.setenv("JOULEBOOK_RENDEZVOUS", str(home / "no" / "where"))
    for _ in range(2):
        with joulebook.track(), joulebook.phase("train"):
            joulebook.log(samples=1)
    assert marks_of(home) == []
    assert RUN_ID not in os.environ
    cause, remedy = capsys.readouterr().err.splitlines()
    assert "rendezvous file" in cause
    assert remedy.startswith("  try: set JOULEBOOK_RENDEZVOUS")


def test_outside_every_run_nothing_is_written(home):
    with joulebook.phase("train"):
        joulebook.log(samples=1)
    assert marks_of(home) == []


def test_a_process_born_into_a_run_joins_it_at_its_first_phase(home, monkeypatch):
    monkeypatch.setenv(RUN_ID, "r")
    with joulebook.phase("train"):
        pass
    lines = marks_of(home)[0]
    assert [(line["kind"], line.get("run"), line.get("role")) for line in lines] == [
        ("join", "r", "worker"), ("begin", None, None), ("end", None, None),
    ]  # fmt: skip


def test_a_forked_child_writes_a_file_of_its_own(home):
    with joulebook.track() as run:
        pid = os.fork()
        if pid == 0:
            with joulebook.phase("eval"):
                pass
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        with joulebook.phase("train"):
            pass
    files = {tuple(line["kind"] for line in lines): lines for lines in marks_of(home)}
    assert set(files) == {("join", "begin", "end", "leave"), ("join", "begin", "end")}
    child = files["join", "begin", "end"]
    assert (child[0]["run"], child[0]["pid"], child[1]["phase"]) == (run.run_id, pid, "eval")


def test_values_that_are_no_numbers_are_named_and_left_out(home):
    with joulebook.track():
        joulebook.log(accuracy=float("nan"), loss="high", nll=0.25, step=3.0, samples=10**400, count=2**70, odd=Odd(2))
    ((log,),) = logs_of(home).values()
    assert (log["quality"], log["step"]) == ({"nll": 0.25}, 3)
    assert log["dropped"] == ["accuracy", "loss", "count", "odd"]
    assert "samples" not in log


def test_nothing_raises_when_there_is_no_place_to_write(home, monkeypatch):
    monkeypatch.setenv("JOULEBOOK_HOME", "/proc/none")
    with joulebook.track(), joulebook.phase("train"):
        joulebook.log(samples=1)


def test_importing_it_brings_in_no_machine_learning_library_and_no_thread():
    code = "import joulebook, sys, threading; print(sorted(sys.modules), threading.active_count())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for heavy in ("numpy", "torch", "duckdb", "pydantic", "click", "sqlite3", "subprocess", "pynvml", "asyncio"):
        assert f"'{heavy}'" not in done.stdout
    assert done.stdout.strip().endswith(" 1")


def test_labels_from_variables_and_arguments():
    environ = {
        "JOULEBOOK_STUDY": "s",
        "JOULEBOOK_SEED": "7",
        "JOULEBOOK_TECHNIQUES": "int8:bits=8;prune:rate=0.5,kind=filter",
        "JOULEBOOK_ENSEMBLE": "snapshot:members=3",
        "JOULEBOOK_INHERITS": "a,b",
        "JOULEBOOK_PARENT": "p",
    }
    labels = labels_from_environment(environ)
    assert labels["techniques"][1] == {"name": "prune", "parameters": {"rate": 0.5, "kind": "filter"}}
    assert (labels["ensemble"]["method"], labels["ensemble"]["members"]) == ("snapshot", 3)
    assert (labels["seed"], labels["inherits"], labels["parent_run_id"]) == (7, ["a", "b"], "p")


@pytest.mark.parametrize("seed", ["seven", "--7", "7" * 5000])
def test_a_seed_that_is_no_number_is_none(seed):
    assert "seed" not in labels_from_environment({"JOULEBOOK_SEED": seed})


@pytest.mark.parametrize(("members", "count"), [("3", 3), ("Infinity", None), ("NaN", None), ("few", None)])
def test_the_members_of_an_ensemble_are_a_number_or_unknown(members, count):
    found = labels_from_environment({"JOULEBOOK_ENSEMBLE": f"snapshot:members={members}"})["ensemble"]
    assert (found["method"], found["members"]) == ("snapshot", count)
    assert technique_wire(("int8", {"bits": 8})) == technique_wire({"name": "int8", "parameters": {"bits": 8}})
    assert ensemble_wire({"method": "fge", "members": 4, "ensemble_id": "e"}) == {
        "ensemble_id": "e", "method": "fge", "members": 4,
    }  # fmt: skip
