"""What every meter promises, held over all of METERS on simulated parts."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from joulebook.clock import boottime_ns
from joulebook.history import DeviceHistory
from joulebook.meters import METERS, Device, MeterUnavailable, Reading, Roots, open_meter, open_meters
from joulebook.rows import Component, Method
from joulebook.simulate.stand import Stand, make_stand

DOCS = Path(__file__).parents[3] / "docs"


@dataclass
class Machine:
    """A machine whose parts are simulated under ``root``."""

    root: Path
    stands: dict[str, Stand]

    @property
    def roots(self) -> Roots:
        return Roots(self.root / "proc", self.root / "sys")

    def move(self, seconds: float = 0.11) -> None:
        """Let time pass and every part go with it."""
        time.sleep(seconds)
        for stand in self.stands.values():
            stand.move(boottime_ns())


def machine_of(names: list[str], root: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    for place in ("proc", "sys"):
        (root / place).mkdir()
    # Real hardware of the machine that runs this is none of ours.
    monkeypatch.setenv("JOULEBOOK_NVML_LIBRARY", str(root / "none"))
    monkeypatch.setenv("JOULEBOOK_SYS_ROOT", str(root / "sys"))
    monkeypatch.setenv("JOULEBOOK_PROC_ROOT", str(root / "proc"))
    for entry in METERS.values():
        if entry.declared_by:
            monkeypatch.delenv(entry.declared_by, raising=False)
    began = boottime_ns() - 5_000_000_000
    stands = {name: make_stand(name, root, began) for name in names}
    for stand in stands.values():
        for variable, value in stand.environ.items():
            monkeypatch.setenv(variable, value)
    made = Machine(root, stands)
    made.move()
    return made


@pytest.fixture(params=sorted(METERS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def machine(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A machine that has what this meter reads."""
    made = machine_of([name], tmp_path, monkeypatch)
    yield made
    for stand in made.stands.values():
        stand.close()


def first_readings(meter, machine: Machine) -> list[Reading]:
    """The first look at which every device answered: meters with a thread of their own need a moment."""
    for _ in range(100):
        readings = list(meter.read())
        if len(readings) == len(meter.devices):
            return readings
        machine.move()
    raise AssertionError(f"{meter.name} never read {[device.device_id for device in meter.devices]}")


def test_readings_name_the_devices_and_hold_one_value_each(name: str, machine: Machine) -> None:
    meter = open_meter(name, machine.roots)
    readings = first_readings(meter, machine)
    meter.close()
    assert meter.name == name
    assert [reading.device_id for reading in readings] == [device.device_id for device in meter.devices]
    for reading in readings:
        assert (reading.energy_microjoules is None) != (reading.power_milliwatts is None)


def test_time_and_energy_only_rise(name: str, machine: Machine) -> None:
    meter = open_meter(name, machine.roots)
    first_readings(meter, machine)
    by_device: dict[str, list[Reading]] = {}
    for _ in range(200):
        machine.move()
        for reading in meter.read():
            by_device.setdefault(reading.device_id, []).append(reading)
        if by_device and min(map(len, by_device.values())) >= 3 and len(by_device) == len(meter.devices):
            break
    meter.close()
    assert sorted(by_device) == sorted(device.device_id for device in meter.devices)
    for looks in by_device.values():
        assert len(looks) >= 3
        for a, b in pairwise(looks):
            assert a.at_ns < b.at_ns
            if a.energy_microjoules is not None and b.energy_microjoules is not None:
                assert isinstance(b.energy_microjoules, int)
                assert a.energy_microjoules <= b.energy_microjoules
        if looks[0].energy_microjoules is not None:
            assert looks[0].energy_microjoules < looks[-1].energy_microjoules


