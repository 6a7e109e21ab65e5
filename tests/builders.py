"""Small builders of rows and marks for tests."""

import json

from joulebook.binding import Scene, claims, measure
from joulebook.history import DeviceHistory, History
from joulebook.marks import parse
from joulebook.meters import Device, Reading
from joulebook.rows import Component, Method


def line(kind, n, at_ns, **values):
    """A mark as a reader gives it."""
    whole = {"v": 1, "n": n, "kind": kind, "at_ns": at_ns, "at_us": at_ns // 1000, "cpu_ns": 1, **values}
    found = parse(json.dumps(whole).encode())
    assert found is not None
    return found


def device(component=Component.CPU, method=Method.COUNTER, **values):
    """A device with a fine counter and a 3 % gain error."""
    settings = {"device_id": f"sim:{component}", "u_common": 0.03, "u_common_key": f"sim:{component}", **values}
    return Device(component=component, method=method, **settings)


def counter_history(readings, **values):
    """A device's history from (ns, microjoules) readings."""
    history = DeviceHistory(device(**values), "sim", 1_000_000_000)
    for at_ns, microjoules in readings:
        history.add(Reading(history.device.device_id, at_ns, energy_microjoules=microjoules))
    return history


def cpu_history(*knots):
    """CPU nanoseconds over time."""
    history = History()
    for at_ns, value in knots:
        history.add(at_ns, value)
    return history


def measured(machine, devices, parties, start, end, offset):
    """What ``measure`` makes of parties on a machine."""
    return measure(Scene(machine, parties), devices, start, end, offset)


def claimed(machine, history, parties, start, end):
    """What ``claims`` makes of parties on a machine."""
    return claims(Scene(machine, parties), history, start, end)
