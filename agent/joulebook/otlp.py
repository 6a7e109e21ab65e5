"""Metrics pushed by OTLP over HTTP, through the OpenTelemetry SDK's exporter: the same table as the exposition's.

Everything is cumulative, so a push that fails loses nothing: the next one says all of it. Imported only where
JOULEBOOK_OTLP_ENDPOINT is set (docs/decisions/0020-opentelemetry.md says what it costs).
"""

from __future__ import annotations

import logging
import os
import random
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from joulebook.clock import boottime_ns, utc_us
from joulebook.errors import BadInput, JoulebookError
from joulebook.metrics import Distribution, Kind, Metric, Sample, families, own_use
from joulebook.snapshot import Exemplar, Snapshot
from joulebook.units import NS_PER_US, joules

try:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics import Exemplar as OtelExemplar
    from opentelemetry.sdk.metrics import export as otel
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
except ImportError as missing:
    raise JoulebookError(
        f"JOULEBOOK_OTLP_ENDPOINT needs the OpenTelemetry SDK: {missing}", "pip install 'joulebook[otlp]'"
    ) from missing

PATH: Final = "/v1/metrics"
PUSH_SECONDS: Final = 10.0
"""Time-out of one push, its retries included."""
LAST_PUSH_SECONDS: Final = 3.0
"""Time-out of the push with which the agent ends."""
FIRST_PUSH_SECONDS: Final = 5.0
"""The first push comes within this time of the start, spread so that a fleet does not push at once."""
UNITS: Final = {"joules": "J", "seconds": "s", "bytes": "By", "": ""}
"""Base units in UCUM."""


@dataclass(frozen=True, slots=True)
class OtlpSettings:
    """url: where to push to, whole.  seconds: between pushes."""

    url: str
    seconds: float


def otlp_settings(environ: Mapping[str, str] = os.environ) -> OtlpSettings | None:
    """The settings that the variables give, None when JOULEBOOK_OTLP_ENDPOINT does not ask for pushes."""
    endpoint = environ.get("JOULEBOOK_OTLP_ENDPOINT", "")
    if not endpoint:
        return None
    parts = urlsplit(endpoint)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise BadInput("JOULEBOOK_OTLP_ENDPOINT is no http or https address", "set it to http://HOST:4318")
    if parts.username is not None:
        raise BadInput("JOULEBOOK_OTLP_ENDPOINT holds credentials", "put them into OTEL_EXPORTER_OTLP_HEADERS")
    text = environ.get("JOULEBOOK_OTLP_SECONDS", "60")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 3600:
        raise BadInput(f"JOULEBOOK_OTLP_SECONDS is {text!r}", "set it to a number from 1 to 3600")
    url = endpoint.rstrip("/")
    return OtlpSettings(url if url.endswith(PATH) else url + PATH, seconds)


def metrics_data(snapshot: Snapshot, now_ns: int, now_us: int) -> otel.MetricsData:
    """The snapshot as the SDK's data, cumulative; now_ns: CLOCK_BOOTTIME, now_us: UTC."""
    made = [
        _metric(metric, samples, snapshot.started_us, now_us)
        for metric, samples in families(snapshot, own_use(), now_ns, now_us)
        if samples
    ]
    resource = Resource.create(
        {
            "service.name": "joulebook-agent",
            "service.version": snapshot.agent_version,
            "host.id": snapshot.machine_id,
        }
    )
    scope = otel.ScopeMetrics(InstrumentationScope("joulebook", snapshot.agent_version), made, "")
    return otel.MetricsData([otel.ResourceMetrics(resource, [scope], "")])


def _metric(metric: Metric, samples: Sequence[Sample], started_us: int, now_us: int) -> otel.Metric:
    cumulative = otel.AggregationTemporality.CUMULATIVE
    data: otel.Sum | otel.Gauge | otel.Histogram
    if metric.kind is Kind.COUNTER:
        data = otel.Sum([_number(metric, s, started_us, now_us) for s in samples], cumulative, is_monotonic=True)
    elif metric.kind is Kind.GAUGE:
        data = otel.Gauge([_number(metric, sample, started_us, now_us) for sample in samples])
    else:
        data = otel.Histogram([_histogram(metric, s, started_us, now_us) for s in samples], cumulative)
    return otel.Metric(metric.name.removesuffix("_total"), metric.help, UNITS[metric.unit], data)


