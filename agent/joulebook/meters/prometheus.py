"""A node's counters through an exporter that runs already: dcgm-exporter, Kepler, Scaphandre, node_exporter.

For nodes whose sensors only the exporter may read. Which exporter is this node's is declared; what it reads counts with
the uncertainty of the sensor behind it, since the exporter only passes it on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Final

from joulebook.clock import boottime_ns
from joulebook.cpus import Cpu, read_cpu
from joulebook.meters import Device, LeftOut, MeterAbsent, MeterUnavailable, Reading, Roots
from joulebook.meters.exporters import WANTED, Exporter, Series, find_series
from joulebook.meters.fetch import Site, split_url, tls_context
from joulebook.meters.polling import NoAnswer, Polled, Poller, seconds_of
from joulebook.meters.rapl import MOST_WATTS, U_DRAM_CLIENT, U_DRAM_SERVER, U_PACKAGE, U_PACKAGE_AMD
from joulebook.meters.samples import wanted_samples
from joulebook.rows import Component, Method
from joulebook.units import NS_PER_SECOND

URL: Final = "JOULEBOOK_PROMETHEUS_URL"
POLL: Final = "JOULEBOOK_PROMETHEUS_POLL_SECONDS"
STEP: Final = "JOULEBOOK_PROMETHEUS_STEP_SECONDS"

POLL_SECONDS: Final = 5.0
TIMEOUT_SECONDS: Final = 10.0
MOST_BYTES: Final = 1 << 26
"""Of a page, which is read as it comes: Kepler's with thousands of processes has several MiB."""
OPEN_SECONDS: Final = 1.0
"""How long an opener waits for the first page: what devices there are stands only in it."""
LEAST_STEP_SECONDS: Final = 0.001
"""RAPL counters are updated about every millisecond: the step of an exporter that reads when asked."""
MOST_GPU_WATTS: Final = 3000.0
"""Far above any board of 2026."""
U_GPU: Final = 0.03
"""Relative standard uncertainty of NVML's counter, whoever reads it (METHODS 1.6)."""
U_GPU_POWER: Final = 0.25
"""A power that is sampled twice a minute, under a load that may have any period (METHODS 1.6, part-time sensor)."""
U_ESTIMATE: Final = 0.25
"""A utilisation model's (METHODS 1.6): what an exporter estimates is no better."""


class Page:
    """One exporter's page. What it showed first are its devices; they are known once ``exporter`` is set."""

    def __init__(self, site: Site, path: str) -> None:
        self._site, self._path = site, path
        self.exporter: Exporter | None = None
        self.series: Sequence[Series] = ()
        self.left_out: Sequence[LeftOut] = ()
        self._methods: dict[str, Method] = {}

    @property
    def where(self) -> str:
        """Its address."""
        return f"{self._site.origin}{self._path}"

    def ask(self) -> list[Reading]:
        """A reading of each device that the page shows, at the middle of the time that it took. Raises NoAnswer."""
        began = boottime_ns()
        try:
            samples = list(wanted_samples(self._site.stream(self._path), WANTED))
        except ValueError as error:
            self._site.close()
            raise NoAnswer(f"{self.where}: {error}", f"curl {self.where}") from error
        at_ns = (began + boottime_ns()) // 2
        exporter, series, left_out = find_series(samples)
        if exporter is None or not series:
            why = f": {left_out[0].why}" if left_out else ""
            raise NoAnswer(
                f"{self.where} shows no energy of this node's devices{why}",
                f"curl -s {self.where} | grep -E 'DCGM_FI_DEV_TOTAL_ENERGY|kepler_node|scaph_socket|node_rapl'",
            )
        if self.exporter is None:
            self._methods = {one.device_id: one.method for one in series}
            self.series, self.left_out, self.exporter = series, left_out, exporter
        return [
            Reading(one.device_id, at_ns, one.energy_microjoules, one.power_milliwatts)
            for one in series
            # A device that came later has no row of its own, and one whose counter is gone is not integrated on.
            if self._methods.get(one.device_id) is one.method
        ]

    def close(self) -> None:
        """Close the connection."""
        self._site.close()


