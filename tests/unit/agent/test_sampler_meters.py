"""Several meters in one sampler: what one does wrong harms no other, and is told once."""

from dataclasses import replace
from pathlib import Path

import pytest
from builders import device, line
from joulebook.folder import MarksFolder
from joulebook.home import Home
from joulebook.meters import Busy, Device, Reading, Roots
from joulebook.outbox import Outbox
from joulebook.processes import Actor
from joulebook.rows import Component
from joulebook.sampler import Sampler
from joulebook.settings import Settings

S = 1_000_000_000


class Counting:
    """A meter of one device that draws 100 W, or raises."""

    left_out = ()

    def __init__(self, name: str, one: Device, error: Exception | None = None) -> None:
        self.name, self.devices, self.error, self.at = name, [one], error, 0

    def read(self) -> list[Reading]:
        if self.error is not None:
            raise self.error
        self.at += S
        return [Reading(self.devices[0].device_id, self.at, energy_microjoules=self.at // 10)]

    def busy(self) -> dict:
        if self.error is not None:
            raise self.error
        return {self.devices[0].device_id: Busy({1: 1.0})}

    def close(self) -> None:
        pass


@pytest.fixture
def pair(tmp_path: Path, request):
    """A sampler of a meter that raises the test's error, and of one that works."""
    home, roots = Home(tmp_path / "home").make(), Roots(Path("/proc"), tmp_path / "sys")
    bad = Counting("amdgpu", device(Component.GPU, device_id="amdgpu:1"), request.getfixturevalue("error"))
    good = Counting("rapl", device(device_id="rapl:package-0"))
    outbox = Outbox(home.outboxes / "m.sqlite", writer=True)
    yield Sampler(outbox, MarksFolder(home, roots.proc, "m", "boot"), [bad, good], roots, Settings(), "m", "boot")
    outbox.close()


@pytest.mark.parametrize(
    ("error", "said"),
    [(PermissionError(13, "denied", "/sys/x"), "denied"), (ZeroDivisionError("x"), "a defect, please report it")],
)
def test_a_meter_that_fails_is_told_once_and_the_others_are_read(pair, capsys, error, said) -> None:
    for _ in range(5):
        pair.read_meters()
    pair.digest()
    assert pair.read_errors == {"amdgpu": 5}
    assert pair.devices["rapl:package-0"].total_microjoules == 400_000_000
    told = capsys.readouterr().err
    assert told.count("meter amdgpu cannot be read") == 1
    assert said in told


@pytest.mark.parametrize("error", [ZeroDivisionError("x")])
def test_one_that_cannot_say_who_uses_its_devices_stops_no_other_from_saying_it(pair, capsys, error) -> None:
    pair.processes.add_actor(Actor("k", "r", 1, launcher=False))
    for at in (S, 2 * S):
        pair.scan(at)
    assert pair.read_errors == {"amdgpu": 2}
    assert list(pair.gpu_use.by_device) == ["rapl:package-0"]
    assert capsys.readouterr().err.count("a defect, please report it") == 1


@pytest.mark.parametrize("error", [None])
def test_a_driver_that_changes_is_on_the_device_and_on_the_runs_that_are_open(pair, error) -> None:
    pair.book.take("k", line("join", 1, S, run="r"))
    gpu = pair.meters[0]
    gpu.devices = [replace(gpu.devices[0], driver="550.54.14")]
    pair.read_meters()
    pair.digest()
    gpu.devices = [replace(gpu.devices[0], driver="570.86.10")]
    pair.read_meters()
    pair.digest()
    assert pair.devices["amdgpu:1"].device.driver == "570.86.10"
    assert (
        "amdgpu:1: its driver changed from '550.54.14' to '570.86.10' while it was read"
        in pair.book.runs["r"].run.notes
    )
