"""``joulebook demo``: the small study, run through the real agent, priced by an example site, and reported.

It does nothing that a user cannot: each run is a ``joulebook run``, the site and the report are commands.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import click
from joulebook.errors import BadInput, JoulebookError
from joulebook.home import Home
from joulebook.identity import RUN_ID, machine_id
from joulebook.lease import lease_is_held
from joulebook.sdk import LABEL_VARIABLES

from joulebook_studies.catalogue import BASELINE, DEMO, entry_of
from joulebook_studies.plan import QUICK, Planned, Size, plan, run_options, seconds_left
from joulebook_studies.progress import shown

STUDY: Final = "demo"
CONTROL: Final = "longer"
MARKER: Final = ".joulebook-demo"
"""Lies in every folder that the demo made, so that it empties no other."""
OURS: Final = ("home", "checkpoints", "runs", "report.html", "report.json")
RUN_SECONDS: Final = 1800
"""No run of the demo lasts this long."""
AGENT_SECONDS: Final = 30.0
"""The agent that a run started ends within 10 s of the last run's end; this is how long the demo looks for that."""
THREADS: Final = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
"""One thread that sleeps when it waits: threads that spin would be booked to the technique."""


@dataclass(slots=True)
class Demo:
    """The demo's folder, what its children inherit, and what is known so far."""

    folder: Path
    size: Size
    data_hash: str
    environ: dict[str, str]
    run_ids: dict[tuple[str, int], str] = field(default_factory=dict)
    took: dict[str, list[float]] = field(default_factory=dict)

    @property
    def home(self) -> Home:
        """The demo's own book, apart from yours."""
        return Home(self.folder / "home")


@click.command(
    epilog="""\b
Examples:
  joulebook demo                      3 seeds of 4 arms, some five minutes on two cores
  joulebook demo --quick              checks the plumbing in a minute, its accuracies mean nothing
  joulebook demo --control --seeds 5  and one network with the ensembles' whole training budget"""
)
@click.option("--seeds", type=click.IntRange(1, 100), default=3, show_default=True, help="Runs of each arm.")
@click.option("--members", type=click.IntRange(2, 32), default=3, show_default=True, help="Members of the ensembles.")
@click.option("--control", is_flag=True, help="Also train one network for as long as all members together.")
@click.option("--quick", is_flag=True, help="One seed, few images: checks the plumbing, never accuracy.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/demo"), show_default=True, help="A folder.")
def demo(seeds: int, members: int, control: bool, quick: bool, out: Path) -> None:
    """Train a real network several ways and show what each drew and emitted.

    Baseline, 8-bit integers, an independent and a snapshot ensemble, on Fashion-MNIST (else MNIST digits).
    The result lies in the folder --out: report.html, report.json, and the book itself under home.
    """
    size = QUICK if quick else Size(members=members)
    study = prepare(out, size)
    entries = [entry_of(name) for name in (*DEMO, *((CONTROL,) if control else ()))]
    run_all(study, plan(entries, 1 if quick else seeds, shuffled_by=0))
    if not agent_ended(study.home):
        _say(f"the agent still runs after {AGENT_SECONDS:.0f} s; joulebook doctor says more")
    price(study)
    report(study)
    click.echo(farewell(study.folder))


def prepare(out: Path, size: Size) -> Demo:
    """The folder made fresh and the images found, each told in a line."""
    from joulebook_studies.data import load_images

    images = load_images().first(size.train_images, size.test_images)
    folder = fresh_folder(out.absolute())
    _say(images.statement())
    return Demo(folder, size, images.sha256, child_environment(os.environ, folder))


