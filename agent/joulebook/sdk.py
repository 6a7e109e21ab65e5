"""The SDK: ``track``, ``phase``, ``log``. It starts an agent when none runs, appends marks, and does nothing else.

Nothing here raises because of the book: a full disk, a missing agent or a broken home leaves the
training as it was, and the report says what is missing (law 7).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from math import isfinite as _is_finite
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from joulebook.identity import INSIDE, RUN_ID, new_run_id
from joulebook.marks import LARGEST, MarksWriter, as_json, members

if TYPE_CHECKING:  # loaded by the first track, not by the import
    from joulebook.ranks import Job

P = ParamSpec("P")
R = TypeVar("R")

PACKAGES: Final = (
    "torch", "torchvision", "torchao", "transformers", "accelerate", "lightning", "jax", "flax", "tensorflow",
    "numpy", "scipy", "sklearn", "deepspeed", "xgboost", "lightgbm",
)  # fmt: skip
"""Packages whose version a run records when the process has imported them."""

LABEL_VARIABLES: Final = {
    "name": "JOULEBOOK_NAME",
    "project": "JOULEBOOK_PROJECT",
    "study": "JOULEBOOK_STUDY",
    "arm": "JOULEBOOK_ARM",
    "techniques": "JOULEBOOK_TECHNIQUES",
    "ensemble": "JOULEBOOK_ENSEMBLE",
    "member": "JOULEBOOK_MEMBER",
    "seed": "JOULEBOOK_SEED",
    "parent": "JOULEBOOK_PARENT",
    "inherits": "JOULEBOOK_INHERITS",
    "data_hash": "JOULEBOOK_DATA_HASH",
}
"""Label -> the variable that sets it where an argument does not."""


class _Process:
    """The marks of this process: its open file and the runs that it is in. Opened anew after a fork.

    worker: no track has joined yet, only phases and logs of the run that the process was born into.
    """

    def __init__(self, job: Job, *, role: str, labels: Mapping[str, Any], start_agent: bool) -> None:
        from contextlib import suppress

        from joulebook.errors import JoulebookError
        from joulebook.home import find_home
        from joulebook.joining import marks_name, write_join

        self.pid = os.getpid()
        self.run_ids = [job.run_id]
        self.worker = role == "worker"
        self.children = 0
        self.home = find_home()
        with suppress(JoulebookError):  # the writer counts what it cannot write
            self.home.make()
        self.name = marks_name(job.run_id, self.pid, os.urandom(4).hex())
        self.marks = MarksWriter(self.home.marks / self.name, held=self.home.shared is not None)
        self.logs: MarksWriter | None = None
        write_join(self.marks, job.run_id, role, labels, sys.argv, job.note)
        if start_agent and os.environ.get("JOULEBOOK_AGENT") != "off":
            from joulebook.launch import start_agent_quietly

            start_agent_quietly(self.home)

    def log(self, body: str) -> None:
        """Append to the log file, which the first log opens: beside the marks, where no agent is woken by it."""
        if self.logs is None:
            self.logs = MarksWriter(self.home.mark_logs / self.name)
        self.logs.write("log", body)

    @property
    def lost(self) -> int:
        """Lines that could not be written."""
        return self.marks.lost + (self.logs.lost if self.logs is not None else 0)

    def close(self) -> None:
        """Close the files."""
        self.marks.close()
        if self.logs is not None:
            self.logs.close()


_process: _Process | None = None
_joined: dict[tuple[int, str], int] = {}
"""Process and inherited run -> how many tracks of it there were: the first joins it, later ones are its children."""
_jobs: dict[int, Job | None] = {}
"""Process -> the job that its launcher made it a part of, its id empty if unknown. Asked once: it may take a file."""


def _inherited() -> Job | None:
    """The run that the process was born into: of its parent's track or ``joulebook run``, else of its launcher."""
    from joulebook.ranks import Job, bounded, job_of

    if own := os.environ.get(RUN_ID):
        return Job(bounded(own))
    pid = os.getpid()
    if pid not in _jobs:
        _jobs.clear()
        try:
            _jobs[pid] = job_of()
        except Exception as error:  # noqa: BLE001  law 7
            # Without the job's id this process's joules would go to a run that the job's others are not in.
            cause, remedy = getattr(error, "cause", error), getattr(error, "remedy", "set JOULEBOOK_RUN_ID")
            print(f"joulebook: {cause}: this process is not tracked\n  try: {remedy}", file=sys.stderr)
            _jobs[pid] = Job("")
    return _jobs[pid]