def test_the_energy_is_the_true_one_within_what_the_meter_says(name: str, machine: Machine) -> None:
    """Three seconds and twelve steps or more, through the agent's history; a stand has no gain error, only edges."""
    meter = open_meter(name, machine.roots)
    histories = {d.device_id: DeviceHistory(d, name, 100_000_000) for d in meter.devices}
    began = boottime_ns()
    while True:
        for reading in meter.read():
            histories[reading.device_id].add(reading)
        known = [(h, h.history.known(0, boottime_ns())) for h in histories.values()]
        if all(parts and parts[-1][1] - parts[0][0] > max(3_000_000_000, 12 * h.device.step_ns) for h, parts in known):
            break
        assert boottime_ns() - began < 60_000_000_000, f"{name} did not read its devices for three seconds"
        machine.move()
    meter.close()
    for device_id, history in histories.items():
        (start, end, segment), *more = history.history.known(0, boottime_ns())
        assert not more, f"{device_id} broke off: {history.notes}"
        true = machine.stands[name].joules(start, end)[device_id]
        step = history.device.step_ns / (end - start)
        assert (segment.at(end) - segment.at(start)) / 1e6 == pytest.approx(true, rel=0.03 + step)


def test_readings_are_not_later_than_they_say(name: str, machine: Machine) -> None:
    meter = open_meter(name, machine.roots)
    opened = boottime_ns()
    readings = first_readings(meter, machine)
    after = boottime_ns()
    meter.close()
    assert all(opened - 5_000_000_000 <= reading.at_ns <= after for reading in readings)


def test_device_ids_are_unique_and_the_same_at_every_opening(name: str, machine: Machine) -> None:
    def ids() -> list[str]:
        meter = open_meter(name, machine.roots)
        found = [device.device_id for device in meter.devices]
        meter.close()
        return found

    first = ids()
    assert first == ids()
    assert len(first) == len(set(first)) > 0


def test_who_uses_a_device_is_said_of_its_own_devices_only(name: str, machine: Machine) -> None:
    meter = open_meter(name, machine.roots)
    busy = meter.busy()
    meter.close()
    assert busy.keys() <= {device.device_id for device in meter.devices}
    assert all(0 <= used <= 1 for b in busy.values() for used in b.pids.values() if used is not None)


def sound(device: Device) -> bool:
    bounded = device.most_watts is None or device.most_watts > 0
    return device.u_common > 0 and bool(device.u_common_key) and device.step_ns > 0 and bounded


def test_devices_say_how_well_they_are_seen(name: str, machine: Machine) -> None:
    meter = open_meter(name, machine.roots)
    assert all(sound(device) for device in meter.devices)
    meter.close()


def test_closing_twice_is_harmless(name: str, machine: Machine) -> None:
    meter = open_meter(name, machine.roots)
    meter.close()
    meter.close()


def test_a_machine_without_the_part_is_refused_with_cause_and_remedy(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = machine_of([], tmp_path, monkeypatch)
    with pytest.raises(MeterUnavailable) as caught:
        open_meter(name, empty.roots)
    for line in (caught.value.cause, caught.value.remedy):
        assert line.strip()
        assert "\n" not in line


def test_every_meter_has_its_row_in_the_docs(name: str) -> None:
    assert f"| `{name}` |" in (DOCS / "reference" / "meters.md").read_text()


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MeterUnavailable, match="no meter 'raple'"):
        open_meter("raple", Roots(tmp_path, tmp_path))