def fresh_folder(folder: Path) -> Path:
    """The folder, emptied of an earlier demo. Raises BadInput when something else lies there."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise BadInput(f"{folder} holds something that is not a demo's", "name another folder: --out DIR")
    if not agent_ended(Home(folder / "home")):
        raise JoulebookError(f"an agent still writes to {folder}", "wait for the demo that runs, or name another --out")
    for name in OURS:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    (folder / "runs").mkdir(parents=True)
    (folder / MARKER).touch()
    return folder


def child_environment(environ: Mapping[str, str], folder: Path) -> dict[str, str]:
    """What the demo's commands inherit: its own book and one thread, and no label of a run around the demo.

    The agent samples ten times a second unless told otherwise, for the inference phase of the integer arm
    lasts two seconds, which at one sample a second would be too short to resolve.
    """
    foreign = {*LABEL_VARIABLES.values(), RUN_ID}
    kept = {name: value for name, value in environ.items() if name not in foreign}
    return {"JOULEBOOK_SAMPLE_SECONDS": "0.1"} | kept | THREADS | {"JOULEBOOK_HOME": str(folder / "home")}


def run_all(study: Demo, planned: Sequence[Planned]) -> None:
    """Every run, one after another."""
    _say(f"{len(planned)} runs, one after another, each with one thread")
    with shown(len(planned)) as progress:
        for number, one in enumerate(planned, start=1):
            coming = [later.entry.name for later in planned[number - 1 :]]
            progress.begin(number, one.title(), seconds_left(study.took, coming))
            started = time.monotonic()
            summary = run_one(study, one)
            seconds = time.monotonic() - started
            study.run_ids[one.entry.name, one.seed] = summary["run_id"]
            study.took.setdefault(one.entry.name, []).append(seconds)
            progress.end(number, one.title(), told(summary, seconds))


def run_one(study: Demo, planned: Planned) -> dict[str, Any]:
    """One run under the agent; returns its summary. Raises JoulebookError when it failed, with its last words."""
    name = f"{planned.entry.name}-seed{planned.seed}"
    summary, output = study.folder / "runs" / f"{name}.json", study.folder / "runs" / f"{name}.log"
    worker = ["joulebook_studies.worker", "--arm", planned.entry.name, "--seed", str(planned.seed)]
    options = run_options(planned, STUDY, study.size.members, study.run_ids)
    command = [
        *_joulebook("run", "--quiet", "--json", str(summary), "--data-hash", study.data_hash, *options, "--"),
        *(sys.executable, "-m", *worker, *study.size.options(), "--checkpoints", str(study.folder / "checkpoints")),
    ]
    with output.open("wb") as log:
        ended = subprocess.run(command, env=study.environ, stdout=log, stderr=log, timeout=RUN_SECONDS, check=False)
    if ended.returncode != 0 or not summary.is_file():
        raise JoulebookError(f"the run {planned.title()} failed: {_last_words(output)}", f"read {output}")
    found: dict[str, Any] = json.loads(summary.read_text())
    return found


def told(summary: Mapping[str, Any], seconds: float) -> str:
    """A run in a few words."""
    methods = sorted(set(summary["method"].values()))
    return f"{seconds:.0f} s, {summary['energy_total_joules']:.0f} J ({' and '.join(methods) or 'not measured'})"


def agent_ended(home: Home) -> bool:
    """True once no agent holds the demo's meters; looks for AGENT_SECONDS at most."""
    if not home.agents.is_dir():
        return True
    deadline = time.monotonic() + AGENT_SECONDS
    while lease_is_held(home):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def price(study: Demo) -> None:
    """Put the demo's machine at the example site, by the commands that anyone uses."""
    site = tomllib.loads(files("joulebook_studies").joinpath("example_site.toml").read_text())
    _say(f"priced by an example site: zone {site['zone']}, PUE {site['pue']} ({site['pue_source']})")
    for command in site_commands(site, machine_id()):
        ended = subprocess.run(command, env=study.environ, capture_output=True, text=True, check=False)
        if ended.returncode != 0:
            raise JoulebookError(f"the example site was refused: {ended.stderr.strip()}", "report this as a bug")


def site_commands(site: Mapping[str, Any], machine: str) -> list[list[str]]:
    """The two commands that make the site and put the machine there."""
    options = ["--zone", site["zone"], "--pue", str(site["pue"]), "--pue-source", site["pue_source"]]
    return [
        _joulebook("site", "add", site["name"], *options, "--note", site["note"]),
        _joulebook("site", "assign", machine, site["name"]),
    ]


def report(study: Demo) -> None:
    """The table on stdout; the page and the JSON in the folder."""
    asked = _joulebook("report", "study", STUDY, "--baseline", BASELINE)
    sys.stdout.flush()
    ended = subprocess.run(
        [*asked, "--html", str(study.folder / "report.html")], env=study.environ, check=False
    ).returncode
    if ended != 0:
        raise JoulebookError("the report was refused, see above", f"JOULEBOOK_HOME={study.home.root} {_typed(asked)}")
    with (study.folder / "report.json").open("wb") as file:
        subprocess.run([*asked, "--json"], env=study.environ, stdout=file, check=True)


def farewell(folder: Path) -> str:
    """Where the report is and how to go on."""
    here = Path(sys.executable).parent
    path = "" if shutil.which("joulebook") else f"\n  export PATH={here}:$PATH"
    return f"""
The report as one page: {folder / "report.html"}
Its numbers:            {folder / "report.json"}

How to go on:{path}
  export JOULEBOOK_HOME={folder / "home"}
  joulebook report run last            one run: phases, interval, conservation
  joulebook run -- python train.py     your own command (without that export: in your own book)
  joulebook site add --help            price with your own zone and PUE: these figures are an example's
  joulebook doctor                     which meters this machine has"""


def _joulebook(*words: str) -> list[str]:
    return [sys.executable, "-m", "joulebook", *words]


def _typed(command: Sequence[str]) -> str:
    return " ".join(("joulebook", *command[3:]))


def _last_words(output: Path) -> str:
    lines = output.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _say(text: str) -> None:
    click.echo(f"joulebook demo: {text}", err=True)
