"""What the meter makes of the reader's answers: values bound to the instants at which they were read."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joulebook import reader_client
from joulebook.counters import difference
from joulebook.history import DeviceHistory
from joulebook.meters import Device
from joulebook.meters.rapl import READER_STEP_NS
from joulebook.reader import HEADER, REQUEST
from joulebook.reader_client import ReaderClient
from joulebook.rows import Component, Method

SECOND = 10**9
RANGE = 262_143_328_850


def packet(read_ns: int, joules: int) -> bytes:
    return f"{HEADER} {read_ns}\nintel-rapl:0 package-0 {RANGE} {joules} -".encode()


class Script:
    """A reader that answers with what the test lays down, one packet a request; b"" hangs up."""

    def __init__(self, path: Path) -> None:
        self.packets: list[bytes] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                while connection.recv(16) == REQUEST and (answer := self.packets.pop(0)):
                    connection.send(answer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Script]:
    made = Script(tmp_path / "rapl.sock")
    yield made
    made.close()


@pytest.fixture
def client(script: Script, tmp_path: Path) -> Iterator[ReaderClient]:
    made = ReaderClient(str(tmp_path / "rapl.sock"))
    made.device_ids = {"intel-rapl:0": "rapl:package-0"}
    yield made
    made.close()


def test_a_value_is_bound_to_the_instant_at_which_it_was_read(script: Script, client: ReaderClient) -> None:
    reads = [(5 * SECOND, 100), (6 * SECOND + 7, 200), (8 * SECOND, 400)]
    script.packets = [packet(*read) for read in reads]
    device = Device(
        "rapl:package-0", Component.CPU, Method.COUNTER, 0.03, "key", step_ns=READER_STEP_NS, wraps_at_microjoules=RANGE
    )
    history = DeviceHistory(device, "rapl", SECOND)
    for _ in reads:
        (reading,) = client.read()
        history.add(reading)
    (segment,) = history.history.segments
    assert segment.times == [read_ns for read_ns, _ in reads]
    assert segment.values == [0, 100_000_000, 300_000_000]


def test_the_same_second_is_the_same_reading(script: Script, client: ReaderClient) -> None:
    script.packets = [
        packet(5 * SECOND, 100),
        packet(5 * SECOND, 100),
        packet(5 * SECOND + 5, 101),
        packet(7 * SECOND, 103),
    ]
    first, again, restarted, later = (client.read()[0] for _ in range(4))
    assert first == again == restarted
    assert later.energy_microjoules == 103_000_000


def test_a_connection_that_was_cut_is_made_anew_within_the_read(script: Script, client: ReaderClient) -> None:
    script.packets = [packet(5 * SECOND, 100), b"", packet(7 * SECOND, 103)]
    assert client.read()
    assert client.read()[0].energy_microjoules == 103_000_000
    assert client.troubles == {}


@pytest.mark.parametrize("answer", [b"joulebook-reader 2 5\n", b"\xff" * 40, b"refused: too many connections"])
def test_what_is_no_answer_is_told_and_asked_again_later(
    script: Script, client: ReaderClient, answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0]
    monkeypatch.setattr(reader_client, "boottime_ns", lambda: now[0])
    script.packets = [answer, answer, packet(9 * SECOND, 5)]
    assert client.read() == []
    (trouble,) = client.troubles.values()
    assert trouble.why.startswith("not read now: ")
    for at, asked in ((0.9, 2), (1.0, 1), (2.9, 1), (3.0, 0)):
        now[0] = int(at * SECOND)
        found = client.read()
        assert len(script.packets) == asked
    assert found[0].energy_microjoules == 5_000_000
    assert client.troubles == {}


def test_a_count_beyond_its_range_is_left_out(script: Script, client: ReaderClient) -> None:
    script.packets = [packet(5 * SECOND, RANGE // 10**6 + 1)]
    assert client.read() == []


@given(st.lists(st.integers(0, RANGE // 2), min_size=2, max_size=30))
def test_whole_joules_never_add_up_to_an_error(gains: list[int]) -> None:
    """Floored at every look, wrapping or not, the sum of the differences is off by less than a joule."""
    counter = told = error = 0
    for gain in gains:
        counter = (counter + gain) % RANGE
        now = counter // 10**6 * 10**6
        step = difference(told, now, SECOND, RANGE)
        assert step.counts is not None
        error, told = error + step.counts - gain, now
        assert abs(error) < 10**6
