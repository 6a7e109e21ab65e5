"""An agent that starts on a calibrated machine: which devices' idle energy it separates, and what it says of others."""

from dataclasses import replace
from pathlib import Path

import pytest
from builders import device
from joulebook.calibration import FORCED, Calibration, Idle, calibration_path, save
from joulebook.folder import MarksFolder
from joulebook.home import Home
from joulebook.meters import Device, Reading, Roots
from joulebook.outbox import Outbox
from joulebook.rows import Component, Method
from joulebook.sampler import Sampler
from joulebook.settings import Settings

CARD = device(Component.GPU, device_id="amdgpu:1", model="MI300X", step_ns=10_000_000)
PACKAGE = device(device_id="rapl:package-0", model="Xeon", note="a note")
WALL = device(Component.NODE, Method.INTEGRATED, device_id="redfish:node", model="R760")


class Told:
    """A meter that has these devices and answers when it is told to."""

    left_out = ()

    def __init__(self, name: str, *devices: Device) -> None:
        self.name, self.devices = name, list(devices)

    def read(self) -> list[Reading]:
        return []

    def busy(self) -> dict:
        return {}

    def close(self) -> None:
        pass


def idle(device_id: str, of: Device, meter: str, watts: float, **values) -> Idle:
    return Idle(
        device_id, meter, of.method, of.model, "", values.pop("parts", ()), "", watts, 0.01, watts, 58, 1.0, 0.0,
        "2026-11-24T10:00:00+00:00", **values,
    )  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").make()


def started(home: Home, tmp_path: Path, *meters: Told) -> Sampler:
    roots = Roots(Path("/proc"), tmp_path / "sys")
    outbox = Outbox(home.outboxes / "m.sqlite", writer=True)
    try:
        return Sampler(outbox, MarksFolder(home, roots.proc, "m", "boot"), meters, roots, Settings(), "m", "boot")
    finally:
        outbox.close()


def watts(sampler: Sampler) -> dict[str, float | None]:
    return {history.device.device_id: history.idle_watts for history in sampler.devices.values()}


def test_each_device_has_its_own_idle_power_and_others_none(home, tmp_path, capsys) -> None:
    save(home, Calibration("m", "", (idle("m/rapl:package-0", PACKAGE, "rapl", 30.0),)))
    sampler = started(home, tmp_path, Told("rapl", PACKAGE), Told("amdgpu", CARD))
    assert watts(sampler) == {"m/rapl:package-0": 30.0, "amdgpu:1": None}
    assert sampler.devices["rapl:package-0"].device.note == "a note"
    assert capsys.readouterr().err == ""


def test_a_forced_one_labels_every_row(home, tmp_path) -> None:
    save(home, Calibration("m", "", (idle("m/rapl:package-0", PACKAGE, "rapl", 30.0, forced=True),)))
    history = started(home, tmp_path, Told("rapl", PACKAGE)).devices["rapl:package-0"]
    assert (history.idle_watts, history.device.note) == (30.0, f"a note; {FORCED}")


def test_a_device_that_was_changed_is_named_with_what_mends_it(home, tmp_path, capsys) -> None:
    save(home, Calibration("m", "", (idle("m/rapl:package-0", PACKAGE, "rapl", 30.0),)))
    sampler = started(home, tmp_path, Told("rapl", replace(PACKAGE, model="EPYC")))
    assert watts(sampler) == {"m/rapl:package-0": None}
    assert capsys.readouterr().err.splitlines() == [
        "joulebook agent: m/rapl:package-0: calibrated with model 'Xeon', now 'EPYC': its idle energy is not separated",
        "  try: joulebook calibrate",
    ]


def test_it_follows_a_meter_that_learns_how_a_device_is_read(home, tmp_path) -> None:
    save(home, Calibration("m", "", (idle("amdgpu:1", CARD, "amdgpu", 90.0, forced=True),)))
    meter = Told("amdgpu", replace(CARD, method=Method.INTEGRATED))
    sampler = started(home, tmp_path, meter)
    assert watts(sampler) == {"amdgpu:1": None}
    for _ in range(2):
        meter.devices = [CARD]
        sampler.read_meters()
        sampler.digest()
    assert watts(sampler) == {"amdgpu:1": 90.0}
    assert sampler.devices["amdgpu:1"].device.note == FORCED
    meter.devices = [replace(CARD, method=Method.INTEGRATED)]
    sampler.read_meters()
    sampler.digest()
    assert watts(sampler) == {"amdgpu:1": None}


def test_a_node_s_remainder_is_separated_while_it_has_the_same_parts(home, tmp_path, capsys) -> None:
    kept = idle("m/redfish:node/remainder", WALL, "redfish", 120.0, parts=("amdgpu:1", "rapl:package-0"))
    save(home, Calibration("m", "", (kept,)))
    inside = [replace(part, parent="redfish:node") for part in (PACKAGE, CARD)]
    both = started(home, tmp_path, Told("redfish", WALL), Told("rapl", inside[0]), Told("amdgpu", inside[1]))
    assert watts(both)["m/redfish:node/remainder"] == 120.0
    assert both.nodes["redfish:node"].whole.idle_watts is None
    assert capsys.readouterr().err == ""
    one = started(home, tmp_path, Told("redfish", WALL), Told("rapl", inside[0]))
    assert watts(one)["m/redfish:node/remainder"] is None
    assert "parts 'amdgpu:1 rapl:package-0', now 'rapl:package-0'" in capsys.readouterr().err


def test_a_damaged_file_is_told_and_stops_nothing(home, tmp_path, capsys) -> None:
    path = save(home, Calibration("m", "", (idle("m/rapl:package-0", PACKAGE, "rapl", 30.0),)))
    path.write_text("{")
    assert watts(started(home, tmp_path, Told("rapl", PACKAGE))) == {"m/rapl:package-0": None}
    assert f"rm {calibration_path(home, 'm')}" in capsys.readouterr().err
