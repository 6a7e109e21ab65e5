"""The marks folder as an agent follows it: which files there are, what is new in them, whose process is gone."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from joulebook.home import Home
from joulebook.locks import is_locked
from joulebook.marks import SUFFIX, Line, MarksReader
from joulebook.marks_file import MarksFile
from joulebook.namespaces import numbers_are_ours, pid_here, users_of
from joulebook.processes import read_stat

UNSEEN: Final = "a process of it runs where its agent cannot see it: its CPU time is not known"

LAST: Final = 2**63
"""After every instant: files that say nothing but damage come when their runs are known."""


@dataclass(slots=True)
class MarksFolder:
    """All marks files of one machine's boot under a home."""

    home: Home
    proc: Path
    machine_id: str
    boot_id: str
    files: dict[str, MarksFile] = field(default_factory=dict)
    offsets: dict[str, int] = field(default_factory=dict)
    _foreign: set[str] = field(default_factory=set)

    def read(self, names: Collection[str] | None = None) -> list[tuple[MarksFile, list[Line]]]:
        """New marks by file, in order of the first of them. Other machines' files are left to their agents.

        names: the files to look at, None for all that are there.
        """
        return sorted(self._read(names), key=lambda found: found[1][0].at_ns if found[1] else LAST)

    def _read(self, names: Collection[str] | None) -> Iterator[tuple[MarksFile, list[Line]]]:
        for name in sorted(os.listdir(self.home.marks) if names is None else names):  # noqa: PTH208
            if not name.endswith(SUFFIX) or name in self._foreign:
                continue
            file = self.files.get(name)
            if file is None:
                file = MarksFile(name, MarksReader(self.home.marks / name))
            damage = len(file.reader.corrupt)
            try:
                lines = file.read()
            except (OSError, ValueError, TypeError) as error:
                print(f"joulebook agent: marks file {name} cannot be read: {error}", file=sys.stderr)
                self._foreign.add(name)
                continue
            if file.boot_id == self.boot_id:
                file.machine_id = self.machine_id  # one boot is one machine, whatever its containers call it
            if file.machine_id and file.machine_id != self.machine_id:
                self._foreign.add(name)
                continue
            if not file.run_id and file.reader.corrupt:
                self._introduce_by_name(file)
            if name not in self.files and file.run_id:
                self._watch(file)
                if not self._may_speak(file, file.reader):
                    self.release(file)
                    continue
                self.files[name] = file
                if not file.pid and lines:
                    lines = [_unseen(line) if line.kind == "join" else line for line in lines]
            if name in self.files and (lines or len(file.reader.corrupt) > damage):
                yield file, lines

    def read_logs(self, file: MarksFile, until_ns: int | None = None) -> list[Line]:
        """What a process has logged since, up to an instant; None: it logs no more.

        Raises OSError where others may have put something in the place of the folder.
        """
        place = self.home.mark_logs
        if place.is_symlink():
            raise OSError(None, f"{place} is a link")
        if file.logs is None and file.log_key not in self._foreign:
            logs = MarksReader(place / file.key, file.log_key)
            try:
                logs.path.lstat()
            except FileNotFoundError:
                return []  # it has logged nothing
            file.logs = logs if self._may_speak(file, logs) else None
        return file.read_logs(until_ns)

    def joined_unseen(self) -> bool:
        """True when a living process has joined a run in a file that was never read here."""
        beside = MarksFolder(
            self.home, self.proc, self.machine_id, self.boot_id, _foreign=self._foreign | self.files.keys()
        )
        found = [file for file, _ in beside.read()]
        for file in found:
            self.release(file)
        return any(not file.gone and (file.timeline.open or file.launcher) for file in found)

    def _introduce_by_name(self, file: MarksFile) -> None:
        """A file whose first line is damaged still names its run and its process in its own name."""
        run_id, _, rest = file.key.removesuffix(SUFFIX).rpartition(".")[0].rpartition(".")
        if run_id and rest.isdigit() and not run_id.startswith("~"):
            file.run_id, file.pid = run_id, int(rest)
            file.machine_id, file.boot_id = self.machine_id, self.boot_id

    def _watch(self, file: MarksFile) -> None:
        pid = pid_here(self.proc, file.pid_namespace, file.pid, file.started_ticks) if self._is_now(file) else None
        stat = None if pid is None else read_stat(self.proc, pid)
        if pid is None or stat is None or stat.state == "Z":
            file.seen_alive = self._is_now(file) and self._is_held(file)
            file.gone = not file.seen_alive
            file.pid = 0 if file.seen_alive else file.pid
            return
        file.pid, file.started_ticks, file.seen_alive = pid, stat.started_ticks, True
        try:
            file.pidfd = os.pidfd_open(pid) if numbers_are_ours(self.proc) else -1
        except OSError:
            file.pidfd = -1

    def _may_speak(self, file: MarksFile, reader: MarksReader) -> bool:
        """In a folder that many users write to, nobody speaks for another's process but root."""
        if self.home.shared is None:
            return True
        if file.seen_alive and file.pid and not file.gone:
            file.speakers |= users_of(self.proc, file.pid)
        try:
            owner = reader.path.lstat().st_uid
        except OSError:
            owner = -1
        if not file.speakers:  # its users cannot be known: whoever joined for it
            file.speakers.add(owner)
        if owner == 0 or owner in file.speakers:
            return True
        print(f"joulebook agent: marks file {reader.key} is not its process's: passed over", file=sys.stderr)
        self._foreign.add(reader.key)
        return False

    def _is_now(self, file: MarksFile) -> bool:
        return file.boot_id == self.boot_id

    def _is_held(self, file: MarksFile) -> bool:
        """True while the process that cannot be seen from here has its file open."""
        try:
            return is_locked(self.home.marks / file.key, 0)
        except OSError:
            return False

    def newly_gone(self) -> list[MarksFile]:
        """Files whose process has ended since the last call."""
        gone = [file for file in self.files.values() if not file.gone and not self._alive(file)]
        for file in gone:
            file.gone = True
            self.release(file)
        return gone

    def _alive(self, file: MarksFile) -> bool:
        if not file.pid:
            return self._is_held(file)
        if file.pidfd >= 0:
            poll = select.poll()
            poll.register(file.pidfd, select.POLLIN)
            return not poll.poll(0)
        stat = read_stat(self.proc, file.pid)
        return stat is not None and stat.started_ticks == file.started_ticks and stat.state != "Z"

    def release(self, file: MarksFile) -> None:
        """Give back the process handle."""
        if file.pidfd >= 0:
            os.close(file.pidfd)
            file.pidfd = -1

    def remove(self, key: str) -> None:
        """The process's marks and logs are durable in the outbox: no longer needed. A corrupt file is kept aside."""
        file = self.files.pop(key)
        self.release(file)
        for reader in reversed(file.readers):  # the marks last: without them nobody knows whose the logs are
            try:
                self._put_away(reader)
            except FileNotFoundError:
                continue  # taken away while it was written to
            except OSError as error:
                print(f"joulebook agent: marks file {reader.key} cannot be removed: {error}", file=sys.stderr)
                self._foreign.add(reader.key)  # read again it would count again

    def _put_away(self, reader: MarksReader) -> None:
        name = reader.path.name
        place = reader.path.parent
        with _opened(place, may_be_link=place == self.home.marks) as folder:
            if not reader.corrupt:
                os.unlink(name, dir_fd=folder)
                return
            aside = self.home.marks / "corrupt"
            aside.mkdir(mode=0o700, exist_ok=True)
            with _opened(aside) as kept:
                os.rename(name, reader.key.replace("/", "."), src_dir_fd=folder, dst_dir_fd=kept)


@contextmanager
def _opened(folder: Path, *, may_be_link: bool = False) -> Iterator[int]:
    """A folder to make changes in: others may have put a link there, to where only the agent may write."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if may_be_link else os.O_NOFOLLOW))
    try:
        yield fd
    finally:
        os.close(fd)


def _unseen(line: Line) -> Line:
    """The join of a process that is not to be seen from here, with what a report must say of it."""
    return line._replace(values={"note": UNSEEN, **line.values})
