"""Fixtures that every floor shares: a home for each test, simulated hardware, agents that end with the test."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings
from joulebook.home import Home
from joulebook.outbox import Outbox
from joulebook.rows import Measurement, Run
from joulebook.summary import RunEnergy, run_energy

# No test is timed: the machine that runs it may be doing anything else.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

JOULEBOOK = [sys.executable, "-m", "joulebook"]


def wait_for(condition, seconds=20.0, what="the condition"):
    """Poll until ``condition()`` is true; its value. Fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come true within {seconds} s")


def is_alive(pid: int) -> bool:
    """True while the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@dataclass
class Bench:
    """A home, an environment for commands, and what the agent wrote there."""

    root: Path
    environ: dict[str, str]
    started: list[subprocess.Popen] = field(default_factory=list)

    @property
    def home(self) -> Home:
        return Home(self.root / "home")

    def joulebook(self, *words: str, **options) -> subprocess.CompletedProcess:
        """Run a verb to its end."""
        options = {"capture_output": True, "text": True, "timeout": 120, **options}
        return subprocess.run([*JOULEBOOK, *words], env=self.environ, check=False, **options)

    def start(self, *words: str, **options) -> subprocess.Popen:
        """Start a verb; it is killed when the test ends."""
        process = subprocess.Popen([*JOULEBOOK, *words], env=self.environ, **options)
        self.started.append(process)
        return process

    def statuses(self) -> list[dict]:
        found = []
        for path in self.home.agents.glob("*.json") if self.home.agents.exists() else ():
            found.append(json.loads(path.read_text()))
        return found

    def agent_pid(self) -> int:
        """Pid of the agent that meters for this home."""
        return wait_for(lambda: [s["pid"] for s in self.statuses() if is_alive(s["pid"])], what="an agent")[0]

    def rows(self) -> list:
        """Every final row: those that a summary took into the ledger, then those that wait in the outbox."""
        bodies = self.taken() if self.home.ledger.exists() else []
        for path in self.home.outboxes.glob("*.sqlite"):
            outbox = Outbox(path, writer=False)
            bodies += outbox.bodies()
            outbox.close()
        return bodies

    def taken(self) -> list:
        """What the ledger holds of runs, marks and measurements."""
        from joulebook_collector.ledger import Ledger

        with Ledger.open(self.home.ledger) as ledger:
            now = ledger.latest_known_us()
            runs = ledger.runs(now)
            return [*runs, *ledger.marks([run.run_id for run in runs], now), *ledger.measurements(now)]

    def runs(self) -> dict[str, Run]:
        """The newest version of every run, by id."""
        return {body.run_id: body for body in self.rows() if isinstance(body, Run)}

    def measurements(self) -> list[Measurement]:
        return [body for body in self.rows() if isinstance(body, Measurement)]

    def energy(self, run: Run, **options) -> RunEnergy:
        return run_energy(run, self.measurements(), **options)

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        for status in self.statuses():
            if is_alive(status["pid"]):
                os.kill(status["pid"], signal.SIGCONT)
                os.kill(status["pid"], signal.SIGKILL)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A fresh home and no hardware beyond this machine's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JOULEBOOK_")}
    made = Bench(tmp_path, {**kept, "JOULEBOOK_HOME": str(tmp_path / "home")})
    yield made
    made.close()


@dataclass
class Simulated(Bench):
    """A bench whose machine has simulated RAPL zones and GPUs."""

    def powercap(self, *options: str) -> None:
        simulator = self.start(
            "simulate", "powercap", str(self.root / "sys"), *options, stdout=subprocess.PIPE, text=True
        )
        self._take_settings(simulator.stdout.readline())

    def nvml(self, *options: str) -> None:
        done = self.joulebook("simulate", "nvml", str(self.root / "nvml"), *options)
        assert done.returncode == 0, done.stderr
        self._take_settings(done.stdout)

    def _take_settings(self, text: str) -> None:
        for word in shlex.split(text):
            name, equals, value = word.partition("=")
            if equals:
                self.environ[name] = value

    def holds_the_shipped_run(self, ledger) -> None:
        """The collector's book has the one run that was shipped, whole, with the joules that were drawn, each once."""
        from joulebook_collector.conservation import verify

        (run,) = ledger.runs()
        assert (run.labels.name, run.status) == ("shipped", "ok")
        rows = ledger.measurements()
        check = verify(ledger)
        assert (check.quarantined, check.missing_rows, check.shadowed) == (0, 0, 0)
        assert check.conservation.holds
        for device in {row.device_id for row in rows}:
            mine = [row for row in rows if row.device_id == device]
            truth = self.truth(min(row.started_ns for row in mine), max(row.ended_ns for row in mine))
            (joules,) = [value for name, value in truth.items() if device.endswith(f"/{name}")]
            assert sum(row.energy_millijoules for row in mine) / 1000 == pytest.approx(joules, rel=0.005)
        assert self.rows() == []

    def truth(self, from_ns: int, to_ns: int) -> dict[str, float]:
        """True joules by device id as the meters name it."""
        from joulebook.simulate import truth

        found: dict[str, float] = {}
        for name in ("sys", "nvml"):
            if (self.root / name).exists():
                found |= truth(self.root / name, from_ns, to_ns)
        return found


@pytest.fixture
def simulated(tmp_path: Path) -> Iterator[Simulated]:
    """A fresh home on a simulated machine; the test says what hardware it has."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JOULEBOOK_")}
    made = Simulated(tmp_path, {**kept, "JOULEBOOK_HOME": str(tmp_path / "home")})
    yield made
    made.close()