def _attributes(metric: Metric, sample: Sample) -> dict[str, str]:
    return {name: str(value) for name, value in zip(metric.labels, sample.labels, strict=True)}


def _number(metric: Metric, sample: Sample, started_us: int, now_us: int) -> otel.NumberDataPoint:
    assert not isinstance(sample.value, Distribution)
    since_us = started_us if sample.created_us is None else sample.created_us
    exemplars = [] if sample.exemplar is None else [_exemplar(sample.exemplar)]
    return otel.NumberDataPoint(
        _attributes(metric, sample), since_us * NS_PER_US, now_us * NS_PER_US, float(sample.value), exemplars
    )


def _exemplar(exemplar: Exemplar) -> OtelExemplar:
    return OtelExemplar({"run_id": exemplar.run_id}, joules(exemplar.millijoules), exemplar.at_us * NS_PER_US)


def _histogram(metric: Metric, sample: Sample, started_us: int, now_us: int) -> otel.HistogramDataPoint:
    """A summary becomes a histogram of one bucket. Least and greatest value are not known, so they are not said."""
    value = sample.value
    assert isinstance(value, Distribution)
    numbers = [number for _, number in value.buckets] or [value.number]
    unknown: float = None  # type: ignore[assignment]
    return otel.HistogramDataPoint(
        attributes=_attributes(metric, sample),
        start_time_unix_nano=started_us * NS_PER_US,
        time_unix_nano=now_us * NS_PER_US,
        count=value.number,
        sum=value.total,
        bucket_counts=[after - before for before, after in zip([0, *numbers], numbers, strict=False)],
        explicit_bounds=[bound for bound, _ in value.buckets[:-1]],
        min=unknown,
        max=unknown,
    )


class OtlpPusher:
    """Pushes the newest snapshot every so often, in a thread of its own, until ``close``.

    seen: the newest snapshot's version that was taken.  failures: pushes that were not.
    """

    def __init__(self, source: Callable[[], Snapshot | None], settings: OtlpSettings) -> None:
        self.seen = self.failures = 0
        self._source, self._settings = source, settings
        self._last_words = _LastWords()
        self._exporter = OTLPMetricExporter(endpoint=settings.url, timeout=PUSH_SECONDS)
        self._failing = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="joulebook-otlp", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop, with one last push of what has come since, unless one hangs. Takes twice LAST_PUSH_SECONDS at most."""
        self._stop.set()
        self._exporter.shutdown()
        self._thread.join(LAST_PUSH_SECONDS)
        if not self._thread.is_alive():
            last = OTLPMetricExporter(endpoint=self._settings.url, timeout=LAST_PUSH_SECONDS)
            self._push(last)
            last.shutdown()
        self._last_words.close()

    def _run(self) -> None:
        wait = random.uniform(0, min(FIRST_PUSH_SECONDS, self._settings.seconds))  # noqa: S311
        while not self._stop.wait(wait):
            self._push(self._exporter)
            wait = self._settings.seconds

    def _push(self, exporter: OTLPMetricExporter) -> None:
        snapshot = self._source()
        if snapshot is None:
            return
        data = metrics_data(snapshot, boottime_ns(), utc_us())
        try:
            taken = exporter.export(data) is otel.MetricExportResult.SUCCESS
        except OSError as error:  # older versions let a refused connection through
            taken, self._last_words.text = False, str(error)
        if taken:
            self.seen = max(self.seen, snapshot.version)
        else:
            self.failures += 1
            if not self._failing:
                print(
                    f"joulebook agent: {self._settings.url} does not take metrics: {self._last_words.text}; "
                    f"tried again every {self._settings.seconds:g} s, nothing is lost meanwhile",
                    file=sys.stderr,
                )
        self._failing = not taken


class _LastWords(logging.Handler):
    """Keeps what the exporter logged last, in place of a line on stderr for every failure."""

    def __init__(self) -> None:
        super().__init__()
        self.text = "no reason given"
        self._logger = logging.getLogger("opentelemetry.exporter")
        self._logger.addHandler(self)
        self._logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()

    def close(self) -> None:
        self._logger.removeHandler(self)
        super().close()
