"""A run id agreed on by a file that all processes of a job can reach: whoever comes first names the run.

Nobody waits for a certain rank: it might never track, and a file that is linked into place is whole from the start.
The file stays: a later process that is told the same path resumes the run, so a new job needs a new path.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Final

from joulebook.errors import JoulebookError
from joulebook.identity import MAX_ID, new_run_id

WAIT_SECONDS: Final = 10.0
"""How long a file without its line is waited for: only file systems without hard links can show one."""


def agreed_run_id(path: str, wait_seconds: float = WAIT_SECONDS) -> str:
    """The id in the file, made by the first to come. Raises JoulebookError with the cause when there is none."""
    try:
        if not os.path.exists(path):  # noqa: PTH110  pathlib is not loaded yet, and this is on the trainer's way
            _propose(path)
        return _read(path, time.monotonic() + wait_seconds)
    except OSError as error:
        raise JoulebookError(
            f"the rendezvous file {path} cannot be used: {error.strerror or error}",
            "set JOULEBOOK_RENDEZVOUS to a new path in a directory that all processes of the job can write",
        ) from error


def _propose(path: str) -> None:
    """Put a fresh id there, unless somebody is quicker."""
    run_id = new_run_id()
    line = f"{run_id}\n".encode()
    fresh = f"{path}.{run_id}"
    _write(fresh, line)
    try:
        os.link(fresh, path)  # whole at once, and by one only
    except FileExistsError:
        return
    except OSError:
        with contextlib.suppress(FileExistsError):
            _write(path, line)  # no hard links here: by one only, and the others wait for its line
    finally:
        os.unlink(fresh)  # noqa: PTH108


def _write(path: str, line: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, line)
        os.fsync(fd)
    finally:
        os.close(fd)


def _read(path: str, deadline: float) -> str:
    while True:
        with open(path, "rb") as file:
            line, newline, _ = file.read(MAX_ID * 4).partition(b"\n")
        run_id = line.decode(errors="replace").strip()
        if newline and 0 < len(run_id) <= MAX_ID:
            return run_id
        if newline or time.monotonic() > deadline:
            raise TimeoutError(None, "it holds no run id" if newline else "whoever made it has not named the run")
        time.sleep(0.05)
