"""A node's input power from its management controller (BMC), through Redfish.

One view of the watts (METHODS 1.2): PowerControl[0].PowerConsumedWatts of the chassis' Power, or where that gives none
PowerWatts of its EnvironmentMetrics; with JOULEBOOK_REDFISH_READING=energy EnergykWh of the latter. Never two of them,
and never the sum of PowerSupplies. Which chassis is this node is declared, not guessed: one BMC may serve several.
Source of the properties: DMTF DSP0268, Redfish Data Model Specification, Power and EnvironmentMetrics.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult

from joulebook.clock import boottime_ns
from joulebook.meters import Device, MeterAbsent, MeterUnavailable, Reading, Roots
from joulebook.meters.credentials import read_credentials
from joulebook.meters.dmi import product_name
from joulebook.meters.fetch import Refusal, Site, split_url, tls_context
from joulebook.meters.polling import NoAnswer, Polled, Poller, open_polled, seconds_of
from joulebook.rows import Component, Method
from joulebook.units import JOULES_PER_KWH, NS_PER_SECOND

URL: Final = "JOULEBOOK_REDFISH_URL"
CREDENTIALS: Final = "JOULEBOOK_REDFISH_CREDENTIALS_FILE"
CA: Final = "JOULEBOOK_REDFISH_CA_FILE"
INSECURE: Final = "JOULEBOOK_REDFISH_INSECURE"
POLL: Final = "JOULEBOOK_REDFISH_POLL_SECONDS"
READING: Final = "JOULEBOOK_REDFISH_READING"

DEVICE: Final = "redfish:node"
CHASSIS: Final = re.compile(r"(?:/[^/?]+)*/redfish/v1/Chassis/([^/?]+)")
POLL_SECONDS: Final = 5.0
"""BMCs refresh their figure every 1 to 60 s (METHODS 1.6)."""
TIMEOUT_SECONDS: Final = 10.0
MOST_BYTES: Final = 1 << 20
U_BMC: Final = 0.03
"""Relative standard uncertainty of a BMC's power (METHODS 1.6)."""
U_QUANTUM: Final = 1.0 / math.sqrt(12) / 100.0
"""Rounding to whole watts, relative to 100 W: a bound for any node that draws more."""
MOST_WATTS: Final = 1e5
"""No chassis draws more; a greater figure is garbage."""
MOST_KWH: Final = 1e9
ENERGY_STEP_SECONDS: Final = 60.0
"""How often EnergykWh is taken to move where nothing tells: the slowest refresh of METHODS 1.6."""


def watts_of_power(page: Any) -> float | None:
    """PowerControl[0].PowerConsumedWatts of a Power resource, W; None where it is missing, null, 0 or garbage."""
    controls = page.get("PowerControl") if isinstance(page, dict) else None
    first = controls[0] if isinstance(controls, list) and controls else None
    return _number(first.get("PowerConsumedWatts"), MOST_WATTS) if isinstance(first, dict) else None


def watts_of_environment(page: Any) -> float | None:
    """PowerWatts.Reading of an EnvironmentMetrics resource, W."""
    return _reading(page, "PowerWatts", MOST_WATTS)


def kwh_of_environment(page: Any) -> float | None:
    """EnergykWh.Reading of an EnvironmentMetrics resource: cumulative kWh since it was last reset."""
    return _reading(page, "EnergykWh", MOST_KWH)


def _reading(page: Any, name: str, most: float) -> float | None:
    found = page.get(name) if isinstance(page, dict) else None
    return _number(found.get("Reading"), most) if isinstance(found, dict) else None


