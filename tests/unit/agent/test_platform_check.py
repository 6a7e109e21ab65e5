"""The platform's counter is believed only once it has gained what its parts gained."""

from itertools import pairwise
from pathlib import Path

import pytest
from joulebook import platform_check
from joulebook.meters import Device, Reading, Roots
from joulebook.meters.rapl import open_rapl
from joulebook.platform_check import PLATFORM_ID, PlatformCheck
from joulebook.rows import Component, Method
from joulebook.simulate.curve import parse_curve
from joulebook.simulate.powercap import PowercapTree, domains

RANGE = 1_000_000_000


def device(device_id: str, component: Component) -> Device:
    return Device(device_id, component, Method.COUNTER, 0.1, "key", wraps_at_microjoules=RANGE)


DEVICES = [device("cpu", Component.CPU), device("dram", Component.DRAM), device(PLATFORM_ID, Component.NODE)]


def at(second: float, cpu: float, dram: float, platform: float | None) -> list[Reading]:
    """Readings at an instant, energies in J."""
    values = {"cpu": cpu, "dram": dram} | ({} if platform is None else {PLATFORM_ID: platform})
    return [Reading(name, int(second * 1e9), int(joules * 1e6) % RANGE) for name, joules in values.items()]


def ids(readings: list[Reading]) -> list[str]:
    return [reading.device_id for reading in readings]


def test_it_is_held_back_and_then_given_out_from_its_first_reading_on() -> None:
    check = PlatformCheck(DEVICES)
    assert ids(check.pass_on(at(0, 0, 0, 100))[0]) == ["cpu", "dram"]
    assert ids(check.pass_on(at(0.5, 50, 5, 165))[0]) == ["cpu", "dram"]
    readings, contradiction = check.pass_on(at(1, 100, 10, 230))
    assert (check.passed, contradiction) == (True, "")
    assert [r.at_ns for r in readings if r.device_id == PLATFORM_ID] == [0, 500_000_000, 1_000_000_000]


def test_one_that_gains_less_than_its_parts_is_contradicted() -> None:
    check = PlatformCheck(DEVICES)
    check.pass_on(at(0, 0, 0, 0))
    readings, contradiction = check.pass_on(at(1, 100, 10, 80))
    assert ids(readings) == ["cpu", "dram"]
    assert contradiction == "gained 80.0 J while its parts gained 110.0 J: it does not contain them"


def test_it_is_not_judged_on_a_few_joules_or_a_moment() -> None:
    check = PlatformCheck(DEVICES)
    check.pass_on(at(0, 0, 0, 0))
    for second in range(1, 50):
        assert check.pass_on(at(second, 0.1 * second, 0, 0)) == (at(second, 0.1 * second, 0, None), "")
    check = PlatformCheck(DEVICES)
    check.pass_on(at(0, 0, 0, 0))
    assert check.pass_on(at(0.9, 500, 0, 0))[1] == ""


def test_an_incomplete_read_proves_nothing() -> None:
    check = PlatformCheck(DEVICES)
    check.pass_on(at(0, 0, 0, 0))
    assert check.pass_on([r for r in at(2, 100, 0, 50) if r.device_id != "cpu"])[1] == ""
    assert check.pass_on(at(2, 100, 0, None))[1] == ""


def test_what_is_held_back_does_not_grow_while_a_part_is_away() -> None:
    check = PlatformCheck(DEVICES)
    check.pass_on(at(0, 0, 0, 0))
    for second in range(1, 100):
        check.pass_on([r for r in at(second, 100 * second, 0, 100 * second) if r.device_id != "dram"])
    readings, _ = check.pass_on(at(100, 500, 0, 600))
    assert [r.at_ns // 10**9 for r in readings if r.device_id == PLATFORM_ID] == [0, 99, 100]


def test_counters_that_wrap_meanwhile_are_no_contradiction() -> None:
    check = PlatformCheck(DEVICES)
    check.pass_on(at(0, 0, 0, 950))
    assert check.pass_on(at(1, 100, 10, 1080))[1] == ""
    assert check.passed


def machine(tmp_path: Path, factor: float) -> PowercapTree:
    curves = [parse_curve("constant:100"), parse_curve("constant:80")]
    return PowercapTree(tmp_path / "sys", domains(curves, 0, psys=True, psys_factor=factor))


@pytest.mark.parametrize("factor", [1.1, 0.5])
def test_the_meter_gives_out_a_sound_platform_and_drops_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    monkeypatch.setattr(platform_check, "CHECK_NS", 0)  # the tree's clock is moved by hand
    tree = machine(tmp_path, factor)
    tree.tick(0)
    meter = open_rapl(Roots(tmp_path / "proc", tmp_path / "sys"))
    assert PLATFORM_ID in {one.device_id for one in meter.devices}
    looks = []
    for second in range(4):
        tree.tick(second * 10**9)
        looks.append([r.energy_microjoules for r in meter.read() if r.device_id == PLATFORM_ID])
    tree.close()
    said = [left.why for left in meter.left_out if left.what == PLATFORM_ID]
    if factor > 1:
        gains = [b - a for a, b in pairwise(energy for look in looks for energy in look)]
        parts = (100 + 80) * 1.15
        assert [len(look) for look in looks] == [0, 2, 1, 1]
        assert all(abs(gain / 1e6 - (1.1 * parts + 20)) < 0.01 for gain in gains)
        assert said == []
    else:
        assert [len(look) for look in looks] == [0, 0, 0, 0]
        assert PLATFORM_ID not in {one.device_id for one in meter.devices}
        assert len(said) == 1
    meter.close()


def test_a_platform_that_stands_at_zero_is_left_out_at_once(tmp_path: Path) -> None:
    machine(tmp_path, 1.1).close()
    (tmp_path / "sys" / "class" / "powercap" / "intel-rapl:2" / "energy_uj").write_text("0\n")
    meter = open_rapl(Roots(tmp_path / "proc", tmp_path / "sys"))
    assert PLATFORM_ID not in {one.device_id for one in meter.devices}
    assert "stands at 0" in next(left.why for left in meter.left_out if left.what == PLATFORM_ID)
    meter.close()


def test_the_platform_is_judged_by_the_parts_that_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform_check, "CHECK_NS", 0)
    tree = machine(tmp_path, 1.1)
    tree.tick(0)
    meter = open_rapl(Roots(tmp_path / "proc", tmp_path / "sys"))
    meter.devices = [one for one in meter.devices if one.device_id != "rapl:package-1"]  # another meter counts it
    meter.read()
    tree.tick(10**9)
    assert PLATFORM_ID in {reading.device_id for reading in meter.read()}
    meter.close()
    tree.close()


def test_a_dropped_platform_is_read_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(tmp_path, 1.1).close()
    meter = open_rapl(Roots(tmp_path / "proc", tmp_path / "sys"))
    (whole,) = [one for one in meter.devices if one.device_id == PLATFORM_ID]
    assert (whole.component, whole.covers) == (Component.NODE, "node")
    meter.devices = [one for one in meter.devices if one is not whole]
    assert {reading.device_id for reading in meter.read()} == {one.device_id for one in meter.devices}
    meter.close()