def open_prometheus(roots: Roots, environ: Mapping[str, str] = os.environ) -> Polled:
    """The exporter that JOULEBOOK_PROMETHEUS_URL names.

    Raises MeterAbsent where none is named, MeterUnavailable on a wrong declaration, or where its page does not come, or
    shows nothing that is known.
    """
    url = environ.get(URL)
    if not url:
        raise MeterAbsent("no exporter is declared", f"set {URL} to the /metrics of one on this node")
    parts = split_url(url, URL)
    period = seconds_of(environ, POLL, POLL_SECONDS)
    step = seconds_of(environ, STEP, 1.0, most=300.0) if environ.get(STEP) else None
    context = tls_context(None, verified=True) if parts.scheme == "https" else None
    site = Site(parts, TIMEOUT_SECONDS, MOST_BYTES, headers={"Accept": "text/plain;version=0.0.4"}, context=context)
    path = (parts.path or "/metrics") + (f"?{parts.query}" if parts.query else "")
    page = Page(site, path)
    poller = Poller("prometheus", page.ask, period, TIMEOUT_SECONDS + period, page.close)
    poller.wait(OPEN_SECONDS)
    if page.exporter is None:
        error = poller.failing
        poller.close()
        raise error or MeterUnavailable(f"{page.where}: no page within {OPEN_SECONDS:g} s", f"curl -v {page.where}")
    return Polled("prometheus", _devices(page, page.exporter, step, roots), poller, page.left_out)


def _devices(page: Page, exporter: Exporter, step_seconds: float | None, roots: Roots) -> list[Device]:
    step = step_seconds or max(exporter.step_seconds, LEAST_STEP_SECONDS)
    cpu = read_cpu(roots)
    return [_device(one, exporter, round(step * NS_PER_SECOND), cpu, roots) for one in page.series]


def _device(series: Series, exporter: Exporter, step_ns: int, cpu: Cpu, roots: Roots) -> Device:
    u, key, u_indep = _uncertainty(series, cpu)
    notes = [f"through {exporter.name}"]
    if series.method is Method.INTEGRATED:
        notes.append(f"power polled, looked at every {step_ns / NS_PER_SECOND:g} s: loads that vary faster are aliased")
    if series.method is Method.MODELLED:
        notes.append("which estimates it")
    return Device(
        device_id=series.device_id,
        component=series.component,
        method=series.method,
        u_common=u,
        u_common_key=key,
        u_indep=u_indep,
        step_ns=step_ns,
        most_watts=_most_watts(series),
        wraps_at_microjoules=_wraps_at(series.zone, roots) if exporter.wraps else None,
        covers=series.covers,
        covers_also=series.covers_also,
        model=series.model or ("" if series.component is Component.GPU else cpu.model),
        note="; ".join(notes),
    )


def _uncertainty(series: Series, cpu: Cpu) -> tuple[float, str, float]:
    """u_common, its key and u_indep: those of the sensor, so that the same sensor read otherwise errs alike."""
    if series.method is Method.MODELLED:
        return U_ESTIMATE, f"prometheus:{series.device_id}", 0.0
    if series.component is Component.GPU:
        return U_GPU, f"nvml:{series.model}", U_GPU_POWER if series.method is Method.INTEGRATED else 0.0
    if series.component is Component.DRAM:
        return (U_DRAM_SERVER if cpu.is_server else U_DRAM_CLIENT), f"rapl-dram:{cpu.model}", 0.0
    return (U_PACKAGE_AMD if cpu.vendor == "AMD" else U_PACKAGE), f"rapl:{cpu.model}", 0.0


def _most_watts(series: Series) -> float | None:
    """What no single device exceeds; of all packages together nothing is known."""
    if series.component is Component.GPU:
        return MOST_GPU_WATTS
    return MOST_WATTS[series.component] if ":" in series.covers else None


def _wraps_at(zone: str, roots: Roots) -> int | None:
    """Range of the counter behind a zone, which everybody may read even where the counter is not; None: not known."""
    try:
        text = (roots.sys / "class" / "powercap" / zone / "max_energy_range_uj").read_text() if zone else ""
        return int(text) or None
    except (OSError, ValueError):
        return None
