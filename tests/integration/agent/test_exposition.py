"""The exporter against real clients: sockets, TLS by openssl, promtool, and a Prometheus that scrapes it."""

import http.client
import json
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import wait_for
from joulebook.clock import boottime_ns
from joulebook.errors import JoulebookError
from joulebook.exposition import ExporterSettings, Exposition
from joulebook.http_server import MOST_CONNECTIONS, HttpServer, Response, Tls
from joulebook.metrics import METRICS
from joulebook.rows import Component, Method
from joulebook.snapshot import DeviceState, OutboxState
from joulebook.totals import Totals
from snapshots import SECOND, busy_totals, measurement, snapshot

ROOT = Path(__file__).parents[3]
needs_prometheus = pytest.mark.skipif(shutil.which("prometheus") is None, reason="Debian's prometheus is not installed")


def get(address, path="/metrics", *, tls=None, method="GET", **headers):
    """Status, headers and body of one request."""
    host, port = address
    kind = http.client.HTTPConnection if tls is None else http.client.HTTPSConnection
    with closing(kind(host, port, timeout=10, **({} if tls is None else {"context": tls}))) as connection:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


class Serving:
    """Starts expositions on loopback; those that still serve are closed with the test."""

    def __init__(self):
        self.started = []

    def __call__(self, source, port=0, **settings):
        made = Exposition(source, ExporterSettings("127.0.0.1", port, **settings))
        self.started.append(made)
        return made

    def stop(self, made):
        self.started.remove(made)
        made.close()


@pytest.fixture
def serve():
    serving = Serving()
    yield serving
    for made in [*serving.started]:
        serving.stop(made)


def test_each_format_is_given_to_who_asks_for_it(serve):
    made = serve(snapshot)
    status, headers, body = get(made.address)
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert int(headers["Content-Length"]) == len(body)
    assert b"joulebook_energy_joules_total{" in body
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
    status, headers, body = get(made.address, Accept=accept)
    assert headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert body.endswith(b"# EOF\n")


def test_a_scrape_is_noticed_and_a_look_at_health_is_none(serve):
    totals = busy_totals()
    newest = snapshot(totals)
    made = serve(lambda: newest)
    get(made.address, "/healthz")
    assert made.seen == 0
    get(made.address)
    wait_for(lambda: made.seen == newest.version, what="the version that was shown")
    newest = snapshot(totals)
    get(made.address)
    wait_for(lambda: made.seen == newest.version, what="the next version")


def test_health_is_told_by_status(serve):
    newest = None
    made = serve(lambda: newest)
    assert get(made.address, "/healthz")[0] == 503
    newest = snapshot()
    assert get(made.address, "/healthz")[0::2] == (200, b"ok\n")
    newest = snapshot(outbox=OutboxState(writable=False))
    assert get(made.address, "/healthz")[0] == 200
    assert get(made.address, "/readyz")[0::2] == (503, b"the outbox's disk refuses rows: they wait in memory\n")


def test_an_agent_that_stands_by_is_healthy_and_not_ready():
    waiting = True
    with closing(Exposition(lambda: None, ExporterSettings("127.0.0.1", 0), lambda: waiting)) as made:
        assert get(made.address, "/healthz")[0] == 200
        assert get(made.address, "/readyz")[0::2] == (503, b"another agent meters this machine: standing by\n")
        assert get(made.address)[0::2] == (200, b"")
        waiting = False
        assert get(made.address, "/healthz")[0] == 503


def test_other_paths_and_methods_are_refused(serve):
    made = serve(snapshot)
    assert get(made.address, "/")[0] == 404
    for method in ("POST", "PUT", "HEAD", "OPTIONS", "DELETE"):
        status, headers, _ = get(made.address, method=method)
        assert (status, headers["Allow"]) == (405, "GET")


def test_a_token_guards_metrics_alone_and_is_read_anew(serve, tmp_path):
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    made = serve(snapshot, token_file=str(token))
    assert get(made.address)[0] == 401
    assert get(made.address, Authorization="Bearer wrong")[0] == 401
    assert get(made.address, Authorization="Basic s3cret")[0] == 401
    assert get(made.address, Authorization="bearer s3cret")[0] == 200
    assert get(made.address, "/readyz")[0] == 200
    assert made.seen > 0
    token.write_text("next")
    assert get(made.address, Authorization="Bearer s3cret")[0] == 401
    assert get(made.address, Authorization="Bearer next")[0] == 200


