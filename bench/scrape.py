"""What a scrape costs: CPU milliseconds and memory of a process that serves an agent's snapshot and nothing else.

    python bench/scrape.py [--scrapes N] [--json FILE]

The snapshot is that of a node with 8 GPUs, 2 packages and DRAM and a few runs, about 150 series. Beside the agent's
exporter, in turn: the same collector behind prometheus-client's own HTTP server, and a process that has the snapshot
and serves nothing. CPU is that of all the server's threads, from connection to answer; the client is another process.
"""

import http.client
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

from benching.cost import cpu_ns, resident_mib
from benching.results import Row, parser, tell

TESTS = str(Path(__file__).parents[1] / "tests")
sys.path.insert(0, TESTS)  # the snapshot is that of the tests

TARGET_MS = 5.0
OPENMETRICS = "application/openmetrics-text;version=1.0.0"
ROUNDS = 5
NOTHING = "a snapshot, not served"
KINDS = ("joulebook, OpenMetrics", "joulebook, text", "joulebook, OpenMetrics by TLS", "prometheus-client's server")
SERVER = """
import sys
kind, folder, tests = sys.argv[1:]
sys.path.insert(0, tests)
from snapshots import busy_totals, snapshot
made = snapshot(busy_totals(runs=5))
port = 0
if kind == "prometheus-client's server":
    import prometheus_client
    from joulebook.exposition import AgentCollector
    registry = prometheus_client.CollectorRegistry()
    registry.register(AgentCollector(lambda: made, openmetrics=True))
    server, thread = prometheus_client.start_http_server(0, "127.0.0.1", registry)
    port = server.server_port
elif kind.startswith("joulebook"):
    from joulebook.exposition import Exposition, ExporterSettings
    tls = (folder + "/cert.pem", folder + "/key.pem") if "TLS" in kind else ("", "")
    exposition = Exposition(lambda: made, ExporterSettings("127.0.0.1", 0, "", *tls))
    port = exposition.address[1]
print(port, flush=True)
sys.stdin.read()
"""
CLIENT = """
import http.client, sys, time
until = time.monotonic() + float(sys.argv[2])
while time.monotonic() < until:
    connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
    connection.request("GET", "/metrics")
    connection.getresponse().read()
    connection.close()
    time.sleep(0.05)
"""


class Server:
    """One contestant in a process of its own."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        words = [sys.executable, "-c", SERVER, kind, str(folder), TESTS]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())
        self.context = ssl.create_default_context(cafile=folder / "cert.pem") if "TLS" in kind else None
        self.accept = "text/plain" if "text" in kind else OPENMETRICS
        self.costs_ms: list[float] = []

    def scrape(self) -> bytes:
        made = (
            http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            if self.context is None
            else http.client.HTTPSConnection("127.0.0.1", self.port, timeout=10, context=self.context)
        )
        with closing(made) as connection:
            connection.request("GET", "/metrics", headers={"Accept": self.accept})
            return connection.getresponse().read()

    def measure(self, scrapes: int) -> None:
        """CPU per scrape over one round."""
        before = cpu_ns(self.process.pid)
        for _ in range(scrapes):
            self.scrape()
        self.costs_ms.append((cpu_ns(self.process.pid) - before) / scrapes / 1e6)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def certificate(folder: Path) -> None:
    """A self-signed certificate on P-256."""
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    words += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    words += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(words, check=True, capture_output=True)


def lateness_ms(seconds: float, scraping: bool) -> list[float]:
    """How late a thread that sleeps 20 ms at a time wakes while another one answers scrapes as fast as it can, ms."""
    from joulebook.exposition import ExporterSettings, Exposition
    from snapshots import busy_totals, snapshot

    made = snapshot(busy_totals(runs=5))
    late: list[float] = []

    def tick() -> None:
        until = time.monotonic() + seconds
        while (due := time.monotonic() + 0.02) < until:
            time.sleep(0.02)
            late.append((time.monotonic() - due) * 1000)

    with closing(Exposition(lambda: made, ExporterSettings("127.0.0.1", 0))) as exposition:
        client = subprocess.Popen(
            [sys.executable, "-c", CLIENT, str(exposition.address[1]), str(seconds if scraping else 0)]
        )
        sampler = threading.Thread(target=tick)
        sampler.start()
        sampler.join()
        client.wait()
    return late


def p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--scrapes", type=int, default=100, help="per contestant and round, default 100")
    options = made.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        certificate(folder)
        servers = [Server(kind, folder) for kind in KINDS]
        nothing = Server(NOTHING, folder)
        try:
            body = servers[0].scrape().decode()
            series = sum(1 for line in body.splitlines() if not line.startswith("#") and "_created{" not in line)
            for server in servers:
                server.scrape()  # what it loads at the first one is not what each one costs
            for _ in range(ROUNDS):
                for server in servers:
                    server.measure(options.scrapes // ROUNDS)
            rows = [cost_row(server, series) for server in servers]
            bare = resident_mib([nothing.process.pid])
            rows.append(Row("resident", NOTHING, bare, "MiB"))
            rows += [
                Row(
                    "resident",
                    s.kind,
                    memory := resident_mib([s.process.pid]),
                    "MiB",
                    note=f"{memory - bare:+.1f}",
                )
                for s in servers
            ]
        finally:
            for server in [*servers, nothing]:
                server.close()
    for scraping in (False, True):
        late = lateness_ms(4.0, scraping)
        who = "while scraped 15 times a second or so" if scraping else "unscraped"
        rows.append(Row("wake-up of a 50 Hz thread, p99", who, p99(late), "ms late", note=f"worst {max(late):.1f}"))
    tell(rows, options.json)


def cost_row(server: Server, series: int) -> Row:
    values = server.costs_ms
    most = TARGET_MS if server.kind.startswith("joulebook") else None
    spread = {"low": min(values), "high": max(values)}
    note = f"{series} series"
    return Row("CPU of a scrape", server.kind, statistics.median(values), "ms", most=most, note=note, **spread)


if __name__ == "__main__":
    main()
