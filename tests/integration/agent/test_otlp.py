"""OTLP against a real receiver on loopback, which decodes what it is sent by opentelemetry-proto."""

import gzip
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import wait_for
from joulebook.otlp import OtlpPusher, OtlpSettings
from joulebook.rows import Component
from joulebook.snapshot import Ticks
from joulebook.totals import Totals
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE
from snapshots import measurement, snapshot


class Receiver:
    """An OTLP/HTTP collector that keeps every request; ``answers`` are the statuses it gives first."""

    def __init__(self, *answers):
        self.requests, self.headers, self.answers = [], [], list(answers)
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                status = receiver.answers.pop(0) if receiver.answers else 200
                if status == 200:
                    receiver.requests.append((self.path, ExportMetricsServiceRequest.FromString(body)))
                    receiver.headers.append(dict(self.headers))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(ExportMetricsServiceResponse().SerializeToString())

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/metrics"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def metrics(self, number=-1):
        """The metrics of one request, by name."""
        (resource,) = self.requests[number][1].resource_metrics
        (scope,) = resource.scope_metrics
        return {metric.name: metric for metric in scope.metrics}


@pytest.fixture
def receiver():
    with closing(Receiver()) as made:
        yield made


def attributes(thing):
    return {pair.key: pair.value.string_value for pair in thing.attributes}


def pushed(receiver, source, seconds=3600.0):
    """What one pusher that is closed at once has pushed."""
    pusher = OtlpPusher(source, OtlpSettings(receiver.url, seconds))
    pusher.close()
    return pusher


def test_counters_arrive_cumulative_with_their_own_beginnings(receiver):
    totals = Totals()
    totals.add([measurement("d", Component.GPU, 8, [("run-7", "train", 2500), ("", "", 500)])])
    made = snapshot(totals)
    pusher = pushed(receiver, lambda: made)
    assert (pusher.seen, pusher.failures) == (made.version, 0)
    path, request = receiver.requests[-1]
    assert path == "/v1/metrics"
    told = attributes(request.resource_metrics[0].resource)
    assert (told["service.name"], told["service.version"], told["host.id"]) == ("joulebook-agent", "0.1.0", "node-1")

    energy = receiver.metrics()["joulebook_energy_joules"]
    assert energy.unit == "J"
    assert energy.sum.is_monotonic
    assert energy.sum.aggregation_temporality == AGGREGATION_TEMPORALITY_CUMULATIVE
    (point,) = energy.sum.data_points
    assert attributes(point) == {
        "machine": "node-1", "device": "d", "component": "gpu", "method": "counter", "meter": "sim",
    }  # fmt: skip
    assert (point.as_double, point.start_time_unix_nano) == (3.0, 8 * 10**9)
    assert abs(point.time_unix_nano - time.time_ns()) < 60 * 10**9

    (phase,) = receiver.metrics()["joulebook_phase_energy_joules"].sum.data_points
    assert (attributes(phase), phase.as_double) == ({"phase": "train", "component": "gpu"}, 2.5)
    (exemplar,) = phase.exemplars
    assert (exemplar.filtered_attributes[0].value.string_value, exemplar.as_double) == ("run-7", 2.5)


def test_gauges_and_distributions_arrive_whole(receiver):
    made = snapshot(ticks=Ticks(6, 0, (3, 2, 1, 0, 0, 0, 0), 12_000_000))
    pushed(receiver, lambda: made)
    metrics = receiver.metrics()
    assert metrics["joulebook_open_runs"].gauge.data_points[0].as_double == 2.0
    (late,) = metrics["joulebook_tick_lateness_seconds"].histogram.data_points
    assert list(late.bucket_counts) == [3, 2, 1, 0, 0, 0, 0]
    assert list(late.explicit_bounds) == [0.001, 0.005, 0.02, 0.1, 0.5, 2.0]
    assert (late.count, late.sum) == (6, 0.012)
    assert not late.HasField("min")
    reads = {attributes(p)["meter"]: p for p in metrics["joulebook_meter_read_seconds"].histogram.data_points}
    assert (reads["rapl"].count, reads["rapl"].sum, list(reads["rapl"].bucket_counts)) == (100, 0.02, [100])


def test_pushes_go_on_by_themselves_and_follow_the_totals(receiver):
    totals = Totals()
    pusher = OtlpPusher(lambda: snapshot(totals), OtlpSettings(receiver.url, 0.1))
    with closing(pusher):
        for count in range(1, 4):
            totals.add([measurement("d", Component.GPU, 4 * count, [("", "", 1000)])])
            wait_for(lambda count=count: last_value(receiver) == float(count), what=f"{count} J at the receiver")


def last_value(receiver):
    metric = receiver.metrics().get("joulebook_energy_joules") if receiver.requests else None
    return metric.sum.data_points[0].as_double if metric is not None else None


def test_a_receiver_that_refuses_is_said_once_and_tried_again(capfd):
    with closing(Receiver(*[400] * 3)) as receiver:
        pusher = OtlpPusher(snapshot, OtlpSettings(receiver.url, 0.1))
        with closing(pusher):
            wait_for(lambda: receiver.requests, what="a push that is taken")
            wait_for(lambda: pusher.seen, what="the push to be noticed")
        assert pusher.failures == 3
    told = [line for line in capfd.readouterr().err.splitlines() if line]
    assert len(told) == 1
    assert "does not take metrics" in told[0]
    assert "400" in told[0]


def test_where_nobody_listens_the_agent_ends_all_the_same(capfd):
    receiver = Receiver()
    receiver.close()
    pusher = pushed(receiver, snapshot)
    assert (pusher.failures, pusher.seen) == (1, 0)
    assert "does not take metrics" in capfd.readouterr().err


def test_credentials_come_from_the_standard_variable(receiver, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20s3cret")
    pushed(receiver, snapshot)
    assert {name.lower(): value for name, value in receiver.headers[-1].items()}["authorization"] == "Bearer s3cret"


def test_before_the_first_snapshot_nothing_is_pushed(receiver):
    pushed(receiver, lambda: None)
    assert not receiver.requests
