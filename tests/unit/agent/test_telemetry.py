"""What the loop tells of itself becomes snapshots; exporters are started only where they are asked for."""

import subprocess
import sys
from contextlib import ExitStack, closing
from http.client import HTTPConnection

import pytest
from conftest import wait_for
from joulebook.clock import boottime_ns
from joulebook.exposition import Exposition
from joulebook.outbox import Outbox
from joulebook.rows import Component
from joulebook.snapshot import LATENESS_BOUNDS_NS, MeterState, OutboxState
from joulebook.telemetry import OPENERS, PUBLISH_NS, STATE, Telemetry, is_wanted
from snapshots import SECOND, measurement


def telemetry(**values):
    return Telemetry("node-1", "0.1.0", SECOND, 1_000_000, **values)


def publish(told, now_ns=0):
    told.publish(now_ns, (), OutboxState(), 0)
    return told.newest


def test_ticks_are_counted_by_lateness_and_those_left_out_are_missed():
    told = telemetry()
    told.ticked(0, 5 * SECOND, 0)
    told.ticked(6 * SECOND, 6 * SECOND - 1, 0)
    told.ticked(7 * SECOND, 7 * SECOND + 2_000_000, 0)
    told.ticked(8 * SECOND, 11 * SECOND + 500_000_000, 0)
    ticks = publish(told).ticks
    assert (ticks.done, ticks.missed, ticks.late_ns) == (4, 3, 3_502_000_000)
    late = dict(zip([*LATENESS_BOUNDS_NS, "beyond"], ticks.late, strict=True))
    assert {bound: count for bound, count in late.items() if count} == {1_000_000: 2, 5_000_000: 1, "beyond": 1}


def test_a_clock_that_is_set_counts_and_one_that_is_slewed_does_not():
    told = telemetry()
    for offset_ns in (0, 1_000_000, -3600 * SECOND, -3600 * SECOND + 50_000_000, 0):
        told.ticked(0, 0, offset_ns)
    assert publish(told).clock_steps == 2


def test_meters_are_counted_with_their_failures_and_the_last_reading_says_whether_they_are_up():
    told = telemetry()
    told.read("rapl", 10, succeeded=True)
    told.read("rapl", 20, succeeded=False)
    told.read("nvml", 5, succeeded=True)
    told.unavailable("redfish")
    assert publish(told).meters == (
        MeterState("rapl", 2, 1, 30, up=False),
        MeterState("nvml", 1, 0, 5, up=True),
        MeterState("redfish", 0, 0, 0, up=False),
    )


def test_snapshots_are_numbered_and_as_far_apart_as_they_should_be():
    told = telemetry()
    assert told.is_due(0)
    first = publish(told, 0)
    assert not told.is_due(PUBLISH_NS - 1)
    assert told.is_due(PUBLISH_NS)
    second = publish(told, SECOND)
    assert (first.version, second.version) == (1, 2)
    assert (first.machine_id, first.agent_version, first.started_us) == ("node-1", "0.1.0", 1_000_000)


def test_a_run_leaves_after_an_exporter_has_shown_it():
    class Shown:
        seen = 0

    exporter = Shown()
    told = telemetry(exporters=[exporter])
    told.totals.add([measurement("d", Component.CPU, 0, [("r", "", 5)])])
    told.totals.end("r")
    publish(told, 0)
    publish(told, 10_000 * SECOND)
    assert told.newest.energies.runs, "nobody has seen it"
    exporter.seen = told.newest.version
    publish(told, 10_001 * SECOND)
    assert told.newest.energies.runs, "its grace begins"
    publish(told, 10_901 * SECOND)
    assert not told.newest.energies.runs


def test_no_exporter_is_started_unasked():
    assert not is_wanted({})
    with ExitStack() as stack:
        told = telemetry()
        assert told.open_exporters(stack, {}) == []
        assert told.exporters == []


@pytest.mark.parametrize("variable", OPENERS)
def test_each_variable_asks_for_one(variable):
    assert is_wanted({variable: "x"})


def test_an_exporter_that_cannot_start_is_an_error_and_harms_no_other():
    environ = {"JOULEBOOK_METRICS_ADDRESS": "127.0.0.1:0", "JOULEBOOK_OTLP_ENDPOINT": "nonsense"}
    with ExitStack() as stack:
        told = telemetry()
        (error,) = told.open_exporters(stack, environ)
        assert "JOULEBOOK_OTLP_ENDPOINT" in error.cause
        (exposition,) = told.exporters
        assert isinstance(exposition, Exposition)


@pytest.fixture
def outbox(tmp_path):
    with closing(Outbox(tmp_path / "outbox.sqlite", writer=True)) as made:
        yield made


def counted(told):
    return sum(device.millijoules for device in told.totals.freeze()[1].devices)


def test_counting_goes_on_over_a_clean_end_and_begins_anew_after_a_crash(outbox):
    first = telemetry()
    first.resume(outbox)
    first.totals.add([measurement("d", Component.CPU, 0, [("r", "", 5)])])
    first.leave(outbox)
    second = telemetry()
    second.resume(outbox)
    assert counted(second) == 5
    second.totals.add([measurement("d", Component.CPU, 4, [("r", "", 5)])])
    third = telemetry()
    third.resume(outbox)  # the second was killed: it had shown 10, so 5 would be counted again by every reader
    assert counted(third) == 0


def test_an_agent_that_meters_on_keeps_its_own_totals(outbox):
    told = telemetry()
    told.totals.add([measurement("d", Component.CPU, 0, [("r", "", 5)])])
    publish(told)
    told.leave(outbox)
    told.totals.add([measurement("d", Component.CPU, 4, [("r", "", 5)])])
    told.resume(outbox)
    assert counted(told) == 10
    assert outbox.state(STATE) is None


def test_what_cannot_be_removed_is_not_taken(outbox, monkeypatch):
    told = telemetry()
    told.totals.add([measurement("d", Component.CPU, 0, [("r", "", 5)])])
    told.leave(outbox)

    def refuse(**_):
        raise OSError("read-only")

    monkeypatch.setattr(outbox, "write", refuse)
    fresh = telemetry()
    fresh.resume(outbox)
    assert counted(fresh) == 0
    fresh.leave(outbox)


def test_the_exposition_follows_what_is_told():
    with ExitStack() as stack:
        told = telemetry(standing_by=True)
        assert told.open_exporters(stack, {"JOULEBOOK_METRICS_ADDRESS": "127.0.0.1:0"}) == []
        (exposition,) = told.exporters
        assert isinstance(exposition, Exposition)
        assert status(exposition, "/healthz") == 200
        told.standing_by = False
        assert status(exposition, "/healthz") == 503
        publish(told, boottime_ns())
        assert status(exposition, "/healthz") == 200
        assert status(exposition, "/metrics") == 200
        wait_for(lambda: exposition.seen == told.newest.version, what="the scrape to be noticed")


def status(exposition, path):
    with closing(HTTPConnection(*exposition.address, timeout=10)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        return answer.status


def test_an_agent_without_exporters_loads_none_of_them():
    code = "import sys\nimport joulebook.telemetry\nprint([n for n in sys.modules if n.split('.')[0] in {names}])"
    names = {"prometheus_client", "opentelemetry", "http", "ssl"}
    told = subprocess.run(
        [sys.executable, "-c", code.format(names=names)], capture_output=True, text=True, check=True
    ).stdout
    assert told.strip() == "[]"
