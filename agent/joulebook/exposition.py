"""Prometheus exposition over HTTP: ``/metrics``, ``/healthz``, ``/readyz``.

Everything is computed at the scrape, in the exporter's own thread, from the newest snapshot: no scrape costs nothing,
and a scrape holds the sampler up no longer than it takes Python to change threads.
"""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import os
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from joulebook.clock import boottime_ns, utc_us
from joulebook.errors import BadInput, JoulebookError
from joulebook.health import not_live, not_ready
from joulebook.http_server import HttpServer, Request, Response, Tls
from joulebook.metrics import Distribution, Kind, Metric, OwnUse, Sample, families, own_use
from joulebook.snapshot import Snapshot
from joulebook.units import US_PER_SECOND, joules

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as Family
    from prometheus_client.samples import Exemplar

Source = Callable[[], Snapshot | None]
"""The newest snapshot, None before the first."""

OPENMETRICS: Final = "application/openmetrics-text"
OPENMETRICS_TYPE: Final = f"{OPENMETRICS}; version=1.0.0; charset=utf-8"
TEXT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
STANDING_BY: Final = "another agent meters this machine: standing by"
MOST_EXEMPLAR_CHARACTERS: Final = 128
"""Of an exemplar's label names and values together (OpenMetrics 1.0)."""


@dataclass(frozen=True, slots=True)
class ExporterSettings:
    """Where to serve and to whom. token_file: asked for on /metrics.  cert_file, key_file: both or neither."""

    host: str
    port: int
    token_file: str = ""
    cert_file: str = ""
    key_file: str = ""


def exporter_settings(environ: Mapping[str, str] = os.environ) -> ExporterSettings | None:
    """The settings that the variables give, None when JOULEBOOK_METRICS_ADDRESS does not ask for an exporter."""
    address = environ.get("JOULEBOOK_METRICS_ADDRESS", "")
    if not address:
        return None
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    if not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise BadInput(f"JOULEBOOK_METRICS_ADDRESS is {address!r}", "set it to HOST:PORT, such as 127.0.0.1:9477")
    cert_file = environ.get("JOULEBOOK_METRICS_TLS_CERT_FILE", "")
    key_file = environ.get("JOULEBOOK_METRICS_TLS_KEY_FILE", "")
    if bool(cert_file) != bool(key_file):
        raise BadInput(
            "one of JOULEBOOK_METRICS_TLS_CERT_FILE and JOULEBOOK_METRICS_TLS_KEY_FILE is missing",
            "set both or neither",
        )
    return ExporterSettings(host, int(port), environ.get("JOULEBOOK_METRICS_TOKEN_FILE", ""), cert_file, key_file)


class AgentCollector:
    """A prometheus-client collector over the newest snapshot: register it anywhere. openmetrics: with exemplars and
    _created series, which the older text format does not know.
    """

    def __init__(self, source: Source, *, openmetrics: bool = False, use: Callable[[], OwnUse] = own_use) -> None:
        client = load_prometheus_client()
        self._core, self._samples = client.core, client.samples
        self._source, self._openmetrics, self._use = source, openmetrics, use

    def collect(self) -> Iterator[Family]:
        """Every metric that has series now."""
        snapshot = self._source()
        if snapshot is None:
            return
        for metric, samples in families(snapshot, self._use(), boottime_ns(), utc_us()):
            if samples:
                yield self._family(metric, samples)

    def _family(self, metric: Metric, samples: Sequence[Sample]) -> Family:
        core = self._core
        family: Any
        if metric.kind is Kind.COUNTER:
            family = core.CounterMetricFamily(metric.name, metric.help, labels=metric.labels, unit=metric.unit)
            for sample in samples:
                if self._openmetrics:
                    created = None if sample.created_us is None else sample.created_us / US_PER_SECOND
                    family.add_metric(sample.labels, sample.value, created, exemplar=self._exemplar(sample))
                else:
                    family.add_metric(sample.labels, sample.value)
        elif metric.kind is Kind.GAUGE:
            family = core.GaugeMetricFamily(metric.name, metric.help, labels=metric.labels, unit=metric.unit)
            for sample in samples:
                family.add_metric(sample.labels, sample.value)
        else:
            family = self._distribution(metric, samples)
        return family  # type: ignore[no-any-return]

    def _distribution(self, metric: Metric, samples: Sequence[Sample]) -> Any:
        summary = metric.kind is Kind.SUMMARY
        maker = self._core.SummaryMetricFamily if summary else self._core.HistogramMetricFamily
        family = maker(metric.name, metric.help, labels=metric.labels, unit=metric.unit)
        for labels, value, *_ in samples:
            assert isinstance(value, Distribution)
            if summary:
                family.add_metric(labels, count_value=value.number, sum_value=value.total)
            else:
                buckets = [("+Inf" if bound == float("inf") else str(bound), number) for bound, number in value.buckets]
                family.add_metric(labels, buckets=buckets, sum_value=value.total)
        return family

    def _exemplar(self, sample: Sample) -> Exemplar | None:
        exemplar = sample.exemplar
        if exemplar is None or len("run_id") + len(exemplar.run_id) > MOST_EXEMPLAR_CHARACTERS:
            return None
        found: Exemplar = self._samples.Exemplar(
            {"run_id": exemplar.run_id}, joules(exemplar.millijoules), exemplar.at_us / US_PER_SECOND
        )
        return found


