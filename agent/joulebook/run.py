"""``joulebook run``: a command under the book, its descriptors, bytes, signals and exit status its own."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import secrets
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

import click

from joulebook.errors import JoulebookError
from joulebook.home import Home, find_home
from joulebook.identity import INSIDE, RUN_ID, machine_id, new_run_id
from joulebook.joining import marks_name, write_join
from joulebook.launch import start_agent_quietly, wait_for_run
from joulebook.lease import holder_of, outbox_path
from joulebook.marks import MarksWriter, members
from joulebook.outbox import Outbox
from joulebook.ranks import Job, job_of
from joulebook.rows import Method
from joulebook.sdk import ensemble_wire, is_given, labels_from_environment, technique_wire
from joulebook.summary import document, run_in

REFUSED: Final = 125
NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
METER_SECONDS: Final = 8.0
CLOSE_SECONDS: Final = 10.0
WATCH_SECONDS: Final = 3
PASSED_ON: Final = (
    signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGXCPU, signal.SIGPWR,
)  # fmt: skip
"""Signals that schedulers send to a job, and that would end us and leave CMD behind."""
SUMMARY_GROUP: Final = "joulebook.summary"


@dataclass(slots=True)
class Launcher:
    """The book's side of one command: a run id, a marks file and what the agent says of them."""

    home: Home
    run_id: str
    marks: MarksWriter
    status: dict[str, Any] | None

    def warn(self, quiet: bool) -> None:
        """One line for everything that will not be measured as it should."""
        if self.status is None:
            _say(f"no agent answers: this run is not measured (see {self.home.agents})")
            return
        modelled = sorted(d["component"] for d in self.status["devices"].values() if d["method"] == Method.MODELLED)
        causes = [refused["cause"] for refused in self.status["refused"]]
        if modelled and not quiet:
            why = f" ({causes[0]})" if causes else ""
            _say(f"{' and '.join(modelled)} energy is modelled, not measured{why}: joulebook doctor says more")

    def modelled(self) -> list[str]:
        """Devices whose energy would not be measured; everything when no agent answers."""
        if self.status is None:
            return ["everything"]
        return [d for d, told in self.status["devices"].items() if told["method"] == Method.MODELLED]


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="""\b
Examples:
  joulebook run -- python train.py
  joulebook run --study bits --technique int8:bits=8 --seed 1 --json run.json -- python train.py
  joulebook run --require measured -- ./train.sh""",
)
@click.option("--name", default="", help="A name for people.")
@click.option("--project", default="", help="The project that the run belongs to.")
@click.option("--study", default="", help="The study that the run belongs to.")
@click.option("--arm", default="", help="The run's arm of the study; else made of techniques and ensemble.")
@click.option("--technique", "techniques", multiple=True, metavar="NAME[:K=V,...]", help="A technique; repeatable.")
@click.option("--ensemble", metavar="METHOD[:members=N]", help="The ensemble method.")
@click.option("--member", help="The ensemble member that the whole run trains.")
@click.option("--seed", type=int, help="The seed; comparisons pair by it.")
@click.option("--parent", default="", metavar="RUN_ID", help="The run that this one is a part of.")
@click.option("--inherits", multiple=True, metavar="RUN_ID", help="A run whose cost this one reuses; repeatable.")
@click.option("--data-hash", default="", help="Hash of the data, so that comparisons can require the same.")
@click.option("--quiet", is_flag=True, help="No summary and no remarks on stderr.")
@click.option("--require", type=click.Choice(["measured"]), help="Refuse before CMD starts if anything is modelled.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the summary here.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- CMD ...")
@click.pass_context
def run(
    ctx: click.Context,
    /,
    command: tuple[str, ...],
    quiet: bool,
    require: str | None,
    json_file: Path | None,
    **labels: Any,
) -> None:
    """Measure a command.

    CMD keeps its descriptors, bytes, signals and exit status; the summary follows on stderr.
    Exit status: CMD's, or 125 when joulebook refuses, 126 when CMD cannot be run, 127 when it is not found.
    """
    launcher = None
    with _never_in_the_way("this run is not measured"):
        launcher = _prepare(_labels(labels), command)
    if launcher is not None:
        if require == "measured" and (devices := launcher.modelled()):
            launcher.marks.write("leave", members({"run": launcher.run_id, "status": "failed", "reason": "refused"}))
            _say(f"refused: {', '.join(devices)} would be modelled")
            _say("  try: joulebook doctor, or leave out --require measured")
            ctx.exit(REFUSED)
        launcher.warn(quiet)
    elif require == "measured":
        ctx.exit(REFUSED)
    code, number = _execute(command, launcher)
    if launcher is not None:
        # Whatever goes wrong from here on, the exit status is CMD's.
        with _never_in_the_way("no summary"):
            _conclude(launcher, quiet=quiet, json_file=json_file)
    sys.stderr.flush()
    if number is not None:
        _die_by(number)
    ctx.exit(code)