def _run_to_join(inherited: Job | None, labels: Mapping[str, Any]) -> Job:
    """The run of a track that is in no other: the inherited one, a child of it if it is taken, or a new one."""
    from joulebook.ranks import Job

    if inherited is None:
        return Job(new_run_id())
    if not inherited.run_id:
        return inherited
    key = os.getpid(), inherited.run_id
    seen = _joined[key] = _joined.get(key, 0) + 1
    return inherited if seen == 1 else Job(child_id(inherited.run_id, seen, labels), inherited.note)


def child_id(parent: str, number: int, labels: Mapping[str, Any]) -> str:
    """Id of a child run: the same on every rank that counts its children alike."""
    import hashlib

    from joulebook.ranks import bounded

    return bounded(f"{parent}.{hashlib.sha256(as_json([parent, number, labels]).encode()).hexdigest()[:8]}")


_fragments: dict[tuple[str, str | None], str] = {}


def _current() -> _Process | None:
    """This process's marks; joins the run that the process was born into, if any."""
    global _process
    process = _process
    if process is not None and process.pid == os.getpid():
        return process
    inherited = _inherited() if process is None else _job_of_parent(process)
    # The run of a track or of ``joulebook run`` has its agent; that of a launcher may have none yet.
    alone = process is None and RUN_ID not in os.environ
    _process = None if inherited is None else _join(inherited, "worker", {}, start_agent=alone)
    return _process


def _job_of_parent(process: _Process) -> Job:
    from joulebook.ranks import Job

    return Job(process.run_ids[-1])


def _join(job: Job, role: str, labels: Mapping[str, Any], *, start_agent: bool) -> _Process | None:
    """The process's marks, opened for a run; None when even that fails, and the job goes on unmarked."""
    if not job.run_id:
        return None
    try:
        return _Process(job, role=role, labels=labels, start_agent=start_agent)
    except Exception:  # noqa: BLE001  law 7: the trainer must not fail because of the book
        return None


class Track:
    """A tracked run: context manager and decorator. ``run_id`` names it once entered.

    The first track of a process joins the run that the process was born into (``joulebook run``,
    torchrun's ranks, a parent's track); a track inside another is a child run.
    """

    def __init__(self, labels: Mapping[str, Any], *, sync: bool) -> None:
        self._labels = labels
        self._sync = sync
        self._process: _Process | None = None
        self._saved: list[str | None] = [None, None]
        self.run_id = ""

    def __enter__(self) -> Track:
        global _process
        current = _process if _process is not None and _process.pid == os.getpid() else None
        if current is not None and current.worker:
            self._take_over(current)
        elif current is not None and current.run_ids:
            self._nest(current)
        else:
            inherited = _inherited()
            job = _run_to_join(inherited, self._labels)
            self.run_id = job.run_id
            labels = dict(self._labels)
            if inherited is not None and job.run_id != inherited.run_id:
                labels["parent_run_id"] = inherited.run_id
            _process = _join(job, "track", labels, start_agent=True)
            self._process = _process
        self._saved = [os.environ.get(name) for name in (RUN_ID, INSIDE)]
        if self.run_id:
            os.environ[RUN_ID] = os.environ[INSIDE] = self.run_id
        return self

    def _take_over(self, current: _Process) -> None:
        """A process that has only marked phases so far joins with its first track: the run is the same."""
        self.run_id = current.run_ids[-1]
        _joined[current.pid, self.run_id] = 1
        current.worker = False
        joined = {"run": self.run_id, "role": "track", "labels": dict(self._labels) or None}
        current.marks.write("join", members(joined))
        self._process = current

    def _nest(self, current: _Process) -> None:
        parent = current.run_ids[-1]
        current.children += 1  # the same on every rank, so that all ranks name the child alike
        self.run_id = child_id(parent, current.children, self._labels)
        current.run_ids.append(self.run_id)
        _synchronise(self._sync)
        current.marks.write("join", members({"run": self.run_id, "parent": parent, "labels": dict(self._labels)}))
        self._process = current

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _process
        process = self._process
        for name, value in zip((RUN_ID, INSIDE), self._saved, strict=True):
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if process is None or process.pid != os.getpid():
            return
        _synchronise(self._sync)
        failed = kind is not None and not (kind is SystemExit and getattr(error, "code", None) in (None, 0))
        outermost = process.run_ids == [self.run_id]
        process.marks.write(
            "leave",
            members(
                {
                    "run": self.run_id,
                    "status": "failed" if failed else "ok",
                    "reason": kind.__name__ if failed and kind else None,
                    "packages": _packages() if outermost else None,
                    "lost": process.lost or None,
                }
            ),
        )
        process.run_ids.remove(self.run_id)
        if outermost:
            process.close()
            _process = None

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """A function whose every call is a run; of a coroutine or a generator, from its first step to its last."""
        from joulebook.tracked import tracked

        return tracked(function, lambda: Track(self._labels, sync=self._sync))