class Exposition:
    """Serves the agent's metrics and health until ``close``.

    source: called at each request.  standing_by: true while another agent meters this machine and this one waits:
    healthy, and not ready.  seen: the newest snapshot's version that /metrics has shown to a client.
    Raises JoulebookError when it cannot serve as asked.
    """

    def __init__(
        self, source: Source, settings: ExporterSettings, standing_by: Callable[[], bool] = lambda: False
    ) -> None:
        self.seen = 0
        self._source, self._settings, self._standing_by = source, settings, standing_by
        self._encode = load_prometheus_client().encode
        if settings.token_file:
            _token(settings.token_file)
        tls = Tls(settings.cert_file, settings.key_file) if settings.cert_file else None
        self._server = HttpServer((settings.host, settings.port), self._respond, tls)
        self.address = self._server.address

    def close(self) -> None:
        """Stop serving."""
        self._server.close()

    def _respond(self, request: Request) -> Response:
        if request.path == "/metrics":
            return self._metrics(request)
        if request.path == "/healthz":
            return _verdict([] if self._standing_by() else not_live(self._source(), boottime_ns()))
        if request.path == "/readyz":
            return _verdict([STANDING_BY] if self._standing_by() else not_ready(self._source(), boottime_ns()))
        return Response(404, b"/metrics, /healthz, /readyz\n")

    def _metrics(self, request: Request) -> Response:
        if self._settings.token_file and not _knows(request, _token(self._settings.token_file)):
            return Response(401, b"a bearer token is needed\n", headers=(("WWW-Authenticate", "Bearer"),))
        snapshot = self._source()
        openmetrics = OPENMETRICS in request.headers.get("accept", "")
        body: bytes = self._encode(AgentCollector(lambda: snapshot, openmetrics=openmetrics))
        version = 0 if snapshot is None else snapshot.version
        return Response(
            200,
            body if openmetrics else as_text(body),
            OPENMETRICS_TYPE if openmetrics else TEXT_TYPE,
            on_sent=lambda: self._shown(version),
        )

    def _shown(self, version: int) -> None:
        self.seen = max(self.seen, version)


def as_text(openmetrics: bytes) -> bytes:
    """The older text format (0.0.4) of OpenMetrics text without exemplars and _created series.

    There a counter's comments name it as its samples do, with _total, and there is neither UNIT nor EOF.
    """
    lines: list[str] = []
    for line in openmetrics.decode().split("\n")[:-1]:  # label values may hold what else ends a line
        if line.startswith("# TYPE") and line.endswith(" counter"):
            name = line.split(" ")[2]
            lines[-1] = lines[-1].replace(name, f"{name}_total", 1)
            lines.append(f"# TYPE {name}_total counter")
        elif not line.startswith(("# UNIT", "# EOF")):
            lines.append(line)
    return "\n".join([*lines, ""]).encode()


def _verdict(reasons: list[str]) -> Response:
    return Response(503 if reasons else 200, "".join(f"{reason}\n" for reason in reasons or ["ok"]).encode())


def _token(path: str) -> bytes:
    """The token in the file, read anew each time so that it can be renewed in place."""
    try:
        token = Path(path).read_bytes().strip()
    except OSError as error:
        raise JoulebookError(
            f"JOULEBOOK_METRICS_TOKEN_FILE {path} cannot be read: {error.strerror}",
            "name a file that the agent may read",
        ) from error
    if not token:
        raise JoulebookError(f"JOULEBOOK_METRICS_TOKEN_FILE {path} is empty", "write the token into it")
    return token


def _knows(request: Request, token: bytes) -> bool:
    import hmac

    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), token)


@dataclass(frozen=True, slots=True)
class PrometheusClient:
    """What is used of prometheus-client. encode: the OpenMetrics text of a collector."""

    core: Any
    samples: Any
    encode: Callable[[Any], bytes]


@functools.cache
def load_prometheus_client() -> PrometheusClient:
    """prometheus-client's data model and encoder, without its HTTP servers, process collectors and push clients.

    Importing the package itself imports all of those, 14 MiB; its modules that are needed here know nothing of them.
    So they are imported from a package object that holds the same path and an empty body; it is taken away
    afterwards, and whoever imports prometheus-client as such gets all of it, with these very modules.
    """
    name = "prometheus_client"
    if name not in sys.modules:
        spec = importlib.machinery.PathFinder.find_spec(name)
        if spec is None or spec.submodule_search_locations is None:
            raise JoulebookError(
                "prometheus-client is not installed: JOULEBOOK_METRICS_ADDRESS needs it",
                "pip install 'joulebook[exporter]'",
            )
        bare = types.ModuleType(name)
        bare.__path__ = list(spec.submodule_search_locations)
        sys.modules[name] = bare
        try:
            return _load(name)
        finally:
            del sys.modules[name]
    return _load(name)


def _load(name: str) -> PrometheusClient:
    core, samples, text = (
        importlib.import_module(f"{name}.{part}") for part in ("metrics_core", "samples", "openmetrics.exposition")
    )
    # Our names need no escaping, and where any name may stand as it is none is looked at letter by letter.
    return PrometheusClient(core, samples, functools.partial(text.generate_latest, escaping=text.ALLOWUTF8))