def test_a_token_that_vanishes_shuts_the_door_and_is_said_once(serve, tmp_path, capfd):
    token = tmp_path / "token"
    token.write_text("s3cret")
    made = serve(snapshot, token_file=str(token))
    token.unlink()
    for _ in range(2):
        status, _, body = get(made.address, Authorization="Bearer s3cret")
        assert status == 500
        assert b"s3cret" not in body
    told = capfd.readouterr().err
    assert told.count("\n") == 1
    assert "cannot be read" in told


@pytest.mark.parametrize("content", [None, b"  \n"])
def test_a_token_file_that_holds_none_is_refused_at_the_start(tmp_path, content):
    token = tmp_path / "token"
    if content is not None:
        token.write_bytes(content)
    with pytest.raises(JoulebookError, match="TOKEN_FILE"):
        Exposition(snapshot, ExporterSettings("127.0.0.1", 0, token_file=str(token)))


def test_an_address_in_use_is_said_with_its_remedy(serve):
    made = serve(snapshot)
    with pytest.raises(JoulebookError, match="cannot listen on ") as caught:
        serve(snapshot, port=made.address[1])
    assert "JOULEBOOK_METRICS_ADDRESS" in caught.value.remedy


def certificate(folder, name="localhost"):
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
            ),
            *("-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    return str(cert), str(key)


def subject(address, context):
    with (
        socket.create_connection(address, timeout=10) as raw,
        context.wrap_socket(raw, server_hostname="127.0.0.1") as s,
    ):
        return dict(pair for part in s.getpeercert()["subject"] for pair in part)["commonName"]


def test_tls_is_served_to_who_trusts_the_certificate_and_a_renewed_one_is_taken(serve, tmp_path):
    cert, key = certificate(tmp_path)
    made = serve(snapshot, cert_file=cert, key_file=key)
    first = ssl.create_default_context(cafile=cert)
    assert get(made.address, tls=first)[0] == 200
    assert subject(made.address, first) == "localhost"
    with pytest.raises(ssl.SSLCertVerificationError):
        get(made.address, tls=ssl.create_default_context())
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        get(made.address)
    certificate(tmp_path, "renewed")
    assert subject(made.address, ssl.create_default_context(cafile=cert)) == "renewed"


def test_a_bad_renewal_leaves_the_good_certificate_in_use(serve, tmp_path, capfd):
    cert, key = certificate(tmp_path)
    made = serve(snapshot, cert_file=cert, key_file=key)
    trusting = ssl.create_default_context(cafile=cert)
    (tmp_path / "cert.pem").write_text("garbage")
    for _ in range(2):
        assert get(made.address, tls=trusting)[0] == 200
    assert capfd.readouterr().err.count("renewed TLS certificate cannot be used") == 1


def test_a_certificate_that_cannot_be_used_is_refused_at_the_start(tmp_path):
    with pytest.raises(JoulebookError, match="cannot be used"):
        Tls(str(tmp_path / "none.pem"), str(tmp_path / "none.key"))


@pytest.fixture
def plain_server():
    """A server with half a second per connection that answers with its request's path."""
    server = HttpServer(("127.0.0.1", 0), lambda request: Response(200, request.path.encode()), seconds=0.5)
    yield server
    server.close()


def test_a_client_that_says_nothing_is_cut_off_and_holds_nobody_up(plain_server):
    with socket.create_connection(plain_server.address, timeout=10) as silent:
        silent.sendall(b"GET / HT")
        assert get(plain_server.address, "/x")[2] == b"/x"
        assert silent.recv(10) == b""


def test_more_clients_than_are_served_at_once_are_served_one_after_another(plain_server):
    silent = [socket.create_connection(plain_server.address, timeout=10) for _ in range(MOST_CONNECTIONS + 4)]
    assert get(plain_server.address, "/after")[2] == b"/after"
    for connection in silent:
        connection.close()
    assert get(plain_server.address, "/still")[2] == b"/still"


def test_a_request_without_end_is_refused(plain_server):
    with socket.create_connection(plain_server.address, timeout=10) as endless:
        endless.sendall(b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 9000)
        assert endless.recv(100).startswith(b"HTTP/1.1 431 ")


def test_garbage_is_refused(plain_server):
    with socket.create_connection(plain_server.address, timeout=10) as rude:
        rude.sendall(b"\x00\xff\r\n\r\n")
        assert rude.recv(100).startswith(b"HTTP/1.1 400 ")


def test_many_requests_leave_no_descriptor_behind(serve):
    made = serve(snapshot)
    get(made.address)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(100):
        get(made.address, "/healthz")
        socket.create_connection(made.address, timeout=10).close()
    wait_for(lambda: len(list(Path("/proc/self/fd").iterdir())) <= before, what="all descriptors to be closed")


def test_ipv6_is_served():
    try:
        server = HttpServer(("::1", 0), lambda request: Response(200, b"six"))
    except JoulebookError as error:
        pytest.skip(f"no IPv6 here: {error.cause}")
    with closing(server):
        assert get(server.address)[2] == b"six"


def test_a_request_in_pieces_and_an_answer_larger_than_any_buffer_go_through():
    body = bytes(range(256)) * 40_000
    server = HttpServer(("127.0.0.1", 0), lambda request: Response(200, body))
    with closing(server), socket.create_connection(server.address, timeout=10) as slow:
        for byte in b"GET / HTTP/1.1\r\n\r\n":
            slow.sendall(bytes([byte]))
        with slow.makefile("rb") as stream:
            assert stream.read().partition(b"\r\n\r\n")[2] == body


def test_closing_ends_the_thread_and_frees_the_port():
    before = threading.active_count()
    server = HttpServer(("127.0.0.1", 0), lambda request: Response(200, b""))
    waiting = socket.create_connection(server.address, timeout=10)
    server.close()
    assert threading.active_count() == before
    waiting.close()
    HttpServer(server.address, lambda request: Response(200, b"")).close()


@needs_prometheus
@pytest.mark.parametrize("made", [snapshot, lambda: snapshot(Totals()), lambda: snapshot(busy_totals(runs=1000))])
def test_promtool_finds_nothing_to_complain_of(serve, made):
    _, _, body = get(serve(made).address)
    checked = subprocess.run(["promtool", "check", "metrics"], input=body, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


@needs_prometheus
def test_the_queries_in_the_how_to_are_ones_that_prometheus_understands_over_metrics_that_exist(tmp_path):
    page = (ROOT / "docs/how-to/prometheus.md").read_text()
    queries = re.findall(r"^\| [^|]+ \| `(.+)` \|$", page, re.MULTILINE)
    assert len(queries) >= 10
    rules = [{"record": f"check:query{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "how-to", "rules": rules}]}))
    checked = subprocess.run(["promtool", "check", "rules", tmp_path / "rules.yml"], capture_output=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    named = {name for query in queries for name in re.findall(r"joulebook_\w+", query)}
    assert named <= {metric.name for metric in METRICS}


class Prometheus:
    """Debian's Prometheus, scraping one target four times a second. options: of the scrape job."""

    def __init__(self, folder, target, **options):
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            self.address = free.getsockname()
        job = {"job_name": "joulebook", "static_configs": [{"targets": [target]}], **options}
        timing = {"scrape_interval": "250ms", "scrape_timeout": "250ms"}
        config = folder / "prometheus.yml"
        config.write_text(json.dumps({"global": timing, "scrape_configs": [job]}))
        command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
        command += [f"--web.listen-address=127.0.0.1:{self.address[1]}", "--enable-feature=exemplar-storage"]
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def api(self, path, **arguments):
        try:
            status, _, body = get(self.address, f"/api/v1/{path}?{urllib.parse.urlencode(arguments)}")
        except OSError:
            return None
        return json.loads(body)["data"] if status == 200 else None

    def query(self, expression):
        """The value of each series, in order of labels."""
        found = self.api("query", query=expression)
        found = found["result"] if found else []
        return [float(series["value"][1]) for series in sorted(found, key=lambda s: sorted(s["metric"].items()))]

    def close(self):
        self.process.terminate()
        self.process.wait()


class Agent:
    """What an agent publishes: one device that is read until it is lost, one run."""

    def __init__(self):
        self.totals, self.spans, self.lost_at = Totals(), 0, None
        self.began_s = int(time.time()) - 300
        self.begin()

    def begin(self):
        self.totals.open("run-7", 0)
        self.totals.expect([self.row()])
        self.publish()

    def row(self):
        shares = [("run-7", "train", 60_000), ("", "", 40_000)]
        return measurement("d", Component.GPU, self.began_s + 4 * self.spans, shares)

    def work(self):
        """One more final span: 100 J, of which 60 are the run's."""
        self.totals.add([self.row()])
        self.spans += 1
        self.publish()

    def publish(self):
        self.newest = snapshot(self.totals)

    def source(self):
        now = boottime_ns()
        read_ns = now if self.lost_at is None else self.lost_at
        state = DeviceState("d", Component.GPU, Method.COUNTER, "nvml", 5_000_000, read_ns)
        return replace(self.newest, at_ns=now, devices=(state,))


ENERGY = "joulebook_energy_joules_total"


@needs_prometheus
@pytest.mark.slow
def test_prometheus_adds_up_the_same_joules_through_a_gap_and_a_restart(serve, tmp_path):
    agent = Agent()
    made = serve(agent.source)
    prometheus = Prometheus(tmp_path, f"127.0.0.1:{made.address[1]}")
    with closing(prometheus):
        wait_for(lambda: prometheus.query(ENERGY) == [] and prometheus.query("up") == [1.0], what="a first scrape")

        def scraped(joules, expression=f"sum({ENERGY})"):
            wait_for(lambda: prometheus.query(expression) == [joules], what=f"{expression} = {joules}")

        for span in range(10):
            agent.work()
            scraped(100.0 * (span + 1))

        # The exporter is away while the agent goes on: nothing that happened meanwhile may be missing.
        serve.stop(made)
        wait_for(lambda: prometheus.query("up") == [0.0], what="a failed scrape")
        for _ in range(10):
            agent.work()
        made = serve(agent.source, port=made.address[1])
        scraped(2000.0)
        assert prometheus.query("sum by (kind) (joulebook_share_energy_joules_total)") == [1200.0, 800.0]
        assert prometheus.query("joulebook_run_energy_joules_total") == [1200.0]
        assert prometheus.query(f"sum({ENERGY}) - sum(joulebook_share_energy_joules_total)") == [0.0]

        # A killed agent begins at 0: a reset, which increase() sees through.
        agent.totals = Totals()
        agent.begin()
        wait_for(lambda: prometheus.query("joulebook_run_energy_joules_total") == [0.0], what="a restarted agent")
        agent.work()
        scraped(100.0)
        (risen,) = prometheus.query("increase(joulebook_share_energy_joules_total{kind='run'}[5m])")
        # From 0 on Prometheus knows the beginning; at the end it extrapolates by one of more than 20 intervals.
        assert 1260 <= risen <= 1260 * 1.06

        phases = {"query": "joulebook_phase_energy_joules_total", "start": agent.began_s, "end": time.time() + 60}
        exemplars = [e for series in prometheus.api("query_exemplars", **phases) for e in series["exemplars"]]
        assert {(e["labels"]["run_id"], float(e["value"])) for e in exemplars} == {("run-7", 60.0)}

        # A lost device is absent, not at rest.
        assert prometheus.query("joulebook_meter_energy_joules_total") == [5.0]
        agent.lost_at = boottime_ns() - 10 * SECOND
        wait_for(lambda: prometheus.query("joulebook_meter_energy_joules_total") == [], what="the device to vanish")
        assert prometheus.query("up") == [1.0]


@needs_prometheus
def test_prometheus_scrapes_by_tls_with_the_token_as_the_how_to_says(serve, tmp_path):
    cert, key = certificate(tmp_path)
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    made = serve(snapshot, cert_file=cert, key_file=key, token_file=str(token))
    options = {"scheme": "https", "tls_config": {"ca_file": cert}, "authorization": {"credentials_file": str(token)}}
    with closing(Prometheus(tmp_path, f"127.0.0.1:{made.address[1]}", **options)) as prometheus:
        wait_for(lambda: prometheus.query("up") == [1.0], what="a scrape")
        wait_for(lambda: prometheus.query("joulebook_build_info") == [1.0], what="the metrics")