def _labels(options: dict[str, Any]) -> dict[str, Any]:
    given = {
        "name": options["name"],
        "project": options["project"],
        "study": options["study"],
        "arm": options["arm"],
        "techniques": [technique_wire(text) for text in options["techniques"]],
        "ensemble": ensemble_wire(options["ensemble"]) if options["ensemble"] else None,
        "member": options["member"],
        "seed": options["seed"],
        "parent_run_id": options["parent"] or _around(),
        "inherits": list(options["inherits"]),
        "data_hash": options["data_hash"],
    }
    return labels_from_environment() | {key: value for key, value in given.items() if is_given(value)}


def _around() -> str:
    """The run of the track or ``joulebook run`` that started us, empty where a person or a launcher did."""
    own = os.environ.get(RUN_ID, "")
    return own if own == os.environ.get(INSIDE) else ""


def _prepare(labels: dict[str, Any], command: tuple[str, ...]) -> Launcher | None:
    """Everything before CMD starts; None when there is no place to write, which is said and harms nothing."""
    try:
        home = find_home().make()
    except JoulebookError as error:
        _say(f"{error.cause}: this run is not measured\n  try: {error.remedy}")
        return None
    # Under a track or another ``joulebook run`` a run of its own; else the one that is set, or a launcher's for all.
    job = (None if _around() else job_of()) or Job(new_run_id())
    name = marks_name(job.run_id, os.getpid(), f"launcher-{secrets.token_hex(4)}")
    marks = MarksWriter(home.marks / name, held=home.shared is not None)
    write_join(marks, job.run_id, "launcher", labels, command, job.note)
    try:
        status = wait_for_run(home, job.run_id, "open", METER_SECONDS)
    except OSError:
        status = None
    return Launcher(home, job.run_id, marks, status)


def _execute(command: tuple[str, ...], launcher: Launcher | None) -> tuple[int, int | None]:
    """Run CMD to its end. Returns its exit status and the signal that killed it, if one did."""
    environ = dict(os.environ)
    if launcher is not None:
        environ[RUN_ID] = environ[INSIDE] = launcher.run_id
        environ["JOULEBOOK_HOME"] = str(launcher.home.root)
        launcher.marks.write("start", members({"run": launcher.run_id}))
    with _signals_passed_on() as passed_on_to:
        try:
            # close_fds=False: what the caller opened for CMD is CMD's; our own descriptors close on exec.
            child = subprocess.Popen(command, env=environ, close_fds=False)
        except FileNotFoundError:
            return _not_started(launcher, NOT_FOUND, f"{command[0]}: command not found")
        except OSError as error:
            return _not_started(launcher, NOT_EXECUTABLE, f"{command[0]}: {error.strerror}")
        passed_on_to(child.pid)
        if launcher is not None and launcher.status is not None:
            _keep_an_agent(launcher.home, child.pid)
        _, wait_status = os.waitpid(child.pid, 0)
    code = os.waitstatus_to_exitcode(wait_status)
    child.returncode = code
    number = -code if code < 0 else None
    _leave(launcher, 128 + number if number is not None else code, number)
    return code, number


