"""Law 7: the observed job cannot be slowed, blocked, signalled or killed by being observed."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time

import pytest
from conftest import JOULEBOOK, is_alive, wait_for

NOISY = "import sys, os; os.write(1, bytes(range(256))); os.write(2, bytes(range(255, -1, -1))); sys.exit(%d)"


@pytest.mark.parametrize("code", [0, 1, 3, 125, 255])
def test_exit_status_and_bytes_are_the_commands(bench, code):
    command = [sys.executable, "-c", NOISY % code]
    bare = subprocess.run(command, capture_output=True, check=False)
    observed = bench.joulebook("run", "--quiet", "--", *command, text=False)
    assert (observed.returncode, observed.stdout, observed.stderr) == (bare.returncode, bare.stdout, bare.stderr)


def test_the_summary_follows_on_stderr_and_stdout_is_untouched(bench):
    observed = bench.joulebook("run", "--", "echo", "hello")
    assert observed.stdout == "hello\n"
    assert "measured" in observed.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_it_dies_by_the_commands_signal(bench, number):
    observed = bench.joulebook("run", "--quiet", "--", "sh", "-c", f"kill -{number.value} $$")
    assert observed.returncode == -number
    assert {run.status for run in bench.runs().values()} == {"interrupted"}


def test_a_signal_sent_to_us_reaches_the_command(bench):
    script = "trap 'echo got it; exit 7' TERM; echo ready; while :; do sleep 0.1; done"
    process = bench.start("run", "--quiet", "--", "sh", "-c", script, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.wait(30) == 7
    assert process.stdout.read() == "got it\n"


@pytest.mark.parametrize(("command", "code"), [("no-such-command-here", 127), ("/etc/passwd", 126)])
def test_a_command_that_cannot_start(bench, command, code):
    observed = bench.joulebook("run", "--quiet", "--", command)
    assert observed.returncode == code
    assert command in observed.stderr


def test_the_command_keeps_its_terminal(bench):
    controller, terminal = pty.openpty()
    command = [
        *JOULEBOOK,
        "run",
        "--quiet",
        "--",
        sys.executable,
        "-c",
        "import os; print([os.isatty(i) for i in range(3)])",
    ]
    process = subprocess.Popen(command, env=bench.environ, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    assert process.wait(60) == 0
    assert b"[True, True, True]" in os.read(controller, 4096)
    os.close(controller)


def test_descriptors_opened_for_the_command_reach_it(bench):
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    command = [sys.executable, "-c", f"import os; os.write({writer}, b'through')"]
    observed = bench.joulebook("run", "--quiet", "--", *command, close_fds=False)
    os.close(writer)
    assert observed.returncode == 0
    assert os.read(reader, 100) == b"through"
    os.close(reader)


def test_without_a_place_to_write_the_command_runs_all_the_same(bench):
    blocked = bench.root / "file"
    blocked.write_text("")
    bench.environ["JOULEBOOK_HOME"] = str(blocked / "home")
    observed = bench.joulebook("run", "--", "sh", "-c", "echo fine; exit 4")
    assert (observed.returncode, observed.stdout) == (4, "fine\n")
    assert "not measured" in observed.stderr
    assert "try:" in observed.stderr


TRAINER = """
import joulebook, sys, time
with joulebook.track("t"):
    for step in range(60):
        with joulebook.phase("train"):
            time.sleep(0.1)
        joulebook.log(samples=1, loss=float("nan"), accuracy=0.5)
print("finished")
sys.exit(9)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_the_trainer_finishes_whatever_becomes_of_the_agent(bench, number):
    trainer = subprocess.Popen([sys.executable, "-c", TRAINER], env=bench.environ, stdout=subprocess.PIPE, text=True)
    pid = bench.agent_pid()
    os.kill(pid, number)
    out, _ = trainer.communicate(timeout=60)
    assert (trainer.returncode, out) == (9, "finished\n")


def test_the_trainer_finishes_without_an_agent_or_a_home(bench):
    bench.environ["JOULEBOOK_AGENT"] = "off"
    bench.environ["JOULEBOOK_HOME"] = "/proc/none"
    done = subprocess.run(
        [sys.executable, "-c", TRAINER], env=bench.environ, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (9, "finished\n", "")


def fill(path):
    """Write until the disk is full."""
    with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 512)


@pytest.mark.skipif(os.geteuid() != 0, reason="a full disk needs a file system of its own: mount is root's")
def test_the_trainer_finishes_on_a_full_disk(bench):
    small = bench.root / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)], check=False)
    if mounted.returncode:
        pytest.skip("mount is not allowed here")
    try:
        bench.environ["JOULEBOOK_HOME"] = str(small / "home")
        filler = small / "filler"
        filler.write_bytes(b"x" * 100_000)
        trainer = subprocess.Popen(
            [sys.executable, "-c", TRAINER], env=bench.environ, stdout=subprocess.PIPE, text=True
        )
        time.sleep(1)
        fill(filler)
        out, _ = trainer.communicate(timeout=60)
        assert (trainer.returncode, out) == (9, "finished\n")
    finally:
        for path in (small / "home" / "agents").glob("*.json"):
            with contextlib.suppress(ValueError, KeyError, ProcessLookupError):
                os.kill(json.loads(path.read_text())["pid"], signal.SIGKILL)
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_an_agent_started_for_a_run_leaves_no_process(bench):
    assert bench.joulebook("run", "--quiet", "--", "true").returncode == 0
    pid = bench.agent_pid()
    wait_for(lambda: not is_alive(pid), seconds=15, what="the agent's end")
    assert bench.statuses()[0]["stopped"]


def test_require_measured_refuses_before_the_command_starts(bench):
    bench.environ["JOULEBOOK_METERS"] = "model"
    touched = bench.root / "touched"
    done = bench.joulebook("run", "--require", "measured", "--", "touch", str(touched))
    assert done.returncode == 125
    assert "modelled" in done.stderr
    assert not touched.exists()