def used(names: list[str] | None, machine: Machine) -> dict[str, list[str]]:
    """Meter -> components of the devices that count."""
    meters, _ = open_meters(names, machine.roots)
    found = {meter.name: [device.component.value for device in meter.devices] for meter in meters}
    for meter in meters:
        meter.close()
    return found


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A server with counters, boards and what the model reads."""
    made = machine_of(["rapl", "nvml", "model"], tmp_path, monkeypatch)
    yield made
    for stand in made.stands.values():
        stand.close()


def test_the_automatic_choice_leaves_the_model_out_where_counters_read_all(server: Machine) -> None:
    assert used(None, server) == {"rapl": ["cpu", "dram"] * 2, "nvml": ["gpu", "gpu"]}


def test_the_model_fills_in_dram_where_rapl_has_none(server: Machine) -> None:
    for n in range(2):
        (server.roots.sys / "class" / "powercap" / f"intel-rapl:{n}:1").unlink()
    assert used(None, server) == {"rapl": ["cpu", "cpu"], "nvml": ["gpu", "gpu"], "model": ["dram"]}


def test_a_named_recording_stands_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = machine_of(["rapl", "replay"], tmp_path, monkeypatch)
    assert used(None, machine) == {"replay": ["other", "other"]}


def test_a_model_named_beside_counters_never_counts_what_they_count(
    server: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOULEBOOK_METERS", "model, rapl")
    assert used(None, server) == {"rapl": ["cpu", "dram"] * 2}


def test_every_refusal_is_returned(server: Machine) -> None:
    (server.roots.sys / "class" / "powercap" / "intel-rapl:0" / "energy_uj").unlink()
    meters, refused = open_meters(None, server.roots)
    assert [meter.name for meter in meters] == ["nvml", "model"]
    assert [r.name for r in refused if "energy_uj" in r.error.cause] == ["rapl"]
    for meter in meters:
        meter.close()


class Told:
    """A meter that has these devices."""

    def __init__(self, name: str, *devices: Device) -> None:
        self.name, self.devices, self.left_out, self.closed = name, devices, (), False

    def read(self) -> list[Reading]:
        return []

    def busy(self) -> dict:
        return {}

    def close(self) -> None:
        self.closed = True


def device(device_id: str, covers: str, method: Method = Method.COUNTER, u: float = 0.03, **more) -> Device:
    component = Component(covers.partition(":")[0])
    return Device(device_id, component, method, u, f"key:{device_id}", covers=covers, **more)


def test_of_two_meters_of_one_thing_the_better_counts_and_the_other_is_told() -> None:
    from joulebook.meters import without_overlap

    polled = Told("hwmon", device("hwmon:0", "cpu:0", Method.INTEGRATED), device("hwmon:1", "cpu:1", Method.INTEGRATED))
    counted = Told("rapl", device("rapl:0", "cpu:0"))
    board = Told("nvml", device("GPU-a", "gpu:GPU-a", covers_also=("gpu:0000:c1:00.0",)))
    again = Told("prometheus", device("dcgm:a", "gpu:0000:c1:00.0"))
    kept = without_overlap([polled, counted, board, again])
    assert [[d.device_id for d in meter.devices] for meter in kept] == [["hwmon:1"], ["rapl:0"], ["GPU-a"]]
    assert [(left.what, "rapl rapl:0" in left.why) for left in polled.left_out] == [("hwmon:0", True)]
    assert again.closed


def test_a_meter_of_all_packages_and_one_of_each_never_count_together() -> None:
    from joulebook.meters import without_overlap

    whole = Told("prometheus", device("kepler:cpu", "cpu", u=0.05))
    each = Told("rapl", device("rapl:0", "cpu:0"), device("rapl:1", "cpu:1"))
    assert without_overlap([whole, each]) == [each]
    better = Told("prometheus", device("kepler:cpu", "cpu", u=0.01))
    assert without_overlap([Told("rapl", device("rapl:0", "cpu:0")), better]) == [better]


def test_the_outermost_supply_of_the_node_is_the_parent_of_all_others() -> None:
    from joulebook.meters import without_overlap

    rapl = Told("rapl", device("rapl:psys", "node:psys"), device("rapl:0", "cpu:0"))
    wall = Told("redfish", device("redfish:node", "node", Method.INTEGRATED))
    kept = without_overlap([rapl, wall])
    assert {d.device_id: d.parent for meter in kept for d in meter.devices} == {
        "rapl:0": "redfish:node",
        "redfish:node": None,
    }
    assert [left.what for left in rapl.left_out] == ["rapl:psys"]
