"""The Prometheus meter against real HTTP servers that show the pages of the known exporters."""

import signal
import socket
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import wait_for
from joulebook.clock import boottime_ns
from joulebook.history import DeviceHistory
from joulebook.meters import Device, MeterAbsent, MeterUnavailable, Roots, prometheus, without_overlap
from joulebook.meters.prometheus import open_prometheus
from joulebook.meters.replay import Replay
from joulebook.rows import Component, Method
from joulebook.simulate.curve import parse_curve
from joulebook.simulate.prometheus import FAULTS, KINDS, Exporter
from joulebook.simulate.server import PageServer

CURVES = [parse_curve("constant:100"), parse_curve("constant:80")]


@pytest.fixture(autouse=True)
def patient(monkeypatch) -> None:
    monkeypatch.setattr(prometheus, "OPEN_SECONDS", 20.0)


@pytest.fixture
def make_exporter(tmp_path: Path) -> Iterator:
    made: list[Exporter] = []

    def make(kind: str = "node_exporter", **options) -> Exporter:
        made.append(Exporter(tmp_path, kind, CURVES, t0_ns=boottime_ns() - 10**9, **options))
        return made[-1]

    yield make
    for exporter in made:
        exporter.close()


def opened(exporter, roots: Roots | None = None, **more: str):
    environ = {"JOULEBOOK_PROMETHEUS_URL": exporter.url, "JOULEBOOK_PROMETHEUS_POLL_SECONDS": "0.1", **more}
    return open_prometheus(roots or Roots(), environ)


def looks_at(meter, count: int) -> list:
    """So many successive looks at the page, each with every device."""
    return [wait_for(meter.read, what="readings") for _ in range(count)]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_devices_and_joules_are_those_of_the_exporter(kind: str, make_exporter) -> None:
    exporter = make_exporter(kind, step_seconds=0.1)
    meter = opened(exporter, JOULEBOOK_PROMETHEUS_STEP_SECONDS="0.1")
    assert {device.device_id for device in meter.devices} == {source.device_id for source in exporter.sources}
    histories = {device.device_id: DeviceHistory(device, "prometheus", 100_000_000) for device in meter.devices}
    for look in looks_at(meter, 20):
        for reading in look:
            histories[reading.device_id].add(reading)
    meter.close()
    for source in exporter.sources:
        ((start, end, segment),) = histories[source.device_id].history.known(0, boottime_ns())
        true = source.joules(end) - source.joules(start)
        gained = (segment.at(end) - segment.at(start)) / 1e6
        # The stale step at either end: two steps of 0.1 s at most.
        assert gained == pytest.approx(true, abs=0.2 * source.watts(end) + 1e-3)


def test_rows_say_through_whom_they_came_and_how_often_it_looks(make_exporter) -> None:
    meter = opened(make_exporter("dcgm", slices=7))
    meter.close()
    assert [device.component for device in meter.devices] == [Component.GPU] * 2
    for device in meter.devices:
        assert (device.note, device.step_ns, device.method) == ("through dcgm-exporter", 30 * 10**9, Method.COUNTER)
        assert device.u_common_key == "nvml:Simulated H100"
        assert device.covers == f"gpu:{device.device_id}"


def test_power_that_is_looked_at_twice_a_minute_is_honest_about_it(make_exporter) -> None:
    meter = opened(make_exporter("dcgm-power"))
    meter.close()
    (device, _) = meter.devices
    assert (device.method, device.u_indep) == (Method.INTEGRATED, 0.25)
    assert "looked at every 30 s" in device.note


def test_what_lies_inside_a_package_is_left_out_and_told(make_exporter) -> None:
    meter = opened(make_exporter("scaphandre"))
    meter.close()
    assert {left.what for left in meter.left_out} == {"scaphandre core 0", "scaphandre core 1", "scaphandre host"}


def test_a_raw_counter_wraps_where_the_kernel_says(make_exporter, tmp_path: Path) -> None:
    zone = tmp_path / "class" / "powercap" / "intel-rapl:0"
    zone.mkdir(parents=True)
    (zone / "max_energy_range_uj").write_text("262143328850\n")
    meter = opened(make_exporter("node_exporter"), Roots(Path("/proc"), tmp_path))
    meter.close()
    ranges = {device.device_id: device.wraps_at_microjoules for device in meter.devices}
    assert ranges["node_exporter:package-0"] == 262_143_328_850
    assert ranges["node_exporter:package-1"] is None
    # What no package draws tells a wrap from a counter that was reset.
    assert {device.most_watts for device in meter.devices} == {1500.0, 500.0}
    counted = opened(make_exporter("kepler"), Roots(Path("/proc"), tmp_path))
    counted.close()
    # Kepler goes round by itself: what falls there was reset.
    assert {device.wraps_at_microjoules for device in counted.devices} == {None}


def test_a_reading_carries_the_time_of_its_page_and_is_given_once(make_exporter) -> None:
    exporter = make_exporter()
    began = boottime_ns()
    meter = opened(exporter)
    looks = looks_at(meter, 3)
    after = boottime_ns()
    meter.close()
    times = [look[0].at_ns for look in looks]
    assert all(a < b for a, b in pairwise([began, *times, after]))
    assert all(len({reading.at_ns for reading in look}) == 1 for look in looks)
    assert exporter.server.connections == 1


