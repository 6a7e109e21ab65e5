"""The exposition's text, settings and the part of prometheus-client that is loaded for it."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joulebook.errors import BadInput, JoulebookError
from joulebook.exposition import AgentCollector, ExporterSettings, as_text, exporter_settings, load_prometheus_client
from joulebook.http_server import parse
from joulebook.rows import Component
from joulebook.totals import Totals
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from snapshots import measurement, snapshot

AWKWARD = 'quote " back\\slash\nline \u2028 \x0b é'


def texts(made):
    encode = load_prometheus_client().encode
    rich = encode(AgentCollector(lambda: made, openmetrics=True))
    plain = as_text(encode(AgentCollector(lambda: made)))
    return rich.decode(), plain.decode()


def series(families, names=("_created",)):
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.endswith(names) and "agent_" not in sample.name and "_age_" not in sample.name
    }


def test_both_formats_are_parsed_alike_by_the_reference_parsers():
    rich, plain = texts(snapshot())
    assert rich.endswith("# EOF\n")
    found = series(parse_openmetrics(rich))
    assert found == series(parse_text(plain))
    assert len(found) > 100


def test_the_older_format_is_what_prometheus_client_itself_makes_of_it():
    """Byte for byte, from the same families: the one that is not loaded in the agent is the oracle here."""
    made = snapshot()
    families = list(AgentCollector(lambda: made).collect())

    class Frozen:
        def collect(self):
            return families

    assert as_text(load_prometheus_client().encode(Frozen())) == generate_latest(Frozen())


def test_awkward_labels_survive():
    run = AWKWARD * 9  # too long for an exemplar, whose awkward labels the reference parser cannot read
    totals = Totals()
    totals.add([measurement(AWKWARD, Component.CPU, 0, [(run, AWKWARD, 5)])])
    rich, plain = texts(snapshot(totals))
    for families in (parse_openmetrics(rich), parse_text(plain)):
        (found,) = [s for f in families for s in f.samples if s.name == "joulebook_run_energy_joules_total"]
        assert found.labels == {"run": run, "phase": AWKWARD, "component": "cpu"}


def test_phase_energy_names_the_run_and_its_counter_s_beginning_in_openmetrics():
    totals = Totals()
    totals.add([measurement("d", Component.GPU, 8, [("run-7", "train", 2500), ("", "", 500)])])
    rich, plain = texts(snapshot(totals))
    (family,) = [f for f in parse_openmetrics(rich) if f.name == "joulebook_phase_energy_joules"]
    total, created = sorted(family.samples, key=lambda sample: sample.name, reverse=True)
    assert (total.exemplar.labels, total.exemplar.value, float(total.exemplar.timestamp)) == (
        {"run_id": "run-7"},
        2.5,
        12.0,
    )
    assert created.value == 8.0
    assert "# {" not in plain
    assert "_created" not in plain


def test_an_exemplar_that_would_be_too_long_is_left_out():
    totals = Totals()
    totals.add([measurement("d", Component.GPU, 8, [("r" * 130, "train", 2500)])])
    rich, _ = texts(snapshot(totals))
    assert "# {" not in rich


def test_before_the_first_snapshot_there_is_nothing():
    assert texts(None) == ("# EOF\n", "")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:9477", ("127.0.0.1", 9477)),
        ("9477", ("127.0.0.1", 9477)),
        (":9477", ("127.0.0.1", 9477)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        ("[::1]:9477", ("::1", 9477)),
    ],
)
def test_an_address_without_host_is_this_machine_only(address, expected):
    found = exporter_settings({"JOULEBOOK_METRICS_ADDRESS": address})
    assert (found.host, found.port) == expected


def test_without_an_address_there_is_no_exporter():
    assert exporter_settings({}) is None
    assert exporter_settings({"JOULEBOOK_METRICS_ADDRESS": ""}) is None


@pytest.mark.parametrize("address", ["localhost", "h:99999", "h:-1", "h:", "h:٣"])
def test_an_address_that_cannot_be_is_refused(address):
    with pytest.raises(BadInput, match="JOULEBOOK_METRICS_ADDRESS"):
        exporter_settings({"JOULEBOOK_METRICS_ADDRESS": address})


def test_a_certificate_without_key_is_refused():
    with pytest.raises(BadInput, match="TLS"):
        exporter_settings({"JOULEBOOK_METRICS_ADDRESS": "1", "JOULEBOOK_METRICS_TLS_CERT_FILE": "c.pem"})


def test_all_settings():
    environ = {
        "JOULEBOOK_METRICS_ADDRESS": "h:1",
        "JOULEBOOK_METRICS_TOKEN_FILE": "t",
        "JOULEBOOK_METRICS_TLS_CERT_FILE": "c",
        "JOULEBOOK_METRICS_TLS_KEY_FILE": "k",
    }
    assert exporter_settings(environ) == ExporterSettings("h", 1, "t", "c", "k")


@pytest.mark.parametrize(
    "head",
    [
        b"", b"GET", b"GET /", b"GET  / HTTP/1.1", b"GET / HTTP/2", b"GET http://x/ HTTP/1.1",
        b"GET / HTTP/1.1\r\nno colon", b"GET / HTTP/1.1\r\n folded: x", b"GET / HTTP/1.1\r\n: x",
        b"\x16\x03\x01\x02\x00\x01",
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused(head):
    assert parse(head + b"\r\n\r\n") is None


@given(st.binary(max_size=300))
def test_whatever_bytes_come_they_are_a_request_or_none(head):
    request = parse(head + b"\r\n\r\n")
    assert request is None or request.path.startswith("/")


def test_a_request_is_read_without_its_query_and_with_headers_in_lower_case():
    request = parse(b"GET /metrics?a=1 HTTP/1.1\r\nAccept:  x \r\nHost: h\r\n\r\nbody")
    assert (request.method, request.path, request.headers) == ("GET", "/metrics", {"accept": "x", "host": "h"})


LOADED = """
import sys
from joulebook.exposition import load_prometheus_client
{extra}
client = load_prometheus_client()
assert client is load_prometheus_client()
heavy = {{"http.server", "wsgiref", "urllib.request", "ssl", "prometheus_client.exposition"}}
print(sorted(heavy & set(sys.modules)))
import prometheus_client
assert prometheus_client.metrics_core.CounterMetricFamily is client.core.CounterMetricFamily
assert prometheus_client.CollectorRegistry and prometheus_client.generate_latest
from prometheus_client.parser import text_string_to_metric_families
"""


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_no_http_server_is_loaded_with_prometheus_client_and_who_wants_all_of_it_gets_it():
    assert run_python(LOADED.format(extra="")) == "[]"


def test_the_whole_package_is_used_where_it_is_loaded_already():
    assert "prometheus_client.exposition" in run_python(LOADED.format(extra="import prometheus_client"))


def test_a_missing_package_is_said_with_its_remedy(monkeypatch):
    import importlib.machinery

    for name in [name for name in sys.modules if name.partition(".")[0] == "prometheus_client"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(importlib.machinery.PathFinder, "find_spec", lambda *_: None)
    with pytest.raises(JoulebookError, match="not installed") as caught:
        load_prometheus_client.__wrapped__()
    assert "pip install 'joulebook[exporter]'" in caught.value.remedy