def track(
    name: str = "",
    *,
    project: str = "",
    study: str = "",
    arm: str = "",
    techniques: Iterable[str | tuple[str, Mapping[str, Any]] | Mapping[str, Any]] = (),
    ensemble: str | Mapping[str, Any] | None = None,
    member: str | None = None,
    seed: int | None = None,
    parent: str = "",
    inherits: Iterable[str] = (),
    data_hash: str = "",
    sync: bool = True,
) -> Track:
    """Track a run around a block or a function.

    techniques: names, (name, parameters) pairs or {"name": ..., "parameters": ...}; none is the baseline.
    ensemble: a method name or {"method": ..., "members": ..., "ensemble_id": ...}.
    inherits: run ids whose cost this run reuses (a teacher, a checkpoint).
    sync: wait for queued CUDA work at the edges; without it they are labelled unsynchronised.
    Every label may come from its JOULEBOOK_* variable instead (docs/reference/settings.md).
    """
    given = {
        "name": name,
        "project": project,
        "study": study,
        "arm": arm,
        "techniques": [technique_wire(t) for t in techniques],
        "ensemble": None if ensemble is None else ensemble_wire(ensemble),
        "member": member,
        "seed": seed,
        "parent_run_id": parent,
        "inherits": list(inherits),
        "data_hash": data_hash,
    }
    labels = labels_from_environment() | {key: value for key, value in given.items() if is_given(value)}
    return Track(labels, sync=sync)


class phase:
    """A phase of the run: ``with joulebook.phase("train", member="0"): ...``.

    name: setup, search, train, finetune, eval, inference, or your own.  member: the ensemble
    member that the work is for, None when all members share it.  Phases nest: time inside an
    inner phase is the inner one's alone.  Outside every run it does nothing.
    """

    __slots__ = ("_fragment", "_n", "_process", "_sync")

    def __init__(self, name: str, member: str | None = None, *, sync: bool = True) -> None:
        key = (name, member)
        fragment = _fragments.get(key)
        if fragment is None:
            body = {"phase": str(name)[:128], "member": None if member is None else str(member)[:128]}
            fragment = _fragments[key] = members(body)
        self._fragment = fragment
        self._sync = sync

    def __enter__(self) -> None:
        self._process = _current()
        if self._process is not None:
            synced = _synchronise(self._sync)
            self._n = self._process.marks.write("begin", self._fragment + synced)

    def __exit__(self, *_: object) -> None:
        process = self._process
        if process is not None and process.pid == os.getpid():
            synced = _synchronise(self._sync)
            process.marks.write("end", f',"of":{self._n}{synced}')


def log(
    *, samples: int | None = None, flops: float | None = None, step: int | None = None, split: str = "", **quality: Any
) -> None:
    """Say what the work was: samples and FLOPs of this call alone (they are summed), quality by metric name.

    flops: floating-point operations, a multiply-add counted as two.  split: the data that quality
    was measured on ("test").  A value that is no finite number is left out and named in the mark.
    """
    process = _current()
    if process is None:
        return
    body = ""
    if (number := _number(samples)) is not None:
        body = f',"samples":{int(number)}'
    if (number := _number(step)) is not None:
        body += f',"step":{int(number)}'
    if (number := _number(flops)) is not None:
        body += f',"flops":{number!r}'
    if split:
        body += f',"split":{_text(split)}'
    kept = dropped = ""
    for metric, value in quality.items():
        if (number := _number(value)) is None:
            dropped += f",{_text(metric)}"
        else:
            kept += f",{_text(metric)}:{number!r}"
    if kept:
        body += f',"quality":{{{kept[1:]}}}'
    if dropped:
        body += f',"dropped":[{dropped[1:]}]'
    process.log(body)


