"""The privileged reader with real processes: who may ask, how little it tells, and what its death costs: nothing."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import wait_for
from joulebook import reader
from joulebook.errors import JoulebookError
from joulebook.history import DeviceHistory
from joulebook.meters import MeterUnavailable, Roots
from joulebook.meters.rapl import READER_STEP_NS, open_rapl
from joulebook.powercap import READER_SOCKET
from joulebook.reader_client import ReaderClient, ReaderRefused, parse_answer
from joulebook.simulate.truth import truth

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the reader drops the privileges of root")

NOBODY = 65534
STRANGER = 54321
GROUP = 54322
POLL_SECONDS = 0.02


class Machine:
    """A powercap tree that only root may read, in a place that everybody may enter."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = str(root / "rapl.sock")
        self.processes: list[subprocess.Popen] = []

    def simulate(self, *options: str) -> None:
        words = [sys.executable, "-m", "joulebook", "simulate", "powercap", str(self.root / "sys"), *options]
        process = subprocess.Popen(words, stdout=subprocess.PIPE)
        self.processes.append(process)
        process.stdout.readline()
        for energy in (self.root / "sys" / "class" / "powercap").glob("*/energy_uj"):
            energy.chmod(0o400)

    def start_reader(self, *options: str) -> subprocess.Popen:
        words = [sys.executable, "-I", reader.__file__, "--sys", str(self.root / "sys"), "--socket", self.path]
        process = subprocess.Popen([*words, *options], stderr=subprocess.PIPE, text=True)
        self.processes.append(process)
        wait_for(lambda: listens(self.path) or process.poll() is not None, what="a reader")
        return process

    def agent(self, user: int, groups: tuple[int, ...] = ()) -> dict:
        """What an agent of that user finds when it opens the meter: a fork, since its Python may be root's too."""
        from_child, to_parent = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.setgroups(groups)
                os.setresgid(user, user, user)
                os.setresuid(user, user, user)
                os.environ["JOULEBOOK_RAPL_SOCKET"] = self.path
                os.write(to_parent, json.dumps(self._open()).encode())
            finally:
                os._exit(0)
        os.close(to_parent)
        with open(from_child) as file:
            text = file.read()
        os.waitpid(child, 0)
        return json.loads(text)

    def _open(self) -> dict:
        try:
            meter = open_rapl(Roots(self.root / "proc", self.root / "sys"))
        except JoulebookError as error:
            return {"cause": error.cause, "remedy": error.remedy}
        return {
            "devices": {device.device_id: device.note for device in meter.devices},
            "readings": {reading.device_id: reading.energy_microjoules for reading in meter.read()},
        }

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


@pytest.fixture
def machine() -> Iterator[Machine]:
    root = Path(tempfile.mkdtemp(prefix="joulebook-reader-"))
    root.chmod(0o755)
    made = Machine(root)
    yield made
    made.close()
    shutil.rmtree(root)


def listens(path: str) -> bool:
    try:
        connected(path).close()
    except OSError:
        return False
    return True