@pytest.mark.parametrize("fault", ["status 500", "half", "garbage", "huge", "status 401"])
def test_a_page_that_does_not_come_whole_is_no_page(fault: str, make_exporter, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(prometheus, "MOST_BYTES", 1 << 20)
    meter = opened(make_exporter())
    looks_at(meter, 1)
    (tmp_path / FAULTS).write_text(fault + "\n")
    error = wait_for(lambda: meter.failing, what="a failure")
    assert error.cause
    meter.read()
    if not error.lasting:
        assert not meter.read()
        (tmp_path / FAULTS).unlink()
        looks_at(meter, 1)
        assert meter.failing is None
    meter.close()


@pytest.mark.parametrize(
    ("fault", "cause"), [("status 404", "answer 404"), ("garbage", "ends within a line"), ("half", "broke off")]
)
def test_what_gives_no_page_at_the_start_is_unavailable(fault: str, cause: str, make_exporter, tmp_path: Path) -> None:
    (tmp_path / FAULTS).write_text(fault + "\n")
    with pytest.raises(MeterUnavailable, match=cause):
        opened(make_exporter())


def test_a_page_without_energy_is_unavailable_with_what_to_look_for(tmp_path: Path) -> None:
    server = PageServer(lambda path, faults: ("text/plain", "node_cpu_seconds_total 1\n"), tmp_path / "faults")
    with pytest.raises(MeterUnavailable) as caught:
        open_prometheus(Roots(), {"JOULEBOOK_PROMETHEUS_URL": f"{server.url}/metrics"})
    server.close()
    assert "shows no energy" in caught.value.cause
    assert caught.value.remedy.startswith("curl -s http://127.0.0.1")


def test_a_page_of_several_hosts_is_unavailable_with_the_reason(tmp_path: Path) -> None:
    page = "".join(f'node_rapl_package_joules_total{{index="0",instance="{n}"}} 1\n' for n in "ab")
    server = PageServer(lambda path, faults: ("text/plain", page), tmp_path / "faults")
    with pytest.raises(MeterUnavailable, match="it shows 2 hosts"):
        open_prometheus(Roots(), {"JOULEBOOK_PROMETHEUS_URL": server.url})
    server.close()


def test_a_device_that_goes_is_left_out_and_others_are_read_on(tmp_path: Path) -> None:
    lines = {n: f'scaph_socket_energy_microjoules{{socket_id="{n}"}} {n + 5}' for n in range(2)}
    server = PageServer(lambda path, faults: ("text/plain", "\n".join([*lines.values(), ""])), tmp_path / "faults")
    environ = {"JOULEBOOK_PROMETHEUS_URL": server.url, "JOULEBOOK_PROMETHEUS_POLL_SECONDS": "0.1"}
    meter = open_prometheus(Roots(), environ)
    assert len(looks_at(meter, 1)[0]) == 2
    del lines[0]
    left = wait_for(lambda: [look for look in [meter.read()] if len(look) == 1], what="one device")
    assert [reading.device_id for reading in left[0]] == ["scaphandre:package-1"]
    # One that comes later has no row of its own, and is not taken for another.
    lines[2] = 'scaph_socket_energy_microjoules{socket_id="2"} 9'
    assert {reading.device_id for look in looks_at(meter, 3) for reading in look} == {"scaphandre:package-1"}
    meter.close()
    server.close()


@pytest.mark.parametrize(
    ("environ", "cause"),
    [
        ({"JOULEBOOK_PROMETHEUS_URL": "localhost:9100"}, "no http or https URL"),
        ({"JOULEBOOK_PROMETHEUS_URL": "http://a:b@localhost:9100/metrics"}, "holds credentials"),
        ({"JOULEBOOK_PROMETHEUS_URL": "http://localhost", "JOULEBOOK_PROMETHEUS_POLL_SECONDS": "x"}, "is 'x'"),
        ({"JOULEBOOK_PROMETHEUS_URL": "http://localhost", "JOULEBOOK_PROMETHEUS_STEP_SECONDS": "-1"}, "is '-1'"),
    ],
)
def test_a_wrong_declaration_is_told(environ: dict[str, str], cause: str) -> None:
    with pytest.raises(MeterUnavailable, match=cause):
        open_prometheus(Roots(), environ)


def test_nothing_is_asked_unless_declared_and_a_closed_port_is_told() -> None:
    with pytest.raises(MeterAbsent):
        open_prometheus(Roots(), {})
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(MeterUnavailable, match="Connection refused"):
        open_prometheus(Roots(), {"JOULEBOOK_PROMETHEUS_URL": f"http://127.0.0.1:{port}/metrics"})


def test_of_an_exporter_and_the_sensor_itself_the_sensor_counts(make_exporter) -> None:
    meter = opened(make_exporter("node_exporter"))
    direct = Replay([])
    direct.name = "rapl"
    direct.devices = [
        Device("rapl:package-1", Component.CPU, Method.COUNTER, meter.devices[1].u_common, "rapl:x", covers="cpu:1")
    ]
    kept = without_overlap([meter, direct])
    meter.close()
    assert {device.device_id for one in kept for device in one.devices} == {
        "rapl:package-1", "node_exporter:package-0", "node_exporter:dram-0", "node_exporter:dram-1",
    }  # fmt: skip
    assert "the same as rapl" in next(left.why for left in meter.left_out if left.what == "node_exporter:package-1")


def test_the_simulated_exporter_is_found_by_doctor(bench) -> None:
    simulator = bench.start(
        "simulate", "exporter", str(bench.root / "sim"), "--kind", "kepler-old", "--devices", "2",
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    name, _, value = simulator.stdout.readline().removeprefix("export ").strip().partition("=")
    bench.environ[name] = value
    text = bench.joulebook("doctor").stdout
    assert "kepler:package-1" in text
    assert "[through kepler]" in text
    simulator.send_signal(signal.SIGTERM)
    assert simulator.wait(20) == 0