def _keep_an_agent(home: Home, pid: int) -> None:
    """Until CMD ends: an agent that died is replaced, and the new one claims the counters' difference."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return  # old kernels and strict sandboxes: CMD is waited for, the agent is not watched
    try:
        ended = select.poll()
        ended.register(pidfd, select.POLLIN)
        while not ended.poll(WATCH_SECONDS * 1000):
            start_agent_quietly(home)
    finally:
        os.close(pidfd)


def _not_started(launcher: Launcher | None, code: int, why: str) -> tuple[int, None]:
    _say(why)
    _leave(launcher, code, None)
    return code, None


def _leave(launcher: Launcher | None, code: int, number: int | None) -> None:
    if launcher is None:
        return
    status = "interrupted" if number is not None else "failed" if code else "ok"
    reason = f"killed by signal {_signal_name(number)}" if number is not None else None
    if code and number is None:
        reason = f"exit status {code}"
    body = {"run": launcher.run_id, "status": status, "exit_code": code, "reason": reason}
    launcher.marks.write("leave", members(body))
    launcher.marks.close()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)  # real-time signals have no names


@contextlib.contextmanager
def _signals_passed_on() -> Iterator[Callable[[int], None]]:
    """The terminal signals CMD by itself; what is sent to us alone is passed on to the pid that is given to us.

    A signal that comes before the pid is known waits for it. Handlers are functions, which exec resets: CMD
    starts with the dispositions that we were given.
    """
    children: list[int] = []
    early: list[int] = []

    def send(pid: int, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)

    def forward(number: int, _: object) -> None:
        if not children:
            early.append(number)
        for pid in children:
            send(pid, number)

    def pass_on_to(pid: int) -> None:
        children.append(pid)
        while early:
            send(pid, early.pop(0))

    def leave_to_the_terminal(number: int, _: object) -> None:
        return

    handlers = {signal.SIGINT: leave_to_the_terminal, signal.SIGQUIT: leave_to_the_terminal}
    handlers |= dict.fromkeys(PASSED_ON, forward)
    taken = [number for number in handlers if signal.getsignal(number) is not signal.SIG_IGN]
    saved = {number: signal.signal(number, handlers[number]) for number in taken}
    try:
        yield pass_on_to
    finally:
        for number, handler in saved.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _never_in_the_way(lost: str) -> Iterator[None]:
    """Whatever fails in the book is said, with what is lost by it; CMD runs and its status is passed on."""
    try:
        yield
    except JoulebookError as error:
        _say(f"{lost}: {error.cause}\n  try: {error.remedy}")
    except Exception as error:  # noqa: BLE001  law 7: no failure of ours may stand between the user and CMD
        _say(f"{lost}: {type(error).__name__}: {error}\n  try: joulebook doctor")


def _conclude(launcher: Launcher, *, quiet: bool, json_file: Path | None) -> None:
    if launcher.status is None:
        return
    if wait_for_run(launcher.home, launcher.run_id, "closed", CLOSE_SECONDS) is None:
        _say(f"the agent has not closed the run: joulebook report run {launcher.run_id} later")
        return
    if quiet and json_file is None:
        return
    if launcher.home.shared is not None and not _is_ours(launcher.home):
        raise JoulebookError(
            f"run {launcher.run_id} was metered by the agent of another home",
            f"joulebook report run {launcher.run_id} where that agent is",
        )
    summary = summary_document(launcher.home, launcher.run_id)
    if json_file is not None:
        json_file.write_text(json.dumps(summary, indent=2, sort_keys=True) + "\n")
    if not quiet:
        print(summary_text(summary), file=sys.stderr)


def _is_ours(home: Home) -> bool:
    """True when the agent that meters for the shared folder keeps its rows in this home."""
    path = outbox_path(home, machine_id())
    if not path.exists():
        return False
    outbox = Outbox(path, writer=False)
    try:
        return outbox.agent_id == holder_of(home)
    finally:
        outbox.close()


def summary_document(home: Home, run_id: str) -> dict[str, Any]:
    """The run's documented object: priced where joulebook[reports] is installed, joules alone in a bare install."""
    for entry in entry_points(group=SUMMARY_GROUP):
        try:
            found: dict[str, Any] = entry.load()(run_id)
        except ModuleNotFoundError:
            continue  # the upper floors' packages are not installed: the bare install's own words
        return found
    return energy_document(home, run_id)


def energy_document(home: Home, run_id: str) -> dict[str, Any]:
    """The run's object from the rows that wait in the outbox, which stay there."""
    path = outbox_path(home, machine_id())
    if not path.exists():
        raise JoulebookError(
            f"run {run_id} was metered by an agent of another home",
            f"joulebook report run {run_id} where that agent is",
        )
    outbox = Outbox(path, writer=False)
    try:
        run, energy = run_in(outbox.bodies(), run_id, may_leave=outbox.ships_to is not None)
    finally:
        outbox.close()
    return document(run, energy)


def summary_text(summary: dict[str, Any]) -> str:
    """A few lines for people."""
    low, high = summary["energy_total_interval_joules"]
    lines = [
        f"joulebook: run {summary['run_id']} {summary['status']}",
        f"  energy    {summary['energy_total_joules']:.1f} J  [{low:.1f}, {high:.1f}] (95 %), {summary['policy']}",
    ]
    for component, value in summary["energy_joules"].items():
        if value is not None:
            name = summary["component_names"].get(component, component)
            lines.append(f"  {name:<9} {value:.1f} J  {summary['method'][component]}")
    for phase, parts in summary["phases"].items():
        lines.append(f"  {phase:<9} {sum(parts.values()):.1f} J")
    grams = summary["emissions_g"]
    lines.append(f"  emissions {summary['missing']}" if grams is None else f"  emissions {grams:.3g} g CO2e")
    kept = summary["conservation"]
    lines.append(
        f"  measured {kept['measured']} mJ = runs {kept['runs']} + idle {kept['idle']}"
        f" + unattributed {kept['unattributed']}"
    )
    if summary["coverage"] < 0.995:
        lines.append(
            f"  coverage  {summary['coverage']:.1%}: the rest was claimed from counters afterwards, or is missing"
        )
    return "\n".join(lines)


def _die_by(number: int) -> None:
    """End by the signal that ended CMD, without a core of our own."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    signal.signal(number, signal.SIG_DFL) if number not in (signal.SIGKILL, signal.SIGSTOP) else None
    os.kill(os.getpid(), number)


def _say(text: str) -> None:
    print(f"joulebook run: {text}", file=sys.stderr)
