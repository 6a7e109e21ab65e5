"""The SDK writes marks and nothing else: nesting, labels, forks, values that are no numbers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import joulebook
import pytest
from joulebook import sdk
from joulebook.identity import RUN_ID, inherited_run_id, rank
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
    return tmp_path


def marks_of(home):
    """All marks by file, in order."""
    return [[json.loads(line) for line in path.read_text().splitlines()] for path in sorted(home.glob("marks/*.jsonl"))]


def test_a_tracked_block(home):
    with joulebook.track("t", study="s", techniques=["int8:bits=8"], seed=3) as run:
        assert os.environ[RUN_ID] == run.run_id
        with joulebook.phase("train", member="0"):
            joulebook.log(samples=64, flops=1e9, loss=0.5)
    assert RUN_ID not in os.environ
    (lines,) = marks_of(home)
    assert [line["kind"] for line in lines] == ["join", "begin", "log", "end", "leave"]
    assert {line["run"] for line in lines if "run" in line} == {run.run_id}
    told = {"name": "t", "study": "s", "seed": 3, "techniques": [{"name": "int8", "parameters": {"bits": 8}}]}
    assert lines[0]["labels"] == told
    assert (lines[1]["phase"], lines[1]["member"]) == ("train", "0")
    assert (lines[2]["samples"], lines[2]["flops"], lines[2]["quality"]) == (64, 1e9, {"loss": 0.5})
    assert lines[3]["of"] == lines[1]["n"]
    assert lines[4]["status"] == "ok"


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
        joulebook.log(accuracy=float("nan"), loss="high", nll=0.25, step=3.0)
    log = marks_of(home)[0][1]
    assert (log["quality"], log["dropped"], log["step"]) == ({"nll": 0.25}, ["accuracy", "loss"], 3)


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
    assert "seed" not in labels_from_environment({"JOULEBOOK_SEED": "seven"})
    assert technique_wire(("int8", {"bits": 8})) == technique_wire({"name": "int8", "parameters": {"bits": 8}})
    assert ensemble_wire({"method": "fge", "members": 4, "ensemble_id": "e"}) == {
        "ensemble_id": "e", "method": "fge", "members": 4,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("environ", "run_id"),
    [
        ({}, None),
        ({RUN_ID: "own", "TORCHELASTIC_RUN_ID": "t"}, "own"),
        ({"TORCHELASTIC_RUN_ID": "t"}, "torchrun-t"),
        ({"TORCHELASTIC_RUN_ID": "none"}, None),
        ({"TORCHELASTIC_RUN_ID": "none", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "2"}, "slurm-7.2"),
        ({"SLURM_JOB_ID": "7"}, None),
    ],
)
def test_the_run_that_a_process_is_born_into(environ, run_id):
    assert inherited_run_id(environ) == run_id


def test_ranks():
    assert (rank({"RANK": "3"}), rank({"SLURM_PROCID": "1"}), rank({"RANK": "x"}), rank({})) == (3, 1, None, None)


def test_the_package_is_typed():
    assert (Path(joulebook.__file__).parent / "py.typed").exists()
