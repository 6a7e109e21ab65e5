"""Several meters in one sampler: what one does wrong harms no other, and is told once."""

from pathlib import Path

import pytest
from builders import device
from joulebook.folder import MarksFolder
from joulebook.home import Home
from joulebook.meters import Device, Reading, Roots
from joulebook.outbox import Outbox
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
        return {}

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("error", "said"),
    [(PermissionError(13, "denied", "/sys/x"), "denied"), (ZeroDivisionError("x"), "a defect, please report it")],
)
def test_a_meter_that_fails_is_told_once_and_the_others_are_read(tmp_path: Path, capsys, error, said) -> None:
    home, roots = Home(tmp_path / "home").make(), Roots(Path("/proc"), tmp_path / "sys")
    good = Counting("rapl", device(device_id="rapl:package-0"))
    bad = Counting("amdgpu", device(Component.GPU, device_id="amdgpu:1"), error)
    outbox = Outbox(home.outboxes / "m.sqlite", writer=True)
    folder = MarksFolder(home, roots.proc, "m", "boot")
    sampler = Sampler(outbox, folder, [bad, good], roots, Settings(), "m", "boot")
    for _ in range(5):
        sampler.read_meters()
    sampler.digest()
    outbox.close()
    assert sampler.read_errors == {"amdgpu": 5}
    assert sampler.devices["rapl:package-0"].total_microjoules == 400_000_000
    told = capsys.readouterr().err
    assert told.count("meter amdgpu cannot be read") == 1
    assert said in told
