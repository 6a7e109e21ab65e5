"""A simulated node: two packages with DRAM and eight GPUs, as files and a library that any tool can be pointed at."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from joulebook.outbox import Outbox
from joulebook.rows import Body, Measurement
from joulebook.simulate import truth

JOULEBOOK = [sys.executable, "-m", "joulebook"]


@dataclass
class Node:
    """A node under ``root`` for as long as the ``with`` lasts; every process started through it ends with it."""

    packages: int = 2
    gpus: int = 8
    curve: str = "square:60,300,7"
    package_options: tuple[str, ...] = ()
    gpu_options: tuple[str, ...] = ()
    environ: dict[str, str] = field(default_factory=dict)
    _started: list[subprocess.Popen] = field(default_factory=list)

    def __enter__(self) -> Node:
        # In memory, as sysfs is: a disk's own cost is no meter's.
        base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self._directory = tempfile.TemporaryDirectory(prefix="joulebook-bench-", dir=base)
        self.root = Path(self._directory.name)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("JOULEBOOK_")}
        self.environ = {**kept, "JOULEBOOK_AGENT": "off"}
        try:
            if self.packages:
                self._simulate_packages()
            if self.gpus:
                self._simulate_gpus()
        except BaseException:
            self.__exit__()
            raise
        there = [name for name, count in (("rapl", self.packages), ("nvml", self.gpus)) if count]
        self.environ["JOULEBOOK_METERS"] = ",".join(there)
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._started):
            if process.poll() is None:
                process.terminate()
        for process in reversed(self._started):
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it started and left behind
            if process.stdout is not None:
                process.stdout.close()
        self._directory.cleanup()

    def _simulate_packages(self) -> None:
        words = [
            "simulate",
            "powercap",
            str(self.sys),
            "--packages",
            str(self.packages),
            "--dram",
            "--curve",
            self.curve,
        ]
        process = self.start([*JOULEBOOK, *words, *self.package_options], stdout=subprocess.PIPE, text=True)
        line = process.stdout.readline()
        if not line:
            raise SystemExit("joulebook simulate powercap did not start")
        self.environ |= _settings(line)

    def _simulate_gpus(self) -> None:
        words = ["simulate", "nvml", str(self.nvml), "--gpus", str(self.gpus)]
        if "--curve" not in self.gpu_options:
            words += ["--curve", self.curve]
        done = subprocess.run(
            [*JOULEBOOK, *words, *self.gpu_options], env=self.environ, capture_output=True, text=True, check=True
        )
        self.environ |= _settings(done.stdout)

    @property
    def sys(self) -> Path:
        """What stands for /sys."""
        return self.root / "sys"

    @property
    def nvml(self) -> Path:
        """Where libnvidia-ml.so.1 lies."""
        return self.root / "nvml"

    def start(self, command: list[str], environ: dict[str, str] | None = None, **options) -> subprocess.Popen:
        """Start a process that ends with the node."""
        environ = {**self.environ, **(environ or {})}
        process = subprocess.Popen(command, env=environ, start_new_session=True, **options)
        self._started.append(process)
        return process

    def truth(self, from_ns: int, to_ns: int) -> dict[str, float]:
        """device_id -> joules of every device over a span, CLOCK_BOOTTIME ns."""
        parts = [
            truth(path, from_ns, to_ns) for path, there in ((self.sys, self.packages), (self.nvml, self.gpus)) if there
        ]
        return {name: joules for part in parts for name, joules in part.items()}

    def gpu_index(self, device_id: str) -> int:
        """Which GPU of the node a device is: the simulator writes it into the UUID."""
        return int(device_id.split("-")[1], 16)

    def end(self, process: subprocess.Popen) -> None:
        """End one now. Raises SystemExit where it had ended by itself."""
        if process.poll() is not None:
            told = process.stderr.read() if process.stderr is not None else ""
            raise SystemExit(f"{process.args} ended by itself with {process.returncode}: {told!r}")
        process.terminate()
        process.wait(timeout=30)

    def agent(self, name: str, sample_seconds: float = 1.0, **environ: str) -> tuple[subprocess.Popen, Path]:
        """An agent with a home of its own, once it is ready to measure."""
        home = self.root / f"home-{name}"
        settings = {"JOULEBOOK_HOME": str(home), "JOULEBOOK_SAMPLE_SECONDS": f"{sample_seconds:g}", **environ}
        process = self.start([*JOULEBOOK, "agent"], settings, stderr=subprocess.PIPE)
        wait_for_status(home, process)
        return process, home


def rows(home: Path) -> list[Body]:
    """Every row that the agent of a home left in its outbox, in order."""
    found = []
    for path in home.glob("outbox/*.sqlite"):
        outbox = Outbox(path, writer=False)
        found += [row.body for batch in outbox.batches() for row in batch.rows]
        outbox.close()
    return found


def measurements(home: Path) -> list[Measurement]:
    """The measurements among them."""
    return [row for row in rows(home) if isinstance(row, Measurement)]


def simulated_id(device_id: str, known: Iterable[str]) -> str:
    """The simulator's name of a device: the agent's rows put the machine before it."""
    return next(
        name for name in sorted(known, key=len, reverse=True) if device_id == name or device_id.endswith(f"/{name}")
    )


def wait_for_status(home: Path, process: subprocess.Popen, seconds: float = 30.0) -> dict:
    """The status that an agent writes once it is ready to measure."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for path in home.glob("agents/*.json"):
            return json.loads(path.read_text())
        if process.poll() is not None:
            raise SystemExit(f"the agent ended: {process.stderr.read().decode() if process.stderr else ''}")
        time.sleep(0.005)
    raise SystemExit(f"no agent under {home} after {seconds} s")


def _settings(text: str) -> dict[str, str]:
    """The assignments among the words that a simulator prints."""
    return dict(word.split("=", 1) for word in shlex.split(text) if "=" in word)