def connected(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(10)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


def send_for_ever(connection: socket.socket) -> None:
    while True:
        connection.send(reader.REQUEST)


def answers(path: str) -> bool:
    client = ReaderClient(path)
    try:
        return bool(client.open().zones)
    except ReaderRefused:
        return False
    finally:
        client.close()


def ask(connection: socket.socket) -> bytes:
    connection.send(reader.REQUEST)
    return connection.recv(8192)


def through_reader(machine: Machine, monkeypatch: pytest.MonkeyPatch, *options: str):
    """A meter in this process that must use the reader: root reads every file, so it is shown a tree without them."""
    monkeypatch.setenv("JOULEBOOK_RAPL_SOCKET", machine.path)
    return open_rapl(Roots(machine.root / "proc", machine.root / "none"))


def test_the_client_looks_where_the_reader_listens() -> None:
    assert READER_SOCKET == reader.SOCKET
    assert reader.REFRESH_NS == READER_STEP_NS


def test_without_a_reader_the_cause_and_the_one_command_are_told(machine: Machine) -> None:
    machine.simulate("--packages", "2")
    found = machine.agent(NOBODY)
    assert found["cause"].endswith("energy_uj: permission denied")
    assert found["remedy"].startswith("sudo ")
    assert "\n" not in found["remedy"]


def test_an_allowed_user_gets_whole_joules_and_the_label(machine: Machine) -> None:
    machine.simulate("--packages", "2", "--dram", "--mmio")
    machine.start_reader("--user", str(NOBODY))
    found = machine.agent(NOBODY)
    ids = ["rapl:package-0", "rapl:package-0/dram", "rapl:package-1", "rapl:package-1/dram"]
    assert found["devices"] == dict.fromkeys(ids, "through the reader: 1 J, 1 s")
    assert list(found["readings"]) == ids
    assert all(energy % 1_000_000 == 0 and energy > 0 for energy in found["readings"].values())


def test_dies_that_mirror_their_socket_are_found_out_through_it_too(machine: Machine) -> None:
    machine.simulate("--packages", "2", "--dies")
    machine.start_reader("--user", str(NOBODY))
    assert list(machine.agent(NOBODY)["devices"]) == ["rapl:package-0-die-0", "rapl:package-1-die-0"]


def test_what_lies_inside_a_package_is_neither_opened_nor_told(machine: Machine) -> None:
    machine.simulate("--dram", "--psys")
    process = machine.start_reader()
    peer = connected(machine.path)
    assert [told.name for told in parse_answer(ask(peer)).zones] == ["package-0", "dram", "psys"]
    peer.close()
    held = [str(fd.readlink()) for fd in Path(f"/proc/{process.pid}/fd").iterdir()]
    assert sum("energy_uj" in file for file in held) == 3


def test_a_peer_that_is_silent_is_let_go_and_the_meter_connects_anew(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.simulate()
    shorter = machine.root / "reader.py"
    shorter.write_text(Path(reader.__file__).read_text().replace("IDLE_SECONDS = 60", "IDLE_SECONDS = 1"))
    monkeypatch.setattr(reader, "__file__", str(shorter))
    machine.start_reader()
    meter = through_reader(machine, monkeypatch)
    silent = connected(machine.path)
    assert silent.recv(1) == b""  # within the socket's ten seconds
    silent.close()
    assert meter.read()
    assert not [left for left in meter.left_out if "reader" in left.what]
    meter.close()


def test_a_member_of_the_group_may_ask_and_nobody_else(machine: Machine) -> None:
    machine.simulate()
    machine.start_reader("--group", str(GROUP))
    mode = Path(machine.path).stat()
    assert (stat.S_IMODE(mode.st_mode), mode.st_gid) == (0o660, GROUP)
    assert "devices" in machine.agent(NOBODY, (GROUP,))
    assert "permission denied" in machine.agent(NOBODY)["cause"]


def test_the_kernels_word_is_asked_even_where_the_socket_is_open_to_all(machine: Machine) -> None:
    machine.simulate()
    machine.start_reader("--user", str(NOBODY))
    Path(machine.path).chmod(0o666)
    assert f"refused: user {STRANGER} is not allowed to read" in machine.agent(STRANGER)["cause"]
    assert "devices" in machine.agent(NOBODY)


def test_it_keeps_no_privilege(machine: Machine) -> None:
    machine.simulate()
    process = machine.start_reader("--user", str(NOBODY))
    peer = connected(machine.path)
    assert parse_answer(ask(peer)).zones  # it answers nobody before it has dropped them
    peer.close()
    fields = dict(line.split(":\t", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    assert set(fields["Uid"].split()) == {str(NOBODY)}
    assert set(fields["Gid"].split()) == {str(NOBODY)}
    assert fields["Groups"].strip() == ""
    assert {int(fields[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {0}
    assert fields["NoNewPrivs"] == "1"
    limits = Path(f"/proc/{process.pid}/limits").read_text()
    for name in ("Max processes", "Max file size"):
        (line,) = [line for line in limits.splitlines() if line.startswith(name)]
        assert line.split()[len(name.split()) : len(name.split()) + 2] == ["0", "0"]


def test_the_answer_stands_for_a_second_and_is_the_same_for_all(machine: Machine) -> None:
    machine.simulate("--curve", "constant:500")
    machine.start_reader()
    one, other = connected(machine.path), connected(machine.path)
    answers = []
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        answers += [ask(one), ask(other)]
        time.sleep(POLL_SECONDS)
    one.close()
    other.close()
    times = [parse_answer(answer).read_ns for answer in dict.fromkeys(answers)]
    assert 2 <= len(times) <= 3
    assert all(b - a >= reader.REFRESH_NS for a, b in pairwise(times))
    assert answers == sorted(answers, key=lambda answer: parse_answer(answer).read_ns)


def test_garbage_costs_its_sender_the_connection_and_nobody_else(machine: Machine) -> None:
    machine.simulate()
    process = machine.start_reader()
    good = connected(machine.path)
    for garbage in (b"r", b"read\n", b"reada", b"\x00" * 4, b"x" * 60_000):
        bad = connected(machine.path)
        bad.send(garbage)
        assert bad.recv(8192) == b""
        bad.close()
    assert parse_answer(ask(good)).zones
    good.close()
    assert process.poll() is None


def test_a_peer_that_never_reads_is_dropped(machine: Machine) -> None:
    machine.simulate()
    machine.start_reader()
    deaf = connected(machine.path)
    deaf.settimeout(1)
    with pytest.raises(OSError):
        send_for_ever(deaf)
    deaf.close()
    good = connected(machine.path)
    assert parse_answer(ask(good)).zones
    good.close()


def test_a_user_has_few_connections(machine: Machine) -> None:
    machine.simulate()
    machine.start_reader()
    held = [connected(machine.path) for _ in range(reader.MOST_PEERS_OF_A_USER)]
    assert all(parse_answer(ask(connection)).zones for connection in held)
    with pytest.raises(ReaderRefused, match="too many connections"):
        ReaderClient(machine.path).open()
    held.pop().close()
    wait_for(lambda: answers(machine.path), what="room for one more")
    for connection in held:
        connection.close()


def test_a_socket_that_systemd_holds_is_served(machine: Machine) -> None:
    machine.simulate()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(machine.path)
    listener.listen(1)
    start = 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@" 3<&0'
    words = [sys.executable, "-I", reader.__file__, "--sys", str(machine.root / "sys")]
    machine.processes.append(subprocess.Popen(["/bin/sh", "-c", start, "sh", *words], stdin=listener))
    peer = connected(machine.path)
    assert parse_answer(ask(peer)).zones
    peer.close()
    listener.close()


def test_a_machine_without_zones_is_said(machine: Machine) -> None:
    process = machine.start_reader()
    assert process.wait(10) == 1
    assert "no RAPL zone" in process.stderr.read()


def test_it_ends_when_a_zone_goes_so_that_a_new_one_may_open_it(machine: Machine) -> None:
    zone = machine.root / "sys" / "class" / "powercap" / "intel-rapl:0"
    zone.mkdir(parents=True)
    (zone / "name").write_text("package-0\n")
    (zone / "max_energy_range_uj").write_text("262143328850\n")
    # A file that goes as a zone's does: its descriptor stays and cannot be read any more.
    lives = subprocess.Popen(["sleep", "100"])
    machine.processes.append(lives)
    (zone / "energy_uj").symlink_to(f"/proc/{lives.pid}/oom_score")
    process = machine.start_reader()
    peer = connected(machine.path)
    assert parse_answer(ask(peer)).zones
    lives.kill()
    lives.wait()

    def gone() -> bool:
        try:
            return ask(peer) == b""
        except OSError:
            return True

    wait_for(gone, what="the reader's end")
    peer.close()
    assert process.wait(10) == 1
    assert "joulebook reader: " in process.stderr.read()


def test_nothing_is_lost_or_doubled_when_the_reader_is_killed_and_started_anew(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.simulate("--packages", "2", "--curve", "constant:200")
    first = machine.start_reader()
    meter = through_reader(machine, monkeypatch)
    histories = {device.device_id: DeviceHistory(device, "rapl", 100_000_000) for device in meter.devices}
    assert len(histories) == 2

    def read_for(seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for reading in meter.read():
                histories[reading.device_id].add(reading)
            time.sleep(0.1)

    read_for(1.5)
    first.kill()
    first.wait()
    read_for(1.5)
    assert [left.what for left in meter.left_out if "reader" in left.what]
    machine.start_reader()
    read_for(4)
    assert not [left.what for left in meter.left_out if "reader" in left.what]
    meter.close()
    for device_id, history in histories.items():
        (segment,) = history.history.segments
        true = truth(machine.root / "sys", segment.times[0], segment.times[-1])[device_id]
        assert segment.times[-1] - segment.times[0] > 3 * 10**9
        # A quantum at each end, and the simulator's own 5 ms, on a machine that may hold it up.
        assert abs((segment.values[-1] - segment.values[0]) / 1e6 - true) < 2 + 200 * 0.05


def test_a_reader_that_hangs_holds_nobody_up_and_is_taken_back(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.simulate()
    process = machine.start_reader()
    meter = through_reader(machine, monkeypatch)
    assert meter.read()
    process.send_signal(signal.SIGSTOP)
    wait_for(lambda: not meter.read(), what="a read without an answer")
    assert any("timed out" in left.why for left in meter.left_out)
    process.send_signal(signal.SIGCONT)
    wait_for(meter.read, what="an answer")
    meter.close()


def test_a_socket_without_a_reader_is_unavailable(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    stale = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stale.bind(machine.path)
    stale.close()
    with pytest.raises(MeterUnavailable, match="connection refused"):
        through_reader(machine, monkeypatch)
