"""The collector's own metrics. Label values come from this program, never from a request: their number is bounded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counters since the start; a registry of its own, so that two collectors in one process do not meet."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self.requests = Counter(
            "joulebook_collector_requests",
            "Requests by endpoint and status.",
            ["endpoint", "status"],
            registry=self._registry,
        )
        self.rows = Counter(
            "joulebook_collector_rows",
            "Rows that came, by what became of them.",
            ["outcome"],
            registry=self._registry,
        )
        for outcome in ("accepted", "duplicate", "quarantined"):
            self.rows.labels(outcome)
        self.forked = Counter(
            "joulebook_collector_forked_batches", "Batches whose place holds other rows.", registry=self._registry
        )
        self.body_bytes = Counter(
            "joulebook_collector_body_bytes", "Bytes of batches as they came, packed.", registry=self._registry
        )
        self.acknowledge_seconds = Histogram(
            "joulebook_collector_acknowledge_seconds",
            "From a batch's first byte read to its commit.",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0),
            registry=self._registry,
        )
        self.queue_rows = Gauge("joulebook_collector_queue_rows", "Rows that wait.", registry=self._registry)
        self.queue_limit_rows = Gauge(
            "joulebook_collector_queue_limit_rows", "Rows that may wait.", registry=self._registry
        )
        self.write_failures = Gauge(
            "joulebook_collector_write_failures", "Commits that failed, since the start.", registry=self._registry
        )
        self.refusals = Gauge(
            "joulebook_collector_access_refusals", "Requests refused for their token.", registry=self._registry
        )

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self._registry)

    def names(self) -> Iterator[str]:
        """Names of the families of this program, for the docs' test."""
        return (family.name for family in self._registry.collect() if family.name.startswith("joulebook_"))