def _number(value: Any, most: float) -> float | None:
    """A positive number. 0 is what a BMC says that has no figure: a node that answers draws something."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if 0 < value < most else None


class NoFigure(NoAnswer):
    """The resource is there and holds no figure: missing, null or 0."""


View = tuple[str, Callable[[Any], float | None]]
POWER_VIEWS: Final[tuple[View, ...]] = (("Power", watts_of_power), ("EnvironmentMetrics", watts_of_environment))
ENERGY_VIEWS: Final[tuple[View, ...]] = (("EnvironmentMetrics", kwh_of_environment),)


class Chassis:
    """The chassis at a BMC. The first view that gives a figure is kept: two views of one thing may differ."""

    def __init__(self, site: Site, path: str, *, energy: bool) -> None:
        self._site, self._path, self._energy = site, path.rstrip("/"), energy
        self._views = ENERGY_VIEWS if energy else POWER_VIEWS

    def ask(self) -> list[Reading]:
        """One reading, at the middle of the time that it took to get it. Raises NoAnswer."""
        missing: NoAnswer | None = None
        for view in self._views:
            began = boottime_ns()
            try:
                value = self._value(view)
            except NoFigure as error:
                missing = error  # a resource that is there may have a figure the next time
            except Refusal as error:
                if error.status != 404:
                    raise
                missing = missing or error
            else:
                self._views = (view,)
                return [self._told(value, (began + boottime_ns()) // 2)]
        assert missing is not None
        raise missing

    def close(self) -> None:
        """Close the connection."""
        self._site.close()

    def _value(self, view: View) -> float:
        name, value_of = view
        where = f"{self._path}/{name}"
        try:
            page = json.loads(self._site.get(where))
        except (ValueError, RecursionError):
            raise NoAnswer(f"{self._site.origin}{where} is no JSON", f"curl -v {self._site.origin}{where}") from None
        value = value_of(page)
        if value is None:
            raise NoFigure(
                f"{self._site.origin}{where} gives no {'energy' if self._energy else 'power'} (missing, null or 0)",
                f"curl {self._site.origin}{where}",
            )
        return value

    def _told(self, value: float, at_ns: int) -> Reading:
        if self._energy:
            return Reading(DEVICE, at_ns, energy_microjoules=int(value * JOULES_PER_KWH * 1e6))
        return Reading(DEVICE, at_ns, power_milliwatts=round(value * 1000))


def open_redfish(roots: Roots, environ: Mapping[str, str] = os.environ) -> Polled:
    """The chassis that JOULEBOOK_REDFISH_URL names.

    Raises MeterAbsent where none is named, MeterUnavailable on a wrong declaration or a refusal.
    """
    url = environ.get(URL)
    if not url:
        raise MeterAbsent("no BMC is declared", f"set {URL} to this node's chassis, https://BMC/redfish/v1/Chassis/ID")
    parts = split_url(url, URL)
    named = CHASSIS.fullmatch(parts.path.rstrip("/"))
    if named is None or parts.query:
        raise MeterUnavailable(
            f"{URL} names no chassis: {parts.path or '/'}", f"set {URL} to https://BMC/redfish/v1/Chassis/ID"
        )
    period = seconds_of(environ, POLL, POLL_SECONDS)
    energy = _is_energy(environ.get(READING) or "power")
    site, note = _site(parts, environ)
    chassis = Chassis(site, parts.path, energy=energy)
    poller = Poller("redfish", chassis.ask, period, TIMEOUT_SECONDS + period, chassis.close)
    device = _device(named[1], product_name(roots), period, note, energy=energy)
    return open_polled(Polled("redfish", [device], poller))


def _is_energy(reading: str) -> bool:
    if reading not in ("power", "energy"):
        raise MeterUnavailable(f"{READING} is {reading!r}", f"set {READING} to power or energy")
    return reading == "energy"


def _site(parts: SplitResult, environ: Mapping[str, str]) -> tuple[Site, str]:
    """The BMC and what its rows must say of the connection."""
    verified = environ.get(INSECURE, "") in ("", "0")
    path = environ.get(CREDENTIALS)
    headers = read_credentials(Path(path), CREDENTIALS).headers() if path else {}
    if headers and verified and parts.scheme == "http":
        raise MeterUnavailable(
            f"{URL} is http: the credentials would go in clear", f"use https, or set {INSECURE}=1 and have rows say so"
        )
    context = tls_context(environ.get(CA) or None, verified=verified) if parts.scheme == "https" else None
    site = Site(parts, TIMEOUT_SECONDS, MOST_BYTES, headers={"Accept": "application/json", **headers}, context=context)
    return site, "" if verified and context is not None else "BMC not verified by TLS"


def _device(chassis: str, product: str, period_seconds: float, note: str, *, energy: bool) -> Device:
    step_seconds = max(period_seconds, ENERGY_STEP_SECONDS) if energy else period_seconds
    return Device(
        device_id=DEVICE,
        component=Component.NODE,
        method=Method.COUNTER if energy else Method.INTEGRATED,
        u_common=U_BMC,
        u_common_key=f"redfish:{product or chassis}",
        u_indep=0.0 if energy else U_QUANTUM,
        step_ns=round(step_seconds * NS_PER_SECOND),
        covers="node",
        model=product,
        note=note,
    )