_texts: dict[str, str] = {}


def _text(text: str) -> str:
    """A metric's or split's name as JSON; there are few, and each comes at every step."""
    found = _texts.get(text)
    if found is None:
        if len(_texts) > 1000:
            _texts.clear()
        found = _texts[text] = as_json(str(text))
    return found


def is_given(value: Any) -> bool:
    """False for what says nothing: None and empty text or lists."""
    return value is not None and not (isinstance(value, str | list | tuple | dict) and not value)


def technique_wire(technique: str | tuple[str, Mapping[str, Any]] | Mapping[str, Any]) -> dict[str, Any]:
    """A technique as JSON types, from a name, ``name:key=value,...``, a pair or a mapping."""
    if isinstance(technique, str):
        name, parameters = _spec(technique)
        return {"name": name, "parameters": parameters}
    if isinstance(technique, Mapping):
        return {"name": str(technique["name"]), "parameters": dict(technique.get("parameters") or {})}
    return {"name": str(technique[0]), "parameters": dict(technique[1])}


def ensemble_wire(ensemble: str | Mapping[str, Any]) -> dict[str, Any]:
    """An ensemble as JSON types, from ``method:members=3,id=...`` or a mapping."""
    if isinstance(ensemble, str):
        method, values = _spec(ensemble)
    else:
        values = dict(ensemble)
        method = str(values.pop("method"))
    count = _number(values.get("members"))
    return {
        "ensemble_id": str(values.get("ensemble_id") or values.get("id") or os.urandom(4).hex()),
        "method": method,
        "members": None if count is None else int(count),
    }


def labels_from_environment(environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Labels that JOULEBOOK_* variables set."""
    found = {label: environ[variable] for label, variable in LABEL_VARIABLES.items() if environ.get(variable)}
    labels: dict[str, Any] = dict(found)
    if "techniques" in found:
        labels["techniques"] = [technique_wire(word) for word in found["techniques"].split(";") if word]
    if "ensemble" in found:
        labels["ensemble"] = ensemble_wire(found["ensemble"])
    if "inherits" in found:
        labels["inherits"] = [word for word in found["inherits"].split(",") if word]
    if "parent" in found:
        labels["parent_run_id"] = labels.pop("parent")
    if "seed" in found:
        try:
            labels["seed"] = int(found["seed"])
        except ValueError:
            del labels["seed"]
    return labels


def _spec(text: str) -> tuple[str, dict[str, Any]]:
    name, _, rest = text.partition(":")
    pairs = (word.partition("=") for word in rest.split(",") if word)
    return name.strip(), {key.strip(): _literal(value.strip()) for key, _, value in pairs}


def _literal(text: str) -> Any:
    import json

    try:
        return json.loads(text)
    except ValueError:
        return text


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if type(value) is int:
        return value if -LARGEST <= value <= LARGEST else None
    if type(value) is float:
        return value if _is_finite(value) else None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None
    return number if _is_finite(number) else None


def _synchronise(wanted: bool) -> str:
    """Wait for queued CUDA work where there is any; the mark's member that says when it was not waited for."""
    torch = sys.modules.get("torch")
    if torch is None:
        return ""
    cuda = getattr(torch, "cuda", None)
    if cuda is None or not cuda.is_initialized():
        return ""
    if not wanted or os.environ.get("JOULEBOOK_SYNC") == "off":
        return ',"synced":false'
    try:
        cuda.synchronize()
    except RuntimeError:
        return ',"synced":false'
    return ""


def _packages() -> dict[str, str]:
    found = {name: getattr(sys.modules[name], "__version__", None) for name in PACKAGES if name in sys.modules}
    return {name: str(version)[:64] for name, version in found.items() if version is not None}
