"""GPUs that are lost and drivers that are loaded again, on the simulated library: what is read, and when."""

import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from joulebook.clock import boottime_ns
from joulebook.history import DeviceHistory
from joulebook.meters import Meter, Roots, nvml
from joulebook.meters.accelerator import open_accelerator
from joulebook.meters.nvml import LONGEST_RETRY_NS, Nvml, open_nvml
from joulebook.meters.nvml_library import NOT_FOUND
from joulebook.simulate.curve import parse_curve
from joulebook.simulate.nvml import Gpu, build_library, environment, write_gpus

STEADY = parse_curve("constant:200")
SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_library(tmp_path_factory.mktemp("nvml")).parent


@pytest.fixture
def place(tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable, value in (environment(library) | {"JOULEBOOK_SIM_NVML": str(tmp_path / "nvml.conf")}).items():
        monkeypatch.setenv(variable, value)
    return tmp_path


def seen(meter: Meter) -> set[str]:
    return {reading.device_id for reading in meter.read()}


class Clock:
    """The meter's clock, set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = boottime_ns()
        monkeypatch.setattr(nvml, "boottime_ns", lambda: self.now_ns)


def asks(meter: Nvml, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every handle that is asked for by UUID from now on."""
    asked: list[str] = []
    ask = meter._library.handle

    def handle(name, *arguments):
        asked.append(name)
        return ask(name, *arguments)

    monkeypatch.setattr(meter._library, "handle", handle)
    return asked


def test_a_gpu_that_is_lost_comes_back_with_its_joules_and_no_other_is_touched(place: Path) -> None:
    began = boottime_ns() - 10 * SECOND
    gone, back = boottime_ns() + SECOND // 2, boottime_ns() + 3 * SECOND // 2
    write_gpus(place, [Gpu("GPU-a", STEADY, lost=((gone, back),)), Gpu("GPU-b", STEADY)], began, step_ms=10)
    meter = open_nvml(Roots())
    books = {device.device_id: DeviceHistory(device, "nvml", SECOND // 10) for device in meter.devices}
    looks: dict[str, list[int]] = {"GPU-a": [], "GPU-b": []}
    end = back + 5 * SECOND // 2
    while boottime_ns() < end:
        for reading in meter.read():
            books[reading.device_id].add(reading)
            looks[reading.device_id].append(reading.at_ns)
        time.sleep(0.1)
    meter.close()
    assert not [at for at in looks["GPU-a"] if gone <= at < back]
    absent = max(b - a for a, b in zip(looks["GPU-a"], looks["GPU-a"][1:], strict=False))
    assert SECOND <= absent < 3 * SECOND  # attempts after 1 s and 3 s
    assert max(b - a for a, b in zip(looks["GPU-b"], looks["GPU-b"][1:], strict=False)) < SECOND
    for name, book in books.items():
        start, stop = looks[name][1], looks[name][-1]
        # 200 W throughout: the counter ran on while nobody could read it. One step of 100 ms at either end.
        assert book.history.gained(start, stop) / 1e6 == pytest.approx(200 * (stop - start) / 1e9, abs=40)


def test_a_gpu_lost_for_good_is_asked_for_ever_less_often(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = boottime_ns() - 10 * SECOND
    write_gpus(place, [Gpu("GPU-a", STEADY), Gpu("GPU-b", STEADY)], began)
    meter = open_nvml(Roots())
    clock, asked = Clock(monkeypatch), asks(meter, monkeypatch)
    start = clock.now_ns
    write_gpus(place, [Gpu("GPU-a", STEADY, error="lost"), Gpu("GPU-b", STEADY)], began)
    attempts = []
    for second in range(200):
        clock.now_ns = start + second * SECOND
        before = len(asked)
        assert seen(meter) == {"GPU-b"}
        assert set(meter.busy()) == {"GPU-b"}
        if len(asked) > before:
            assert asked[before:] == ["nvmlDeviceGetHandleByUUID"]  # one attempt, and only for the lost one
            attempts.append(second)
    meter.close()
    assert attempts == [1, 3, 7, 15, 31, 61, 91, 121, 151, 181]
    assert LONGEST_RETRY_NS == 30 * SECOND


def test_one_that_goes_is_looked_for_soon_however_long_another_is_away(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = boottime_ns() - 10 * SECOND
    gone = [Gpu("GPU-a", STEADY, error="lost"), Gpu("GPU-b", STEADY, error="lost")]
    write_gpus(place, [Gpu("GPU-a", STEADY), Gpu("GPU-b", STEADY), Gpu("GPU-c", STEADY)], began)
    meter = open_nvml(Roots())
    clock = Clock(monkeypatch)
    write_gpus(place, [gone[0], Gpu("GPU-b", STEADY), Gpu("GPU-c", STEADY)], began)
    for _ in range(200):
        clock.now_ns += SECOND
        assert seen(meter) == {"GPU-b", "GPU-c"}
    write_gpus(place, [*gone, Gpu("GPU-c", STEADY)], began)
    assert seen(meter) == {"GPU-c"}
    write_gpus(place, [gone[0], Gpu("GPU-b", STEADY), Gpu("GPU-c", STEADY)], began)
    clock.now_ns += SECOND
    assert seen(meter) == {"GPU-b", "GPU-c"}
    meter.close()


def test_a_handle_that_died_is_replaced_and_not_trusted(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU was lost and came back between two reads: its old handle says so for ever."""
    now = boottime_ns()
    write_gpus(place, [Gpu("GPU-a", STEADY), Gpu("GPU-b", STEADY)], now - 10 * SECOND)
    meter = open_nvml(Roots())
    clock = Clock(monkeypatch)
    write_gpus(place, [Gpu("GPU-a", STEADY, lost=((now - 2, now - 1),)), Gpu("GPU-b", STEADY)], now - 10 * SECOND)
    assert seen(meter) == {"GPU-b"}
    clock.now_ns += SECOND
    assert seen(meter) == {"GPU-a", "GPU-b"}
    meter.close()


def test_a_driver_that_is_loaded_again_is_found_and_its_counters_began_at_zero(place: Path) -> None:
    began = boottime_ns() - 10 * SECOND
    gone, back = boottime_ns() + SECOND // 5, boottime_ns() + SECOND
    gpus = [Gpu("GPU-a", STEADY), Gpu("GPU-b", STEADY, energy_counter=False)]
    write_gpus(place, gpus, began, step_ms=10, down_ns=(gone, back))
    meter = open_nvml(Roots())
    before = {reading.device_id: reading for reading in meter.read()}
    assert before["GPU-a"].energy_microjoules >= 1_990_000_000
    book = DeviceHistory(meter.devices[0], "nvml", SECOND // 10)
    looks = []
    while boottime_ns() < back + 3 * SECOND // 2:
        readings = meter.read()
        looks.append((boottime_ns(), {reading.device_id for reading in readings}))
        for reading in readings:
            if reading.device_id == "GPU-a":
                book.add(reading)
        time.sleep(0.05)
    assert all(not found for at, found in looks if gone + SECOND // 10 < at < back)
    assert looks[-1][1] == {"GPU-a", "GPU-b"}
    after = {reading.device_id: reading for reading in meter.read()}["GPU-a"]
    meter.close()
    # 200 W since the driver came back.
    assert after.energy_microjoules / 1e6 == pytest.approx(200 * (after.at_ns - back) / 1e9, abs=10)
    ((_, note),) = book.notes
    assert re.fullmatch(r"counter reset: \d+ to \d+ J are missing", note)
    # What was drawn without a driver is missing and not made up.
    seen_seconds = (after.at_ns - before["GPU-a"].at_ns - (back - gone)) / 1e9
    assert book.history.gained(before["GPU-a"].at_ns, after.at_ns) / 1e6 <= 200 * seen_seconds + 20


@pytest.mark.parametrize("opener", [open_nvml, open_accelerator])
def test_a_driver_that_is_another_after_the_reload_is_told(
    place: Path, monkeypatch: pytest.MonkeyPatch, opener: Callable[[Roots], Meter]
) -> None:
    measured = opener is open_nvml
    gpus = [
        Gpu("GPU-a", STEADY, energy_counter=measured, power=measured),
        Gpu("GPU-b", STEADY, energy_counter=measured, power=measured),
    ]
    now = boottime_ns()
    write_gpus(place, gpus, now - 10 * SECOND, driver="550.54.14")
    meter = opener(Roots(sys=place / "sys"))
    clock = Clock(monkeypatch)
    meter.devices = [replace(device, parent="node") for device in meter.devices if device.device_id == "GPU-a"]
    assert seen(meter) == {"GPU-a", "GPU-b"}
    assert [device.driver for device in meter.devices] == ["550.54.14"]
    as_it_was = meter.devices
    gone = boottime_ns()
    write_gpus(place, gpus, now - 10 * SECOND, down_ns=(gone, gone + SECOND // 10), driver="570.86.10")
    assert not seen(meter)
    assert meter.devices is as_it_was
    time.sleep(0.2)
    clock.now_ns += 2 * SECOND
    assert seen(meter) == {"GPU-a", "GPU-b"}
    assert meter.devices == [replace(as_it_was[0], driver="570.86.10")], "which count, and their parent, stay"
    meter.close()


@pytest.mark.parametrize("meters_before", [0, 1], ids=["alone", "after another meter of the driver"])
def test_a_counter_that_has_passed_its_old_value_since_the_reload_is_no_advance(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meters_before: int
) -> None:
    """Loaded long ago it stood at 2 J; two seconds after the reload it shows 200 J, all of them drawn since."""
    now = boottime_ns()
    silent = Gpu("GPU-b", STEADY, energy_counter=False, power=False)
    write_gpus(place, [Gpu("GPU-a", STEADY), silent], now - 10_000_000, step_ms=1)
    others = [open_accelerator(Roots(sys=tmp_path / "sys")) for _ in range(meters_before)]
    meter = open_nvml(Roots())
    clock = Clock(monkeypatch)
    book = DeviceHistory(meter.devices[0], "nvml", SECOND)
    (before,) = meter.read()
    book.add(before)
    gone = boottime_ns()
    write_gpus(place, [Gpu("GPU-a", STEADY), silent], now - 10_000_000, step_ms=1, down_ns=(gone, gone + SECOND // 10))
    for one in others:
        one.read()
    assert not meter.read()
    time.sleep(1.1)
    for one in others:
        one.read()
    clock.now_ns += 2 * SECOND
    (after,) = meter.read()
    assert after.energy_microjoules > before.energy_microjoules
    assert after.restarted
    book.add(after)
    clock.now_ns += SECOND  # it stands still, the simulated counter does not
    (again,) = meter.read()
    assert not again.restarted
    book.add(again)
    meter.close()
    for one in others:
        one.close()
    ((_, note),) = book.notes
    assert re.fullmatch(r"counter reset: \d+ to \d+ J are missing", note)
    assert book.total_microjoules == again.energy_microjoules - after.energy_microjoules


def test_two_meters_of_one_driver_both_come_back(place: Path, tmp_path: Path) -> None:
    """NVML closes when the last of its users does: they share one, or neither could open it anew."""
    began, now = boottime_ns() - 10 * SECOND, boottime_ns()
    silent = Gpu("GPU-b", STEADY, energy_counter=False, power=False, limit_watts=400)
    write_gpus(place, [Gpu("GPU-a", STEADY), silent], began, down_ns=(now + SECOND // 2, now + SECOND))
    roots = Roots(sys=tmp_path / "sys")
    meters = [open_nvml(roots), open_accelerator(roots)]
    assert [seen(meter) for meter in meters] == [{"GPU-a"}, {"GPU-b"}]
    time.sleep(0.6)
    assert [seen(meter) for meter in meters] == [set(), set()]
    time.sleep(1.1)
    seen(meters[0])
    for _ in range(3):  # neither costs the other its handles
        assert [seen(meter) for meter in meters] == [{"GPU-a"}, {"GPU-b"}]
    meters[0].close()
    assert seen(meters[1]) == {"GPU-b"}
    meters[1].close()


def test_without_any_driver_an_attempt_is_made_and_nothing_raised(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = boottime_ns() - 10 * SECOND
    write_gpus(place, [Gpu("GPU-a", STEADY)], began)
    meter = open_nvml(Roots())
    clock = Clock(monkeypatch)
    (place / "nvml.conf").unlink()
    for _ in range(5):
        assert seen(meter) == set()
        assert meter.busy() == {}
        clock.now_ns += 40 * SECOND
    write_gpus(place, [Gpu("GPU-b", STEADY), Gpu("GPU-a", STEADY)], began)  # at another index now
    assert seen(meter) == {"GPU-a"}
    meter.close()
    meter.close()


def test_a_gpu_that_was_taken_out_is_found_when_it_is_back(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = boottime_ns() - 10 * SECOND
    write_gpus(place, [Gpu("GPU-a", STEADY)], began)
    meter = open_nvml(Roots())
    clock = Clock(monkeypatch)
    write_gpus(place, [], began)
    for _ in range(3):
        assert seen(meter) == set()
        clock.now_ns += LONGEST_RETRY_NS
    assert meter._boards[0].code == NOT_FOUND
    generation = meter._library.generation
    write_gpus(place, [Gpu("GPU-a", STEADY)], began)
    assert seen(meter) == {"GPU-a"}
    assert meter._library.generation == generation + 1
    meter.close()


@pytest.mark.parametrize(("error", "reopened"), [("999", False), ("permission", False), ("lost", True)])
def test_nvml_is_opened_anew_only_when_every_board_is_dead(
    place: Path, monkeypatch: pytest.MonkeyPatch, error: str, reopened: bool
) -> None:
    """A refusal that may pass must not cost handles that may not be had again."""
    began = boottime_ns() - 10 * SECOND
    write_gpus(place, [Gpu("GPU-a", STEADY)], began)
    meter = open_nvml(Roots())
    clock, generation = Clock(monkeypatch), meter._library.generation
    write_gpus(place, [Gpu("GPU-a", STEADY, error=error)], began)
    for _ in range(10):
        assert seen(meter) == set()
        clock.now_ns += SECOND
    assert (meter._library.generation > generation) is reopened
    write_gpus(place, [Gpu("GPU-a", STEADY)], began)
    clock.now_ns += LONGEST_RETRY_NS
    assert seen(meter) == {"GPU-a"}
    meter.close()


def test_limits_are_told_of_boards_that_answer(place: Path) -> None:
    began = boottime_ns() - 10 * SECOND
    gpus = [Gpu("GPU-a", STEADY, limit_watts=400), Gpu("GPU-b", STEADY, limit_watts=0), Gpu("GPU-c", STEADY)]
    write_gpus(place, gpus, began)
    meter = open_nvml(Roots())
    write_gpus(place, [*gpus[:2], Gpu("GPU-c", STEADY, error="lost")], began)
    assert seen(meter) == {"GPU-a", "GPU-b"}
    assert meter.limits() == {"GPU-a": 400.0}
    meter.close()
